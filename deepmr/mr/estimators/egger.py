r"""MR-Egger: regression with an intercept, after orienting every instrument to bx > 0.

As `mr_egger` of the R package MendelianRandomization (Bowden, Davey Smith and Burgess, Int J
Epidemiol 2015;44:512): weights 1/sy^2, SE times max(1, residual SE). With ``distribution: t``
the interval is the wider of two: the normal one with that SE, and Student's with n - 2 degrees of
freedom and the SE that was not floored; the p-value is the larger of the two.

P-values are survival functions, where R has 1 - pnorm(z), which is 0 beyond z = 8.3. Q is always
taken about the fitted line with the weights before any penalty (R gives none for penalised
weights). With correlated instruments the penalty stays in force, which R ignores without a word,
and ``robust`` is refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepmr.mr.drawwise import refit, student_interval
from deepmr.mr.estimator import Array, DrawFit, Estimator, Fit, Group, Options, chi2_p, drawn
from deepmr.mr.estimators import regression_line
from deepmr.mr.estimators.mm_regression import mm_regression
from deepmr.mr.estimators.weighting import PENALTY_FIRST_ORDER, penalised


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def fit(group: Group, options: Options) -> Fit:
    """Slope, intercept and heterogeneity.

    Parameters
    ----------
    group : Group
        Effects of S sequences with n >= 3 instruments.
    options : Options
        Uses ``distribution``, ``penalized``, ``robust`` and, with the latter, ``seed``.

    Returns
    -------
    Fit
        NaN and a status where a sequence has no estimate.
    """
    bx, by, correlation = group.bx, group.by, group.correlation
    n_sequences, n = bx.shape
    sign = regression_line.orientation(group.anchor_x)
    root = _root(group, options, sign)
    line = regression_line.fit_lines(root, bx, by, sign, correlation)
    degrees = np.count_nonzero(root, axis=-1) - 2
    status = np.full(n_sequences, "ok", dtype=object)
    status[~line.spread] = "no_spread_in_exposure"
    status[degrees < 1] = "too_few_instruments"
    status[~line.positive_definite] = "correlation_not_positive_definite"
    if options.robust:
        if correlation is not None:
            status[status == "ok"] = "robust_needs_independent_instruments"
        robust = _robust_lines(bx, by, root, sign, options.seed, status == "ok")
        estimate, intercept, scale, se_model, intercept_model = robust
    else:
        estimate, intercept = line.slope, line.intercept
        scale = np.sqrt(line.rss / degrees)
        se_model = 1.0 / np.sqrt(line.information)
        intercept_model = np.sqrt(line.intercept_variance)
    status[(status == "ok") & ~np.isfinite(estimate + se_model)] = "not_finite"
    failed = status != "ok"
    estimate, intercept, se_model, intercept_model = (
        np.where(failed, np.nan, values)
        for values in (estimate, intercept, se_model, intercept_model)
    )
    if options.penalized or options.robust:
        q = regression_line.residual_squares(
            1.0 / group.se_y, bx, by, estimate, intercept, sign, correlation
        )
    else:
        q = np.where(failed, np.nan, line.rss)
    floored = np.maximum(scale, 1.0)
    _, _, intercept_p = interval(
        intercept, intercept_model * floored, intercept_model * scale, n - 2, options
    )
    result = Fit(
        estimate,
        se_model * floored,
        se_unfloored=se_model * scale,
        se_model=se_model,
        q=q,
        q_p=chi2_p(q, n - 2),
        q_df=n - 2,
        intercept=intercept,
        intercept_se=intercept_model * floored,
        intercept_p=intercept_p,
        status=status,
    )
    return with_interval(result, n - 2, options)


def interval(
    estimate: Array, se: Array, se_unfloored: Array, df: int, options: Options
) -> tuple[Array, Array, Array]:
    """Return interval and p-value: normal, or the wider of normal and Student's t."""
    low, high, p_value = student_interval(estimate, se, np.inf)
    if options.distribution == "normal":
        return low, high, p_value
    low_t, high_t, p_t = student_interval(estimate, se_unfloored, df)
    # fmax: at residual zero and estimate zero Student's p-value is 0/0.
    return np.fmin(low, low_t), np.fmax(high, high_t), np.fmax(p_value, p_t)


def with_interval(fitted: Fit, df: int, options: Options) -> Fit:
    """Add the interval that ``distribution: t`` asks for."""
    if options.distribution == "normal":
        return fitted
    unfloored = np.asarray(fitted.se_unfloored)
    low, high, p_value = interval(fitted.estimate, fitted.se, unfloored, df, options)
    return replace(fitted, df=df, ci_low=low, ci_high=high, p_value=p_value)


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def fit_draws(group: Group, options: Options) -> DrawFit:
    """Slope in every draw, weights and orientation fixed by the mean effects."""
    if options.robust:
        return _robust_draws(group, options)
    draws_x, draws_y = drawn(group)
    sign = regression_line.orientation(group.anchor_x)
    root = _root(group, options, sign)
    return regression_line.fit_draws(
        root, group.bx, group.by, draws_x, draws_y, sign, group.correlation
    )


_robust_draws = refit(fit)


def _root(group: Group, options: Options, sign: Array) -> Array:
    """Square root of the weights in force, which come from the anchors."""
    root = 1.0 / group.se_y
    if not options.penalized:
        return np.asarray(root)
    x, y = group.anchor_x, group.anchor_y
    line = regression_line.fit_lines(root, x, y, sign, group.correlation)
    residual = y - line.slope[:, None] * x - line.intercept[:, None] * sign
    return np.sqrt(penalised(root * root, residual, PENALTY_FIRST_ORDER))


def _robust_lines(
    bx: Array, by: Array, root: Array, sign: Array, seed: int, usable: np.ndarray
) -> tuple[Array, Array, Array, Array, Array]:
    """Return slope, intercept, residual scale and both SEs at scale 1 of an MM-regression."""
    slope, intercept, scale, se, intercept_se = np.full((5, len(root)), np.nan)
    for i in np.flatnonzero(usable):
        used = root[i] > 0
        one = (root[i] * sign[i])[used]
        x, y = (root[i] * bx[i])[used], (root[i] * by[i])[used]
        # Columns at right angles keep the normal equations well conditioned.
        mean = one @ x / (one @ one)
        line = mm_regression(np.stack([one, x - mean * one]), y, seed)
        (level, slope[i]), covariance = line.coefficients, line.unit_covariance
        back = np.array([1.0, -mean])
        intercept[i], scale[i] = level - mean * slope[i], line.scale
        se[i] = np.sqrt(covariance[1, 1])
        intercept_se[i] = np.sqrt(back @ covariance @ back)
    return slope, intercept, scale, se, intercept_se


EGGER = Estimator("egger", 3, fit, fit_draws, frozenset({"correlation"}))
