r"""Moderated variances: few members say little of one mutation, all mutations together much.

Smyth (Statistical Applications in Genetics and Molecular Biology 2004;3:3), as limma does it: a
sample variance s_j^2 with d degrees of freedom estimates sigma_j^2, and 1/sigma_j^2 is
chi^2_{d0} / (d0 s0^2) over mutations. With e_j = log s_j^2 - digamma(d/2) + log(d/2),

    trigamma(d0/2) = var(e) - trigamma(d/2),
    log s0^2 = mean(e) + digamma(d0/2) - log(d0/2),

and the variance given the data is (d0 s0^2 + d s_j^2)/(d0 + d), with d0 + d degrees of freedom, but
no more than the n d of all n mutations together.
Where log variances scatter no more than chance makes them, d0 is infinite and all mutations have
the mean variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, polygamma

Array = NDArray[np.float64]

_FLOOR = 1e-5
"""Smallest variance whose logarithm is taken, as a share of the median one (limma's choice)."""

_NEWTON_STEPS = 50


@dataclass(frozen=True, eq=False)
class Moderated:
    """Variances of n mutations after looking at all of them.

    Attributes
    ----------
    variance : ndarray of float64, shape (n,)
        Moderated variance.
    df : float
        Its degrees of freedom, d0 + d but at most n d; infinite when all variances are 0.
    prior_df, prior_variance : float
        d0 and s0^2.
    """

    variance: Array
    df: float
    prior_df: float
    prior_variance: float


def moderate(variances: ArrayLike, df: float) -> Moderated:
    """Shrink sample variances towards what they have in common.

    Parameters
    ----------
    variances : array_like, shape (n,)
        Sample variances >= 0. A variance of 0 has no logarithm: it counts as 1e-5 of the median
        (of those above 0, if more than half are 0) for the prior, and as 0 for its own mutation.
    df : float
        Their degrees of freedom d, above 0.

    Returns
    -------
    Moderated
        All variances are 0 when all given are 0. A single one stands for its own prior.

    Raises
    ------
    ValueError
        If there is no variance, one is negative or not finite, or `df` is not above 0.
    """
    x = np.asarray(variances, np.float64)
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"variances must have shape (n,) with n >= 1; found {x.shape}")
    if not (np.isfinite(x) & (x >= 0)).all():
        raise ValueError("a variance is negative or not finite; give sample variances")
    if not (np.isfinite(df) and df > 0):
        raise ValueError(f"df must be finite and above 0; found {df}")
    if not x.any():
        return Moderated(np.zeros_like(x), np.inf, np.inf, 0.0)
    prior_df, prior_variance = _prior(x, df)
    pooled_df = float(x.size * df)
    if np.isinf(prior_df):
        return Moderated(np.full_like(x, prior_variance), pooled_df, np.inf, prior_variance)
    posterior = (prior_df * prior_variance + df * x) / (prior_df + df)
    return Moderated(posterior, min(prior_df + df, pooled_df), prior_df, prior_variance)


def trigamma_inverse(values: ArrayLike) -> Array:
    """Return y with trigamma(y) = x, for x > 0.

    Newton's method on 1/trigamma, which is convex and nearly linear: from 1/2 + 1/x the steps
    approach the solution from one side (Smyth 2004, appendix).

    Parameters
    ----------
    values : array_like, shape (n,)
        The x.

    Returns
    -------
    ndarray, shape (n,)
        The y.

    Raises
    ------
    ValueError
        If a value is not finite and above 0.
    """
    x = np.asarray(values, np.float64)
    if not (np.isfinite(x) & (x > 0)).all():
        raise ValueError("trigamma takes every finite value above 0, and only those")
    y = 0.5 + 1.0 / x
    for _ in range(_NEWTON_STEPS):
        trigamma = polygamma(1, y)
        step = trigamma * (1.0 - trigamma / x) / polygamma(2, y)
        y = y + step
        if np.all(np.abs(step) <= 1e-12 * y):
            break
    # Beyond 1e7 trigamma is 1/y to rounding, below 1e-6 it is 1/y^2.
    return np.where(x > 1e7, 1.0 / np.sqrt(x), np.where(x < 1e-6, 1.0 / x, y))


def _prior(x: Array, df: float) -> tuple[float, float]:
    middle = np.median(x)
    if middle == 0:
        middle = np.median(x[x > 0])
    x = np.maximum(x, _FLOOR * middle)
    if x.size == 1:
        return np.inf, float(x[0])
    e = np.log(x) - digamma(df / 2) + np.log(df / 2)
    excess = float(e.var(ddof=1) - polygamma(1, df / 2))
    if excess <= 0:
        return np.inf, float(x.mean())
    half = float(trigamma_inverse(excess))
    return 2 * half, float(np.exp(e.mean() + digamma(half) - np.log(half)))
