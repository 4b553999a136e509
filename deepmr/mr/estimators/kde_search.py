r"""Maxima of a weighted Gaussian kernel density: the parts that need no batch.

With bandwidth 1 and weights that add up to 1, f(t) = sum_j w_j K(x_j - t), K(u) = exp(-u^2/2).

The weights are shared linearly between the points of a grid of step d = 1/8 and convolved with K.
Since K'' >= -K, interpolation takes at most the share 1.0117 d^2/8 off f. At a maximum t* f' = 0
and f'' >= -f, so f(t) >= f(t*) cos(t - t*): the nearest point of the grid holds at least
cos(d/2) f(t*). Together: where the binned density is below .996 f(t0), for any t0, there is no
maximum that is as high as f(t0).

Around any point f is a Taylor series of Hermite polynomials,
f(t + s) = sum_p s^p/p! sum_j w_j He_p(x_j - t) K(x_j - t)
(Greengard and Strain, SIAM J Sci Stat Comput 1991;12:79), whose remainder Cramer's inequality
|He_p(u)| exp(-u^2/4) <= 1.0865 sqrt(p!) bounds: after 16 terms it is below 1e-16 within a quarter
of a bandwidth. So the roots of f' on a piece of half a bandwidth are those of a polynomial, and
`search` finds every maximum on the pieces that are left, however flat the top.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from scipy.ndimage import correlate1d

from deepmr.mr.estimator import Array

LESSER_MODE = 0.1
"""A local maximum counts as a mode from this share of the highest."""

TIE = 1e-12
"""Maxima that differ by less than this share are equally high: the smaller location is taken."""

PER_UNIT = 8
STEP = 1.0 / PER_UNIT
REACH = 6
_KERNEL = np.exp(-0.5 * (np.arange(-REACH * PER_UNIT, REACH * PER_UNIT + 1) * STEP) ** 2)
CUT = float(_KERNEL[0])
"""More than what the convolution leaves out beyond its reach, as a share of all weight."""

KEEP = 0.996
"""Where the binned density is below this share of f anywhere, there is no maximum."""

_NEAR = 10.0
"""Weight beyond this distance adds less than 2e-22 of all, n times less than 2e-22 of the top."""

_PIECE = 0.25
_PIECE_ORDER = 15
_GAP = 12.0
"""Between values this far apart there is no maximum, and none feels the other side."""


def _hermite_coefficients(order: int) -> Array:
    """Row p: coefficients of He_p(u)/p! in powers of u."""
    rows = np.zeros((order + 1, order + 1))
    rows[0, 0] = 1.0
    for p in range(order):
        rows[p + 1, 1:] = rows[p, :-1]
        if p > 0:
            rows[p + 1] -= p * rows[p - 1]
    return rows / np.array([[float(factorial(p))] for p in range(order + 1)])


_HERMITE = _hermite_coefficients(_PIECE_ORDER)


def smoothed(mass: Array) -> Array:
    """Convolve the weight on the points of a grid, shape (rows, points), with K."""
    return np.asarray(correlate1d(mass, _KERNEL, axis=-1, mode="constant"))


def binned(position: Array, shares: Array, points: int) -> Array:
    """Share the weight of every value linearly between the two points of a grid beside it.

    Parameters
    ----------
    position : ndarray, shape (rows, n)
        Place of each value on a grid of points 0, 1, .., `points` - 1.
    shares : ndarray, shape (rows, n) or (n,)
        Weights.

    Returns
    -------
    ndarray, shape (rows, points)
        Weight on each point.
    """
    rows = len(position)
    below = position.astype(np.int32)
    right = position - below
    right *= shares
    index = below.astype(np.intp)
    # one more slot per row: what is on the last point has a right neighbour, of weight 0
    index += (np.arange(rows) * (points + 1))[:, None]
    flat = index.ravel()
    length = rows * (points + 1)
    share = np.broadcast_to(shares, position.shape).ravel()
    all_left = np.bincount(flat, weights=share, minlength=length).reshape(rows, -1)
    moved = np.bincount(flat, weights=right.ravel(), minlength=length).reshape(rows, -1)
    mass = all_left - moved
    mass[:, 1:] += moved[:, :-1]
    return np.asarray(mass[:, :-1], np.float64)


def count_maxima(smooth: Array, floor: Array) -> Array:
    """Count the local maxima of each row that are at least as high as `floor`, shape (rows,).

    Two that the step of the grid does not part count once, and so does a plateau.
    """
    padded = np.pad(smooth, ((0, 0), (1, 1)))
    maximum = (smooth > padded[:, :-2]) & (smooth >= padded[:, 2:])
    return np.count_nonzero(maximum & (smooth >= floor[:, None]), axis=-1).astype(np.float64)


def taylor(x: Array, shares: Array, t: Array, order: int) -> Array:
    """Taylor coefficients of f at `t`, shape (order + 1, rows).

    Parameters
    ----------
    x : ndarray, shape (rows, n)
        Values in bandwidths, close enough to `t` for powers not to overflow.
    shares : ndarray, shape (rows, n) or (n,)
        Weights.
    t : ndarray, shape (rows,)
        Where.
    order : int
        At most 15.
    """
    u = x - t[:, None]
    e = u * u
    e *= -0.5
    np.exp(e, out=e)
    e *= shares
    moments = np.empty((order + 1, len(x)))
    moments[0] = e.sum(axis=-1)
    for p in range(1, order + 1):
        e *= u
        moments[p] = e.sum(axis=-1)
    return _combine(moments)


def _combine(moments: Array) -> Array:
    """Taylor coefficients from sums of w u^p K(u), term by term so that rows stay apart."""
    order = len(moments) - 1
    series = np.zeros_like(moments)
    for p in range(order + 1):
        for q in range(p % 2, p + 1, 2):
            series[p] += _HERMITE[p, q] * moments[q]
    return series


@dataclass(frozen=True, eq=False)
class Clusters:
    """Values of a row in ascending order, cut where `_GAP` parts them, the heaviest first."""

    x: Array
    shares: Array
    parts: list[slice]
    mass: list[float]
    singles: Array
    single_mass: Array


def clusters_of(x: Array, shares: Array) -> Clusters:
    """Sort and cut the values of a row.

    Parameters
    ----------
    x, shares : ndarray, shape (n,)
        Finite values in bandwidths and their weights, above 0 and adding up to 1.
    """
    order = np.argsort(x, kind="stable")
    x, shares = x[order], shares[order]
    starts = np.concatenate([[0], np.flatnonzero(np.diff(x) > _GAP) + 1])
    stops = np.append(starts[1:], len(x))
    mass = np.add.reduceat(shares, starts)
    single = x[stops - 1] == x[starts]
    wide = np.flatnonzero(~single)
    wide = wide[np.argsort(-mass[wide], kind="stable")]
    parts = [slice(starts[k], stops[k]) for k in wide]
    return Clusters(x, shares, parts, mass[wide].tolist(), x[starts[single]], mass[single])


def _grid(x: Array, shares: Array) -> tuple[float, Array]:
    """First point of the grid over sorted values, and the binned density on it."""
    origin = float(x[0]) - 1.0
    points = int((x[-1] - origin + 1.0) * PER_UNIT) + 2
    mass = binned(((x - origin) * PER_UNIT)[None], shares, points)
    return origin, smoothed(mass)[0]


def search(clusters: Clusters) -> tuple[float, float]:
    """Find the maximum of f of one row, wherever its values are.

    Returns
    -------
    location, height : float
        In bandwidths, and f there. The smallest location of several that are equally high.
    """
    x, shares = clusters.x, clusters.shares
    cumulated = np.concatenate([[0.0], np.cumsum(shares)])
    within = cumulated[np.searchsorted(x, x + 2.0, side="right")] - cumulated[:-1]
    # f is at least this in the middle of two bandwidths, and at the heaviest value
    best = max(float(within.max()) * np.exp(-0.5), float(shares.max())) * (1.0 - 1e-9)
    maxima = list(zip(clusters.singles.tolist(), clusters.single_mass.tolist(), strict=True))
    for part, mass in zip(clusters.parts, clusters.mass, strict=True):
        if mass * (1.0 + 1e-9) < best:
            break
        found = _maxima(x[part], shares[part], best)
        best = max([best, *(height * (1.0 - 1e-9) for _, height in found)])
        maxima += found
    top = max(height for _, height in maxima)
    return min((t, height) for t, height in maxima if height >= (1.0 - TIE) * top)


def count_everywhere(clusters: Clusters, top: float) -> int:
    """Count the maxima of the binned density of a row at least `LESSER_MODE` times `top`."""
    limit = np.array([LESSER_MODE * top])
    count = int(np.count_nonzero(clusters.single_mass >= limit))
    for part, mass in zip(clusters.parts, clusters.mass, strict=True):
        if mass < limit:
            break
        _, smooth = _grid(clusters.x[part], clusters.shares[part])
        count += int(count_maxima(smooth[None], limit)[0])
    return count


def _maxima(x: Array, shares: Array, best: float) -> list[tuple[float, float]]:
    """Maxima of f among sorted values that may be as high as `best`, with their heights."""
    origin, smooth = _grid(x, shares)
    best = max(best, float(_near(x, shares, origin + smooth.argmax() * STEP, 0)[0]))
    kept = np.flatnonzero(smooth >= KEEP * best - CUT)
    located: list[float] = []
    for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
        if len(run) == 0:
            continue
        low = origin + (run[0] - 0.5) * STEP
        length = len(run) * STEP
        pieces = int(np.ceil(length / (2.0 * _PIECE)))
        half = 0.5 * length / pieces
        for piece in range(pieces):
            located += _stationary(x, shares, low + (2 * piece + 1) * half, half)
    # f has a maximum, also where rounding hides the root of its derivative.
    return [_polish(x, shares, t) for t in located or [origin + smooth.argmax() * STEP]]


def _near(x: Array, shares: Array, t: float, order: int) -> Array:
    """Taylor coefficients at `t` from the sorted values that are not too far."""
    low, high = np.searchsorted(x, (t - _NEAR, t + _NEAR))
    return taylor(x[None, low:high], shares[low:high], np.array([t]), order)[:, 0]


def _stationary(x: Array, shares: Array, t: float, half: float) -> list[float]:
    """Where f' = 0 within `half` of `t`."""
    series = _near(x, shares, t, _PIECE_ORDER)
    powers = np.arange(1, _PIECE_ORDER + 1)
    derivative = series[1:] * powers * half ** (powers - 1)
    largest = np.abs(derivative).max()
    if not largest > 0:
        return [t]
    roots = np.roots(derivative[::-1] / largest)
    # Where k roots (nearly) coincide, rounding moves them into the plane by its k-th root: three do
    # on a top where two peaks just merge. A point too many is only one more whose height is taken.
    real = (np.abs(roots.imag) < 1e-4) & (np.abs(roots.real) <= 1.0 + 1e-4)
    return [t + half * float(z) for z in roots.real[real]]


def _polish(x: Array, shares: Array, t: float) -> tuple[float, float]:
    """Two Newton steps on f itself, taken only uphill; location and height."""
    height, slope, half_curve = (float(value) for value in _near(x, shares, t, 2))
    for _ in range(2):
        if not half_curve < 0:
            break
        moved = t - slope / (2.0 * half_curve)
        new, new_slope, new_half_curve = (float(value) for value in _near(x, shares, moved, 2))
        if not abs(moved - t) < STEP or abs(new_slope) > abs(slope):
            break
        t, height, slope, half_curve = moved, new, new_slope, new_half_curve
    return t, height
