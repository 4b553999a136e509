r"""Meta-analysis of estimates whose errors are correlated.

    y ~ N(mu 1, V + tau2 I + omega2 Z Z'),

V the covariance of the errors (`deepmr.meta.dependence.error_covariance`), tau2 the variance
between sequences and omega2 that between clusters of them (Konstantopoulos, Res Synth Methods
2011;2:61). Two answers:

* `combine_dependent`: generalised least squares with the likelihood's tau2, as R's `rma.mv`
  (Viechtbauer, J Stat Softw 2010;36(3)). Best where V is *known*. Its weights S^-1 1 may be below
  0: it then predicts the shared error of some sequences from others and takes it away. That goes
  astray where V is estimated from few draws, or where its factors follow the effects themselves
  (a draw in which a motif is stronger scales every theta_i): then mu is taken for an error.
* `working_weights`: the weights of the independent model, which are above 0 and do not read the
  factors of V, with the variance w'(V + tau2 I)w that they have under V (working model and
  sandwich: Hedges, Tipton and Johnson, Res Synth Methods 2010;1:39). No inverse of V is needed,
  so noise in V goes into the standard error in proportion and nowhere else.

`benchmarks.shared_error` compares them; docs/meta_analysis.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from deepmr.meta.combine import pool, usable
from deepmr.meta.dependence.error_covariance import ErrorCovariance
from deepmr.meta.dependence.likelihood import Model, q_profile
from deepmr.meta.dependence.marginal import Array, Membership
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.result import Result, reason_of, status_of
from deepmr.mr.drawwise import student_interval

METHODS = ("REML", "ML", "FE")
TESTS = ("z", "t")

_MOST_SHARED = 1e12
"""Largest ratio of an error's variance to its own part; at 1e16 nothing is left of S^-1."""
_SMALL = float(np.finfo(np.float64).tiny)
"""In the place of a difference that is above 0, but all rounding."""


@dataclass(frozen=True)
class DependentResult(Result):
    """A global effect of estimates with correlated errors.

    Attributes
    ----------
    omega2 : float
        Variance between clusters; NaN without clusters.
    log_likelihood : float
        Maximum of the (restricted) log-likelihood; NaN for `working_weights`.
    negative_weights : float
        Sum of the weights below 0, where all sum to 1.
    """

    omega2: float = np.nan
    log_likelihood: float = np.nan
    negative_weights: float = np.nan


def combine_dependent(
    estimates: ArrayLike,
    covariance: ErrorCovariance,
    method: str = "REML",
    clusters: ArrayLike | None = None,
    test: str = "z",
) -> DependentResult:
    """Combine estimates with a known error covariance by generalised least squares.

    Parameters
    ----------
    estimates : array_like, shape (k,)
        Those that cannot be used (see `deepmr.meta.combine.usable`) are left out and counted.
    covariance : ErrorCovariance
        Of their errors.
    method : str
        ``REML``, ``ML``, or ``FE`` (tau2 = 0; R's ``EE``).
    clusters : array_like, shape (k,), optional
        Labels. Sequences of a cluster share a part of their true effects, of variance omega2. None
        or NaN is unknown: the sequence is left out.
    test : str
        ``z`` normal, ``t`` with k - 1 degrees of freedom, or with clusters their number less 1.

    Returns
    -------
    DependentResult
        q is y'Py under V alone, chi^2 with k - 1 degrees of freedom without heterogeneity. The
        interval of tau2 holds the values at which y'Py under V + tau2 I is likely: the Q-profile
        of Viechtbauer (Stat Med 2007;26:37), exact for a known V; none with clusters, or FE. I2
        = tau2/(tau2 + (k - 1)/tr P) with P under V (metafor), tau2 + omega2 in the place of tau2
        with clusters; what is common to all errors does not spread estimates and is not in tr P.
        The prediction interval is that of a sequence in a new cluster. Status ``single_cluster``
        or ``clusters_of_one`` where omega2 cannot be told from mu or tau2, ``singular_covariance``
        where V is one up to rounding.

    Raises
    ------
    ValueError
        If method or test is unknown, shapes disagree, clusters come with ``FE`` or cut a block of
        V in two, or V is not positive definite.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; write one of {', '.join(METHODS)}")
    if method == "FE" and clusters is not None:
        raise ValueError("clusters add a variance between them; write method REML or ML, not FE")
    y, v, membership, empty = _prepared(estimates, covariance, test, clusters)
    k = y.size
    if k < 2:
        return _few(y, v, empty)
    if membership is not None and len(membership) in (1, k):
        single = len(membership) == 1
        status = "single_cluster" if single else "clusters_of_one"
        reason = "all sequences are in one cluster" if single else "no cluster has two sequences"
        return replace(empty, status=status, reason=reason_of(k, reason, empty.reason))
    if (v.variances > _MOST_SHARED * v.own).any():
        reason = (
            "errors of their own are too small beside shared ones for generalised least squares"
        )
        return replace(
            empty, status="singular_covariance", reason=reason_of(k, reason, empty.reason)
        )
    model = Model(v, v.forward(y), v.forward(np.ones(k)), membership, method == "REML")
    start = model.at(0.0)
    best = start if method == "FE" else model.best()
    df = np.inf
    if test == "t":
        df = float((k if membership is None else len(membership)) - 1)
    weights = v.backward(v.plus(best.tau2, membership, best.omega2).solve(model.ones))
    alone = v.plus(0.0).solve(model.ones)
    trace = v.plus(0.0).trace_of_inverse - float(alone @ alone) / float(model.ones @ alone)
    typical = (k - 1) / max(trace, _SMALL)
    result = _with_interval(empty, best.mean, 1.0 / float(np.sqrt(best.information)), df)
    result = replace(
        result,
        q=start.q,
        q_p=float(chdtrc(k - 1, start.q)),
        log_likelihood=best.log_likelihood,
        negative_weights=float(np.minimum(weights, 0.0).sum() / weights.sum()),
    )
    if method == "FE":
        h2 = start.q / (k - 1)
        return replace(result, tau2=0.0, h2=h2, i2=100.0 * max(1.0 - 1.0 / h2, 0.0) if h2 else 0.0)
    result = _with_heterogeneity(result, best.tau2, best.omega2, typical)
    if membership is not None:
        return replace(result, omega2=best.omega2)
    low, high = q_profile(model)
    return replace(
        result,
        tau2_low=low,
        tau2_high=high,
        i2_low=100.0 * low / (low + typical),
        i2_high=100.0 * high / (high + typical),
        h2_low=1.0 + low / typical,
        h2_high=1.0 + high / typical,
    )


def working_weights(
    estimates: ArrayLike, covariance: ErrorCovariance, method: str = "REML", test: str = "z"
) -> DependentResult:
    r"""Combine with the weights of the independent model and the variance they have under V.

    With d the variances that sequences have of their own (the diagonal of V without its factors),
    tau_w2 the variance between sequences of the model in which d is all, w = 1/(d + tau_w2),
    W = sum(w) and v the diagonal of V: mu = sum(w y)/W and

        se^2 = w'(V + tau2 I)w/W^2,
        tau2 = [sum w (y - mu)^2 - (sum w v - w'Vw/W)]/(W - sum w^2/W), not below 0,

    the moment estimator of DerSimonian and Laird (Control Clin Trials 1986;7:177) with the
    expectation that sum w (y - mu)^2 has under V. An error that all share does not spread the
    estimates, so the independent model finds too small a tau2; this one does not.

    Parameters
    ----------
    estimates : array_like, shape (k,)
        Those that cannot be used (see `deepmr.meta.combine.usable`) are left out and counted.
    covariance : ErrorCovariance
        Of their errors.
    method : str
        Of `deepmr.meta.random_effects`, for the weights. ``FE``: tau2 is 0 in the variance too.
    test : str
        ``z`` normal; ``t`` with Satterthwaite's degrees of freedom of the sum of two variances
        (Biometrics Bull 1946;2:110): k - 1 for what sequences have of their own,
        `covariance.factor_df` for what they share. With many sequences it is Rubin's number.

    Returns
    -------
    DependentResult
        fmi is the share of se^2 that comes from factors. No q, and no interval of tau2. I2 and H2
        compare tau2 with (sum w v - w'Vw/W)/(W - sum w^2/W), what V itself adds to the spread.

    Raises
    ------
    ValueError
        If method or test is unknown or shapes disagree.
    """
    check_method(method)
    y, v, _, empty = _prepared(estimates, covariance, test)
    if y.size < 2:
        return _few(y, v, empty)
    tau2_w = 0.0 if method == "FE" else float(pool(y[None], v.own[None], method).tau2[0])
    w = 1.0 / (v.own + tau2_w)
    total = float(w.sum())
    mean = float(w @ y) / total
    ordered = np.sort(w)
    # W - sum w^2/W, without a difference: one weight may be nearly all.
    spread = 2.0 * float(ordered[1:] @ np.cumsum(ordered)[:-1]) / total
    under_v = float(w @ v.matvec(w))
    expected = float(w @ v.variances) - under_v / total
    tau2 = 0.0
    if method != "FE":
        tau2 = max((float(w @ (y - mean) ** 2) - expected) / spread, 0.0)
    variance = (under_v + tau2 * float(w @ w)) / total**2
    along = v.factors.T @ v.forward(w) / total
    shared = float(along @ along)
    df = np.inf
    if test == "t":
        own = max(variance - shared, 0.0)
        df = variance**2 / (own**2 / (y.size - 1) + shared**2 / v.factor_df)
    result = _with_interval(empty, mean, float(np.sqrt(variance)), df)
    result = replace(result, negative_weights=0.0)
    if v.factors.shape[1]:
        result = replace(result, fmi=shared / variance)
    if method == "FE":
        return replace(result, tau2=0.0)
    return _with_heterogeneity(result, tau2, 0.0, max(expected / spread, _SMALL))


def _prepared(
    estimates: ArrayLike,
    covariance: ErrorCovariance,
    test: str,
    clusters: ArrayLike | None = None,
) -> tuple[Array, ErrorCovariance, Membership | None, DependentResult]:
    """Leave out what cannot be used; return what is left, and a result without numbers."""
    if test not in TESTS:
        raise ValueError(f"test {test!r} is unknown; write one of {', '.join(TESTS)}")
    y, k = np.asarray(estimates, dtype=np.float64), len(covariance)
    if y.shape != (k,):
        raise ValueError(
            f"estimates must have shape ({k},), that of the covariance; found {y.shape}"
        )
    own = np.where(np.isfinite(covariance.variances), covariance.own, np.nan)
    keep, reason = usable(y[None], own[None])
    labels = None
    if clusters is not None:
        labels = np.asarray(clusters, dtype=object)
        if labels.shape != (k,):
            raise ValueError(f"clusters must have shape ({k},); found {labels.shape}")
        known = ~np.asarray(pd.isna(labels))
        if not known[keep].all():
            unknown = f"{int((keep & ~known).sum())} left out without a cluster"
            reason = f"{reason}; {unknown}" if reason else unknown
        keep = keep & known
    kept = np.flatnonzero(keep)
    empty = DependentResult(
        k=kept.size,
        status=status_of(kept.size),
        n_dropped=k - kept.size,
        reason=reason_of(kept.size, reason),
        test=test,
    )
    v = covariance.take(kept)
    membership = None if labels is None else v.membership(pd.factorize(labels[kept])[0])
    return y[kept], v, membership, empty


def _few(y: Array, v: ErrorCovariance, empty: DependentResult) -> DependentResult:
    """Return the result of no sequence, or of one: its own interval."""
    if not y.size:
        return empty
    return _with_interval(empty, float(y[0]), float(np.sqrt(v.variances[0])), np.inf)


def _with_interval(result: DependentResult, mean: float, se: float, df: float) -> DependentResult:
    low, high, p_value = student_interval(np.asarray(mean), np.asarray(se), df)
    return replace(
        result,
        estimate=mean,
        se=se,
        ci_low=float(low),
        ci_high=float(high),
        p_value=float(p_value),
        df=df,
    )


def _with_heterogeneity(
    result: DependentResult, tau2: float, omega2: float, typical: float
) -> DependentResult:
    total = tau2 + omega2
    spread = np.sqrt(total + result.se**2)
    low, high, _ = student_interval(np.asarray(result.estimate), np.asarray(spread), result.df)
    return replace(
        result,
        tau2=tau2,
        i2=100.0 * total / (total + typical),
        h2=1.0 + total / typical,
        pi_low=float(low),
        pi_high=float(high),
    )
