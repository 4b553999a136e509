"""Posterior of the causal effect of one sequence: scaling, summaries, validity of instruments.

`deepmr.mr.estimators.bayesian_passes` explores the grid in scaled units; here the effects are
oriented and scaled, and what it finds is put into the units of the effects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.bayesian_grid import (
    Cells,
    Instruments,
    information,
    slab_log_density,
    valid_log_density,
    valid_moments,
)
from deepmr.mr.estimators.bayesian_passes import Explored, evaluate, explore
from deepmr.mr.estimators.effect_prior import fit_effect_prior
from deepmr.mr.estimators.posterior_set import (
    count_modes,
    highest_mode,
    hpd_set,
    mass_not_above,
    node_weights,
    normalised,
    quantiles,
    thinned,
)

MINIMUM = 3
SMALLEST_ERROR, LARGEST_ERROR = 1e-8, 1e8
LEADING_CELLS = 16

_VALIDITY_NODES = 40
_CELL_COVER = 0.999


@dataclass(frozen=True, eq=False)
class Posterior:
    """Posterior of the causal effect of one sequence.

    Attributes
    ----------
    grid, density : ndarray, shape (nodes,)
        Uneven nodes of theta (outcome per exposure) and the normalised density.
    mode, median, mean, sd : float
        Of that density.
    hpd_set : ndarray, shape (m, 2)
        The 95 % highest-density set.
    ci_low, ci_high : float
        Equal-tailed 95 % interval.
    p_value : float
        Mass where the density is not above that at 0.
    p_valid : ndarray, shape (instruments,)
        Probability that an instrument is valid.
    expected_pi : float
        Posterior mean of the share of invalid instruments.
    phi : float
        Factor of the standard errors, exp of the posterior mean of its logarithm.
    n_modes : int
        Modes by the rule of `deepmr.mr.estimators.posterior_set`.
    se_model : float
        Standard error that the errors of the valid instruments alone would give.
    grid_error : float
        Estimated error of the distribution function from the grid; see `Explored`.
    converged : bool
        Whether it is within the tolerance.
    """

    grid: Array
    density: Array
    mode: float
    median: float
    mean: float
    sd: float
    hpd_set: Array
    ci_low: float
    ci_high: float
    p_value: float
    p_valid: Array
    expected_pi: float
    phi: float
    n_modes: int
    se_model: float
    grid_error: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Scaled:
    """Oriented and scaled effects of one sequence, and which of them carry the likelihood."""

    everything: Instruments
    kept: NDArray[np.intp]
    sign: Array
    size_x: float
    size_y: float

    @property
    def instruments(self) -> Instruments:
        """The instruments in the likelihood."""
        e, i = self.everything, self.kept
        return Instruments(e.x[i], e.se_x[i], e.y[i], e.se_y[i], e.rho[i], e.prior)

    def draws(self, x: Array, y: Array) -> Instruments:
        """Return draws (draws, instruments) in the orientation and scale of the mean effects."""
        mean, i = self.instruments, self.kept
        return Instruments(
            (self.sign * x)[:, i] / self.size_x,
            mean.se_x,
            (self.sign * y)[:, i] / self.size_y,
            mean.se_y,
            mean.rho,
            mean.prior,
        )


def bayesian_mode_posterior(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    rho_xy: ArrayLike | None = None,
    *,
    scale_errors: bool = True,
    instruments: int = 300,
) -> Posterior:
    """Posterior of the causal effect of one sequence.

    Parameters
    ----------
    bx, se_x, by, se_y : array_like, shape (n,)
        Effects on exposure and outcome with their standard errors; n >= 3.
    rho_xy : array_like, shape (n,), optional
        Correlation of the two errors of an instrument; 0 when left out.
    scale_errors : bool
        Learn a common factor phi of the standard errors; else it is 1.
    instruments : int
        Where there are more, the likelihood takes this many, those with the largest expected
        information on theta. The choice looks at x alone, on which the likelihood conditions.
        The others are judged afterwards, at the posterior mode, so that `p_valid` is complete.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        If there are fewer than 3 instruments, shapes differ, a value is not finite, an SE is not
        positive, or all exposure effects are 0.
    """
    x, sx, y, sy = (np.asarray(values, np.float64) for values in (bx, se_x, by, se_y))
    rho = np.zeros_like(x) if rho_xy is None else np.asarray(rho_xy, np.float64)
    if x.ndim != 1 or any(values.shape != x.shape for values in (sx, y, sy, rho)):
        raise ValueError("effects, standard errors and rho_xy must be vectors of one length")
    fault = fault_of(x, sx, y, sy, rho)
    if fault is not None:
        raise ValueError(f"no posterior: {fault.replace('_', ' ')}")
    return posterior_of(scale(x, sx, y, sy, rho, (x, y), instruments), scale_errors)[0]


def fault_of(bx: Array, se_x: Array, by: Array, se_y: Array, rho: Array) -> str | None:
    """Return why a sequence has no posterior, in snake case, or None."""
    if bx.size < MINIMUM:
        return "too_few_instruments"
    if not all(np.isfinite(values).all() for values in (bx, se_x, by, se_y, rho)):
        return "not_finite"
    if not (se_x.min() > 0 and se_y.min() > 0):
        return "standard_error_not_positive"
    if not np.abs(bx).max() > 0:
        return "no_exposure_effect"
    with np.errstate(over="ignore", under="ignore"):
        size = (np.abs(by).max() or se_y.max()) / np.abs(bx).max()
    if not 1e-150 < size < 1e150:
        return "ratio_out_of_range"
    return None


def scale(
    bx: Array,
    se_x: Array,
    by: Array,
    se_y: Array,
    rho: Array,
    anchors: tuple[Array, Array],
    most: int,
) -> Scaled:
    """Orient to an exposure effect >= 0, divide by root mean squares, choose instruments.

    The anchors, exposure and outcome effects that are the same in every draw, decide all of this.
    An instrument without exposure effect is oriented by its outcome. Standard errors beyond 1e-8
    and 1e8 times the size of the effects are set to that bound: further out nothing changes but
    the rounding.
    """
    anchor_x, anchor_y = anchors
    sign = np.where((anchor_x < 0) | ((anchor_x == 0) & (anchor_y < 0)), -1.0, 1.0)
    size_x = _root_mean_square(anchor_x)
    size_y = _root_mean_square(anchor_y) or _root_mean_square(se_y)
    error_x = np.clip(se_x / size_x, SMALLEST_ERROR, LARGEST_ERROR)
    error_y = np.clip(se_y / size_y, SMALLEST_ERROR, LARGEST_ERROR)
    rho = np.clip(rho, -0.999, 0.999)
    x = sign * anchor_x / size_x
    prior = fit_effect_prior(x, error_x)
    kept = np.arange(x.size)
    if x.size > most:
        given = information(Instruments(x, error_x, x, error_y, rho, prior))
        order = np.argsort(-given, kind="stable")
        kept = np.sort(order[: max(most, MINIMUM)])
    everything = Instruments(sign * bx / size_x, error_x, sign * by / size_y, error_y, rho, prior)
    return Scaled(everything, kept, sign, size_x, size_y)


def _root_mean_square(values: Array) -> float:
    largest = float(np.abs(values).max())
    if largest == 0:
        return 0.0
    scaled = values / largest
    return largest * float(np.sqrt((scaled * scaled).sum() / scaled.size))


def posterior_of(scaled: Scaled, scale_errors: bool) -> tuple[Posterior, Explored]:
    """Explore the grid and summarise theta in the units of the effects."""
    instruments = scaled.instruments
    explored = explore(instruments, scale_errors)
    final = explored.evaluation
    theta, log_density = final.theta, final.log_density()
    density = normalised(theta, log_density)
    weights = node_weights(theta) * density
    mean = float((weights * theta).sum())
    mode = float(highest_mode(theta, log_density))
    low, median, high = quantiles(theta, density, np.array([0.025, 0.5, 0.975])).tolist()
    mass = final.masses()
    p_valid = _p_valid(scaled, explored, mode)
    unit = scaled.size_y / scaled.size_x
    posterior = Posterior(
        grid=theta * unit,
        density=density / unit,
        mode=mode * unit,
        median=median * unit,
        mean=mean * unit,
        sd=float(np.sqrt((weights * (theta - mean) ** 2).sum())) * unit,
        hpd_set=hpd_set(theta, density) * unit,
        ci_low=low * unit,
        ci_high=high * unit,
        p_value=_p_value(scaled, explored, density, log_density),
        p_valid=p_valid,
        expected_pi=float((mass * final.cells.pi).sum()),
        phi=float(np.exp((mass.sum(axis=1) * np.log(final.phis)).sum())),
        n_modes=count_modes(theta, density),
        se_model=_model_error(scaled.everything, p_valid, mode) * unit,
        grid_error=explored.grid_error,
        converged=explored.converged,
    )
    return posterior, explored


def _p_value(scaled: Scaled, explored: Explored, density: Array, log_density: Array) -> float:
    """Mass where the density is not above that at 0.

    Where 0 lies beyond the grid, which reaches 4.7 SD, it is the tail of a normal
    distribution with the same drop of the log density.
    """
    final = explored.evaluation
    theta = final.theta
    if theta[0] <= 0 <= theta[-1]:
        return mass_not_above(theta, density, float(np.interp(0.0, theta, density)))
    at_zero = evaluate(
        scaled.instruments, explored.slabs, final.cells, np.zeros(1), final.phis
    ).log_density()
    drop = max(float(log_density.max() - at_zero[0]), 0.0)
    edge = density[0] if theta[0] > 0 else density[-1]
    return min(2.0 * float(ndtr(-np.sqrt(2.0 * drop))), mass_not_above(theta, density, float(edge)))


def _p_valid(scaled: Scaled, explored: Explored, mode: float) -> Array:
    """Probability of every instrument to be valid.

    Averaged over phi, the cells with 99.9 % of the mass and about 40 nodes of theta for the
    instruments in the likelihood; at the mode, with the leading cells, for the others.
    """
    final = explored.evaluation
    theta = final.theta[thinned(final.theta.size, max(1, final.theta.size // _VALIDITY_NODES))]
    # The mass of a node goes to its two neighbours among the fewer nodes, as in linear
    # interpolation of P(valid) between them.
    toward = np.array([np.interp(final.theta, theta, row) for row in np.eye(theta.size)]).T
    result = np.ones(scaled.everything.x.size)
    share = final.masses()
    chosen = leading_cells(share.sum(axis=0), _CELL_COVER, share.shape[1])
    total = 0.0
    inside = np.zeros(scaled.kept.size)
    layers = zip(final.phis.tolist(), final.cell_share, final.node_masses(), strict=True)
    for phi, cell_share, node_mass in layers:
        mass = (cell_share[chosen] * node_mass) @ toward
        total += float(mass.sum())
        inside += _expected_valid(
            scaled.instruments, explored, final.cells.subset(chosen), theta, phi, mass
        )
    result[scaled.kept] = inside / total
    others = np.setdiff1d(np.arange(result.size), scaled.kept)
    if others.size:
        e = scaled.everything
        rest = Instruments(
            e.x[others], e.se_x[others], e.y[others], e.se_y[others], e.rho[others], e.prior
        )
        total = 0.0
        outside = np.zeros(others.size)
        leading = chosen[:LEADING_CELLS]
        for phi, mass in zip(final.phis.tolist(), share[:, leading], strict=True):
            total += float(mass.sum())
            outside += _expected_valid(
                rest, explored, final.cells.subset(leading), np.array([mode]), phi, mass[:, None]
            )
        result[others] = outside / total
    return result


def _expected_valid(
    instruments: Instruments,
    explored: Explored,
    cells: Cells,
    theta: Array,
    phi: float,
    mass: Array,
) -> Array:
    """Sum over cells and nodes of mass (cells, nodes) times P(valid), shape (instruments,)."""
    valid = valid_log_density(instruments, theta, phi)
    slab = slab_log_density(instruments, explored.slabs, phi)
    top = np.maximum(valid.max(axis=1), slab.max(axis=1))[:, None]
    # A floor keeps 0/0 away where both densities vanish beside another slab's.
    valid = np.maximum(np.exp(valid - top), 1e-290)
    slab = np.maximum(np.exp(slab - top), 1e-280)
    odds = cells.pi / (1.0 - cells.pi)
    total = np.zeros(instruments.x.size)
    for cell in range(odds.size):
        invalid = (odds[cell] * slab[:, cells.slab[cell]])[:, None]
        total += (mass[cell] * (valid / (valid + invalid))).sum(axis=1)
    return total


def leading_cells(mass: Array, cover: float, most: int) -> NDArray[np.intp]:
    """Return the heaviest cells that cover a share of the mass, heaviest first."""
    order = np.argsort(-mass, kind="stable")
    needed = int(np.searchsorted(np.cumsum(mass[order]), cover * mass.sum())) + 1
    return order[: min(needed, most)]


def _model_error(instruments: Instruments, p_valid: Array, theta: float) -> float:
    """Return the standard error from the Fisher information of valid instruments, phi 1.

    The information of N(mean, variance) is mean'^2/variance + variance'^2/(2 variance^2).
    """
    step = 1.0
    mean, variance = valid_moments(instruments, np.array([theta - step, theta, theta + step]), 1.0)
    # Mean and variance are polynomials of degree 1 and 2, for which central differences are exact.
    slope = (mean[:, 2] - mean[:, 0]) / (2.0 * step)
    change = (variance[:, 2] - variance[:, 0]) / (2.0 * step)
    at = variance[:, 1]
    total = float((p_valid * (slope * slope / at + 0.5 * (change / at) ** 2)).sum())
    return 1.0 / np.sqrt(total) if total > 0 else np.inf
