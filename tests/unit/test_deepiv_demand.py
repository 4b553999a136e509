from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from threadpoolctl import threadpool_limits

from benchmarks.deepiv import Budget, Case, Networks
from benchmarks.demand_design import (
    PRICE_MEAN,
    PRICE_SD,
    TEST_ROWS,
    demand,
    sensitivity,
    standardised_error,
    structural,
)

Array = NDArray[np.float64]

MANY = 200_000
MC = 5 / np.sqrt(MANY)
"""Five standard errors of the mean of so many numbers with SD 1."""


def context(time_of_year: float, emotion: int) -> Array:
    return np.array([[time_of_year, *(float(emotion == each) for each in range(1, 8))]])


def over_the_year(function: object) -> float:
    return quad(function, 0, 10, points=[5])[0] / 10


def errors_of(rho: float, n: int = MANY, seed: int = 3) -> tuple[Array, Array]:
    """Return the shocks and the errors of the outcome, solved for in the equations."""
    data = demand(n, rho, seed)
    felt = sensitivity(data.context[:, 0]) * (data.instrument[:, 0] + 3)
    shock = PRICE_SD * data.price + PRICE_MEAN - 25 - felt
    return shock, data.outcome - structural(data.price, data.context)


def test_the_structural_function_by_hand() -> None:
    # psi(5) = 2 (0 + 1 + .5 - 2) = -1; (-10 - 3 x 17.779 + 292.1) / 158
    assert structural(np.zeros(1), context(5, 1)) == pytest.approx(228.763 / 158)
    # psi(0) = 2 (625/600 + e^-100 + 0 - 2) = -23/12;
    # (-70 x 23/12 - (7 x 23/12 + 2) x 21.479 + 292.1) / 158
    assert structural(np.ones(1), context(0, 7)) == pytest.approx(-173.20125 / 158)


def test_prices_and_outcomes_have_the_moments_of_the_design() -> None:
    data = demand(MANY, 0.5, 1)
    psi = over_the_year(sensitivity)
    psi2 = over_the_year(lambda t: sensitivity(t) ** 2)
    paid = 3 * psi + 25
    variance = psi2 + 9 * (psi2 - psi**2) + 1
    assert data.price.mean() == pytest.approx((paid - PRICE_MEAN) / PRICE_SD, abs=MC)
    assert data.price.std() == pytest.approx(np.sqrt(variance) / PRICE_SD, rel=MC)
    # E[10 psi s + (s psi - 2) paid], where E[s] = 4 and E[psi paid] = 3 E[psi^2] + 25 E[psi]
    sales = 40 * psi + 4 * (3 * psi2 + 25 * psi) - 2 * paid
    assert data.outcome.mean() == pytest.approx((sales + 292.1) / 158, abs=2 * MC)
    assert abs(data.price.mean()) < 0.02
    assert data.price.std() == pytest.approx(1, abs=0.02)
    assert data.instrument.mean() == pytest.approx(0, abs=MC)
    assert data.instrument.std() == pytest.approx(1, rel=MC)


def test_contexts_are_uniform_times_and_emotions() -> None:
    data = demand(MANY, 0.5, 1)
    time_of_year, emotion = data.context[:, 0], data.context[:, 1:]
    assert (time_of_year.min(), time_of_year.max()) == pytest.approx((0, 10), abs=0.001)
    assert time_of_year.mean() == pytest.approx(5, abs=3 * MC)
    assert np.array_equal(emotion.sum(axis=1), np.ones(MANY))
    assert emotion.mean(axis=0) == pytest.approx(np.full(7, 1 / 7), abs=MC)


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_rho_is_the_correlation_of_the_errors_of_price_and_outcome(rho: float) -> None:
    shock, error = errors_of(rho)
    for values in (shock, error):
        assert values.mean() == pytest.approx(0, abs=MC)
        assert values.std() == pytest.approx(1, rel=MC)
    assert np.corrcoef(shock, error)[0, 1] == pytest.approx(rho, abs=MC)
    data = demand(MANY, rho, 3)
    assert np.corrcoef(data.instrument[:, 0], error)[0, 1] == pytest.approx(0, abs=MC)
    assert np.corrcoef(data.price, error)[0, 1] > 0.2 * rho


@given(st.integers(0, 2**32), st.integers(1, 50), st.floats(0, 1))
def test_a_sample_is_a_function_of_its_seed(seed: int, n: int, rho: float) -> None:
    first, second = demand(n, rho, seed), demand(n, rho, seed)
    for name in ("context", "instrument", "price", "outcome"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.context.shape == (n, 8)
    assert first.instrument.shape == (n, 1)
    assert not np.array_equal(first.price, demand(n, rho, seed + 1).price)


def test_the_error_is_against_the_truth_on_an_even_grid() -> None:
    seen = {}

    def off_by_half(price: Array, contexts: Array) -> Array:
        seen["price"], seen["context"] = price, contexts
        return structural(price, contexts) + 0.5

    assert standardised_error(structural, 0.5, 1) == 0
    assert standardised_error(off_by_half, 0.5, 1) == pytest.approx(0.25)
    assert np.diff(seen["price"]) == pytest.approx(np.diff(seen["price"])[0])
    prices = demand(MANY, 0.5, 2).price
    inside = np.mean((prices > seen["price"][0]) & (prices < seen["price"][-1]))
    assert inside == pytest.approx(0.95, abs=0.01)
    assert seen["context"].shape == (TEST_ROWS, 8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_test_set_is_not_the_training_set(seed: int) -> None:
    contexts = []
    standardised_error(lambda price, context: contexts.append(context) or price, 0.5, seed)
    trained_on = demand(TEST_ROWS, 0.5, seed).context[:, 0]
    assert not np.intersect1d(contexts[0][:, 0], trained_on).size


def test_deep_iv_is_nearer_to_the_truth_than_the_naive_network() -> None:
    case = Case(1_000, 0.9, 1, Budget(80, 150, 100))
    with threadpool_limits(1):
        networks = Networks.of(case, demand(case.n, case.rho, case.seed))
        deep_iv = networks.deep_iv(networks.drawer(), "one_sample")
        naive = networks.naive()
    error = standardised_error(deep_iv, case.rho, case.seed)
    assert error < 0.6 * standardised_error(naive, case.rho, case.seed)
    assert error < 0.35
