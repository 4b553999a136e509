"""Calibration maps and their fits, against scikit-learn, by hand, and on a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from deepmr.calibration.affine import fit_affine
from deepmr.calibration.fitting import SMALLEST_SLOPE, fit, fit_targets
from deepmr.calibration.maps import (
    NAMES,
    Affine,
    Beta,
    Centred,
    Identity,
    NotStrictlyIncreasingError,
    Steps,
    beta_features,
    calibrated_draws,
    for_effects,
    zero_effects,
)
from deepmr.calibration.predicted import predicted

LOGITS = arrays(np.float64, 20, elements=st.floats(-30, 30, allow_subnormal=False))
SLOPES = st.floats(0.1, 5)
INTERCEPTS = st.floats(-5, 5)


@st.composite
def strictly_increasing_maps(draw):
    ascending = st.lists(st.integers(-60, 60), min_size=3, max_size=3, unique=True).map(sorted)
    return draw(
        st.one_of(
            st.just(Identity()),
            st.builds(Affine, SLOPES, INTERCEPTS),
            st.builds(Beta, SLOPES, SLOPES, INTERCEPTS),
            st.builds(Centred, ascending, ascending),
        )
    )


def simulated(n, shift=0.0, seed=0, draws=10):
    """Windows of which few are bound: true logits, labels, and distorted logit draws."""
    rng = np.random.default_rng(seed)
    bound = rng.random(n) < 0.08
    truth = np.where(bound, rng.normal(2.5, 1.5, n), rng.normal(-2.5, 1.2, n)) + shift
    labels = (rng.random(n) < expit(truth)).astype(float)
    own = np.linspace(-0.4, 0.4, draws)  # a draw is one function, the same for all windows
    noise = rng.normal(0, 0.5, (n, draws))
    return truth, labels, 1.6 * truth[:, None] + 1.2 + own + noise


def expected_nll(truth, draws):
    """NLL over all labels that the true probabilities may give."""
    p = predicted(draws)
    return -np.mean(expit(truth) * p.log_p + expit(-truth) * p.log_q)


def ece(labels, probabilities):
    bins = np.array_split(np.argsort(probabilities), 10)
    return sum(abs((labels - probabilities)[b].sum()) for b in bins) / labels.size


# Fits -------------------------------------------------------------------------------------------


def test_platt_of_single_logits_is_logistic_regression():
    rng = np.random.default_rng(1)
    x = rng.normal(-4, 2, 3000)
    y = (rng.random(3000) < expit(0.6 * x - 0.5)).astype(float)
    found = fit_affine(y, x[:, None])
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(x[:, None], y)
    assert found.a == pytest.approx(model.coef_[0, 0], abs=1e-6)
    assert found.b == pytest.approx(model.intercept_[0], abs=1e-6)
    p = expit(found.a * x + found.b)
    design = np.column_stack([x, np.ones_like(x)])
    information = design.T @ (design * (p * (1 - p))[:, None])
    np.testing.assert_allclose(found.covariance, np.linalg.inv(information), rtol=1e-6)
    assert found.nll == pytest.approx(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))


def test_the_slope_of_reversed_predictions_is_negative():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 2, 2000)
    y = (rng.random(2000) < expit(-0.5 * x)).astype(float)
    assert fit_affine(y, x[:, None]).a == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize("fixed", [{}, {"intercept": 0.0}, {"slope": 0.7}, {"intercept": 0.4}])
def test_the_pooled_likelihood_is_at_its_maximum(fixed):
    _, y, draws = simulated(1500, seed=3, draws=4)
    found = fit_affine(y, draws, **fixed)

    def nll(a, b):
        p = expit(a * draws + b).mean(axis=1)
        return -np.mean(np.where(y == 1, np.log(p), np.log1p(-p)))

    best = minimize(
        lambda v: nll(fixed.get("slope", v[0]), fixed.get("intercept", v[1])),
        [1.0, 0.0],
        method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000},
    )
    assert found.nll == pytest.approx(best.fun, abs=1e-11)
    assert found.nll == pytest.approx(nll(found.a, found.b), abs=1e-12)
    for name, index in (("slope", 0), ("intercept", 1)):
        value = (found.a, found.b)[index]
        if name in fixed:
            assert value == fixed[name]
            assert not found.covariance[index].any()
            assert not found.covariance[:, index].any()
        else:
            assert value == pytest.approx(best.x[index], abs=1e-5)
            assert found.covariance[index, index] > 0


def test_a_prior_pulls_from_the_data_to_its_mean():
    _, y, draws = simulated(800, seed=4, draws=3)
    own = fit_affine(y, draws)
    mean = np.array([np.log(1.5), 1.0])
    weak = fit_affine(y, draws, prior=(mean, np.eye(2) * 1e8))
    strong = fit_affine(y, draws, prior=(mean, np.eye(2) * 1e-8))
    assert (weak.a, weak.b) == (pytest.approx(own.a, 1e-5), pytest.approx(own.b, abs=1e-5))
    np.testing.assert_allclose(weak.covariance, own.covariance, rtol=1e-4)
    assert (strong.a, strong.b) == (pytest.approx(1.5, 1e-5), pytest.approx(1.0, 1e-5))
    between = fit_affine(y, draws, prior=(mean, np.diag([0.1, 0.2])))

    def loss(v):
        p = expit(np.exp(v[0]) * draws + v[1]).mean(axis=1)
        deviation = (v - mean) ** 2 / np.array([0.1, 0.2])
        return -np.sum(np.where(y == 1, np.log(p), np.log1p(-p))) + deviation.sum() / 2

    best = minimize(loss, mean, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11})
    np.testing.assert_allclose([np.log(between.a), between.b], best.x, atol=1e-5)


def test_a_prior_keeps_the_slope_of_reversed_predictions_positive():
    x = np.linspace(-3, 3, 200)
    found = fit_affine(x < 0, x[:, None], prior=(np.zeros(2), np.diag([0.25, 1.0])))
    assert 0 < found.a < 0.2


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_separable_labels_give_finite_numbers(labels, scale):
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]]) * scale
    found = fit_affine(labels, x)
    assert np.isfinite([found.a * scale, found.b, found.nll]).all()
    assert abs(found.a) * scale < 100
    assert 0 <= found.nll < 1e-10


def test_equal_logits_cannot_tell_slope_from_intercept():
    found = fit_affine([0, 0, 1, 0], np.ones((4, 3)))
    assert found.a + found.b == pytest.approx(logit(0.25))
    assert np.isinf(np.diag(found.covariance)).all()


def test_beta_of_single_logits_is_logistic_regression_on_both_log_probabilities():
    rng = np.random.default_rng(5)
    x = rng.normal(0, 2, 4000)
    truth = Beta(0.5, 1.4, -0.3)
    y = (rng.random(4000) < expit(truth(x))).astype(float)
    found = fit("beta", y, x[:, None])
    features = np.column_stack(beta_features(x))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000).fit(features, y)
    assert (model.coef_ > 0).all()
    expected = [*model.coef_[0], model.intercept_[0]]
    np.testing.assert_allclose([found.a, found.b, found.c], expected, atol=1e-5)


@pytest.mark.parametrize(("wrong", "zero"), [((-0.4, 1.0), "a"), ((1.0, -0.4), "b")])
def test_beta_drops_the_coefficient_that_would_be_negative(wrong, zero):
    rng = np.random.default_rng(6)
    x = rng.normal(0, 2, 4000)
    log_p, minus_log_q = beta_features(x)
    y = (rng.random(4000) < expit(wrong[0] * log_p + wrong[1] * minus_log_q)).astype(float)
    found = fit("beta", y, x[:, None])
    assert getattr(found, zero) == 0
    kept = minus_log_q if zero == "a" else log_p
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000).fit(kept[:, None], y)
    assert found.a + found.b == pytest.approx(model.coef_[0, 0], abs=1e-5)
    assert found.c == pytest.approx(model.intercept_[0], abs=1e-5)


@pytest.mark.parametrize("name", ["temperature", "platt", "beta"])
def test_a_map_increases_even_where_the_predictions_are_reversed(name):
    rng = np.random.default_rng(7)
    x = rng.normal(0, 2, 2000)
    y = (rng.random(2000) < expit(-1 - x)).astype(float)
    found = fit(name, y, x[:, None])
    assert found.strictly_increasing
    low, high = found(np.array([-1.0, 1.0]))
    assert high - low == pytest.approx(2 * SMALLEST_SLOPE)
    if name != "temperature":
        assert expit(found(x)).mean() == pytest.approx(y.mean(), abs=1e-3)


def test_isotonic_is_scikit_learns_inside():
    _, y, draws = simulated(3000, seed=8)
    found = fit("isotonic", y, draws)
    x = predicted(draws).logit
    model = IsotonicRegression(out_of_bounds="clip").fit(x, y)
    grid = np.linspace(x.min() - 1, x.max() + 1, 5000)
    first, last = np.flatnonzero((model.y_thresholds_ > 0) & (model.y_thresholds_ < 1))[[0, -1]]
    inside = (grid > model.X_thresholds_[first]) & (grid < model.X_thresholds_[last])
    assert inside.sum() > 1000
    np.testing.assert_allclose(
        expit(found(grid[inside])), model.predict(grid[inside]), rtol=0, atol=1e-12
    )
    assert np.isfinite(found(grid)).all()


def test_isotonic_pulls_certainty_in_by_half_a_window():
    x = np.arange(8.0)
    found = fit("isotonic", [0, 0, 0, 1, 0, 1, 1, 1], x[:, None])
    np.testing.assert_allclose(
        expit(found(x)), [1 / 6, 1 / 6, 1 / 6, 0.5, 0.5, 5 / 6, 5 / 6, 5 / 6]
    )
    np.testing.assert_allclose(expit(fit("isotonic", [0, 1], [[0.0], [1.0]])(x)), 0.5)
    # One window would be pulled in beyond its neighbour of frequency 1/4.
    near = fit("isotonic", [0, 1, 0, 0, 0, 1, 1], np.arange(7.0)[:, None])
    np.testing.assert_allclose(expit(near(0.0)), 0.25)


def test_centred_isotonic_by_hand():
    x = np.array([0.0, 1, 2, 3, 4, 6, 7, 8, 9])
    found = fit("centred_isotonic", [0, 0, 0, 1, 0, 1, 0, 1, 1], x[:, None])
    np.testing.assert_allclose(found.knots, [1, 5, 8.5])
    np.testing.assert_allclose(expit(found.values), [1 / 6, 0.5, 0.75])
    assert found(3.0) == pytest.approx((logit(1 / 6) + 0.0) / 2)
    assert found(-4.0) == pytest.approx(logit(1 / 6) - 5)
    assert found(10.5) == pytest.approx(logit(0.75) + 2)
    # 1/2 of one window lies above 1/4 of four: they become one step of 1/5.
    merged = fit("centred_isotonic", [0, 1, 0, 0, 0, 1, 1], np.arange(7.0)[:, None])
    np.testing.assert_allclose(merged.knots, [2, 5.5])
    np.testing.assert_allclose(expit(merged.values), [0.2, 0.75])


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_depends_neither_on_the_order_of_windows_nor_of_draws(name):
    _, y, draws = simulated(600, seed=9, draws=3)
    order = np.random.default_rng(0).permutation(600)
    grid = np.linspace(-10, 10, 300)
    expected = fit(name, y, draws)(grid)
    np.testing.assert_allclose(fit(name, y[order], draws[order])(grid), expected, atol=1e-7)
    np.testing.assert_allclose(fit(name, y, draws[:, ::-1])(grid), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("labels", "draws", "message"),
    [
        ([0, 1], np.zeros((3, 1)), "shape"),
        ([0, 1], np.zeros(2), "shape"),
        ([0, 2], np.zeros((2, 1)), "0 or 1; found 2"),
        ([0, np.nan], np.zeros((2, 1)), "0 or 1; found nan"),
        ([0, 1], [[0.0], [np.inf]], "not finite"),
        ([], np.zeros((0, 2)), "no window"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_input_of_a_fit_is_named(name, labels, draws, message):
    with pytest.raises(ValueError, match=message):
        fit(name, labels, draws)


def test_an_unknown_calibrator_is_named():
    with pytest.raises(ValueError, match="'scaling' is unknown; write one of temperature, platt"):
        fit("scaling", [0, 1], [[0.0], [1.0]])


# Maps -------------------------------------------------------------------------------------------


@given(strictly_increasing_maps(), LOGITS)
def test_strictly_increasing_maps_keep_the_order(calibrator, logits):
    assert for_effects(calibrator) is calibrator
    ascending = np.unique(np.round(logits, 3))
    assert (np.diff(calibrator(ascending)) > 0).all()


@given(st.builds(Affine, SLOPES, INTERCEPTS), st.floats(-8, 8), st.floats(0.1, 3))
def test_an_affine_map_keeps_ratios_of_effects(calibrator, reference, delta):
    effect = calibrator(reference + delta) - calibrator(reference)
    double = calibrator(reference + 2 * delta) - calibrator(reference)
    assert double / effect == pytest.approx(2, rel=1e-9)
    assert effect == pytest.approx(calibrator.a * delta, rel=1e-9)


@given(arrays(np.float64, (3, 4), elements=st.floats(-1e4, 1e4)))
def test_beta_of_one_one_zero_is_the_identity(logits):
    np.testing.assert_allclose(Beta(1.0, 1.0, 0.0)(logits), logits, rtol=1e-15, atol=1e-15)


def test_beta_follows_its_formula():
    p = np.array([0.01, 0.3, 0.5, 0.97])
    expected = 0.6 * np.log(p) - 1.7 * np.log(1 - p) + 0.2
    np.testing.assert_allclose(Beta(0.6, 1.7, 0.2)(logit(p)), expected)


@settings(max_examples=50)
@given(
    arrays(np.int64, 30, elements=st.integers(-20, 20)),
    arrays(np.int64, 30, elements=st.integers(0, 1)),
)
def test_isotonic_maps_of_any_windows(x, y):
    draws = x[:, None] / 4.0
    steps, centred = fit("isotonic", y, draws), fit("centred_isotonic", y, draws)
    grid = np.linspace(-6, 6, 500)
    assert (np.diff(steps(grid)) >= -1e-12).all()
    assert (np.diff(centred(grid)) > 0).all()
    assert np.isfinite(steps(grid)).all()
    # The frequency over all windows stays, unless certainty was pulled in.
    if steps.values.min() > logit(0.49 / 30) and not {0.0, 1.0} & set(
        IsotonicRegression().fit_transform(draws[:, 0], y.astype(float))
    ):
        assert expit(steps(draws[:, 0])).mean() == pytest.approx(y.mean())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Affine(0.0, 1.0),
        lambda: Affine(1.0, np.nan),
        lambda: Beta(-0.1, 1.0, 0.0),
        lambda: Beta(0.0, 0.0, 1.0),
        lambda: Steps([0.0, 0.0], [1.0, 2.0]),
        lambda: Steps([0.0, 1.0], [2.0, 1.0]),
        lambda: Centred([0.0, 1.0], [1.0, 1.0]),
        lambda: Centred([], []),
        lambda: Centred([0.0, 1.0], [1.0, np.inf]),
    ],
)
def test_what_does_not_increase_is_no_map(make):
    with pytest.raises(ValueError, match="must"):
        make()


def test_names_of_maps():
    maps = (Affine(2.0), Affine(1.0, 0.5), Beta(1, 1, 0), Steps([0], [0]), Centred([0], [0]))
    assert tuple(m.name for m in maps) == NAMES
    assert Identity().name == "none"


def test_calibrated_draws_go_through_the_map_one_by_one_but_steps_take_the_pooled_logit():
    _, _, draws = simulated(50, draws=4)
    np.testing.assert_array_equal(calibrated_draws(Affine(0.5, 1.0), draws), 0.5 * draws + 1)
    steps = Steps([-3.0, 0.0, 1.0], [-2.0, -2.0, 1.5])
    pooled = logit(expit(draws).mean(axis=1))
    found = calibrated_draws(steps, draws)
    assert found.shape == (50, 1)
    np.testing.assert_allclose(found[:, 0], steps(pooled), atol=1e-9)


def test_steps_are_refused_for_effects():
    steps = Steps([0.0, 1.0], [-1.0, 1.0])
    with pytest.raises(
        NotStrictlyIncreasingError, match=r"isotonic.*\(58 % of.*centred_isotonic.*platt"
    ):
        for_effects(steps, 0.58)
    with pytest.raises(NotStrictlyIncreasingError, match="exactly 0; for"):
        for_effects(steps)


def test_zero_effects_are_counted_among_mutations_that_do_something():
    steps = Steps([0.0, 1.0, 2.0], [-1.0, -1.0, 1.0])
    reference = np.array([0.1, 1.5])
    delta = np.array([[0.5, 0.0, -5.0, 1.0], [0.5, 0.1, np.nan, 0.0]])
    assert zero_effects(steps, reference, delta) == pytest.approx(2 / 5)
    assert zero_effects(Affine(1.0, 2.0), reference, delta) == 0
    assert np.isnan(zero_effects(steps, reference, np.zeros((2, 3))))
    with pytest.raises(ValueError, match="must begin with the axes"):
        zero_effects(steps, reference, np.ones((3, 2)))


# Known truth ------------------------------------------------------------------------------------

SHIFT = {0.039: -3.06, 0.002: -7.21}


@pytest.mark.parametrize(("rate", "n"), [(0.039, 20_000), (0.002, 60_000)])
def test_platt_reaches_the_oracle(rate, n):
    _, labels, draws = simulated(n, SHIFT[rate], seed=11, draws=5)
    assert labels.mean() == pytest.approx(rate, rel=0.15)
    unseen, _, test_draws = simulated(30_000, SHIFT[rate], seed=12, draws=5)
    oracle = expected_nll(unseen, unseen[:, None])
    platt = expected_nll(unseen, fit("platt", labels, draws)(test_draws))
    assert platt < 1.01 * oracle
    assert expected_nll(unseen, test_draws) > 1.06 * oracle


def test_temperature_cannot_move_the_base_rate():
    rng = np.random.default_rng(13)
    truth, labels, _ = simulated(20_000, SHIFT[0.039], seed=13)
    draws = 1.6 * truth[:, None] + 3 + rng.normal(0, 0.5, (truth.size, 5))
    errors = {
        name: ece(labels, predicted(calibrator(draws)).p)
        for name, calibrator in {
            "none": Identity(),
            "temperature": fit("temperature", labels, draws),
            "platt": fit("platt", labels, draws),
        }.items()
    }
    assert errors["temperature"] > errors["none"] > 10 * errors["platt"]


def test_isotonic_makes_most_effects_zero_and_centred_isotonic_none():
    _, labels, draws = simulated(20_000, SHIFT[0.039], seed=14)
    rng = np.random.default_rng(15)
    reference = draws[:200].mean(axis=1)
    delta = (0.05 * rng.standard_t(2, (200, 150))).astype(np.float16)
    assert zero_effects(fit("isotonic", labels, draws), reference, delta) > 0.5
    for name in set(NAMES) - {"isotonic"}:
        assert zero_effects(fit(name, labels, draws), reference, delta) == 0


def test_pooled_fits_of_targets_are_the_fits_of_one_target():
    _, first, draws = simulated(2000, seed=16, draws=3)
    _, second, more = simulated(2000, seed=17, draws=3)
    first[:100] = np.nan
    labels, both = np.stack([first, second], axis=1), np.stack([draws, more], axis=2)
    grid = np.linspace(-8, 8, 50)
    for name in NAMES:
        fitted = fit_targets(name, labels, both, ["A", "B"], ["binary"] * 2, shrink_below=0)
        for one, y, x in zip(fitted, (first, second), (draws, more), strict=True):
            kept = ~np.isnan(y)
            assert (one.status, one.name, one.shrinkage) == ("ok", name, 0.0)
            assert (one.n, one.n_positive) == (kept.sum(), np.nansum(y))
            np.testing.assert_array_equal(one.calibrator(grid), fit(name, y[kept], x[kept])(grid))
