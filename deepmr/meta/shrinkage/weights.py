r"""Weights of a mixture by penalized maximum likelihood: a convex problem on the simplex.

With the prior x_0^n, which is n further observations of the first component alone, the weights x
minimise the convex

    -(1/N) (sum_j log(L x)_j + n log x_0) + sum(x)    over x >= 0,    N = k + n,

whose minimum lies on the simplex. Newton steps with x >= 0 kept (sequential quadratic programming;
Kim, Carbonetto, Stephens and Anitescu, J Comput Graph Stat 2020;29:261), each a small non-negative
least-squares problem on the components that have weight or should get some.

Let N u be the gradient of the log-likelihood. No weights have a value higher by more than N times
the gap max(u) - 1, for the log-likelihood is concave and x'u = 1.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

from deepmr.meta.result import Array

TOLERANCE = 1e-11
"""Largest gap of weights that count as converged."""

ITERATIONS = 500
"""Most steps; some ten to thirty are usual."""

_ROUNDING = 1e-15
_RIDGE = 1e-10
_USELESS = 1e-8
"""A component whose u is below is worth nothing to any sequence: its weight goes to 0."""


def maximise(likelihood: Array, extra: float, start: Array | None = None) -> tuple[Array, float]:
    """Maximise sum_j log(L x)_j + extra * log(x_0) over the simplex.

    Parameters
    ----------
    likelihood : ndarray, shape (k, components)
        L >= 0 with a maximum of 1 in every row.
    extra : float
        Observations of the first component alone.
    start : ndarray, shape (components,), optional
        Weights to start from.

    Returns
    -------
    x : ndarray, shape (components,)
    gap : float
        At most k + extra times this is missing from the maximum.
    """
    k, m = likelihood.shape
    total = k + extra
    even = np.full(m, 1.0 / m)
    # A share of every component keeps what underflows with `start` above 0.
    x = even if start is None else 0.999 * start + 0.001 * even

    # Sums by einsum, not BLAS, whose sums may round differently with the number of threads.
    def objective(at: Array) -> float:
        used = np.flatnonzero(at)
        density = np.einsum("jk,k->j", likelihood[:, used], at[used])
        if not (density.min() > 0 and (at[0] > 0 or extra == 0)):
            return np.inf
        null = extra * np.log(at[0]) if extra else 0.0
        return float(at.sum() - (np.log(density).sum() + null) / total)

    value, gap = objective(x), np.inf
    for _ in range(ITERATIONS):
        used = np.flatnonzero(x)
        density = np.einsum("jk,k->j", likelihood[:, used], x[used])
        u = np.einsum("jk,j->k", likelihood, 1.0 / density) / total
        if extra:
            u[0] += extra / (total * x[0])
        gap = float(u.max() - 1.0)
        if gap <= TOLERANCE:
            break
        work = np.flatnonzero(((x > 0) & (u > _USELESS)) | (u > 1.0))
        scaled = likelihood[:, work] / density[:, None]
        hessian = np.einsum("jk,jl->kl", scaled, scaled) / total
        if extra and work[0] == 0:
            hessian[0, 0] += extra / (total * x[0] * x[0])
        target = np.zeros(m)
        target[work] = _quadratic(hessian, 2.0 * u[work] - 1.0, x[work])
        step, slope = target - x, float((1.0 - u) @ (target - x))
        length = 1.0
        while length > 1e-6:
            new = x + length * step
            new_value = objective(new)
            if new_value <= value + 1e-4 * length * slope + _ROUNDING:
                break
            length *= 0.5
        else:
            # Rounding has the last word on the Newton step; a step of EM never descends.
            new = x * u
        x = new / new.sum()
        value = objective(x)
    return x, gap


def _quadratic(hessian: Array, linear: Array, near: Array) -> Array:
    """Minimise y'Hy/2 - linear'y over y >= 0."""
    scale = np.sqrt(np.diag(hessian))
    # Neighbours on the grid are nearly collinear: a ridge, relative to each diagonal, on y - near,
    # which leaves the optimum where it is.
    matrix = hessian / np.outer(scale, scale) + _RIDGE * np.eye(scale.size)
    root = cholesky(matrix, lower=True)
    right = solve_triangular(root, linear / scale + _RIDGE * near * scale, lower=True)
    return np.asarray(nnls(root.T, right)[0] / scale)
