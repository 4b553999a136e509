"""The tables that explain heterogeneity: known truths, R's numbers, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from deepmr import schemas, tables
from deepmr.meta import draw_wise
from deepmr.meta.heterogeneity import estimate_tau2
from deepmr.meta.influence import leave_one_out
from deepmr.meta.shrinkage.mixture import draw_wise_shares, fit_mixture, posterior
from deepmr.meta.tables.diagnostics import diagnostics
from deepmr.meta.tables.estimated import Estimated
from deepmr.meta.tables.explain import Explained, Settings, explain, read_effects
from deepmr.meta.tables.sequence_effects import evidence, sequence_effects
from deepmr.motifs import Motif
from deepmr.mr.drawwise import rubin

REFERENCE = Path(__file__).parents[1] / "reference"
PAIRS = {"p": {"exposure": "X", "outcome": "Y"}, "q": {"exposure": "Z", "outcome": "Y"}}
NUMBERS = ["blup", "blup_se", "shrunk", "shrunk_sd", "lfsr", "s_value", "weight", "rstudent"]


def rows_of(draws: np.ndarray, draws_se: np.ndarray, **others: object) -> pd.DataFrame:
    """Rows of an MR table, draws (T, k)."""
    total = rubin(draws.T, (draws_se**2).mean(axis=0))
    k = draws.shape[1]
    return pd.DataFrame(
        {
            "sequence_id": [f"s{i:03d}" for i in range(k)],
            "stratum": ["bound" if i % 2 else "unbound" for i in range(k)],
            "estimate": total.estimate,
            "se": total.se,
            "se_within": total.se_within,
            "status": ["ok"] * k,
            "draws": list(draws.T),
            "draws_se": list(draws_se.T),
        }
        | others
    )


def simulated(
    effects: np.ndarray, seed: int = 0, n_draws: int = 20, shared: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (n_draws, effects.size)
    se = np.sqrt(rng.uniform(0.005, 0.03, shape))
    shift = shared * rng.standard_normal((n_draws, 1))
    return effects + shift + 0.3 * se * rng.standard_normal(shape), se


def judged_table(rows: pd.DataFrame, method: str = "REML") -> pd.DataFrame:
    known = pd.DataFrame(
        {"gc": 0.5, "predicted_exposure": 1.0, "motif_distance": np.nan}, rows.index
    )
    estimated = Estimated.of(rows)
    return pd.DataFrame(sequence_effects(rows, known, estimated, evidence(estimated, method)))


@pytest.mark.parametrize(
    "source", ["bcg", "bangertdrowns2004", "hackshaw1998", "konstantopoulos2011"]
)
def test_without_error_of_the_model_the_numbers_are_those_of_metafor(source: str) -> None:
    results = json.loads((REFERENCE / f"meta_{source}.json").read_text())
    inputs, results = results["inputs"], results["results"]
    y, v = (np.array(inputs[name], dtype=float) for name in ("yi", "vi"))
    same = np.ones((5, 1))
    found = judged_table(rows_of(same * y, same * np.sqrt(v)))
    expected = {
        "blup": results["blup"]["pred"],
        "blup_se": results["blup"]["se"],
        "weight": results["influence"]["weight"],
        "rstudent": results["influence"]["rstudent"],
        "cooks_distance": results["influence"]["cook.d"],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-7, err_msg=name)


def test_the_effect_without_a_sequence_is_that_of_the_others() -> None:
    y, se = simulated(np.linspace(-0.3, 1, 30))
    found = judged_table(rows_of(y, se), "FE")
    for i in (0, 13, 29):
        rest = np.arange(30) != i
        alone = draw_wise(y[:, rest], se[:, rest] ** 2, "FE").estimate
        assert found["without"][i] == pytest.approx(alone, rel=1e-10)
    # With a variance between sequences tau2 is kept: near the refit, and exact for that tau2.
    found = judged_table(rows_of(y, se))
    w = 1 / (se**2 + estimate_tau2(y, se**2, "REML")[:, None])
    for i in (0, 13, 29):
        rest = np.arange(30) != i
        kept = ((w * y)[:, rest].sum(axis=1) / w[:, rest].sum(axis=1)).mean()
        assert found["without"][i] == pytest.approx(kept, rel=1e-10)
        refit = draw_wise(y[:, rest], se[:, rest] ** 2).estimate
        assert found["without"][i] == pytest.approx(refit, abs=2e-3)
    assert found["weight"].sum() == pytest.approx(100)


def test_error_of_the_model_that_all_share_widens_blups_and_makes_no_outlier() -> None:
    effects = np.random.default_rng(3).normal(0.5, 0.2, 40)
    calm, se = simulated(effects, 4, 100, shared=0.0)
    shift = 0.5 * np.random.default_rng(5).standard_normal((100, 1))
    first, second = judged_table(rows_of(calm, se)), judged_table(rows_of(calm + shift, se))
    np.testing.assert_allclose(first["weight"], second["weight"], rtol=1e-6)
    assert (second["blup_se"] > 0.45).all()
    assert (first["blup_se"] < 0.2).all()
    assert (second["rstudent"].abs() < first["rstudent"].abs().max()).all()


def test_an_outlier_is_found() -> None:
    effects = np.full(40, 0.5)
    effects[7] = 3.0
    y, se = simulated(effects, 1)
    rows = rows_of(y, se)
    estimated = Estimated.of(rows)
    judged = evidence(estimated, "REML")
    row = diagnostics(estimated, judged, "REML")
    assert row["most_influential"] == "s007"
    assert row["n_influential"] >= 1
    assert judged.influential[7]
    assert judged.rstudent[7] > 5
    assert row["without_one_low"] == judged.without[7]
    everything = draw_wise(y, se**2).estimate
    assert row["without_one_low"] < everything < row["without_one_high"]
    exact = leave_one_out(estimated.estimates, estimated.se**2).estimate[7]
    assert row["without_one_low"] == pytest.approx(exact, abs=0.02)


def test_probabilities_are_those_of_the_draws_and_the_shrunken_effect_of_the_means() -> None:
    rng = np.random.default_rng(8)
    effects = np.where(rng.random(120) < 0.6, 0.0, rng.choice([1.5, 2.0, -1.5], 120))
    y, se = simulated(effects, 2, 12, shared=0.0)
    rows = rows_of(y, se)
    found = judged_table(rows)
    shares = draw_wise_shares(y, se**2)
    for name in ("p_zero", "p_negative", "p_positive", "lfsr", "s_value"):
        np.testing.assert_allclose(found[name], getattr(shares, name), rtol=1e-10, err_msg=name)
    total = rows["estimate"].to_numpy(), rows["se"].to_numpy()
    after = posterior(fit_mixture(*total), *total)
    np.testing.assert_allclose(found["shrunk"], after.mean, rtol=1e-10)
    np.testing.assert_allclose(found["shrunk_sd"], after.sd, rtol=1e-10)
    estimated = Estimated.of(rows)
    row = diagnostics(estimated, evidence(estimated, "REML"), "REML")
    assert row["share_zero"] == pytest.approx((effects == 0).mean(), abs=0.1)
    assert row["share_positive"] == pytest.approx((effects > 0).mean(), abs=0.1)
    assert row["share_negative"] == pytest.approx((effects < 0).mean(), abs=0.1)
    assert row["n_sure"] == (found["lfsr"] < 0.05).sum()
    assert np.sign(effects[found["lfsr"] < 0.05]).all()


def test_sequences_that_cannot_be_judged_stay_with_their_status() -> None:
    y, se = simulated(np.linspace(0, 1, 12))
    se[3, 2] = 0.0
    rows = rows_of(y, se)
    rows.loc[5, ["status", "estimate", "se"]] = ["no_motif_hit", np.nan, np.nan]
    rows.at[5, "draws"] = rows.at[5, "draws_se"] = None
    rows.loc[9, "se"] = np.inf
    found = judged_table(rows)
    assert found["sequence_id"].tolist() == rows["sequence_id"].tolist()
    statuses = {2: "no_standard_error", 5: "no_motif_hit", 9: "no_standard_error"}
    assert found["status"].tolist() == [statuses.get(i, "ok") for i in range(12)]
    lost = found.loc[list(statuses)]
    assert lost[[*NUMBERS, "without"]].isna().to_numpy().all()
    assert [one is None for one in lost["influential"]] == [True] * 3
    assert found.drop(index=list(statuses))[[*NUMBERS, "without"]].notna().to_numpy().all()
    estimated = Estimated.of(rows)
    assert (estimated.k, estimated.n_dropped) == (9, 2)
    assert estimated.reason == (
        "1 of 11 sequences left out: standard error is 0, missing or infinite in a draw; "
        "1 of 10 sequences left out: standard error is 0, missing or infinite"
    )


@pytest.mark.parametrize("k", [0, 1, 2, 3])
@pytest.mark.parametrize("method", ["REML", "FE", "DL"])
def test_few_sequences_are_told(k: int, method: str) -> None:
    rows = rows_of(*simulated(np.linspace(0, 1, 4)))
    rows.loc[k:, "status"] = "no_motif_hit"
    estimated = Estimated.of(rows)
    judged = evidence(estimated, method)
    row = diagnostics(estimated, judged, method)
    assert row["k"] == k
    names = ["no_sequences", "single_sequence", "few_sequences", "ok"]
    assert row["status"] == names[k]
    assert row["reason"]
    if k == 0:
        assert row["reason"].startswith("without an estimate: 4 no_motif_hit")
    table = judged_table(rows, method)
    assert len(table) == 4
    assert table["weight"].notna().sum() == k
    assert table["without"].notna().sum() == (k if k > 1 else 0)
    assert table["blup"].notna().sum() == (k if k > 1 else 0)


def test_no_usable_standard_error_is_told() -> None:
    y, se = simulated(np.linspace(0, 1, 4))
    rows = rows_of(y, 0 * se)
    estimated = Estimated.of(rows)
    row = diagnostics(estimated, evidence(estimated, "REML"), "REML")
    assert (row["k"], row["status"]) == (0, "no_sequences")
    assert "4 of 4 sequences left out: standard error is 0" in row["reason"]
    assert set(judged_table(rows)["status"]) == {"no_standard_error"}


def sequence_table(k: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    ids = [f"s{i:03d}" for i in range(k)]
    share = rng.uniform(0.2, 0.8, k)
    letters = [
        "".join(
            np.where(rng.random(60) < p, rng.choice(["G", "C"], 60), rng.choice(["A", "T"], 60))
        )
        for p in share
    ]
    columns = {
        "sequence_id": ids,
        "chrom": ["chr1"] * k,
        "start": [100 * i for i in range(k)],
        "end": [100 * i + 60 for i in range(k)],
        "strand": ["."] * k,
        "sequence": letters,
        "stratum.X": ["bound" if i % 2 else "unbound" for i in range(k)],
        "stratum.Z": [None] * k,
    }
    return pa.table(columns, schema=schemas.sequences_schema(["X", "Z"]))


def write_predictions(path: Path, ids: list[str], shift: float) -> Path:
    logits = np.arange(len(ids), dtype=np.float32)[:, None] + np.array([-1, 1], dtype=np.float32)
    columns: dict[str, object] = {"sequence_id": ids, "split": ["test"] * len(ids)}
    for i, target in enumerate("XYZ"):
        draws = tables.draws_column((logits + np.float32(shift + 100 * i)).astype(np.float32))
        evaluated = pa.array(np.zeros(len(ids), dtype=np.float32))
        columns[target] = pa.StructArray.from_arrays([evaluated, draws], ["eval", "draws"])
    tables.write_table(pa.table(columns), path, schemas.predictions_schema(list("XYZ"), 2))
    return path


@pytest.fixture
def run(tmp_path: Path) -> dict[str, object]:
    """Two models, a pair with 40 sequences (an effect that grows with GC) and one without any."""
    sequences = sequence_table(40)
    ids = sequences["sequence_id"].to_pylist()
    gc = np.array([(s.count("G") + s.count("C")) / 60 for s in sequences["sequence"].to_pylist()])
    parts = []
    for seed, (model, direction) in enumerate(
        (model, direction) for model in ("m2", "m1") for direction in ("forward", "reverse")
    ):
        effects = 2 * gc if direction == "forward" else np.zeros(40)
        y, se = simulated(effects, seed)
        for method in ("egger", "ivw"):
            part = rows_of(y + (10 if method == "ivw" else 0), se)
            part["model"], part["pair"], part["direction"] = model, "p", direction
            part["method"] = method
            parts.append(part)
    decoys = parts[0].assign(direction="decoy")
    mr = pd.concat([*parts, decoys], ignore_index=True)
    for name in schemas.MR.names:
        if name not in mr:
            mr[name] = None
    path = tmp_path / "mr.parquet"
    tables.write_table(pa.Table.from_pandas(mr, preserve_index=False), path, schemas.MR)
    annotation = tmp_path / "state.tsv"
    lines = [f"{one}\t{'abc'[i % 3]}" for i, one in enumerate(ids)]
    annotation.write_text("\n".join(["sequence_id\tstate", *lines]) + "\n")
    counts = np.eye(4) * 50 + 1
    return {
        "mr": path,
        "sequences": sequences,
        "predictions": {
            model: write_predictions(tmp_path / f"{model}.parquet", ids, shift)
            for model, shift in (("m1", 0.0), ("m2", 1000.0))
        },
        "motifs": {"X": Motif("x", "x", counts), "Y": None},
        "annotations": {"state": annotation},
    }


def explained(run: dict, order: np.ndarray | None = None, **how: str) -> Explained:
    mr = read_effects(run["mr"], "egger")
    if order is not None:
        mr = mr.iloc[order].reset_index(drop=True)
    rest = [run[name] for name in ("sequences", "predictions", "motifs")]
    settings = Settings(**{"method": "egger", "motif_p_value": 0.01} | how)
    return explain(mr, *rest, PAIRS, run["annotations"], settings)


def test_only_rows_of_the_method_and_of_both_directions_are_read(run: dict) -> None:
    mr = read_effects(run["mr"], "egger")
    assert len(mr) == 160
    assert set(mr["direction"]) == {"forward", "reverse"}
    assert mr["estimate"].max() < 5
    assert read_effects(run["mr"], "median").empty


def test_every_model_pair_and_direction_has_its_rows(run: dict) -> None:
    found = explained(run)
    for name, schema in (
        ("sequence_effects", schemas.SEQUENCE_EFFECTS),
        ("meta_regression", schemas.META_REGRESSION),
        ("meta_diagnostics", schemas.META_DIAGNOSTICS),
    ):
        assert getattr(found, name).schema.equals(schema), name
    keys = [(m, p, d) for m in ("m1", "m2") for p in ("p", "q") for d in ("forward", "reverse")]
    of_question = found.meta_diagnostics.to_pandas()
    assert list(of_question[["model", "pair", "direction"]].itertuples(False, None)) == keys
    empty = of_question[of_question["pair"] == "q"]
    assert set(empty["status"]) == {"no_sequences"}
    assert set(empty["reason"]) == {"no sequence was sampled; no sequence to combine"}
    assert set(of_question["combination"]) == {"REML"}
    single = found.sequence_effects.to_pandas()
    assert len(single) == 4 * 40
    assert set(single["pair"]) == {"p"}
    assert (single["stratum"] == np.tile(["unbound", "bound"], 80)).all()
    regressions = found.meta_regression.to_pandas()
    of_empty = regressions[regressions["pair"] == "q"]
    assert set(of_empty["status"]) == {"no_sequences"}
    assert len(of_empty) == 4 * 2 * 5
    reverse = single[(single["model"] == "m2") & (single["direction"] == "reverse")]
    assert set(reverse["exposure"]) == {"Y"}
    assert set(reverse["outcome"]) == {"X"}
    np.testing.assert_array_equal(reverse["predicted_exposure"], 1100 + np.arange(40))
    assert reverse["motif_distance"].isna().all()


def test_what_moves_the_effects_is_in_the_tables(run: dict) -> None:
    found = explained(run).meta_regression.to_pandas()
    found = found[(found["model"] == "m1") & (found["pair"] == "p")]
    row = found.set_index(["direction", "covariates", "term"]).loc
    gc = row[("forward", "alone", "gc")]
    assert gc["estimate"] == pytest.approx(0.2, abs=0.05)
    assert gc["unit"] == "per 0.1"
    assert gc["p_value"] < 1e-6
    assert row[("reverse", "alone", "gc"), "p_value"] > 0.01
    assert row[("forward", "together", "state=b"), "unit"] == "b against a"
    assert row[("forward", "together", "motif_distance"), "status"] == "missing_covariate"
    assert row[("forward", "together", "gc"), "status"] == "ok"


def test_the_median_has_no_variance_between_sequences_and_reml_stands_in(run: dict) -> None:
    first, second = explained(run, combination="median"), explained(run)
    for name in ("sequence_effects", "meta_regression", "meta_diagnostics"):
        assert getattr(first, name).equals(getattr(second, name))
    other = explained(run, combination="DL").meta_diagnostics
    assert set(other["combination"].to_pylist()) == {"DL"}
    assert other["egger_z"].to_pylist() != second.meta_diagnostics["egger_z"].to_pylist()


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_rows_does_not_matter(run: dict, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(160)
    first, second = explained(run), explained(run, order)
    for name in ("sequence_effects", "meta_regression", "meta_diagnostics"):
        assert getattr(first, name).equals(getattr(second, name)), name


def test_a_sequence_that_has_all_the_weight_can_be_left_out() -> None:
    draws, variances = np.tile([0.5, 0.7], (5, 1)), np.tile([1e-30, 1.0], (5, 1))
    judged = evidence(Estimated.of(rows_of(draws, np.sqrt(variances))), "REML")
    np.testing.assert_allclose(judged.without, [0.7, 0.5], rtol=1e-12)


@pytest.mark.parametrize(("k", "known"), [(1, False), (2, False), (3, True)])
def test_too_few_sequences_are_not_said_to_be_without_influence(k: int, known: bool) -> None:
    rows = rows_of(*simulated(np.linspace(0.4, 0.6, k)))
    table = judged_table(rows)
    assert (table["influential"].notna() == known).all()
