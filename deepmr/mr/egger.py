"""MR-Egger: regression with an intercept, after orienting every instrument to bx > 0.

As `mr_egger` of the R package MendelianRandomization (Bowden, Davey Smith and Burgess, Int J
Epidemiol 2015;44:512): weights 1/se_y^2, SE times max(1, residual SE), normal reference
distribution.
"""

from __future__ import annotations

import numpy as np

from deepmr.mr.drawwise import scatter_without_draw_noise
from deepmr.mr.estimator import (
    Array,
    DrawFit,
    Estimator,
    Fit,
    Group,
    Options,
    chi2_p,
    drawn,
    two_sided_p,
)


def _orientation(bx: Array) -> Array:
    return np.where(bx < 0, -1.0, 1.0)


def _line(weights: Array, bx: Array, by: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Return slope, centred sum of squares, residual sum of squares, and the means of bx and by."""
    total = weights.sum(axis=-1)
    mean_x = (weights * bx).sum(axis=-1) / total
    mean_y = (weights * by).sum(axis=-1) / total
    x = bx - mean_x[..., None]
    y = by - mean_y[..., None]
    information = (weights * x * x).sum(axis=-1)
    slope = (weights * x * y).sum(axis=-1) / information
    residual = y - slope[..., None] * x
    return slope, information, (weights * residual * residual).sum(axis=-1), mean_x, mean_y


def fit(group: Group, options: Options) -> Fit:
    """Slope, intercept and heterogeneity from the mean effects."""
    sign = _orientation(group.bx)
    weights = group.weights
    df = group.bx.shape[1] - 2
    slope, information, q, mean_x, mean_y = _line(weights, sign * group.bx, sign * group.by)
    scale = np.sqrt(np.maximum(q / df, 1.0))
    intercept = mean_y - slope * mean_x
    intercept_se = scale * np.sqrt(1.0 / weights.sum(axis=-1) + mean_x * mean_x / information)
    return Fit(
        slope,
        scale / np.sqrt(information),
        q,
        chi2_p(q, df),
        intercept,
        intercept_se,
        two_sided_p(intercept / intercept_se),
    )


def fit_draws(group: Group) -> DrawFit:
    """Slope in every draw, weights and orientation fixed by the mean effects."""
    draws_x, draws_y = drawn(group)
    df = group.bx.shape[1] - 2
    weights = group.weights
    sign = _orientation(group.bx)
    bx, by = sign * group.bx, sign * group.by
    x, y = sign[:, None, :] * draws_x, sign[:, None, :] * draws_y
    slopes, information, rss, _, _ = _line(weights[:, None, :], x, y)
    slope, mean_information, mean_rss, _, _ = _line(weights, bx, by)
    noise = (y - by[:, None, :]) - slope[:, None, None] * (x - bx[:, None, :])
    bx = np.broadcast_to(bx[:, None, :], x.shape)
    _, _, noise_rss, _, _ = _line(weights[:, None, :], bx, noise)
    scatter = scatter_without_draw_noise(mean_rss / df, noise_rss / df)
    return DrawFit(slopes, np.sqrt(rss / df / information), np.sqrt(scatter / mean_information))


EGGER = Estimator("egger", 3, fit, fit_draws)
