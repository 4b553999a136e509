"""The calibration table, the reliability diagram, and what a prediction is."""

from decimal import Decimal, localcontext

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from deepmr import calibration, schemas
from deepmr.calibration.predicted import predicted, probabilities
from deepmr.calibration.reliability import reliability
from deepmr.calibration.report import evaluate, target_rng


def simulated(n=4000, slope=1.0, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.5, n)
    return (rng.random(n) < expit(z)).astype(float), slope * z


def one(labels, logits, **options):
    options = {"simulations": 5} | options
    return calibration.report(labels[:, None], logits[:, None], **options).iloc[0]


def test_metrics_match_scikit_learn_and_the_columns_of_the_table():
    labels, logits = simulated()
    frame = calibration.report(
        labels[:, None], logits[:, None], targets=["A"], model="cnn", simulations=5
    )
    assert list(frame.columns) == schemas.CALIBRATION.names
    row, p = frame.iloc[0], expit(logits)
    assert row["auroc"] == pytest.approx(roc_auc_score(labels, p), abs=1e-12)
    assert row["auprc"] == pytest.approx(average_precision_score(labels, p), abs=1e-12)
    assert row["nll"] == pytest.approx(log_loss(labels, p), abs=1e-10)
    assert row["brier"] == pytest.approx(brier_score_loss(labels, p), abs=1e-12)
    assert row["o_over_e"] == pytest.approx(labels.sum() / p.sum(), abs=1e-12)
    assert (row["n"], row["n_positive"], row["status"]) == (4000, labels.sum(), "ok")
    assert row["n_chromosomes"] == 1
    assert (row["model"], row["target"], row["calibrator"], row["split"]) == (
        "cnn",
        "A",
        "none",
        "test",
    )


def test_an_overconfident_model_lies_outside_its_null_bands():
    calibrated, overconfident = (one(*simulated(2000, s), simulations=50) for s in (1, 2.5))
    for name in ("ece", "ece_debiased", "brier_miscalibration", "cox_slope", "nll"):
        low, high = f"{name}_null_low", f"{name}_null_high"
        assert calibrated[low] <= calibrated[name] <= calibrated[high], name
        beyond = overconfident[low] if name == "cox_slope" else -overconfident[high]
        value = overconfident[name] if name == "cox_slope" else -overconfident[name]
        assert value < beyond, name
    assert overconfident["ece"] > 2 * overconfident["ece_null_high"]


def test_mean_over_draws_is_taken_on_the_probability_scale():
    labels, logits = simulated()
    draws = logits[:, None, None] + np.array([-2.0, 2.0])[None, :, None]
    row = calibration.report(labels[:, None], logits[:, None], draws, simulations=2).iloc[0]
    p = (expit(logits - 2) + expit(logits + 2)) / 2
    assert row["brier"] == pytest.approx(brier_score_loss(labels, p), abs=1e-12)
    assert row["nll"] == pytest.approx(log_loss(labels, p), abs=1e-10)
    np.testing.assert_allclose(probabilities(logits, draws[:, :, 0]), p)
    np.testing.assert_allclose(probabilities(logits), expit(logits))
    np.testing.assert_allclose(predicted(draws[:, :, 0]).p, p)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-60, 60), min_size=1, max_size=5))
def test_probabilities_are_exact_in_both_tails(logits):
    with localcontext(prec=60):
        p = sum(1 / (1 + (-Decimal(x)).exp()) for x in logits) / len(logits)
        log_p, log_q = float(p.ln()), float((1 - p).ln())
    got = predicted([logits])
    assert got.log_p[0] == pytest.approx(log_p, rel=1e-12)
    assert got.log_q[0] == pytest.approx(log_q, rel=1e-12)


def test_predictions_do_not_depend_on_the_order_in_memory():
    draws = np.random.default_rng(0).normal(-2, 1, (997, 40))
    found, other = predicted(draws), predicted(np.asfortranarray(draws))
    np.testing.assert_array_equal(found.log_p, other.log_p)
    np.testing.assert_array_equal(found.log_q, other.log_q)


def test_a_saturated_wrong_logit_costs_what_it_says():
    row = one(np.array([0.0, 1.0]), np.array([800.0, 5.0]))
    assert row["nll"] == pytest.approx((800 + np.log1p(np.exp(-5))) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        (np.full(5, np.nan), "no_labels"),
        (np.zeros(5), "one_class"),
        (np.ones(5), "one_class"),
    ],
)
def test_degenerate_labels_get_a_status(labels, status):
    row = one(labels, np.linspace(-1, 1, 5))
    assert row["status"] == status
    for name in ("auroc", "auprc", "cox_intercept", "cox_slope"):
        assert np.isnan(row[name]), name
    assert np.isnan(row["brier"]) == (status == "no_labels")
    assert row["n_chromosomes"] == (status == "one_class")


def test_counts_and_values_are_not_judged_as_probabilities():
    rng = np.random.default_rng(1)
    log_rate = rng.normal(0, 0.5, 3000)
    counts = rng.poisson(np.exp(log_rate)).astype(float)
    labels, logits = np.column_stack([counts, log_rate]), np.column_stack([log_rate, log_rate])
    frame = calibration.report(labels, logits, kinds=["count", "continuous"])
    assert list(frame["status"]) == ["count_target", "continuous_target"]
    assert frame["o_over_e"].iloc[0] == pytest.approx(1, abs=0.05)
    flat = calibration.report(counts[:, None], np.zeros((3000, 1)), kinds=["count"])
    assert frame["nll"].iloc[0] < flat["nll"].iloc[0]
    assert frame[["auroc", "nll_null_low"]].isna().all(axis=None)
    assert np.isnan(frame["nll"].iloc[1])


def test_a_target_does_not_depend_on_its_neighbours_or_on_the_order_of_rows():
    labels, logits = simulated(500)
    other = simulated(500, seed=9)
    chromosomes = np.array(["chr1", "chr2", "chr3", None, "chr10"], dtype=object)[
        np.arange(500) % 5
    ]
    options = {"chromosomes": chromosomes, "simulations": 20}
    alone = calibration.report(labels[:, None], logits[:, None], targets=["A"], seed=4, **options)
    assert alone["n_chromosomes"].iloc[0] == 5
    order = np.random.default_rng(2).permutation(500)
    both = calibration.report(
        np.column_stack([other[0], labels])[order],
        np.column_stack([other[1], logits])[order],
        targets=["B", "A"],
        seed=4,
        chromosomes=chromosomes[order],
        simulations=20,
    )
    pd.testing.assert_frame_equal(
        alone, both.iloc[[1]].reset_index(drop=True), rtol=1e-12, atol=1e-15
    )
    again = calibration.report(labels[:, None], logits[:, None], targets=["A"], seed=5, **options)
    assert again["ece_null_high"].iloc[0] != alone["ece_null_high"].iloc[0]


def test_unmeasured_windows_are_left_out_with_their_chromosomes():
    labels, logits = simulated(300)
    chromosomes = np.repeat(["a", "b", "c"], 100)
    missing = labels.copy()
    missing[200:] = np.nan
    draws = logits[:, None].copy()
    draws[250] = np.nan  # nothing was measured there
    options = {"bins": 5, "simulations": 10}
    with_gaps = evaluate(missing, draws, "binary", chromosomes, rng=target_rng(1, "A"), **options)
    without = evaluate(
        labels[:200],
        logits[:200, None],
        "binary",
        chromosomes[:200],
        rng=target_rng(1, "A"),
        **options,
    )
    assert with_gaps == without
    assert (with_gaps["n"], with_gaps["n_chromosomes"]) == (200, 2)


@pytest.mark.parametrize("binning", ["equal_mass", "equal_width"])
def test_reliability_of_calibrated_predictions_stays_in_its_band(binning):
    labels, logits = simulated(20000)
    table = reliability(labels, expit(logits), 10, binning)
    assert table["n"].sum() == 20000
    inside = table["observed"].between(table["band_low"], table["band_high"])
    assert inside.mean() >= 0.7
    assert (table["band_low"] <= table["predicted"] + 1e-9).all()
    if binning == "equal_mass":
        assert table["n"].max() - table["n"].min() <= 1
    else:
        assert (np.floor(table["predicted"] * 10) == np.arange(10)).all()


def test_reliability_leaves_out_the_unmeasured_and_keeps_ties_together():
    labels = np.array([0.0, 1.0, 1.0, 0.0, np.nan])
    table = reliability(labels, np.array([0.5, 0.5, 0.5, 0.5, 0.9]), 3)
    assert table[["n", "predicted", "observed"]].to_numpy().tolist() == [[4, 0.5, 0.5]]
    assert reliability(np.full(3, np.nan), np.full(3, 0.2)).empty


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40))
def test_reliability_bins_partition_the_windows(rows):
    labels = np.array([float(y) for y, _ in rows])
    p = np.array([p for _, p in rows])
    for binning in ("equal_mass", "equal_width"):
        table = reliability(labels, p, 7, binning, simulations=3)
        assert table["n"].sum() == len(rows)
        assert (table["n"] > 0).all()
        assert table["predicted"].is_monotonic_increasing
        assert (table["observed"] @ table["n"]) == pytest.approx(labels.sum())
        assert (table["predicted"] @ table["n"]) == pytest.approx(p.sum())


def test_the_ece_is_that_of_the_reliability_diagram():
    labels, logits = simulated(2000, slope=1.6)
    rounded = logit(np.clip(expit(logits).round(2), 0.005, 0.995))
    table = reliability(labels, expit(rounded), 8, simulations=1)
    ece = (table["observed"] - table["predicted"]).abs() @ table["n"] / 2000
    assert one(labels, rounded, bins=8)["ece"] == pytest.approx(ece, abs=1e-12)


def of_one(labels, draws, kind="binary", chromosomes=None):
    rng = np.random.default_rng(0)
    return evaluate(labels, draws, kind, chromosomes, bins=3, simulations=2, rng=rng)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.report(np.zeros(3), np.zeros(3)), "must be (windows, targets)"),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((3, 2))),
            "they must be (windows, draws, targets) with 3 windows and 1 targets",
        ),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.zeros((3, 1)), targets=["A", "B"]),
            "targets has 2 entries for 1 columns",
        ),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.zeros((3, 1)), kinds=["rate"]),
            "target target0: unknown kind 'rate'; write one of binary, count, continuous",
        ),
        (
            lambda: calibration.report(np.full((3, 1), 2.0), np.zeros((3, 1)), targets=["A"]),
            "target A: labels must be 0 or 1 (or NaN, not measured); found 2",
        ),
        (
            lambda: calibration.report(np.full((3, 1), -1.0), np.zeros((3, 1)), kinds=["count"]),
            "target target0: a count of -1; counts are >= 0",
        ),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.array([[0], [np.nan], [1]])),
            "1 of 3 measured windows have an output that is not finite (the first is window 1)",
        ),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.zeros((3, 1)), simulations=0),
            "target target0: 0 simulations: a null band takes at least 1",
        ),
        (
            lambda: calibration.report(np.zeros((3, 1)), np.zeros((3, 1)), bins=0),
            "target target0: 0 bins: there must be at least 1",
        ),
        (
            lambda: of_one(np.zeros(3), np.zeros((3, 1)), chromosomes=["chr1"]),
            "1 chromosomes for 3 windows: give one a window, or None",
        ),
        (
            lambda: of_one(np.zeros(3), np.zeros(3)),
            "they must be (windows,) and (windows, draws)",
        ),
        (lambda: predicted(np.zeros(3)), "give a single logit a window as (windows, 1)"),
        (
            lambda: predicted(np.array([[0.0], [np.inf]])),
            "1 of 2 windows have a logit that is not finite (the first is window 1)",
        ),
        (lambda: reliability(np.zeros(2), np.zeros(3)), "both must be (windows,)"),
        (lambda: reliability(np.zeros(2), np.array([0, 3.0])), "were logits given?"),
        (lambda: reliability(np.zeros(2), np.zeros(2), 0), "0 bins"),
        (
            lambda: reliability(np.zeros(2), np.zeros(2), 3, "deciles"),
            "unknown binning 'deciles'; write one of equal_mass, equal_width",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=r".") as error:
        call()
    assert message in str(error.value)
