r"""Maximum likelihood and profile estimators, which know the errors of bx and by together.

All three minimise the profiled quadratic form of `deepmr.mr.estimators.profile_objective`:

* ``max_likelihood``: τ² = 0, SE by (½Q″)^(-½) times max(1, √(Q/(n - 1))), as R's `mr_maxlik` means
  to be (Thompson, Minelli and Del Greco M, Stat Med 2016;35:3141); R's optimiser often stops early;
* ``profile``: balanced pleiotropy as an additive variance τ² of the outcome effects;
* ``egger_profile``: the same with an intercept, instruments and covariances oriented to bx > 0.

The errors are those of the correlation matrix if the group has one; else, for the profile
estimators with `Options.draw_covariance`, those of the draws; else independent but for `rho_xy`.
That option is for draws that scatter as an error does, whatever the effects are. The draws of a
network often do not: a whole motif is now stronger, now weaker, so that bx itself is the leading
direction of S. Then x'S⁻¹x/n, the strength that counts, is near 1, every slope makes residuals that
S calls likely, and the minimum of Q may lie anywhere. In the shipped example, slope 0 of JUND on
openness, it lay at 1.3. With the default only each mutation's own two errors are in V, and all
else is in the scatter of the estimate over the draws (Rubin).

SE of the profile estimators: √(d'Pd)/(½Q″) (Newey and Windmeijer, Econometrica 2009;77:687), d as
in `Objective.information`. It is (½Q″)^(-½) with strong instruments and wider with many weak ones,
where the product of the errors of x and of the residuals adds variance that no curvature shows.
With draws the numerator is not below the variance of the estimating function over the draws, so
that correlation which the estimated covariance had to leave out still widens it.

Below a mean F of `Options.weak_f` interval and p-value are those of the conditional likelihood
ratio, divided by the same inflation. With an intercept it holds for given orientation: where bx is
noise so is its sign, and no interval of Egger's kind is right.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from deepmr.mr.drawwise import student_interval
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
from deepmr.mr.estimators.conditional_test import conditional_p, confidence_set
from deepmr.mr.estimators.profile_objective import Objective
from deepmr.mr.estimators.profile_solution import Model, Solution, solve_all
from deepmr.mr.estimators.regression_line import orientation


def fit(group: Group, options: Options, model: Model) -> Fit:
    """Estimate from the mean effects; see the module.

    Parameters
    ----------
    group : Group
        Effects.
    options : Options
        `weak_f` and `draw_covariance` matter.
    model : Model
        Which of the estimators.

    Returns
    -------
    Fit
        NaN with the status ``no_finite_slope`` where the likelihood has no maximum at a finite
        slope, ``bad_correlation`` where the correlation matrix is none, ``not_finite`` where
        an effect is missing or a standard error is not positive.
    """
    told = _told(group, options, model)
    parts, status = solve_all(told, model)
    count = len(group.bx)
    names = ["estimate", "se", "se_unfloored", "se_model", "q", "tau2"]
    names += ["ci_low", "ci_high", "p_value", "intercept", "intercept_se"]
    out = {name: np.full(count, np.nan) for name in names}
    kind = np.full(count, "wald", dtype=object)
    sets: list[Array] = [np.full((1, 2), np.nan) for _ in range(count)]
    for index, solved in parts:
        for name, values in _summary(solved, model).items():
            out[name][index] = values
        estimated = np.isfinite(out["estimate"][index]) & np.isfinite(out["se"][index])
        status[index[~estimated]] = "no_finite_slope"
        low, high, p = student_interval(out["estimate"][index], out["se"][index], np.inf)
        out["ci_low"][index], out["ci_high"][index], out["p_value"][index] = low, high, p
        for position, row in enumerate(index):
            sets[row] = np.array([[low[position], high[position]]])
            if (
                model.additive
                and estimated[position]
                and solved.strength[position] < options.weak_f
            ):
                sets[row], out["p_value"][row] = _conditional(solved, position)
                out["ci_low"][row], out["ci_high"][row] = sets[row][0, 0], sets[row][-1, 1]
                kind[row] = "clr"
    lost = status != "ok"
    for values in out.values():
        values[lost] = np.nan
    df = group.bx.shape[1] - 1 - int(model.intercept)
    return Fit(
        out["estimate"],
        out["se"],
        ci_low=out["ci_low"],
        ci_high=out["ci_high"],
        p_value=out["p_value"],
        ci_kind=kind,
        ci_set=sets,
        se_unfloored=None if model.additive else out["se_unfloored"],
        se_model=out["se_model"],
        q=out["q"],
        q_p=chi2_p(out["q"], df),
        q_df=df,
        tau2=out["tau2"] if model.additive else None,
        intercept=out["intercept"] if model.intercept else None,
        intercept_se=out["intercept_se"] if model.intercept else None,
        intercept_p=(
            two_sided_p(out["intercept"] / out["intercept_se"]) if model.intercept else None
        ),
        status=status,
        holds_draws=told.draws_x is not None,
    )


def _told(group: Group, options: Options, model: Model) -> Group:
    """Return the group as the likelihood is to see it: with or without its draws."""
    if group.draws_x is None or (options.draw_covariance and model.additive):
        return group
    return replace(group, draws_x=None, draws_y=None, rho_xy=group.error_correlation)


def fit_draws(group: Group, options: Options, model: Model) -> DrawFit:
    """Estimate in every draw with V and τ² as they are at the estimate from the mean effects.

    With W = V⁻¹ (or Egger's P) and V' held fixed the estimating function -½ dQ/dθ of a draw,

        x'W(y - θx) + ½ (y - θx)'W V' W (y - θx),

    is a quadratic in θ; its root with the sign of a minimum is the estimate. Where a draw has
    none, its instruments being too weak, the turning point takes its place. The SE of a draw has
    the scale of its own residuals. A draw holds the error of the mean effects and its own, 2 S;
    as a common factor of V does not matter, it is τ² that is halved. (With V itself the noise of
    bx would be corrected by too little, and the mean over draws biased.)
    """
    draws_x, draws_y = drawn(group)
    parts, status = solve_all(_told(group, options, model), model)
    count, n_draws = draws_x.shape[:2]
    estimates, se = np.full((2, count, n_draws), np.nan)
    within = np.full(count, np.nan)
    sign = orientation(group.anchor_x) if model.intercept else np.ones_like(group.bx)
    for index, solved in parts:
        slopes = solved.estimate
        summary = _summary(solved, model)
        excess = summary["se"] ** 2 - summary["se_model"] ** 2
        within[index] = np.sqrt(np.maximum(excess, 0.0))
        for position, row in enumerate(index):
            if status[row] != "ok" or not np.isfinite(slopes[position]):
                continue
            one = np.array([position])
            estimates[row], se[row] = _in_draws(
                solved.objective.rows(one),
                slopes[one],
                0.5 * solved.tau2[one],
                draws_x[row] * sign[row],
                draws_y[row] * sign[row],
            )
    return DrawFit(estimates, se, within)


def _in_draws(
    objective: Objective, slope: Array, tau2: Array, x: Array, y: Array
) -> tuple[Array, Array]:
    """Return estimates and SEs of the draws (draws, instruments) of one sequence."""
    solve = objective.errors.solver(np.ones(1), slope, tau2)
    w_x, w_y = solve(x), solve(y)
    if objective.intercept:
        ones = solve(np.ones_like(objective.x))
        w_x = w_x - (w_x.sum(axis=-1) / ones.sum())[:, None] * ones
        w_y = w_y - (w_y.sum(axis=-1) / ones.sum())[:, None] * ones
    _, both, own = objective.errors.products(w_x)
    v_x = 2.0 * slope * own - both
    _, both, own = objective.errors.products(w_y)
    v_y = 2.0 * slope * own - both
    xx, xy, yy = ((p * q).sum(axis=-1) for p, q in ((w_x, x), (w_x, y), (w_y, y)))
    constant = xy + 0.5 * (w_y * v_y).sum(axis=-1)
    linear = xx + (w_x * v_y).sum(axis=-1)
    square = 0.5 * (w_x * v_x).sum(axis=-1)
    root = np.sqrt(np.maximum(linear * linear - 4.0 * constant * square, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = 2.0 * constant / (linear + root)
        q = yy - 2.0 * estimate * xy + estimate * estimate * xx
        return estimate, np.sqrt(q / objective.df / np.where(root > 0, root, xx))


def _summary(solved: Solution, model: Model) -> dict[str, Array]:
    """Return the fields of a fit that are not its interval."""
    objective, point, tau2 = solved.objective, solved.point, solved.tau2
    estimate = solved.estimate
    result = {"estimate": estimate, "q": solved.start.q, "tau2": tau2}
    if model.additive:
        result["se"] = solved.se(solved.curvature, solved.information)
        result["se_model"] = solved.se(solved.curvature, solved.error_information)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            model_se = solved.per_turn * np.sqrt(2.0 / point.curvature)
            scale = np.sqrt(solved.start.q / objective.df)
        result["se_model"] = model_se
        result["se_unfloored"] = model_se * scale
        result["se"] = model_se * np.maximum(scale, 1.0)
    if model.intercept:
        result["intercept"], result["intercept_se"] = _intercept(
            objective, estimate, result["se"], tau2
        )
    return result


def _intercept(objective: Objective, slope: Array, se: Array, tau2: Array) -> tuple[Array, Array]:
    """Return the intercept by generalised least squares at the slope, and its SE.

    The SE adds to the one for a given slope what the slope's own error moves the intercept.
    """
    given = np.where(np.isfinite(slope), slope, 0.0)
    solve = objective.errors.solver(np.ones_like(slope), given, tau2)
    ones = solve(np.ones_like(objective.x))
    information = ones.sum(axis=-1)
    residual = objective.y - given[:, None] * objective.x
    intercept = (ones * residual).sum(axis=-1) / information
    s = solve(residual - intercept[:, None])
    _, both, own = objective.errors.products(s)
    change = objective.x + 2.0 * given[:, None] * own - both
    moved = (ones * change).sum(axis=-1) / information
    return intercept, np.sqrt(1.0 / information + (moved * se) ** 2)


def _conditional(solved: Solution, position: int) -> tuple[Array, float]:
    """Return the conditional likelihood ratio's 95 % set of one sequence, and the p-value at 0."""
    one = np.array([position])
    objective, tau2 = solved.objective.rows(one), solved.tau2[one]
    point, inflation = solved.point.at(one), float(solved.inflation[position])
    instruments = objective.x.shape[1] - int(objective.intercept)
    unit, least = float(objective.unit[0]), float(point.q[0])
    pairs = [(objective.x, objective.y)]
    zeros, ones = np.zeros_like(objective.x), np.ones_like(objective.x)
    if objective.intercept:
        pairs += [(ones, zeros), (zeros, ones)]
    gram = objective.errors.joint_gram(pairs, tau2)[0]
    joint = float(gram[0, 0])
    if objective.intercept:
        joint -= float(gram[0, 1:] @ np.linalg.solve(gram[1:, 1:], gram[1:, 0]))

    def p_values(q: Array) -> Array:
        return conditional_p((q - least) / inflation, (joint - q) / inflation, instruments)

    def p_value(a: float, b: float) -> float:
        return float(p_values(objective.value(np.array([a]), np.array([b]), tau2))[0])

    a, b = (v[:, 0] for v in objective.directions(tau2))
    with np.errstate(divide="ignore"):
        slopes = np.where(a > 0, b / a, np.inf)
    peak = int(np.searchsorted(slopes, point.b[0] / point.a[0]))
    a, b = np.insert(a, peak, point.a[0]), np.insert(b, peak, point.b[0])
    q = np.insert(solved.scan[:, position], peak, least)
    found = confidence_set(p_value, a, b, p_values(q), peak)
    return found * unit, p_value(1.0, 0.0)


def _estimator(name: str, minimum: int, model: Model) -> Estimator:
    return Estimator(
        name,
        minimum,
        partial(fit, model=model),
        partial(fit_draws, model=model),
        frozenset({"rho_xy", "correlation"}),
    )


MAX_LIKELIHOOD = _estimator("max_likelihood", 2, Model(additive=False))
PROFILE = _estimator("profile", 2, Model())
EGGER_PROFILE = _estimator("egger_profile", 3, Model(intercept=True))
