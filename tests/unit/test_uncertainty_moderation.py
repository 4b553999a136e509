"""Moderated variances against limma, against simulated truth and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import polygamma

from deepmr.uncertainty.moderation import moderate, trigamma_inverse

# inmoose.limma.squeezeVar (inmoose 0.9.1, the Python port of limma) with 4 degrees of freedom.
SCATTERED = [
    [0.1498, 1.7575, 0.9693, 6.4375, 3.5255, 0.6572],
    [0.4192, 3.0074, 0.3431, 0.3519, 1.8568, 0.5446],
]
LIMMA = {
    "variance": [
        [0.55705818, 1.35624778, 0.96443261, 3.68268141, 2.23512271, 0.80928733],
        [0.69097724, 1.97757458, 0.65314784, 0.65752233, 1.40560993, 0.75331373],
    ],
    "prior_variance": 0.9596213377449215,
    "prior_df": 4.046651205384477,
}
LIMMA_WITH_A_ZERO_FIRST = {"prior_variance": 0.05726330652169823, "prior_df": 0.6070638843827354}


def test_it_is_what_limma_computes() -> None:
    found = moderate(np.ravel(SCATTERED), 4)
    np.testing.assert_allclose(found.variance, np.ravel(LIMMA["variance"]), rtol=1e-7)
    assert found.prior_variance == pytest.approx(LIMMA["prior_variance"], rel=1e-10)
    assert found.prior_df == pytest.approx(LIMMA["prior_df"], rel=1e-10)
    assert found.df == found.prior_df + 4


def test_a_variance_of_zero_is_what_limma_makes_of_it() -> None:
    x = np.ravel(SCATTERED)
    x[0] = 0.0
    found = moderate(x, 4)
    assert found.prior_variance == pytest.approx(
        LIMMA_WITH_A_ZERO_FIRST["prior_variance"], rel=1e-10
    )
    assert found.prior_df == pytest.approx(LIMMA_WITH_A_ZERO_FIRST["prior_df"], rel=1e-10)
    share = found.prior_df / (found.prior_df + 4)
    assert found.variance[0] == pytest.approx(share * found.prior_variance)


@pytest.mark.parametrize(("prior_df", "df"), [(3.0, 4), (8.0, 2), (20.0, 5), (1.5, 1)])
def test_simulated_priors_are_found(prior_df: float, df: int) -> None:
    rng = np.random.default_rng(1)
    variance = prior_df * 0.7 / rng.chisquare(prior_df, 40_000)
    found = moderate(variance * rng.chisquare(df, 40_000) / df, df)
    assert found.prior_df == pytest.approx(prior_df, rel=0.12)
    assert found.prior_variance == pytest.approx(0.7, rel=0.05)
    # Of mutations with a like moderated variance, it is the mean of the true precisions.
    for part in np.array_split(np.argsort(found.variance), 8):
        precision = 1 / variance[part]
        assert np.mean(precision * found.variance[part]) == pytest.approx(1, abs=0.06)


def test_variances_that_differ_by_chance_alone_become_their_mean() -> None:
    even = np.array([0.9, 1.0, 1.1, 1.3, 0.8])
    found = moderate(even, 4)
    assert (found.prior_df, found.df) == (np.inf, 20)
    np.testing.assert_allclose(found.variance, even.mean())
    assert moderate([0.5], 3).variance == pytest.approx([0.5])


def test_no_more_degrees_of_freedom_than_all_mutations_have() -> None:
    assert moderate([0.5], 3).df == 3
    two = moderate([0.5, 2.0], 3)
    assert two.prior_df + 3 > 6
    assert two.df == 6


def test_zeros_alone_stay_zeros_and_most_zeros_do_not_matter() -> None:
    assert not moderate(np.zeros(5), 2).variance.any()
    mostly = np.array([0.0, 0.0, 0.0, 0.0, 2.0, 3.0])
    found, larger = moderate(mostly, 2), moderate(1e6 * mostly, 2)
    assert (found.variance > 0).all()
    np.testing.assert_allclose(larger.variance, 1e6 * found.variance)


@given(st.floats(-9, 9))
def test_trigamma_is_inverted(exponent: float) -> None:
    x = 10.0**exponent
    assert polygamma(1, trigamma_inverse([x])[0]) == pytest.approx(x, rel=1e-6)


@given(st.lists(st.floats(1e-8, 1e8), min_size=2, max_size=30), st.integers(1, 9), st.randoms())
def test_order_is_kept_and_units_and_row_order_do_not_matter(values, df, random) -> None:
    x = np.array(values)
    found = moderate(x, df).variance
    assert (np.diff(found[np.argsort(x)]) >= -1e-12 * found.max()).all()
    np.testing.assert_allclose(moderate(1024.0 * x, df).variance, 1024.0 * found, rtol=1e-5)
    order = list(range(x.size))
    random.shuffle(order)
    np.testing.assert_allclose(moderate(x[order], df).variance, found[order], rtol=1e-5)


@pytest.mark.parametrize(
    ("variances", "df", "message"),
    [
        ([], 2, "n >= 1"),
        ([[1.0]], 2, "n >= 1"),
        ([1.0, -1.0], 2, "negative"),
        ([1.0, np.nan], 2, "not finite"),
        ([1.0], 0, "above 0"),
    ],
)
def test_what_are_no_variances_is_refused(variances, df, message) -> None:
    with pytest.raises(ValueError, match=message):
        moderate(variances, df)


def test_trigamma_takes_no_value_at_or_below_zero() -> None:
    with pytest.raises(ValueError, match="above 0"):
        trigamma_inverse([1.0, 0.0])
