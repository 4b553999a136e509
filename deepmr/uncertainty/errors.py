r"""Errors of mutation effects beside the standard errors that claim to describe them.

There are two references. The effects that networks trained again from other random numbers
predict show how much an effect depends on chance in the training; they share whatever every such
network gets wrong (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017). The truth of a
simulation shows the whole error.

*Retrained*, every member with its own standard error u_jk of its effect m_jk (mutation j, member
k of K): the deviation from the mean of all members has 1 - 1/K of a member's variance, hence

    error_jk = (m_jk - mean_k m_jk) sqrt(K/(K - 1)).

*Left out*, where the members are the draws: member k is a further network for the others, whose
effects have the mean m_-k and the variance V_-k. Its deviation from m_-k has the variance of one
member and that of a mean of K - 1, so

    error_jk = m_jk - m_-k,    se_jk^2 = V_-k K/(K - 1),

with V_-k moderated (`deepmr.uncertainty.moderation`). The mean over k of error_jk^2 is the mean of
V_-k K/(K - 1) whatever the members say, so the scale is near 1 by construction: it is how the
errors of large and of small V compare, and how far out they lie, that is put to the test.

Where each member draws under dropout masks too, a run takes the SD of all draws, and the expected
variance of many draws spread evenly over K members is

    V (K - 1)/K + W,

W the mean variance within the members. Held against a left out member, its part of V takes the
factor K/(K - 1) as above, so se_jk^2 = V_-k + W_-k. W takes no factor, because m_jk is a mean over
masks, and neither does the left out member's own variance over masks enter: the error is that of
its mean. What masks add to the means, W/T, is inside V_-k already. For this reference such a
standard error is too wide by W and too narrow by V/(K - 1); only the truth can say whether W pays
for what all members have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.uncertainty.moderation import moderate

Array = NDArray[np.float64]

_ROUNDING = 1e-6
"""A standard error below this share of their root mean square is what float32 leaves of a 0: draws
that differ in the last bits of their logits only."""


@dataclass(frozen=True, eq=False)
class Errors:
    """n errors of effects, with what was claimed of each.

    Attributes
    ----------
    error : ndarray of float64, shape (n,)
        Effect minus reference, logit.
    se : ndarray of float64, shape (n,)
        Its standard error, above 0, logit.
    sequence : ndarray of int64, shape (n,)
        Code of the sequence of the mutation: errors within one depend on each other.
    df : float or ndarray of float64, shape (n,)
        Degrees of freedom of the standard error; infinite for a normal error.
    n_without_se : int
        Errors left out because their standard error is 0, but for rounding, or not finite.
    prior_df : float
        Prior degrees of freedom of moderated variances; NaN where none were moderated.
    """

    error: Array
    se: Array
    sequence: NDArray[np.int64]
    df: float | Array = np.inf
    n_without_se: int = 0
    prior_df: float = np.nan

    @property
    def sd(self) -> Array:
        """Standard deviation that the errors should have, shape (n,).

        ``se * sqrt(df/(df - 2))``, that of Student's t; infinite for df <= 2.
        """
        df = np.asarray(self.df, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            inflation = np.where(np.isinf(df), 1.0, np.where(df > 2, df / (df - 2), np.inf))
        return np.asarray(self.se * np.sqrt(inflation))

    @property
    def n_sequences(self) -> int:
        """Number of sequences that have an error."""
        return int(np.unique(self.sequence).size)

    def scaled(self, factor: float) -> Errors:
        """Return the same errors with all standard errors times a factor above 0."""
        return replace(self, se=self.se * factor)

    def of_sequences(self, codes: Sequence[int] | NDArray[np.int64]) -> Errors:
        """Return the errors of some sequences; nothing is said about how many lack an SE."""
        kept = np.isin(self.sequence, codes)
        df = self.df if np.ndim(self.df) == 0 else np.asarray(self.df)[kept]
        return Errors(
            self.error[kept], self.se[kept], self.sequence[kept], df, prior_df=self.prior_df
        )


def against_retrained(effects: ArrayLike, se: ArrayLike, sequence: ArrayLike) -> Errors:
    """Return the errors of every member against the mean of all, each with its own SE.

    Parameters
    ----------
    effects, se : array_like, shape (J, K)
        Effect of J mutations in each of K >= 2 members, and its standard error; logit.
    sequence : array_like of int, shape (J,)
        Code of each mutation's sequence.

    Returns
    -------
    Errors
        Up to J K of them, mutation by mutation. The mean of (error/se)^2 is s^2, the squared
        factor by which the standard errors are too small.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 2 members, or an effect is not finite.
    """
    m, codes = _checked(effects, sequence, least=2)
    u = _like(se, m, "se")
    k = m.shape[1]
    deviation = (m - m.mean(axis=1, keepdims=True)) * np.sqrt(k / (k - 1))
    return _usable(deviation.ravel(), u.ravel(), np.repeat(codes, k))


def against_left_out(
    effects: ArrayLike, sequence: ArrayLike, within_variance: ArrayLike | None = None
) -> Errors:
    """Return the errors of an ensemble, each member being predicted by the others.

    Parameters
    ----------
    effects : array_like, shape (J, K)
        Effect of J mutations in each of K >= 3 members; logit.
    sequence : array_like of int, shape (J,)
        Code of each mutation's sequence.
    within_variance : array_like, shape (J, K), optional
        Variance of each effect over the dropout masks of its member, where the standard error
        that is judged contains it.

    Returns
    -------
    Errors
        Up to J K of them, mutation by mutation. `df` is that of the moderated variances, prior df
        + K - 2; with `within_variance` it is Satterthwaite's for the sum, the variance within
        being taken as known.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 3 members, or an effect is not finite.
    """
    m, codes = _checked(effects, sequence, least=3)
    j, k = m.shape
    error, between = np.empty((j, k)), np.empty((j, k))
    for member in range(k):
        others = np.delete(m, member, axis=1)
        error[:, member] = m[:, member] - others.mean(axis=1)
        between[:, member] = others.var(axis=1, ddof=1)
    moderated = moderate(between.ravel(), k - 2)
    variance = moderated.variance * k / (k - 1)
    df: float | Array = moderated.df
    if within_variance is not None:
        w = _like(within_variance, m, "within_variance")
        within = ((w.sum(axis=1, keepdims=True) - w) / (k - 1)).ravel()
        variance, df = _added(moderated.variance, within, moderated.df)
    return _usable(error.ravel(), np.sqrt(variance), np.repeat(codes, k), df, moderated.prior_df)


def ensemble_se(
    effects: ArrayLike, within_variance: ArrayLike | None = None
) -> tuple[Array, float | Array, float]:
    """Return the standard error of an ensemble's mean effects: the spread of its draws.

    Parameters
    ----------
    effects : array_like, shape (J, K)
        Effect of J mutations in each of K >= 2 members; logit.
    within_variance : array_like, shape (J, K), optional
        Variance of each effect over the dropout masks of its member, where a run draws from these.

    Returns
    -------
    se : ndarray, shape (J,)
        Standard deviation over members, moderated over mutations; with `within_variance` that of
        many draws spread evenly over the members, with (K - 1)/K of the variance over members.
    df : float or ndarray, shape (J,)
        Its degrees of freedom, as in `against_left_out`: prior df + K - 1.
    prior_df : float
        Of the moderation.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 2 members, or an effect is not finite.
    """
    m, _ = _checked(effects, np.zeros(len(np.atleast_1d(effects)), np.int64), least=2)
    moderated = moderate(m.var(axis=1, ddof=1), m.shape[1] - 1)
    variance = moderated.variance
    df: float | Array = moderated.df
    if within_variance is not None:
        k = m.shape[1]
        within = _like(within_variance, m, "within_variance").mean(axis=1)
        variance, df = _added(variance * (k - 1) / k, within, moderated.df)
    return np.sqrt(variance), df, moderated.prior_df


def against_truth(
    effects: ArrayLike,
    se: ArrayLike,
    truth: ArrayLike,
    sequence: ArrayLike,
    df: float | Array = np.inf,
    prior_df: float = np.nan,
) -> Errors:
    """Return the errors of effects against their true values.

    Parameters
    ----------
    effects, se, truth : array_like, shape (J,)
        Predicted effect of each mutation, its standard error, and its true effect; logit.
    sequence : array_like of int, shape (J,)
        Code of each mutation's sequence.
    df : float or ndarray, shape (J,)
        Degrees of freedom of the standard errors; infinite for normal errors.
    prior_df : float
        Where the variances are moderated.

    Returns
    -------
    Errors
        Up to J of them.

    Raises
    ------
    ValueError
        If shapes disagree, or an effect or a true value is not finite.
    """
    m, codes = _checked(np.asarray(effects, np.float64)[..., None], sequence, least=1)
    true = _like(np.asarray(truth, np.float64)[..., None], m, "truth")
    if not np.isfinite(true).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(true))} true effects are not finite; "
            "leave those mutations out"
        )
    u = _like(np.asarray(se, np.float64)[..., None], m, "se")
    return _usable((m - true).ravel(), u.ravel(), codes, df, prior_df)


def _added(between: Array, within: Array, df: float) -> tuple[Array, float | Array]:
    """Add a known variance to an estimated one; df by Satterthwaite (Biometrics 1946;2:110)."""
    total = between + within
    if np.isinf(df):
        return total, df
    ratio = np.divide(total, between, out=np.full_like(total, np.inf), where=between > 0)
    return total, df * ratio**2


def _usable(
    error: Array,
    se: Array,
    sequence: NDArray[np.int64],
    df: float | Array = np.inf,
    prior_df: float = np.nan,
) -> Errors:
    if bool((se < 0).any()):
        raise ValueError(f"{np.count_nonzero(se < 0)} standard errors are below 0")
    finite = np.isfinite(se)
    typical = np.sqrt(np.mean(se[finite] ** 2)) if finite.any() else 0.0
    kept = finite & (se > _ROUNDING * typical)
    kept_df = float(df) if np.ndim(df) == 0 else np.asarray(df)[kept]
    lost = int(np.count_nonzero(~kept))
    return Errors(error[kept], se[kept], sequence[kept], kept_df, lost, prior_df)


def _checked(
    effects: ArrayLike, sequence: ArrayLike, least: int
) -> tuple[Array, NDArray[np.int64]]:
    m = np.asarray(effects, np.float64)
    codes = np.asarray(sequence)
    if m.ndim != 2 or codes.shape != m.shape[:1]:
        raise ValueError(
            "effects must have a row for each mutation and sequence an element; "
            f"found {m.shape} and {codes.shape}"
        )
    if m.shape[1] < least:
        raise ValueError(
            f"effects are of {m.shape[1]} members; {least} or more are needed "
            "(models.<name>.members)"
        )
    if not np.isfinite(m).all():
        raise ValueError(
            f"{np.count_nonzero(~np.isfinite(m))} effects are not finite; "
            "make the predictions again"
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"sequence must hold integer codes, found {codes.dtype}")
    return m, codes.astype(np.int64)


def _like(values: ArrayLike, effects: Array, name: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.shape != effects.shape:
        raise ValueError(
            f"{name} must have an element for each effect; "
            f"found {array.size} for {effects.size}, in the shapes {array.shape}, {effects.shape}"
        )
    return array
