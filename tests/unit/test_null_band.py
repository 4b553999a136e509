"""Null bands hold a perfectly calibrated model as often as they say, and little else."""

import numpy as np
import pytest
from scipy.special import expit

from deepmr import schemas
from deepmr.calibration.metrics import metrics
from deepmr.calibration.null_band import chromosome_numbers, null_bands
from deepmr.calibration.predicted import predicted

FOUR = np.array(["chr1", "chr2", "chr3", "chr4"])


def model(seed, n, slope=1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2.5, 1.5, n)
    return (rng.random(n) < expit(logits)).astype(float), predicted((slope * logits)[:, None])


def bands(prediction, chromosomes=None, simulations=39, seed=0, **options):
    rng = np.random.default_rng(seed)
    return null_bands(prediction, chromosomes, 10, simulations, rng, **options)


def held(models, n, slope=1.0, chromosomes=None, **options):
    """Count in how many models the band of each metric holds it."""
    hits = dict.fromkeys(schemas.METRICS, 0)
    for seed in range(models):
        labels, prediction = model(seed, n, slope)
        got = metrics(labels, prediction, 10)
        found = bands(prediction, chromosomes, seed=1000 + seed, **options)
        for name, (low, high) in found.items():
            hits[name] += low - 1e-12 <= got[name] <= high + 1e-12
    return hits


def test_a_perfect_model_lies_inside():
    # 39 data sets: the band runs from the least to the largest, and holds 38 of 40
    hits = held(40, 480, chromosomes=np.repeat(FOUR, 120))
    assert list(hits) == list(schemas.METRICS)
    for name, count in hits.items():
        assert count >= 32, name  # 38 expected; below 32 by chance in 1 of 7,700


def test_a_band_of_half_the_data_sets_holds_half_of_the_models():
    hits = held(40, 300, level=0.5)
    for name in ("auroc", "nll", "brier", "ece", "ks", "cox_slope", "cox_intercept", "o_over_e"):
        assert 10 <= hits[name] <= 30, name  # 20 expected, standard deviation 3.2


def test_an_overconfident_model_lies_outside():
    hits = held(5, 2000, slope=2.0)
    for name in ("nll", "brier_miscalibration", "ece", "ece_debiased", "ks", "cox_slope"):
        assert hits[name] == 0, name


def test_data_sets_are_what_the_definition_says():
    _, prediction = model(3, 240)
    chromosomes = np.repeat(FOUR, [20, 40, 60, 120])
    rng = np.random.default_rng(5)
    windows = {c: np.flatnonzero(chromosomes == c) for c in FOUR}
    plain = []
    for _ in range(300):
        drawn = np.concatenate([windows[c] for c in rng.choice(FOUR, 4)])
        again = prediction.take(drawn)
        plain.append(metrics((rng.random(drawn.size) < again.p).astype(float), again, 10))
    found = bands(prediction, chromosomes, simulations=300, level=0.8)
    for name, (low, high) in found.items():
        values = np.array([row[name] for row in plain])
        exists = values[~np.isnan(values)]
        assert np.mean(exists <= low + 1e-12) >= 0.03, name
        assert np.mean(exists < low - 1e-12) <= 0.17, name
        assert 0.03 <= np.mean(exists > high + 1e-12) <= 0.17, name


def test_the_order_of_windows_does_not_matter():
    _, prediction = model(1, 200)
    prediction = predicted(prediction.logit.round(1)[:, None])  # ties between chromosomes
    chromosomes = np.repeat(FOUR, 50)
    order = np.random.default_rng(0).permutation(200)
    assert bands(prediction.take(order), chromosomes[order]) == bands(prediction, chromosomes)
    assert bands(prediction, chromosomes, seed=1) != bands(prediction, chromosomes)


def test_whole_chromosomes_are_drawn():
    # Predictions so sure that labels cannot vary: chr1 is all negative, chr2 all positive.
    prediction = predicted(np.repeat([-50.0, 50.0], 30)[:, None])
    apart = bands(prediction, np.repeat(["chr1", "chr2"], 30), simulations=200)
    assert apart["brier_uncertainty"] == (0.0, 0.25)  # one of them twice, or each once
    assert apart["auroc"] == (1.0, 1.0)  # of the data sets with both classes
    assert bands(prediction, ["chr1"] * 60)["brier_uncertainty"] == (0.25, 0.25)


def test_one_chromosome_is_no_chromosome():
    _, prediction = model(2, 100)
    none = bands(prediction)
    assert bands(prediction, ["chr9"] * 100) == none
    assert bands(prediction, [None] * 100) == none
    assert bands(prediction, np.full(100, np.nan)) == none


def test_a_metric_that_never_exists_has_no_band():
    found = bands(predicted(np.full((50, 1), -60.0)))
    for name in ("auroc", "auprc", "cox_slope", "cox_intercept"):
        assert np.isnan(found[name]).all(), name
    assert found["brier"] == pytest.approx((0, 0), abs=1e-20)


def test_chromosomes_are_numbered_by_name_and_the_nameless_last():
    numbers, count = chromosome_numbers(["chr2", None, "chr1", float("nan"), "chr2"], 5)
    assert (numbers.tolist(), count) == ([1, 2, 0, 2, 1], 3)
    numbers, count = chromosome_numbers(None, 3)
    assert (numbers.tolist(), count) == ([0, 0, 0], 1)
    assert chromosome_numbers([], 0)[1] == chromosome_numbers(None, 0)[1] == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bands(model(0, 5)[1], simulations=0), "0 simulations: a null band takes"),
        (lambda: bands(model(0, 5)[1], ["chr1"] * 4), "4 chromosomes for 5 windows"),
        (lambda: bands(predicted(np.empty((0, 1)))), "no window to draw labels for"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
