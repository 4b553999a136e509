"""Standard units of a column of numbers, and what is asked of one before it is learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class StandardUnits:
    """Where a column's 0 is and how large its 1 is, for networks that learn best near both.

    Attributes
    ----------
    location : ndarray of float64, shape () or (columns,)
        Mean of each column.
    scale : ndarray of float64, shape () or (columns,)
        Its standard deviation; 1 for a constant column.
    """

    location: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> StandardUnits:
        """Return the units in which values (n,) or (n, columns) have mean 0 and variance 1."""
        spread = values.std(axis=0)
        return cls(np.asarray(values.mean(axis=0)), np.where(spread > 0, spread, 1.0))

    @classmethod
    def own(cls) -> StandardUnits:
        """Return the units that leave values as they are."""
        return cls(np.array(0.0), np.array(1.0))

    def standardise(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values in these units."""
        return (values - self.location) / self.scale

    def restore(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values that were in these units as they were."""
        return values * self.scale + self.location


def finite_column(
    name: str, values: ArrayLike, n: int, used: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return numbers of n rows, all of them finite where they are used.

    Parameters
    ----------
    name : str
        What they are, for the error.
    values : array_like, shape (n, …)
        Numbers of each row; NaN is allowed in rows that are not used.
    n : int
        Rows that there must be.
    used : ndarray of int64
        The rows that are used.

    Returns
    -------
    ndarray of float64, shape (n, …)
        The numbers.

    Raises
    ------
    ValueError
        If there are other than n rows, or a used one is missing or infinite.
    """
    column = np.asarray(values, dtype=np.float64)
    if len(column) != n:
        raise ValueError(f"{name}: found {len(column)} rows for {n} contexts; give one row each")
    bad = ~np.isfinite(column[used].reshape(len(used), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name}: {int(bad.sum())} of {len(used)} used rows are missing or infinite, the first "
            f"is row {int(used[bad.argmax()])}; leave them out of rows and held_out"
        )
    return column
