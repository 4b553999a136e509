r"""Estimates without one instrument, or without one position of the sequence, in closed form.

Removing the set D of instruments from a weighted regression with normal matrix A changes the
coefficients b and the residual sum of squares Q to (Cook and Weisberg, Residuals and Influence in
Regression, 1982)

    b_(D) = b - (A - A_D)^-1 g,    Q_(D) = Q - sum_D w r^2 - g' (A - A_D)^-1 g,

with A_D = sum_D w x x' and g = sum_D w x r of the full fit's residuals r, so everything costs
O(n) for a sequence. All alleles of a position share one reference and lie in the same motif:
dropping single alleles leaves their companions in place and shows too little, hence the position.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.mr.diagnostics.weighted_line import Method, WeightedLine, weighted_line
from deepmr.mr.estimator import Array, Group, two_sided_p

_MINIMUM = {"ivw": 1, "egger": 3}
_LOST = 1e-10
"""Below this share of the information what is left does not identify a slope."""


class LeaveOneOut(NamedTuple):
    """Results without each instrument in turn; every array is (sequences, instruments).

    Attributes
    ----------
    estimate, se, p_value : ndarray
        Multiplicative random effects with the scale floored at 1; normal p-value.
    """

    estimate: Array
    se: Array
    p_value: Array


class PositionInfluence(NamedTuple):
    """Range of the estimates without one position; every array is (sequences,).

    Attributes
    ----------
    low, high : ndarray
        Smallest and largest estimate.
    position : ndarray of int64
        The position whose removal moves the estimate most; meaningless where `estimate` is NaN.
    estimate : ndarray
        The estimate without it.
    """

    low: Array
    high: Array
    position: NDArray[np.int64]
    estimate: Array


def leave_one_out(group: Group, method: Method = "ivw") -> LeaveOneOut:
    """Estimate without each instrument in turn.

    Parameters
    ----------
    group : Group
        Effects and their standard errors.
    method : str
        ``ivw`` (needs two instruments) or ``egger`` (four).

    Returns
    -------
    LeaveOneOut
        NaN where too few instruments are left or they do not identify a slope.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    line = weighted_line(group, method)
    w, x, r = line.weights, line.x, line.residual
    estimate, information, q = _without(
        line, method, w, w * x, w * x * x, w * r, w * x * r, w * r * r
    )
    df = line.df - 1
    scale = np.sqrt(np.maximum(q / df, 1.0)) if df > 0 else np.ones_like(q)
    with np.errstate(invalid="ignore"):
        se = scale / np.sqrt(information)
    if w.shape[1] - 1 < _MINIMUM[method]:
        estimate, se = np.full_like(w, np.nan), np.full_like(w, np.nan)
    return LeaveOneOut(estimate, se, two_sided_p(estimate / se))


def leave_one_position_out(
    group: Group, positions: ArrayLike, method: Method = "ivw"
) -> PositionInfluence:
    """Estimate without each position, all its alleles together.

    Parameters
    ----------
    group : Group
        Effects and their standard errors.
    positions : array_like of int, shape (sequences, instruments)
        Position of each instrument in its sequence, in any order.
    method : str
        ``ivw`` or ``egger``.

    Returns
    -------
    PositionInfluence
        NaN where no position can be spared.

    Raises
    ------
    ValueError
        If the method is unknown or the positions have another shape than the effects.
    """
    place = np.asarray(positions)
    if place.shape != group.bx.shape:
        raise ValueError(
            f"positions must have the shape of bx, {group.bx.shape}; found {place.shape}"
        )
    line = weighted_line(group, method)
    count, n = place.shape
    order = np.argsort(place, axis=1, kind="stable")
    ordered = np.take_along_axis(place, order, axis=1)
    rank = np.zeros((count, n), dtype=np.int64)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, out=rank[:, 1:])
    # A bin for each (sequence, position); those of a sequence are filled by it alone.
    bins = np.empty_like(rank)
    np.put_along_axis(bins, order, rank, axis=1)
    bins += n * np.arange(count)[:, None]

    def summed(values: Array) -> Array:
        total = np.bincount(bins.ravel(), values.ravel(), count * n)
        return np.asarray(total, dtype=np.float64).reshape(count, n)

    w, x, r = line.weights, line.x, line.residual
    estimate, _, _ = _without(
        line, method, *map(summed, (w, w * x, w * x * x, w * r, w * x * r, w * r * r))
    )
    size = np.bincount(bins.ravel(), minlength=count * n).reshape(count, n)
    estimate[(size == 0) | (n - size < _MINIMUM[method])] = np.nan

    distinct = np.zeros((count, n), dtype=np.int64)
    np.put_along_axis(distinct, rank, ordered.astype(np.int64), axis=1)
    known = ~np.isnan(estimate)
    shift = np.where(known, np.abs(estimate - line.slope[:, None]), -1.0)
    most = shift.argmax(axis=1)
    row = np.arange(count)
    found = known.any(axis=1)
    low = np.where(known, estimate, np.inf).min(axis=1)
    high = np.where(known, estimate, -np.inf).max(axis=1)
    return PositionInfluence(
        np.where(found, low, np.nan),
        np.where(found, high, np.nan),
        distinct[row, most],
        np.where(found, estimate[row, most], np.nan),
    )


def _without(
    line: WeightedLine,
    method: Method,
    w: Array,
    wx: Array,
    wxx: Array,
    wr: Array,
    wxr: Array,
    wrr: Array,
) -> tuple[Array, Array, Array]:
    """Return slope, its information and Q without the instruments whose sums are given."""
    full = line.information[:, None]
    rest_xx = full - wxx
    if method == "ivw":
        information, gradient = rest_xx, wxr
        constant = np.zeros_like(wxr)
    else:
        # Eliminate the intercept: its normal equation has the weight that is left.
        rest = line.total[:, None] - w
        with np.errstate(divide="ignore", invalid="ignore"):
            information = rest_xx - wx * wx / rest
            gradient = wxr + wx * wr / rest
            constant = wr * wr / rest
    information = np.where(information > _LOST * full, information, np.nan)
    slope = line.slope[:, None] - gradient / information
    q = line.q[:, None] - wrr - constant - gradient * gradient / information
    return slope, information, np.maximum(q, 0.0)
