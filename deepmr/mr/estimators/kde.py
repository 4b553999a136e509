r"""Global maximum of a weighted Gaussian kernel density, without a grid's error.

With x_j = (v_j - c)/h, weights that add up to 1 and K(u) = exp(-u^2/2), the density at c + h t is
f(t)/(h sqrt(2 pi)), f(t) = sum_j w_j K(x_j - t).

Most rows are settled in a batch. The density binned about the centre shows where its maximum is
and, by the bound of `deepmr.mr.estimators.kde_search`, where else one as high could be. Newton's
method on the Taylor series of f gives the maximum; its coefficients and the bound of its remainder
prove that nothing among the points left is higher, and the weight outside that nothing there is. A
row without that proof (two peaks of about the same height, a flat top, much weight far from the
bulk) goes to `deepmr.mr.estimators.kde_search`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.kde_search import (
    CUT,
    KEEP,
    LESSER_MODE,
    PER_UNIT,
    REACH,
    STEP,
    TIE,
    binned,
    clusters_of,
    count_everywhere,
    count_maxima,
    search,
    smoothed,
    taylor,
)

BLOCK_ELEMENTS = 65_536
"""Values handled at once: the arrays made of them stay in the cache."""

_HALF = 20
"""The batch looks at the bandwidths from -20 to 20 about the centre."""

_POINTS = 2 * _HALF * PER_UNIT + 1
_MARGIN = REACH * PER_UNIT
"""At so many points on either side the binned density lacks what lies outside the window."""

_SLOTS = 1024
_FAR = 1e15
_BLOCK_KERNEL = np.exp(
    -0.5 * (np.maximum(np.abs(np.arange(-_MARGIN, _MARGIN + 1)) - 1, 0) * STEP) ** 2
)
"""Between two blocks, K at the least distance of a value of the one and a point of the other."""

_NOTHING = 40.0
"""exp(-u^2/2) is 0 beyond this u."""

_ORDER = 8
_REMAINDER = 1.0865 / sqrt(factorial(_ORDER + 1))


@dataclass(frozen=True, eq=False)
class Peaks:
    """Highest peak of each row.

    Attributes
    ----------
    location : ndarray, shape (rows,)
        Where the density is highest, in the units of the values; NaN without a bandwidth.
    density : ndarray, shape (rows,)
        The density there; it integrates to 1 over the values' unit. Infinite for bandwidth 0.
    n_modes : ndarray, shape (rows,)
        Maxima of the binned density at least `LESSER_MODE` as high; NaN where not asked for.
    """

    location: Array
    density: Array
    n_modes: Array


def highest_peaks(
    values: Array, weights: Array, bandwidth: Array, centre: Array, count_modes: bool = False
) -> Peaks:
    """Find the global maximum of the kernel density of every row.

    Parameters
    ----------
    values : ndarray, shape (rows, n)
        Values; finite where the weight is above 0.
    weights : ndarray, shape (rows, n) or (n,)
        Finite weights >= 0 of any scale, of moderate ratio to each other.
    bandwidth, centre : ndarray, shape (rows,)
        Standard deviation of the kernel, and a value in the bulk of the row, which decides
        nothing but the time it takes. With bandwidth 0 the location is the limit: the value with
        the most weight, the smallest of several.
    count_modes : bool
        Whether to count the modes.

    Returns
    -------
    Peaks
        A row depends on no other row.
    """
    rows, n = values.shape
    location = np.full(rows, np.nan)
    density, n_modes = location.copy(), location.copy()
    shared = weights.ndim == 1
    shares = _shares(weights) if shared else weights
    step = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        share = shares if shared else _shares(weights[block])
        found = _block(values[block], share, bandwidth[block], centre[block], count_modes)
        location[block], density[block], n_modes[block] = found
    return Peaks(location, density, n_modes)


def _shares(weights: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _block(
    values: Array, shares: Array, bandwidth: Array, centre: Array, count_modes: bool
) -> tuple[Array, Array, Array]:
    """Location, density and number of modes of some rows."""
    if not (shares > 0).all():
        values = np.where(shares > 0, values, centre[:, None])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        x = (values - centre[:, None]) / bandwidth[:, None]
    sound = (bandwidth > 0) & np.isfinite(x).all(axis=-1) & (shares.sum(axis=-1) > 0)
    if not sound.all():
        x[~sound] = 0.0
    t, height, n_modes, located, counted = _batch(x, shares, count_modes)
    for row in np.flatnonzero(sound & ~(located & counted)):
        share = shares if shares.ndim == 1 else shares[row]
        clusters = clusters_of(x[row, share > 0], share[share > 0])
        if not located[row]:
            t[row], height[row] = search(clusters)
        if count_modes:
            n_modes[row] = count_everywhere(clusters, height[row])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        location = centre + bandwidth * t
        density = height / (bandwidth * sqrt(2.0 * np.pi))
    for row in np.flatnonzero(~sound):
        location[row] = density[row] = n_modes[row] = np.nan
        if bandwidth[row] == 0:
            share = shares if shares.ndim == 1 else shares[row]
            location[row], density[row] = _heaviest(values[row], share), np.inf
    return location, density, n_modes


def _heaviest(values: Array, shares: Array) -> float:
    used = shares > 0
    if not used.any():
        return float("nan")
    distinct, index = np.unique(values[used], return_inverse=True)
    mass = np.bincount(index, weights=shares[used])
    return float(distinct[np.flatnonzero(mass >= (1.0 - TIE) * mass.max())[0]])


def _batch(
    x: Array, shares: Array, count_modes: bool
) -> tuple[Array, Array, Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Maximum, height and number of modes of every row; which first two, and last, are proven."""
    window = np.clip(x, -(_HALF + _NOTHING), _HALF + _NOTHING)
    # slots 0 and _POINTS + 1 take what lies outside
    position = np.clip((window + (_HALF + STEP)) * PER_UNIT, 0.0, _POINTS + 1.0)
    mass = binned(position, shares, _POINTS + 2)
    outside = np.maximum(mass[:, 0], mass[:, -1])
    smooth = smoothed(mass[:, 1:-1])
    t, series, proven = _climb(window, shares, smooth)
    height = series[0]

    kept = smooth >= (KEEP * height - CUT)[:, None]
    first = kept.argmax(axis=-1)
    last = _POINTS - 1 - kept[:, ::-1].argmax(axis=-1)
    proven &= last - first + 1 == np.count_nonzero(kept, axis=-1)
    proven &= _all_lower(series, t - ((first - 0.5) * STEP - _HALF), -1.0)
    proven &= _all_lower(series, (last + 0.5) * STEP - _HALF - t, 1.0)

    # beyond the window f is no more than what ends there and what lies outside
    inner = np.maximum(smooth[:, :_MARGIN].max(axis=-1), smooth[:, -_MARGIN:].max(axis=-1))
    most = 1.002 * inner + outside + CUT
    needed = np.full_like(t, KEEP)
    n_modes = np.full(len(t), np.nan)
    if count_modes:
        needed[:] = LESSER_MODE
        n_modes = count_maxima(smooth, LESSER_MODE * height)
    for row in np.flatnonzero(proven & (most >= needed * height)):
        most[row] = _highest_beyond(x[row], shares if shares.ndim == 1 else shares[row])
    return t, height, n_modes, proven & (most < KEEP * height), most < needed * height


def _climb(x: Array, shares: Array, smooth: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Maximum of f near that of the binned density, its series, and whether it was reached."""
    rows = np.arange(len(x))
    top = smooth.argmax(axis=-1)
    left, middle, right = (smooth[rows, np.clip(top + side, 0, _POINTS - 1)] for side in (-1, 0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = 0.5 * (left - right) / (left - 2.0 * middle + right)
        t = (top + np.clip(np.nan_to_num(vertex), -0.5, 0.5)) * STEP - _HALF
        _, slope, half_curve, third = taylor(x, shares, t, 3)
        # Newton's step, and with it the one that the third derivative improves (Halley)
        newton = -slope / (2.0 * half_curve)
        step = -slope / (2.0 * half_curve + 3.0 * third * newton)
    reached = (half_curve < 0) & (np.abs(newton) < 2 * STEP) & (np.abs(step) < 2 * STEP)
    t = t + np.where(reached, step, 0.0)
    series = taylor(x, shares, t, _ORDER)
    rest = _polynomial_maximum(series)
    reached &= np.abs(rest) < 0.02
    rest = np.where(reached, rest, 0.0)
    _shift(series, rest)
    return t + rest, series, reached


def _all_lower(series: Array, radius: Array, side: float) -> NDArray[np.bool_]:
    """Tell whether f(t + side s) < f(t) for all 0 < s <= radius, f'(t) being 0.

    (f(t + side s) - f(t))/s^2 = A_2 + side A_3 s + A_4 s^2 + .. is highest at s = radius once the
    terms that lower it are left out, A_2 apart.
    """
    bound = np.full_like(radius, _REMAINDER)
    for p in range(_ORDER, 2, -1):
        bound = bound * radius + np.maximum(side**p * series[p], 0.0)
    return np.asarray(series[2] + bound * radius < 0)


def _highest_beyond(x: Array, shares: Array) -> float:
    """Upper bound of f in the margin of the window and everywhere outside.

    By the weight in narrow blocks. Far values have slots of their own, which they share: that can
    only raise the bound.
    """
    block = np.floor(np.clip(x, -_FAR, _FAR) * PER_UNIT).astype(np.intp)
    far = np.abs(block) >= _SLOTS // 2
    near = np.bincount(block[~far] + _SLOTS // 2, weights=shares[~far], minlength=_SLOTS)
    bound = correlate1d(np.asarray(near, np.float64), _BLOCK_KERNEL, mode="constant")
    inside = _HALF * PER_UNIT - _MARGIN
    bound[_SLOTS // 2 - inside : _SLOTS // 2 + inside] = 0.0
    most = float(bound.max())
    if far.any():
        mass = np.bincount(block[far] & (_SLOTS - 1), weights=shares[far], minlength=_SLOTS)
        most += float(correlate1d(mass, _BLOCK_KERNEL, mode="wrap").max())
    return most + CUT


def _polynomial_maximum(series: Array) -> Array:
    """Newton's method for the maximum near 0; whether it got there is for the caller to judge."""
    s = np.zeros_like(series[0])
    for _ in range(3):
        slope, curve = np.zeros_like(s), np.zeros_like(s)
        for p in range(len(series) - 1, 0, -1):
            curve = curve * s + slope
            slope = slope * s + p * series[p]
        with np.errstate(divide="ignore", invalid="ignore"):
            s = np.clip(s - np.nan_to_num(slope / curve), -1.0, 1.0)
    return s


def _shift(series: Array, s: Array) -> None:
    """Move the centre of the polynomials by `s`, in place."""
    order = len(series) - 1
    for first in range(order):
        for p in range(order - 1, first - 1, -1):
            series[p] += s * series[p + 1]
