r"""Weighted fits on a design and the variance between sequences that it leaves, row by row.

With W = diag(1/(v + tau2)) and P = W - W X (X'WX)^-1 X'W the estimators of tau2 solve (Viechtbauer,
J Educ Behav Stat 2005;30:261; Viechtbauer et al., Psychol Methods 2015;20:360)

    REML   y'PPy = tr P            ML    y'PPy = tr W
    PM     y'Py = k - p            (EB, its other name, has the same root)
    PMM    y'Py = the median of chi^2 with k - p degrees of freedom

or are closed forms of the residuals under fixed weights (DL, HE, HS, HSk, SJ). P is never built:
with r = y - X b and leverages h, Py = W r and tr P = sum w (1 - h), so that a set of weights costs
O(k p^2). With an intercept only these are the estimators of `deepmr.meta.heterogeneity`.

In a basis A of the k - p contrasts that do not know b, with z = A'y and A'VA = diag(s), the score
of the restricted likelihood is sum (z^2 - s - tau2)/(s + tau2)^2, below 0 from tau2 = sum z^2 on,
the residual sum of squares with equal weights. That of ML is below it. Every fall of the score
through 0 on a grid up to there is solved and the highest likelihood taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from deepmr.meta.heterogeneity import LIKELIHOODS, check_method
from deepmr.meta.likelihood_search import highest_maximum, roots
from deepmr.meta.result import Array

_ABOVE = 1.001
"""Bounds are passed by this, so that rounding does not hide the change of sign."""

SEPARATE = 1e-10
"""Least `WeightedFit.separation` of coefficients that are known."""
INSEPARABLE = (
    "only sequences whose variances are so large that they count for nothing tell the covariates "
    "apart"
)


@dataclass(frozen=True, eq=False)
class WeightedFit:
    """A weighted least-squares fit of every row.

    Attributes
    ----------
    weights, residuals : ndarray, shape (rows, k)
    coefficients : ndarray, shape (rows, p)
    triangle : ndarray, shape (rows, p, p)
        The upper triangular R of X'WX = R'R.
    rss, trace : ndarray, shape (rows,)
        y'Py, the weighted residual sum of squares, and tr P = sum w (1 - leverage).
    separation : ndarray, shape (rows,)
        Least share of the length of a weighted column that is left after those before it; the
        coefficients are known to about 1e-16 over it.
    """

    weights: Array
    residuals: Array
    coefficients: Array
    triangle: Array
    rss: Array
    trace: Array
    separation: Array


def weighted_fit(y: Array, weights: Array, q: Array) -> WeightedFit:
    """Fit every row of y on the columns of q.

    By Gram and Schmidt's modified orthogonalisation of the weighted columns, since very unequal
    weights make X'WX too ill-conditioned to invert.

    Parameters
    ----------
    y, weights : ndarray, shape (rows, k)
    q : ndarray, shape (k, p)
        Orthonormal columns.
    """
    (rows, k), p = y.shape, q.shape[1]
    root = np.sqrt(weights)
    rest, basis = root * y, np.empty((p, rows, k))
    triangle, cross = np.zeros((rows, p, p)), np.empty((rows, p))
    separation = np.ones(rows)
    for j in range(p):
        column = np.multiply(root, q[:, j], out=basis[j])
        length = _dot(column, column)
        for i in range(j):
            triangle[:, i, j] = _dot(basis[i], column)
            column -= triangle[:, i, j, None] * basis[i]
        left = np.sqrt(_dot(column, column))
        np.minimum(separation, left / np.sqrt(length), out=separation)
        triangle[:, j, j] = left
        column /= left[:, None]
        cross[:, j] = _dot(column, rest)
        rest -= cross[:, j, None] * column
    leverages = np.einsum("prk,prk->rk", basis, basis)
    return WeightedFit(
        weights=weights,
        residuals=rest / root,
        coefficients=np.asarray(
            np.linalg.solve(triangle, cross[..., None])[..., 0], dtype=np.float64
        ),
        triangle=triangle,
        rss=_dot(rest, rest),
        trace=_dot(weights, 1.0 - leverages),
        separation=separation,
    )


def _dot(left: Array, right: Array) -> Array:
    # einsum, since the sums of a matrix product may round differently with more threads.
    return np.asarray(np.einsum("rk,rk->r", left, right))


def residual_tau2(y: Array, v: Array, q: Array, method: str) -> Array:
    """Estimate tau2 of every row.

    Parameters
    ----------
    y, v : ndarray, shape (rows, k)
        Estimates and variances.
    q : ndarray, shape (k, p)
        Design with orthonormal columns, p < k.
    method : str
        One of `deepmr.meta.heterogeneity.METHODS`.

    Returns
    -------
    ndarray, shape (rows,)
        Not below 0.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    check_method(method)
    k, p = q.shape
    if method == "FE":
        return np.zeros(len(y))
    if method in LIKELIHOODS:
        return _likelihood_maximum(y, v, q, restricted=method == "REML")
    if method in ("PM", "EB"):
        return _invert(y, v, q, float(k - p))
    if method == "PMM":
        return _invert(y, v, q, float(chdtri(k - p, 0.5)))
    if method == "HE":
        trace = v.sum(axis=1) - np.einsum("rk,kj->r", v, q * q)
        return np.maximum((_equal_weights(y, q).rss - trace) / (k - p), 0.0)
    if method == "SJ":
        start = y.var(axis=1)
        return np.asarray(start * weighted_fit(y, 1.0 / (v + start[:, None]), q).rss / (k - p))
    fit = weighted_fit(y, 1.0 / v, q)
    if method == "DL":
        return np.maximum((fit.rss - (k - p)) / fit.trace, 0.0)
    share = k / (k - p) if method == "HSk" else 1.0
    return np.maximum((share * fit.rss - k) / fit.weights.sum(axis=1), 0.0)


def score(y: Array, v: Array, q: Array, tau2: Array, restricted: bool) -> Array:
    """Return twice the derivative of the (restricted) log-likelihood by tau2.

    Parameters
    ----------
    y, v, q
        As of `residual_tau2`.
    tau2 : ndarray, shape (rows,)
        At least 0.
    restricted : bool
        Of the restricted likelihood.
    """
    fit = weighted_fit(y, 1.0 / (v + tau2[:, None]), q)
    weighted = fit.weights * fit.residuals
    trace = fit.trace if restricted else fit.weights.sum(axis=1)
    return _dot(weighted, weighted) - trace


def log_likelihood(y: Array, v: Array, q: Array, tau2: Array, restricted: bool) -> Array:
    """Return the log-likelihood at the best coefficients for tau2, up to a constant.

    Parameters
    ----------
    y, v, q, tau2, restricted
        As of `score`.
    """
    fit = weighted_fit(y, 1.0 / (v + tau2[:, None]), q)
    twice = np.log(fit.weights).sum(axis=1) - fit.rss
    if restricted:
        # log det (X'WX)^-1
        twice -= 2.0 * np.log(np.diagonal(fit.triangle, axis1=1, axis2=2)).sum(axis=1)
    return np.asarray(0.5 * twice)


def _equal_weights(y: Array, q: Array) -> WeightedFit:
    return weighted_fit(y, np.ones_like(y), q)


def _invert(y: Array, v: Array, q: Array, target: float) -> Array:
    """Return the tau2 at which y'Py is `target`, or 0 where it is nowhere above it."""
    tau2 = np.zeros(len(y))
    rows = np.flatnonzero(weighted_fit(y, 1.0 / v, q).rss > target)
    if rows.size:
        # y'Py is below the residual squares with equal weights over tau2.
        high = _ABOVE * _equal_weights(y[rows], q).rss / target

        def excess(x: Array, row: NDArray[np.int64]) -> Array:
            # 1/y'Py is nearly a straight line of tau2, and y'Py is not.
            fit = weighted_fit(y[row], 1.0 / (v[row] + x[:, None]), q)
            return 1.0 / target - 1.0 / fit.rss

        tau2[rows] = roots(excess, np.zeros_like(high), high, rows)
    return tau2


def _likelihood_maximum(y: Array, v: Array, q: Array, restricted: bool) -> Array:
    """Highest maximum of the likelihood over tau2 >= 0."""
    least = v.min(axis=1)
    return highest_maximum(
        lambda tau2, row: score(y[row], v[row], q, tau2, restricted),
        lambda tau2, row: log_likelihood(y[row], v[row], q, tau2, restricted),
        least,
        np.maximum(_ABOVE * _equal_weights(y, q).rss, least),
    )
