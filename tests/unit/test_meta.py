import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, t
from statsmodels.stats.meta_analysis import combine_effects

from deepmr import meta, mr
from deepmr.meta.combine import pool
from deepmr.schemas import META

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("meta_*.json"))
FIELDS = {
    "estimate": "beta",
    "se": "se",
    "p_value": "pval",
    "ci_low": "ci.lb",
    "ci_high": "ci.ub",
    "tau2": "tau2",
    "i2": "I2",
    "h2": "H2",
    "q": "QE",
    "q_p": "QEp",
    "pi_low": "pi.lb",
    "pi_high": "pi.ub",
}


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem[5:])
def test_agrees_with_metafor(path):
    case = json.loads(path.read_text())
    assert len(case["results"]) == 7  # EE with z; DL and REML with z, t and knha
    for key, expected in case["results"].items():
        method, test = key.split("_")
        result = meta.random_effects(
            case["inputs"]["yi"], case["inputs"]["vi"], "FE" if method == "EE" else method, test
        )
        assert result.k == case["k"]
        assert result.status == "ok"
        for name, theirs in FIELDS.items():
            if expected[theirs] is None:
                assert np.isnan(getattr(result, name))
                continue
            np.testing.assert_allclose(
                getattr(result, name), expected[theirs], rtol=1e-6, atol=1e-12, err_msg=name
            )


def test_agrees_with_statsmodels():
    rng = np.random.default_rng(5)
    variances = rng.uniform(0.01, 0.2, 30)
    estimates = rng.normal(0.4, np.sqrt(variances + 0.05))
    theirs = combine_effects(estimates, variances, method_re="chi2")
    ours = meta.random_effects(estimates, variances, method="DL")
    assert ours.tau2 == pytest.approx(theirs.tau2, rel=1e-12)
    assert ours.estimate == pytest.approx(theirs.mean_effect_re, rel=1e-12)
    assert ours.se == pytest.approx(theirs.sd_eff_w_re, rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0, 3))
def test_reml_is_the_maximum_of_the_restricted_likelihood(seed, k, tau):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.05, 2, k)
    y = 1 + tau * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k)

    def likelihood(tau2):
        w = 1 / (v + tau2)
        mean = (w * y).sum() / w.sum()
        return 0.5 * (np.log(w).sum() - np.log(w.sum()) - (w * (y - mean) ** 2).sum())

    tau2 = meta.random_effects(y, v).tau2
    near = [tau2 * 1.01 + 1e-4, max(tau2 * 0.99 - 1e-4, 0)]
    assert likelihood(tau2) >= max(likelihood(x) for x in near) - 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_rows_do_not_depend_on_each_other(seed, k):
    rng = np.random.default_rng(seed)
    y, v = rng.normal(size=(6, k)), rng.uniform(0.1, 1.5, (6, k))
    for method in ("REML", "DL", "FE"):
        together = pool(y, v, method)
        for i in range(6):
            alone = meta.random_effects(y[i], v[i], method)
            assert alone.estimate == together.estimate[i]
            assert alone.tau2 == together.tau2[i]


def test_variances_of_very_different_size():
    y = np.array([0.0, 1e-6, 5.0, -4.0])
    result = meta.random_effects(y, np.array([1e-12, 1e-12, 1.0, 1.0]))
    assert np.isfinite(result.estimate)
    far = meta.random_effects(np.array([0.0, 1e8]), np.array([1e-8, 1e-8]))
    assert far.tau2 == pytest.approx(5e15, rel=1e-6)


def test_few_sequences_have_a_status():
    assert meta.random_effects([], []).status == "no_sequences"
    one = meta.random_effects([2.0], [0.25])
    assert (one.status, one.estimate, one.se, one.k) == ("single_sequence", 2.0, 0.5, 1)
    assert one.ci_low == pytest.approx(2 - 1.959964 * 0.5)
    assert np.isnan(one.tau2)
    assert meta.random_effects([1.0, 2.0], [1.0, 1.0]).status == "few_sequences"
    draws = np.random.default_rng(0).normal(size=(10, 2))
    for k, status in ((0, "no_sequences"), (1, "single_sequence"), (2, "few_sequences")):
        part = draws[:, :k]
        assert meta.draw_wise(part, np.ones_like(part)).status == status
        assert meta.median(part).status == status
    single = meta.draw_wise(draws[:, :1], np.full((10, 1), 0.3))
    expected = np.sqrt(0.3 + 1.1 * draws[:, 0].var(ddof=1))
    assert single.se == pytest.approx(expected)
    assert np.isnan(meta.median(draws[:, :1]).se)


@pytest.mark.parametrize("method", ["REML", "DL", "FE"])
def test_draw_wise_is_the_analysis_of_each_draw_combined(method):
    rng = np.random.default_rng(2)
    y = rng.normal(size=(15, 12)) + 1
    v = rng.uniform(0.2, 0.6, y.shape)
    result = meta.draw_wise(y, v, method)
    single = [meta.random_effects(a, b, method) for a, b in zip(y, v, strict=True)]
    estimates = np.array([s.estimate for s in single])
    within = np.mean([s.se**2 for s in single])
    assert result.estimate == pytest.approx(estimates.mean())
    assert result.se_within == pytest.approx(np.sqrt(within))
    assert result.se_draws == pytest.approx(estimates.std(ddof=1))
    between = (1 + 1 / 15) * estimates.var(ddof=1)
    assert result.se == pytest.approx(np.sqrt(within + between))
    df = 14 * (1 + within / between) ** 2
    assert result.ci_high == pytest.approx(result.estimate + t.ppf(0.975, df) * result.se)
    assert result.q == pytest.approx(np.mean([s.q for s in single]))
    if method == "FE":
        assert np.isnan(result.pi_low)
        assert np.isnan(result.tau2)
    else:
        assert result.tau2 == pytest.approx(np.mean([s.tau2 for s in single]))
        assert result.pi_low < result.ci_low


def test_median_over_sequences_resists_a_third_of_nonsense():
    rng = np.random.default_rng(4)
    draws = 0.7 + 0.05 * rng.normal(size=(30, 60)) + 0.1 * rng.normal(size=(30, 1))
    draws[:, :18] += 50
    result = meta.median(draws)
    assert result.estimate == pytest.approx(0.7, abs=0.1)
    assert result.se_draws == pytest.approx(0.1, rel=0.4)
    assert np.isnan(result.tau2)
    plain = meta.median(draws[:1])
    # Woodruff at the 71 % quantile of the 42 good ones: sqrt(60)/2 over 60 times the density.
    assert plain.se == pytest.approx(0.0135, rel=0.6)
    assert np.isnan(plain.se_draws)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meta.random_effects([1.0, 2.0], [1.0]), r"found \(2,\) and \(1,\)"),
        (lambda: meta.random_effects([1.0, np.nan], [1.0, 1.0]), r"1 of 2 .* \(first at \[1\]\)"),
        (lambda: meta.random_effects([1.0, 2.0], [1.0, 0.0]), "variance that is not above 0"),
        (
            lambda: meta.random_effects([1.0, 2.0], [1.0, 1.0], "PM"),
            "'PM' is unknown; write one of",
        ),
        (lambda: meta.random_effects([1.0, 2.0], [1.0, 1.0], test="f"), "test 'f' is unknown"),
        (lambda: meta.draw_wise([1.0], [1.0]), r"must both have shape \(draws, k\)"),
        (lambda: meta.median([[np.nan, 1.0]]), "draws must be finite"),
        (lambda: meta.draw_wise([[1.0, 2.0]], [[1.0, 1.0]]), "at least 2 of them; found 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def replicate(rng, theta=0.7, n_sequences=40, n=24, n_draws=30, shared=0.1, own=0.07):
    """Effects of one trained model: its error is shared by sequences, X and Y, and mutations."""
    profile = -np.abs(rng.normal(1, 0.6, n))
    site = rng.uniform(0.4, 1.2, (n_sequences, 1))
    bx = profile * site * (1 + 0.3 * rng.normal(size=(n_sequences, n)))
    by = theta * bx + 0.1 * rng.normal(size=bx.shape)

    def error(count):
        scale = (
            shared
            * rng.normal(size=(3, count, 1, 1))
            * np.sqrt([0.5, 0.5, 0.5])[:, None, None, None]
        )
        local = own * rng.normal(size=(3, count, n_sequences, n)) * np.sqrt(0.5)
        return (
            (scale[0] + scale[1]) * bx + (local[0] + local[1]) * site,
            (scale[0] + scale[2]) * by + theta * (local[0] + local[2]) * site,
        )

    (error_x, error_y), (draw_x, draw_y) = error(1), error(n_draws)
    draws_x = (bx + error_x + draw_x).transpose(1, 0, 2)
    draws_y = (by + error_y + draw_y).transpose(1, 0, 2)
    return draws_x, draws_y


def test_coverage_where_sequences_share_the_error_of_the_model():
    rng = np.random.default_rng(11)
    theta, n_replicates = 0.7, 100
    held = dict.fromkeys(("global", "global_diagonal", "local", "local_diagonal"), 0.0)
    for _ in range(n_replicates):
        x, y = replicate(rng, theta)
        table = mr.estimate(
            x.mean(1), x.std(1, ddof=1), y.mean(1), y.std(1, ddof=1), ("egger",),
            draws_x=x, draws_y=y,
        )  # fmt: skip
        drawn = meta.draw_wise(np.stack(table["draws"]).T, np.stack(table["draws_se"]).T ** 2)
        plain = meta.random_effects(table["estimate_diagonal"], table["se_diagonal"] ** 2)
        held["global"] += drawn.ci_low < theta < drawn.ci_high
        held["global_diagonal"] += plain.ci_low < theta < plain.ci_high
        held["local"] += table["ci_low"].lt(theta).mul(table["ci_high"].gt(theta)).mean()
        z = (table["estimate_diagonal"] - theta).abs() / table["se_diagonal"]
        held["local_diagonal"] += (z < 1.96).mean()
    coverage = {name: value / n_replicates for name, value in held.items()}
    assert 0.89 <= coverage["global"] <= 0.99, coverage
    assert coverage["global_diagonal"] < 0.5, coverage
    assert 0.92 <= coverage["local"] <= 0.97, coverage
    assert coverage["local_diagonal"] < coverage["local"], coverage


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
                        "estimate_diagonal": draws.mean() if status == "ok" else np.nan,
                        "se_diagonal": 0.1 if status == "ok" else np.nan,
                        "status": status,
                        "draws": draws if status == "ok" else None,
                        "draws_se": np.full(n_draws, 0.1) if status == "ok" else None,
                    }
                )
    return pd.DataFrame(rows)


def test_summary_has_every_row():
    table = meta.summarise(mr_table())
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
    table = meta.summarise(mr_table(), ("REML",))
    family = table.query("stratum == 'all' and inference == 'draw_wise'")
    assert len(family) == 4
    np.testing.assert_allclose(family["fdr"], false_discovery_control(family["p_value"]))


def test_summary_of_nothing_estimable():
    mr_rows = mr_table()
    mr_rows["status"] = "no_effects"
    table = meta.summarise(mr_rows)
    assert set(table["status"]) == {"no_sequences"}
    assert table["fdr"].isna().all()
    assert meta.summarise(mr_rows.iloc[:0]).empty


def test_summary_leaves_out_an_exact_fit_it_cannot_weigh():
    mr_rows = mr_table()
    first = mr_rows.index[0]
    mr_rows.at[first, "draws_se"] = np.zeros(12)
    table = meta.summarise(mr_rows, ("REML",))
    row = table.query("pair == 'A_B' and direction == 'forward' and stratum == 'all'")
    assert row.set_index("inference")["k"].to_dict() == {"draw_wise": 7, "diagonal": 8}


def test_summary_takes_rounding_for_an_exact_fit():
    mr_rows = mr_table()
    errors = np.full(12, 0.1)
    errors[3] = 7e-18
    mr_rows.at[mr_rows.index[0], "draws_se"] = errors
    table = meta.summarise(mr_rows, ("DL",))
    row = table.query("pair == 'A_B' and direction == 'forward' and stratum == 'all'")
    row = row.set_index("inference").loc["draw_wise"]
    assert row["k"] == 7
    assert np.isfinite([row["estimate"], row["se"], row["se_within"]]).all()


def test_summary_bad_input():
    with pytest.raises(ValueError, match="combination 'mean' is unknown; write one of REML, DL"):
        meta.summarise(mr_table(), ("mean",))
    with pytest.raises(ValueError, match="lacks the columns stratum"):
        meta.summarise(mr_table().drop(columns="stratum"))
