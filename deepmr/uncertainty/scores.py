r"""Whether standard errors describe the errors: on average, at every size, and at every level.

With z = error/sd, where sd is the standard deviation that the standard error implies (for
Student's t it is larger than the standard error):

* ZMS, the mean squared z, is 1 on average when standard errors are right (Pernot, APL Machine
  Learning 2023;1:046121); its root is the factor by which they are too small.
* ENCE (Levi, Gispan, Giladi and Fetaya, Sensors 2022;22:5540) asks it at every size of the
  standard error: the mean over bins of |RMV - RMSE|/RMV, RMV the root of the mean sd^2 in a bin.
* Coverage: the share of errors inside the central interval of each probability.
* Sharpness, the root mean squared standard error, has no right value: among calibrated standard
  errors smaller ones say more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from deepmr.uncertainty.errors import Errors

Array = NDArray[np.float64]

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Central probabilities at which coverage is told."""

LARGEST_TOLD = 100
"""A larger ZMS is that of a few mutations; its digits say nothing to a reader."""


def squared_z(errors: Errors) -> Array:
    """Return z^2 of every error, shape (n,); NaN where its df of 2 or less has no variance."""
    sd = errors.sd
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(sd), (errors.error / sd) ** 2, np.nan)


def zms(errors: Errors) -> float:
    """Return the mean squared z, 1 when calibrated.

    NaN without an error, and where an error has 2 degrees of freedom or fewer: its variance does
    not exist.
    """
    return float(squared_z(errors).mean()) if errors.error.size else np.nan


def share_of_largest(errors: Errors, share: float = 0.01) -> float:
    """Return which part of the sum of z^2 the largest ones carry.

    Of calibrated normal errors the largest hundredth carries 8 %. A ZMS that a few errors decide,
    because their standard errors are next to nothing, says nothing of the others.

    Parameters
    ----------
    errors : Errors
        Errors and their standard errors.
    share : float
        Share of the errors, at least one of them.

    Returns
    -------
    float
        NaN where `zms` is, and where all errors are 0.
    """
    z2 = np.sort(squared_z(errors))
    if z2.size == 0 or not z2.sum() > 0:
        return np.nan
    return float(z2[-max(1, int(share * z2.size)) :].sum() / z2.sum())


def ence(errors: Errors, bins: int = 10) -> float:
    """Return the expected normalised calibration error, 0 when exact.

    Of calibrated standard errors it is above 0 in any finite sample, the more the fewer errors
    there are in a bin.

    Parameters
    ----------
    errors : Errors
        Errors and their standard errors.
    bins : int
        Bins of about equally many errors. Equal standard errors stay in one bin, so that no order
        of the rows matters; then there may be fewer.

    Returns
    -------
    float
        NaN where `zms` is.

    Raises
    ------
    ValueError
        If there is not one bin at least.
    """
    if bins < 1:
        raise ValueError(f"bins: found {bins}; write 1 or more")
    sd = errors.sd
    if sd.size == 0 or not np.isfinite(sd).all():
        return np.nan
    edges = np.quantile(sd, np.arange(1, bins) / bins, method="inverted_cdf")
    bin_of = np.searchsorted(edges, sd)
    count = np.bincount(bin_of, minlength=bins)
    used = count > 0
    rmv = np.sqrt(np.bincount(bin_of, sd**2, bins)[used] / count[used])
    rmse = np.sqrt(np.bincount(bin_of, errors.error**2, bins)[used] / count[used])
    return float(np.mean(np.abs(rmv - rmse) / rmv))


def coverage(errors: Errors, levels: Sequence[float] = LEVELS) -> Array:
    """Return the share of errors within the central interval of each level.

    Parameters
    ----------
    errors : Errors
        Errors, their standard errors and degrees of freedom.
    levels : sequence of float
        Central probabilities, between 0 and 1.

    Returns
    -------
    ndarray, shape (levels,)
        Share of |error| <= q se, q being the quantile of Student's t at (1 + level)/2; equal to
        the levels when calibrated. NaN without an error.

    Raises
    ------
    ValueError
        If a level is not between 0 and 1.
    """
    wanted = np.asarray(levels, np.float64)
    if not ((wanted > 0) & (wanted < 1)).all():
        raise ValueError(f"levels must lie between 0 and 1; found {list(levels)}")
    if errors.error.size == 0:
        return np.full(wanted.size, np.nan)
    # One distribution function an error instead of one quantile an error and level.
    z = np.abs(errors.error) / errors.se
    df = np.asarray(errors.df, np.float64)
    below = np.where(np.isinf(df), ndtr(z), stdtr(np.where(np.isinf(df), 1.0, df), z))
    central = np.sort(2.0 * below - 1.0)
    return np.asarray(np.searchsorted(central, wanted, side="right") / central.size)


def sharpness(errors: Errors) -> float:
    """Return the root mean squared standard error, logit; NaN without an error."""
    return float(np.sqrt(np.mean(errors.se**2))) if errors.se.size else np.nan


def rmse(errors: Errors) -> float:
    """Return the root mean squared error, logit; NaN without an error."""
    return float(np.sqrt(np.mean(errors.error**2))) if errors.error.size else np.nan
