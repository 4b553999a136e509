r"""Variance between sequences, row by row (a row is a draw), each pass in O(k).

With w = 1/v, mu the weighted mean, Q = sum w (y - mu)^2, S = sum w, and w*, mu* the same with
1/(v + tau2):

====  ===================================================  =====================================
FE    tau2 = 0: equal effects (R's EE)
DL    (Q - (k - 1)) / (S - sum w^2/S)                      DerSimonian and Laird 1986
HE    variance of y - mean of v                            Hedges and Olkin 1985
HS    (Q - k) / S                                          Schmidt and Hunter
HSk   (Q k/(k - 1) - k) / S                                Brannick et al. 2019
SJ    t0 Q*(t0) / (k - 1), t0 = sum (y - mean y)^2 / k     Sidik and Jonkman 2005
PM    Q*(tau2) = k - 1                                     Paule and Mandel 1982
EB    the same equation, reached otherwise                 Morris 1983
PMM   Q*(tau2) = median of chi^2_{k-1}                     Viechtbauer 2021
ML    sum w*^2 (y - mu*)^2 - sum w* = 0
REML  sum w*^2 (y - mu*)^2 - sum w* + sum w*^2/sum w* = 0
====  ===================================================  =====================================

All but SJ, which is above 0, are cut at 0. The definitions are those of the R package metafor
(Viechtbauer, J Stat Softw 2010;36(3)); metafor holds k x k matrices, which none of these needs.

Q* falls as tau2 grows, so PM, EB and PMM have one root. The likelihoods may have several maxima
when the variances are very unequal. The score is therefore looked at on a grid that ends where no
maximum can lie, every fall through 0 is solved and the highest is taken. metafor follows the
score from its starting value instead (`deepmr.meta.likelihood_search`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

from deepmr.meta.likelihood_search import highest_maximum, roots
from deepmr.meta.result import Array

METHODS = ("REML", "DL", "PM", "ML", "HS", "SJ", "EB", "FE", "HSk", "HE", "PMM")
LIKELIHOODS = ("ML", "REML")


def estimate_tau2(estimates: Array, variances: Array, method: str = "REML") -> Array:
    """Estimate the variance between sequences.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        k at least 2; finite, variances above 0.
    method : str
        One of `METHODS`.

    Returns
    -------
    ndarray, shape (rows,)
        At least 0, in squared units of the estimates.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    check_method(method)
    y, v = estimates, variances
    k = y.shape[1]
    if method == "FE":
        return np.zeros(len(y))
    if method in LIKELIHOODS:
        return _likelihood_maximum(y, v, restricted=method == "REML")
    if method in ("PM", "EB"):
        return invert_q(y, v, k - 1.0)
    if method == "PMM":
        return invert_q(y, v, float(chdtri(k - 1, 0.5)))
    if method == "SJ":
        start = y.var(axis=1)
        return start * generalised_q(y, v, start) / (k - 1)
    if method == "HE":
        return np.maximum(y.var(axis=1, ddof=1) - v.mean(axis=1), 0.0)
    q = generalised_q(y, v, np.zeros(len(y)))
    if method == "DL":
        return np.maximum((q - (k - 1)) / spread(v), 0.0)
    share = k / (k - 1) if method == "HSk" else 1.0
    return np.maximum((share * q - k) / (1.0 / v).sum(axis=1), 0.0)


def check_method(method: str) -> None:
    """Raise a ValueError if the method is none of `METHODS`."""
    if method not in METHODS:
        raise ValueError(
            f"meta-analysis method {method!r} is unknown; write one of {', '.join(METHODS)}"
        )


def spread(variances: Array) -> Array:
    """Return sum w - sum w^2/sum w, row by row: k - 1 over it is the typical variance."""
    w = 1.0 / variances
    # As a sum of positive terms, for the difference is 0 where one weight is all that counts.
    others = 1.0 - w / w.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("rk,rk->r", w, others))


def generalised_q(estimates: Array, variances: Array, tau2: Array) -> Array:
    """Return Q(tau2), the weighted squares about the mean with weights 1/(v + tau2).

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        As of `estimate_tau2`.
    tau2 : ndarray, shape (rows,)
        At least 0; 0 gives Cochran's Q.

    Returns
    -------
    ndarray, shape (rows,)
    """
    w, _, deviation = _weighted(estimates, variances, tau2)
    w *= deviation
    return np.asarray(np.einsum("rk,rk->r", w, deviation))


def invert_q(estimates: Array, variances: Array, target: float) -> Array:
    """Return the tau2 at which Q(tau2) is `target`, or 0 where Q(0) is not above it.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        As of `estimate_tau2`.
    target : float
        Above 0.

    Returns
    -------
    ndarray, shape (rows,)
    """
    y, v = estimates, variances
    tau2 = np.zeros(len(y))
    rows = np.flatnonzero(generalised_q(y, v, tau2) > target)
    if rows.size:
        # Q(tau2) is below the squares about the plain mean over tau2, but for rounding.
        high = 1.001 * y.shape[1] * y[rows].var(axis=1) / target

        def excess(x: Array, row: NDArray[np.int64]) -> Array:
            # 1/Q is nearly a straight line of tau2, and Q is not.
            return 1.0 / target - 1.0 / generalised_q(y[row], v[row], x)

        tau2[rows] = roots(excess, np.zeros_like(high), high, rows)
    return tau2


def score(estimates: Array, variances: Array, tau2: Array, restricted: bool) -> Array:
    """Return twice the derivative of the (restricted) log-likelihood by tau2.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        As of `estimate_tau2`.
    tau2 : ndarray, shape (rows,)
        At least 0.
    restricted : bool
        Of the restricted likelihood.

    Returns
    -------
    ndarray, shape (rows,)
    """
    w, total, deviation = _weighted(estimates, variances, tau2)
    deviation *= w
    slope = np.einsum("rk,rk->r", deviation, deviation) - total
    return slope + np.einsum("rk,rk->r", w, w) / total if restricted else np.asarray(slope)


def log_likelihood(estimates: Array, variances: Array, tau2: Array, restricted: bool) -> Array:
    """Return the log-likelihood at the best mean for tau2, with its constants as in metafor.

    Parameters
    ----------
    estimates, variances, tau2, restricted
        As of `score`.

    Returns
    -------
    ndarray, shape (rows,)
    """
    k = estimates.shape[1]
    w, total, deviation = _weighted(estimates, variances, tau2)
    log_weights = np.log(w).sum(axis=1)
    w *= deviation
    twice = log_weights - np.einsum("rk,rk->r", w, deviation) - k * np.log(2.0 * np.pi)
    if restricted:
        twice += np.log(k) + np.log(2.0 * np.pi) - np.log(total)
    return np.asarray(0.5 * twice)


def _weighted(y: Array, v: Array, tau2: Array) -> tuple[Array, Array, Array]:
    """Weights, their sum, and deviations from the weighted mean."""
    w = 1.0 / (v + tau2[:, None])
    total = w.sum(axis=1)
    # einsum, since the sums of a matrix product may round differently with more threads.
    return w, total, y - (np.einsum("rk,rk->r", w, y) / total)[:, None]


def _likelihood_maximum(y: Array, v: Array, restricted: bool) -> Array:
    """Highest maximum of the likelihood over tau2 >= 0."""
    least, width = v.min(axis=1), np.ptp(y, axis=1)
    # From the squared range on no term of the score is above 0: term i is w (w r^2 - (1 - h)) with
    # r = (1 - h) d, h the share of the weight and d the distance from the mean of the others.
    return highest_maximum(
        lambda tau2, row: score(y[row], v[row], tau2, restricted),
        lambda tau2, row: log_likelihood(y[row], v[row], tau2, restricted),
        least,
        np.maximum(width * width, least),
    )
