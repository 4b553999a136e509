"""Instrument strength and heterogeneity: what tells whether an estimate may be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deepmr.mr.estimator import Array, Group


def mean_f(group: Group) -> Array:
    """Mean first-stage F statistic, mean(bx^2/se_x^2), shape (sequences,)."""
    z = group.bx / group.se_x
    return np.asarray((z * z).sum(axis=-1) / z.shape[-1])


def i2_gx(group: Group) -> Array:
    """Unweighted I2_GX of |bx| (`TwoSampleMR::Isq`), a fraction, shape (sequences,).

    Egger's slope is diluted by about this factor (Bowden et al., Int J Epidemiol 2016;45:1961).
    """
    return _i2_of_effects(np.abs(group.bx), group.se_x)


def i2_gx_weighted(group: Group) -> Array:
    """I2_GX of |bx|/se_y, the one that belongs to weighted Egger (MendelianRandomization)."""
    return _i2_of_effects(np.abs(group.bx) / group.se_y, group.se_x / group.se_y)


def i2(q: ArrayLike, df: ArrayLike) -> Array:
    """Share of the scatter that the standard errors do not explain, max(0, (Q - df)/Q).

    Higgins and Thompson (Stat Med 2002;21:1539).

    Parameters
    ----------
    q : array_like
        Cochran's Q.
    df : array_like
        Its degrees of freedom, broadcast against `q`.

    Returns
    -------
    ndarray
        A fraction; NaN where Q is 0 or NaN (no scatter to have a share of).
    """
    q = np.asarray(q, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (q - df) / q
    return np.where(q > 0, np.maximum(share, 0.0), np.nan)


def _i2_of_effects(effect: Array, se: Array) -> Array:
    weights = 1.0 / (se * se)
    mean = (weights * effect).sum(axis=-1) / weights.sum(axis=-1)
    deviation = effect - mean[..., None]
    return i2((weights * deviation * deviation).sum(axis=-1), effect.shape[-1] - 1)
