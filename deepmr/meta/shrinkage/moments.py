"""What a mixture with known weights says of single sequences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepmr.meta.result import Array
from deepmr.meta.shrinkage.half_uniform import log_ratio, truncated_moments


def probabilities(weights: Array, grid: Array, b: Array, s: Array) -> Array:
    """Return the posterior probabilities of zero, positive and negative.

    Parameters
    ----------
    weights : ndarray, shape (1 + 2 m,)
        Of 0, of U(0, a_1) to U(0, a_m), of U(-a_1, 0) to U(-a_m, 0).
    grid : ndarray, shape (m,)
        Half-widths a.
    b, s : ndarray, shape (n,)
        Finite estimates and their standard errors above 0.

    Returns
    -------
    ndarray, shape (3, n)
    """
    used = np.flatnonzero(weights)
    return _parts(_joint(weights, grid, b, s, used), used, grid.size)


def moments(weights: Array, grid: Array, b: Array, s: Array) -> tuple[Array, ...]:
    """Return what `probabilities` does, and the posterior mean and standard deviation.

    Parameters
    ----------
    weights, grid, b, s : ndarray
        As for `probabilities`.

    Returns
    -------
    zero, positive, negative, mean, sd : ndarray, shape (n,)
    """
    used, m, z = np.flatnonzero(weights), grid.size, b / s
    joint = _joint(weights, grid, b, s, used)
    means, variances = np.zeros(joint.shape), np.zeros(joint.shape)
    for column, index in enumerate(used):
        if index:
            sign = 1.0 if index <= m else -1.0
            mean, variance = truncated_moments(sign * z, grid[(index - 1) % m] / s)
            means[:, column], variances[:, column] = sign * mean, variance
    mean = (joint * means).sum(axis=1)
    # Not E[theta^2] - mean^2, which cancels where the mean is many standard errors.
    variance = (joint * (variances + (means - mean[:, None]) ** 2)).sum(axis=1)
    return *_parts(joint, used, m), s * mean, s * np.sqrt(variance)


def mean_of_lower(values: Array) -> Array:
    """Return the mean of all values at most as large as each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    last = np.searchsorted(ordered, ordered, side="right") - 1
    means = np.cumsum(ordered) / np.arange(1, ordered.size + 1)
    out = np.empty(values.size)
    out[order] = means[last]
    return out


def _joint(weights: Array, grid: Array, b: Array, s: Array, used: NDArray[np.intp]) -> Array:
    """Posterior probabilities of the components that have weight, shape (n, used)."""
    z, m = b / s, grid.size
    log_joint = np.empty((z.size, used.size))
    for column, index in enumerate(used):
        side = z if index <= m else -z
        ratio = log_ratio(side, grid[(index - 1) % m] / s) if index else np.zeros(z.size)
        log_joint[:, column] = np.log(weights[index]) + ratio
    joint = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def _parts(joint: Array, used: NDArray[np.intp], m: int) -> Array:
    parts = (used == 0, (used > 0) & (used <= m), used > m)
    return np.stack([joint[:, part].sum(axis=1) for part in parts])
