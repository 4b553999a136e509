"""Where a function of the variance between sequences is 0, and where a likelihood is highest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import elementwise

from deepmr.meta.result import Array

OfRows = Callable[[Array, NDArray[np.int64]], Array]
"""A function of tau2, shape (n,), in the rows of a stack, shape (n,)."""

_GRID = 32
_BELOW = 0.1
"""The grid begins at this times the least variance; below it the score hardly bends."""


def roots(function: OfRows, low: Array, high: Array, rows: NDArray[np.int64]) -> Array:
    """Return the roots of a function, to machine precision.

    Parameters
    ----------
    function : callable
        Of tau2 and rows.
    low, high : ndarray, shape (n,)
        Brackets on which the sign changes.
    rows : ndarray of int, shape (n,)
        The row of each.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    RuntimeError
        If one is not found.
    """

    def of_numbers(x: Array, row: Array) -> Array:
        return function(x, row.astype(np.int64))

    found = elementwise.find_root(of_numbers, (low, high), args=(rows.astype(np.float64),))
    if not found.success.all():
        raise RuntimeError(
            f"no variance between sequences found in {int((~found.success).sum())} of {rows.size} "
            "rows; are estimates and variances finite and of a size whose square a float64 holds?"
        )
    return np.asarray(found.x)


def highest_maximum(score: OfRows, log_likelihood: OfRows, least: Array, high: Array) -> Array:
    """Return the tau2 >= 0 with the highest likelihood, in every row.

    The score is looked at on a grid, every fall through 0 is solved and the highest is taken. Only
    a pair of maximum and minimum between two neighbours of the grid could be missed.

    Parameters
    ----------
    score, log_likelihood : callable
        Of tau2 and rows; the score is the likelihood's slope times anything above 0.
    least : ndarray, shape (rows,)
        The least variance of an estimate.
    high : ndarray, shape (rows,)
        Beyond it the score is nowhere above 0; at least `least`.

    Returns
    -------
    ndarray, shape (rows,)
    """
    everything = np.arange(len(least))
    low = _BELOW * least
    steps = np.linspace(0.0, 1.0, _GRID)
    grid = np.column_stack([np.zeros_like(low), low[:, None] * (high / low)[:, None] ** steps])
    rising = np.column_stack([score(x, everything) > 0 for x in grid.T])
    rows, j = np.nonzero(rising[:, :-1] & ~rising[:, 1:])
    tau2 = np.zeros(len(least))
    if not rows.size:
        return tau2
    found = roots(score, grid[rows, j], grid[rows, j + 1], rows)
    maxima = np.bincount(rows, minlength=len(least)) + ~rising[:, 0]
    only = maxima[rows] == 1
    tau2[rows[only]] = found[only]
    for row in np.flatnonzero(maxima > 1):
        at = np.concatenate([[0.0] if not rising[row, 0] else [], found[rows == row]])
        here = log_likelihood(at, np.full(at.size, row))
        tau2[row] = at[int(np.argmax(here))]
    return tau2
