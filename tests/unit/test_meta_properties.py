import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import chdtri
from scipy.stats import chi2

from deepmr import meta
from deepmr.meta.combine import METHODS, TESTS, pool
from deepmr.meta.heterogeneity import (
    estimate_tau2,
    generalised_q,
    invert_q,
    log_likelihood,
    score,
)
from deepmr.meta.intervals import q_profile

seeds = st.integers(0, 10_000)
sizes = st.integers(2, 40)
taus = st.floats(0, 3)
methods = st.sampled_from(METHODS)
tests = st.sampled_from(TESTS)


def simulated(seed, k, tau, unequal=1.5):
    rng = np.random.default_rng(seed)
    v = np.exp(rng.uniform(-unequal, unequal, k))
    return 1 + tau * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k), v


def numbers(result):
    return {name: value for name, value in vars(result).items() if isinstance(value, float)}


def agree(one, other, rtol=1e-9, atol=1e-9):
    for name, value in numbers(one).items():
        np.testing.assert_allclose(numbers(other)[name], value, rtol, atol, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus, methods, tests)
def test_order_does_not_matter(seed, k, tau, method, test):
    y, v = simulated(seed, k, tau)
    order = np.random.default_rng(seed).permutation(k)
    agree(
        meta.random_effects(y, v, method, test),
        meta.random_effects(y[order], v[order], method, test),
    )


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus, methods, tests, st.floats(-100, 100))
def test_a_shift_moves_the_effect_alone(seed, k, tau, method, test, shift):
    y, v = simulated(seed, k, tau)
    still, moved = (meta.random_effects(x, v, method, test) for x in (y, y + shift))
    for name in ("estimate", "ci_low", "ci_high", "pi_low", "pi_high"):
        np.testing.assert_allclose(
            getattr(moved, name), getattr(still, name) + shift, 1e-8, 1e-8, err_msg=name
        )
    for name in ("se", "tau2", "tau2_low", "tau2_high", "i2", "h2", "q", "q_p"):
        np.testing.assert_allclose(
            getattr(moved, name), getattr(still, name), 1e-7, 1e-8, err_msg=name
        )


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus, methods, tests, st.floats(-6, 6), st.sampled_from([-1, 1]))
def test_units_and_sign_scale_all(seed, k, tau, method, test, log10, sign):
    y, v = simulated(seed, k, tau)
    factor = 10.0**log10
    one = meta.random_effects(y, v, method, test)
    scaled = meta.random_effects(sign * factor * y, factor**2 * v, method, test)
    np.testing.assert_allclose(scaled.estimate / factor, sign * one.estimate, 1e-9, 1e-10)
    for name in ("tau2", "tau2_low", "tau2_high"):
        value = getattr(scaled, name) / factor**2
        np.testing.assert_allclose(value, getattr(one, name), 1e-8, 1e-10, err_msg=name)
    np.testing.assert_allclose(scaled.se / factor, one.se, 1e-9)
    for name in ("p_value", "i2", "h2", "q", "q_p", "df", "i2_low", "h2_high"):
        np.testing.assert_allclose(
            getattr(scaled, name), getattr(one, name), 1e-7, 1e-8, err_msg=name
        )


@settings(max_examples=80, deadline=None)
@given(seeds, sizes, taus, st.floats(0.1, 5))
def test_scores_are_0_at_the_solution_or_fall_from_0(seed, k, tau, unequal):
    y, v = (x[None] for x in simulated(seed, k, tau, unequal))
    targets = {"PM": k - 1.0, "EB": k - 1.0, "PMM": chi2.median(k - 1)}
    for method, target in targets.items():
        tau2 = estimate_tau2(y, v, method)
        missed = generalised_q(y, v, tau2)[0] - target
        assert missed <= 0 if tau2[0] == 0 else abs(missed) < 1e-9 * target
    for method in ("REML", "ML"):
        tau2, restricted = estimate_tau2(y, v, method), method == "REML"
        slope = score(y, v, tau2, restricted)[0]
        largest = (1 / (v + tau2)).sum()
        assert slope <= 0 if tau2[0] == 0 else abs(slope) < 1e-10 * largest
        near = np.array([tau2[0] * 1.01 + 1e-4, max(tau2[0] * 0.99 - 1e-4, 0)])
        around = log_likelihood(np.repeat(y, 2, 0), np.repeat(v, 2, 0), near, restricted)
        assert log_likelihood(y, v, tau2, restricted)[0] >= around.max() - 1e-11


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus, st.floats(0.05, 3))
def test_the_score_is_the_derivative_of_the_likelihood(seed, k, tau, at):
    y, v = (np.repeat(x[None], 2, 0) for x in simulated(seed, k, tau))
    step = 1e-5 * at
    for restricted in (True, False):
        low, high = log_likelihood(y, v, np.array([at - step, at + step]), restricted)
        slope = score(y[:1], v[:1], np.array([at]), restricted)[0]
        assert (high - low) / step == pytest.approx(slope, rel=1e-4, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus, st.floats(0.01, 50))
def test_inverting_q_gives_q_back(seed, k, tau, target):
    y, v = (x[None] for x in simulated(seed, k, tau))
    tau2 = invert_q(y, v, target)
    assert tau2[0] >= 0
    if tau2[0] > 0:
        assert generalised_q(y, v, tau2)[0] == pytest.approx(target, rel=1e-10)
    else:
        assert generalised_q(y, v, tau2)[0] <= target


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, taus)
def test_q_profile_inverts_q(seed, k, tau):
    y, v = (x[None] for x in simulated(seed, k, tau))
    bounds = q_profile(y[0], v[0])
    assert bounds[0] <= estimate_tau2(y, v, "PMM")[0] <= bounds[1]
    for bound, tail in zip(bounds, (0.025, 0.975), strict=True):
        q = generalised_q(y, v, np.array([bound]))[0]
        if bound > 0:
            assert q == pytest.approx(chdtri(k - 1, tail), rel=1e-9)
        else:
            assert q <= chdtri(k - 1, tail)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 30), methods)
def test_rows_do_not_depend_on_each_other(seed, k, method):
    rng = np.random.default_rng(seed)
    y, v = rng.normal(size=(6, k)), rng.uniform(0.1, 1.5, (6, k))
    together = vars(pool(y, v, method))
    for i in range(6):
        for name, value in vars(pool(y[[i]], v[[i]], method)).items():
            assert value[0] == together[name][i], name


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, taus, methods, st.integers(0, 6), tests)
def test_no_status_ok_without_a_standard_error(seed, k, tau, method, n_bad, test):
    """Whatever is missing, there is a number or a reason."""
    rng = np.random.default_rng(seed)
    y, v = simulated(seed, k, tau)
    for i in rng.integers(0, k, n_bad):
        target = y if rng.random() < 0.5 else v
        target[i] = rng.choice([np.nan, np.inf, -np.inf] if target is y else [np.nan, 0, -1])
    result = meta.random_effects(y, v, method, test)
    assert result.k + result.n_dropped == k
    assert (result.n_dropped > 0) == ("left out" in result.reason)
    expected = {0: "no_sequences", 1: "single_sequence", 2: "few_sequences"}
    assert result.status == expected.get(result.k, "ok")
    if result.k:
        assert np.isfinite([result.estimate, result.se, result.ci_low, result.p_value]).all()
    if result.k > 1:
        assert np.isfinite([result.tau2, result.i2, result.h2, result.q, result.q_p]).all()
        assert np.isfinite([result.tau2_low, result.pi_low]).all() == (method != "FE")
