r"""Inverse-variance weighted estimators: regression of by on bx through the origin.

``ivw`` is the multiplicative random-effects model (Bowden et al., Stat Med 2017;36:1783), whose
SE is that of fixed effects, sum(w bx^2)^(-1/2), times max(1, sqrt(Q/(n-1))); ``ivw_fixed``
(Burgess, Butterworth and Thompson, Genet Epidemiol 2013;37:658) leaves the factor out;
``ivw_delta`` is ``ivw`` with second-order weights. All agree with `mr_ivw` of the R package
MendelianRandomization, except that

* Q is always taken about the fitted line with the weights before any penalty (R gives none for
  penalised weights, and n - 1 times the squared robust scale for ``robust``),
* with correlated instruments (Burgess, Dudbridge and Thompson, Stat Med 2016;35:1880) second-order
  and penalised weights stay in force, which R ignores without a word; ``robust`` is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepmr.mr.drawwise import refit
from deepmr.mr.estimator import Array, DrawFit, Estimator, Fit, Group, Options, chi2_p, drawn
from deepmr.mr.estimators import regression_line
from deepmr.mr.estimators.mm_regression import mm_regression
from deepmr.mr.estimators.weighting import (
    PENALTY_FIRST_ORDER,
    PENALTY_SECOND_ORDER,
    median_ratio,
    penalised,
    second_order,
)


def fit_random(group: Group, options: Options) -> Fit:
    """Fit multiplicative random effects with first-order weights.

    Parameters
    ----------
    group : Group
        Effects of S sequences with n >= 2 instruments.
    options : Options
        Uses ``distribution``, ``penalized``, ``robust`` and, with the latter, ``seed``.

    Returns
    -------
    Fit
        NaN and a status where a sequence has no estimate.
    """
    return _fit(group, options, group.weights, PENALTY_FIRST_ORDER)


def fit_fixed(group: Group, options: Options) -> Fit:
    """Return the same estimate with the SE that the errors of by alone would give."""
    fit = fit_random(group, options)
    return replace(fit, se=np.asarray(fit.se_model), se_unfloored=None)


def fit_delta(group: Group, options: Options) -> Fit:
    """Fit multiplicative random effects with second-order weights, which use rho_xy."""
    return _fit(group, options, second_order(group), PENALTY_SECOND_ORDER)


def fit_draws(group: Group, options: Options) -> DrawFit:
    """First-order IVW in every draw; fixed and random effects are the same here.

    The fixed-effect SE consists of model error alone, and that is carried by the draws.
    """
    if options.robust:
        return _robust_draws(group, options)
    return _fit_draws(group, options, group.weights, PENALTY_FIRST_ORDER)


def fit_delta_draws(group: Group, options: Options) -> DrawFit:
    """Second-order IVW in every draw, weights fixed by the mean effects."""
    if options.robust:
        return _robust_delta_draws(group, options)
    return _fit_draws(group, options, second_order(group), PENALTY_SECOND_ORDER)


_robust_draws = refit(fit_random)
_robust_delta_draws = refit(fit_delta)


def _root(group: Group, options: Options, weights: Array, factor: float) -> Array:
    """Square root of the weights in force, which come from the anchors."""
    if options.penalized:
        theta = median_ratio(group.anchor_x, group.anchor_y)
        weights = penalised(weights, group.anchor_y - theta[:, None] * group.anchor_x, factor)
    return np.asarray(np.sqrt(weights))


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _fit(group: Group, options: Options, weights: Array, factor: float) -> Fit:
    n_sequences, n = group.bx.shape
    root = _root(group, options, weights, factor)
    line = regression_line.fit_lines(root, group.bx, group.by, correlation=group.correlation)
    degrees = np.count_nonzero(root, axis=-1) - 1
    status = np.full(n_sequences, "ok", dtype=object)
    status[degrees < 1] = "too_few_instruments"
    status[~group.bx.any(axis=-1)] = "no_exposure_effect"
    status[~line.positive_definite] = "correlation_not_positive_definite"
    if options.robust:
        if group.correlation is not None:
            status[status == "ok"] = "robust_needs_independent_instruments"
        estimate, scale, se_model = _robust_lines(group, options, root, status == "ok")
    else:
        estimate = line.slope
        scale = np.sqrt(line.rss / degrees)
        se_model = 1.0 / np.sqrt(line.information)
    status[(status == "ok") & ~np.isfinite(estimate + se_model)] = "not_finite"
    failed = status != "ok"
    estimate = np.where(failed, np.nan, estimate)
    se_model = np.where(failed, np.nan, se_model)
    if options.penalized or options.robust:
        q = regression_line.residual_squares(
            np.sqrt(weights), group.bx, group.by, estimate, correlation=group.correlation
        )
    else:
        q = np.where(failed, np.nan, line.rss)
    return Fit(
        estimate,
        se_model * np.maximum(scale, 1.0),
        df=n - 1 if options.distribution == "t" else np.inf,
        se_unfloored=se_model * scale,
        se_model=se_model,
        q=q,
        q_p=chi2_p(q, n - 1),
        q_df=n - 1,
        status=status,
    )


def _robust_lines(
    group: Group, options: Options, root: Array, usable: np.ndarray
) -> tuple[Array, Array, Array]:
    """Return slope, residual scale and the SE at scale 1 of an MM-regression."""
    slope, scale, se = np.full((3, len(root)), np.nan)
    for i in np.flatnonzero(usable):
        used = root[i] > 0
        x, y = (root[i] * group.bx[i])[used], (root[i] * group.by[i])[used]
        line = mm_regression(x[None], y, options.seed)
        slope[i], scale[i] = line.coefficients[0], line.scale
        se[i] = np.sqrt(line.unit_covariance[0, 0])
    return slope, scale, se


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def _fit_draws(group: Group, options: Options, weights: Array, factor: float) -> DrawFit:
    draws_x, draws_y = drawn(group)
    root = _root(group, options, weights, factor)
    return regression_line.fit_draws(
        root, group.bx, group.by, draws_x, draws_y, correlation=group.correlation
    )


IVW = Estimator("ivw", 2, fit_random, fit_draws, frozenset({"correlation"}))
IVW_FIXED = Estimator("ivw_fixed", 2, fit_fixed, fit_draws, frozenset({"correlation"}))
IVW_DELTA = Estimator(
    "ivw_delta", 2, fit_delta, fit_delta_draws, frozenset({"rho_xy", "correlation"})
)
