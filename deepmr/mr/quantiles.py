r"""Weighted quantiles, interpolated between the midpoints of the cumulated weights.

With the values in ascending order (equal ones in the order given), value k sits at the share

    s_k = (w_1 + ... + w_k - w_k/2) / (w_1 + ... + w_n),

and the quantile at p lies on the straight line between the two neighbouring values (Bowden et
al., Genet Epidemiol 2016;40:304). What has weight 0 is left out.

Weights are rounded to integers of 51 bits in total before anything is added up. Then every sum of
weights is exact in whatever order it runs, which makes it possible to find the quantiles of many
rows with the same weights without sorting them, and to get the same bits as by sorting: the
quantiles of a few rows say in which bracket those of the others should lie; the weight below the
bracket is one matrix product, and only the values inside are sorted. A row whose quantile lies
elsewhere is sorted in full.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.mr.estimator import Array

Rows = Callable[[slice | NDArray[np.intp]], Array]

_BLOCK_ELEMENTS = 65_536
"""Values handled at once: the arrays made of them stay in a core's own cache."""

_SORTED_TOGETHER = 128
"""Rows of which the values in the bracket are sorted together."""

_PILOT_ROWS = 8
"""Rows sorted in full to learn where the quantiles of the others lie."""

_PILOT_MARGIN = 0.75
"""The bracket reaches beyond the quantiles of the pilot rows by this share of their range, about
3.6 standard deviations from the middle if they are normal."""

_FEWEST_BRACKETED = 120
_WIDEST_BRACKET = 0.4
"""With fewer values, or a greater share of them in the bracket, sorting all of them is faster."""


def weighted_quantiles(values: Array, weights: ArrayLike, probabilities: Array) -> Array:
    """Weighted quantiles over the last axis.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Values; may be infinite. A NaN is left out.
    weights : array_like, broadcast to (..., n)
        Weights >= 0 of any scale.
    probabilities : ndarray, shape (..., m)
        Between 0 and 1; beyond the first and last midpoint the extreme value is returned.

    Returns
    -------
    ndarray, shape (..., m)
        NaN where all weights are 0 or one is not finite.
    """
    n, m = values.shape[-1], probabilities.shape[-1]
    rows = np.ascontiguousarray(values).reshape(-1, n)
    row_weights = np.broadcast_to(np.asarray(weights, np.float64), values.shape).reshape(-1, n)
    row_probabilities = probabilities.reshape(-1, m)
    result = np.empty((len(rows), m))
    step = max(1, _BLOCK_ELEMENTS // n)
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        weight, total = _integers(np.where(np.isnan(rows[block]), 0.0, row_weights[block]))
        targets = row_probabilities[block] * (2.0 * total[:, None])
        low, high, share = _neighbours(rows[block], weight, targets)
        result[block] = _interpolate(low, high, share)
        result[block][total == 0] = np.nan
    return result.reshape(probabilities.shape)


def median_and_se(values: Array, weights: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Weighted median over the last axis and its closed-form standard error.

    Woodruff (J Am Stat Assoc 1952;47:635): the weighted share of values below the median has the
    standard error h = sqrt(sum w^2)/(2 sum w); mapped back through the quantile function,
    se = (Q(1/2 + h) - Q(1/2 - h))/2.

    Parameters
    ----------
    values : ndarray, shape (..., n)
        Values; a NaN is left out.
    weights : array_like, broadcast to (..., n)
        Weights.

    Returns
    -------
    median, se : ndarray, shape (...)
        For a single value the SE is 0.
    """
    weight = np.broadcast_to(np.asarray(weights, np.float64), values.shape)
    missing = np.isnan(values)
    if missing.any():
        weight = np.where(missing, 0.0, weight)
    return _middle_and_se(weighted_quantiles(values, weight, _woodruff(weight)))


def medians_of_rows(rows: Rows, count: int, weights: Array) -> Array:
    """Weighted median of every row, all rows having the same weights.

    Parameters
    ----------
    rows : callable
        ``rows(which)`` gives the rows that a slice or an array of their numbers names, shape
        (rows, n); it is asked for some at a time, and may overwrite what it gave before. A NaN is
        left out.
    count : int
        Number of rows.
    weights : ndarray, shape (n,)
        Weights >= 0.

    Returns
    -------
    ndarray, shape (count,)
        Bit for bit what `weighted_quantiles` gives.
    """
    return _SharedWeights(weights, _half).quantiles(rows, count)[:, 0]


def medians_and_se_of_rows(rows: Rows, count: int, weights: Array) -> tuple[Array, Array]:
    """Give what `median_and_se` does, for rows with the same weights; see `medians_of_rows`."""
    return _middle_and_se(_SharedWeights(weights, _woodruff).quantiles(rows, count))


class _SharedWeights:
    """Quantiles of rows with the same weights.

    Parameters
    ----------
    weights : ndarray, shape (n,)
        Weights >= 0.
    probabilities : callable
        Takes weights of shape (..., n) to the probabilities, shape (..., m).
    """

    def __init__(self, weights: Array, probabilities: Callable[[Array], Array]) -> None:
        self._given = weights
        self._probabilities = probabilities
        integers, total = _integers(weights)
        self._targets = probabilities(weights) * (2.0 * total)
        self._kept = np.flatnonzero(integers)
        self._weights = integers[self._kept]
        self._step = max(1, _BLOCK_ELEMENTS // weights.size)

    def quantiles(self, rows: Rows, count: int) -> Array:
        """Return the quantiles of all rows, shape (count, m)."""
        result = np.full((count, self._targets.size), np.nan)
        if not self._kept.size:
            return result
        if self._kept.size < _FEWEST_BRACKETED or count <= _PILOT_ROWS:
            self._sort(rows, np.arange(count), result)
            return result
        pilot = np.linspace(0, count - 1, _PILOT_ROWS).astype(np.intp)
        low, high = self._sort(rows, pilot, result)
        margin = _PILOT_MARGIN * (high - low)
        share = 0.0 if np.isfinite(margin) else 1.0
        start = 0
        while start < count and share <= _WIDEST_BRACKET:
            block = slice(start, min(start + _SORTED_TOGETHER, count))
            result[block], missed, share = self._bracketed(rows, block, low - margin, high + margin)
            self._sort(rows, start + np.flatnonzero(missed), result)
            start = block.stop
        self._sort(rows, np.arange(start, count), result)
        return result

    def _sort(self, rows: Rows, which: NDArray[np.intp], result: Array) -> tuple[float, float]:
        """Fill in the quantiles of some rows by sorting all values; return where they lie.

        That is the range of the values between which they were interpolated, in rows without NaN.
        """
        least, greatest = np.inf, -np.inf
        for start in range(0, len(which), self._step):
            some = which[start : start + self._step]
            everything = rows(some)
            values = self._used(everything)
            if np.isnan(values).any():
                weights = np.where(np.isnan(everything), 0.0, self._given)
                probabilities = self._probabilities(weights)
                result[some] = weighted_quantiles(everything, weights, probabilities)
                continue
            weights = np.broadcast_to(self._weights, values.shape)
            targets = np.broadcast_to(self._targets, (len(some), self._targets.size))
            low, high, share = _neighbours(values, weights, targets)
            result[some] = _interpolate(low, high, share)
            least = min(least, float(low.min()))
            greatest = max(greatest, float(high.max()))
        return least, greatest

    def _used(self, values: Array) -> Array:
        if self._kept.size == self._given.size:
            return values
        return values.take(self._kept, axis=1)

    def _bracketed(
        self, rows: Rows, block: slice, least: float, greatest: float
    ) -> tuple[Array, NDArray[np.bool_], float]:
        """Quantiles by sorting what is in the bracket, where that failed, and the share sorted."""
        count, n = block.stop - block.start, self._kept.size
        weight_below = np.empty(count)
        missed = np.empty(count, dtype=np.bool_)
        parts = []
        for start in range(0, count, self._step):
            part = slice(start, min(start + self._step, count))
            values = self._used(rows(slice(block.start + part.start, block.start + part.stop)))
            missed[part] = np.isnan(values.min(axis=-1))
            below = values < least
            inside = values <= greatest
            inside ^= below
            np.dot(below.astype(np.float64), self._weights, out=weight_below[part])
            index = np.flatnonzero(inside)
            parts.append((index + n * start, values.ravel()[index]))
        index, value = (np.concatenate(p) for p in zip(*parts, strict=True))
        edges = np.searchsorted(index, n * np.arange(count + 1))
        sizes = np.diff(edges)
        width = max(1, int(sizes.max()))
        # Ragged rows become a matrix; what fills it up has weight 0 and stands at the end.
        row = np.repeat(np.arange(count), sizes)
        slot = np.arange(index.size) + np.repeat(np.arange(count) * width - edges[:-1], sizes)
        values, weights = np.full((count, width), np.inf), np.zeros((count, width))
        values.ravel()[slot] = value
        weights.ravel()[slot] = self._weights[index - n * row]
        order = _order(values)
        values, weights = _take(values, order), _take(weights, order)
        midpoint = 2.0 * (weight_below[:, None] + np.cumsum(weights, axis=-1)) - weights
        targets = np.broadcast_to(self._targets, (count, self._targets.size))
        above = _count_below(midpoint, targets)
        # Both neighbours must be in the bracket.
        missed |= ((above == 0) | (above >= sizes[:, None])).any(axis=-1)
        result = _interpolate(*_at(values, midpoint, targets, np.minimum(above, width - 1)))
        return result, missed, index.size / (count * n)


def _half(weights: Array) -> Array:
    """Return the probability 1/2; shape (..., 1)."""
    return np.full((*weights.shape[:-1], 1), 0.5)


def _woodruff(weights: Array) -> Array:
    """Probabilities 1/2, 1/2 - h, 1/2 + h; shape (..., 3)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        half = 0.5 * np.sqrt((weights * weights).sum(axis=-1)) / weights.sum(axis=-1)
    return np.stack([np.full_like(half, 0.5), 0.5 - half, 0.5 + half], axis=-1)


def _middle_and_se(quantiles: Array) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore"):
        return quantiles[..., 0], 0.5 * (quantiles[..., 2] - quantiles[..., 1])


def _integers(weights: Array) -> tuple[Array, Array]:
    """Weights as integers (in floats) that add up to about 2^51 in each row, and their sum.

    The factor is a power of 2, so nothing but the last bits of small weights is rounded. A row
    with a weight that is not finite gets only zeros.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = weights.sum(axis=-1)
    good = np.isfinite(total) & (total > 0)
    _, exponent = np.frexp(np.where(good, total, 1.0))
    scale = np.ldexp(1.0, np.minimum(51 - exponent, 1000))
    with np.errstate(over="ignore", invalid="ignore"):
        integers = np.where(good[..., None], np.rint(weights * scale[..., None]), 0.0)
    return integers, np.asarray(integers.sum(axis=-1))


def _take(values: Array, order: NDArray[np.intp]) -> Array:
    """Do what `np.take_along_axis` does, along the last of two axes, faster."""
    first = values.shape[1] * np.arange(len(values))[:, None]
    return np.asarray(values.ravel().take(order + first))


def _order(values: Array) -> NDArray[np.intp]:
    """Stable order of each row, by the faster unstable sort where no finite values are equal."""
    order = np.argsort(values, axis=-1)
    ordered = _take(values, order)
    equal = (ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])
    tied = equal.any(axis=-1)
    if tied.any():
        order[tied] = np.argsort(values[tied], axis=-1, kind="stable")
    return order


def _neighbours(values: Array, weights: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Neighbours of each quantile in value, and where it lies between them, by sorting.

    `weights` are integers; `targets`, shape (rows, m), are on the scale of twice their sum.
    """
    used = weights > 0
    values = np.where(used, values, np.inf)
    order = _order(values)
    ordered = _take(values, order)
    weight = _take(weights, order)
    midpoint = 2.0 * np.cumsum(weight, axis=-1) - weight
    last = np.maximum(np.count_nonzero(used, axis=-1) - 1, 0)
    above = np.minimum(_count_below(midpoint, targets), last[:, None])
    return _at(ordered, midpoint, targets, above)


def _count_below(midpoint: Array, targets: Array) -> NDArray[np.intp]:
    columns = [
        np.count_nonzero(midpoint < targets[:, m, None], axis=-1) for m in range(targets.shape[1])
    ]
    return np.stack(columns, axis=-1)


def _at(
    ordered: Array, midpoint: Array, targets: Array, above: NDArray[np.intp]
) -> tuple[Array, Array, Array]:
    below = np.maximum(above - 1, 0)
    left, right = (_take(midpoint, i) for i in (below, above))
    share = np.clip((targets - left) / np.where(right > left, right - left, 1.0), 0.0, 1.0)
    low, high = (_take(ordered, i) for i in (below, above))
    return low, high, share


def _interpolate(low: Array, high: Array, share: Array) -> Array:
    """Point between two neighbours; an infinite one attracts everything."""
    with np.errstate(invalid="ignore"):
        between = low * (1.0 - share) + high * share
    return np.where((low == high) | (share >= 1.0), high, between)
