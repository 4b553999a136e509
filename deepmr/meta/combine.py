"""Random-effects meta-analysis of independent estimates, in O(k).

The conventions for I2, H2, tests and the prediction interval are those of the R package metafor
(Viechtbauer, J Stat Softw 2010;36(3)). Hartung and Knapp's standard error (Stat Med 2001;20:3875)
is sqrt(H/sum w) with H = sum w (y - mu)^2/(k - 1) and w = 1/(v + tau2). H may by chance lie far
below 1 where k is small, hence the form ``adhoc`` with H at least 1 (Knapp and Hartung, Stat Med
2003;22:2693).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc

from deepmr.meta.heterogeneity import METHODS, check_method, estimate_tau2, generalised_q, spread
from deepmr.meta.intervals import check_prediction, i2_h2, prediction_df, q_profile
from deepmr.meta.result import Array, Result, reason_of, status_of
from deepmr.mr.drawwise import student_interval
from deepmr.uncertainty.moderation import moderate

__all__ = [
    "METHODS",
    "TESTS",
    "Array",
    "Pooled",
    "Result",
    "checked",
    "checked_scatter",
    "deviation_errors",
    "pool",
    "random_effects",
    "scaled_se",
    "status_of",
    "test_df",
    "usable",
]

TESTS = ("z", "t", "knha", "adhoc")

_EXACT = float(np.finfo(np.float32).eps) ** 2
"""A variance that small beside others is rounding: effects are stored with less than the 24 bits
of float32, so a fit that is exact but for rounding has a standard error that means nothing, and
would have all the weight."""
_LARGE = 1e75
"""Numbers that large, and variances below its inverse, count as infinite and as 0: the product of
two squares has to fit a float64."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """The same analysis of many rows (draws); every field has shape (rows,).

    Attributes
    ----------
    estimate, se : ndarray
        Weighted mean and its inverse-variance standard error.
    tau2 : ndarray
        Variance between sequences.
    i2, h2 : ndarray
        I2 in percent and H2.
    q : ndarray
        Cochran's Q.
    factor : ndarray
        Hartung and Knapp's H.
    typical : ndarray
        Typical variance within (Higgins and Thompson 2002).
    """

    estimate: Array
    se: Array
    tau2: Array
    i2: Array
    h2: Array
    q: Array
    factor: Array
    typical: Array


def checked(estimates: ArrayLike, variances: ArrayLike, ndim: int) -> tuple[Array, Array]:
    """Return both as float64 arrays of the same shape.

    Raises
    ------
    ValueError
        If the shapes disagree or have not `ndim` axes.
    """
    y = np.ascontiguousarray(estimates, dtype=np.float64)
    v = np.ascontiguousarray(variances, dtype=np.float64)
    if y.ndim != ndim or y.shape != v.shape:
        shape = "(k,)" if ndim == 1 else "(draws, k)"
        raise ValueError(
            f"estimates and variances must both have shape {shape}; found {y.shape} and {v.shape}"
        )
    return y, v


def usable(estimates: Array, variances: Array) -> tuple[NDArray[np.bool_], str]:
    """Say which sequences can be combined, and why the others cannot.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        As they come.

    Returns
    -------
    keep : ndarray of bool, shape (k,)
        A sequence is kept if in every row its estimate is finite and its variance is finite,
        above 0 and not mere rounding: that is, not below eps(float32)^2 times the median of the
        variances of its row, or times the largest of its own over the rows. (The median, since a
        sequence whose estimate is all noise may have any variance.)
    reason : str
        In words; empty if all are kept.
    """
    k = estimates.shape[1]
    known = (np.abs(estimates) < _LARGE).all(axis=0)
    weighable = ((variances > 1.0 / _LARGE) & (variances < _LARGE)).all(axis=0)
    keep = np.asarray(known & weighable)
    if variances[:, keep].size:
        good = variances[:, keep]
        middle = (good.shape[1] - 1) // 2
        median = np.partition(good, middle, axis=1)[:, middle, None]
        keep[keep] = (good >= _EXACT * np.maximum(median, good.max(axis=0))).all(axis=0)
    dropped = k - int(keep.sum())
    if not dropped:
        return keep, ""
    causes = {
        "estimate is missing or infinite": ~known,
        "standard error is 0, missing or infinite": known & ~weighable,
        "standard error is mere rounding (an exact fit)": known & weighable & ~keep,
    }
    said = ", or ".join(words for words, which in causes.items() if which.any())
    where = "" if len(estimates) == 1 else " in a draw"
    return keep, f"{dropped} of {k} sequences left out: {said}{where}"


def checked_scatter(scatter: ArrayLike | None, k: int) -> Array | None:
    """Return the scatter of k estimates (see `deviation_errors`) as float64, if it is given.

    Raises
    ------
    ValueError
        If its shape is not (k,).
    """
    given = None if scatter is None else np.asarray(scatter, dtype=np.float64)
    if given is not None and given.shape != (k,):
        raise ValueError(f"scatter must have shape ({k},), that of a draw; found {given.shape}")
    return given


def deviation_errors(deviations: Array, variances: Array, scatter: Array | None) -> Array:
    """Return the variances of the errors of sequences' deviations from what all share.

    Parameters
    ----------
    deviations : ndarray, shape (draws, k)
        Of the estimates of each draw from what was fitted to that draw.
    variances : ndarray, shape (draws, k)
        Squared standard errors within the draws, above 0.
    scatter : ndarray, shape (k,), or None
        Squared standard errors that the mean estimates would have, were the model without error.
        Where they are not known, the mean over draws of `variances`, which are made of residuals
        with the model's error in them, so that it counts more than once.

    Returns
    -------
    ndarray, shape (k,)
        Scatter and (1 + 1/T) times the variance of the deviations over draws; above 0. Few draws
        know a variance badly, and taken as known it would make heterogeneity of what is none, so
        the variances of all sequences lend each other strength
        (`deepmr.uncertainty.moderation`).
    """
    own = variances.mean(axis=0)
    least = np.maximum(_EXACT * own, 1.0 / _LARGE)
    if scatter is not None:
        own = np.where((scatter >= 0) & (scatter < _LARGE), scatter, own)
    between = moderate(deviations.var(axis=0, ddof=1), len(deviations) - 1).variance
    return np.asarray(np.maximum(own + (1.0 + 1.0 / len(deviations)) * between, least))


def pool(estimates: Array, variances: Array, method: str = "REML") -> Pooled:
    """Combine k >= 2 estimates, row by row.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        Finite, variances above 0.
    method : str
        One of `METHODS`; ``FE`` is equal effects (tau2 = 0).

    Returns
    -------
    Pooled

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    k = estimates.shape[1]
    tau2 = estimate_tau2(estimates, variances, method)
    q = generalised_q(estimates, variances, np.zeros(len(estimates)))
    typical = (k - 1) / spread(variances)
    if method == "FE":
        h2 = q / (k - 1)
        i2 = 100.0 * np.maximum(1.0 - (k - 1) / np.maximum(q, k - 1.0), 0.0)
    else:
        h2, i2 = tau2 / typical + 1.0, 100.0 * tau2 / (tau2 + typical)
    w = 1.0 / (variances + tau2[:, None])
    total = w.sum(axis=1)
    mean = np.einsum("rk,rk->r", w, estimates) / total
    factor = generalised_q(estimates, variances, tau2) / (k - 1)
    return Pooled(mean, 1.0 / np.sqrt(total), tau2, i2, h2, q, factor, typical)


def scaled_se(pooled: Pooled, test: str) -> Array:
    """Return the standard error of a test: Hartung and Knapp's, floored, or plain.

    Parameters
    ----------
    pooled : Pooled
        Rows.
    test : str
        One of `TESTS`.

    Returns
    -------
    ndarray, shape (rows,)
    """
    if test == "knha":
        return pooled.se * np.sqrt(pooled.factor)
    if test == "adhoc":
        return pooled.se * np.sqrt(np.maximum(pooled.factor, 1.0))
    return pooled.se


def test_df(test: str, k: int) -> float:
    """Return the degrees of freedom of a test of k sequences, infinite for ``z``.

    Raises
    ------
    ValueError
        If the test is unknown.
    """
    if test not in TESTS:
        raise ValueError(f"test {test!r} is unknown; write one of {', '.join(TESTS)}")
    return np.inf if test == "z" else k - 1.0


def random_effects(
    estimates: ArrayLike,
    variances: ArrayLike,
    method: str = "REML",
    test: str = "z",
    prediction: str = "metafor",
) -> Result:
    """Combine independent estimates to one.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors. Estimates of one model are *not*
        independent; for them see `deepmr.meta.draw_wise`.
    method : str
        One of `METHODS` (see `deepmr.meta.heterogeneity`).
    test : str
        ``z`` normal; ``t`` with k - 1 degrees of freedom; ``knha`` Hartung and Knapp's standard
        error with that t; ``adhoc`` the same, not below the standard error of ``t``.
    prediction : str
        Convention of the prediction interval (see `deepmr.meta.intervals`).

    Returns
    -------
    Result
        For k of 0 and 1 too; the status says so. Sequences that cannot be combined (see
        `usable`) are left out, counted in `n_dropped` and named in `reason`.

    Raises
    ------
    ValueError
        If method, test or prediction is unknown or the shapes disagree.
    """
    check_method(method)
    check_prediction(prediction)
    test_df(test, 1)
    y, v = checked(estimates, variances, 1)
    keep, left_out = usable(y[None], v[None])
    y, v = y[keep], v[keep]
    k, n_dropped = y.size, int((~keep).sum())
    if k < 2:
        return _short(y, v, n_dropped, left_out, test)
    pooled = pool(y[None], v[None], method)
    mean, se, tau2 = pooled.estimate[0], scaled_se(pooled, test)[0], float(pooled.tau2[0])
    df = test_df(test, k)
    low, high, p_value = student_interval(mean, se, df)
    values = {"estimate": mean, "se": se, "ci_low": low, "ci_high": high, "p_value": p_value}
    if method != "FE":
        typical = float(pooled.typical[0])
        tau2_low, tau2_high = q_profile(y, v)
        new_df = prediction_df(prediction, k, df)
        pi_low, pi_high, _ = student_interval(mean, np.sqrt(tau2 + se * se), new_df)
        values |= heterogeneity_bounds(tau2_low, tau2_high, typical)
        values |= {"pi_low": pi_low, "pi_high": pi_high}
    return Result(
        **{name: float(value) for name, value in values.items()},
        df=df,
        tau2=tau2,
        i2=float(pooled.i2[0]),
        h2=float(pooled.h2[0]),
        q=float(pooled.q[0]),
        q_p=float(chdtrc(k - 1, pooled.q[0])),
        k=k,
        n_dropped=n_dropped,
        status=status_of(k),
        reason=reason_of(k, left_out, *missing(method, prediction, k, float(se))),
        test=test,
    )


def heterogeneity_bounds(tau2_low: float, tau2_high: float, typical: float) -> dict[str, float]:
    """Return the bounds of tau2, I2 and H2 under the names they have in a `Result`."""
    bounds: dict[str, float] = {}
    for end, tau2 in (("low", tau2_low), ("high", tau2_high)):
        i2, h2 = i2_h2(tau2, typical)
        bounds |= {f"tau2_{end}": tau2, f"i2_{end}": i2, f"h2_{end}": h2}
    return bounds


def missing(method: str, prediction: str, k: int, se: float) -> list[str]:
    """Return reasons for numbers that an analysis of two sequences or more lacks."""
    reasons = []
    if method != "FE" and prediction == "hts" and k == 2:
        reasons.append("a prediction interval with k - 2 degrees of freedom needs 3 sequences")
    if se == 0:
        reasons.append("the standard error is 0: all sequences agree exactly")
    return reasons


def _short(y: Array, v: Array, n_dropped: int, left_out: str, test: str) -> Result:
    """Return the result of no sequence, or of one by its own standard error."""
    k = y.size
    labels: dict[str, Any] = {
        "k": k,
        "n_dropped": n_dropped,
        "status": status_of(k),
        "reason": reason_of(k, left_out),
        "test": test,
    }
    if k == 0:
        return Result(**labels)
    low, high, p_value = student_interval(y, np.sqrt(v), np.inf)
    return Result(
        estimate=float(y[0]),
        se=float(np.sqrt(v[0])),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        p_value=float(p_value[0]),
        df=np.inf,
        **labels,
    )
