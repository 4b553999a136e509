"""Scores of standard errors: exact cases, and errors that are calibrated by construction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deepmr.uncertainty.errors import Errors
from deepmr.uncertainty.scores import (
    LEVELS,
    coverage,
    ence,
    rmse,
    share_of_largest,
    sharpness,
    zms,
)


def make(error: object, se: object, df: float = np.inf) -> Errors:
    error = np.asarray(error, np.float64)
    return Errors(error, np.asarray(se, np.float64), np.arange(error.size), df)


def normal(n: int, scale: float = 1.0, seed: int = 0) -> Errors:
    rng = np.random.default_rng(seed)
    se = np.exp(rng.normal(size=n))
    return make(scale * se * rng.standard_normal(n), se)


def test_standard_errors_too_small_by_two_have_a_zms_of_four() -> None:
    assert zms(make([2.0, -4.0, 6.0], [1.0, 2.0, 3.0])) == 4.0
    assert zms(normal(100_000, 2.0)) == pytest.approx(4, abs=0.06)


def test_the_largest_hundredth_of_normal_errors_carries_a_twelfth() -> None:
    cut = stats.norm.isf(0.005)
    expected = 2 * (cut * stats.norm.pdf(cut) + 0.005)
    assert expected == pytest.approx(0.08, abs=0.005)
    assert share_of_largest(normal(200_000)) == pytest.approx(expected, abs=0.004)
    assert share_of_largest(make([3.0, 4.0], [1.0, 1.0])) == pytest.approx(16 / 25)
    assert np.isnan([share_of_largest(make([], [])), share_of_largest(make([0.0], [1.0]))]).all()


def test_ence_is_zero_when_exact_and_the_relative_error_when_not() -> None:
    se = np.repeat(np.arange(1.0, 11.0), 8)
    signs = np.tile([1.0, -1.0], 40)
    assert ence(make(signs * se, se)) == 0
    assert ence(make(1.5 * signs * se, se)) == pytest.approx(0.5)
    # Right on average, too large below and too small above.
    halves = np.where(se <= 5, 0.6, 1.2)
    assert ence(make(halves * signs * se, se)) == pytest.approx((0.4 + 0.2) / 2)


def test_ence_of_calibrated_errors_vanishes_with_their_number() -> None:
    few, many = (ence(normal(n, seed=1)) for n in (300, 300_000))
    assert many < 0.01 < few < 0.3


def test_equal_standard_errors_share_a_bin_whatever_the_order() -> None:
    error = np.r_[np.full(30, 2.0), np.zeros(10)]
    order = np.random.default_rng(0).permutation(40)
    expected = abs(1 - np.sqrt(3.0))
    assert ence(make(error, np.ones(40))) == pytest.approx(expected)
    assert ence(make(error[order], np.ones(40))) == pytest.approx(expected)


def test_coverage_of_calibrated_normal_errors_is_the_level() -> None:
    np.testing.assert_allclose(coverage(normal(200_000)), LEVELS, atol=0.005)
    wide = coverage(normal(200_000, 0.5))
    np.testing.assert_allclose(
        wide, 2 * stats.norm.cdf(2 * stats.norm.isf((1 - np.array(LEVELS)) / 2)) - 1, atol=0.005
    )


@pytest.mark.parametrize("df", [1.0, 3.0, 8.0])
def test_errors_of_students_t_are_covered_with_its_quantiles(df: float) -> None:
    se = np.exp(np.random.default_rng(1).normal(size=200_000))
    errors = make(se * stats.t.rvs(df, size=se.size, random_state=2), se, df)
    np.testing.assert_allclose(coverage(errors), LEVELS, atol=0.005)
    normal_quantiles = coverage(make(errors.error, errors.se))
    assert normal_quantiles[-1] < LEVELS[-1] - 0.005


def test_the_variance_of_students_t_counts() -> None:
    se = np.exp(np.random.default_rng(3).normal(size=400_000))
    errors = make(se * stats.t.rvs(8, size=se.size, random_state=4), se, 8.0)
    assert zms(errors) == pytest.approx(1, abs=0.02)
    assert ence(errors) < 0.03
    assert np.isnan(zms(make([1.0], [1.0], 2.0)))
    assert np.isnan(ence(make([1.0], [1.0], 2.0)))


def test_degrees_of_freedom_may_differ_between_errors() -> None:
    df = np.array([3.0, np.inf])
    quantile = np.array([stats.t.ppf(0.95, 3), stats.norm.ppf(0.95)])
    inside = Errors(0.999 * quantile, np.ones(2), np.arange(2), df)
    outside = Errors(1.001 * quantile, np.ones(2), np.arange(2), df)
    assert (coverage(inside, [0.9]), coverage(outside, [0.9])) == (1.0, 0.0)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=40),
    st.randoms(),
)
def test_units_and_order_do_not_matter(pairs, random) -> None:
    errors = make(*np.array(pairs).T)
    scaled = make(4 * errors.error, 4 * errors.se)
    random.shuffle(pairs)
    mixed = make(*np.array(pairs).T)
    for other in (scaled, mixed):
        assert zms(other) == pytest.approx(zms(errors), rel=1e-9)
        assert ence(other) == pytest.approx(ence(errors), rel=1e-9)
        np.testing.assert_array_equal(coverage(other), coverage(errors))
    assert sharpness(scaled) == pytest.approx(4 * sharpness(errors))
    assert rmse(scaled) == pytest.approx(4 * rmse(errors))
    assert (np.diff(coverage(errors)) >= 0).all()


def test_no_errors_have_no_scores() -> None:
    none = make([], [])
    assert np.isnan([zms(none), ence(none), sharpness(none), rmse(none), *coverage(none)]).all()


def test_wrong_levels_and_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        coverage(normal(3), [0.5, 1.0])
    with pytest.raises(ValueError, match="1 or more"):
        ence(normal(3), 0)
