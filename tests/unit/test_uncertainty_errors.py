"""Errors of effects from each of their references: known answers and exchangeable members."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmr.uncertainty.errors import (
    Errors,
    against_left_out,
    against_retrained,
    against_truth,
    ensemble_se,
)
from deepmr.uncertainty.scores import coverage, zms


def test_deviations_from_the_mean_of_members_have_a_members_variance() -> None:
    effects = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    se = np.array([[1.0, 2.0, 0.5], [1.0, 0.0, np.nan]])
    errors = against_retrained(effects, se, [7, 4])
    np.testing.assert_allclose(errors.error, np.sqrt(1.5) * np.array([-2.0, -1.0, 3.0, -1.0]))
    np.testing.assert_array_equal(errors.se, [1.0, 2.0, 0.5, 1.0])
    np.testing.assert_array_equal(errors.sequence, [7, 7, 7, 4])
    assert (errors.n_without_se, errors.df, errors.n_sequences) == (2, np.inf, 2)


def test_what_rounding_leaves_of_a_zero_is_no_standard_error() -> None:
    errors = against_truth([1.0, 2.0, 3.0], [0.5, 1e-9, 1e-4], np.zeros(3), np.arange(3))
    np.testing.assert_array_equal(errors.se, [0.5, 1e-4])
    assert errors.n_without_se == 1


@given(st.integers(2, 6), st.integers(0, 1000))
def test_mean_squared_z_is_the_published_scale(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects, se = rng.normal(size=(9, k)), rng.uniform(0.5, 2, (9, k))
    deviation = effects - effects.mean(axis=1, keepdims=True)
    expected = np.sum((deviation / se) ** 2) / (9 * (k - 1))
    assert zms(against_retrained(effects, se, np.arange(9))) == pytest.approx(expected)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_members_as_far_apart_as_they_say_are_calibrated(k: int) -> None:
    rng = np.random.default_rng(k)
    se = np.exp(rng.normal(size=(20_000, 1))) * np.ones(k)
    effects = rng.normal(size=(20_000, 1)) + se * rng.standard_normal((20_000, k))
    codes = np.arange(20_000)
    assert zms(against_retrained(effects, se, codes)) == pytest.approx(1, abs=0.03)
    assert zms(against_retrained(effects, se / 2, codes)) == pytest.approx(4, abs=0.12)


def test_a_left_out_member_is_held_against_the_others() -> None:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(50, 4)) * np.exp(2 * rng.normal(size=(50, 1)))
    errors = against_left_out(effects, np.arange(50))
    np.testing.assert_allclose(errors.error[:4], effects[0] - (effects[0].sum() - effects[0]) / 3)
    assert errors.df == errors.prior_df + 2
    # The prior moves a variance by as much as it knows: with its df it can be taken back.
    others = np.array([np.delete(row, k).var(ddof=1) for row in effects for k in range(4)])
    moderated = errors.se**2 * 3 / 4
    prior = moderated * (errors.prior_df + 2) - 2 * others
    np.testing.assert_allclose(prior, prior[0], rtol=1e-8)


@pytest.mark.parametrize("k", [3, 5, 8])
def test_exchangeable_members_predict_each_other(k: int) -> None:
    rng = np.random.default_rng(k)
    center = rng.normal(size=(20_000, 1))
    errors = against_left_out(center + 0.3 * rng.standard_normal((20_000, k)), np.arange(20_000))
    assert zms(errors) == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(coverage(errors, [0.5, 0.8, 0.95]), [0.5, 0.8, 0.95], atol=0.01)


@pytest.mark.parametrize("k", [4, 6])
def test_exchangeable_members_whose_spread_differs_by_mutation_do_too(k: int) -> None:
    rng = np.random.default_rng(k)
    spread = np.sqrt(6 / rng.chisquare(6, (20_000, 1)))
    errors = against_left_out(spread * rng.standard_normal((20_000, k)), np.arange(20_000))
    assert errors.prior_df == pytest.approx(6, rel=0.15)
    assert zms(errors) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(coverage(errors, [0.5, 0.8, 0.95]), [0.5, 0.8, 0.95], atol=0.01)


def test_variance_within_members_widens_what_members_do_not_show() -> None:
    rng = np.random.default_rng(2)
    k, between, within = 5, 0.09, 0.16
    spread = np.sqrt(between) * rng.standard_normal((20_000, k))
    variance = np.full((20_000, k), within)
    errors = against_left_out(spread, np.arange(20_000), variance)
    expected = between * k / (k - 1)
    assert zms(errors) == pytest.approx(expected / (between + within), abs=0.01)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_the_standard_error_under_masks_is_the_sd_of_the_draws_of_a_run(k: int) -> None:
    rng = np.random.default_rng(k)
    members, n_draws = rng.standard_normal((4000, k)), 240
    run = members[:, np.arange(n_draws) % k] + 0.5 * rng.standard_normal((4000, n_draws))
    alone = members[..., None] + 0.5 * rng.standard_normal((4000, k, n_draws))
    se, _, _ = ensemble_se(alone.mean(axis=2), alone.var(axis=2, ddof=1))
    assert np.mean(se**2) == pytest.approx(np.mean(run.var(axis=1, ddof=1)), rel=0.02)


@given(st.integers(3, 7), st.integers(0, 1000))
def test_members_that_predict_each_other_cannot_show_a_wrong_scale(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = rng.normal(size=(9, k)) * np.exp(rng.normal(size=(9, k)))
    error = against_left_out(effects, np.arange(9)).error
    # The mean over members of V_-k is V.
    expected = np.mean(effects.var(axis=1, ddof=1)) * k / (k - 1)
    assert np.mean(error**2) == pytest.approx(expected)


def test_the_left_out_members_own_variance_is_not_used() -> None:
    rng = np.random.default_rng(3)
    effects, within = rng.normal(size=(30, 4)), rng.uniform(0.1, 1, (30, 4))
    before = against_left_out(effects, np.arange(30), within)
    within[:, 2] += 5.0
    after = against_left_out(effects, np.arange(30), within)
    same = np.isclose(after.se, before.se).reshape(30, 4)
    assert same[:, 2].all()
    assert not same[:, [0, 1, 3]].any()


def test_degrees_of_freedom_grow_with_a_known_part() -> None:
    rng = np.random.default_rng(4)
    effects = rng.normal(size=(40, 4)) * np.exp(2 * rng.normal(size=(40, 1)))
    alone, df, prior_df = ensemble_se(effects)
    assert df == prior_df + 3
    total, summed_df, _ = ensemble_se(effects, np.ones((40, 4)))
    between = alone**2 * 3 / 4
    np.testing.assert_allclose(total**2, between + 1)
    np.testing.assert_allclose(summed_df, df * (total**2 / between) ** 2)
    unchanged, same_df, _ = ensemble_se(effects, np.zeros((40, 4)))
    np.testing.assert_allclose(unchanged**2, between)
    np.testing.assert_allclose(same_df, df)


def test_the_spread_of_members_says_how_far_the_truth_may_be() -> None:
    rng = np.random.default_rng(5)
    effects = 0.3 * rng.standard_normal((20_000, 6))
    se, df, _ = ensemble_se(effects)
    assert se.mean() == pytest.approx(0.3, abs=0.01)
    # A truth that is one more member.
    truth = 0.3 * rng.standard_normal(20_000)
    errors = against_truth(effects.mean(axis=1), se, truth, np.arange(20_000), df)
    assert zms(errors) == pytest.approx(1 + 1 / 6, abs=0.03)


def test_errors_from_the_truth() -> None:
    errors = against_truth([1.0, 2.0, 3.0], [0.5, np.inf, 2.0], [0.0, 0.0, 4.0], [1, 1, 2], df=5)
    np.testing.assert_array_equal(errors.error, [1.0, -1.0])
    np.testing.assert_array_equal(errors.sequence, [1, 2])
    assert (errors.n_without_se, errors.df) == (1, 5)
    np.testing.assert_allclose(errors.sd, np.array([0.5, 2.0]) * np.sqrt(5 / 3))


def test_parts_and_multiples() -> None:
    errors = Errors(np.arange(4.0), np.ones(4), np.array([0, 1, 1, 2]), np.array([3.0, 4, 5, 6]), 2)
    part = errors.of_sequences([1, 2])
    np.testing.assert_array_equal(part.error, [1, 2, 3])
    np.testing.assert_array_equal(part.df, [4, 5, 6])
    np.testing.assert_array_equal(errors.scaled(2.5).se, 2.5 * np.ones(4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: against_retrained([[1.0]], [[1.0]], [0]), "2 or more"),
        (lambda: against_retrained([[1.0, 2.0]], [[1.0]], [0]), "an element for each effect"),
        (lambda: against_retrained([[1.0, 2.0]], [[1.0, 1.0]], [0, 1]), "a row for each mutation"),
        (lambda: against_retrained([[1.0, np.nan]], [[1.0, 1.0]], [0]), "not finite"),
        (lambda: against_retrained([[1.0, 2.0]], [[1.0, -1.0]], [0]), "below 0"),
        (lambda: against_retrained([[1.0, 2.0]], [[1.0, 1.0]], ["a"]), "integer codes"),
        (lambda: against_left_out([[1.0, 2.0]], [0]), "3 or more"),
        (lambda: against_truth([1.0], [1.0], [np.nan], [0]), "true effects are not finite"),
        (lambda: against_truth([1.0], [1.0], [1.0, 2.0], [0]), "an element for each effect"),
        (lambda: ensemble_se([[1.0]]), "2 or more"),
    ],
)
def test_wrong_input_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
