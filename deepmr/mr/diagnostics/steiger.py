r"""Direction of an effect: the instruments should explain more of the exposure than the outcome.

Hemani, Tilling and Davey Smith (PLoS Genet 2017;13:e1007081). An instrument explains
r^2 = z^2/(z^2 + n - 2) of a trait, z = effect/SE in a sample of n; the r^2 of independent
instruments add up. Fisher-transformed correlations of two independent samples are compared by

    (atanh r_x - atanh r_y)/sqrt(1/(n_x - 3) + 1/(n_y - 3)).

Measurement error lowers a correlation to its product with the reliability's root; with a the
larger and b the smaller observed correlation, the volume between the surfaces b/rho_b and
a/rho_a over all rho_a in [a, 1], rho_b in [b, 1] has the parts

    v0 = -2b + 2ab - b log a - ab log a    (the direction would be wrong),
    v1 = |v - v0|,  v = a log a - b log b + ab (log b - log a)    (right),

and v1/v0 says how much room there is for the direction to be right.

Effects found in silico have no sample size: r^2 is not defined. `direction_share` compares z^2,
the same comparison in the limit of small r^2 and equal samples. It tells whether the network's
outputs are equally sure of both effects rather than anything about variance, so read it as a
warning at a share below one half, not as a test.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.mr.estimator import Array, Group, two_sided_p


class Steiger(NamedTuple):
    """Direction of a whole set of instruments; every array is (sequences,).

    Attributes
    ----------
    r2_x, r2_y : ndarray
        Variance explained in exposure and outcome.
    forward : ndarray of bool
        More is explained in the exposure.
    p_value : ndarray
        Two-sided, that both are equal.
    vz, vz0, vz1, sensitivity_ratio : ndarray
        Volumes over the reliabilities (see the module), ratio of right to wrong.
    """

    r2_x: Array
    r2_y: Array
    forward: NDArray[np.bool_]
    p_value: Array
    vz: Array
    vz0: Array
    vz1: Array
    sensitivity_ratio: Array


class SteigerFilter(NamedTuple):
    """Direction of each instrument: `forward` and its `p_value`, (sequences, instruments)."""

    forward: NDArray[np.bool_]
    p_value: Array


class DirectionShare(NamedTuple):
    """Direction without sample sizes; both arrays are (sequences,).

    Attributes
    ----------
    share : ndarray
        Share of instruments with a larger abs(z) on the exposure than on the outcome.
    ratio : ndarray
        Sum of z^2 on the exposure divided by that on the outcome.
    """

    share: Array
    ratio: Array


def steiger(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    n_x: ArrayLike,
    n_y: ArrayLike,
) -> Steiger:
    """Steiger's test of direction, all instruments of a sequence together.

    Parameters
    ----------
    bx, se_x, by, se_y : array_like, shape (n,) or (sequences, n)
        Effects of independent instruments and their standard errors.
    n_x, n_y : array_like, broadcast to bx
        Sample sizes behind them; where they vary the test uses their mean.

    Returns
    -------
    Steiger
        NaN, and `forward` false, where an input is missing, a sum of r^2 reaches 1, or a sample
        is not larger than 3.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    arrays = _arrays(bx, se_x, by, se_y, n_x, n_y)
    r2_x = _explained(arrays[0], arrays[1], arrays[4]).sum(axis=-1)
    r2_y = _explained(arrays[2], arrays[3], arrays[5]).sum(axis=-1)
    p_value = _equal_correlations(r2_x, r2_y, arrays[4].mean(axis=-1), arrays[5].mean(axis=-1))
    r_x, r_y = np.sqrt(r2_x), np.sqrt(r2_y)
    a, b = np.maximum(r_x, r_y), np.minimum(r_x, r_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_a, log_b = np.log(a), np.log(b)
        v = a * log_a - b * log_b + a * b * (log_b - log_a)
        v0 = -2.0 * b + 2.0 * a * b - b * log_a - a * b * log_a
        v1 = np.abs(v - v0)
        ratio = v1 / v0
    lost = np.isnan(p_value)
    v, v0, v1, ratio = (np.where(lost, np.nan, value) for value in (v, v0, v1, ratio))
    return Steiger(r2_x, r2_y, ~lost & (r2_x > r2_y), p_value, v, v0, v1, ratio)


def steiger_filter(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    n_x: ArrayLike,
    n_y: ArrayLike,
) -> SteigerFilter:
    """Steiger's test for every instrument on its own; parameters as `steiger`.

    Returns
    -------
    SteigerFilter
        Arrays (sequences, n); NaN, and `forward` false, where an input is missing.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    arrays = _arrays(bx, se_x, by, se_y, n_x, n_y)
    r2_x = _explained(arrays[0], arrays[1], arrays[4])
    r2_y = _explained(arrays[2], arrays[3], arrays[5])
    p_value = _equal_correlations(r2_x, r2_y, arrays[4], arrays[5])
    return SteigerFilter(~np.isnan(p_value) & (r2_x > r2_y), p_value)


def direction_share(group: Group) -> DirectionShare:
    """Compare abs(z) on exposure and outcome, for effects without a sample size.

    A share far below one half, or a ratio below 1, warns that the outcome is the better known
    side: then look at the reverse direction too.
    """
    z_x, z_y = group.bx / group.se_x, group.by / group.se_y
    share = (np.abs(z_x) > np.abs(z_y)).sum(axis=-1) / z_x.shape[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (z_x * z_x).sum(axis=-1) / (z_y * z_y).sum(axis=-1)
    return DirectionShare(share, ratio)


def _arrays(*values: ArrayLike) -> list[Array]:
    first = np.atleast_2d(np.asarray(values[0], dtype=np.float64))
    names = ("bx", "se_x", "by", "se_y", "n_x", "n_y")
    arrays = []
    for name, value in zip(names, values, strict=True):
        array = np.asarray(value, dtype=np.float64)
        try:
            arrays.append(np.ascontiguousarray(np.broadcast_to(array, first.shape)))
        except ValueError:
            raise ValueError(
                f"{name} must have the shape of bx, {first.shape}; found {array.shape}"
            ) from None
    return arrays


def _explained(effect: Array, se: Array, n: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        z2 = np.where(se > 0, (effect / se) ** 2, np.nan)
        return np.where(n > 2, z2 / (z2 + n - 2.0), np.nan)


def _equal_correlations(r2_x: Array, r2_y: Array, n_x: Array, n_y: Array) -> Array:
    known = (r2_x < 1.0) & (r2_y < 1.0) & (n_x > 3) & (n_y > 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.arctanh(np.sqrt(r2_x)) - np.arctanh(np.sqrt(r2_y))
        z = distance / np.sqrt(1.0 / (n_x - 3.0) + 1.0 / (n_y - 3.0))
    return np.where(known, two_sided_p(z), np.nan)
