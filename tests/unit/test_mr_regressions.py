import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from scipy.stats import t as student

from deepmr.mr.drawwise import refit, scatter_without_draw_noise
from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators import simex
from deepmr.mr.estimators.egger import EGGER
from deepmr.mr.estimators.ivw import IVW, IVW_DELTA, IVW_FIXED
from deepmr.mr.estimators.mm_regression import BREAKDOWN_TUNING, m_scale, mm_regression
from deepmr.mr.estimators.simex import EGGER_SIMEX
from deepmr.mr.estimators.weighting import median_ratio, penalised, second_order

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
CASES = [json.loads(path.read_text()) for path in REFERENCE]
NAMES = [case["case"] for case in CASES]
CORRELATED = [case for case in CASES if "correlated" in case["results"]]
REGRESSIONS = (IVW, IVW_FIXED, IVW_DELTA, EGGER)
SETTINGS = ({}, {"penalized": True}, {"robust": True}, {"penalized": True, "robust": True})
each_case = pytest.mark.parametrize("case", CASES, ids=NAMES)


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def group_of(case, **more):
    names = ("bx", "bxse", "by", "byse")
    return Group(*(np.array([case["inputs"][name]], dtype=float) for name in names), **more)


def correlation_of(case):
    given_correlation = np.asarray(case["inputs"]["correlation"], dtype=float)
    n = case["n_instruments"]
    return np.where(np.eye(n) > 0, 1.0, given_correlation)[None]


def simulated(n_sequences=3, n=25, seed=0, noise=0.2, n_draws=None):
    """Effects with an intercept, a few invalid instruments, and both signs of bx."""
    rng = np.random.default_rng(seed)
    true_x = rng.choice([-1.0, 1.0], size=(n_sequences, n)) * rng.uniform(0.5, 2, (n_sequences, n))
    se_x = noise * rng.uniform(0.3, 0.6, size=true_x.shape)
    se_y = rng.uniform(0.1, 0.2, size=true_x.shape)
    invalid = 1.5 * (rng.random(true_x.shape) < 0.15)
    bx = true_x + se_x * rng.normal(size=true_x.shape)
    by = np.sign(true_x) * (0.1 + invalid) + 0.5 * true_x + se_y * rng.normal(size=true_x.shape)
    if n_draws is None:
        return Group(bx, se_x, by, se_y)
    shape = (n_sequences, n_draws, n)
    shared = rng.normal(size=shape)
    draws_x = bx[:, None] + se_x[:, None] * shared
    draws_y = by[:, None] + se_y[:, None] * (0.6 * shared + 0.8 * rng.normal(size=shape))
    return Group(draws_x.mean(axis=1), se_x, draws_y.mean(axis=1), se_y, draws_x, draws_y)


def some_correlation(n, seed=0, n_sequences=1):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(n_sequences, n, 3))
    covariance = factor @ factor.transpose(0, 2, 1) + 2.0 * np.eye(n)
    size = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return covariance / (size[:, :, None] * size[:, None, :])


def numbers(fit):
    names = ("estimate", "se", "se_unfloored", "se_model", "q", "q_p", "intercept", "intercept_se")
    return {name: getattr(fit, name) for name in names if getattr(fit, name) is not None}


# --- R ------------------------------------------------------------------------------------------


@each_case
@pytest.mark.parametrize(
    ("key", "estimator", "options"),
    [
        ("ivw_random", IVW, {}),
        ("ivw_random_t", IVW, {"distribution": "t"}),
        ("ivw_fixed", IVW_FIXED, {}),
        ("ivw_penalized", IVW, {"penalized": True}),
        ("ivw_delta_random", IVW_DELTA, {}),
        ("ivw_delta_psi0.3_random", IVW_DELTA, {}),
    ],
)
def test_ivw_agrees_with_r(case, key, estimator, options):
    group, r = group_of(case), case["results"][key]
    if "psi" in key:
        group = replace(group, rho_xy=np.full_like(group.bx, 0.3))
    fit = estimator.fit(group, Options(**options))
    assert fit.status[0] == "ok"
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0]], [r["Estimate"], r["StdError"]], rtol=1e-9
    )
    if estimator is IVW_FIXED:
        np.testing.assert_array_equal(fit.se, fit.se_model)
    else:
        scale = fit.se_unfloored / fit.se_model
        np.testing.assert_allclose(scale, r["RSE"], rtol=1e-9)
    if not options.get("penalized"):
        np.testing.assert_allclose([fit.q[0], fit.q_p[0]], r["Heter.Stat"], rtol=1e-9, atol=1e-300)
        assert fit.q_df == case["n_instruments"] - 1
    if key == "ivw_delta_random":
        fixed = case["results"]["ivw_delta_fixed"]["StdError"]
        np.testing.assert_allclose(fit.se_model, fixed, rtol=1e-9)
    if key == "ivw_random_t":
        half = student.ppf(0.975, fit.df) * fit.se[0]
        np.testing.assert_allclose(fit.estimate[0] - half, r["CILower"], rtol=1e-9)


@each_case
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("egger", {}),
        ("egger_t", {"distribution": "t"}),
        ("egger_penalized", {"penalized": True}),
    ],
)
def test_egger_agrees_with_r(case, key, options):
    fit, r = EGGER.fit(group_of(case), Options(**options)), case["results"][key]
    assert_egger(fit, r, 1e-9)
    np.testing.assert_allclose(fit.se_unfloored / fit.se_model, r["RSE"], rtol=1e-9)
    if key != "egger_penalized":
        np.testing.assert_allclose([fit.q[0], fit.q_p[0]], r["Heter.Stat"], rtol=1e-9, atol=1e-300)
    if key == "egger_t":
        assert_egger_t(fit, r)


def assert_egger(fit, r, rtol):
    assert fit.status[0] == "ok"
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0], fit.intercept[0], fit.intercept_se[0]],
        [r[name] for name in ("Estimate", "StdError.Est", "Intercept", "StdError.Int")],
        rtol=rtol,
    )
    # R's 1 - pnorm(z) is 0 beyond z = 8.3 and rough before.
    if r["Pvalue.Int"] > 1e-13:
        np.testing.assert_allclose(fit.intercept_p, r["Pvalue.Int"], rtol=1e-6)


def assert_egger_t(fit, r):
    np.testing.assert_allclose(
        [fit.ci_low[0], fit.ci_high[0]], [r["CILower.Est"], r["CIUpper.Est"]], rtol=1e-9
    )
    if r["Pvalue.Est"] > 1e-13:
        np.testing.assert_allclose(fit.p_value, r["Pvalue.Est"], rtol=1e-6)


@each_case
def test_robust_agrees_with_r(case):
    """R starts lmrob at random and stops at 1e-7; the largest difference seen is 2e-5."""
    group, options = group_of(case), Options(robust=True)
    r = case["results"]["ivw_robust_seed1"]
    fit = IVW.fit(group, options)
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0], fit.se_unfloored[0] / fit.se_model[0]],
        [r["Estimate"], r["StdError"], r["RSE"]],
        rtol=1e-4,
    )
    np.testing.assert_array_equal(IVW_FIXED.fit(group, options).se, fit.se_model)
    r = case["results"]["egger_robust_seed1"]
    fit = EGGER.fit(group, options)
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0], fit.intercept[0], fit.intercept_se[0], fit.q[0]],
        [
            *(r[name] for name in ("Estimate", "StdError.Est", "Intercept", "StdError.Int")),
            r["Heter.Stat"][0],
        ],
        rtol=1e-4,
    )


@pytest.mark.parametrize("case", CORRELATED, ids=[case["case"] for case in CORRELATED])
def test_correlated_instruments_agree_with_r(case):
    group = group_of(case, correlation=correlation_of(case))
    for key, estimator in (("ivw_random", IVW), ("ivw_fixed", IVW_FIXED)):
        fit, r = estimator.fit(group, Options()), case["results"]["correlated"][key]
        np.testing.assert_allclose(
            [fit.estimate[0], fit.se[0], fit.q[0], fit.q_p[0]],
            [r["Estimate"], r["StdError"], *r["Heter.Stat"]],
            rtol=1e-9,
        )
    r = case["results"]["correlated"]["egger"]
    fit = EGGER.fit(group, Options())
    assert_egger(fit, r, 1e-9)
    np.testing.assert_allclose([fit.q[0], fit.q_p[0]], r["Heter.Stat"], rtol=1e-9)
    fit = EGGER.fit(group, Options(distribution="t"))
    assert_egger_t(fit, case["results"]["correlated"]["egger_t"])


# --- Answers known without R ---------------------------------------------------------------------


def test_ivw_of_two_instruments_by_hand():
    # Weights 4 and 1: slope (4*1*1 + 1*2*4)/(4*1 + 1*4) = 1.5, residuals -.5 and 1, Q = 1 + 1.
    group = Group(*(np.array([row], float) for row in ([1, 2], [1, 1], [1, 4], [0.5, 1])))
    fit = IVW.fit(group, Options())
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0], fit.se_unfloored[0], fit.se_model[0], fit.q[0], fit.q_p[0]],
        [1.5, 0.5, 0.5, 8**-0.5, 2.0, chi2.sf(2, 1)],
    )


def test_second_order_weights_by_hand():
    group = Group(*(np.array([row], float) for row in ([2, 0, 0], [1, 1, 1], [3, 1, 0], [2, 1, 1])))
    expected = 1 / (4 + (3 / 2) ** 2 - 2 * 0.5 * (3 / 2) * 1 * 2)
    weights = second_order(replace(group, rho_xy=np.full((1, 3), 0.5)))
    np.testing.assert_allclose(weights, [[expected, 0.0, 0.0]])


def test_second_order_weights_take_the_error_correlation_from_the_draws():
    group = simulated(n_draws=30)
    given_rho = replace(group, draws_x=None, draws_y=None, rho_xy=group.error_correlation)
    with_draws, with_rho = (IVW_DELTA.fit(g, Options()) for g in (group, given_rho))
    without = IVW_DELTA.fit(replace(group, draws_x=None, draws_y=None), Options())
    np.testing.assert_array_equal(with_draws.estimate, with_rho.estimate)
    assert (with_draws.estimate != without.estimate).all()


def test_penalty_begins_where_the_p_value_falls_below_its_inverse():
    residual = np.array([[norm.isf(0.5 * p) for p in (0.5, 0.011, 0.009, 1e-6)]]) / 2.0
    weights = penalised(np.full((1, 4), 4.0), residual, 100.0)
    np.testing.assert_allclose(weights, 4.0 * np.array([[1, 1, 0.9, 1e-4]]))


def test_penalty_of_second_order_weights_begins_at_one_in_twenty():
    group = simulated()
    theta = median_ratio(group.bx, group.by)[:, None]
    weights = second_order(group)
    p_value = chi2.sf(weights * (group.by - theta * group.bx) ** 2, 1)
    assert ((p_value > 0.01) & (p_value < 0.05)).any()
    weights *= np.minimum(1.0, 20.0 * p_value)
    expected = (weights * group.bx * group.by).sum(axis=1) / (weights * group.bx**2).sum(axis=1)
    fit = IVW_DELTA.fit(group, Options(penalized=True))
    np.testing.assert_allclose(fit.estimate, expected)


def test_median_ratio_leaves_out_instruments_without_an_exposure_effect():
    bx = np.array([[1.0, 2.0, 0.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    by = np.array([[1.0, 4.0, 9.0, 12.0], [1.0, 0.0, 1.0, 1.0]])
    np.testing.assert_array_equal(median_ratio(bx, by), [2.0, np.nan])


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_a_perfect_line_is_found_and_has_the_se_of_the_errors(options):
    """With an intercept, on which IVW is not perfect, and through the origin."""
    group = simulated()
    bx, sign = group.bx, np.sign(group.bx)
    fit = EGGER.fit(replace(group, by=0.2 * sign + 0.5 * bx), Options(**options))
    np.testing.assert_allclose(fit.estimate, 0.5)
    np.testing.assert_allclose(fit.intercept, 0.2)
    weights = group.weights
    mean = (weights * abs(bx)).sum(axis=1) / weights.sum(axis=1)
    information = (weights * (abs(bx) - mean[:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(fit.se, information**-0.5)
    np.testing.assert_allclose(fit.se_unfloored, 0.0, atol=1e-10)
    np.testing.assert_allclose(
        fit.intercept_se, (1 / weights.sum(axis=1) + mean**2 / information) ** 0.5
    )
    for distribution in ("normal", "t"):
        chosen = Options(**options, distribution=distribution)
        fit = IVW.fit(replace(group, by=0.5 * bx), chosen)
        np.testing.assert_allclose(fit.estimate, 0.5)
        np.testing.assert_allclose(fit.se, (weights * bx**2).sum(axis=1) ** -0.5)


def test_students_interval_of_egger_is_the_wider_one_and_agrees_with_its_p():
    scales = []
    for seed in range(12):
        group = simulated(n_sequences=1, n=8, seed=seed)
        line = 0.1 * np.sign(group.bx) + 0.5 * group.bx
        group = replace(group, by=line + (0.1 + 0.1 * seed) * (group.by - line))
        fit = EGGER.fit(group, Options(distribution="t"))
        normal_half = norm.ppf(0.975) * fit.se[0]
        student_half = student.ppf(0.975, 6) * fit.se_unfloored[0]
        half = max(normal_half, student_half)
        scales.append(fit.se_unfloored[0] / fit.se_model[0])
        np.testing.assert_allclose(fit.ci_high[0] - fit.estimate[0], half)
        np.testing.assert_allclose(fit.estimate[0] - fit.ci_low[0], half)
        assert (fit.p_value[0] < 0.05) == (fit.ci_low[0] > 0 or fit.ci_high[0] < 0)
    assert min(scales) < 0.8
    assert max(scales) > 1.2


def test_generalised_least_squares_is_the_textbook_formula():
    """With second-order and penalised weights too, which R cannot combine with a correlation."""
    group = replace(simulated(n_sequences=2), correlation=some_correlation(25, n_sequences=2))
    for i in range(2):
        bx, by = group.bx[i], group.by[i]
        sd = 1 / np.sqrt(second_order(group)[i])
        inverse = np.linalg.inv(group.correlation[i] * np.outer(sd, sd))
        fit = IVW_DELTA.fit(group, Options())
        slope = bx @ inverse @ by / (bx @ inverse @ bx)
        residual = by - slope * bx
        np.testing.assert_allclose(fit.estimate[i], slope)
        np.testing.assert_allclose(fit.se_model[i], (bx @ inverse @ bx) ** -0.5)
        np.testing.assert_allclose(fit.q[i], residual @ inverse @ residual)

        fit = EGGER.fit(group, Options())
        x = np.stack([np.ones(25), abs(bx)], axis=1)
        sign = np.sign(bx)
        sd = group.se_y[i]
        inverse = np.linalg.inv(group.correlation[i] * np.outer(sign * sd, sign * sd))
        covariance = np.linalg.inv(x.T @ inverse @ x)
        np.testing.assert_allclose(
            [fit.intercept[i], fit.estimate[i]], covariance @ x.T @ inverse @ (sign * by)
        )
        np.testing.assert_allclose(fit.se_model[i], covariance[1, 1] ** 0.5)


# --- Invariances ---------------------------------------------------------------------------------


def changed(group, change):
    return Group(*(change(values) for values in (group.bx, group.se_x, group.by, group.se_y)))


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("estimator", [IVW, IVW_DELTA, EGGER], ids=lambda e: e.name)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), scale_x=st.floats(0.01, 100), scale_y=st.floats(0.01, 100))
def test_order_sign_and_scale(estimator, options, seed, scale_x, scale_y):
    group, chosen = simulated(seed=seed), Options(**options)
    rng = np.random.default_rng(seed)
    expected = numbers(estimator.fit(group, chosen))
    assert all(np.isfinite(values).all() for values in expected.values())

    order = rng.permutation(25)
    permuted = changed(group, lambda values: np.ascontiguousarray(values[:, order]))
    for name, values in numbers(estimator.fit(permuted, chosen)).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, err_msg=name)

    flip = rng.choice([-1.0, 1.0], size=group.bx.shape)
    flipped = replace(group, bx=flip * group.bx, by=flip * group.by)
    for name, values in numbers(estimator.fit(flipped, chosen)).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, err_msg=name)

    scaled = Group(
        scale_x * group.bx, scale_x * group.se_x, scale_y * group.by, scale_y * group.se_y
    )
    for name, values in numbers(estimator.fit(scaled, chosen)).items():
        factor = {"q": 1.0, "q_p": 1.0, "intercept": scale_y, "intercept_se": scale_y}
        np.testing.assert_allclose(
            values, expected[name] * factor.get(name, scale_y / scale_x), rtol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("estimator", [*REGRESSIONS, EGGER_SIMEX], ids=lambda e: e.name)
@pytest.mark.parametrize("n", [3, 25, 700])
def test_a_sequence_does_not_depend_on_its_neighbours(estimator, n, correlated):
    """700 instruments: more than one block of rows."""
    group = simulated(n_sequences=50 if n == 700 else 3, n=n, seed=n, n_draws=3)
    if correlated:
        group = replace(
            group, **{name: getattr(group, name)[:2] for name in ("bx", "se_x", "by", "se_y")}
        )
        group = replace(group, draws_x=group.draws_x[:2], draws_y=group.draws_y[:2])
        group = replace(group, correlation=some_correlation(n, n_sequences=2))
    for options in ({}, {"penalized": True}) if correlated or n == 700 else SETTINGS:
        chosen = Options(**options)
        together, draws = estimator.fit(group, chosen), estimator.fit_draws(group, chosen)
        for i in range(0, len(group.bx), 7 if n == 700 else 1):
            names = ("bx", "se_x", "by", "se_y", "draws_x", "draws_y", "correlation")
            alone = Group(
                **{
                    name: getattr(group, name)[i : i + 1].copy()
                    for name in names
                    if getattr(group, name) is not None
                }
            )
            for name, values in numbers(estimator.fit(alone, chosen)).items():
                np.testing.assert_array_equal(values[0], getattr(together, name)[i], name)
            single = estimator.fit_draws(alone, chosen)
            for name in ("estimates", "se", "se_within"):
                np.testing.assert_array_equal(getattr(single, name)[0], getattr(draws, name)[i])


# --- Draws ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("estimator", [IVW, IVW_DELTA, EGGER], ids=lambda e: e.name)
def test_draws_are_fits_with_the_weights_and_orientation_of_the_mean(estimator, options):
    group, chosen = simulated(noise=0.8, n_draws=6), Options(**options)
    assert (np.sign(group.draws_x) != np.sign(group.bx)[:, None]).any() or estimator is not EGGER
    draws = estimator.fit_draws(group, chosen)
    for t in range(6):
        single = Group(
            np.ascontiguousarray(group.draws_x[:, t]),
            group.se_x,
            np.ascontiguousarray(group.draws_y[:, t]),
            group.se_y,
            rho_xy=group.error_correlation,
            given_anchor_x=group.bx,
            given_anchor_y=group.by,
        )
        fit = estimator.fit(single, chosen)
        np.testing.assert_allclose(draws.estimates[:, t], fit.estimate, rtol=1e-11)
        np.testing.assert_allclose(draws.se[:, t], fit.se_unfloored, rtol=1e-10)


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("estimator", [IVW, EGGER], ids=lambda e: e.name)
def test_scatter_within_draws_by_projection_matrices(estimator, correlated):
    group = simulated(n_sequences=2, n_draws=9)
    if correlated:
        group = replace(group, correlation=some_correlation(25, n_sequences=2))
    draws = estimator.fit_draws(group, Options())
    for i in range(2):
        rho = group.correlation[i] if correlated else np.eye(25)
        inverse = np.linalg.inv(rho * np.outer(group.se_y[i], group.se_y[i]))
        columns = [group.bx[i]] if estimator is IVW else [group.bx[i], np.sign(group.bx[i])]
        x = np.stack(columns, axis=1)
        covariance = np.linalg.inv(x.T @ inverse @ x)
        left_over = np.eye(25) - x @ covariance @ x.T @ inverse
        slope = (covariance @ x.T @ inverse @ group.by[i])[0]
        df = 25 - len(columns)

        def mean_square(y, left_over=left_over, inverse=inverse, df=df):
            return (left_over @ y) @ inverse @ (left_over @ y) / df

        noise = [
            mean_square((y - group.by[i]) - slope * (x - group.bx[i]))
            for x, y in zip(group.draws_x[i], group.draws_y[i], strict=True)
        ]
        scatter = scatter_without_draw_noise(
            np.array([mean_square(group.by[i])]), np.array([noise])
        )
        np.testing.assert_allclose(draws.se_within[i], (scatter[0] * covariance[0, 0]) ** 0.5)
        assert draws.se_within[i] > 0


def test_fixed_effects_have_the_draws_of_random_effects():
    group = simulated(n_draws=5)
    for options in SETTINGS:
        fixed, random = (e.fit_draws(group, Options(**options)) for e in (IVW_FIXED, IVW))
        np.testing.assert_array_equal(fixed.estimates, random.estimates)
        np.testing.assert_array_equal(fixed.se_within, random.se_within)


def test_a_draw_without_spread_has_no_slope():
    group = simulated(n_draws=3)
    draws_x = group.draws_x.copy()
    draws_x[1, 2] = 0.7 * np.sign(group.bx[1])
    draws_x[2, 0] = 0.0
    group = replace(group, draws_x=draws_x)
    expected = np.zeros((3, 3), bool)
    expected[2, 0] = True
    np.testing.assert_array_equal(np.isnan(IVW.fit_draws(group, Options()).estimates), expected)
    expected[1, 2] = True
    np.testing.assert_array_equal(np.isnan(EGGER.fit_draws(group, Options()).estimates), expected)


def test_draws_are_needed():
    with pytest.raises(ValueError, match="no draws"):
        EGGER.fit_draws(simulated(), Options())


# --- Bad data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("estimator", [*REGRESSIONS, EGGER_SIMEX], ids=lambda e: e.name)
def test_bad_sequences_have_a_status_and_spoil_no_other(estimator, options):
    group = simulated(n_sequences=5)
    bx, by = group.bx.copy(), group.by.copy()
    bx[1] = 0.0
    bx[2] = 0.3 * np.sign(bx[2]) * (1 + 1e-14 * np.arange(25))
    by[3] = 1e308
    by[4] = 0.0
    fit = estimator.fit(replace(group, bx=bx, by=by), Options(**options, distribution="t"))
    egger = estimator in (EGGER, EGGER_SIMEX)
    missing = "no_spread_in_exposure" if egger else "no_exposure_effect"
    assert list(fit.status[:3]) == ["ok", missing, "no_spread_in_exposure" if egger else "ok"]
    assert fit.status[4] == "ok"
    for name, values in numbers(fit).items():
        np.testing.assert_array_equal(np.isnan(values), fit.status != "ok", name)
    np.testing.assert_array_equal(
        fit.estimate[0], estimator.fit(group, Options(**options)).estimate[0]
    )
    assert fit.estimate[4] == 0.0


def test_too_few_instruments_with_weight():
    """Two of three are so far off that nothing is left of their weight."""
    bx, by = np.array([[1.0, 1.0, 1.0, 2.0]]), np.array([[1.0, 1e4, 1.5e4, -1e5]])
    group = Group(bx, np.full((1, 4), 0.1), by, np.full((1, 4), 0.1))
    fit = IVW.fit(group, Options(penalized=True))
    assert fit.status[0] == "too_few_instruments"
    assert np.isnan([fit.estimate[0], fit.se[0], fit.q[0]]).all()
    assert np.isnan(
        IVW.fit_draws(
            replace(group, draws_x=np.stack([bx, bx], 1), draws_y=np.stack([by, by], 1)),
            Options(penalized=True),
        ).estimates
    ).all()


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.parametrize("estimator", REGRESSIONS, ids=lambda e: e.name)
def test_fewest_instruments(estimator, options):
    group = simulated(n=estimator.minimum)
    fit = estimator.fit(group, Options(**options))
    for status, estimate, se in zip(fit.status, fit.estimate, fit.se, strict=True):
        assert np.isfinite([estimate, se]).all() == (status == "ok")
    if not options:
        assert (fit.status == "ok").all()


def test_a_correlation_that_is_none():
    correlation = some_correlation(25, n_sequences=3)
    # Singular, but for rounding: Cholesky's method goes through.
    correlation[1] = 1.0
    np.fill_diagonal(correlation[1], 1.0 + 1e-15)
    np.linalg.cholesky(correlation[1])
    correlation[2, 3, 4] = correlation[2, 4, 3] = 1.5
    group = replace(simulated(n_draws=3), correlation=correlation)
    for estimator in REGRESSIONS:
        for options in ({}, {"penalized": True}):
            fit = estimator.fit(group, Options(**options))
            assert list(fit.status) == ["ok", *["correlation_not_positive_definite"] * 2]
            np.testing.assert_array_equal(np.isnan(fit.estimate), [False, True, True])
            np.testing.assert_array_equal(np.isnan(fit.q), [False, True, True])
            draws = estimator.fit_draws(group, Options(**options))
            np.testing.assert_array_equal(
                np.isnan(draws.estimates).all(axis=1), [False, True, True]
            )
        fit = estimator.fit(group, Options(robust=True))
        assert fit.status[0] == "robust_needs_independent_instruments"
        assert np.isnan(fit.estimate).all()


# --- MM-regression -------------------------------------------------------------------------------


def contaminated(seed, n=60, share=0.4, intercept=0.1):
    """Oriented effects with slope .5, and a cluster of outliers about another line."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.5, 3.0, size=n)
    y = intercept + 0.5 * x + 0.05 * rng.normal(size=n)
    bad = np.arange(n) < int(share * n)
    y[bad] = 5.0 - 0.8 * x[bad] + 0.05 * rng.normal(size=bad.sum())
    order = rng.permutation(n)
    return x[order], y[order]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n", "share"), [(15, 0.3), (60, 0.4), (900, 0.45)])
def test_outliers_do_not_move_a_robust_line(seed, n, share):
    tolerance = 5 * 0.05 / 0.72 / np.sqrt((1 - share) * n)
    for estimator, intercept in ((EGGER, 0.1), (IVW, 0.0)):
        x, y = contaminated(seed, n, share, intercept)
        group = Group(*(values[None] for values in (x, np.full(n, 0.01), y, np.full(n, 0.05))))
        fit = estimator.fit(group, Options(robust=True))
        assert abs(fit.estimate[0] - 0.5) < tolerance
        assert fit.se[0] < tolerance
        assert abs(estimator.fit(group, Options()).estimate[0] - 0.5) > tolerance
        if estimator is EGGER:
            assert abs(fit.intercept[0] - 0.1) < 2 * tolerance


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.sampled_from([5, 30, 300]))
def test_no_other_slope_has_a_smaller_scale(seed, n):
    """Against a grid of slopes, on three populations of ratios."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = x * rng.choice([-1.0, 0.3, 2.0], size=n, p=[0.2, 0.45, 0.35]) + 0.1 * rng.normal(size=n)
    line = mm_regression(x[None], y, 0)
    grid = np.linspace(-3, 4, 3001)
    scales = m_scale(y - grid[:, None] * x, n - 1)
    assert line.scale <= scales.min() * (1 + 1e-9)


def test_no_other_line_has_a_smaller_scale():
    for seed, n in enumerate((400, 400, 900)):
        x, y = contaminated(seed, n, share=0.45)
        design = np.stack([np.ones(n), x - x.mean()])
        line = mm_regression(design, y, 0)
        slopes, levels = np.meshgrid(np.linspace(-1, 1, 41), np.linspace(0.4, 2.4, 41))
        lines = np.stack([levels.ravel(), slopes.ravel()], axis=1)
        assert line.scale <= m_scale(y - lines @ design, n - 2).min() * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 60), size=st.floats(1e-6, 1e6))
def test_m_scale_solves_its_equation(seed, n, size):
    residual = size * np.random.default_rng(seed).standard_cauchy((3, n))
    residual[0, : n // 4] = 0.0
    residual[1, : n // 2 - 1] *= 1e5
    scale = m_scale(residual, n - 1)
    v = np.minimum((residual / (BREAKDOWN_TUNING * scale[:, None])) ** 2, 1.0)
    np.testing.assert_allclose((1 - (1 - v) ** 3).sum(axis=1), 0.5 * (n - 1), rtol=1e-12)


def test_m_scale_is_consistent_and_zero_for_an_exact_fit():
    residual = np.random.default_rng(0).normal(size=(1, 200_000))
    assert m_scale(residual, 200_000)[0] == pytest.approx(1.0, abs=0.005)
    residual = np.array([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 4.0, 5.0]])
    scale = m_scale(residual, 3)
    assert scale[0] == 0.0
    assert scale[1] > 0.0


def test_mm_regression_is_efficient_and_its_se_is_right():
    """Normal errors: 95 % efficiency; both the SE and its coverage hold over 400 data sets."""
    rng = np.random.default_rng(1)
    n, replicates = 40, 400
    x = rng.uniform(0.5, 2.5, size=(replicates, n))
    y = 0.3 * x + 0.1 + rng.normal(size=x.shape) * 0.2
    group = Group(x, np.full_like(x, 0.01), y, np.full_like(x, 0.2))
    robust = EGGER.fit(group, Options(robust=True))
    squares = EGGER.fit(group, Options())
    efficiency = squares.estimate.var() / robust.estimate.var()
    assert 0.85 < efficiency < 1.0
    ratio = np.sqrt((robust.se_unfloored**2).mean()) / robust.estimate.std()
    assert 0.9 < ratio < 1.1


def test_robust_lines_do_not_see_instruments_without_weight():
    x, y = contaminated(3)
    group = Group(*(values[None] for values in (x, np.full(60, 0.01), y, np.full(60, 0.01))))
    both = IVW.fit(group, Options(robust=True, penalized=True))
    theta = median_ratio(group.bx, group.by)
    weights = penalised(group.weights, group.by - theta[:, None] * group.bx, 100.0)[0]
    assert (weights == 0).any()
    used = weights > 0
    root = np.sqrt(weights[used])
    line = mm_regression((root * x[used])[None], root * y[used], 0)
    np.testing.assert_allclose(both.estimate[0], line.coefficients[0])
    np.testing.assert_allclose(both.se_unfloored[0], line.scale * line.unit_covariance[0, 0] ** 0.5)


def test_mm_regression_of_too_little():
    assert np.isnan(mm_regression(np.ones((2, 2)), np.ones(2), 0).coefficients).all()
    assert np.isnan(mm_regression(np.zeros((1, 5)), np.ones(5), 0).coefficients).all()
    assert np.isnan(mm_regression(np.full((1, 5), np.inf), np.ones(5), 0).scale)


# --- SIMEX ---------------------------------------------------------------------------------------


def diluted(n_sequences, n=200, share=0.2, seed=0):
    """Slope .5; noise makes up a share of the variance of bx; no orientation is in doubt."""
    rng = np.random.default_rng(seed)
    true_x = rng.choice([-1.0, 1.0], n) * rng.uniform(3, 6, size=(n_sequences, n))
    se_x = np.full_like(true_x, np.sqrt(share / (1 - share) * 9 / 12))
    bx = true_x + se_x * rng.normal(size=true_x.shape)
    se_y = np.full_like(true_x, 0.15)
    by = 0.5 * true_x + 0.2 * np.sign(true_x) + se_y * rng.normal(size=true_x.shape)
    return Group(bx, se_x, by, se_y)


def test_simex_undoes_most_of_the_dilution():
    """I2_GX .8 leaves .8 of the slope; a parabola gives most of it back."""
    group = diluted(400)
    egger, fit = EGGER.fit(group, Options()), EGGER_SIMEX.fit(group, Options())
    bias, left = 0.5 - egger.estimate.mean(), 0.5 - fit.estimate.mean()
    assert bias == pytest.approx(0.1, abs=0.005)
    assert abs(left) < 0.2 * bias
    assert abs(fit.intercept.mean() - 0.2) < 0.2 * abs(egger.intercept.mean() - 0.2)
    ratio = np.sqrt((fit.se**2).mean()) / fit.estimate.std()
    assert 0.8 < ratio < 1.05
    assert np.sqrt((egger.se**2).mean()) < 0.9 * fit.estimate.std()


def test_simex_changes_nothing_without_noise_in_x():
    group = diluted(5)
    group = replace(group, se_x=np.full_like(group.se_x, 1e-9))
    egger, fit = EGGER.fit(group, Options()), EGGER_SIMEX.fit(group, Options())
    for name in ("estimate", "se", "se_unfloored", "se_model", "intercept", "intercept_se"):
        np.testing.assert_allclose(getattr(fit, name), getattr(egger, name), rtol=1e-7)
    np.testing.assert_allclose(fit.intercept_p, egger.intercept_p, rtol=1e-5)


def test_simex_is_what_refitting_egger_gives():
    group = diluted(1, n=30)
    noise, _ = simex._noise(7, 30)
    noise = np.concatenate([noise, -noise])
    sign = np.sign(group.bx)
    slopes, variances = [EGGER.fit(group, Options()).estimate[0]], []
    variances = [EGGER.fit(group, Options()).se_unfloored[0] ** 2]
    for level in simex.LAMBDAS[1:]:
        simulation = Group(
            group.bx + np.sqrt(level) * sign * group.se_x * noise,
            np.repeat(group.se_x, 200, axis=0),
            np.repeat(group.by, 200, axis=0),
            np.repeat(group.se_y, 200, axis=0),
            given_anchor_x=np.repeat(group.bx, 200, axis=0),
        )
        fit = EGGER.fit(simulation, Options())
        slopes.append(fit.estimate.mean())
        variances.append((fit.se_unfloored**2).mean() - fit.estimate.var(ddof=1))
    fit = EGGER_SIMEX.fit(group, Options(seed=7))
    at = np.polynomial.Polynomial.fit(simex.LAMBDAS, slopes, 2)
    np.testing.assert_allclose(fit.estimate[0], at(-1.0), rtol=1e-9)
    at = np.polynomial.Polynomial.fit(simex.LAMBDAS, variances, 2)
    np.testing.assert_allclose(fit.se_unfloored[0] ** 2, at(-1.0), rtol=1e-7)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), scale_x=st.floats(0.01, 100), scale_y=st.floats(0.01, 100))
def test_simex_sign_scale_and_seed(seed, scale_x, scale_y):
    group = diluted(2, n=20, seed=seed)
    fit = EGGER_SIMEX.fit(group, Options())
    flip = np.random.default_rng(seed).choice([-1.0, 1.0], size=group.bx.shape)
    flipped = EGGER_SIMEX.fit(replace(group, bx=flip * group.bx, by=flip * group.by), Options())
    np.testing.assert_allclose(flipped.estimate, fit.estimate, rtol=1e-9)
    scaled = EGGER_SIMEX.fit(
        Group(scale_x * group.bx, scale_x * group.se_x, scale_y * group.by, scale_y * group.se_y),
        Options(),
    )
    np.testing.assert_allclose(scaled.estimate, fit.estimate * scale_y / scale_x, rtol=1e-9)
    np.testing.assert_allclose(scaled.se, fit.se * scale_y / scale_x, rtol=1e-9)
    assert (EGGER_SIMEX.fit(group, Options(seed=1)).estimate != fit.estimate).all()


def test_simex_in_draws_is_simex_of_each_draw():
    group = simulated(n_draws=4)
    draws, fit = EGGER_SIMEX.fit_draws(group, Options()), EGGER_SIMEX.fit(group, Options())
    plain = refit(EGGER_SIMEX.fit)(group, Options())
    np.testing.assert_array_equal(draws.estimates, plain.estimates)
    assert (draws.se <= plain.se).all()
    np.testing.assert_allclose(
        draws.se_within, np.sqrt(fit.se**2 - fit.se_model**2), rtol=1e-6, atol=1e-9
    )
