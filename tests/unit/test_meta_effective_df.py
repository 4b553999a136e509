import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.meta.combine import pool
from deepmr.meta.effective_df import effective_df, tau2_bounds
from deepmr.meta.intervals import q_profile


def total(deviations, within):
    return within + (1 + 1 / len(deviations)) * deviations.var(axis=0, ddof=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.floats(0, 2))
def test_draws_that_agree_leave_k_less_1_and_the_q_profile(seed, k, tau):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.05, 0.5, k)
    y = rng.normal(0.3, np.sqrt(v + tau**2))
    still = np.tile(y - y.mean(), (6, 1))
    for tau2 in (0.0, 0.1):
        assert effective_df(still, v, tau2) == pytest.approx(k - 1)
    found = tau2_bounds(y, still, v, 0.1)
    np.testing.assert_allclose(found, q_profile(y, v), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("k", [20, 200])
def test_independent_deviations_count_in_full_however_few_the_draws(k):
    rng = np.random.default_rng(1)
    sizes = rng.uniform(0.5, 2, k)
    found = []
    for _ in range(40):
        deviations = sizes * rng.normal(size=(15, k))
        found.append(effective_df(deviations, total(deviations, np.full(k, 0.1)), 0.0))
    assert np.mean(found) == pytest.approx(k - 1, rel=0.12)


def test_deviations_along_one_direction_count_once():
    rng = np.random.default_rng(2)
    loading = rng.normal(size=300)
    together = rng.normal(size=(60, 1)) * loading
    variances = total(together, np.full(300, 1e-6))
    assert effective_df(together, variances, 0.0) < 1.2
    # What sequences differ by besides makes more of them.
    assert effective_df(together, variances, 100.0) > 200


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_order_and_unit_do_not_matter(seed, unit):
    rng = np.random.default_rng(seed)
    deviations, within = rng.normal(size=(12, 25)), rng.uniform(0.1, 1, 25)
    variances = total(deviations, within)
    expected = effective_df(deviations, variances, 0.2)
    draws, sequences = rng.permutation(12), rng.permutation(25)
    mixed = effective_df(deviations[draws][:, sequences], variances[sequences], 0.2)
    assert mixed == pytest.approx(expected)
    scaled = effective_df(unit * deviations, unit**2 * variances, unit**2 * 0.2)
    assert scaled == pytest.approx(expected)


def test_interval_covers_where_sequences_err_together():
    rng = np.random.default_rng(3)
    k, n_draws, rounds, tau2 = 120, 40, 150, 0.01
    gc = rng.normal(size=k)
    within = rng.uniform(0.004, 0.02, k)
    held = np.zeros((rounds, 2))
    for i in range(rounds):

        def error(count):
            return 0.12 * rng.normal(size=(count, 1)) * gc + 0.1 * rng.normal(size=(count, k))

        theta = rng.normal(0, np.sqrt(tau2), k)
        y = theta + error(1)[0] + np.sqrt(within) * rng.normal(size=k)
        deviations = error(n_draws)
        deviations -= pool(deviations, np.tile(within, (n_draws, 1)), "REML").estimate[:, None]
        u = total(deviations, within)
        estimate = float(pool(y[None], u[None], "REML").tau2[0])
        ours, plain = tau2_bounds(y, deviations, u, estimate), q_profile(y, u)
        held[i] = [low <= tau2 <= high for low, high in (ours, plain)]
    ours, plain = held.mean(axis=0)
    assert 0.91 < ours < 0.995
    assert plain < 0.8
