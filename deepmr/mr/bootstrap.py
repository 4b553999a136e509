r"""Parametric bootstrap of the effects of a sequence.

A replicate adds a normal error to every effect (Bowden et al., Genet Epidemiol 2016;40:304):

    bx* = bx + se_x e_x,    by* = by + se_y e_y,
    e_x = L z_x,            e_y = L (rho z_x + sqrt(1 - rho^2) z_y),

with z standard normal, rho_j the error correlation of instrument j (0 where none is known) and L
the Cholesky factor of the correlation between instruments (the identity where there is none).
Both errors then have the correlation L L' between instruments, and cov(e_x, e_y) = L diag(rho) L',
which is rho L L' where all instruments have the same rho.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array, Group, Options


class Replicates:
    """Replicates of the effects of all sequences that have the same number of instruments.

    The standard normals depend on the seed, their number and the number of instruments only, so
    no result depends on the neighbours of a sequence.

    Parameters
    ----------
    n : int
        Number of instruments.
    options : Options
        ``seed`` and ``bootstrap_iterations`` (the number of replicates B) are used.
    """

    def __init__(self, n: int, options: Options) -> None:
        self._n = n
        self._seed = options.seed
        self._count = options.bootstrap_iterations

    def of(self, group: Group, i: int) -> tuple[Array, Array]:
        """Return all replicates of sequence `i`: bx* and by*, each of shape (B, n).

        Errors of X and Y are correlated by `rho_xy` or, without it, as they are over the draws.
        They are NaN where `correlation` is not positive definite.
        """
        x, y = self.rows(group, i)(slice(0, self._count))
        return x, y

    def rows(
        self, group: Group, i: int
    ) -> Callable[[slice | NDArray[np.intp]], tuple[Array, Array]]:
        """Return a function that makes some of the replicates of sequence `i`.

        It takes a slice or an array of their numbers. The next call overwrites what it returned,
        because new memory would cost more than the numbers in it.
        """
        normal_x, normal_y = _normals(self._seed, self._n, self._count)
        bx, by, se_x, se_y = (a[i] for a in (group.bx, group.by, group.se_x, group.se_y))
        rho = _error_correlation(group, i)
        if group.correlation is not None:
            if rho is not None:
                normal_y = rho * normal_x + np.sqrt(1.0 - rho * rho) * normal_y
                rho = None
            factor = _cholesky(group.correlation[i])
            normal_x, normal_y = normal_x @ factor.T, normal_y @ factor.T
        shared = 0.0 if rho is None else rho * se_y
        own = se_y if rho is None else np.sqrt(1.0 - rho * rho) * se_y
        memory = np.empty((3, 0, self._n))

        def make(which: slice | NDArray[np.intp]) -> tuple[Array, Array]:
            nonlocal memory
            errors_x, errors_y = normal_x[which], normal_y[which]
            if len(errors_x) > memory.shape[1]:
                memory = np.empty((3, len(errors_x), self._n))
            x, y, common = memory[:, : len(errors_x)]
            np.multiply(errors_x, se_x, out=x)
            x += bx
            np.multiply(errors_y, own, out=y)
            if rho is not None:
                np.multiply(errors_x, shared, out=common)
                y += common
            y += by
            return x, y

        return make


# One entry: the methods and batches of a group follow each other, and it may be large.
@lru_cache(maxsize=1)
def _normals(seed: int, n: int, count: int) -> Array:
    """Return standard normals of shape (2, count, n), read-only because they are shared."""
    normals = np.random.default_rng([seed, n]).standard_normal((2, count, n))
    normals.flags.writeable = False
    return normals


def _error_correlation(group: Group, i: int) -> Array | None:
    """Correlation of the two errors of sequence `i`, shape (n,), or None where none is known."""
    if group.rho_xy is not None:
        return np.asarray(group.rho_xy[i])
    if group.draws_x is None or group.draws_y is None:
        return None
    one = slice(i, i + 1)
    alone = Group(
        group.bx[one],
        group.se_x[one],
        group.by[one],
        group.se_y[one],
        group.draws_x[one],
        group.draws_y[one],
    )
    return np.asarray(alone.error_correlation[0])


def _cholesky(correlation: Array) -> Array:
    try:
        return np.asarray(np.linalg.cholesky(correlation))
    except np.linalg.LinAlgError:
        return np.full_like(correlation, np.nan)
