"""Inverse-variance weighted estimator: regression through the origin.

First-order weights 1/se_y^2, as `mr_ivw` of the R package MendelianRandomization (Burgess et al.,
Genet Epidemiol 2013;37:658; Bowden et al., Stat Med 2017;36:1783 for the multiplicative model).
"""

from __future__ import annotations

import numpy as np

from deepmr.mr.drawwise import scatter_without_draw_noise
from deepmr.mr.estimator import Array, DrawFit, Estimator, Fit, Group, Options, chi2_p, drawn


def _line(weights: Array, bx: Array, by: Array) -> tuple[Array, Array, Array]:
    """Return slope, its information sum(w bx^2) and the weighted residual sum of squares."""
    information = (weights * bx * bx).sum(axis=-1)
    slope = (weights * bx * by).sum(axis=-1) / information
    residual = by - slope[..., None] * bx
    return slope, information, (weights * residual * residual).sum(axis=-1)


def fit_fixed(group: Group, options: Options) -> Fit:
    """Fixed-effect IVW: no heterogeneity, se = sum(bx^2/se_y^2)^(-1/2)."""
    slope, information, q = _line(group.weights, group.bx, group.by)
    return Fit(slope, 1.0 / np.sqrt(information), q, chi2_p(q, group.bx.shape[1] - 1))


def fit_random(group: Group, options: Options) -> Fit:
    """Multiplicative random-effects IVW: the fixed SE times max(1, sqrt(Q/(n-1)))."""
    fixed = fit_fixed(group, options)
    q = np.asarray(fixed.q)
    scale = np.sqrt(np.maximum(q / (group.bx.shape[1] - 1), 1.0))
    return Fit(fixed.estimate, fixed.se * scale, q, fixed.q_p)


def fit_draws(group: Group) -> DrawFit:
    """IVW in every draw; fixed and random effects are the same here.

    The fixed-effect SE consists of model error alone, and that is carried by the draws.
    """
    draws_x, draws_y = drawn(group)
    df = group.bx.shape[1] - 1
    weights = group.weights
    slopes, information, rss = _line(weights[:, None, :], draws_x, draws_y)
    slope, mean_information, mean_rss = _line(weights, group.bx, group.by)
    noise = (draws_y - group.by[:, None, :]) - slope[:, None, None] * (
        draws_x - group.bx[:, None, :]
    )
    bx = np.broadcast_to(group.bx[:, None, :], draws_x.shape)
    _, _, noise_rss = _line(weights[:, None, :], bx, noise)
    scatter = scatter_without_draw_noise(mean_rss / df, noise_rss / df)
    return DrawFit(slopes, np.sqrt(rss / df / information), np.sqrt(scatter / mean_information))


IVW = Estimator("ivw", 2, fit_random, fit_draws)
IVW_FIXED = Estimator("ivw_fixed", 2, fit_fixed, fit_draws)
