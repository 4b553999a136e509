"""Random-effects meta-analysis in O(k), by the score of the restricted likelihood.

DerSimonian and Laird (Control Clin Trials 1986;7:177), REML, and the common-effect model; the
conventions for I2, H2 and the prediction interval are those of the R package metafor
(Viechtbauer, J Stat Softw 2010;36(3)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import elementwise
from scipy.special import chdtrc

from deepmr.mr.drawwise import student_interval

Array = NDArray[np.float64]

METHODS = ("REML", "DL", "FE")
TESTS = ("z", "t", "knha")
_DOUBLINGS = 200


@dataclass(frozen=True)
class Result:
    """A global effect.

    Attributes
    ----------
    estimate, se : float
        The effect and its standard error.
    ci_low, ci_high, p_value : float
        95 % interval and the two-sided p-value that agrees with it.
    tau2 : float
        Variance between sequences.
    i2, h2 : float
        I2 in percent and H2, from tau2 and the typical within variance (metafor).
    q, q_p : float
        Cochran's Q and its p-value.
    pi_low, pi_high : float
        95 % prediction interval, estimate ± quantile * sqrt(tau2 + se^2), with the reference
        distribution of the test (metafor's convention).
    k : int
        Sequences combined.
    status : str
        ``ok``, ``few_sequences`` (two), ``single_sequence`` or ``no_sequences``.
    se_within, se_draws : float
        Parts of a draw-wise `se`; NaN without draws.
    """

    estimate: float = np.nan
    se: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    p_value: float = np.nan
    tau2: float = np.nan
    i2: float = np.nan
    h2: float = np.nan
    q: float = np.nan
    q_p: float = np.nan
    pi_low: float = np.nan
    pi_high: float = np.nan
    k: int = 0
    status: str = "no_sequences"
    se_within: float = np.nan
    se_draws: float = np.nan


@dataclass(frozen=True, eq=False)
class Pooled:
    """The same analysis of many rows (draws); every field has shape (rows,)."""

    estimate: Array
    se: Array
    tau2: Array
    i2: Array
    h2: Array
    q: Array


def status_of(k: int) -> str:
    """Return the status of an analysis of k sequences."""
    return {0: "no_sequences", 1: "single_sequence", 2: "few_sequences"}.get(k, "ok")


def checked(estimates: ArrayLike, variances: ArrayLike, ndim: int) -> tuple[Array, Array]:
    """Return both as float64 arrays.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite or a variance is not above 0.
    """
    y, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if y.ndim != ndim or y.shape != v.shape:
        shape = "(k,)" if ndim == 1 else "(draws, k)"
        raise ValueError(
            f"estimates and variances must both have shape {shape}; found {y.shape} and {v.shape}"
        )
    bad = ~(np.isfinite(y) & np.isfinite(v) & (v > 0))
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {y.size} estimates are not finite or have a variance that is not "
            f"above 0 (first at {[int(i) for i in np.argwhere(bad)[0]]}); leave those sequences out"
        )
    return y, v


def pool(estimates: Array, variances: Array, method: str = "REML") -> Pooled:
    """Combine k >= 2 estimates, row by row.

    Parameters
    ----------
    estimates, variances : ndarray, shape (rows, k)
        Finite, variances above 0.
    method : str
        ``REML``, ``DL`` or ``FE`` (common effect: tau2 = 0).

    Returns
    -------
    Pooled
        With the inverse-variance standard error.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    if method not in METHODS:
        raise ValueError(
            f"meta-analysis method {method!r} is unknown; write one of {', '.join(METHODS)}"
        )
    k = estimates.shape[1]
    w = 1.0 / variances
    total = w.sum(axis=1)
    common = (w * estimates).sum(axis=1) / total
    deviation = estimates - common[:, None]
    q = (w * deviation * deviation).sum(axis=1)
    spread = total - (w * w).sum(axis=1) / total
    tau2 = np.zeros(len(estimates))
    if method == "DL":
        tau2 = np.maximum((q - (k - 1)) / spread, 0.0)
    elif method == "REML":
        tau2 = _reml(estimates, variances)
    if method == "FE":
        h2 = q / (k - 1)
        i2 = np.maximum(1.0 - 1.0 / h2, 0.0) if (q > 0).all() else np.zeros_like(q)
    else:
        typical = (k - 1) / spread
        h2, i2 = tau2 / typical + 1.0, tau2 / (tau2 + typical)
    w = 1.0 / (variances + tau2[:, None])
    total = w.sum(axis=1)
    return Pooled(
        (w * estimates).sum(axis=1) / total, 1.0 / np.sqrt(total), tau2, 100.0 * i2, h2, q
    )


def _score(tau2: Array, y: Array, v: Array) -> Array:
    """Return twice the derivative of the restricted log-likelihood by tau2, row by row."""
    w = 1.0 / (v + tau2[:, None])
    total = w.sum(axis=1)
    deviation = y - ((w * y).sum(axis=1) / total)[:, None]
    w2 = w * w
    return (w2 * deviation * deviation).sum(axis=1) - total + w2.sum(axis=1) / total


def _reml(y: Array, v: Array) -> Array:
    """Root of the score, or 0 where the likelihood falls from the start."""
    tau2 = np.zeros(len(y))
    rows = np.flatnonzero(_score(tau2, y, v) > 0)
    if not rows.size:
        return tau2
    high = np.maximum(y[rows].var(axis=1), v[rows].min(axis=1))
    for _ in range(_DOUBLINGS):
        # Far out the score is negative: it falls like -(k - 1)/tau2.
        rising = _score(high, y[rows], v[rows]) > 0
        if not rising.any():
            break
        high[rising] *= 2.0

    def score(x: Array, row: Array) -> Array:
        index = row.astype(np.int64)
        return _score(x, y[index], v[index])

    bracket = (np.zeros_like(high), high)
    root = elementwise.find_root(score, bracket, args=(rows.astype(np.float64),))
    tau2[rows] = root.x
    return tau2


def random_effects(
    estimates: ArrayLike, variances: ArrayLike, method: str = "REML", test: str = "z"
) -> Result:
    """Combine independent estimates to one.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors. Estimates of one model are *not*
        independent; for them see `deepmr.meta.draw_wise`.
    method : str
        ``REML``, ``DL`` or ``FE``.
    test : str
        Reference distribution: ``z`` normal, ``t`` with k - 1 degrees of freedom, ``knha``
        Hartung and Knapp's standard error with t.

    Returns
    -------
    Result
        For k of 0 and 1 too; the status says so.

    Raises
    ------
    ValueError
        If method or test is unknown, shapes disagree, a value is not finite or a variance is not
        above 0.
    """
    if test not in TESTS:
        raise ValueError(f"test {test!r} is unknown; write one of {', '.join(TESTS)}")
    y, v = checked(estimates, variances, 1)
    k = y.size
    if k == 0:
        return Result()
    if k == 1:
        se = float(np.sqrt(v[0]))
        low, high, p_value = student_interval(y, np.sqrt(v), np.inf)
        return Result(
            k=1,
            status=status_of(1),
            estimate=float(y[0]),
            se=se,
            ci_low=float(low[0]),
            ci_high=float(high[0]),
            p_value=float(p_value[0]),
        )
    pooled = pool(y[None], v[None], method)
    mean, se, tau2 = pooled.estimate[0], pooled.se[0], pooled.tau2[0]
    if test == "knha":
        w = 1.0 / (v + tau2)
        se = np.sqrt((w * (y - mean) ** 2).sum() / (k - 1) / w.sum())
    df = np.inf if test == "z" else k - 1
    low, high, p_value = student_interval(mean, se, df)
    spread = np.sqrt(tau2 + se * se) if method != "FE" else np.full_like(se, np.nan)
    pi_low, pi_high, _ = student_interval(mean, spread, df)
    return Result(
        float(mean),
        float(se),
        float(low),
        float(high),
        float(p_value),
        float(tau2),
        float(pooled.i2[0]),
        float(pooled.h2[0]),
        float(pooled.q[0]),
        float(chdtrc(k - 1, pooled.q[0])),
        float(pi_low),
        float(pi_high),
        k,
        status_of(k),
    )
