"""Every metric against another program, a closed form, or what must not change it."""

import numpy as np
import pytest
from calibration.utils import bin as put_in_bins
from calibration.utils import difference_mean, get_equal_bins, unbiased_square_ce
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

from deepmr import schemas
from deepmr.calibration.affine import fit_affine
from deepmr.calibration.metrics import metrics
from deepmr.calibration.predicted import predicted


def judged(labels, logits, bins=10):
    return metrics(labels, predicted(np.asarray(logits, dtype=float)[:, None]), bins)


def simulated(seed, n=3000, slope=0.7, intercept=-0.5, digits=None):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2.5, 1.6, n)
    if digits is not None:
        logits = logits.round(digits)
    return (rng.random(n) < expit(slope * logits + intercept)).astype(float), logits


few = st.lists(st.tuples(st.booleans(), st.floats(-30, 30)), min_size=1, max_size=60)
coarse = st.lists(st.tuples(st.booleans(), st.integers(-4, 4).map(float)), min_size=1, max_size=60)


def arrays(rows):
    return np.array([float(y) for y, _ in rows]), np.array([x for _, x in rows])


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_agreement_with_scikit_learn(seed, digits):
    labels, logits = simulated(seed, digits=digits)
    p, got = expit(logits), judged(labels, logits)
    assert list(got) == list(schemas.METRICS)
    assert all(type(value) is float for value in got.values())
    assert got["auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert got["auprc"] == pytest.approx(average_precision_score(labels, logits), abs=1e-12)
    assert got["nll"] == pytest.approx(log_loss(labels, p), abs=1e-10)
    assert got["brier"] == pytest.approx(brier_score_loss(labels, p), abs=1e-12)
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    regression.fit(logits[:, None], labels)
    assert got["cox_slope"] == pytest.approx(regression.coef_[0, 0], abs=1e-6)
    assert got["cox_intercept"] == pytest.approx(regression.intercept_[0], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(coarse)
def test_agreement_with_scikit_learn_on_few_windows_with_many_ties(rows):
    labels, logits = arrays(rows)
    got = judged(labels, logits)
    if labels.min() == labels.max():
        assert np.isnan([got["auroc"], got["auprc"], got["cox_slope"], got["cox_intercept"]]).all()
        return
    assert got["auroc"] == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert got["auprc"] == pytest.approx(average_precision_score(labels, logits), abs=1e-12)
    ones, zeros = logits[labels == 1], logits[labels == 0]
    separated = ones.min() >= zeros.max() or zeros.min() >= ones.max()
    assert np.isnan(got["cox_slope"]) == np.isnan(got["cox_intercept"]) == separated


@pytest.mark.parametrize("seed", range(3))
def test_cox_regression_is_the_affine_fit_of_the_calibrators(seed):
    labels, logits = simulated(seed, 1000, digits=1)
    fit, got = fit_affine(labels, logits[:, None]), judged(labels, logits)
    assert (got["cox_slope"], got["cox_intercept"]) == pytest.approx((fit.a, fit.b), abs=1e-6)


def test_cox_regression_finds_what_the_predictions_need():
    labels, logits = simulated(1, 60_000)
    got = judged(labels, logits)
    assert got["cox_slope"] == pytest.approx(0.7, abs=0.03)
    assert got["cox_intercept"] == pytest.approx(-0.5, abs=0.06)


def test_cox_regression_survives_saturated_predictions():
    logits = np.array([900.0, 850.0, -800.0, 300.0, -2.0, 1.0])
    got = judged(np.array([1.0, 0, 0, 1, 1, 0]), logits)
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12)
    regression.fit(logits[:, None] / 100, [1, 0, 0, 1, 1, 0])
    assert got["cox_slope"] * 100 == pytest.approx(regression.coef_[0, 0], rel=1e-4)
    assert got["cox_intercept"] == pytest.approx(regression.intercept_[0], rel=1e-4)


def test_corp_decomposition_of_model_diagnostics():
    # model-diagnostics 1.5.0: decompose(y, p, scoring_function=SquaredError())
    rng = np.random.default_rng(7)
    p = np.clip(np.round(rng.random(500) ** 3, 2), 0.01, 0.99)
    labels = (rng.random(500) < p**0.7).astype(float)
    got = judged(labels, logit(p))
    assert got["brier_miscalibration"] == pytest.approx(0.009827822598882624, abs=1e-12)
    assert got["brier_discrimination"] == pytest.approx(0.08438382259888261, abs=1e-12)
    assert got["brier_uncertainty"] == pytest.approx(0.218316, abs=1e-12)
    assert got["brier"] == pytest.approx(0.14376, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_binned_errors_of_uncertainty_calibration(seed):
    labels, logits = simulated(seed, 2000)  # 10 bins of 200 distinct predictions in both
    data = list(zip(expit(logits), labels, strict=True))
    bins = put_in_bins(data, get_equal_bins([p for p, _ in data], 10))
    assert [len(b) for b in bins] == [200] * 10
    got = judged(labels, logits, 10)
    assert got["ece_debiased"] == pytest.approx(np.sqrt(unbiased_square_ce(bins)), abs=1e-9)
    assert got["ece"] == pytest.approx(np.mean([abs(difference_mean(b)) for b in bins]), abs=1e-9)


def test_four_windows_by_hand():
    logits = logit(np.array([0.1, 0.3, 0.6, 0.8]))
    got = judged([0, 1, 1, 1], logits, 2)
    assert got["ece"] == pytest.approx((abs(0.5 - 0.2) + abs(1 - 0.7)) / 2)
    # bins (0, 1) and (1, 1): .3^2 - .25/1 and .3^2 - 0
    assert got["ece_debiased"] == pytest.approx(np.sqrt(max(0, (0.09 - 0.25 + 0.09) / 2)))
    assert got["ks"] == pytest.approx(max(0.1, 0.6, 1.0, 1.2) / 4)
    assert got["o_over_e"] == pytest.approx(3 / 1.8)
    assert got["auroc"] == got["auprc"] == 1.0
    # every bin has one window: nothing tells its error from the scatter of a label
    assert judged([0, 1, 1, 1], logits, 4)["ece_debiased"] == 0.0
    assert judged([0, 1, 1, 1], logits, 4)["ece"] == pytest.approx((0.1 + 0.7 + 0.4 + 0.2) / 4)


def test_debiased_error_is_right_where_the_plain_one_is_not():
    # every prediction is off by the same .1: so is the true root mean squared error
    rng = np.random.default_rng(3)
    p = np.sort(rng.uniform(0.1, 0.3, 1000))
    debiased, plain = [], []
    for _ in range(200):
        labels = (rng.random(1000) < p + 0.1).astype(float)
        debiased.append(judged(labels, logit(p), 20)["ece_debiased"] ** 2)
        plain.append(((labels - p).reshape(20, 50).mean(axis=1) ** 2).mean())
    assert np.sqrt(np.mean(debiased)) == pytest.approx(0.1, abs=0.004)
    assert np.sqrt(np.mean(plain)) > 0.115


def test_predictions_of_one_half():
    labels = np.array([1.0, 0, 0, 1, 0, 0, 0, 0])
    got = judged(labels, np.zeros(8))
    assert got["nll"] == pytest.approx(np.log(2), abs=1e-15)
    assert (got["brier"], got["brier_uncertainty"]) == (0.25, 0.25 * 0.75)
    assert got["brier_miscalibration"] == pytest.approx(0.0625, abs=1e-15)
    assert got["brier_discrimination"] == pytest.approx(0.0, abs=1e-15)
    assert (got["ece"], got["ks"], got["o_over_e"]) == (0.25, 0.25, 0.5)
    assert (got["auroc"], got["auprc"]) == (0.5, 0.25)
    assert np.isnan(got["cox_slope"])


@settings(max_examples=40, deadline=None)
@given(few, st.integers(1, 12), st.randoms(use_true_random=False))
def test_order_of_rows_and_bounds(rows, bins, random):
    labels, logits = arrays(rows)
    got = judged(labels, logits, bins)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert judged(*arrays(shuffled), bins) == pytest.approx(got, abs=0, rel=0, nan_ok=True)
    parts = ("brier_miscalibration", "brier_discrimination", "brier_uncertainty")
    miscalibration, discrimination, uncertainty = (got[name] for name in parts)
    assert got["brier"] == pytest.approx(miscalibration - discrimination + uncertainty, abs=1e-12)
    assert min(miscalibration, discrimination) >= -1e-12
    assert 0 <= got["ks"] <= judged(labels, logits, 10_000)["ece"] + 1e-12
    # what the whole sample is off by is a lower bound of both
    overall = abs(labels.mean() - expit(logits).mean())
    assert got["ece"] >= overall - 1e-12
    assert got["ks"] >= overall - 1e-12


@settings(max_examples=40, deadline=None)
@given(coarse, st.integers(1, 9))
def test_windows_of_equal_prediction_share_a_bin(rows, bins):
    labels, logits = arrays(rows)
    got = judged(labels, logits, bins)
    n = len(labels)
    # As many copies of every window change no share, so the bins are the same.
    twice = judged(np.tile(labels, 2), np.tile(logits, 2), bins)
    for name in ("ece", "ks", "brier", "nll", "brier_miscalibration", "o_over_e"):
        assert twice[name] == pytest.approx(got[name], abs=1e-12), name
    excess = {x: (labels - expit(logits))[logits == x].sum() for x in set(logits)}
    running = np.cumsum([excess[x] for x in sorted(excess)])
    assert got["ks"] == pytest.approx(np.abs(running).max() / n, abs=1e-12)
    finest = judged(labels, logits, 10_000)
    assert finest["ece"] == pytest.approx(sum(abs(e) for e in excess.values()) / n, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(coarse)
def test_increasing_maps_keep_what_depends_on_the_order_alone(rows):
    labels, logits = arrays(rows)
    before = judged(labels, logits)
    ranks = np.unique(logits, return_inverse=True)[1]
    after = judged(labels, -3 + 0.05 * ranks)
    for name in ("auroc", "auprc", "brier_discrimination", "brier_uncertainty"):
        assert after[name] == pytest.approx(before[name], abs=1e-9, nan_ok=True), name


def test_two_predictions_that_are_right_have_no_miscalibration():
    labels = np.array([1.0] + [0.0] * 9 + [1.0] * 3 + [0.0])
    got = judged(labels, logit(np.array([0.1] * 10 + [0.75] * 4)))
    zero = ("brier_miscalibration", "ece", "ece_debiased", "ks", "cox_intercept")
    assert [got[name] for name in zero] == pytest.approx([0] * 5, abs=1e-7)
    assert (got["cox_slope"], got["o_over_e"]) == pytest.approx((1, 1), abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(coarse)
def test_the_classes_may_change_their_names(rows):
    labels, logits = arrays(rows)
    one, other = judged(labels, logits, 1), judged(1 - labels, -logits, 1)
    same = ("auroc", "nll", "brier", "ece", "ece_debiased", "cox_slope", "brier_discrimination")
    for name in same:
        assert one[name] == pytest.approx(other[name], rel=1e-5, abs=1e-7, nan_ok=True), name
    assert one["cox_intercept"] == pytest.approx(
        -other["cox_intercept"], rel=1e-5, abs=1e-6, nan_ok=True
    )


@pytest.mark.parametrize(
    ("labels", "logits", "bins", "message"),
    [
        ([], [], 3, "with one window at least"),
        ([0, 1], [0.0], 3, "labels have the shape (2,) and predictions (1,)"),
        ([0, 0.5], [0.0, 1.0], 3, "labels must be 0 or 1 (or NaN, not measured); found 0.5"),
        ([0, 1], [0.0, 1.0], 0, "0 bins: there must be at least 1"),
    ],
)
def test_bad_input_is_named(labels, logits, bins, message):
    with pytest.raises(ValueError, match=r".") as error:
        judged(labels, logits, bins)
    assert message in str(error.value)
