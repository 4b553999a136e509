r"""False discoveries among many p-values.

Benjamini and Hochberg (J R Stat Soc B 1995;57:289) control the expected share of null hypotheses
among those rejected, at FDR times pi0, the share of null hypotheses among all. Storey's q-value
(Storey and Tibshirani, PNAS 2003;100:9440) multiplies by an estimate of pi0. Both hold where
p-values are independent, and where they depend positively; p-values of pairs that share a model, an
exposure or an outcome are dependent, and pi0 is then known less well than their number suggests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control

from deepmr.meta.result import Array

FEW = 20
"""With fewer p-values there is no estimate of pi0, and q is Benjamini and Hochberg's."""

LAMBDAS = tuple(np.arange(1, 20) / 20)


@dataclass(frozen=True, eq=False)
class QValues:
    """Storey's q-values.

    Attributes
    ----------
    q : ndarray, shape (n,)
        NaN where there is no p-value.
    pi0 : float
        Estimated share of null hypotheses, above 0 and at most 1; NaN without a p-value.
    pi0_kind : str
        ``bootstrap``, or ``one``: too few p-values for an estimate, so that pi0 is set to 1.
    """

    q: Array
    pi0: float
    pi0_kind: str


def benjamini_hochberg(p: ArrayLike) -> Array:
    """Return Benjamini and Hochberg's adjusted p-values.

    Parameters
    ----------
    p : array_like, shape (n,)
        p-values; NaN stays NaN and does not count.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError
        If the shape is wrong or a p-value is not between 0 and 1.
    """
    values, known = _checked(p)
    adjusted = np.full(values.shape, np.nan)
    if known.any():
        adjusted[known] = false_discovery_control(values[known])
    return adjusted


def storey_q(p: ArrayLike, lambdas: ArrayLike = LAMBDAS) -> QValues:
    """Return Storey's q-values: the adjusted p-values of Benjamini and Hochberg times pi0.

    At a lambda, pi0 = (1 + #{p > lambda})/(n (1 - lambda)) (Storey, Taylor and Siegmund, J R Stat
    Soc B 2004;66:187, whose 1 keeps it above 0). Of all lambdas that one is taken whose estimate
    has the least mean squared error over the bootstrap about the .1 quantile of the estimates, as
    in the R package qvalue (version 2). #{p > lambda} is binomial over the bootstrap, so its
    variance has a closed form and nothing is drawn.

    Parameters
    ----------
    p : array_like, shape (n,)
        p-values; NaN stays NaN and does not count.
    lambdas : array_like
        At least one number in [0, 1).

    Returns
    -------
    QValues
        With fewer than 20 p-values pi0 is 1.

    Raises
    ------
    ValueError
        If a shape is wrong, a p-value is not between 0 and 1 or a lambda not in [0, 1).
    """
    values, known = _checked(p)
    grid = np.asarray(lambdas, dtype=np.float64)
    if grid.ndim != 1 or not grid.size or not ((grid >= 0) & (grid < 1)).all():
        raise ValueError(f"lambdas: found {grid}; write one or more numbers in [0, 1)")
    n = int(known.sum())
    if not n:
        return QValues(benjamini_hochberg(values), np.nan, "one")
    if n < FEW:
        return QValues(benjamini_hochberg(values), 1.0, "one")
    pi0 = _null_share(values[known], grid)
    return QValues(pi0 * benjamini_hochberg(values), pi0, "bootstrap")


def _checked(p: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"p must have shape (n,); found {values.shape}")
    known = ~np.isnan(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise ValueError("p-values must lie between 0 and 1; write NaN where there is none")
    return values, known


def _null_share(p: Array, lambdas: Array) -> float:
    n = p.size
    above = n - np.searchsorted(np.sort(p), lambdas, side="right")
    scale = n * (1.0 - lambdas)
    estimates = (above + 1.0) / scale
    target = np.quantile(estimates, 0.1)
    variance = above * (1.0 - above / n) / scale**2
    best = int(np.argmin(variance + (estimates - target) ** 2))
    return float(min(estimates[best], 1.0))
