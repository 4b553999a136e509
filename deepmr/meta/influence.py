r"""What a single sequence does to the global effect, and what the others tell of it.

Deletion diagnostics of Viechtbauer and Cheung (Res Synth Methods 2010;1:112) for a random-effects
model without covariates; (i) marks what is estimated without sequence i, tau2 included, with the
plain inverse-variance standard error:

    rstudent_i   (y_i - mu_(i)) / sqrt(v_i + tau2_(i) + se_(i)^2)
    DFFITS_i     (mu - mu_(i)) / sqrt(h_i (v_i + tau2_(i)))
    Cook's D_i   (mu - mu_(i))^2 / se^2
    COVRATIO_i   se_(i)^2 / se^2
    DFBETAS_i    (mu - mu_(i)) / sqrt(1/sum_j 1/(v_j + tau2_(i)))
    h_i          w_i/sum w,  the weight

The refits are rows of one analysis (`deepmr.meta.combine.pool`), in blocks, so that k sequences
cost O(k^2) time and O(k) memory; every tau2 is estimated anew, none approximated.

The best linear unbiased prediction of a sequence's own effect (Raudenbush and Bryk, J Educ Stat
1985;10:75) draws its estimate to the global effect, the more the less it knows of itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, chdtri

from deepmr.meta.combine import checked, pool, random_effects, usable
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.result import Array, reason_of, status_of
from deepmr.mr.drawwise import student_interval

_BLOCK = 1_000_000
"""Numbers in a block of refits: small enough to stay in a processor's cache, or near it."""


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """The global effect without each sequence; every array has an entry for each input.

    Attributes
    ----------
    estimate, se, ci_low, ci_high, p_value : ndarray, shape (sequences,)
        Global effect, inverse-variance standard error, 95 % interval and p-value by the normal
        distribution. NaN for sequences that could not be used in the first place.
    tau2, i2, h2, q, q_p : ndarray, shape (sequences,)
        Heterogeneity of the others; NaN where only one is left.
    k, n_dropped : int
        Sequences used, and those that could not be.
    status, reason : str
        ``ok``, ``few_sequences`` (2), ``no_sequences`` or ``single_sequence``; in words.
    """

    estimate: Array
    se: Array
    ci_low: Array
    ci_high: Array
    p_value: Array
    tau2: Array
    i2: Array
    h2: Array
    q: Array
    q_p: Array
    k: int
    n_dropped: int
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class Influence:
    """Deletion diagnostics; every array has an entry for each input, NaN if it was not used.

    Attributes
    ----------
    rstudent, dffits, cooks_distance, cov_ratio, dfbetas : ndarray, shape (sequences,)
        See the module.
    tau2_without, q_without : ndarray, shape (sequences,)
        Without the sequence.
    hat, weight : ndarray, shape (sequences,)
        Leverage; the same in percent.
    influential : ndarray of bool, shape (sequences,)
        |DFFITS| > 3/sqrt(k - 1), or Cook's distance above the median of chi^2_1, or hat > 3/k, or
        |DFBETAS| > 1 (metafor's conventions).
    k, n_dropped : int
        Sequences used, and those that could not be.
    status, reason : str
        ``ok``, ``no_sequences`` or ``too_few_sequences`` (fewer than 3); in words.
    """

    rstudent: Array
    dffits: Array
    cooks_distance: Array
    cov_ratio: Array
    dfbetas: Array
    tau2_without: Array
    q_without: Array
    hat: Array
    weight: Array
    influential: NDArray[np.bool_]
    k: int
    n_dropped: int
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class Blup:
    """Predictions of the sequences' own effects; an entry for each input, NaN if not used.

    Attributes
    ----------
    estimate, se : ndarray, shape (sequences,)
        Best linear unbiased prediction and its standard error, tau2 taken as known.
    pi_low, pi_high : ndarray, shape (sequences,)
        95 % interval.
    k, n_dropped : int
        Sequences used, and those that could not be.
    status, reason : str
        ``ok``, ``few_sequences`` (2), ``no_sequences`` or ``single_sequence``; in words.
    """

    estimate: Array
    se: Array
    pi_low: Array
    pi_high: Array
    k: int
    n_dropped: int
    status: str
    reason: str


def leave_one_out(estimates: ArrayLike, variances: ArrayLike, method: str = "REML") -> LeaveOneOut:
    """Repeat the meta-analysis without each sequence.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.
    method : str
        Estimator of tau2 (see `deepmr.meta.heterogeneity`).

    Returns
    -------
    LeaveOneOut

    Raises
    ------
    ValueError
        If the method is unknown or shapes disagree.
    """
    check_method(method)
    y, v, kept, left_out = _used(estimates, variances)
    k = y.size
    names = ("estimate", "se", "tau2", "i2", "h2", "q")
    found = {name: np.full(k, np.nan) for name in names}
    if k == 2:
        found["estimate"], found["se"] = y[::-1], np.sqrt(v[::-1])
    elif k > 2:
        rows = max(_BLOCK // k, 1)
        for first in range(0, k, rows):
            block = np.arange(first, min(first + rows, k))
            # Column j of the row without i is sequence j, or j + 1 from i on.
            others = np.arange(k - 1) + (np.arange(k - 1) >= block[:, None])
            pooled = pool(y[others], v[others], method)
            for name in names:
                found[name][block] = getattr(pooled, name)
    low, high, p_value = student_interval(found["estimate"], found["se"], np.inf)
    found |= {"ci_low": low, "ci_high": high, "p_value": p_value}
    found["q_p"] = chdtrc(k - 2, found["q"]) if k > 2 else np.full(k, np.nan)
    return LeaveOneOut(
        **{name: _spread(values, kept) for name, values in found.items()},
        k=k,
        n_dropped=int((~kept).sum()),
        status=status_of(k),
        reason=reason_of(k, left_out),
    )


def influence(
    estimates: ArrayLike,
    variances: ArrayLike,
    method: str = "REML",
    without: LeaveOneOut | None = None,
) -> Influence:
    """Return the deletion diagnostics of every sequence.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.
    method : str
        Estimator of tau2 (see `deepmr.meta.heterogeneity`).
    without : LeaveOneOut, optional
        `leave_one_out` of the same, if it is there already.

    Returns
    -------
    Influence

    Raises
    ------
    ValueError
        If the method is unknown or shapes disagree.
    """
    check_method(method)
    y, v, kept, left_out = _used(estimates, variances)
    k = y.size
    fields = (
        "rstudent", "dffits", "cooks_distance", "cov_ratio", "dfbetas", "tau2_without",
        "q_without", "hat", "weight",
    )  # fmt: skip
    found = {name: np.full(k, np.nan) for name in fields}
    flags = np.zeros(k, dtype=np.bool_)
    status, reason = "ok", left_out
    if k < 3:
        status = "too_few_sequences" if k else "no_sequences"
        reason = reason_of(k, left_out)
    else:
        alone = without or leave_one_out(estimates, variances, method)
        mean, se, tau2, q = (a[kept] for a in (alone.estimate, alone.se, alone.tau2, alone.q))
        pooled = pool(y[None], v[None], method)
        full, full_se = pooled.estimate[0], pooled.se[0]
        change, total = full - mean, v + tau2
        hat = full_se**2 / (v + pooled.tau2[0])
        found = {
            "rstudent": (y - mean) / np.sqrt(total + se * se),
            "dffits": change / np.sqrt(hat * total),
            "cooks_distance": (change / full_se) ** 2,
            "cov_ratio": (se / full_se) ** 2,
            # With the weight of the sequence itself, as it is without it.
            "dfbetas": change * np.sqrt(1.0 / (se * se) + 1.0 / total),
            "tau2_without": tau2,
            "q_without": q,
            "hat": hat,
            "weight": 100.0 * hat,
        }
        flags = np.abs(found["dffits"]) > 3.0 / np.sqrt(k - 1)
        flags |= found["cooks_distance"] > chdtri(1, 0.5)
        flags |= (hat > 3.0 / k) | (np.abs(found["dfbetas"]) > 1.0)
    influential = np.zeros(kept.size, dtype=np.bool_)
    influential[kept] = flags
    return Influence(
        **{name: _spread(values, kept) for name, values in found.items()},
        influential=influential,
        k=k,
        n_dropped=int((~kept).sum()),
        status=status,
        reason=reason,
    )


def blup(estimates: ArrayLike, variances: ArrayLike, method: str = "REML", test: str = "z") -> Blup:
    """Predict the effect of every sequence from its own estimate and the global effect.

    With s = tau2/(tau2 + v): s y + (1 - s) mu, variance s v + (1 - s)^2 se^2.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors.
    method : str
        Estimator of tau2; with ``FE`` every prediction is the global effect.
    test : str
        Standard error and reference distribution of the global effect, which the intervals
        share (see `deepmr.meta.random_effects`).

    Returns
    -------
    Blup

    Raises
    ------
    ValueError
        If method or test is unknown or shapes disagree.
    """
    whole = random_effects(estimates, variances, method, test)
    y, v, kept, _ = _used(estimates, variances)
    estimate, se = np.full(y.size, np.nan), np.full(y.size, np.nan)
    if y.size > 1:
        share = whole.tau2 / (whole.tau2 + v)
        estimate = share * y + (1.0 - share) * whole.estimate
        se = np.sqrt(share * v + ((1.0 - share) * whole.se) ** 2)
    low, high, _ = student_interval(estimate, se, whole.df)
    return Blup(
        estimate=_spread(estimate, kept),
        se=_spread(se, kept),
        pi_low=_spread(low, kept),
        pi_high=_spread(high, kept),
        k=whole.k,
        n_dropped=whole.n_dropped,
        status=whole.status,
        reason=whole.reason,
    )


def _used(
    estimates: ArrayLike, variances: ArrayLike
) -> tuple[Array, Array, NDArray[np.bool_], str]:
    """Return what can be used, which sequences that are, and why not the others."""
    y, v = checked(estimates, variances, 1)
    kept, left_out = usable(y[None], v[None])
    return y[kept], v[kept], kept, left_out


def _spread(values: Array, kept: NDArray[np.bool_]) -> Array:
    """Return the values at the places of their sequences, NaN elsewhere."""
    everywhere = np.full(kept.size, np.nan)
    everywhere[kept] = values
    return everywhere
