from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from deepmr.meta.multiplicity import FEW, LAMBDAS, benjamini_hochberg, storey_q

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def test_a_case_by_hand() -> None:
    # 5 p/rank: .05, .05, .0667, .0625, .5; from the right the least so far.
    found = benjamini_hochberg([0.01, 0.02, 0.04, 0.05, 0.5])
    np.testing.assert_allclose(found, [0.05, 0.05, 0.0625, 0.0625, 0.5])


def test_pi0_by_hand() -> None:
    # 40 p-values, 10 of them above 1/2: pi0 = (1 + 10)/(40 * 1/2).
    p = np.concatenate([np.full(30, 0.001), np.linspace(0.55, 0.95, 10)])
    found = storey_q(p, lambdas=[0.5])
    assert found.pi0_kind == "bootstrap"
    assert found.pi0 == pytest.approx(0.55)
    np.testing.assert_allclose(found.q, 0.55 * benjamini_hochberg(p))


def test_the_choice_of_lambda_by_hand() -> None:
    # n = 20, lambdas .2, .5: 12 and 4 p-values above, so pi0 = 13/16 and 5/10. The .1 quantile is
    # .5 + .1 * .3125 = .53125; mean squared errors 12 * .4/16^2 + .28125^2 and
    # 4 * .8/10^2 + .03125^2: the second is the least.
    p = np.concatenate([np.full(8, 0.1), np.full(8, 0.3), np.full(4, 0.9)])
    assert storey_q(p, lambdas=[0.2, 0.5]).pi0 == pytest.approx(0.5)
    assert storey_q(p, lambdas=[0.5, 0.2]).pi0 == pytest.approx(0.5)


@pytest.mark.parametrize("n", [1, 5, FEW - 1])
def test_few_p_values_are_benjamini_and_hochberg(n: int) -> None:
    p = np.random.default_rng(n).random(n)
    found = storey_q(p)
    assert (found.pi0, found.pi0_kind) == (1.0, "one")
    np.testing.assert_array_equal(found.q, benjamini_hochberg(p))


@settings(deadline=None)
@given(P_VALUES, st.integers(0, 5))
def test_orders_and_gaps(p: list[float], gaps: int) -> None:
    values = np.array(p)
    adjusted, found = benjamini_hochberg(values), storey_q(values)
    order = np.argsort(values)
    for q in (adjusted, found.q):
        assert (np.diff(q[order]) >= 0).all()
        assert ((q >= 0) & (q <= 1)).all()
    assert (adjusted >= values * (1 - 1e-12)).all()
    assert (found.q <= adjusted).all()
    assert 0 < found.pi0 <= 1
    with_gaps = np.concatenate([np.full(gaps, np.nan), values])
    np.testing.assert_array_equal(benjamini_hochberg(with_gaps)[gaps:], adjusted)
    again = storey_q(with_gaps)
    assert np.isnan(again.q[:gaps]).all()
    np.testing.assert_array_equal(again.q[gaps:], found.q)
    assert (again.pi0, again.pi0_kind) == (found.pi0, found.pi0_kind)


def test_no_p_value() -> None:
    for nothing in ([], [np.nan, np.nan]):
        assert np.isnan(benjamini_hochberg(nothing)).all()
        found = storey_q(nothing)
        assert found.q.shape == (len(nothing),)
        assert np.isnan(found.q).all()
        assert np.isnan(found.pi0)


def test_all_p_values_zero_leave_a_share_of_null_hypotheses() -> None:
    found = storey_q(np.zeros(100))
    assert 0 < found.pi0 < 0.25
    np.testing.assert_array_equal(found.q, np.zeros(100))


def test_false_discoveries_are_controlled() -> None:
    rng = np.random.default_rng(3)
    n, rounds = 200, 800
    null = np.arange(n) < 0.6 * n
    rates: dict[str, list[float]] = {"bh": [], "storey": []}
    power: dict[str, list[float]] = {"bh": [], "storey": []}
    pi0 = []
    for _ in range(rounds):
        p = 2 * norm.sf(np.abs(rng.standard_normal(n) + np.where(null, 0.0, 3.0)))
        found = storey_q(p)
        pi0.append(found.pi0)
        for name, q in (("bh", benjamini_hochberg(p)), ("storey", found.q)):
            chosen = q <= 0.1
            rates[name].append((chosen & null).sum() / max(chosen.sum(), 1))
            power[name].append((chosen & ~null).sum() / (~null).sum())
    error = np.std(rates["storey"]) / np.sqrt(rounds)
    # At pi0 times the level, and at nearly all of the level.
    assert np.mean(rates["bh"]) == pytest.approx(0.06, abs=4 * error)
    assert 0.08 < np.mean(rates["storey"]) < 0.11
    assert np.mean(power["storey"]) > np.mean(power["bh"])
    assert np.mean(pi0) == pytest.approx(0.6, abs=0.05)


def test_what_cannot_be_meant_is_refused() -> None:
    for call in (benjamini_hochberg, storey_q):
        with pytest.raises(ValueError, match="between 0 and 1"):
            call([0.5, 1.5])
        with pytest.raises(ValueError, match="between 0 and 1"):
            call([-0.1])
        with pytest.raises(ValueError, match="shape"):
            call([[0.1]])
    for lambdas in ([], [1.0], [-0.1], [[0.5]]):
        with pytest.raises(ValueError, match="lambdas"):
            storey_q([0.1], lambdas)
    assert len(LAMBDAS) == 19
