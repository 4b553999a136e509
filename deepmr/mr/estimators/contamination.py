r"""Contamination mixture: a profile likelihood in which each instrument is valid or not.

Burgess, Foley, Allara, Staley and Howson, Nat Commun 2020;11:376. With the ratio estimate
r = by/bx and its standard error s = se_y/|bx|, a valid instrument has r ~ N(theta, s^2), an
invalid one r ~ N(0, psi^2 + s^2); each takes whichever is likelier:

    l(theta) = sum_j max(log N(r_j; theta, s_j^2), log N(r_j; 0, psi^2 + s_j^2)).

Above "all are invalid" this is l(theta) = sum_j max(D_j(theta), 0) with

    2 D_j = log(1 + psi^2 bx^2/se_y^2) + by^2/(psi^2 bx^2 + se_y^2) - (by - theta bx)^2/se_y^2,

which needs no division by bx (bx = 0 gives D = 0). Instrument j is valid for |theta - r_j| < h_j,
so that l is quadratic between the 2n sorted ends of these intervals. One sweep with running sums
gives every piece. l is also the largest of the quadratics of *all* sets of valid instruments,
therefore its maximum is the highest vertex of the pieces: exact, in O(n log n), where R's
``mr_conmix`` searches a grid.

The set {theta: 2 (l_max - l(theta)) <= 3.84 phi^2} may be several intervals; phi^2 is the
residual variance of the valid instruments, at least 1. The p-value is that of
2 (l_max - l(0))/phi^2 and so agrees with the set; ``mr_conmix`` multiplies by phi^2 there, and its
p-value contradicts its own interval.

psi is by default 1.5 SD of the ratio estimates, as in the paper and in R. A single instrument with
bx near 0 has an enormous ratio and makes psi enormous; few instruments are then called invalid.
`Options.contamination_sd` sets it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from deepmr.mr.drawwise import refit
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options

_CUT = 3.841458820694124
"""Upper 5 % point of chi-squared with 1 degree of freedom."""

_CHECKED = 3
"""Vertices that are evaluated anew, without running sums, before one is called the highest."""

_ROUNDING = 0.1
"""Where more of twice the log-likelihood than this, times phi^2, is rounding, there is no set."""

_GAP = 1e-9
"""Gaps between pieces narrower than this many standard errors are rounding, not gaps."""


def fit(group: Group, options: Options) -> Fit:
    """Maximise the profile likelihood exactly.

    Returns
    -------
    Fit
        `se` is phi over the square root of the valid instruments' weight (the curvature at the
        maximum); interval, set and p-value are those of the likelihood. An unbounded set has
        infinite ends.
    """
    bx, by = group.bx, group.by
    noise = group.se_y * group.se_y
    n_sequences = len(bx)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        information = bx * bx / noise
        ratio = by / bx
        psi2 = _invalid_sd(group, options) ** 2
        invalid = psi2[:, None] * bx * bx + noise
        gain = np.log(invalid / noise) + by * by / invalid
        reach = np.sqrt(gain / information)
        ends, weight, moment, constant = _sweep(
            ratio - reach, ratio + reach, information, bx * by / noise, gain - by * by / noise
        )
        valid = np.zeros(bx.shape, dtype=np.bool_)
        highest = np.full(n_sequences, -np.inf)
        for start in _vertices(ends, weight, moment, constant):
            inside = np.abs(start - ratio) < reach
            height = np.where(inside, gain - (by - start * bx) ** 2 / noise, 0.0).sum(axis=-1)
            higher = height > highest
            highest = np.where(higher, height, highest)
            valid = np.where(higher[:, None], inside, valid)
        total = np.where(valid, information, 0.0).sum(axis=-1)
        theta = np.where(valid, bx * by / noise, 0.0).sum(axis=-1) / total
        n_valid = valid.sum(axis=-1).astype(np.float64)
        scatter = np.where(valid, (by - theta[:, None] * bx) ** 2 / noise, 0.0).sum(axis=-1)
        phi2 = np.where(n_valid > 1, scatter / (n_valid - 1), 1.0)
        floored = np.maximum(phi2, 1.0)
        # twice the log-likelihood above "all are invalid"
        top = np.where(valid, gain - (by - theta[:, None] * bx) ** 2 / noise, 0.0).sum(axis=-1)
        at_zero = np.maximum(gain - by * by / noise, 0.0).sum(axis=-1)
        p_value = chdtrc(1, np.maximum(top - at_zero, 0.0) / floored)
        se_model = 1.0 / np.sqrt(total)
        low, high = _pieces_above(ends, weight, moment, constant, top - _CUT * floored)
        rounding = np.finfo(np.float64).eps * (by * by / noise + gain).sum(axis=-1)
        resolved = np.isfinite(p_value) & (rounding < _ROUNDING * floored)
    ok = np.isfinite(theta) & np.isfinite(se_model) & resolved
    missing = np.empty((0, 2))
    sets = [
        _join(low[i], high[i], theta[i], _GAP * se_model[i]) if ok[i] else missing
        for i in range(n_sequences)
    ]
    return Fit(
        np.where(ok, theta, np.nan),
        np.where(ok, np.sqrt(floored) * se_model, np.nan),
        ci_low=np.array([s[0, 0] if len(s) else np.nan for s in sets]),
        ci_high=np.array([s[-1, 1] if len(s) else np.nan for s in sets]),
        p_value=np.where(ok, p_value, np.nan),
        ci_kind=np.full(n_sequences, "likelihood", dtype=object),
        ci_set=sets,
        se_unfloored=np.where(ok, np.sqrt(phi2) * se_model, np.nan),
        se_model=np.where(ok, se_model, np.nan),
        n_valid=np.where(ok, n_valid, np.nan),
        p_valid=valid.astype(np.float64),
        status=np.where(
            ok, "ok", np.where(bx.any(axis=-1), "not_estimable", "no_exposure_effect")
        ).astype(object),
    )


def _invalid_sd(group: Group, options: Options) -> Array:
    """Return psi; an anchor without exposure effect has no ratio and does not count."""
    if options.contamination_sd is not None:
        return np.full(len(group.bx), options.contamination_sd)
    known = group.anchor_x != 0
    ratio = np.divide(group.anchor_y, group.anchor_x, out=np.zeros_like(group.bx), where=known)
    count = known.sum(axis=-1)
    deviation = np.where(known, ratio - (ratio.sum(axis=-1) / count)[:, None], 0.0)
    return np.asarray(1.5 * np.sqrt((deviation * deviation).sum(axis=-1) / (count - 1)))


def _sweep(
    low: Array, high: Array, weight: Array, moment: Array, constant: Array
) -> tuple[Array, Array, Array, Array]:
    """Cut the line at every end of an interval and sum what is valid between.

    Parameters
    ----------
    low, high : ndarray, shape (sequences, n)
        Where each instrument is valid; an instrument with NaN or infinite ends counts nowhere.
    weight, moment, constant : ndarray, shape (sequences, n)
        2 D_j = constant + 2 moment theta - weight theta^2.

    Returns
    -------
    ends : ndarray, shape (sequences, 2n)
        Sorted ends; the piece k lies between ends k - 1 and k, the first and last are unbounded.
    weight, moment, constant : ndarray, shape (sequences, 2n + 1)
        Sums over the valid instruments of each piece; exactly 0 where there is none.
    """
    absent = ~(np.isfinite(low) & np.isfinite(high))
    ends = np.concatenate([np.where(absent, np.inf, low), np.where(absent, np.inf, high)], axis=-1)
    order = np.argsort(ends, axis=-1, kind="stable")

    def steps(values: Array) -> Array:
        kept = np.where(absent, 0.0, values)
        return np.take_along_axis(np.concatenate([kept, -kept], axis=-1), order, axis=-1)

    def from_left(change: Array) -> Array:
        sums = np.zeros((len(change), change.shape[-1] + 1))
        np.cumsum(change, axis=-1, out=sums[:, 1:])
        return sums

    def from_right(change: Array) -> Array:
        return from_left(change[:, ::-1])[:, ::-1]

    # Subtracting what was added leaves its rounding behind. A piece far out, where only
    # instruments with hardly any weight are valid, takes the sum that met less weight on its way.
    passed = np.abs(steps(weight))
    left = from_left(passed) <= from_right(passed)
    empty = np.rint(from_left(steps(np.ones_like(weight)))) == 0
    sums = []
    for values in (weight, moment, constant):
        change = steps(values)
        total = np.where(left, from_left(change), from_right(-change))
        sums.append(np.where(empty, 0.0, total))
    return np.take_along_axis(ends, order, axis=-1), sums[0], sums[1], sums[2]


def _vertices(ends: Array, weight: Array, moment: Array, constant: Array) -> Iterator[Array]:
    """Yield where the highest vertices lie, best first, each of shape (sequences, 1).

    A vertex outside its piece is not on the likelihood.
    """
    left, right = _borders(ends)
    place = moment / weight
    height = np.where(
        (left <= place) & (place <= right), constant + moment * moment / weight, -np.inf
    )
    for _ in range(_CHECKED):
        best = height.argmax(axis=-1)[:, None]
        yield np.take_along_axis(place, best, axis=-1)
        np.put_along_axis(height, best, -np.inf, axis=-1)


def _borders(ends: Array) -> tuple[Array, Array]:
    edge = np.full((len(ends), 1), np.inf)
    return np.concatenate([-edge, ends], axis=-1), np.concatenate([ends, edge], axis=-1)


def _pieces_above(
    ends: Array, weight: Array, moment: Array, constant: Array, cut: Array
) -> tuple[Array, Array]:
    """Return the part of each piece where constant + 2 moment theta - weight theta^2 >= cut.

    An empty part has low > high or NaN.
    """
    left, right = _borders(ends)
    centre = moment / weight
    half = np.sqrt((constant + moment * centre - cut[:, None]) / weight)
    flat = ~(weight > 0)  # below 0 it is rounding
    everywhere = flat & (constant >= cut[:, None])
    low = np.where(everywhere, left, np.where(flat, np.nan, np.maximum(left, centre - half)))
    high = np.where(everywhere, right, np.where(flat, np.nan, np.minimum(right, centre + half)))
    return low, high


def _join(low: Array, high: Array, theta: float, gap: float) -> NDArray[np.float64]:
    """Merge the parts of neighbouring pieces to intervals, shape (intervals, 2).

    A set narrower than the rounding of theta has no part; it is theta.
    """
    present = np.flatnonzero((low <= high) & (low < np.inf) & (high > -np.inf))
    if not len(present):
        return np.array([[theta, theta]])
    low, high = low[present], high[present]
    apart = np.flatnonzero(low[1:] - high[:-1] > gap)
    first = np.concatenate([[0], apart + 1]).astype(np.intp)
    last = np.concatenate([apart, [len(low) - 1]]).astype(np.intp)
    return np.stack([low[first], high[last]], axis=-1)


CONTAMINATION_MIXTURE = Estimator("contamination_mixture", 3, fit, refit(fit))
