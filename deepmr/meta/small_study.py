"""Whether the effect of a sequence goes with its standard error.

In published trials that is called a small-study effect and suggests that studies were left out.
Nobody leaves out sequences here. A sequence with a large standard error is one with weak or few
instruments, so an association rather speaks of weak-instrument bias, which pulls those towards 0,
or of effects that truly go with how strongly a sequence drives the exposure.

The tests take estimates as independent; the error of the model that they share makes no
association of its own as long as it does not go with the standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kendalltau, rankdata

from deepmr.meta.combine import TESTS, checked, pool, random_effects, usable
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.regression.meta_regression import meta_regression
from deepmr.meta.result import Array, Result, reason_of, status_of

MODELS = ("rma", "lm")
SIDES = ("left", "right")

_EXACT_MOST = 170
"""Above, scipy's exact distribution of Kendall's tau takes memory and time of order k^2 or more,
and the normal one no longer differs."""
_ROUNDS = 100


@dataclass(frozen=True)
class EggerTest:
    """Regression of the estimates on their standard errors.

    Attributes
    ----------
    slope, slope_se : float
        Change of the effect per unit of standard error.
    statistic, df, p_value : float
        slope/slope_se (infinite for a line without scatter), its degrees of freedom (infinite:
        normal) and two-sided p-value.
    limit, limit_low, limit_high : float
        The effect where the standard error goes to 0, with its 95 % interval.
    k, n_dropped : int
        Sequences used, and left out.
    status, reason : str
        ``ok``, ``few_sequences`` (3), ``no_sequences``, ``too_few_sequences`` or
        ``equal_standard_errors``; in words.
    """

    slope: float
    slope_se: float
    statistic: float
    df: float
    p_value: float
    limit: float
    limit_low: float
    limit_high: float
    k: int
    n_dropped: int
    status: str
    reason: str


@dataclass(frozen=True)
class RankTest:
    """Rank correlation of standardised estimates and variances.

    Attributes
    ----------
    tau : float
        Kendall's tau-b.
    p_value : float
        Two-sided.
    exact : bool
        Whether the p-value is from the exact distribution (no ties, at most 170 sequences).
    k, n_dropped : int
        Sequences used, and left out.
    status, reason : str
        ``ok``, ``few_sequences`` (2), ``no_sequences``, ``single_sequence``,
        ``equal_standard_errors`` or ``equal_estimates``; in words.
    """

    tau: float
    p_value: float
    exact: bool
    k: int
    n_dropped: int
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class TrimAndFill:
    """A meta-analysis with the sequences that an even funnel would have.

    Attributes
    ----------
    k0 : int or None
        Sequences added; None where they cannot be counted.
    side : str or None
        Where they were missing, ``left`` or ``right``.
    result : Result
        The meta-analysis with them; its `k` counts them.
    filled_estimates, filled_variances : ndarray, shape (k0,)
        The mirror images.
    k, n_dropped : int
        Sequences that were there, and left out.
    status, reason : str
        ``ok``, ``few_sequences`` (3), ``no_sequences``, ``too_few_sequences``,
        ``equal_standard_errors`` (no side) or ``not_converged``; in words.
    """

    k0: int | None
    side: str | None
    result: Result
    filled_estimates: Array
    filled_variances: Array
    k: int
    n_dropped: int
    status: str
    reason: str


def egger_test(
    estimates: ArrayLike, variances: ArrayLike, model: str = "rma", method: str = "REML"
) -> EggerTest:
    """Test whether the estimates go with their standard errors.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.
    model : str
        ``rma``: meta-regression with a variance between sequences, normal test (Sterne and Egger
        2005, chapter 6 of Publication Bias in Meta-Analysis; metafor's `regtest`). ``lm``: the
        weighted regression of Egger et al. (BMJ 1997;315:629), t test with k - 2 degrees of
        freedom.
    method : str
        Estimator of that variance (see `deepmr.meta.heterogeneity`); not used by ``lm``.

    Returns
    -------
    EggerTest

    Raises
    ------
    ValueError
        If model or method is unknown or shapes disagree.
    """
    if model not in MODELS:
        raise ValueError(f"model {model!r} is unknown; write one of {', '.join(MODELS)}")
    y, v = checked(estimates, variances, 1)
    with np.errstate(invalid="ignore"):
        # A variance that cannot be used is left out by its own rule, whatever its root.
        predictor = np.nan_to_num(np.sqrt(v), nan=1.0, posinf=1.0)
    design = np.column_stack([np.ones(y.size), predictor])
    names = ["limit", "standard error"]
    # Residual variance of a weighted regression = Knapp and Hartung's factor with tau2 = 0.
    how = {"method": method, "test": "z"} if model == "rma" else {"method": "FE", "test": "knha"}
    fit = meta_regression(y, v, design, names, **how)
    status, reason = fit.status, fit.reason
    if status in ("constant_covariate", "collinear_covariates"):
        status, reason = "equal_standard_errors", "all standard errors are the same"
    slope, se = float(fit.coefficients[1]), float(fit.se[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = float(np.divide(slope, se))
    return EggerTest(
        slope=slope,
        slope_se=se,
        statistic=statistic,
        df=float(fit.df[1]),
        p_value=float(fit.p_value[1]),
        limit=float(fit.coefficients[0]),
        limit_low=float(fit.ci_low[0]),
        limit_high=float(fit.ci_high[0]),
        k=fit.k,
        n_dropped=fit.n_dropped,
        status=status,
        reason=reason,
    )


def rank_test(estimates: ArrayLike, variances: ArrayLike) -> RankTest:
    """Test by ranks whether the estimates go with their variances.

    Begg and Mazumdar (Biometrics 1994;50:1088): Kendall's correlation of v and (y - mu)/sqrt(v -
    1/sum w), with mu the common effect. O(k log k).

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.

    Returns
    -------
    RankTest

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    y, v, n_dropped, left_out = _used(estimates, variances)
    k = y.size
    status, reason = status_of(k), reason_of(k, left_out)
    if k < 2 or (v == v[0]).all():
        if k >= 2:
            status, reason = "equal_standard_errors", "all standard errors are the same"
        return RankTest(np.nan, np.nan, False, k, n_dropped, status, reason)
    w = 1.0 / v
    deviation = y - (w * y).sum() / w.sum()
    # v - 1/sum w = v (the other weights)/(all weights), without the difference.
    before, after = np.cumsum(w), np.cumsum(w[::-1])[::-1]
    others = np.append(0.0, before[:-1]) + np.append(after[1:], 0.0)
    standardised = deviation / np.sqrt(v * others / w.sum())
    ties = np.unique(standardised).size < k or np.unique(v).size < k
    exact = not ties and k <= _EXACT_MOST
    found = kendalltau(standardised, v, method="exact" if exact else "asymptotic")
    tau, p_value = float(found.statistic), float(found.pvalue)
    if np.isnan(tau):
        status, reason = "equal_estimates", "all estimates are the same"
    return RankTest(tau, p_value, exact, k, n_dropped, status, reason)


def trim_and_fill(
    estimates: ArrayLike,
    variances: ArrayLike,
    method: str = "REML",
    side: str | None = None,
    test: str = "z",
) -> TrimAndFill:
    """Trim the funnel until it is even, then fill in mirror images.

    Duval and Tweedie (J Am Stat Assoc 2000;95:89; Biometrics 2000;56:455), estimator L0 of the
    number of missing sequences: the k0 most extreme on one side are left out, the effect is
    estimated again, and k0 from the signed ranks of all distances from it, until it stays.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.
    method : str
        Estimator of tau2 throughout (see `deepmr.meta.heterogeneity`).
    side : str, optional
        Where sequences are missing, ``left`` or ``right``; by default where Egger's regression
        (model ``rma``) says, ``right`` if its slope is below 0.
    test : str
        Of the final meta-analysis (see `deepmr.meta.random_effects`).

    Returns
    -------
    TrimAndFill

    Raises
    ------
    ValueError
        If method, side or test is unknown or shapes disagree.
    """
    if side is not None and side not in SIDES:
        raise ValueError(f"side {side!r} is unknown; write {' or '.join(SIDES)}")
    if test not in TESTS:
        raise ValueError(f"test {test!r} is unknown; write one of {', '.join(TESTS)}")
    check_method(method)
    y, v, n_dropped, left_out = _used(estimates, variances)
    k, nothing = y.size, np.empty(0)

    def without(status: str, reason: str) -> TrimAndFill:
        result = Result(k=k, n_dropped=n_dropped, status=status, reason=reason, test=test)
        return TrimAndFill(None, side, result, nothing, nothing, k, n_dropped, status, reason)

    if k < 3:
        if not k:
            return without("no_sequences", reason_of(0, left_out))
        return without("too_few_sequences", f"{k} sequences have no funnel; at least 3 are needed")
    if side is None:
        slope = egger_test(y, v, "rma", method)
        if np.isnan(slope.slope):
            return without(slope.status, slope.reason)
        side = "right" if slope.slope < 0 else "left"
    sign = -1.0 if side == "right" else 1.0
    order = np.lexsort((v, sign * y))
    ordered, variance = sign * y[order], v[order]
    k0 = 0
    for _ in range(_ROUNDS):
        last = k0
        distance = ordered - _effect(ordered[: k - k0], variance[: k - k0], method)
        ranks = rankdata(np.abs(distance), method="ordinal")
        above = float(ranks[distance > 0].sum())
        k0 = max(0, int(np.round((4.0 * above - k * (k + 1)) / (2 * k - 1))))
        if k0 == last:
            break
    else:
        return without("not_converged", f"{_ROUNDS} rounds did not settle on a number to trim")
    centre = _effect(ordered[: k - k0], variance[: k - k0], method)
    filled = sign * (2.0 * centre - ordered[k - k0 :])
    added = variance[k - k0 :]
    result = random_effects(np.append(y, filled), np.append(v, added), method, test)
    status, reason = "ok", left_out
    if k == 3:
        status = "few_sequences"
        reason = "; ".join(x for x in (left_out, "three sequences hardly show a funnel") if x)
    return TrimAndFill(k0, side, result, filled, added, k, n_dropped, status, reason)


def _used(estimates: ArrayLike, variances: ArrayLike) -> tuple[Array, Array, int, str]:
    """Return estimates and variances that can be used, how many cannot, and why."""
    y, v = checked(estimates, variances, 1)
    keep, left_out = usable(y[None], v[None])
    return y[keep], v[keep], int((~keep).sum()), left_out


def _effect(y: Array, v: Array, method: str) -> float:
    """Combine the estimates; of one it is that one."""
    if y.size == 1:
        return float(y[0])
    return float(pool(y[None], v[None], method).estimate[0])
