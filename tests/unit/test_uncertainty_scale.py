"""The scale of standard errors: recovery, and intervals that hold when errors are shared."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from deepmr.uncertainty.errors import Errors
from deepmr.uncertainty.scale import fit_scale, ratio_interval, zms_interval


def simulate(
    seed: int, sequences: int, mutations: int, scale: float = 1.0, shared: float = 0.0
) -> Errors:
    """Normal errors, a share of whose variance all mutations of a sequence have in common."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(sequences), mutations)
    se = np.exp(rng.normal(size=codes.size))
    z = np.sqrt(shared) * rng.standard_normal(sequences)[codes]
    z += np.sqrt(1 - shared) * rng.standard_normal(codes.size)
    return Errors(scale * z * se, se, codes)


def test_standard_errors_too_small_by_two_have_a_scale_of_two() -> None:
    found = fit_scale(simulate(0, 100, 100, 2.0), seed=1)
    assert found.s == pytest.approx(2, abs=0.04)
    assert found.low < 2 < found.high
    assert found.high - found.low < 0.1
    assert found.factor == pytest.approx(2, abs=0.04)
    exact = Errors(np.array([2.0, -2.0, 6.0]), np.array([1.0, 1.0, 3.0]), np.array([0, 0, 1]))
    assert fit_scale(exact, 0).s == 2


def test_errors_shared_within_a_sequence_need_a_bootstrap_of_sequences() -> None:
    simulations, held, naive_held = 300, 0, 0
    for seed in range(simulations):
        errors = simulate(seed, 20, 60, 2.0, shared=0.5)
        zms, low, high = zms_interval(errors, seed, replicates=400)
        held += low <= 4 <= high
        n = errors.error.size
        naive = n * zms / stats.chi2.ppf([0.975, 0.025], n)
        naive_held += naive[0] <= 4 <= naive[1]
    assert held / simulations == pytest.approx(0.95, abs=0.04)
    assert naive_held / simulations < 0.5


def test_independent_errors_have_the_interval_of_chi_squared() -> None:
    errors = simulate(3, 400, 25)
    zms, low, high = zms_interval(errors, 0, replicates=4000)
    expected = 10_000 * zms / stats.chi2.ppf([0.975, 0.025], 10_000)
    np.testing.assert_allclose([low, high], expected, atol=0.006)


@pytest.mark.parametrize(("factor", "offset"), [(1.5, 0.8), (0.7, 0.1), (0.0, 1.0), (2.0, 0.0)])
def test_factor_and_offset_are_recovered(factor: float, offset: float) -> None:
    rng = np.random.default_rng(7)
    se = np.exp(rng.normal(size=30_000))
    error = np.hypot(factor * se, offset) * rng.standard_normal(se.size)
    found = fit_scale(Errors(error, se, np.arange(se.size) // 100), 0)
    assert found.factor == pytest.approx(factor, abs=0.04)
    assert found.offset == pytest.approx(offset, abs=0.04)


def test_factor_and_offset_are_where_a_general_optimiser_ends() -> None:
    rng = np.random.default_rng(8)
    se = np.exp(2 * rng.normal(size=500))
    error = np.hypot(0.8 * se, 0.05) * rng.standard_normal(500)
    found = fit_scale(Errors(error, se, np.arange(500)), 0)

    def loss(logs: np.ndarray) -> float:
        variance = np.exp(2 * logs[0]) * se**2 + np.exp(2 * logs[1])
        return float(np.sum(np.log(variance) + error**2 / variance))

    best = minimize(loss, np.log([1.0, 0.1]), method="Nelder-Mead", options={"xatol": 1e-7})
    np.testing.assert_allclose([found.factor, found.offset], np.exp(best.x), rtol=1e-3)


def test_equal_standard_errors_leave_all_to_the_factor() -> None:
    rng = np.random.default_rng(9)
    found = fit_scale(Errors(rng.standard_normal(200), np.full(200, 0.5), np.arange(200)), 0)
    assert (found.factor, found.offset) == (pytest.approx(found.s), 0.0)


def test_a_scale_divides_the_mean_square_and_its_interval() -> None:
    errors = simulate(1, 30, 20, 1.7, shared=0.3)
    found = fit_scale(errors, 5)
    plain = np.array(zms_interval(errors, 5))
    np.testing.assert_allclose(plain, np.square([found.s, found.low, found.high]))
    np.testing.assert_allclose(zms_interval(errors, 5, scale=1.7), plain / 1.7**2)
    np.testing.assert_allclose(zms_interval(errors.scaled(1.7), 5), plain / 1.7**2)
    assert zms_interval(errors, 5, scale=found.s)[0] == pytest.approx(1)


def test_neither_codes_nor_rows_have_a_say() -> None:
    errors = simulate(2, 12, 9, shared=0.5)
    order = np.random.default_rng(0).permutation(errors.error.size)
    mixed = Errors(errors.error[order], errors.se[order], 10 * errors.sequence[order])
    for a, b in zip(zms_interval(errors, 4), zms_interval(mixed, 4), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    assert zms_interval(errors, 4) == zms_interval(errors, 4)
    assert zms_interval(errors, 4)[1:] != zms_interval(errors, 5)[1:]


def test_what_cannot_be_known_is_nan() -> None:
    one = Errors(np.array([1.0, 2.0]), np.ones(2), np.zeros(2, np.int64))
    assert zms_interval(one, 0)[0] == 2.5
    assert np.isnan(zms_interval(one, 0)[1:]).all()
    empty = Errors(np.empty(0), np.empty(0), np.empty(0, np.int64))
    heavy = Errors(np.ones(4), np.ones(4), np.arange(4), df=1.5)
    for errors in (empty, heavy):
        found = fit_scale(errors, 0)
        assert np.isnan([found.s, found.low, found.high, found.factor, found.offset]).all()


def test_few_sequences_say_little_and_like_ones_say_all() -> None:
    two = Errors(np.array([1.0, 3.0]), np.ones(2), np.arange(2))
    assert zms_interval(two, 0) == (5.0, 0.0, np.inf)
    alike = Errors(np.full(6, 0.3), np.full(6, 0.1), np.arange(6) // 2)
    np.testing.assert_allclose(zms_interval(alike, 0), 9.0)
    nothing = fit_scale(Errors(np.zeros(4), np.ones(4), np.arange(4)), 0)
    assert (nothing.s, nothing.factor, nothing.offset) == (0.0, 0.0, 0.0)


def test_wrong_numbers_are_refused() -> None:
    errors = simulate(0, 3, 3)
    with pytest.raises(ValueError, match="above 0"):
        zms_interval(errors, 0, scale=0.0)
    with pytest.raises(ValueError, match="1 or more"):
        zms_interval(errors, 0, replicates=0)


def test_the_ratio_is_of_root_mean_squares_and_heeds_tiny_standard_errors_little() -> None:
    errors = simulate(0, 100, 100, 2.0)
    found = fit_scale(errors, seed=1)
    expected = np.sqrt(np.sum(errors.error**2) / np.sum(errors.se**2))
    assert found.ratio == pytest.approx(expected, rel=1e-12)
    assert found.ratio_low < 2 < found.ratio_high
    se = errors.se.copy()
    se[::200] *= 1e-4
    tiny = fit_scale(Errors(errors.error, se, errors.sequence), seed=1)
    assert tiny.s > 50
    assert tiny.ratio == pytest.approx(found.ratio, rel=0.01)


def test_the_ratio_interval_is_that_of_the_scale_where_standard_errors_are_equal() -> None:
    rng = np.random.default_rng(2)
    errors = Errors(rng.standard_normal(600), np.full(600, 0.4), np.arange(600) // 20)
    assert ratio_interval(errors, 3) == pytest.approx(np.sqrt(zms_interval(errors, 3)), rel=1e-9)
    halved = ratio_interval(errors, 3, 2.0)
    assert halved == pytest.approx(np.array(ratio_interval(errors, 3)) / 2, rel=1e-9)
