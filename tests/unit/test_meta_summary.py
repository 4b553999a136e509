import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from deepmr import meta
from deepmr.meta.multiplicity import storey_q
from deepmr.meta.regression.cluster_robust import cluster_robust
from deepmr.meta.tables.summary import headline, summarise
from deepmr.schemas import META


def mr_table(n_draws=12, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for pair, effect in (("A_B", 1.0), ("C_B", 0.0)):
        for direction in ("forward", "reverse"):
            for i in range(9):
                draws = effect + 0.2 * rng.normal(size=n_draws)
                status = "no_motif_hit" if i == 8 else "ok"
                rows.append(
                    {
                        "sequence_id": f"s{i}",
                        "model": "cnn",
                        "pair": pair,
                        "direction": direction,
                        "exposure": pair[0],
                        "outcome": "B",
                        "stratum": "bound" if i != 0 else "unbound",
                        "method": "egger",
                        "instrument_rule": "motif",
                        "estimate": draws.mean() if status == "ok" else np.nan,
                        "se": 0.22 if status == "ok" else np.nan,
                        "se_within": 0.02 if status == "ok" else np.nan,
                        "estimate_diagonal": draws.mean() if status == "ok" else np.nan,
                        "conditional_f": np.nan,
                        "se_diagonal": 0.1 if status == "ok" else np.nan,
                        "status": status,
                        "draws": draws if status == "ok" else None,
                        "draws_se": np.full(n_draws, 0.1) if status == "ok" else None,
                    }
                )
    return pd.DataFrame(rows)


def test_summary_has_every_row():
    table = summarise(mr_table())
    assert list(table.columns) == META.names
    assert len(table) == 2 * 2 * 3 * 3 * 2
    counts = table.groupby("stratum")[["k", "n_sequences"]].first()
    assert counts.loc["all"].tolist() == [8, 9]
    assert counts.loc["bound"].tolist() == [7, 8]
    assert counts.loc["unbound"].tolist() == [1, 1]
    assert set(table[table["stratum"] == "unbound"]["status"]) == {"single_sequence"}
    assert table[table["inference"] == "diagonal"]["se_draws"].isna().all()
    causal = table.query("pair == 'A_B' and stratum == 'all' and combination == 'REML'")
    assert ((causal["ci_low"] < 1) & (causal["ci_high"] > 1)).all()


def test_summary_corrects_over_pairs_and_directions():
    table = summarise(mr_table(), ("REML",))
    family = table.query("stratum == 'all' and inference == 'draw_wise'")
    assert len(family) == 4
    np.testing.assert_allclose(family["fdr"], false_discovery_control(family["p_value"]))
    np.testing.assert_allclose(family["q_value"], storey_q(family["p_value"]).q)


def decoys(seed=1):
    table = mr_table(seed=seed)
    return table[table["direction"] == "forward"].assign(direction="decoy")


def test_decoys_are_combined_but_no_part_of_what_is_corrected():
    alone = summarise(mr_table(), ("REML",))
    both = summarise(pd.concat([mr_table(), decoys()], ignore_index=True), ("REML",))
    assert (both["direction"] == "decoy").sum() == 2 * 3 * 2
    assert both.loc[both["direction"] == "decoy", ["fdr", "q_value"]].isna().all(axis=None)
    without = both[both["direction"] != "decoy"].reset_index(drop=True)
    order = ["pair", "direction", "stratum", "inference"]
    pd.testing.assert_frame_equal(
        without.sort_values(order, ignore_index=True), alone.sort_values(order, ignore_index=True)
    )
    assert set(headline(both, "egger", "REML")["direction"]) == {"forward", "reverse"}


def test_chromosomes_are_a_second_view():
    table = mr_table()
    chromosome_of = {f"s{i}": f"chr{1 + i // 2}" for i in range(9)}
    found = summarise(table, ("REML", "median"), chromosome_of=chromosome_of)
    seen = found[found["inference"] == "chromosome"]
    assert set(seen["combination"]) == {"REML"}
    row = seen.query("pair == 'A_B' and direction == 'forward' and stratum == 'all'").iloc[0]
    own = table.query("pair == 'A_B' and direction == 'forward' and status == 'ok'")
    expected = cluster_robust(
        own["estimate"], own["se"] ** 2, own["sequence_id"].map(chromosome_of), method="REML"
    ).result
    assert row["n_clusters"] == 4
    assert row["test"] == "CR2"
    for name in ("estimate", "se", "df", "ci_low", "ci_high", "p_value"):
        assert row[name] == getattr(expected, name), name


def test_test_and_prediction_interval_are_those_asked_for():
    table = mr_table()
    row = (
        summarise(table, ("DL",), test="knha", prediction="hts")
        .query("pair == 'A_B' and direction == 'reverse' and stratum == 'all'")
        .set_index("inference")
        .loc["draw_wise"]
    )
    own = table.query("pair == 'A_B' and direction == 'reverse' and status == 'ok'")
    draws, errors = (np.stack(own[name]).T for name in ("draws", "draws_se"))
    expected = meta.draw_wise(
        draws, errors**2, "DL", "knha", prediction="hts", scatter=own["se_within"] ** 2
    )
    for name in ("estimate", "se", "df", "fmi", "tau2_high", "pi_low", "pi_high", "test"):
        assert row[name] == getattr(expected, name), name
    assert row["pi_kind"] == "hts"


def test_further_strata():
    table = summarise(
        mr_table(), ("REML",), strata={"promoter=yes": ["s0", "s1", "s8"], "promoter=no": []}
    )
    rows = table.query("pair == 'A_B' and direction == 'forward' and inference == 'draw_wise'")
    rows = rows.set_index("stratum")
    assert rows.loc["promoter=yes", ["k", "n_sequences"]].tolist() == [2, 3]
    assert rows.loc["promoter=yes", "status"] == "few_sequences"
    assert rows.loc["promoter=no", "status"] == "no_sequences"
    assert rows.loc["promoter=no", "reason"] == "no sequence was sampled"


def test_summary_of_nothing_estimable():
    mr_rows = mr_table()
    mr_rows["status"] = "no_effects"
    table = summarise(mr_rows)
    assert set(table["status"]) == {"no_sequences"}
    reasons = table.set_index("stratum")["reason"]
    assert set(reasons["all"]) == {"without an estimate: 9 no_effects"}
    assert table["fdr"].isna().all()
    assert summarise(mr_rows.iloc[:0]).empty


def test_summary_leaves_out_an_exact_fit_it_cannot_weigh():
    mr_rows = mr_table()
    first = mr_rows.index[0]
    mr_rows.at[first, "draws_se"] = np.zeros(12)
    table = summarise(mr_rows, ("REML",))
    row = table.query("pair == 'A_B' and direction == 'forward' and stratum == 'all'")
    assert row.set_index("inference")["k"].to_dict() == {"draw_wise": 7, "diagonal": 8}


def test_summary_takes_rounding_for_an_exact_fit():
    mr_rows = mr_table()
    errors = np.full(12, 0.1)
    errors[3] = 7e-18
    mr_rows.at[mr_rows.index[0], "draws_se"] = errors
    table = summarise(mr_rows, ("DL",))
    row = table.query("pair == 'A_B' and direction == 'forward' and stratum == 'all'")
    row = row.set_index("inference").loc["draw_wise"]
    assert row["k"] == 7
    assert np.isfinite([row["estimate"], row["se"], row["se_within"]]).all()


def test_summary_bad_input():
    with pytest.raises(ValueError, match="combination 'mean' is unknown; write one of REML, DL"):
        summarise(mr_table(), ("mean",))
    with pytest.raises(ValueError, match="lacks the columns stratum"):
        summarise(mr_table().drop(columns="stratum"))


def test_strength_of_conditional_effects_is_that_of_the_middle_sequence():
    table = mr_table().query("pair == 'A_B' and direction == 'forward'").reset_index(drop=True)
    table["conditional_f"] = [5.0, 1, 2, 3, 4, 6, 7, np.nan, 99]  # the last is not estimated
    found = summarise(table, ("REML",)).set_index(["stratum", "inference"])["conditional_f"]
    assert found["all", "draw_wise"] == 4
    assert found["unbound", "draw_wise"] == 5
    assert np.isnan(summarise(mr_table(), ("REML",))["conditional_f"]).all()
