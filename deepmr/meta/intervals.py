r"""Intervals of the variance between sequences, and of a new sequence.

*Q-profile* (Viechtbauer, Stat Med 2007;26:37): Q(tau2), with weights 1/(v + tau2), is chi^2 with
k - 1 degrees of freedom at the true tau2, so the bounds are where it meets the quantiles .975 and
.025, and 0 where Q(0) lies below.

*Profile likelihood* (Hardy and Thompson, Stat Med 1996;15:619): all tau2 whose log-likelihood
lies less than 1.92 below the maximum.

I2 and H2 are monotone in tau2, I2 = 100 tau2/(tau2 + s^2), H2 = 1 + tau2/s^2, so their bounds
are those of tau2, mapped. s^2 is the typical variance of Higgins and Thompson (Stat Med
2002;21:1539).

*Prediction*: estimate ± quantile * sqrt(tau2 + se^2), which takes tau2 for known; conventions
differ in the quantile:

==========  =========================================================================
metafor     that of the test: normal for ``z``, t with k - 1 degrees of freedom else
hts         t with k - 2 (Higgins, Thompson and Spiegelhalter, J R Stat Soc A 2009;172:137)
t_k-1       t with k - 1 (Veroniki et al., Res Synth Methods 2019;10:23)
normal      normal
==========  =========================================================================
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri

from deepmr.meta.heterogeneity import (
    LIKELIHOODS,
    estimate_tau2,
    invert_q,
    log_likelihood,
)
from deepmr.meta.result import Array

PREDICTIONS = ("metafor", "hts", "t_k-1", "normal")

_TAIL = 0.025
_TINY = float(np.finfo(np.float64).tiny)
_EPS4 = 4.0 * float(np.finfo(np.float64).eps)


def q_profile(estimates: Array, variances: Array) -> tuple[float, float]:
    """Return the 95 % Q-profile interval of tau2.

    Parameters
    ----------
    estimates, variances : ndarray, shape (k,)
        k at least 2; finite, variances above 0.

    Returns
    -------
    low, high : float
        At least 0.
    """
    y, v, df = estimates[None], variances[None], estimates.size - 1
    low, high = (
        float(invert_q(y, v, float(chdtri(df, level)))[0]) for level in (_TAIL, 1.0 - _TAIL)
    )
    return low, high


def profile_likelihood(
    estimates: Array, variances: Array, method: str = "REML"
) -> tuple[float, float]:
    """Return the 95 % profile-likelihood interval of tau2.

    Parameters
    ----------
    estimates, variances : ndarray, shape (k,)
        k at least 2; finite, variances above 0.
    method : str
        ``ML`` or ``REML``: of which likelihood.

    Returns
    -------
    low, high : float
        Where the likelihood has several maxima, of the crossings on either side of the highest
        one of them.

    Raises
    ------
    ValueError
        If the method is another, or there are fewer than 2 estimates.
    """
    if method not in LIKELIHOODS:
        raise ValueError(
            f"method {method!r} has no likelihood; write one of {', '.join(LIKELIHOODS)}"
        )
    y, v = estimates[None], variances[None]
    if y.shape[1] < 2:
        raise ValueError(f"a profile likelihood needs 2 estimates or more; found {y.shape[1]}")
    restricted = method == "REML"
    best = float(estimate_tau2(y, v, method)[0])
    allowed = float(chdtri(1, 2.0 * _TAIL)) / 2.0
    floor = float(log_likelihood(y, v, np.array([best]), restricted)[0]) - allowed

    def above(tau2: float) -> float:
        return float(log_likelihood(y, v, np.array([tau2]), restricted)[0]) - floor

    low = 0.0
    if above(0.0) < 0:
        low = float(brentq(above, 0.0, best, xtol=_TINY, rtol=_EPS4))
    far = max(2.0 * best, float(variances.min()))
    while above(far) > 0:
        far *= 2.0
    return low, float(brentq(above, best, far, xtol=_TINY, rtol=_EPS4))


def i2_h2(tau2: float, typical: float) -> tuple[float, float]:
    """Return I2 in percent and H2 of a tau2, given the typical variance within."""
    return 100.0 * tau2 / (tau2 + typical), tau2 / typical + 1.0


def check_prediction(prediction: str) -> None:
    """Raise a ValueError if the convention is none of `PREDICTIONS`."""
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"prediction {prediction!r} is unknown; write one of {', '.join(PREDICTIONS)}"
        )


def prediction_df(prediction: str, k: int, test_df: float) -> float:
    """Return the degrees of freedom of a prediction interval.

    Parameters
    ----------
    prediction : str
        One of `PREDICTIONS`.
    k : int
        Sequences combined.
    test_df : float
        Degrees of freedom of the test, infinite for ``z``.

    Returns
    -------
    float
        NaN where the convention leaves none (``hts`` with two sequences).
    """
    df = {"metafor": test_df, "hts": k - 2.0, "t_k-1": k - 1.0, "normal": np.inf}[prediction]
    return df if df > 0 else np.nan
