"""Instrument strength: what tells whether an estimate may be believed."""

from __future__ import annotations

import numpy as np

from deepmr.mr.estimator import Array, Group


def mean_f(group: Group) -> Array:
    """Mean first-stage F statistic, mean(bx^2/se_x^2), shape (sequences,)."""
    z = group.bx / group.se_x
    return np.asarray((z * z).sum(axis=-1) / z.shape[-1])


def i2_gx(group: Group) -> Array:
    """Unweighted I2_GX of |bx| (`TwoSampleMR::Isq`), a fraction, shape (sequences,).

    Egger's slope is diluted by about this factor (Bowden et al., Int J Epidemiol 2016;45:1961).
    """
    return _i2(np.abs(group.bx), group.se_x)


def i2_gx_weighted(group: Group) -> Array:
    """I2_GX of |bx|/se_y, the one that belongs to weighted Egger (MendelianRandomization)."""
    return _i2(np.abs(group.bx) / group.se_y, group.se_x / group.se_y)


def _i2(effect: Array, se: Array) -> Array:
    weights = 1.0 / (se * se)
    mean = (weights * effect).sum(axis=-1) / weights.sum(axis=-1)
    deviation = effect - mean[..., None]
    q = (weights * deviation * deviation).sum(axis=-1)
    return np.maximum((q - (effect.shape[-1] - 1)) / q, 0.0)
