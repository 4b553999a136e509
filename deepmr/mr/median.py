"""Weighted median of the ratio estimates by/bx: right while half of the weight is valid.

Bowden et al., Genet Epidemiol 2016;40:304, with the first-order weights bx^2/se_y^2 of the R
package MendelianRandomization (TwoSampleMR uses second-order weights and differs).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from deepmr.mr.estimator import Array, DrawFit, Estimator, Fit, Group, Options, drawn


def weighted_quantiles(values: Array, weights: Array, probabilities: Array) -> Array:
    """Weighted quantiles, interpolated between the midpoints of the cumulated weights.

    Parameters
    ----------
    values, weights : ndarray, shape (..., n)
        Values (may be infinite, not NaN) and weights >= 0.
    probabilities : ndarray, shape (..., m)
        Between 0 and 1; beyond the first and last midpoint the extreme value is returned.

    Returns
    -------
    ndarray, shape (..., m)
        NaN where all weights are 0.
    """
    order = np.argsort(values, axis=-1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=-1)
    weight = np.take_along_axis(np.broadcast_to(weights, values.shape), order, axis=-1)
    cumulated = np.cumsum(weight, axis=-1)
    with np.errstate(invalid="ignore"):
        midpoint = (cumulated - 0.5 * weight) / cumulated[..., -1:]
    last = values.shape[-1] - 1
    result = np.empty(probabilities.shape)
    for column in range(probabilities.shape[-1]):
        p = probabilities[..., column, None]
        above = np.minimum((midpoint < p).sum(axis=-1, keepdims=True), last)
        below = np.maximum(above - 1, 0)
        low, high = (np.take_along_axis(ordered, i, axis=-1) for i in (below, above))
        left, right = (np.take_along_axis(midpoint, i, axis=-1) for i in (below, above))
        share = np.clip((p - left) / np.where(right > left, right - left, 1.0), 0.0, 1.0)
        inside = np.where(share < 1.0, low + (high - low) * share, high)
        result[..., column] = np.where(low == high, low, inside)[..., 0]
    result[~(cumulated[..., -1] > 0)] = np.nan
    return result


def median_and_se(values: Array, weights: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Weighted median over the last axis and its closed-form standard error.

    Woodruff (J Am Stat Assoc 1952;47:635): the weighted share of values below the median has the
    standard error h = sqrt(sum w^2)/(2 sum w); mapped back through the quantile function,
    se = (Q(1/2 + h) - Q(1/2 - h))/2.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Values; a NaN gets weight 0.
    weights : array_like, broadcast to (..., n)
        Weights.

    Returns
    -------
    median, se : ndarray, shape (...)
        For a single value the SE is 0.
    """
    missing = np.isnan(values)
    weight = np.where(missing, 0.0, np.broadcast_to(np.asarray(weights, np.float64), values.shape))
    half = 0.5 * np.sqrt((weight * weight).sum(axis=-1)) / weight.sum(axis=-1)
    probabilities = np.stack([np.full_like(half, 0.5), 0.5 - half, 0.5 + half], axis=-1)
    quantiles = weighted_quantiles(np.where(missing, 0.0, values), weight, probabilities)
    return quantiles[..., 0], 0.5 * (quantiles[..., 2] - quantiles[..., 1])


def fit(group: Group, options: Options) -> Fit:
    """Weighted median with the parametric-bootstrap SE of R (weights fixed over replicates).

    The standard normals depend on the seed and the number of instruments only, so sequences
    share them and no result depends on its neighbours.
    """
    weights = group.weights * group.bx * group.bx
    half = np.full((len(group.bx), 1), 0.5)
    estimate = weighted_quantiles(_ratio(group.bx, group.by), weights, half)[:, 0]
    n = group.bx.shape[1]
    generator = np.random.default_rng([options.seed, n])
    normal_x, normal_y = generator.standard_normal((2, options.bootstrap_iterations, n))
    se = np.empty_like(estimate)
    half = np.full((options.bootstrap_iterations, 1), 0.5)
    for i in range(len(se)):
        ratio = _ratio(
            group.bx[i] + group.se_x[i] * normal_x, group.by[i] + group.se_y[i] * normal_y
        )
        se[i] = weighted_quantiles(ratio, weights[i], half)[:, 0].std(ddof=1)
    return Fit(estimate, se)


def fit_draws(group: Group) -> DrawFit:
    """Weighted median in every draw, weights fixed by the mean effects.

    Both SEs are Woodruff's: per draw from the draw's ratios; ``se_within`` from the ratios of the
    mean effects, whose scatter still holds the error of the mean, so that it errs to the wide.
    """
    draws_x, draws_y = drawn(group)
    weights = group.weights * group.bx * group.bx
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = draws_y / draws_x
    estimates, se = median_and_se(ratios, weights[:, None, :])
    _, se_within = median_and_se(_ratio(group.bx, group.by), weights)
    return DrawFit(estimates, se, se_within)


def _ratio(bx: Array, by: Array) -> Array:
    """Ratio by/bx; 0 for bx = 0, whose weight is 0 (its ratio says nothing)."""
    return np.divide(by, bx, out=np.zeros_like(by), where=bx != 0)


WEIGHTED_MEDIAN = Estimator("weighted_median", 3, fit, fit_draws)
