r"""Joint error covariance of the exposure and outcome effects of the instruments of a sequence.

With S = [[S_xx, S_xy], [S_yx, S_yy]] the residuals of a line of slope b/a have the covariance

    V(a, b, tau2) = a^2 (S_yy + tau2 I) - a b (S_xy + S_yx) + b^2 S_xx

(homogeneous coordinates, so that a slope without bound is a = 0 and nothing overflows). Three
forms of S answer the same questions, how to solve V and how to multiply by its parts:

* `DiagonalErrors`: instruments independent; many sequences at once;
* `FactorErrors`: S_xx = diag(d_xx) + A_x'A_x, S_xy = diag(d_xy) + A_x'A_y, S_yy = diag(d_yy) +
  A_y'A_y with q rows in A. V is diagonal + B'B, B = a A_y - b A_x, and Woodbury's identity (1950)
  solves it in O(n q^2);
* `DenseErrors`: whole matrices by Cholesky, where there would be as many factors as instruments.

`errors_from_correlation` makes one of a correlation matrix; `deepmr.mr.estimators.draw_covariance`
of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dpotrs

from deepmr.mr.estimator import Array

Index = NDArray[np.intp] | NDArray[np.bool_]
Solver = Callable[[Array], Array]
Pair = tuple[Array, Array]


class Errors(Protocol):
    """What the estimators ask of a covariance; every vector is (sequences, instruments)."""

    def rows(self, index: Index) -> Errors:
        """Return the covariance of some of the sequences."""
        ...

    def oriented(self, sign: Array) -> Errors:
        """Return the covariance of the effects times `sign` (1 or -1 for each instrument)."""
        ...

    def solver(self, a: Array, b: Array, tau2: Array) -> Solver:
        """Return the function v -> V(a, b, tau2)^-1 v; the arguments are (sequences,)."""
        ...

    def products(self, v: Array) -> tuple[Array, Array, Array]:
        """Return S_yy v, (S_xy + S_yx) v and S_xx v."""
        ...

    def joint_gram(self, pairs: Sequence[Pair], tau2: Array) -> Array:
        """Return p_i' S^-1 p_j of vectors p = (x part, y part), shape (sequences, k, k).

        tau2 is added to the variances of the outcome.
        """
        ...


class DiagonalErrors:
    """Independent instruments whose two errors correlate.

    Parameters
    ----------
    variance_x, variance_y, covariance : ndarray, shape (sequences, instruments)
        Of the two errors of every instrument; positive definite for each.
    """

    def __init__(self, variance_x: Array, variance_y: Array, covariance: Array) -> None:
        self.xx, self.yy, self.xy = variance_x, variance_y, covariance

    @classmethod
    def from_rho(cls, se_x: Array, se_y: Array, rho_xy: Array) -> DiagonalErrors:
        """Make one of standard errors and the correlation of the two errors."""
        return cls(se_x * se_x, se_y * se_y, rho_xy * se_x * se_y)

    def rows(self, index: Index) -> DiagonalErrors:
        """Return the covariance of some of the sequences."""
        return DiagonalErrors(self.xx[index], self.yy[index], self.xy[index])

    def oriented(self, sign: Array) -> DiagonalErrors:
        """Return itself: both errors of an instrument change sign together."""
        return self

    def variance(self, a: Array, b: Array, tau2: Array) -> Array:
        """Return the diagonal of V(a, b, tau2)."""
        aa, ab, bb = (v[:, None] for v in (a * a, 2.0 * a * b, b * b))
        return np.asarray(aa * (self.yy + tau2[:, None]) - ab * self.xy + bb * self.xx)

    def solver(self, a: Array, b: Array, tau2: Array) -> Solver:
        """Return the function v -> V(a, b, tau2)^-1 v."""
        variance = self.variance(a, b, tau2)
        return lambda v: v / variance

    def products(self, v: Array) -> tuple[Array, Array, Array]:
        """Return S_yy v, (S_xy + S_yx) v and S_xx v."""
        return self.yy * v, 2.0 * self.xy * v, self.xx * v

    def whitened(self, pair: Pair, tau2: Array) -> Pair:
        """Return a pair of vectors multiplied by the inverse Cholesky factor of the 2 x 2 blocks.

        The instruments are the last axis of both and of what comes back.
        """
        slope = self.xy / self.xx
        x, y = pair
        rest = np.sqrt(self.yy + tau2[:, None] - slope * self.xy)
        return x / np.sqrt(self.xx), (y - slope * x) / rest

    def joint_gram(self, pairs: Sequence[Pair], tau2: Array) -> Array:
        """Return p_i' S^-1 p_j, shape (sequences, k, k)."""
        white = [np.concatenate(self.whitened(pair, tau2), axis=1) for pair in pairs]
        k = len(pairs)
        gram = np.empty((len(self.xx), k, k))
        for i in range(k):
            for j in range(k):
                gram[:, i, j] = (white[i] * white[j]).sum(axis=-1)
        return gram


class FactorErrors:
    """One sequence with errors in common: a diagonal part and q factors.

    Parameters
    ----------
    diagonal : DiagonalErrors
        Of one sequence.
    factors_x, factors_y : ndarray, shape (factors, instruments)
        C-contiguous; the same row of both is the same source of error.
    """

    def __init__(self, diagonal: DiagonalErrors, factors_x: Array, factors_y: Array) -> None:
        self.diagonal, self.factors_x, self.factors_y = diagonal, factors_x, factors_y
        # Large arrays made anew in each call would cost more in page faults than in arithmetic.
        self._work, self._loading = np.empty_like(factors_x), np.empty_like(factors_x)

    def rows(self, index: Index) -> FactorErrors:
        """Return itself: there is one sequence."""
        return self

    def oriented(self, sign: Array) -> FactorErrors:
        """Return the covariance of the effects times `sign`."""
        return FactorErrors(self.diagonal, self.factors_x * sign, self.factors_y * sign)

    def solver(self, a: Array, b: Array, tau2: Array) -> Solver:
        """Return the function v -> V(a, b, tau2)^-1 v, v of shape (1 or more, instruments).

        It is right until `solver` is called again: the factors are kept in a shared array.
        """
        scale = 1.0 / np.sqrt(self.diagonal.variance(a, b, tau2))
        loading = np.multiply(self.factors_y, a[0], out=self._loading)
        loading -= np.multiply(self.factors_x, b[0], out=self._work)
        loading *= scale
        small = loading @ loading.T
        small.flat[:: len(small) + 1] += 1.0
        cholesky, _ = dpotrf(small, lower=1, overwrite_a=1)

        def solve(v: Array) -> Array:
            white = v * scale
            inner, _ = dpotrs(cholesky, loading @ white.T, lower=1)
            return np.asarray((white - inner.T @ loading) * scale)

        return solve

    def products(self, v: Array) -> tuple[Array, Array, Array]:
        """Return S_yy v, (S_xy + S_yx) v and S_xx v."""
        yy, xy, xx = self.diagonal.products(v)
        in_x, in_y = v @ self.factors_x.T, v @ self.factors_y.T
        return (
            yy + in_y @ self.factors_y,
            xy + in_y @ self.factors_x + in_x @ self.factors_y,
            xx + in_x @ self.factors_x,
        )

    def joint_gram(self, pairs: Sequence[Pair], tau2: Array) -> Array:
        """Return p_i' S^-1 p_j, shape (1, k, k)."""
        factors = np.hstack(self.diagonal.whitened((self.factors_x, self.factors_y), tau2))
        white = np.vstack([np.hstack(self.diagonal.whitened(pair, tau2)) for pair in pairs])
        small = factors @ factors.T
        small.flat[:: len(small) + 1] += 1.0
        cholesky, _ = dpotrf(small, lower=1)
        loads = factors @ white.T
        inner, _ = dpotrs(cholesky, loads, lower=1)
        return np.asarray(white @ white.T - loads.T @ inner)[None]


class DenseErrors:
    """One sequence with whole covariance matrices.

    Parameters
    ----------
    xx, yy, xy : ndarray, shape (instruments, instruments)
        S_xx, S_yy and S_xy (rows belong to the exposure), jointly positive definite.
    """

    def __init__(self, xx: Array, yy: Array, xy: Array) -> None:
        self.xx, self.yy, self.xy = xx, yy, xy
        self._both = xy + xy.T

    def rows(self, index: Index) -> DenseErrors:
        """Return itself: there is one sequence."""
        return self

    def oriented(self, sign: Array) -> DenseErrors:
        """Return the covariance of the effects times `sign`."""
        both = sign.reshape(-1, 1) * sign.reshape(1, -1)
        return DenseErrors(self.xx * both, self.yy * both, self.xy * both)

    def solver(self, a: Array, b: Array, tau2: Array) -> Solver:
        """Return the function v -> V(a, b, tau2)^-1 v, v of shape (1 or more, instruments)."""
        p, q = float(a[0]), float(b[0])
        matrix = (p * p) * self.yy - (p * q) * self._both + (q * q) * self.xx
        matrix.flat[:: len(matrix) + 1] += p * p * tau2[0]
        cholesky, _ = dpotrf(matrix, lower=1, overwrite_a=1)
        return lambda v: np.asarray(dpotrs(cholesky, v.T, lower=1)[0].T)

    def products(self, v: Array) -> tuple[Array, Array, Array]:
        """Return S_yy v, (S_xy + S_yx) v and S_xx v."""
        return v @ self.yy, v @ self._both, v @ self.xx

    def joint_gram(self, pairs: Sequence[Pair], tau2: Array) -> Array:
        """Return p_i' S^-1 p_j, shape (1, k, k)."""
        matrix = np.block([[self.xx, self.xy], [self.xy.T, self.yy]])
        n = len(self.xx)
        matrix[range(n, 2 * n), range(n, 2 * n)] += tau2[0]
        vectors = np.vstack([np.hstack(pair) for pair in pairs])
        cholesky, _ = dpotrf(matrix, lower=1, overwrite_a=1)
        return np.asarray(vectors @ dpotrs(cholesky, vectors.T, lower=1)[0])[None]


def errors_from_correlation(
    se_x: Array, se_y: Array, rho_xy: Array, correlation: Array
) -> FactorErrors | DenseErrors | DiagonalErrors:
    """Make the covariance of one sequence from the correlation of its instruments' errors.

    The errors are x = se_x u and y = se_y (rho u + sqrt(1 - rho^2) v) with u and v independent,
    both of correlation R; a rho equal in all instruments gives S_xy = rho (se_x se_y') o R. R is
    split into delta I + U U', delta its smallest eigenvalue, so that a reference shared by all
    instruments (compound symmetry) is one factor.

    Parameters
    ----------
    se_x, se_y, rho_xy : ndarray, shape (instruments,)
        Standard errors, and the correlation of the two errors of an instrument.
    correlation : ndarray, shape (instruments, instruments)
        R.

    Returns
    -------
    FactorErrors, DenseErrors or DiagonalErrors
        Whichever is cheapest.

    Raises
    ------
    ValueError
        If R is not finite, not square of the right size, not symmetric, has another diagonal than
        1 or is not positive definite.
    """
    n = len(se_x)
    _refuse_other_than_correlation(correlation, n)
    delta, common = _split(correlation)
    rest = np.sqrt(1.0 - rho_xy * rho_xy)
    if len(common) and 2 * len(common) >= n:
        scaled = se_y[:, None] * se_y
        yy = scaled * correlation * (rho_xy[:, None] * rho_xy + rest[:, None] * rest)
        xy = se_x[:, None] * (se_y * rho_xy) * correlation
        return DenseErrors(se_x[:, None] * se_x * correlation, yy, xy)
    if not len(common):
        return DiagonalErrors.from_rho(se_x[None], se_y[None], rho_xy[None])
    zeros = np.zeros_like(common)
    factors_x = np.vstack([common * se_x, zeros])
    factors_y = np.vstack([common * (se_y * rho_xy), common * (se_y * rest)])
    diagonal = DiagonalErrors(
        delta * (se_x * se_x)[None],
        delta * (se_y * se_y)[None],
        delta * (rho_xy * se_x * se_y)[None],
    )
    return FactorErrors(diagonal, factors_x, factors_y)


def _refuse_other_than_correlation(matrix: Array, n: int) -> None:
    if matrix.shape != (n, n):
        raise ValueError(f"correlation must be {n} x {n}; found shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("correlation has a missing or infinite value")
    asymmetry = float(np.abs(matrix - matrix.T).max())
    if asymmetry > 1e-8:
        raise ValueError(f"correlation is not symmetric: it differs by up to {asymmetry:.3g}")
    unit = float(np.abs(np.diag(matrix) - 1.0).max())
    if unit > 1e-8:
        raise ValueError(f"the diagonal of correlation must be 1; it is off by up to {unit:.3g}")


def _split(matrix: Array) -> tuple[float, Array]:
    """Return delta and the rows U' of R = delta I + U U'; as few rows as R allows.

    Raises
    ------
    ValueError
        If R is not positive definite.
    """
    n = len(matrix)
    if n == 1:
        return 1.0, np.zeros((0, 1))
    off = matrix[0, 1]
    if 0.0 <= off < 1.0 and np.array_equal(matrix, np.where(np.eye(n, dtype=bool), 1.0, off)):
        # Spares a shared reference the O(n^3) of eigenvalues.
        return float(1.0 - off), np.full((int(off > 0), n), np.sqrt(off))
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    smallest, largest = float(values[0]), float(values[-1])
    if smallest <= n * np.finfo(float).eps * largest:
        raise ValueError(
            f"correlation is not positive definite: its smallest eigenvalue is {smallest:.3g}"
        )
    excess = values - smallest
    kept = excess > 1e-10 * smallest
    return smallest, np.ascontiguousarray((vectors[:, kept] * np.sqrt(excess[kept])).T)
