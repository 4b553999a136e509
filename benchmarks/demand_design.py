"""The demand design, as the authors of Deep IV released it, in standardised units.

Demand for a good depends on its price, the time of the year and the customer's emotion; the price
was set in the light of an unobserved shock to demand, whose correlation with the error of the
outcome is `rho`; the fuel price is the instrument (Hartford, Lewis, Leyton-Brown and Taddy, ICML
2017, section 5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[Array, Array], Array]

PRICE_MEAN, PRICE_SD = 17.779, 3.7
OUTCOME_MEAN, OUTCOME_SD = -292.1, 158.0
EMOTIONS = 7
TEST_ROWS = 5_000
TEST_STREAM = 1
"""Beside the seed of the training set, in the seed of the test set."""


@dataclass(frozen=True, eq=False)
class Demand:
    """Customers.

    Attributes
    ----------
    context : ndarray, shape (n, 8)
        Time of the year (0 to 10) and seven columns of 0 and 1, the emotion.
    instrument : ndarray, shape (n, 1)
        Price of fuel, in SDs.
    price, outcome : ndarray, shape (n,)
        Exposure and sales, standardised.
    """

    context: Array
    instrument: Array
    price: Array
    outcome: Array


def sensitivity(time_of_year: Array) -> Array:
    """Return psi, how sensitive demand is to prices at a time; any shape."""
    distance = time_of_year - 5
    return 2 * (distance**4 / 600 + np.exp(-((distance / 0.5) ** 2)) + time_of_year / 10 - 2)


def structural(price: Array, context: Array) -> Array:
    """Return g, the mean outcome were the price set so; shapes (n,), (n, 8)."""
    emotion = context[:, 1:] @ np.arange(1.0, EMOTIONS + 1)
    felt = sensitivity(context[:, 0]) * emotion
    return (10 * felt + (felt - 2) * (PRICE_SD * price + PRICE_MEAN) - OUTCOME_MEAN) / OUTCOME_SD


def demand(n: int, rho: float, seed: int | Sequence[int]) -> Demand:
    """Return n customers whose errors of price and outcome have correlation rho."""
    rng = np.random.default_rng(seed)
    time_of_year = rng.uniform(0, 10, n)
    emotion = np.eye(EMOTIONS)[rng.integers(EMOTIONS, size=n)]
    fuel, shock, own = rng.standard_normal((3, n))
    paid = sensitivity(time_of_year) * (fuel + 3) + 25 + shock
    price = (paid - PRICE_MEAN) / PRICE_SD
    context = np.column_stack([time_of_year, emotion])
    error = rho * shock + np.sqrt(1 - rho**2) * own
    return Demand(context, fuel[:, None], price, structural(price, context) + error)


def standardised_error(predict: Predict, rho: float, seed: int) -> float:
    """Return the mean squared error of a structural function.

    Parameters
    ----------
    predict : callable
        Maps prices (n,) and contexts (n, 8) to outcomes (n,).
    rho : float
        As in the training set; the grid of prices depends on it by chance only.
    seed : int
        Of the training set; the test set derives from it and is another.
    """
    test = demand(TEST_ROWS, rho, [seed, TEST_STREAM])
    grid = np.linspace(*np.percentile(test.price, [2.5, 97.5]), TEST_ROWS)
    return float(np.mean((predict(grid, test.context) - structural(grid, test.context)) ** 2))
