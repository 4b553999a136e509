r"""The effect that an instrument identifies, from what cross-fitted networks predict.

With the instrument z, the context c, the exposure x and the outcome y,

    q = E[x|z,c],   r = E[x|c],   m = E[y|c],

    theta = sum a (y - m) / sum a (x - r),   a = q - r.

This solves the partially linear IV score of Chernozhukov et al. (2018, Econometrics Journal 21:C1,
section 4.2) with q - r as instrument. The score is Neyman-orthogonal: errors of q, r and m enter
theta as products of two of them, never alone. If the effect of x is tau(c), then E[y - m|z,c] =
a tau(c), and theta is the average of tau(c) weighted by Var(q|c): what counts are the windows in
which the instrument decides. With a network's tau it splits exactly,

    theta = sum w tau / sum w + sum a (y - m - tau (x - r)) / sum w,   w = a (x - r),

into the network's own weighted average and a correction by residuals.

Standard errors cluster neighbouring windows: the sums N_g of a (y - m) and D_g of a (x - r) of G
independent clusters give the variance of N - theta D,

    V(theta) = G/(G - 1) sum_g (S_g - mean S)^2,   S_g = N_g - theta D_g,

and theta +- t sqrt(V(theta))/D with G - 1 degrees of freedom. Where D is not clearly above 0 that
interval is wrong; the set of Anderson and Rubin (1949, Ann Math Stat 20:46),

    {theta: (N - theta D)^2 <= t^2 V(theta)},

is not (Staiger and Stock 1997, Econometrica 65:557). V is a quadratic, so the set is Fieller's
(1954, J R Stat Soc B 16:175): an interval, all but an interval, or every number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[np.float64]

WEAK_F = 10.0
"""Below this first-stage F an instrument is called weak (Staiger and Stock 1997). A rule of thumb:
intervals of t are close to their level only at far larger F (Lee, McCrary, Moreira and Porter 2022,
Am Econ Rev 112:3260), so the Anderson-Rubin set always stands beside them."""

FEWEST_CLUSTERS = 5
"""Fewer leave less than 4 degrees of freedom, and no standard error to trust (Tipton 2015, Psychol
Methods 20:375)."""


@dataclass(frozen=True)
class LocalEffect:
    """An average effect of the exposure, in units of the outcome per unit of the exposure.

    Attributes
    ----------
    estimate, se, df : float
        The effect, its cluster-robust standard error and degrees of freedom, clusters - 1.
    ci_low, ci_high, p_value : float
        Interval of Student's t and the two-sided p-value that agrees with it.
    network : float
        What the network alone says: its effects, weighted like the estimate. NaN without them.
    n, n_clusters : int
        Windows and clusters.
    variance : float
        Mean of (q - r)(x - r): Var(q|c) without the noise of q, in squared units of the exposure.
        Below 0 where q foretells the exposure worse than r.
    variance_share : float
        `variance` over the mean of (x - r)^2: the instrument's share of what the context leaves
        open (a partial R2).
    f : float
        Cluster-robust first-stage F of the one instrument q - r: D^2/Var(D).
    ar_low, ar_high : float
        Ends of the Anderson-Rubin set. Where `ar_kind` is ``outside`` they are the ends of the gap:
        the set is what lies below `ar_low` and above `ar_high`. NaN for an empty set.
    ar_kind : str
        ``interval`` (an end may be infinite), ``outside``, ``everything`` or ``empty``; "" for a
        naive effect, which has no instrument.
    status : str
        ``ok``; without an estimate ``no_variation`` (the exposure or the outcome is constant, or q
        does not foretell the exposure: D is not above 0); with an estimate but no scatter
        ``too_few_clusters`` (below `FEWEST_CLUSTERS`).
    reason : str
        ``weak_instrument`` where F is below `WEAK_F`: the Anderson-Rubin set, not the interval, is
        then to be read. ``constant_exposure``, ``constant_outcome`` or ``no_first_stage`` for the
        status ``no_variation``. Otherwise empty.
    """

    estimate: float
    se: float
    df: float
    ci_low: float
    ci_high: float
    p_value: float
    network: float
    n: int
    n_clusters: int
    variance: float
    variance_share: float
    f: float
    ar_low: float
    ar_high: float
    ar_kind: str
    status: str
    reason: str


class ConfidenceSet(NamedTuple):
    """A set of effects; fields as `LocalEffect.ar_low`, `ar_high` and `ar_kind`."""

    low: float
    high: float
    kind: str


_NO_SET = ConfidenceSet(np.nan, np.nan, "")
_EVERYTHING = ConfidenceSet(-np.inf, np.inf, "everything")


class ClusterSums(NamedTuple):
    """Numerator and denominator of a ratio of sums over clusters, and their covariance.

    Attributes
    ----------
    numerator, denominator : float
        N and D.
    var_n, cov, var_d : float
        Cluster-robust variances and covariance of N and D; NaN with one cluster.
    n_clusters : int
    """

    numerator: float
    denominator: float
    var_n: float
    cov: float
    var_d: float
    n_clusters: int

    def variance(self, theta: float) -> float:
        """Return Var(N - theta D); at least 0."""
        return max(self.var_n - 2.0 * theta * self.cov + theta * theta * self.var_d, 0.0)


def cluster_sums(numerator: Array, denominator: Array, clusters: ArrayLike) -> ClusterSums:
    """Sum a numerator and a denominator over all rows, with their cluster-robust covariance.

    Parameters
    ----------
    numerator, denominator : ndarray, shape (n,)
        Terms of N and D.
    clusters : array_like, shape (n,)
        Label of each row's cluster.
    """
    label = np.unique(np.asarray(clusters), return_inverse=True)[1]
    n_clusters = int(label.max()) + 1
    of_clusters = np.array([np.bincount(label, terms) for terms in (numerator, denominator)])
    centred = of_clusters - of_clusters.mean(axis=1, keepdims=True)
    scale = n_clusters / (n_clusters - 1) if n_clusters > 1 else np.nan
    var_n, var_d = scale * (centred * centred).sum(axis=1)
    cov = scale * (centred[0] * centred[1]).sum()
    n, d = of_clusters.sum(axis=1)
    return ClusterSums(float(n), float(d), float(var_n), float(cov), float(var_d), n_clusters)


def anderson_rubin(sums: ClusterSums, t: float) -> ConfidenceSet:
    """Solve (N - theta D)^2 <= t^2 Var(N - theta D) for theta.

    Parameters
    ----------
    sums : ClusterSums
        Of at least two clusters.
    t : float
        Critical value, above 0.

    Returns
    -------
    ConfidenceSet
        ``empty`` only where D is 0 in every cluster and N is not 0; else N/D is in the set.
    """
    square = t * t
    a = sums.denominator**2 - square * sums.var_d
    b = sums.numerator * sums.denominator - square * sums.cov
    c = sums.numerator**2 - square * sums.var_n
    if a == 0.0:
        if b == 0.0:
            return _EVERYTHING if c <= 0.0 else ConfidenceSet(np.nan, np.nan, "empty")
        end = c / (2.0 * b)
        low, high = (end, np.inf) if b > 0.0 else (-np.inf, end)
        return ConfidenceSet(low, high, "interval")
    discriminant = b * b - a * c
    if a < 0.0 and discriminant <= 0.0:
        return _EVERYTHING
    # Where a > 0 it is not below 0 (N/D solves the inequality), but for rounding.
    root = np.sqrt(max(discriminant, 0.0))
    # The root that does not cancel, and the other from their product c/a.
    far = b + np.copysign(root, b)
    ends = sorted((far / a, c / far if far != 0.0 else 0.0))
    return ConfidenceSet(float(ends[0]), float(ends[1]), "interval" if a > 0.0 else "outside")


def local_effect(
    y: ArrayLike,
    x: ArrayLike,
    q: ArrayLike,
    r: ArrayLike,
    m: ArrayLike,
    clusters: ArrayLike,
    *,
    tau: ArrayLike | None = None,
    level: float = 0.95,
) -> LocalEffect:
    """Estimate the effect of an exposure from predictions that have not seen the windows.

    Parameters
    ----------
    y, x : array_like, shape (n,)
        Outcome and exposure.
    q, r : array_like, shape (n,)
        Predicted exposure, with the instrument and the context, and with the context alone.
    m : array_like, shape (n,)
        Predicted outcome with the context alone.
    clusters : array_like, shape (n,)
        Label of each window's cluster, such as its block; clusters are taken as independent.
    tau : array_like, shape (n,), optional
        The network's effect of one unit of exposure in each window's context.
    level : float
        Of the interval and the Anderson-Rubin set; in (0, 1).

    Returns
    -------
    LocalEffect

    Raises
    ------
    ValueError
        If shapes disagree, there is no window, a number is not finite, or `level` is outside
        (0, 1).
    """
    rows = _columns(clusters, y=y, x=x, q=q, r=r, m=m, tau=tau)
    return _estimate(rows, rows["q"] - rows["r"], clusters, level, instrument=True)


def naive_effect(
    y: ArrayLike,
    x: ArrayLike,
    r: ArrayLike,
    m: ArrayLike,
    clusters: ArrayLike,
    *,
    tau: ArrayLike | None = None,
    level: float = 0.95,
) -> LocalEffect:
    """Estimate the association of outcome and exposure given the context, confounding included.

    The exposure is its own instrument, theta = sum (x - r)(y - m) / sum (x - r)^2 (Robinson 1988,
    Econometrica 56:931). Parameters and errors as `local_effect`; here `tau` is the naive
    network's.

    Returns
    -------
    LocalEffect
        Without first-stage F and Anderson-Rubin set; `variance_share` is 1.
    """
    rows = _columns(clusters, y=y, x=x, r=r, m=m, tau=tau)
    return _estimate(rows, rows["x"] - rows["r"], clusters, level, instrument=False)


def _columns(clusters: ArrayLike, **columns: ArrayLike | None) -> dict[str, Array]:
    """Return the columns as arrays, those that are None left out."""
    rows = {k: np.asarray(v, dtype=np.float64) for k, v in columns.items() if v is not None}
    shape = rows["y"].shape
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(f"y must hold a number for each of at least one window; found {shape}")
    others = {name: column.shape for name, column in rows.items()}
    others["clusters"] = np.asarray(clusters).shape
    for name, found in others.items():
        if found != shape:
            raise ValueError(f"{name} must have the shape of y, {shape}; found {found}")
    for name, column in rows.items():
        bad = np.flatnonzero(~np.isfinite(column))
        if bad.size:
            raise ValueError(
                f"{name} is {column[bad[0]]} in window {bad[0]}; leave windows out that were not "
                "measured or predicted"
            )
    return rows


def _estimate(
    rows: dict[str, Array], a: Array, clusters: ArrayLike, level: float, *, instrument: bool
) -> LocalEffect:
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level of an interval must be in (0, 1), such as .95; got {level}")
    y, x = rows["y"] - rows["m"], rows["x"] - rows["r"]
    weight = a * x
    sums = cluster_sums(a * y, weight, clusters)
    n, d, df = y.size, sums.denominator, float(sums.n_clusters - 1)
    status, reason = _status(rows, sums)
    t = float(stdtrit(df, (1.0 + level) / 2.0)) if sums.n_clusters >= FEWEST_CLUSTERS else np.nan
    estimate = se = network = np.nan
    if status != "no_variation":
        estimate = sums.numerator / d
        network = float((weight * rows["tau"]).sum() / d) if "tau" in rows else np.nan
    if status == "ok":
        se = float(np.sqrt(sums.variance(estimate))) / d
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = float(2.0 * stdtr(df, -np.abs(np.divide(estimate, se))))
        share = float(np.divide(d, (x * x).sum()))
        f = float(np.divide(d * d, sums.var_d)) if instrument and np.isfinite(t) else np.nan
    if status == "ok" and f < WEAK_F:
        reason = "weak_instrument"
    ar = _NO_SET
    if instrument:
        known = np.isfinite(t) and not reason.startswith("constant")
        ar = anderson_rubin(sums, t) if known else _EVERYTHING
    return LocalEffect(
        estimate=estimate,
        se=se,
        df=df,
        ci_low=estimate - t * se,
        ci_high=estimate + t * se,
        p_value=p_value,
        network=network,
        n=n,
        n_clusters=sums.n_clusters,
        variance=d / n,
        variance_share=share,
        f=f,
        ar_low=ar.low,
        ar_high=ar.high,
        ar_kind=ar.kind,
        status=status,
        reason=reason,
    )


def _status(rows: dict[str, Array], sums: ClusterSums) -> tuple[str, str]:
    """Return status and reason, before the strength of the instrument is judged."""
    for name, reason in (("x", "constant_exposure"), ("y", "constant_outcome")):
        if np.ptp(rows[name]) == 0.0:
            return "no_variation", reason
    if not sums.denominator > 0.0:
        return "no_variation", "no_first_stage"
    if sums.n_clusters < FEWEST_CLUSTERS:
        return "too_few_clusters", ""
    return "ok", ""
