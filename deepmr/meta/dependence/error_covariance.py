r"""Covariance of the errors of a set of estimates, in forms that solve fast.

Estimates of one model share its errors: y = theta + e with e ~ N(0, V). Three forms of V:

* `Diagonal`: independent errors;
* `Blocks`: errors that are correlated within clusters only, a dense matrix for each;
* `LowRank`: V = diag(d) + U U', q factors that all sequences share (a common error of the model,
  an error along GC content, the deviations of T draws).

All of them become diagonal plus low rank, Q'VQ = diag(l) + U U', by an orthogonal Q: the identity,
or the eigenvectors of the blocks. What a meta-analysis adds to V keeps that form
(`deepmr.meta.dependence.marginal`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from deepmr.meta.dependence.marginal import Array, Index, Marginal, Membership

_ASYMMETRY = 1e-10
"""Largest difference between an entry of a block and its mirror image, relative to the largest."""


class ErrorCovariance(ABC):
    """V, the covariance of the errors of k estimates.

    Attributes
    ----------
    variances : ndarray, shape (k,)
        Its diagonal.
    own : ndarray, shape (k,)
        The diagonal without U U'.
    factors : ndarray, shape (k, q)
        U of Q'VQ = diag(l) + U U'.
    factor_df : float
        Degrees of freedom with which U U' was estimated; infinite where it is known.
    """

    def __init__(
        self, variances: Array, own: Array, factors: Array, factor_df: float = np.inf
    ) -> None:
        self.variances = variances
        self.own = own
        self.factors = factors
        self.factor_df = factor_df

    def __len__(self) -> int:
        """Return k."""
        return len(self.variances)

    @property
    @abstractmethod
    def spectrum(self) -> Array:
        """Return l of Q'VQ = diag(l) + U U', shape (k,).

        Raises
        ------
        ValueError
            If V is not finite or not positive definite.
        """

    @abstractmethod
    def take(self, rows: Index) -> ErrorCovariance:
        """Return V of the estimates in `rows`, in that order."""

    @abstractmethod
    def matvec(self, x: Array) -> Array:
        """Return V x, for x of shape (k,) or (k, columns)."""

    def forward(self, x: Array) -> Array:
        """Return Q'x, for x of shape (k,) or (k, columns)."""
        return x

    def backward(self, x: Array) -> Array:
        """Return Q x, for x of shape (k,) or (k, columns)."""
        return x

    def mixed(self) -> Index:
        """Return labels of shape (k,); Q mixes only estimates of the same label."""
        return np.arange(len(self))

    def plus(
        self, tau2: float, membership: Membership | None = None, omega2: float = 0.0
    ) -> Marginal:
        """Return Q'(V + tau2 I + omega2 Z Z')Q, for `membership` Q'Z."""
        return Marginal(self.spectrum + tau2, self.factors, membership, omega2)

    def solve(self, x: Array) -> Array:
        """Return V^-1 x, for x of shape (k,) or (k, columns)."""
        return self.backward(self.plus(0.0).solve(self.forward(x)))

    def logdet(self) -> float:
        """Return the logarithm of the determinant of V."""
        return self.plus(0.0).logdet

    def membership(self, clusters: ArrayLike) -> Membership:
        """Return Q'Z, with Z the 0/1 matrix that says to which cluster an estimate belongs.

        Parameters
        ----------
        clusters : array_like, shape (k,)
            Labels.

        Raises
        ------
        ValueError
            If the shape is wrong or errors of different clusters are correlated by a block of V.
        """
        labels, k = np.asarray(clusters), len(self)
        if labels.shape != (k,):
            raise ValueError(f"clusters must have shape ({k},); found {labels.shape}")
        codes, mixed = np.unique(labels, return_inverse=True)[1], self.mixed()
        cluster_of = np.zeros(int(mixed.max(initial=-1)) + 1, dtype=np.intp)
        cluster_of[mixed] = codes
        if not np.array_equal(cluster_of[mixed], codes):
            first = int(np.argmax(cluster_of[mixed] != codes))
            raise ValueError(
                f"the block of V that holds estimate {first} reaches over several clusters; give "
                "clusters that hold whole blocks"
            )
        return Membership(self.forward(np.ones(k)), codes)


class Diagonal(ErrorCovariance):
    """Independent errors.

    Parameters
    ----------
    variances : array_like, shape (k,)
        Squared standard errors.
    """

    def __init__(self, variances: ArrayLike) -> None:
        values = _vector(variances, "variances")
        super().__init__(values, values, np.zeros((values.size, 0)))

    @property
    def spectrum(self) -> Array:
        """Return the variances."""
        return self.variances

    def take(self, rows: Index) -> Diagonal:
        """Return V of the estimates in `rows`, in that order."""
        return Diagonal(self.variances[rows])

    def matvec(self, x: Array) -> Array:
        """Return V x, for x of shape (k,) or (k, columns)."""
        return np.asarray((self.variances * x.T).T)


class LowRank(ErrorCovariance):
    """V = diag(own) + U U': what estimates have of their own, and what they share.

    Parameters
    ----------
    own : array_like, shape (k,)
        Variance of the part that no other estimate shares.
    factors : array_like, shape (k, q)
        U: a column is the effect on all estimates of one standard deviation of a shared error.
    factor_df : float
        Degrees of freedom with which U U' was estimated.
    """

    def __init__(self, own: ArrayLike, factors: ArrayLike, factor_df: float = np.inf) -> None:
        alone, shared = _vector(own, "own"), np.asarray(factors, dtype=np.float64)
        if shared.ndim != 2 or len(shared) != alone.size:
            raise ValueError(
                f"factors must have shape ({alone.size}, q), a row for each of `own`; "
                f"found {shared.shape}"
            )
        total = alone + np.einsum("kq,kq->k", shared, shared)
        super().__init__(total, alone, shared, factor_df)

    @classmethod
    def from_draws(cls, estimates: ArrayLike, variances_within: ArrayLike) -> LowRank:
        """Take the deviations of draws of one model as the factors.

        V = diag(mean over draws of the variances within) + (1 + 1/T) S with S the sample
        covariance of the draws: Rubin's total variance (Multiple Imputation for Nonresponse in
        Surveys, 1987, chapter 3) of all sequences together.

        Parameters
        ----------
        estimates : array_like, shape (draws, k)
            Estimate of each sequence in each draw.
        variances_within : array_like, shape (draws, k) or (k,)
            Squared standard errors within a draw.

        Raises
        ------
        ValueError
            If shapes disagree or there are fewer than 2 draws.
        """
        draws = np.asarray(estimates, dtype=np.float64)
        within = np.asarray(variances_within, dtype=np.float64)
        if draws.ndim != 2 or within.shape not in (draws.shape, draws.shape[1:]):
            raise ValueError(
                "estimates must have shape (draws, k) and variances_within the same or (k,); "
                f"found {draws.shape} and {within.shape}"
            )
        count = len(draws)
        if count < 2:
            raise ValueError(f"a covariance needs at least 2 draws; found {count}")
        deviation = draws - draws.sum(axis=0) / count
        factors = np.ascontiguousarray(deviation.T) * np.sqrt((1.0 + 1.0 / count) / (count - 1))
        own = within if within.ndim == 1 else within.sum(axis=0) / count
        return cls(own, factors, count - 1.0)

    @property
    def spectrum(self) -> Array:
        """Return the variances that are not shared."""
        return self.own

    def take(self, rows: Index) -> LowRank:
        """Return V of the estimates in `rows`, in that order."""
        return LowRank(self.own[rows], self.factors[rows], self.factor_df)

    def matvec(self, x: Array) -> Array:
        """Return V x, for x of shape (k,) or (k, columns)."""
        return np.asarray((self.own * x.T).T + self.factors @ (self.factors.T @ x))


class Blocks(ErrorCovariance):
    """Errors correlated within blocks.

    Parameters
    ----------
    members : sequence of ndarray of int
        Which estimates a block holds; each of 0 ... k - 1 once.
    matrices : sequence of ndarray, shape (size, size)
        Covariance of the errors of each block, in the order of its members.
    """

    def __init__(self, members: Sequence[Index], matrices: Sequence[Array]) -> None:
        self.members = [np.asarray(m, dtype=np.intp) for m in members]
        self.matrices = [np.asarray(m, dtype=np.float64) for m in matrices]
        if len(self.members) != len(self.matrices):
            raise ValueError(
                f"each block needs its members and its matrix; found {len(self.members)} sets of "
                f"members and {len(self.matrices)} matrices"
            )
        k = sum(m.size for m in self.members)
        every = np.sort(np.concatenate([np.zeros(0, np.intp), *self.members]))
        if not np.array_equal(every, np.arange(k)):
            raise ValueError("members of the blocks must hold each of 0 ... k - 1 once")
        variances = np.zeros(k)
        for number, (m, v) in enumerate(zip(self.members, self.matrices, strict=True)):
            if v.shape != (m.size, m.size):
                raise ValueError(
                    f"block {number} has {m.size} members and a matrix of shape {v.shape}; "
                    f"write one of shape ({m.size}, {m.size})"
                )
            known = np.where(np.isfinite(v), v, 0.0)
            if (np.abs(known - known.T) > _ASYMMETRY * np.abs(known).max(initial=0.0)).any():
                raise ValueError(f"the matrix of block {number} is not symmetric")
            variances[m] = np.diagonal(v)
        super().__init__(variances, variances, np.zeros((k, 0)))

    @classmethod
    def compound_symmetric(cls, variances: ArrayLike, clusters: ArrayLike, rho: float) -> Blocks:
        """Let every two errors of a cluster have the correlation rho (metafor's `vcalc`).

        Parameters
        ----------
        variances : array_like, shape (k,)
            Squared standard errors.
        clusters : array_like, shape (k,)
            Label of the cluster of each estimate.
        rho : float
            Between -1/(size - 1) of the largest cluster and 1.

        Raises
        ------
        ValueError
            If shapes disagree or a matrix with this correlation is not positive definite.
        """
        v, labels = _vector(variances, "variances"), np.asarray(clusters)
        if labels.shape != v.shape:
            raise ValueError(f"variances have shape {v.shape}, clusters {labels.shape}")
        codes = np.unique(labels, return_inverse=True)[1]
        order = np.argsort(codes, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
        largest = max(m.size for m in members)
        least = -1.0 / (largest - 1) if largest > 1 else -1.0
        if not least < rho < 1.0:
            raise ValueError(
                f"rho: found {rho}; write a number between {least:.3g} and 1 (the largest cluster "
                f"has {largest} estimates)"
            )
        matrices = []
        # Impossible variances are left out later, with their rows.
        sd = np.sqrt(np.where(v > 0, v, np.nan))
        for m in members:
            matrix = rho * sd[m, None] * sd[m]
            np.fill_diagonal(matrix, v[m])
            matrices.append(matrix)
        return cls(members, matrices)

    @cached_property
    def _stacks(self) -> list[tuple[Index, Array]]:
        """Blocks of one size together: members (blocks, size), matrices (blocks, size, size)."""
        by_size: dict[int, list[int]] = {}
        for number, m in enumerate(self.members):
            by_size.setdefault(m.size, []).append(number)
        return [
            (
                np.stack([self.members[n] for n in numbers]),
                np.stack([self.matrices[n] for n in numbers]),
            )
            for size, numbers in sorted(by_size.items())
            if size
        ]

    @cached_property
    def _eigen(self) -> tuple[Array, list[tuple[Index, Array]]]:
        spectrum, vectors = np.empty(len(self)), []
        for index, stack in self._stacks:
            finite = np.isfinite(stack).all(axis=(1, 2))
            if not finite.all():
                names = _names(index[np.argmin(finite)])
                raise ValueError(f"a covariance among the estimates {names} is not finite")
            values, q = np.linalg.eigh(stack)
            positive = (values > 0).all(axis=1)
            if not positive.all():
                names = _names(index[np.argmin(positive)])
                raise ValueError(
                    f"the covariance of the estimates {names} is not positive definite"
                )
            spectrum[index] = values
            vectors.append((index, q))
        return spectrum, vectors

    @property
    def spectrum(self) -> Array:
        """Return the eigenvalues of the blocks."""
        return self._eigen[0]

    def take(self, rows: Index) -> Blocks:
        """Return V of the estimates in `rows`, in that order."""
        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        members, matrices = [], []
        for m, v in zip(self.members, self.matrices, strict=True):
            kept = np.flatnonzero(place[m] >= 0)
            if kept.size:
                members.append(place[m[kept]])
                matrices.append(v[np.ix_(kept, kept)])
        return Blocks(members, matrices)

    def matvec(self, x: Array) -> Array:
        """Return V x, for x of shape (k,) or (k, columns)."""
        return _by_block(self._stacks, x, "bij,bj...->bi...")

    def forward(self, x: Array) -> Array:
        """Return Q'x, for x of shape (k,) or (k, columns)."""
        return _by_block(self._eigen[1], x, "bij,bi...->bj...")

    def backward(self, x: Array) -> Array:
        """Return Q x, for x of shape (k,) or (k, columns)."""
        return _by_block(self._eigen[1], x, "bij,bj...->bi...")

    def mixed(self) -> Index:
        """Return the block of each estimate."""
        block = np.empty(len(self), dtype=np.intp)
        for number, m in enumerate(self.members):
            block[m] = number
        return block


def _vector(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (k,); found {array.shape}")
    return array


def _names(members: Index) -> str:
    names = ", ".join(str(int(i)) for i in members[:5])
    return names if members.size <= 5 else f"{names}, ..."


def _by_block(stacks: list[tuple[Index, Array]], x: Array, product: str) -> Array:
    out = np.empty(x.shape)
    for index, stack in stacks:
        out[index] = np.einsum(product, stack, x[index])
    return out
