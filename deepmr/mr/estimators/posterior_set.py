"""What a density on a grid says: its highest-density set, quantiles, modes, and p-values.

The density is linear between nodes and 0 outside. The highest-posterior-density (HPD) set of
probability 1 - a is {density > c} with mass 1 - a (Hyndman, Am Stat 1996;50:120); it may be
several intervals. The p-value of a value is the mass where the density is not above its own, so
that the value lies in the 95 % HPD set if and only if p >= .05.

A *mode* counts if the density falls to half of it or less before a higher place is reached, and
if the part of the distribution between its valleys holds at least 1 % of the mass.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array

PROMINENCE = 2.0
LEAST_MODE_MASS = 0.01
_TEMPER = 1.0 / 3.0
_BISECTIONS = 80


def node_weights(grid: Array) -> Array:
    """Weights of the trapezoid rule, shape (..., nodes)."""
    step = np.diff(grid, axis=-1)
    weights = np.zeros_like(grid)
    weights[..., :-1] += 0.5 * step
    weights[..., 1:] += 0.5 * step
    return weights


def cell_masses(grid: Array, density: Array) -> Array:
    """Mass between neighbouring nodes, shape (..., nodes - 1)."""
    return np.asarray(0.5 * np.diff(grid, axis=-1) * (density[..., 1:] + density[..., :-1]))


def normalised(grid: Array, log_density: Array) -> Array:
    """Density that integrates to 1, of a log density known up to a constant."""
    density = np.exp(log_density - log_density.max(axis=-1, keepdims=True))
    return np.asarray(density / cell_masses(grid, density).sum(axis=-1, keepdims=True))


def quantiles(grid: Array, density: Array, probabilities: Array) -> Array:
    """Quantiles of the piecewise linear density, shape (probabilities,)."""
    mass = cell_masses(grid, density)
    cumulated = np.concatenate([[0.0], np.cumsum(mass)])
    wanted = np.asarray(probabilities) * cumulated[-1]
    cell = np.clip(np.searchsorted(cumulated, wanted, side="right") - 1, 0, mass.size - 1)
    step = grid[cell + 1] - grid[cell]
    left, right = density[cell], density[cell + 1]
    # left t + (right - left) t^2/2 = rest, solved in the form that does not cancel.
    rest = np.maximum(wanted - cumulated[cell], 0.0) / step
    root = np.sqrt(np.maximum(left * left + 2.0 * (right - left) * rest, 0.0))
    below = left + root
    share = np.divide(2.0 * rest, below, out=np.zeros_like(rest), where=below > 0)
    return np.asarray(grid[cell] + step * np.clip(share, 0.0, 1.0))


def spread_nodes(grid: Array, log_density: Array, count: int) -> Array:
    """Place nodes where the mass is: quantiles of the density's third root.

    The root makes a normal density 1.7 times as wide, so that nodes reach 4.7 SD, and gives a
    mode of lower density its share.

    Parameters
    ----------
    grid, log_density : ndarray, shape (nodes,)
        A first, coarser evaluation.
    count : int
        Number of new nodes.

    Returns
    -------
    ndarray, shape (count,)
        Increasing, within the range of `grid`.
    """
    root = np.exp(_TEMPER * (log_density - log_density.max())) + 1e-13
    return quantiles(grid, root, (np.arange(count) + 0.5) / count)


def highest_mode(grid: Array, log_density: Array) -> Array:
    """Place of the highest density, by a parabola through the log density at three nodes.

    Parameters
    ----------
    grid, log_density : ndarray, shape (..., nodes)

    Returns
    -------
    ndarray, shape (...)
    """
    top = np.argmax(log_density, axis=-1)
    middle = np.clip(top, 1, grid.shape[-1] - 2)

    def at(values: Array, offset: int) -> Array:
        return np.take_along_axis(values, (middle + offset)[..., None], axis=-1)[..., 0]

    a, b, c = (at(grid, offset) for offset in (-1, 0, 1))
    left = (at(log_density, 0) - at(log_density, -1)) / (b - a)
    right = (at(log_density, 1) - at(log_density, 0)) / (c - b)
    curvature = (right - left) / (c - a)
    usable = (curvature < 0) & (top == middle)
    vertex = 0.5 * (a + b) - left / np.where(usable, 2.0 * curvature, 1.0)
    node = np.take_along_axis(grid, top[..., None], axis=-1)[..., 0]
    return np.where(usable, np.clip(vertex, a, c), node)


def mass_not_above(grid: Array, density: Array, level: float) -> float:
    """Mass of the places whose density is at most `level`: 1 minus that of {density > level}."""
    step = np.diff(grid)
    low = np.minimum(density[:-1], density[1:])
    high = np.maximum(density[:-1], density[1:])
    part = np.divide(level - low, high - low, out=np.ones_like(low), where=high > low)
    part = np.where(level >= high, 1.0, np.clip(part, 0.0, 1.0))
    part = np.where(level < low, 0.0, part)
    below = step * part * 0.5 * (low + np.minimum(level, high))
    whole = step * 0.5 * (low + high)
    return float(np.where(level >= high, whole, below).sum() / whole.sum())


def hpd_set(grid: Array, density: Array, probability: float = 0.95) -> Array:
    """Highest-density set as intervals, shape (m, 2), in increasing order."""
    low, high = 0.0, float(density.max())
    for _ in range(_BISECTIONS):
        level = 0.5 * (low + high)
        if mass_not_above(grid, density, level) <= 1.0 - probability:
            low = level
        else:
            high = level
    above = density > low
    intervals = []
    start = None
    for i, inside in enumerate(above):
        if inside and start is None:
            start = grid[0] if i == 0 else _crossing(grid, density, i - 1, low)
        if not inside and start is not None:
            intervals.append((start, _crossing(grid, density, i - 1, low)))
            start = None
    if start is not None:
        intervals.append((start, grid[-1]))
    return np.array(intervals)


def _crossing(grid: Array, density: Array, cell: int, level: float) -> float:
    """Where the density crosses a level between two nodes on different sides of it."""
    share = (level - density[cell]) / (density[cell + 1] - density[cell])
    return float(grid[cell] + share * (grid[cell + 1] - grid[cell]))


def count_modes(grid: Array, density: Array) -> int:
    """Count the modes by the rule of this module; at least 1."""
    valley_bound = np.concatenate([[-np.inf], density, [-np.inf]])
    rising = valley_bound[1:-1] > valley_bound[:-2]
    falling = valley_bound[1:-1] >= valley_bound[2:]
    peaks: list[int] = np.flatnonzero(rising & falling).tolist()
    while len(peaks) > 1:
        ratios = [
            min(density[a], density[b]) / max(float(density[a:b].min()), 1e-300)
            for a, b in pairwise(peaks)
        ]
        flattest = int(np.argmin(ratios))
        if ratios[flattest] >= PROMINENCE:
            break
        pair = peaks[flattest], peaks[flattest + 1]
        peaks.remove(pair[0] if density[pair[0]] < density[pair[1]] else pair[1])
    valleys = [a + int(np.argmin(density[a:b])) for a, b in pairwise(peaks)]
    mass = cell_masses(grid, density)
    parts = np.add.reduceat(mass, np.array([0, *valleys])) / mass.sum()
    return max(1, int((parts >= LEAST_MODE_MASS).sum()))


def thinned(nodes: int, step: int) -> NDArray[np.intp]:
    """Every `step`-th index of a grid, with the last one."""
    return np.unique(np.append(np.arange(0, nodes, step), nodes - 1))


def distance_between(grid: Array, density: Array, nodes: NDArray[np.intp], other: Array) -> float:
    """Largest difference of two distribution functions at the nodes that they share.

    Parameters
    ----------
    grid, density : ndarray, shape (m,)
        The finer one.
    nodes : ndarray of int
        Indices into `grid`; the other density stands there.
    other : ndarray, shape (len(nodes),)
        Normalised on its own nodes.
    """
    fine = np.concatenate([[0.0], np.cumsum(cell_masses(grid, density))])[nodes]
    coarse = np.concatenate([[0.0], np.cumsum(cell_masses(grid[nodes], other))])
    return float(np.abs(fine - coarse).max())
