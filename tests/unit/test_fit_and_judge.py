"""Calibrators fitted on one set of windows and judged on others, target by target."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from deepmr import schemas, tables
from deepmr.calibration.fit_and_judge import Settings, fit_and_judge
from deepmr.calibration.maps import NotStrictlyIncreasingError
from deepmr.held_out import HeldOut
from deepmr.responses import responses
from deepmr.uncertainty.replicates import Replicates, read_replicates

NAMES = ("temperature", "platt", "beta", "isotonic", "centred_isotonic")
SETTINGS = Settings(NAMES, 10, 100, 10, 40, 3)
TARGETS = ("even", "rare", "absent")


def windows(seed: int, n: int, chromosomes: tuple[str, ...]) -> HeldOut:
    """Logits that say twice what they should, and two targets with few positives or none."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.0, 1.5, size=(n, 3))
    labels = (rng.random((n, 3)) < expit(true)).astype(np.float32)
    labels[:, 1] = 0
    labels[rng.choice(n, 7, replace=False), 1] = 1
    labels[:, 2] = 0
    draws = 2 * true[:, None] - 1 + 0.3 * rng.normal(size=(n, 4, 3))
    return HeldOut(
        TARGETS,
        np.array(chromosomes, dtype=object)[np.arange(n) % len(chromosomes)],
        labels,
        draws.mean(axis=1).astype(np.float32),
        draws.astype(np.float32),
    )


def replicates() -> Replicates:
    rng = np.random.default_rng(5)
    rows = {
        target: [
            {
                "reference": [float(r)],
                "effect": [float(d)],
                "se": [0.1],
                "truth": None,
            }
            for r, d in zip(rng.normal(-3, 1, 200), 0.05 * rng.normal(size=200), strict=True)
        ]
        for target in TARGETS
    }
    columns = {
        "sequence_id": [f"s{i // 20}" for i in range(200)],
        "position": list(range(200)),
        "ref": ["A"] * 200,
        "alt": ["C"] * 200,
    }
    return read_replicates(pa.table(columns | rows, schemas.replicates_schema(TARGETS)))


@pytest.fixture(scope="module")
def made():
    held_out = {
        "validation": windows(1, 3000, ("chr1", "chr2", "chr3")),
        "test": windows(2, 3000, ("chr4", "chr5", "chr6")),
    }
    return fit_and_judge(held_out, ["binary"] * 3, replicates(), SETTINGS, "cnn")


def row(metrics, target, calibrator, split="test"):
    (found,) = metrics[
        (metrics["target"] == target)
        & (metrics["calibrator"] == calibrator)
        & (metrics["split"] == split)
    ].to_dict("records")
    return found


def test_every_target_calibrator_and_split_has_a_row(made):
    metrics, calibrators = made
    assert list(metrics.columns) == schemas.CALIBRATION.names
    assert len(metrics) == 3 * 6 * 2
    assert calibrators.num_rows == 3 * 5
    assert calibrators.schema.equals(schemas.CALIBRATORS)


def test_platt_mends_what_was_distorted_and_is_judged_on_other_windows(made):
    metrics, calibrators = made
    before, after = (row(metrics, "even", name) for name in ("none", "platt"))
    assert before["cox_slope"] < 0.65
    assert before["ece"] > before["ece_null_high"]
    assert abs(after["cox_slope"] - 1) < 0.1
    assert abs(after["o_over_e"] - 1) < 0.06
    assert after["auroc"] == pytest.approx(before["auroc"], abs=0.002)
    (platt,) = [
        one
        for one in calibrators.to_pylist()
        if (one["target"], one["calibrator"]) == ("even", "platt")
    ]
    assert platt["status"] == "ok"
    assert platt["a"] == pytest.approx(0.5, abs=0.06)
    assert (before["n"], before["n_chromosomes"]) == (3000, 3)


def test_only_isotonic_makes_effects_exactly_zero(made):
    _, calibrators = made
    shares = {
        one["calibrator"]: one["zero_effects"]
        for one in calibrators.to_pylist()
        if one["target"] == "even"
    }
    assert shares["isotonic"] > 0.3
    assert all(share == 0 for name, share in shares.items() if name != "isotonic")


@pytest.mark.parametrize(
    ("target", "status"), [("rare", "too_few_positives"), ("absent", "one_class")]
)
def test_a_target_too_rare_stays_as_it_is_and_is_flagged(made, target, status):
    metrics, calibrators = made
    for name in NAMES:
        found = row(metrics, target, name)
        assert found["status"] == status
        plain = row(metrics, target, "none")
        same = [key for key in plain if key not in ("calibrator", "status")]
        np.testing.assert_equal([found[k] for k in same], [plain[k] for k in same])
    statuses = {r["status"] for r in calibrators.to_pylist() if r["target"] == target}
    assert statuses == {status}


def test_the_log_names_what_cannot_be_calibrated(caplog):
    held_out = {"validation": windows(1, 400, ("chr1",)), "test": windows(2, 400, ("chr4", "chr5"))}
    with caplog.at_level(logging.WARNING):
        few = replace(SETTINGS, calibrators=("platt", "beta"), simulations=20)
        fit_and_judge(held_out, ["binary"] * 3, replicates(), few, "cnn")
    told = caplog.text
    assert "all validation windows lie on chr1" in told
    assert "cnn, rare: stays as predicted, because of 400 validation windows 7 have label 1" in told
    assert told.count("cnn, absent: stays as predicted") == 1
    assert "cnn, absent: not judged on the 400 test windows that were measured (one_class)" in told
    assert "even" not in told


def test_responses_of_a_run(made, tmp_path):
    _, calibrators = made
    path = tmp_path / "calibrators.parquet"
    tables.write_table(calibrators, path, schemas.CALIBRATORS)
    targets = {name: {"type": "binary"} for name in TARGETS}
    applied = {"calibrator": "platt", "method": "ensemble"}
    found = responses("cnn", targets, applied, path, None)
    (platt,) = [
        one
        for one in calibrators.to_pylist()
        if (one["target"], one["calibrator"]) == ("even", "platt")
    ]
    logits = np.array([-1.0, 0.0, 2.0])
    expected = platt["a"] * logits + platt["b"]
    np.testing.assert_allclose(found["even"].calibrator(logits), expected)
    assert found["rare"].calibrator is None
    assert found["even"].moderated
    with pytest.raises(NotStrictlyIncreasingError, match="centred_isotonic"):
        responses("cnn", targets, applied | {"calibrator": "isotonic"}, path, None)
    plain = responses("cnn", targets, {"calibrator": "none", "method": "mc_dropout"}, None, None)
    assert plain["even"].calibrator is None
    assert not plain["even"].moderated


def test_the_scale_of_standard_errors_widens_and_never_narrows(tmp_path, caplog):
    rows = [
        {"model": "cnn", "target": "even", "reference": "retrained", "recommended_scale": 1.4},
        {"model": "cnn", "target": "even", "reference": "truth", "recommended_scale": 3.0},
        {"model": "cnn", "target": "rare", "reference": "retrained", "status": "too_few_members"},
        {"model": "other", "target": "even", "reference": "retrained", "recommended_scale": 9.0},
    ]
    path = tmp_path / "uncertainty.parquet"
    tables.write_table(pa.Table.from_pylist(rows, schemas.UNCERTAINTY), path, schemas.UNCERTAINTY)
    targets = {name: {"type": "binary"} for name in TARGETS}
    applied = {"calibrator": "none", "method": "mc_dropout"}
    with caplog.at_level(logging.WARNING):
        found = responses("cnn", targets, applied, None, path)
    assert [found[name].se_scale for name in TARGETS] == [1.4, 1.0, 1.0]
    assert "rare: no scale of the standard errors is known (too_few_members)" in caplog.text
    with pytest.raises(ValueError, match=r"no scale .* model 'new'; it has models cnn, other"):
        responses("new", targets, applied, None, path)
