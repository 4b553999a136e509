"""Two-stage least squares against formulas and statsmodels; the polynomial one on a curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.sandbox.regression.gmm import IV2SLS

from deepmr.deepiv.two_stage import polynomial_two_stage, two_stage_least_squares

seeds = st.integers(0, 10_000)


def simulate(seed: int, n: int = 200, k: int = 2, p: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    z, c, u = rng.normal(size=(n, k)), rng.normal(size=(n, p)), rng.normal(size=n)
    z = z + c[:, :1]
    x = z.sum(axis=1) - c.sum(axis=1) + u + 3
    y = 0.7 * x + c @ np.arange(1.0, p + 1) + 2 * u + rng.normal(size=n) - 5
    return y, x, z, c


def designs(x: np.ndarray, z: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ones = np.ones((x.size, 1))
    return np.column_stack([x, ones, c]), np.column_stack([z, ones, c])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_numbers_of_statsmodels(k: int) -> None:
    y, x, z, c = simulate(k, k=k)
    found = two_stage_least_squares(y, x, z, c)
    regressors, instruments = designs(x, z, c)
    expected = IV2SLS(y, regressors, instruments).fit()
    assert found.estimate == pytest.approx(expected.params[0], rel=1e-9)
    assert found.se == pytest.approx(expected.bse[0], rel=1e-9)
    assert found.df == expected.df_resid == 200 - 5
    low, high = expected.conf_int()[0]
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), rel=1e-9)
    assert found.p_value == pytest.approx(expected.pvalues[0], rel=1e-6)
    assert found.intercept == pytest.approx(expected.params[1], rel=1e-9)
    np.testing.assert_allclose(found.covariate_slopes, expected.params[2:], rtol=1e-9)
    np.testing.assert_allclose(found.predict(x, c), regressors @ expected.params, rtol=1e-9)
    first = OLS(x, instruments).fit()
    assert found.f == pytest.approx(float(first.f_test(np.eye(k, k + 4)).fvalue), rel=1e-9)


def test_cluster_robust_numbers() -> None:
    y, x, z, c = simulate(0)
    label = np.array([f"block {i}" for i in np.random.default_rng(0).integers(0, 20, 200)])
    found = two_stage_least_squares(y, x, z, c, label)
    regressors, instruments = designs(x, z, c)
    fitted = instruments @ np.linalg.lstsq(instruments, regressors, rcond=None)[0]
    bread = np.linalg.inv(fitted.T @ fitted)
    beta = bread @ fitted.T @ y
    scores = fitted * (y - regressors @ beta)[:, None]
    sums = np.array([scores[label == name].sum(axis=0) for name in np.unique(label)])
    cov = 20 / 19 * 199 / 195 * bread @ sums.T @ sums @ bread
    assert found.estimate == pytest.approx(beta[0], rel=1e-9)
    assert found.se == pytest.approx(np.sqrt(cov[0, 0]), rel=1e-9)
    assert found.df == 19
    half = stats.t(19).ppf(0.975) * found.se
    assert (found.ci_low, found.ci_high) == pytest.approx((beta[0] - half, beta[0] + half))
    codes = np.unique(label, return_inverse=True)[1]
    first = OLS(x, instruments).fit(cov_type="cluster", cov_kwds={"groups": codes})
    assert found.f == pytest.approx(float(first.f_test(np.eye(2, 6)).fvalue), rel=1e-9)
    # Each row its own cluster and all of one variance: much as the textbook's.
    alone = two_stage_least_squares(y, x, z, c, np.arange(200))
    assert alone.se == pytest.approx(two_stage_least_squares(y, x, z, c).se, rel=0.2)


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_units_shifts_and_spare_columns_change_nothing(
    seed: int, unit: float, shift: float
) -> None:
    y, x, z, c = simulate(seed, n=60)
    plain = two_stage_least_squares(y, x, z, c)
    spare = np.column_stack([c * unit + shift, np.full(60, shift), c[:, 0] - c[:, 1]])
    other = two_stage_least_squares(
        unit * y + shift,
        x - shift,
        np.column_stack([z @ [[1, 2], [3, 4]], z[:, 0], c[:, 2]]),
        spare,
    )
    for name in ("estimate", "se", "ci_low", "ci_high"):
        assert getattr(other, name) == pytest.approx(unit * getattr(plain, name), rel=1e-6)
    assert (other.df, other.p_value) == pytest.approx((plain.df, plain.p_value), rel=1e-6)
    assert other.f == pytest.approx(plain.f, rel=1e-6)
    np.testing.assert_allclose(
        other.predict(x - shift, spare), unit * plain.predict(x, c) + shift, rtol=1e-6, atol=1e-6
    )


def test_no_covariates_and_one_instrument_is_walds_ratio() -> None:
    y, x, z, _ = simulate(3, k=1, p=1)
    found = two_stage_least_squares(y, x, z, np.empty((200, 0)))
    ratio = np.cov(y, z[:, 0])[0, 1] / np.cov(x, z[:, 0])[0, 1]
    assert found.estimate == pytest.approx(ratio, rel=1e-9)
    assert found.predict([x.mean()], np.empty((1, 0))) == pytest.approx([y.mean()])


def test_an_exposure_that_nothing_moves_has_no_estimate() -> None:
    y, x, z, c = simulate(4)
    unmoved = two_stage_least_squares(y, x, c @ [[1.0], [2.0], [0.5]], c)
    assert unmoved.f == 0
    for found in (
        unmoved,
        two_stage_least_squares(y, x, np.full((200, 1), 0.3), c),
        two_stage_least_squares(y, c @ [1.0, 2.0, 3.0], z, c),
        two_stage_least_squares(y, np.full(200, 0.3), z, c),
    ):
        assert np.isnan([found.estimate, found.se, found.ci_low, found.p_value]).all()
        assert np.isnan(found.predict(x, c)).all()
        assert not found.f > 0


def test_polynomials_follow_a_curved_effect_that_a_line_cannot() -> None:
    rng = np.random.default_rng(5)
    n = 400
    z, c, u = rng.normal(size=(n, 1)), rng.uniform(-1, 1, (n, 1)), rng.normal(size=n)
    x = 1.5 * z[:, 0] + c[:, 0] + 0.3 * u
    y = x * c[:, 0] ** 2 + 2 * x + 2 * u + 0.1 * rng.normal(size=n)
    found = polynomial_two_stage(y, x, z, c, seed=0)
    grid = np.linspace(-0.9, 0.9, 50)[:, None]
    effect = found.effect(0.0, np.ones(50), grid)
    error = np.mean((effect - (2 + grid[:, 0] ** 2)) ** 2)
    line = polynomial_two_stage(y, x, z, c, degrees=(1,), seed=0).effect(0.0, 1.0, grid)
    assert np.ptp(line) < 1e-9
    assert error < np.mean((line - (2 + grid[:, 0] ** 2)) ** 2) / 2
    assert found.response.best_params_["polynomial__degree"] == 3
    high, low = found.predict(np.ones(50), grid), found.predict(np.zeros(50), grid)
    np.testing.assert_array_equal(effect, high - low)


def test_without_penalty_and_curves_it_is_two_stage_least_squares() -> None:
    y, x, z, c = simulate(6, n=2000)
    found = polynomial_two_stage(y, x, z, c, degrees=(1,), seed=0)
    linear = two_stage_least_squares(y, x, z, c)
    assert found.effect(0.0, 1.0, c[:1])[0] == pytest.approx(linear.estimate, rel=0.01)
    penalties = found.treatment.param_grid["ridge__alpha"]
    np.testing.assert_allclose(penalties, [10.0**k for k in range(-5, 6)])


def test_the_seed_decides_the_polynomial_fit() -> None:
    y, x, z, c = simulate(7, n=60, p=1)
    one, same = (polynomial_two_stage(y, x, z, c, degrees=(2,), seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.predict(x, c), same.predict(x, c))
    losses = one.treatment.cv_results_["mean_test_score"]
    other = polynomial_two_stage(y, x, z, c, degrees=(2,), seed=4)
    assert (losses != other.treatment.cv_results_["mean_test_score"]).any()


def test_units_do_not_change_the_polynomial_fit() -> None:
    y, x, z, c = simulate(9, n=60, p=1)
    plain = polynomial_two_stage(y, x, z, c, degrees=(2,), seed=0)
    other = polynomial_two_stage(y, 100 * x - 7, z + 3, c / 50 + 1, degrees=(2,), seed=0)
    np.testing.assert_allclose(
        other.predict(100 * x - 7, c / 50 + 1), plain.predict(x, c), rtol=1e-6, atol=1e-6
    )


def test_bad_data_are_refused_by_name() -> None:
    y, x, z, c = simulate(8, n=20)
    with pytest.raises(ValueError, match=r"z must have shape \(rows, columns\); found \(20,\)"):
        two_stage_least_squares(y, x, z[:, 0], c)
    with pytest.raises(ValueError, match=r"x must have a row for each of the 20 of y"):
        two_stage_least_squares(y, x[:-1], z, c)
    with pytest.raises(ValueError, match="covariates holds a number that is not finite"):
        polynomial_two_stage(y, x, z, c * np.inf, seed=0)
    with pytest.raises(ValueError, match="5 rows do not determine 5 coefficients"):
        two_stage_least_squares(y[:5], x[:5], z[:5], c[:5])
    with pytest.raises(ValueError, match="2 clusters do not tell the scatter of 2 instruments"):
        two_stage_least_squares(y, x, z, c, np.arange(20) // 10)
    with pytest.raises(ValueError, match=r"a label for each of 20 rows; found \(19,\)"):
        two_stage_least_squares(y, x, z, c, np.arange(19))
    with pytest.raises(ValueError, match="5-fold cross-validation needs 5 rows, got 4"):
        polynomial_two_stage(y[:4], x[:4], z[:4], c[:4], seed=0)
