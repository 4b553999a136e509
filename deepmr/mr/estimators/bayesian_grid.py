r"""Likelihood of valid and invalid instruments on a grid of nuisance values.

The model of `deepmr.mr.estimators.bayesian_mode`, for one sequence or for its draws. An instrument
j is valid with probability 1 - pi, independently, so the indicators are summed analytically:

    p(y | x, theta, phi, cell) = prod_j [ (1 - pi) N_valid(y_j; theta, phi) + pi N_slab(y_j; phi) ].

* Valid: x_j = gamma_j + error of SD phi sx_j, y_j = theta gamma_j + error of SD phi sy_j, the
  errors correlated by rho_j. With kappa_j = rho_j sy_j/sx_j, E_j and V_j the mean and variance of
  gamma_j given x_j (`deepmr.mr.estimators.effect_prior`), y_j given x_j is
  N(kappa_j x_j + (theta - kappa_j) E_j, phi^2 sy_j^2 (1 - rho_j^2) + (theta - kappa_j)^2 V_j):
  exact for normal gamma_j, where E_j = lambda_j x_j and V_j = lambda_j phi^2 sx_j^2 with
  lambda_j = psi^2/(psi^2 + phi^2 sx_j^2); else its mean and variance are.
* Invalid: a slab without theta, on the scale of ratios N(m x_j, phi^2 sy_j^2 + omega^2 x_j^2) or
  of outcomes N(mu, phi^2 sy_j^2 + tau^2). omega and tau are at least 2 typical standard errors:
  only the valid group may be homogeneous.

A *cell* is a slab (m, omega or mu, tau) with a value of pi: 4 nodes of omega and of tau, each
with 3-21 nodes of m or mu, and 8 of pi; some 50 slabs.

Products over instruments would cost one addition and one multiplication per instrument, cell and
node of theta. Four instruments at a time are instead expanded into 16 subset products, which a
matrix product sums: every term is positive, so nothing cancels. Logarithms are taken once, at the
end; the binary exponents are moved into a separate sum in time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.effect_prior import EffectPrior, shrinkage
from deepmr.mr.quantiles import weighted_quantiles

PI_NODES = 8
LARGEST_MEAN = 2.0
MEAN_NODES = 21
MEAN_STEP = 0.75
MARGIN = 1.5
SCALE_NODES = 4
LARGEST_SCALE = 2.0

_FLOOR = 1e-17
_TOGETHER = 4
_SUBSETS = 2**_TOGETHER
_BLOCKS_TOGETHER = 4
_BLOCK_ELEMENTS = 16_384
_LOG_2PI = float(np.log(2.0 * np.pi))


@dataclass(frozen=True, eq=False)
class Instruments:
    """Oriented and scaled effects, shape (..., instruments); leading axes are draws.

    The exposure effects are divided by their root mean square and the outcome effects by theirs,
    so that theta, m, omega, mu and tau are of the order 1.
    """

    x: Array
    se_x: Array
    y: Array
    se_y: Array
    rho: Array
    prior: EffectPrior


@dataclass(frozen=True, eq=False)
class Slabs:
    """Distributions of an invalid instrument: N(ratio x + outcome, ratio_var x^2 + outcome_var)."""

    ratio_mean: Array
    ratio_variance: Array
    outcome_mean: Array
    outcome_variance: Array
    log_weight: Array

    def subset(self, chosen: NDArray[np.intp]) -> Slabs:
        """Return some of the slabs."""
        return Slabs(
            self.ratio_mean[chosen],
            self.ratio_variance[chosen],
            self.outcome_mean[chosen],
            self.outcome_variance[chosen],
            self.log_weight[chosen],
        )


@dataclass(frozen=True, eq=False)
class Cells:
    """Pairs of a slab and a node of pi, shape (cells,)."""

    slab: NDArray[np.intp]
    pi: Array
    log_weight: Array

    def subset(self, chosen: NDArray[np.intp]) -> Cells:
        """Return some of the cells."""
        return Cells(self.slab[chosen], self.pi[chosen], self.log_weight[chosen])


def information(instruments: Instruments) -> Array:
    """Information of a valid instrument on theta by its mean: E[gamma|x]^2/(sy^2 (1 - rho^2)).

    It depends on x and the standard errors alone, on which the likelihood conditions, so that a
    choice of instruments by it is ignorable.
    """
    mean, _, _ = shrinkage(instruments.prior, instruments.x, instruments.se_x)
    variance = instruments.se_y**2 * (1.0 - instruments.rho**2)
    return np.asarray(mean * mean / variance)


def make_slabs(instruments: Instruments) -> Slabs:
    """Grid of slabs for instruments of shape (instruments,).

    SDs are logarithmic from 2 typical standard errors up; a typical one is the median over
    instruments weighted by information. Means are uniform on +-2 beforehand; nodes stand where
    the data are, .75 SD apart (at most 21 of them), for a coarser grid would favour the group
    that happens to lie on a node.
    """
    x, y = instruments.x, instruments.y
    _, variance = valid_moments(instruments, np.array([-1.0, 1.0]), 1.0)
    error = np.sqrt(0.5 * (variance[:, 0] + variance[:, 1]))
    weights = information(instruments)
    if not weights.sum() > 0:
        weights = np.ones_like(x)
    some = x != 0
    ratio_mean, ratio_sd, ratio_weight = _normal_nodes(
        y[some] / x[some], error[some] / x[some], weights[some]
    )
    outcome_mean, outcome_sd, outcome_weight = _normal_nodes(y, error, weights)
    none, no_outcome = np.zeros_like(ratio_mean), np.zeros_like(outcome_mean)
    return Slabs(
        np.concatenate([ratio_mean, no_outcome]),
        np.concatenate([ratio_sd**2, no_outcome]),
        np.concatenate([none, outcome_mean]),
        np.concatenate([none, outcome_sd**2]),
        np.log(0.5 * np.concatenate([ratio_weight, outcome_weight])),
    )


def _normal_nodes(values: Array, errors: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Nodes of mean and SD of a slab for values with standard errors, and their prior weights."""
    typical = float(weighted_quantiles(np.abs(errors), weights, np.array([0.5]))[0])
    # An SD of 1e8 is that of an instrument which says nothing.
    least = float(np.clip(2.0 * typical, 1e-12, 1e8))
    sds = np.geomspace(least, max(LARGEST_SCALE, 4.0 * least), SCALE_NODES)
    low, high = weighted_quantiles(values, weights, np.array([0.025, 0.975])).tolist()
    means, weight = [], []
    for sd in sds.tolist():
        start = float(np.clip(low - MARGIN * sd, -LARGEST_MEAN, 0.9 * LARGEST_MEAN))
        stop = float(np.clip(high + MARGIN * sd, start + 0.1 * LARGEST_MEAN, LARGEST_MEAN))
        count = int(np.clip(np.ceil((stop - start) / (MEAN_STEP * sd)), 2, MEAN_NODES - 1)) + 1
        step = (stop - start) / count
        means.append(start + step * (np.arange(count) + 0.5))
        weight.append(np.full(count, step / (2.0 * LARGEST_MEAN * SCALE_NODES)))
    counts = [part.size for part in means]
    return np.concatenate(means), np.repeat(sds, counts), np.concatenate(weight)


def make_cells(slabs: Slabs) -> Cells:
    """Every slab with every node of pi, which is uniform on (0, 1) beforehand."""
    nodes, weights = np.polynomial.legendre.leggauss(PI_NODES)
    n_slabs = slabs.log_weight.size
    return Cells(
        np.repeat(np.arange(n_slabs), PI_NODES),
        np.tile(0.5 * (1.0 + nodes), n_slabs),
        np.repeat(slabs.log_weight, PI_NODES) + np.tile(np.log(0.5 * weights), n_slabs),
    )


def valid_moments(instruments: Instruments, theta: Array, phi: float) -> tuple[Array, Array]:
    """Mean and variance of a valid y given x.

    Parameters
    ----------
    instruments : Instruments
        Arrays of shape (..., instruments).
    theta : ndarray, shape (..., nodes)
        Causal effects; leading axes as the instruments' or none.
    phi : float
        Factor of the standard errors.

    Returns
    -------
    mean, variance : ndarray, shape (..., instruments, nodes)
    """
    error_x = phi * instruments.se_x
    error_y = phi * instruments.se_y
    rho = instruments.rho
    # In terms of rho rather than kappa, which overflows where se_x is tiny.
    true_x, pull, share = shrinkage(instruments.prior, instruments.x, error_x)
    theta = theta[..., None, :]
    mean = true_x[..., None] * theta
    mean += (rho * error_x * error_y * pull)[..., None]
    root = np.sqrt(share)
    variance = (root * error_x)[..., None] * theta
    variance -= (root * rho * error_y)[..., None]
    variance *= variance
    variance += (error_y * error_y * (1.0 - rho * rho))[..., None]
    return mean, variance


def valid_log_density(instruments: Instruments, theta: Array, phi: float) -> Array:
    """Log density of every y if valid, shape (..., instruments, nodes of theta)."""
    mean, variance = valid_moments(instruments, theta, phi)
    return _normal_log_density(instruments.y[..., None] - mean, variance)


def slab_log_density(instruments: Instruments, slabs: Slabs, phi: float) -> Array:
    """Log density of every y if invalid, shape (..., instruments, slabs)."""
    x = instruments.x[..., None]
    residual = instruments.y[..., None] - slabs.ratio_mean * x - slabs.outcome_mean
    variance = (
        (phi * instruments.se_y[..., None]) ** 2
        + slabs.ratio_variance * (x * x)
        + slabs.outcome_variance
    )
    return _normal_log_density(residual, variance)


def _normal_log_density(residual: Array, variance: Array) -> Array:
    """Log density of N(0, variance); overwrites both arrays."""
    residual *= residual
    residual /= variance
    residual += np.log(variance, out=variance)
    residual += _LOG_2PI
    residual *= -0.5
    return residual


def scaled_densities(
    instruments: Instruments, slabs: Slabs, theta: Array, phi: float
) -> tuple[Array, Array, Array]:
    """Densities of an instrument relative to its highest one here.

    Returns
    -------
    valid : ndarray, shape (..., instruments, nodes)
    slab : ndarray, shape (..., instruments, slabs)
        At least 1e-17, so that a product of 16 terms stays within a double's range; an
        instrument so far from a slab costs a cell 39 nats, not more.
    log_scale : ndarray, shape (..., instruments, 1)
        Log of the highest.
    """
    valid = valid_log_density(instruments, theta, phi)
    slab = slab_log_density(instruments, slabs, phi)
    scale = np.maximum(valid.max(axis=-1), slab.max(axis=-1))[..., None]
    valid -= scale
    slab -= scale
    return np.exp(valid, out=valid), np.maximum(np.exp(slab, out=slab), _FLOOR), scale


def log_likelihood(
    instruments: Instruments, slabs: Slabs, cells: Cells, theta: Array, phi: float
) -> Array:
    """Log likelihood of cells and nodes of theta.

    Parameters
    ----------
    instruments : Instruments
        Arrays of shape (..., instruments).
    slabs, cells : Slabs, Cells
        The cells to evaluate.
    theta : ndarray, shape (..., nodes)
        Causal effects in scaled units.
    phi : float
        Factor of the standard errors.

    Returns
    -------
    ndarray, shape (..., cells, nodes)
    """
    used, slab_of_cell = np.unique(cells.slab, return_inverse=True)
    valid, slab, scale = scaled_densities(instruments, slabs.subset(used), theta, phi)
    n, nodes = valid.shape[-2:]
    blocks = _BLOCKS_TOGETHER * -(-n // (_BLOCKS_TOGETHER * _TOGETHER))
    rows = _subset_products(valid, blocks, 1.0, selected_last=False)
    columns = _subset_products(slab, blocks, 0.0, selected_last=True)
    members = np.array([bin(subset).count("1") for subset in range(_SUBSETS)])
    powers = (cells.pi / (1.0 - cells.pi)) ** members[:, None]
    total = np.empty((*valid.shape[:-2], cells.pi.size, nodes))
    at_once = max(1, _BLOCK_ELEMENTS // nodes)
    for start in range(0, cells.pi.size, at_once):
        part = slice(start, start + at_once)
        total[..., part, :] = _log_products(rows, columns, slab_of_cell[part], powers[:, part])
    total += (n * np.log1p(-cells.pi))[:, None]
    total += scale.sum(axis=-2)[..., None]
    return total


def _log_products(rows: Array, columns: Array, slab: NDArray[np.intp], powers: Array) -> Array:
    """Log of the product over blocks of the sums over subsets.

    Parameters
    ----------
    rows : ndarray, shape (..., blocks, 16, nodes)
        Products of valid densities.
    columns : ndarray, shape (..., blocks, 16, slabs)
        Products of slab densities of the complement.
    slab : ndarray of int, shape (cells,)
        Slab of each cell.
    powers : ndarray, shape (16, cells)
        Odds of invalidity, as often as the complement has members.

    Returns
    -------
    ndarray, shape (..., cells, nodes)
    """
    *leading, blocks, _, nodes = rows.shape
    product = np.ones((*leading, slab.size, nodes))
    exponent = np.zeros(product.shape, np.int64)
    for start in range(0, blocks, _BLOCKS_TOGETHER):
        part = slice(start, start + _BLOCKS_TOGETHER)
        column = np.take(columns[..., part, :, :], slab, axis=-1)
        column *= powers
        sums = np.matmul(np.swapaxes(column, -1, -2), rows[..., part, :, :])
        for block in range(_BLOCKS_TOGETHER):
            product *= sums[..., block, :, :]
        _move_exponent(product, exponent)
    total = np.log(product, out=product)
    total += exponent * float(np.log(2.0))
    return total


def _subset_products(factors: Array, blocks: int, absent: float, selected_last: bool) -> Array:
    """Products of every subset of four instruments (or of its complement).

    Parameters
    ----------
    factors : ndarray, shape (..., instruments, m)
        Padded with `absent` to a multiple of four.
    selected_last : bool
        Whether a set bit of the subset's number takes the factor; else a missing bit does.

    Returns
    -------
    ndarray, shape (..., blocks, 16, m)
    """
    *leading, n, m = factors.shape
    padded = np.full((*leading, blocks * _TOGETHER, m), absent)
    padded[..., :n, :] = factors
    padded = padded.reshape(*leading, blocks, _TOGETHER, m)
    products = np.empty((*leading, blocks, _SUBSETS, m))
    products[..., :1, :] = 1.0
    for member in range(_TOGETHER):
        size = 2**member
        factor = padded[..., member : member + 1, :]
        known, new = products[..., :size, :], products[..., size : 2 * size, :]
        if selected_last:
            np.multiply(known, factor, out=new)
        else:
            new[...] = known
            known *= factor
    return products


def _move_exponent(product: Array, exponent: NDArray[np.int64]) -> None:
    """Bring positive normal numbers into [1, 2) in place and add their binary exponents."""
    bits = product.view(np.int64)
    exponent += bits >> 52
    exponent -= 1023
    bits &= 0x000FFFFFFFFFFFFF
    bits |= 0x3FF0000000000000
