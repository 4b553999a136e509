"""Simple, weighted and penalized weighted median of the ratio estimates by/bx.

Right while half of the instruments, or half of the weight, is valid (Bowden et al., Genet
Epidemiol 2016;40:304). The weight of instrument j is

    first order (R package MendelianRandomization)  w_j = bx^2/se_y^2,
    second order (TwoSampleMR)                      w_j = 1/(se_y^2/bx^2 + by^2 se_x^2/bx^4),

or the same for all (simple median). The penalized median lowers the weight of instruments far
from the weighted median m to w_j min(1, 20 p_j), p_j being the upper tail of chi-squared with one
degree of freedom at w_j (by/bx - m)^2. The standard error is that of a parametric bootstrap
(`deepmr.mr.bootstrap`) with the weights fixed over replicates, as in both R packages, or
Woodruff's closed form (`deepmr.mr.quantiles`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.bootstrap import Replicates
from deepmr.mr.estimator import (
    Array,
    DrawFit,
    Estimator,
    Fit,
    Group,
    Options,
    drawn,
    two_sided_p,
)
from deepmr.mr.quantiles import Rows, median_and_se, medians_and_se_of_rows, medians_of_rows

_PENALTY = 20.0
"""An instrument loses weight where its p-value of heterogeneity is below 1/20."""


def equal_weights(group: Group, options: Options) -> Array:
    """Weight 1, or 0 without an effect on the exposure; shape (sequences, instruments)."""
    return (group.anchor_x != 0).astype(np.float64)


def inverse_variance_weights(group: Group, options: Options) -> Array:
    """Weights of the order in `options.median_order`; shape (sequences, instruments)."""
    x, se_y = group.anchor_x, group.se_y
    with np.errstate(over="ignore", invalid="ignore"):
        if options.median_order == "first":
            return group.weights * x * x
        error = _ratio(x, group.anchor_y) * group.se_x
        return np.where(x == 0, 0.0, x * x / (se_y * se_y + error * error))


def penalized_weights(group: Group, options: Options) -> Array:
    """Inverse-variance weights times the penalty; shape (sequences, instruments)."""
    weights = inverse_variance_weights(group, options)
    ratio = _ratio(group.anchor_x, group.anchor_y)
    middle, _ = median_and_se(ratio, weights)
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.sqrt(weights) * (ratio - middle[:, None])
        penalized = weights * np.minimum(1.0, _PENALTY * two_sided_p(z))
    return np.where(weights == 0, 0.0, penalized)


_Weigh = Callable[[Group, Options], Array]


def _fit(group: Group, options: Options, weigh: _Weigh) -> Fit:
    weights = weigh(group, options)
    estimate, se = median_and_se(_ratio(group.bx, group.by), weights)
    if not options.bootstrap_iterations:
        return Fit(estimate, se)
    replicates = Replicates(group.bx.shape[1], options)
    for i in range(len(se)):
        ratios = _ratios_of_replicates(replicates, group, i)
        medians = medians_of_rows(ratios, options.bootstrap_iterations, weights[i])
        with np.errstate(invalid="ignore"):
            se[i] = medians.std(ddof=1)
    return Fit(estimate, se)


def _fit_draws(group: Group, options: Options, weigh: _Weigh) -> DrawFit:
    """Median in every draw, weights fixed by the mean effects.

    Both SEs are Woodruff's: per draw from the draw's ratios; ``se_within`` from the ratios of the
    mean effects, whose scatter still holds the error of the mean, so that it errs to the wide.
    """
    draws_x, draws_y = drawn(group)
    weights = weigh(group, options)
    estimates, se = np.empty((2, *draws_x.shape[:2]))
    for i in range(len(estimates)):
        ratios = _ratios_of_draws(draws_x[i], draws_y[i])
        estimates[i], se[i] = medians_and_se_of_rows(ratios, estimates.shape[1], weights[i])
    _, se_within = median_and_se(_ratio(group.bx, group.by), weights)
    return DrawFit(estimates, se, se_within)


def _ratios_of_replicates(replicates: Replicates, group: Group, i: int) -> Rows:
    effects = replicates.rows(group, i)

    def rows(which: slice | NDArray[np.intp]) -> Array:
        bx, by = effects(which)
        return _ratio(bx, by, out=by)

    return rows


def _ratios_of_draws(draws_x: Array, draws_y: Array) -> Rows:
    return lambda which: _ratio(draws_x[which], draws_y[which])


def _ratio(bx: Array, by: Array, out: Array | None = None) -> Array:
    """Ratio by/bx: infinite or NaN for bx = 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.divide(by, bx, out=out)


def _estimator(name: str, weigh: _Weigh) -> Estimator:
    def fit(group: Group, options: Options) -> Fit:
        return _fit(group, options, weigh)

    def fit_draws(group: Group, options: Options) -> DrawFit:
        return _fit_draws(group, options, weigh)

    return Estimator(name, 3, fit, fit_draws, frozenset({"rho_xy", "correlation"}))


SIMPLE_MEDIAN = _estimator("simple_median", equal_weights)
WEIGHTED_MEDIAN = _estimator("weighted_median", inverse_variance_weights)
PENALIZED_WEIGHTED_MEDIAN = _estimator("penalized_weighted_median", penalized_weights)
