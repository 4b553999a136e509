r"""Adaptive shrinkage: the share of sequences with no, a positive and a negative effect.

Stephens (Biostatistics 2017;18:275): the true effects of sequences come from a distribution that is
unimodal at 0,

    theta ~ p_0 delta_0 + sum_k p_k U(0, a_k) + sum_k q_k U(-a_k, 0),    b | theta ~ N(theta, s^2),

with half-widths a_k on a grid, so that the two signs are free of each other; weights by maximum
likelihood with the factor p_0^(lambda_0 - 1), lambda_0 = 10, which errs towards no effect where
the data cannot tell an effect from none. The grid is the paper's: from min(s)/10 to
2 sqrt(max(b^2 - s^2)) in steps of sqrt(2). Solver: `deepmr.meta.shrinkage.weights`.

Errors of one model are shared by its sequences. `fit_mixture` takes them for independent: an error
that moves all sequences alike looks like an effect in all of them, and nothing in its answer says
so. `draw_wise_shares` fits a mixture to each draw, where the network is one function: what its
error does to the shares and to the signs is what they differ by between draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.meta.result import Array
from deepmr.meta.shrinkage.half_uniform import log_ratio
from deepmr.meta.shrinkage.moments import mean_of_lower, moments, probabilities
from deepmr.meta.shrinkage.normal_equivalent import normal_se
from deepmr.meta.shrinkage.weights import ITERATIONS, TOLERANCE, maximise

FEW = 10
"""Below this number of sequences, shares say more of the prior than of the sequences."""

_RATIO = np.sqrt(2.0)
_LARGE = 1e75
"""Counts as infinite, and its inverse as 0: squares of z-values have to fit a float64."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """Distribution of the true effects of sequences.

    Attributes
    ----------
    share_zero, share_positive, share_negative : float
        Weights of the three parts; they sum to 1, and hold lambda_0's nine sequences more without
        an effect. Effects far below the standard errors cannot be
        told from none, and some of the share of zero may stand with them: .02 of .6 on average,
        .06 at most in the simulations with 4,000 sequences of tests/unit/test_meta_mixture.py.
    weights : ndarray, shape (1 + 2 m,)
        Of 0, of U(0, a_1) to U(0, a_m), of U(-a_1, 0) to U(-a_m, 0).
    grid : ndarray, shape (m,)
        Half-widths a, in the unit of the estimates.
    log_likelihood : float
        Of the estimates, without the factor of the null.
    kkt_gap : float
        No weights have a penalized log-likelihood higher by more than this for each sequence.
    k, n_dropped : int
        Sequences used, and those without a finite estimate and a finite standard error above 0.
    status : str
        ``ok``, ``few_sequences`` (below 10), ``no_sequences``, or ``not_converged``.
    reason : str
        Empty when `status` is ``ok`` and nothing was dropped.
    """

    share_zero: float
    share_positive: float
    share_negative: float
    weights: Array
    grid: Array
    log_likelihood: float
    kkt_gap: float
    k: int
    n_dropped: int
    status: str
    reason: str


@dataclass(frozen=True, eq=False)
class Posterior:
    """What a mixture says of each sequence; shape (k,), NaN where there is no estimate.

    Attributes
    ----------
    mean, sd : ndarray
        Of the true effect.
    p_zero, p_positive, p_negative : ndarray
        Probabilities that it is 0, above and below.
    lfdr : ndarray
        Local false discovery rate, `p_zero`.
    lfsr : ndarray
        Local false sign rate: the probability that the likelier sign is wrong,
        ``p_zero + min(p_positive, p_negative)``.
    s_value : ndarray
        Mean lfsr of the sequences with this lfsr or a lower one: the share of wrong signs to be
        expected among them.
    """

    mean: Array
    sd: Array
    p_zero: Array
    p_positive: Array
    p_negative: Array
    lfdr: Array
    lfsr: Array
    s_value: Array


@dataclass(frozen=True, eq=False)
class DrawWiseShares:
    """Mixtures of all draws.

    Attributes
    ----------
    share_zero, share_positive, share_negative : float
        Expected shares of these sequences: means over draws and sequences of the posterior
        probabilities. (Not the weights of the mixture: lambda_0 counts in those like nine
        sequences more without an effect, which is much where there are few.)
    share_zero_sd, share_positive_sd, share_negative_sd : float
        Their standard deviations over draws: what the model's error does to them.
    shares : ndarray, shape (draws, 3)
        Zero, positive, negative in each draw.
    p_zero, p_positive, p_negative : ndarray, shape (k,)
        Posterior probabilities of each sequence, means over draws.
    lfsr, s_value : ndarray, shape (k,)
        From those means: a sequence that is surely positive in half of the draws and surely
        negative in the others has an lfsr of .5. (The mean of its lfsr over draws would be 0.)
    kkt_gap : float
        The largest of all draws.
    k, n_dropped, status, reason
        As of `Mixture`; a sequence is dropped that lacks an estimate or a variance in any draw.
    """

    share_zero: float
    share_positive: float
    share_negative: float
    share_zero_sd: float
    share_positive_sd: float
    share_negative_sd: float
    shares: Array
    p_zero: Array
    p_positive: Array
    p_negative: Array
    lfsr: Array
    s_value: Array
    kkt_gap: float
    k: int
    n_dropped: int
    status: str
    reason: str


def fit_mixture(
    estimates: ArrayLike,
    se: ArrayLike,
    *,
    df: ArrayLike | None = None,
    null_weight: float = 10.0,
) -> Mixture:
    """Fit the distribution of the true effects.

    Answers: if the errors of sequences were independent, which share of sequences has no effect,
    a positive, a negative one? Errors of one model are not; see `draw_wise_shares`.

    Parameters
    ----------
    estimates, se : array_like, shape (k,)
        Estimates and their standard errors.
    df : array_like, shape (k,) or scalar, optional
        Degrees of freedom of the standard errors. Each standard error is replaced by the one whose
        normal p-value is that of Student's t (Lu and Stephens, arXiv:1901.10679); a sequence with
        NaN is dropped.
    null_weight : float
        lambda_0; 1 is plain maximum likelihood, more favours no effect.

    Returns
    -------
    Mixture

    Raises
    ------
    ValueError
        If shapes disagree, `null_weight` is below 1 or a `df` is not above 0.
    """
    b, s, usable = _checked(estimates, se, df)
    b, s, n_dropped = b[usable], s[usable], int((~usable).sum())
    _check_null_weight(null_weight)
    if not b.size:
        nothing, nan = np.empty(0), np.nan
        why = _status(0, n_dropped, True)
        return Mixture(nan, nan, nan, nothing, nothing, nan, nan, 0, n_dropped, *why)
    return _fit(b, s, _grid(b, s), null_weight, None, n_dropped)


def posterior(
    mixture: Mixture, estimates: ArrayLike, se: ArrayLike, *, df: ArrayLike | None = None
) -> Posterior:
    """Return what a mixture says of the effect of each sequence.

    Parameters
    ----------
    mixture : Mixture
        Distribution of the true effects; one without sequences says nothing (all NaN).
    estimates, se, df : array_like, shape (k,)
        As for `fit_mixture`.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        If shapes disagree or a `df` is not above 0.
    """
    b, s, usable = _checked(estimates, se, df)
    out = {
        name: np.full(b.shape, np.nan)
        for name in ("mean", "sd", "p_zero", "p_positive", "p_negative", "lfsr", "s_value")
    }
    if mixture.k and usable.any():
        zero, positive, negative, mean, sd = moments(
            mixture.weights, mixture.grid, b[usable], s[usable]
        )
        lfsr = zero + np.minimum(positive, negative)
        values = (mean, sd, zero, positive, negative, lfsr, mean_of_lower(lfsr))
        for name, value in zip(out, values, strict=True):
            out[name][usable] = value
    return Posterior(**out, lfdr=out["p_zero"].copy())


def draw_wise_shares(
    estimates: ArrayLike, variances: ArrayLike, *, null_weight: float = 10.0
) -> DrawWiseShares:
    """Fit a mixture in every draw.

    Answers: each draw is one function of the network; which share of sequences has an effect in
    such a function, and how far do functions disagree on it? What a function has wrong is an effect
    in that function: where draws scatter by more than the standard errors within them, hardly any
    sequence has no effect in a draw, and `share_zero` is far below that of the truth. The signs
    then differ between draws, and `lfsr` says that they are not known.

    All draws have the same grid, made from all of them, and start from the weights of the draws'
    means.

    Parameters
    ----------
    estimates, variances : array_like, shape (draws, k)
        Estimate of each sequence in each draw, and its squared standard error in that draw.
    null_weight : float
        As for `fit_mixture`.

    Returns
    -------
    DrawWiseShares

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 2 draws or `null_weight` is below 1.
    """
    b, v = np.asarray(estimates, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    if b.ndim != 2 or b.shape != v.shape or len(b) < 2:
        raise ValueError(
            "estimates and variances must both have shape (draws, k) with 2 draws or more; "
            f"found {b.shape} and {v.shape}"
        )
    _check_null_weight(null_weight)
    with np.errstate(invalid="ignore"):
        s = np.sqrt(v)
    usable = _usable(b, s).all(axis=0)
    n_draws, n_dropped = len(b), int((~usable).sum())
    b, s = b[:, usable], s[:, usable]
    probability = np.full((3, usable.size), np.nan)
    lfsr, s_value = np.full((2, usable.size), np.nan)
    k = b.shape[1]
    gap, converged = np.nan, True
    shares = np.full((n_draws, 3), np.nan)
    if k:
        grid = _grid(b.ravel(), s.ravel())
        middle = np.sqrt((s * s).mean(axis=0))
        start = _fit(b.mean(axis=0), middle, grid, null_weight, None, 0).weights
        total, gaps = np.zeros((3, k)), np.zeros(n_draws)
        for t in range(n_draws):
            fitted = _fit(b[t], s[t], grid, null_weight, start, 0)
            own = probabilities(fitted.weights, grid, b[t], s[t])
            shares[t] = own.mean(axis=1)
            gaps[t] = fitted.kkt_gap
            converged &= fitted.status != "not_converged"
            total += own
        gap = float(gaps.max())
        probability[:, usable] = total / n_draws
        zero, positive, negative = probability[:, usable]
        lfsr[usable] = zero + np.minimum(positive, negative)
        s_value[usable] = mean_of_lower(lfsr[usable])
    mean, sd = shares.mean(axis=0), shares.std(axis=0, ddof=1)
    status, reason = _status(k, n_dropped, converged)
    return DrawWiseShares(
        share_zero=float(mean[0]),
        share_positive=float(mean[1]),
        share_negative=float(mean[2]),
        share_zero_sd=float(sd[0]),
        share_positive_sd=float(sd[1]),
        share_negative_sd=float(sd[2]),
        shares=shares,
        p_zero=probability[0],
        p_positive=probability[1],
        p_negative=probability[2],
        lfsr=lfsr,
        s_value=s_value,
        kkt_gap=gap,
        k=k,
        n_dropped=n_dropped,
        status=status,
        reason=reason,
    )


def _checked(
    estimates: ArrayLike, se: ArrayLike, df: ArrayLike | None
) -> tuple[Array, Array, NDArray[np.bool_]]:
    b, s = np.asarray(estimates, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if b.ndim != 1 or b.shape != s.shape:
        raise ValueError(
            f"estimates and se must both have shape (k,); found {b.shape} and {s.shape}"
        )
    usable = _usable(b, s)
    if df is None:
        return b, s, usable
    freedom = np.asarray(df, dtype=np.float64)
    if freedom.shape not in ((), b.shape):
        raise ValueError(f"df must be a number or have shape {b.shape}; found {freedom.shape}")
    if (freedom <= 0).any():
        raise ValueError("df must be above 0; write None for standard errors that are known")
    usable &= ~np.isnan(freedom)
    s = s.copy()
    s[usable] = normal_se(b[usable], s[usable], np.broadcast_to(freedom, b.shape)[usable])
    return b, s, usable


def _usable(b: Array, s: Array) -> NDArray[np.bool_]:
    """Tell estimates that are finite with a standard error that is finite and above 0."""
    return (np.abs(b) < _LARGE) & (s > 1.0 / _LARGE) & (s < _LARGE)


def _check_null_weight(null_weight: float) -> None:
    if not 1.0 <= null_weight < np.inf:
        raise ValueError(f"null_weight: found {null_weight}; write a number of 1 or more")


def _status(k: int, n_dropped: int, converged: bool) -> tuple[str, str]:
    dropped = (
        f"{n_dropped} without a finite estimate and a standard error above 0" if n_dropped else ""
    )
    if not k:
        return "no_sequences", dropped or "no sequence"
    if not converged:
        return "not_converged", f"the weights did not converge in {ITERATIONS} steps"
    if k < FEW:
        few = f"shares of {k} sequences say little (fewer than {FEW})"
        return "few_sequences", f"{few}; {dropped}" if dropped else few
    return "ok", dropped


def _grid(b: Array, s: Array) -> Array:
    """Half-widths, ascending."""
    least = s.min() / 10.0
    size = np.abs(b)
    excess = float(np.max(np.sqrt(np.maximum(size - s, 0.0)) * np.sqrt(size + s)))
    most = max(2.0 * excess, 8.0 * least)
    steps = int(np.ceil(np.log(most / least) / np.log(_RATIO)))
    return np.asarray(most * _RATIO ** np.arange(-steps, 1.0))


def _fit(
    b: Array, s: Array, grid: Array, null_weight: float, start: Array | None, n_dropped: int
) -> Mixture:
    z, m = b / s, grid.size
    log_l = np.zeros((b.size, 1 + 2 * m))
    for column, half_width in enumerate(grid, start=1):
        log_l[:, column] = log_ratio(z, half_width / s)
        log_l[:, column + m] = log_ratio(-z, half_width / s)
    top = log_l.max(axis=1)
    likelihood = np.exp(log_l - top[:, None])
    weights, gap = maximise(likelihood, null_weight - 1.0, start)
    with np.errstate(divide="ignore"):
        value = np.log(np.einsum("jk,k->j", likelihood, weights)) + top
    null = -0.5 * (z * z + np.log(2.0 * np.pi)) - np.log(s)
    return Mixture(
        float(weights[0]),
        float(weights[1 : m + 1].sum()),
        float(weights[m + 1 :].sum()),
        weights,
        grid,
        float((value + null).sum()),
        gap,
        b.size,
        n_dropped,
        *_status(b.size, n_dropped, gap <= TOLERANCE),
    )
