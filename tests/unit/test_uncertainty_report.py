"""The table of uncertainty: its references, halves and statuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from deepmr import schemas, tables
from deepmr.uncertainty.replicates import Replicates, read_replicates
from deepmr.uncertainty.report import in_fit_half, report
from deepmr.uncertainty.scores import LEVELS


def simulate(
    members: int = 4,
    sequences: int = 60,
    mutations: int = 20,
    se_claimed: float = 0.5,
    seed: int = 0,
    targets: tuple[str, ...] = ("A", "B"),
) -> Replicates:
    """Members that scatter about the truth with spread `se`, of which a part is claimed."""
    n = sequences * mutations
    ids = tuple(sorted(f"chr1:{100 * i}-{100 * i + 100}" for i in range(sequences)))
    effects, se, truth = {}, {}, {}
    for target in targets:
        rng = np.random.default_rng([seed, ord(target)])
        truth[target] = rng.normal(size=n)
        spread = np.exp(0.5 * rng.normal(size=(n, 1))) * np.ones(members)
        effects[target] = truth[target][:, None] + spread * rng.standard_normal((n, members))
        se[target] = se_claimed * spread
    return Replicates(targets, ids, np.repeat(np.arange(sequences), mutations), effects, se, truth)


def without(replicates: Replicates, *names: str) -> Replicates:
    parts = {name: getattr(replicates, name) for name in ("effects", "se", "truth")}
    parts |= {name: {} for name in names}
    return Replicates(replicates.targets, replicates.sequence_ids, replicates.sequence, **parts)


def as_table(replicates: Replicates) -> pa.Table:
    columns = {
        "sequence_id": [replicates.sequence_ids[i] for i in replicates.sequence],
        "position": np.arange(replicates.sequence.size) % 100,
        "ref": ["A"] * replicates.sequence.size,
        "alt": ["C"] * replicates.sequence.size,
    }
    for target in replicates.targets:
        se, truth = (part.get(target) for part in (replicates.se, replicates.truth))
        columns[target] = [
            {
                "reference": [0.0] * replicates.members,
                "effect": row,
                "se": None if se is None else se[i],
                "truth": None if truth is None else truth[i],
            }
            for i, row in enumerate(replicates.effects[target])
        ]
    return pa.table(columns, schema=schemas.replicates_schema(replicates.targets))


def rows_of(replicates: Replicates, method: str = "mc_dropout", **options: int) -> pd.DataFrame:
    settings = {"draws": 40, "seed": 3} | options
    return report(replicates, model="cnn", method=method, **settings)


def test_standard_errors_half_as_large_as_they_should_be() -> None:
    table = rows_of(simulate(mutations=60))
    assert list(table["target"]) == ["A", "A", "B", "B"]
    assert list(table["reference"]) == ["retrained", "truth"] * 2
    for row in table.to_dict("records"):
        assert row["status"] == "ok"
        assert row["zms"] == pytest.approx(4, abs=0.5)
        assert row["se_scale_low"] < row["se_scale"] < row["se_scale_high"]
        assert row["se_scale"] == pytest.approx(2, abs=0.15)
        assert row["recommended_scale"] == row["se_scale"]
        assert row["zms_scaled"] == pytest.approx(1, abs=0.15)
        assert row["zms_scaled_low"] < row["zms_scaled"] < row["zms_scaled_high"]
        assert row["ence"] == pytest.approx(1, abs=0.15)
        assert row["ence_scaled"] < 0.15
        assert row["rmse"] == pytest.approx(2 * row["sharpness"], rel=0.06)
        np.testing.assert_array_equal(row["levels"], LEVELS)
        np.testing.assert_allclose(row["coverage_scaled"], LEVELS, atol=0.06)
        assert row["coverage"][LEVELS.index(0.95)] == pytest.approx(0.67, abs=0.04)
        assert (row["members"], row["draws"], row["n_sequences"]) == (4, 40, 60)
        assert (row["n_mutations"], row["n_without_se"]) == (3600, 0)
        assert row["draw_error"] == pytest.approx(1 / np.sqrt(78))
        assert np.isnan(row["prior_df"])
    truth = table[table["reference"] == "truth"]
    np.testing.assert_allclose(truth["slope"], 1, atol=0.1)


def test_standard_errors_are_never_narrowed() -> None:
    row = rows_of(simulate(se_claimed=3.0)).iloc[0]
    assert row["se_scale_high"] < 0.5
    assert row["recommended_scale"] == 1.0


@pytest.mark.parametrize("method", ["ensemble", "ensemble_mc_dropout"])
def test_an_ensemble_predicts_its_members(method: str) -> None:
    replicates = simulate(members=6, se_claimed=0.01)
    if method == "ensemble":
        replicates = without(replicates, "se")
    retrained, truth = (rows_of(replicates, method).iloc[row] for row in (0, 1))
    # Draws spread over K members have (K - 1)/K of their variance.
    expected = 1 if method == "ensemble" else 6 / 5
    assert retrained["zms"] == pytest.approx(expected, abs=0.12)
    if method == "ensemble":
        np.testing.assert_allclose(retrained["coverage"], LEVELS, atol=0.03)
    assert retrained["draws"] == (6 if method == "ensemble" else 40)
    # exp(.5 z) as a spread: log variances have the variance 1.
    assert 1 < retrained["prior_df"] < 6
    # The mean of six members is closer to the truth than one is.
    assert truth["zms"] == pytest.approx(1 / 6, abs=0.05)
    assert truth["recommended_scale"] == 1.0


def test_variance_over_masks_widens_an_ensembles_standard_errors() -> None:
    replicates = simulate(members=5, se_claimed=1.0)
    wide = rows_of(replicates, "ensemble_mc_dropout")
    plain = rows_of(without(replicates, "se"), "ensemble")
    assert (wide["zms"] < 0.75 * plain["zms"]).all()
    assert (wide["sharpness"] > plain["sharpness"]).all()


def test_a_single_network_is_told_to_have_no_reference() -> None:
    alone = simulate(members=1)
    assert list(rows_of(alone)["reference"]) == ["truth", "truth"]
    table = rows_of(without(alone, "truth"))
    assert list(table["status"]) == ["no_reference"] * 2
    assert list(table["reference"]) == [None, None]
    assert table["zms"].isna().all()
    assert list(table["n_mutations"]) == [1200, 1200]


def test_statuses_say_what_is_missing() -> None:
    two = without(simulate(members=2), "se")
    assert list(rows_of(two, "ensemble")["status"]) == ["too_few_members", "ok"] * 2
    few = rows_of(simulate(sequences=2))
    assert set(few["status"]) == {"too_few_sequences"}
    assert few["zms"].notna().all()
    assert few[["se_scale", "recommended_scale", "zms_scaled"]].isna().all(axis=None)
    nothing = simulate()
    nothing.se["A"][:] = 0.0
    table = rows_of(nothing)
    assert list(table["status"]) == ["no_standard_error"] * 2 + ["ok"] * 2
    assert list(table["n_without_se"]) == [4800, 1200, 0, 0]
    heavy = simulate(members=3)
    rng = np.random.default_rng(0)
    heavy.effects["A"][:] = np.exp(4 * rng.normal(size=(1200, 1))) * rng.normal(size=(1200, 3))
    row = rows_of(without(heavy, "se", "truth"), "ensemble").iloc[0]
    assert row["status"] == "too_few_degrees_of_freedom"
    assert row["prior_df"] < 1
    assert np.isnan(row["zms"])
    assert np.isfinite(row["coverage"]).all()


def test_a_few_tiny_standard_errors_do_not_decide_the_scale() -> None:
    replicates = simulate(se_claimed=1.0, targets=("A",))
    assert list(rows_of(replicates)["status"]) == ["ok", "ok"]
    replicates.se["A"][::200] *= 1e-3
    row = rows_of(replicates).iloc[0]
    assert row["status"] == "few_errors_decide"
    assert row["zms"] > 100
    assert np.isnan([row["se_scale"], row["zms_scaled"]]).all()
    assert row["coverage_scaled"] == []
    assert row["se_ratio"] == pytest.approx(1, abs=0.08)
    assert row["se_ratio_low"] < row["se_ratio"] < row["se_ratio_high"]
    assert row["recommended_scale"] == max(1.0, row["se_ratio"])
    assert row["se_ratio_scaled_low"] < 1 < row["se_ratio_scaled_high"]
    assert row["se_factor"] == pytest.approx(1, abs=0.1)


def test_a_truth_known_of_some_mutations_counts_those() -> None:
    replicates = simulate()
    replicates.truth["A"][:200] = np.nan
    row = rows_of(replicates).iloc[1]
    assert (row["n_mutations"], row["n_sequences"]) == (1000, 50)
    assert row["status"] == "ok"


def test_the_first_member_is_held_against_the_truth() -> None:
    replicates = simulate()
    before = rows_of(replicates)
    replicates.effects["A"][:, 1:] += 1.0
    after = rows_of(replicates)
    pd.testing.assert_series_equal(before.iloc[1], after.iloc[1])
    assert before.iloc[0]["zms"] != after.iloc[0]["zms"]


def test_the_scale_is_judged_on_sequences_it_was_not_fitted_on() -> None:
    replicates = simulate()
    fits = np.array([in_fit_half(name) for name in replicates.sequence_ids])
    assert 20 < fits.sum() < 40
    replicates.effects["A"][fits[replicates.sequence]] *= 10.0
    row = rows_of(without(replicates, "truth")).iloc[0]
    assert row["se_scale"] == pytest.approx(20, rel=0.1)
    assert row["zms_scaled"] == pytest.approx(0.01, rel=0.2)


def test_a_target_depends_on_no_other_and_on_no_order() -> None:
    replicates = simulate()
    both = rows_of(replicates)
    alone = Replicates(
        ("B",),
        replicates.sequence_ids,
        replicates.sequence,
        *({"B": part["B"]} for part in (replicates.effects, replicates.se, replicates.truth)),
    )
    pd.testing.assert_frame_equal(rows_of(alone), both.iloc[2:].reset_index(drop=True))
    table = as_table(replicates)
    order = np.random.default_rng(0).permutation(table.num_rows)
    straight, mixed = (rows_of(read_replicates(t)) for t in (table, table.take(order)))
    pd.testing.assert_frame_equal(straight, mixed, check_exact=True)


@pytest.mark.parametrize("method", ["mc_dropout", "ensemble"])
def test_it_goes_through_files(method: str, tmp_path: Path) -> None:
    replicates = simulate(members=3)
    if method == "ensemble":
        replicates = without(replicates, "se", "truth")
    path = tmp_path / "replicates.parquet"
    tables.write_table(as_table(replicates), path)
    read = read_replicates(tables.read_table(path))
    assert (read.targets, read.sequence_ids) == (replicates.targets, replicates.sequence_ids)
    np.testing.assert_array_equal(read.sequence, replicates.sequence)
    for name in ("effects", "se", "truth"):
        found, given = getattr(read, name), getattr(replicates, name)
        assert found.keys() == given.keys()
        for target in given:
            np.testing.assert_allclose(found[target], given[target], rtol=1e-6)
    table = rows_of(read, method)
    assert list(table.columns) == schemas.UNCERTAINTY.names
    out = tmp_path / "uncertainty.parquet"
    tables.write_table(pa.Table.from_pandas(table, preserve_index=False), out, schemas.UNCERTAINTY)
    assert tables.read_table(out).num_rows == len(table)


def test_wrong_tables_are_refused() -> None:
    table = as_table(simulate(sequences=2, mutations=2))
    with pytest.raises(ValueError, match="no table of replicates"):
        read_replicates(table.drop_columns(["alt"]))
    with pytest.raises(ValueError, match="0 rows"):
        read_replicates(table.slice(0, 0))
    rows = table.to_pylist()
    rows[1]["A"]["effect"] = [1.0]
    with pytest.raises(ValueError, match=r"A\.effect has rows of 1, 4 members"):
        read_replicates(pa.Table.from_pylist(rows, schema=table.schema))
    rows = table.to_pylist()
    rows[2]["B"]["se"] = None
    with pytest.raises(ValueError, match=r"B\.se has rows of 4, none members"):
        read_replicates(pa.Table.from_pylist(rows, schema=table.schema))
    with pytest.raises(ValueError, match="is unknown"):
        rows_of(simulate(), "bootstrap")
    with pytest.raises(ValueError, match="has no standard errors"):
        rows_of(without(simulate(), "se"))


def test_one_network_under_masks_is_the_same_with_both_methods() -> None:
    one = simulate(members=1)
    under_masks, plain = (rows_of(one, m) for m in ("ensemble_mc_dropout", "mc_dropout"))
    assert list(under_masks["status"]) == ["ok", "ok"]
    pd.testing.assert_frame_equal(under_masks.drop(columns="method"), plain.drop(columns="method"))
