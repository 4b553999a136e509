"""S = V + tau2 I + omega2 Z Z' as diagonal plus low rank: solve, determinant, traces.

V is that of `deepmr.meta.dependence.error_covariance`, turned so that it is diag(l) + U U'. Z says
to which cluster an estimate belongs; each row has one entry. By the identities of Sherman and
Morrison (Ann Math Stat 1950;21:124) for the clusters and Woodbury (1950) for the q columns of U it
takes O(k q^2), and no k x k matrix is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from deepmr.meta.result import Array

Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Membership:
    """Z, with one entry a row.

    Attributes
    ----------
    entries : ndarray, shape (k,)
        The entries, 1 before V is turned.
    clusters : ndarray of int, shape (k,)
        Their columns, 0 ... clusters - 1, each at least once.
    """

    entries: Array
    clusters: Index

    def __len__(self) -> int:
        """Return the number of clusters."""
        return int(self.clusters.max(initial=-1)) + 1

    @cached_property
    def _sorted(self) -> tuple[Index, Index]:
        order = np.argsort(self.clusters, kind="stable")
        return order, np.flatnonzero(np.diff(self.clusters[order], prepend=-1))

    def sums(self, x: Array) -> Array:
        """Return Z'x, for x of shape (k, columns)."""
        order, starts = self._sorted
        return np.asarray(np.add.reduceat((self.entries[:, None] * x)[order], starts))

    def spread(self, x: Array) -> Array:
        """Return Z x, for x of shape (clusters, columns)."""
        return np.asarray(self.entries[:, None] * x[self.clusters])

    def traces(self, diagonal: Array) -> Array:
        """Return the diagonal of Z'DZ, for the diagonal of D, shape (k,)."""
        return self.sums((self.entries * diagonal)[:, None])[:, 0]


class Marginal:
    """S, and what likelihoods ask of it.

    Parameters
    ----------
    diagonal : ndarray, shape (k,)
        l + tau2, above 0.
    factors : ndarray, shape (k, q)
        U.
    membership : Membership, optional
        Z, turned as V is.
    omega2 : float
        Variance between clusters, at least 0.
    """

    def __init__(
        self,
        diagonal: Array,
        factors: Array,
        membership: Membership | None = None,
        omega2: float = 0.0,
    ) -> None:
        self._diagonal = diagonal
        self._z = membership
        self._factors = factors
        if self._z is not None:
            self._strength = self._z.traces(1.0 / self._diagonal)
            self._kept = self._strength / (1.0 + omega2 * self._strength)
            self._gain = omega2 / (1.0 + omega2 * self._strength)
            self._log = float(np.log1p(omega2 * self._strength).sum())
            self._lost = float(self._gain @ self._z.traces(self._diagonal**-2.0))
        if self._factors.shape[1]:
            self._spread = self._without_factors(self._factors)
            capacitance = self._factors.T @ self._spread
            capacitance[np.diag_indices_from(capacitance)] += 1.0
            self._cholesky = cho_factor(capacitance, lower=True, check_finite=False)

    def _without_factors(self, x: Array) -> Array:
        scaled = x / self._diagonal[:, None]
        if self._z is None:
            return scaled
        within = self._gain[:, None] * self._z.sums(scaled)
        scaled -= self._z.spread(within) / self._diagonal[:, None]
        return scaled

    def solve(self, x: Array) -> Array:
        """Return S^-1 x, for x of shape (k,) or (k, columns)."""
        alone = self._without_factors(x.reshape(len(x), -1))
        if self._factors.shape[1]:
            shared = cho_solve(self._cholesky, self._factors.T @ alone, check_finite=False)
            alone -= self._spread @ shared
        return alone.reshape(x.shape)

    @cached_property
    def logdet(self) -> float:
        """Logarithm of the determinant of S."""
        total = float(np.log(self._diagonal).sum())
        if self._z is not None:
            total += self._log
        if self._factors.shape[1]:
            total += 2.0 * float(np.log(np.diagonal(self._cholesky[0])).sum())
        return total

    @cached_property
    def trace_of_inverse(self) -> float:
        """Trace of S^-1, the derivative of log det S by tau2."""
        total = float((1.0 / self._diagonal).sum())
        if self._z is not None:
            total -= self._lost
        if self._factors.shape[1]:
            total -= self._trace(self._spread)
        return total

    @cached_property
    def trace_between_clusters(self) -> float:
        """Trace of Z'S^-1 Z, the derivative of log det S by omega2."""
        if self._z is None:
            return 0.0
        total = float(self._kept.sum())
        if self._factors.shape[1]:
            total -= self._trace(self._z.sums(self._spread))
        return total

    @cached_property
    def _inverse(self) -> Array:
        """C^-1, C = I + U'A^-1 U with A = S - UU'."""
        size = self._factors.shape[1]
        return np.asarray(cho_solve(self._cholesky, np.eye(size), check_finite=False))

    def _trace(self, x: Array) -> float:
        """Trace of x C^-1 x'."""
        return float((self._inverse * (x.T @ x)).sum())
