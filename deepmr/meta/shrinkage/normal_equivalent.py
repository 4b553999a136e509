"""Standard errors with few degrees of freedom, for a method that takes errors to be normal."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri_exp, stdtr

from deepmr.meta.result import Array

_NEAR_ZERO = 1e-4
_UNDERFLOW = 1e-290


def normal_se(estimates: Array, se: Array, df: Array) -> Array:
    """Return the standard errors with which a normal test has the p-value of Student's t.

    Parameters
    ----------
    estimates, se, df : ndarray, shape (k,)
        Finite estimates, standard errors above 0 and their degrees of freedom above 0; infinite
        ones leave the standard error as it is.

    Returns
    -------
    ndarray, shape (k,)
        se t/z with Phi(-z) = P(T < -t), t = abs(estimate)/se.
    """
    # z/t has a limit at 0, the ratio of the densities there.
    t = np.maximum(np.abs(estimates / se), _NEAR_ZERO)
    tail = stdtr(df, -t)
    known = np.isfinite(df)
    # The tail underflows at z = 37: from there on Wallace's formula (Ann Math Stat 1959;30:1121).
    finite = np.where(known, df, 1.0)
    scale = (8.0 * finite + 1.0) / (8.0 * finite + 3.0)
    wallace = np.where(known, scale * np.sqrt(finite * np.log1p(t * t / finite)), t)
    exact = tail > _UNDERFLOW
    z = np.where(exact, -ndtri_exp(np.log(np.where(exact, tail, 0.5))), wallace)
    return np.asarray(np.where(known, se * (t / z), se))
