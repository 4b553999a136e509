"""What a meta-analysis says: one global effect, its heterogeneity, and why a number is missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """A global effect.

    Attributes
    ----------
    estimate, se : float
        The effect and its standard error.
    ci_low, ci_high, p_value : float
        95 % interval and the two-sided p-value that agrees with it.
    df : float
        Degrees of freedom of both; infinite is the normal distribution.
    tau2, tau2_low, tau2_high : float
        Variance between sequences and its 95 % Q-profile interval. Equal effects (``FE``) have a
        `tau2` of 0 by assumption, and no interval.
    i2, i2_low, i2_high, h2, h2_low, h2_high : float
        I2 in percent and H2, from tau2 and the typical within variance (metafor's convention; of
        ``FE`` from Cochran's Q, without interval).
    q, q_p : float
        Cochran's Q and its p-value.
    pi_low, pi_high : float
        95 % prediction interval of the effect of a new sequence; none for ``FE``.
    k : int
        Sequences combined.
    n_dropped : int
        Sequences that could not be combined and were left out.
    status : str
        ``ok``, ``few_sequences`` (two), ``single_sequence`` or ``no_sequences``.
    reason : str
        Why sequences were left out or numbers are missing, in words; empty if none are.
    se_within, se_draws : float
        Parts of a draw-wise `se`; NaN without draws.
    fmi : float
        Fraction of missing information of a draw-wise `se`: the share of its square that is error
        of the model; NaN without draws.
    test : str
        Reference distribution and standard error, one of `deepmr.meta.combine.TESTS`.
    """

    estimate: float = np.nan
    se: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    p_value: float = np.nan
    df: float = np.nan
    tau2: float = np.nan
    tau2_low: float = np.nan
    tau2_high: float = np.nan
    i2: float = np.nan
    i2_low: float = np.nan
    i2_high: float = np.nan
    h2: float = np.nan
    h2_low: float = np.nan
    h2_high: float = np.nan
    q: float = np.nan
    q_p: float = np.nan
    pi_low: float = np.nan
    pi_high: float = np.nan
    k: int = 0
    n_dropped: int = 0
    status: str = "no_sequences"
    reason: str = "no sequence to combine"
    se_within: float = np.nan
    se_draws: float = np.nan
    fmi: float = np.nan
    test: str = "z"


_SHORTAGE = {
    0: ("no_sequences", "no sequence to combine"),
    1: ("single_sequence", "a single sequence tells nothing of the scatter between sequences"),
    2: ("few_sequences", "two sequences hardly tell the scatter between sequences"),
}


def status_of(k: int) -> str:
    """Return the status of an analysis of k sequences."""
    return _SHORTAGE.get(k, ("ok", ""))[0]


def reason_of(k: int, *others: str) -> str:
    """Return the reasons, those that are not empty, joined to one.

    Parameters
    ----------
    k : int
        Sequences combined.
    *others : str
        Further reasons, such as those of `deepmr.meta.combine.usable`.
    """
    reasons = (*others, _SHORTAGE.get(k, ("ok", ""))[1])
    return "; ".join(reason for reason in reasons if reason)
