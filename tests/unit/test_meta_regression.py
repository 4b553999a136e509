"""Meta-regression: metafor's numbers, the estimating equations, and what it does with bad data."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import WLS

from deepmr.meta import random_effects
from deepmr.meta.drawwise import draw_wise
from deepmr.meta.heterogeneity import METHODS
from deepmr.meta.regression.design import complete_cases
from deepmr.meta.regression.meta_regression import draw_wise_regression, meta_regression
from deepmr.meta.regression.residual_heterogeneity import (
    log_likelihood,
    residual_tau2,
    score,
    weighted_fit,
)
from deepmr.uncertainty.moderation import moderate

REFERENCE = Path(__file__).parents[1] / "reference"
TESTS = ("z", "t", "knha", "adhoc")


def simulate(seed, k=30, p=3, tau=0.4, rows=None):
    rng = np.random.default_rng(seed)
    shape = (k,) if rows is None else (rows, k)
    x = np.column_stack([np.ones(k), rng.normal(size=(k, p - 1)) * 10.0 ** rng.integers(-3, 4)])
    v = rng.uniform(0.02, 0.5, shape)
    y = 0.3 + x[:, -1] / np.abs(x[:, -1]).max() + rng.normal(size=k) * tau
    return y + rng.normal(size=shape) * np.sqrt(v), v, x


@pytest.mark.parametrize("test", ["z", "knha"])
@pytest.mark.parametrize("method", ["DL", "REML", "PM"])
def test_bcg_on_latitude_agrees_with_metafor(method, test):
    case = json.loads((REFERENCE / "meta_bcg.json").read_text())
    expected = case["results"][f"metareg_{method}_{test}"]
    y, v, latitude = (np.array(case["inputs"][name]) for name in ("yi", "vi", "mod"))
    found = meta_regression(
        y, v, np.column_stack([np.ones(13), latitude]), ["intercept", "ablat"], method, test
    )
    ours = {
        "beta": found.coefficients,
        "se": found.se,
        "pval": found.p_value,
        "tau2": found.tau2,
        "QE": found.qe,
        "QM": found.qm,
        "QMp": found.qm_p,
        "R2": found.r2,
        "I2": found.i2,
    }
    assert set(ours) == set(expected)
    closed = 1e-8 if method == "DL" else 1e-6
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=closed, err_msg=name)
    assert (found.k, found.status, found.reason) == (13, "ok", "")
    # What the file does not hold follows from what it holds.
    quantile = stats.norm.ppf(0.975) if test == "z" else stats.t.ppf(0.975, 11)
    np.testing.assert_allclose(found.ci_low, found.coefficients - quantile * found.se)
    np.testing.assert_allclose(found.ci_high, found.coefficients + quantile * found.se)
    assert found.h2 == pytest.approx(1 / (1 - found.i2 / 100))
    assert found.qe_p == pytest.approx(stats.chi2.sf(found.qe, 11))
    assert (found.qm_df, found.qm_df_residual) == (1, np.inf if test == "z" else 11)
    np.testing.assert_array_equal(found.df, np.inf if test == "z" else 11)


@pytest.mark.parametrize("method", METHODS)
def test_tau2_by_the_matrices_of_the_definition(method):
    y, v, x = simulate(1, k=25, p=4)
    k, p = x.shape

    def projection(w):
        return np.diag(w) - w[:, None] * x @ np.linalg.inv(x.T * w @ x) @ x.T * w

    found = meta_regression(y, v, x, method=method, test="z")
    plain, at = projection(1 / v), projection(1 / (v + found.tau2))
    rss = y @ plain @ y
    start = np.var(y)
    equal = projection(np.ones(k))
    expected = {
        "FE": 0.0,
        "DL": (rss - (k - p)) / np.trace(plain),
        "HS": (rss - k) / (1 / v).sum(),
        "HSk": (rss * k / (k - p) - k) / (1 / v).sum(),
        "HE": (y @ equal @ y - np.trace(equal * v)) / (k - p),
        "SJ": start * (y @ projection(1 / (v + start)) @ y) / (k - p),
    }
    if method in expected:
        assert found.tau2 == pytest.approx(expected[method], rel=1e-8)
        assert expected[method] > 0 or method == "FE"
        return
    assert found.tau2 > 0
    equations = {
        "REML": (y @ at @ at @ y, np.trace(at)),
        "ML": (y @ at @ at @ y, (1 / (v + found.tau2)).sum()),
        "PM": (y @ at @ y, k - p),
        "EB": (y @ at @ y, k - p),
        "PMM": (y @ at @ y, stats.chi2.median(k - p)),
    }
    left, right = equations[method]
    assert left == pytest.approx(right, rel=1e-9)


@pytest.mark.parametrize("restricted", [True, False])
def test_scores_are_slopes_of_the_likelihood(restricted):
    y, v, x = simulate(3, rows=4)
    q = np.linalg.qr(x)[0]
    tau2, step = np.array([0.01, 0.1, 0.3, 1.0]), 1e-6

    def at(values):
        return log_likelihood(y, v, q, values, restricted)

    slope = (at(tau2 + step) - at(tau2 - step)) / (2 * step)
    np.testing.assert_allclose(score(y, v, q, tau2, restricted), 2 * slope, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 25), st.floats(0, 2), st.sampled_from(["REML", "ML"]))
def test_no_tau2_has_a_higher_likelihood(seed, k, tau, method):
    rng = np.random.default_rng(seed)
    v = np.exp(rng.normal(size=(1, k)) * 3)  # may have several maxima
    y = tau * rng.normal(size=(1, k)) + np.sqrt(v) * rng.normal(size=(1, k))
    q = np.linalg.qr(np.column_stack([np.ones(k), rng.normal(size=k)]))[0]
    found = residual_tau2(y, v, q, method)

    def likelihood(tau2):
        return log_likelihood(y, v, q, np.array([tau2]), method == "REML")[0]

    others = np.concatenate([[0.0], np.geomspace(1e-6, 1e4, 200)])
    assert likelihood(found[0]) >= max(likelihood(x) for x in others) - 1e-9


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 30),
    st.sampled_from(METHODS),
    st.sampled_from(TESTS),
)
def test_an_intercept_only_is_random_effects(seed, k, method, test):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.05, 1, k)
    y = 1 + 0.5 * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k)
    ours = meta_regression(y, v, np.ones((k, 1)), method=method, test=test)
    theirs = random_effects(y, v, method, test)
    pairs = {
        "estimate": ours.coefficients[0],
        "se": ours.se[0],
        "ci_low": ours.ci_low[0],
        "ci_high": ours.ci_high[0],
        "p_value": ours.p_value[0],
        "df": ours.df[0],
        "tau2": ours.tau2,
        "i2": ours.i2,
        "h2": ours.h2,
        "q": ours.qe,
        "q_p": ours.qe_p,
    }
    for name, value in pairs.items():
        np.testing.assert_allclose(
            value, getattr(theirs, name), rtol=1e-7, atol=1e-10, err_msg=name
        )
    assert ours.names == ("intercept",)
    assert ours.status == theirs.status
    assert np.isnan(ours.qm)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 100), st.sampled_from(METHODS))
def test_order_shift_and_scale(seed, shift, scale, method):
    y, v, x = simulate(seed, k=20)
    found = meta_regression(y, v, x, method=method)
    order = np.random.default_rng(seed).permutation(20)
    permuted = meta_regression(y[order], v[order], x[order], method=method)
    moved = meta_regression(y * scale + shift, v * scale**2, x, method=method)
    # y has the spread 1; another unit of a covariate changes its coefficient only.
    other_unit = meta_regression(y, v, x * [1.0, 1e4, 1.0], method=method)
    close = {"rtol": 1e-6, "atol": 1e-8}
    for other, factor in ((permuted, 1.0), (moved, scale), (other_unit, [1.0, 1e-4, 1.0])):
        np.testing.assert_allclose(other.se, found.se * factor, **close)
    np.testing.assert_allclose(permuted.coefficients, found.coefficients, **close)
    np.testing.assert_allclose(moved.tau2, found.tau2 * scale**2, **close)
    np.testing.assert_allclose(
        moved.coefficients, found.coefficients * scale + [shift, 0, 0], rtol=1e-6, atol=1e-6 * scale
    )
    np.testing.assert_allclose(other_unit.qm, found.qm, rtol=1e-6)
    np.testing.assert_allclose(moved.r2, found.r2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("test", TESTS)
def test_rows_are_regressions_of_their_own(test):
    y, v, x = simulate(8, rows=5)
    together = meta_regression(y, v, x, test=test)
    assert together.coefficients.shape == (5, 3)
    assert together.cov.shape == (5, 3, 3)
    for i in range(5):
        alone = meta_regression(y[i], v[i], x, test=test)
        for name in ("coefficients", "se", "tau2", "r2", "qm_p", "i2"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together, name)[i])


def test_adhoc_is_knapp_and_hartung_with_a_factor_of_at_least_1():
    y, v, x = simulate(4, tau=0.0)
    variances = 4 * v  # too large, so that the residuals are smaller than they should be
    z, t, hartung, floored = (meta_regression(y, variances, x, test=test) for test in TESTS)
    np.testing.assert_allclose(floored.se, z.se)
    np.testing.assert_array_equal(t.se, z.se)
    factor = (((y - x @ z.coefficients) ** 2) / (variances + z.tau2)).sum() / (30 - 3)
    assert factor < 1
    np.testing.assert_allclose(hartung.se, np.sqrt(factor) * z.se)
    np.testing.assert_array_equal(floored.df, 27)


@pytest.mark.parametrize("test", ["z", "knha"])
def test_draws_are_combined_by_rubin(test):
    y, v, x = simulate(6, rows=15)
    y += 0.2 * np.random.default_rng(1).normal(size=(15, 1))  # the model's error, shared
    found = draw_wise_regression(y, v, x, test=test)
    each = meta_regression(y, v, x, test=test)
    between = np.cov(each.coefficients.T) * 16 / 15
    within = each.cov.mean(axis=0)
    np.testing.assert_allclose(found.coefficients, each.coefficients.mean(axis=0))
    np.testing.assert_allclose(found.cov, within + between)
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(found.cov)))
    np.testing.assert_allclose(found.se_within, np.sqrt(np.diag(within)))
    np.testing.assert_allclose(found.se_draws, each.coefficients.std(axis=0, ddof=1))
    np.testing.assert_allclose(found.fmi, np.diag(between) / np.diag(found.cov))
    assert found.fmi[0] > 0.5 > found.fmi[1]
    residuals = y - each.coefficients @ x.T
    errors = v.mean(axis=0) + 16 / 15 * moderate(residuals.var(axis=0, ddof=1), 14).variance
    beyond = meta_regression(y.mean(axis=0), errors, x)
    for name in ("tau2", "i2", "h2", "qe", "qe_p"):
        assert getattr(found, name) == pytest.approx(float(getattr(beyond, name)), abs=1e-12), name
    ratio = 16 / 15 / 2 * np.trace(np.linalg.inv(within[1:, 1:]) @ between[1:, 1:] * 15 / 16)
    b = found.coefficients[1:]
    assert found.qm == pytest.approx(b @ np.linalg.inv(within[1:, 1:]) @ b / (2 * (1 + ratio)))
    df = 4 + 24 * (1 + (1 - 2 / 28) / ratio) ** 2
    assert found.qm_p == pytest.approx(stats.f.sf(found.qm, 2, df))


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("method", ["REML", "DL", "FE"])
def test_draws_with_an_intercept_only_are_the_draw_wise_meta_analysis(method, test):
    y, v, _ = simulate(9, rows=12)
    ours = draw_wise_regression(y, v, np.ones((30, 1)), method=method, test=test)
    theirs = draw_wise(y, v, method, test)
    for name in ("se", "ci_low", "ci_high", "p_value", "df", "se_within", "se_draws", "fmi"):
        np.testing.assert_allclose(getattr(ours, name)[0], getattr(theirs, name), rtol=1e-9)
    for name in ("tau2", "i2", "h2"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9)
    assert ours.qe == pytest.approx(theirs.q)


@pytest.mark.parametrize("test", TESTS)
def test_equal_draws_add_nothing(test):
    y, v, x = simulate(2)
    single = meta_regression(y, v, x, test=test)
    drawn = draw_wise_regression(np.tile(y, (7, 1)), np.tile(v, (7, 1)), x, test=test)
    for name in ("coefficients", "se", "ci_low", "p_value", "tau2", "i2", "r2", "qe_p"):
        np.testing.assert_allclose(
            getattr(drawn, name), getattr(single, name), rtol=1e-8, err_msg=name
        )
    np.testing.assert_allclose(drawn.se_draws, 0, atol=1e-12)
    np.testing.assert_allclose(1 / drawn.df, 1 / single.df, atol=1e-12)
    # D1 without a difference between draws is Wald's test.
    chi2 = drawn.qm * drawn.qm_df
    assert chi2 == pytest.approx(single.qm * (single.qm_df if test != "z" else 1))


def test_a_slope_keeps_its_level_where_draws_share_an_error():
    """A model whose error goes with the covariate: only the draws know."""
    rng = np.random.default_rng(12)
    k, n_draws, replicates = 60, 30, 300
    naive = drawn = 0
    for _ in range(replicates):
        covariate = rng.normal(size=k)
        x = np.column_stack([np.ones(k), covariate])
        v = rng.uniform(0.01, 0.05, k)
        shared = rng.normal(size=(1 + n_draws, 1)) * 0.15 * covariate
        y = 0.5 + 0.1 * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k) + shared[0]
        draws = y + shared[1:]
        drawn += (
            draw_wise_regression(draws, np.tile(v, (n_draws, 1)), x, method="DL").p_value[1] < 0.05
        )
        naive += meta_regression(y, v, x, method="DL").p_value[1] < 0.05
    assert drawn / replicates == pytest.approx(0.05, abs=0.03)
    assert naive / replicates > 0.3


def test_a_covariate_does_not_explain_what_the_model_got_wrong_along_it():
    rng = np.random.default_rng(12)
    k, n_draws = 60, 40
    found = []
    for _ in range(60):
        covariate = rng.normal(size=k)
        shared = rng.normal(size=(1 + n_draws, 1)) * 0.15 * covariate
        y = 0.5 + 0.1 * rng.normal(size=k) + shared[0]
        v = np.full((n_draws, k), 0.005)
        y = y + np.sqrt(v[0]) * rng.normal(size=k)
        x = np.column_stack([np.ones(k), covariate])
        found.append(float(draw_wise_regression(y + shared[1:], v, x).r2))
    # 54 with the errors of the residuals for both variances.
    assert np.nanmedian(found) < 10


def test_scatter_is_the_error_of_a_sequence_beside_the_draws():
    y, v, x = simulate(6, rows=15)
    scatter = np.linspace(0.01, 0.2, 30)
    y += np.random.default_rng(2).normal(size=30)
    y[0, 4] = np.nan
    found = draw_wise_regression(y, v, x, scatter=scatter)
    keep = np.arange(30) != 4
    y, v, x = y[:, keep], v[:, keep], x[keep]
    residuals = y - meta_regression(y, v, x).coefficients @ x.T
    errors = scatter[keep] + 16 / 15 * moderate(residuals.var(axis=0, ddof=1), 14).variance
    beyond = meta_regression(y.mean(axis=0), errors, x)
    for name in ("tau2", "i2", "h2", "qe", "qe_p"):
        assert getattr(found, name) == pytest.approx(float(getattr(beyond, name)), abs=1e-12), name
    alone = draw_wise(y, v, scatter=scatter[keep]).tau2
    assert 0 < found.r2 < 100
    assert found.r2 == pytest.approx(100 * (1 - found.tau2 / alone))
    with pytest.raises(ValueError, match=r"scatter must have shape \(29,\)"):
        draw_wise_regression(y, v, x, scatter=scatter)


def test_a_covariate_that_is_constant_once_sequences_are_left_out():
    y, v, x = simulate(5, p=2)
    x[:, 1] = np.arange(30) < 2
    assert meta_regression(y, v, x).status == "ok"
    v[:2] = np.nan
    found = meta_regression(y, v, x)
    assert (found.status, found.names, found.k) == ("constant_covariate", ("intercept", "x1"), 28)
    assert found.reason.endswith("the same in all 28 sequences: x1")


def test_a_regression_through_the_origin_tests_every_coefficient():
    y, v, x = simulate(4)
    found = meta_regression(y, v, x[:, 1:], test="z")
    assert found.names == ("x0", "x1")
    assert found.qm_df == 2
    assert np.isnan(found.r2)
    wald = found.coefficients @ np.linalg.inv(found.cov) @ found.coefficients
    assert found.qm == pytest.approx(wald)
    assert found.qm_p == pytest.approx(stats.chi2.sf(wald, 2))


def test_what_cannot_be_used_is_left_out_and_counted():
    y, v, x = simulate(5)
    clean = meta_regression(y[4:], v[4:], x[4:])
    y, v, x = y.copy(), v.copy(), x.copy()
    y[0], v[1], x[2, 1], x[3, 2] = np.nan, 0.0, np.inf, np.nan
    found = meta_regression(y, v, x)
    assert (found.k, found.n_dropped, found.status) == (26, 4, "ok")
    assert "2 of 30 sequences left out: a covariate is missing or infinite" in found.reason
    assert found.reason.startswith("2 of 30 sequences left out: estimate is missing")
    np.testing.assert_array_equal(found.coefficients, clean.coefficients)
    draws, variances = np.tile(y, (3, 1)), np.tile(v, (3, 1))
    variances[1, 7] = np.inf
    assert draw_wise_regression(draws, variances, x).n_dropped == 5


@pytest.mark.parametrize(
    ("columns", "status", "named"),
    [
        ({"intercept": 1.0, "gc": 0.4}, "constant_covariate", ": gc"),
        ({"intercept": 1.0, "empty": 0.0}, "constant_covariate", ": empty"),
        ({"gc": 0.4, "intercept": 1.0}, "constant_covariate", ": gc"),
        ({"intercept": 1.0, "a": "a", "twice": "2a+1"}, "collinear_covariates", ": twice"),
    ],
)
def test_a_design_that_cannot_be_solved_says_which_column(columns, status, named):
    a = np.random.default_rng(0).normal(size=12)
    known = {"a": a, "2a+1": 2 * a + 1}
    x = np.column_stack(
        [known.get(c, np.full(12, 1.0 if isinstance(c, str) else c)) for c in columns.values()]
    )
    for found in (
        meta_regression(a, np.ones(12), x, list(columns)),
        draw_wise_regression(np.tile(a, (3, 1)), np.ones((3, 12)), x, list(columns)),
    ):
        assert found.status == status
        assert named in found.reason
        assert np.isnan(found.coefficients).all()
        assert found.coefficients.shape == (x.shape[1],)
        assert not found.has_numbers


@pytest.mark.parametrize(
    ("k", "status"),
    [(0, "no_sequences"), (1, "too_few_sequences"), (2, "too_few_sequences"), (3, "few_sequences")],
)
def test_few_sequences_have_a_status(k, status):
    y, v, x = simulate(0, p=2)
    found = meta_regression(y[:k], v[:k], x[:k])
    drawn = draw_wise_regression(np.tile(y[:k], (4, 1)), np.tile(v[:k], (4, 1)), x[:k])
    for one in (found, drawn):
        assert one.status == status
        assert one.reason
        assert one.k == k
        assert np.isfinite(one.se).all() == (status == "few_sequences")


def test_an_exact_fit_is_said():
    x = np.column_stack([np.ones(6), np.arange(6.0)])
    found = meta_regression(1 + 2 * x[:, 1], np.full(6, 0.1), x)
    np.testing.assert_allclose(found.coefficients, [1, 2])
    assert found.reason == "a standard error is 0: the covariates fit exactly"
    assert found.tau2 == 0
    assert np.isfinite(meta_regression(1 + 2 * x[:, 1], np.full(6, 0.1), x, test="adhoc").se).all()


@pytest.mark.parametrize("names", [None, ["one", "gc"]])
def test_covariates_told_apart_only_by_sequences_that_count_for_nothing(names):
    x = np.column_stack([np.ones(8), np.repeat([0.3, 0.9], [5, 3])])
    y, v = np.random.default_rng(0).normal(size=8), np.repeat([1.0, 1e24], [5, 3])
    for found in (
        meta_regression(y, v, x, names),
        draw_wise_regression(np.tile(y, (3, 1)), np.tile(v, (3, 1)), x, names),
    ):
        assert found.status == "collinear_covariates"
        assert found.reason.startswith("only sequences whose variances are so large")
        assert np.isnan(found.se).all()
    # Unequal as they are, variances a million times apart are no hindrance.
    found = meta_regression(y, np.sqrt(np.sqrt(v)), x, method="FE", test="z")
    theirs = WLS(y, x, weights=v**-0.25).fit(cov_type="fixed scale")
    np.testing.assert_allclose(found.coefficients, theirs.params, rtol=1e-7)
    np.testing.assert_allclose(found.se, theirs.bse, rtol=1e-7)


def test_a_weighted_fit_is_least_squares():
    y, v, x = simulate(11, rows=3)
    q = complete_cases(y, v, x).q
    fit = weighted_fit(y, 1 / v, q)
    for i in range(3):
        theirs = WLS(y[i], q, weights=1 / v[i]).fit()
        np.testing.assert_allclose(fit.coefficients[i], theirs.params, rtol=1e-9)
        np.testing.assert_allclose(fit.residuals[i], theirs.resid, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(fit.triangle[i].T @ fit.triangle[i], q.T / v[i] @ q, atol=1e-9)
        hat = q @ theirs.normalized_cov_params @ q.T / v[i]
        assert fit.trace[i] == pytest.approx(np.trace((np.eye(30) - hat) / v[i][:, None]))
        assert fit.rss[i] == pytest.approx((theirs.resid**2 / v[i]).sum())


def test_covariates_of_very_different_size_are_solved():
    y, v, x = simulate(7)
    wide = x * [1.0, 1e9, 1e-9] + [0.0, 1e12, 0.0]
    found, expected = meta_regression(y, v, wide), meta_regression(y, v, x)
    np.testing.assert_allclose(found.coefficients[1] * 1e9, expected.coefficients[1], rtol=1e-4)
    assert found.qm == pytest.approx(expected.qm, rel=1e-4)


def test_the_basis_is_orthonormal():
    _, v, x = simulate(3, k=50, p=5)
    data = complete_cases(v, v, x)
    np.testing.assert_allclose(data.q.T @ data.q, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(x @ data.to_names, data.q, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, v, x: meta_regression(y, v[:5], x), r"found \(30,\) and \(5,\)"),
        (lambda y, v, x: meta_regression(y, v, x[:5]), r"k = 30 .* found shape \(5, 3\)"),
        (lambda y, v, x: meta_regression(y, v, x[:, 0]), r"found shape \(30,\)"),
        (lambda y, v, x: meta_regression(y, v, x, ["a", "b"]), "names must be 3 different names"),
        (lambda y, v, x: meta_regression(y, v, x, ["a", "b", "a"]), "names must be 3 different"),
        (lambda y, v, x: meta_regression(y, v, x, method="GLS"), "'GLS' is unknown; write one of"),
        (lambda y, v, x: meta_regression(y, v, x, test="f"), "test 'f' is unknown"),
        (lambda y, v, x: draw_wise_regression(y, v, x), r"must have shape \(draws, k\)"),
        (lambda y, v, x: draw_wise_regression(y[None], v[None], x), "at least 2 of them; found 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*simulate(0))
