"""Posterior of the causal effect over a grid of theta, phi and cells that places itself.

Three passes over one sequence, in the scaled units of `deepmr.mr.estimators.bayesian_grid`:

1. All cells, 7 logarithmic nodes of phi in .15-4, 121 nodes of theta: a third of them even over
   +-6 (3 prior SDs; a few more up to +-8), the rest at quantiles of the instruments' own ratios,
   since a peak can be far narrower than an even step. Repeated on nodes placed by its own result
   while a single step of the grid holds most of the mass.
2. Cells without mass are dropped. The step of phi, a factor 1.7, is then much coarser than what
   hundreds of instruments know about phi (relative SD (2n)^(-1/2)), so it is halved where the
   mass is until it is as fine, on a quarter of the next pass's nodes of theta.
3. Remaining cells, 7 nodes of phi over the mass, 161 nodes of theta placed where the mass is.
   Repeated with more nodes while the distribution function differs from that on every second
   node of theta, or of phi, by more than the tolerance.

The prior is theta ~ N(0, (2 rms(y)/rms(x))^2), phi log-uniform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.bayesian_grid import (
    Cells,
    Instruments,
    Slabs,
    information,
    log_likelihood,
    make_cells,
    make_slabs,
    valid_moments,
)
from deepmr.mr.estimators.posterior_set import (
    cell_masses,
    distance_between,
    node_weights,
    normalised,
    spread_nodes,
    thinned,
)

PRIOR_SD = 2.0
PHI_RANGE = (0.15, 4.0)
PHI_NODES = 7
FIRST_NODES = 121
SECOND_NODES = 161
TOLERANCE = 0.01
LARGEST_STEP = 0.08
ROUNDS = 4

_COARSE_STEP = 0.65
_COARSE_NODE = 0.75
_NEGLIGIBLE = 1e-7
_NEGLIGIBLE_BESIDE = 1e-5
_PHI_DROP = 7.0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Likelihood times priors on a grid.

    Attributes
    ----------
    cells : Cells
        The cells summed over.
    theta : ndarray, shape (nodes,)
        Nodes of theta.
    phis : ndarray, shape (layers,)
        Nodes of phi, increasing; weighed by the trapezoid rule in log phi.
    log_joint : ndarray, shape (layers, nodes)
        Log joint density of phi, theta and the data, up to a constant.
    cell_share : list of ndarray, shape (cells, nodes)
        For each phi, the probability of the cells given theta.
    """

    cells: Cells
    theta: Array
    phis: Array
    log_joint: Array
    cell_share: list[Array]

    def log_evidence(self) -> Array:
        """Log of the integral over theta and cells, shape (layers,)."""
        return log_sum((self.log_joint + np.log(node_weights(self.theta))).T)

    def _log_phi_weights(self) -> Array:
        return np.log(node_weights(np.log(self.phis))) if self.phis.size > 1 else np.zeros(1)

    def log_density(self) -> Array:
        """Log posterior density of theta up to a constant, shape (nodes,)."""
        return log_sum(self.log_joint + self._log_phi_weights()[:, None])

    def node_masses(self) -> Array:
        """Posterior probability of phi and theta, shape (layers, nodes)."""
        log_mass = self.log_joint + self._log_phi_weights()[:, None]
        mass = np.exp(log_mass - log_mass.max()) * node_weights(self.theta)
        return np.asarray(mass / mass.sum())

    def masses(self) -> Array:
        """Posterior probability of phi and cell, shape (layers, cells)."""
        pairs = zip(self.cell_share, self.node_masses(), strict=True)
        return np.array([(share * mass).sum(axis=1) for share, mass in pairs])

    def layers(self, chosen: NDArray[np.intp]) -> Evaluation:
        """Return the same on some nodes of phi."""
        share = [self.cell_share[i] for i in chosen]
        return Evaluation(self.cells, self.theta, self.phis[chosen], self.log_joint[chosen], share)

    def with_layers(self, other: Evaluation) -> Evaluation:
        """Add the layers of an evaluation on the same theta and cells, in order of phi."""
        phis = np.concatenate([self.phis, other.phis])
        order = np.argsort(phis)
        joint = np.concatenate([self.log_joint, other.log_joint])
        share = self.cell_share + other.cell_share
        return Evaluation(
            self.cells, self.theta, phis[order], joint[order], [share[i] for i in order]
        )


@dataclass(frozen=True, eq=False)
class Explored:
    """The last evaluation with its estimated error.

    Attributes
    ----------
    grid_error : float
        Largest difference of the distribution function of theta from that on every second node of
        theta or phi, plus the mass of the cells dropped.
    converged : bool
        Whether that is within the tolerance, and no step of the grid holds much mass.
    """

    slabs: Slabs
    evaluation: Evaluation
    grid_error: float
    converged: bool


def explore(instruments: Instruments, scale_errors: bool) -> Explored:
    """Run the three passes.

    Parameters
    ----------
    instruments : Instruments
        Arrays of shape (instruments,), scaled and oriented.
    scale_errors : bool
        Let phi vary; else it is 1.
    """
    slabs = make_slabs(instruments)
    cells = make_cells(slabs)
    phis = np.geomspace(*PHI_RANGE, PHI_NODES) if scale_errors else np.ones(1)
    theta = first_nodes(instruments)
    for _ in range(ROUNDS):
        evaluation = evaluate(instruments, slabs, cells, theta, phis)
        log_density = evaluation.log_density()
        if _peak_resolved(theta, normalised(theta, log_density)):
            break
        theta = spread_nodes(theta, log_density, FIRST_NODES)
    theta = spread_nodes(evaluation.theta, log_density, SECOND_NODES)
    kept, lost = _cells_with_mass(evaluation)
    if scale_errors:
        coarse = theta[thinned(theta.size, 4)]
        refined = _refine_phi(evaluation, instruments, slabs, cells.subset(kept), coarse)
        phis = _phi_nodes(refined)
        mass = refined.masses()
        heavy = mass.max(axis=0) > _NEGLIGIBLE
        lost += float(mass[:, ~heavy].sum())
        kept = kept[heavy]
    cells = cells.subset(kept)
    evaluation = evaluate(instruments, slabs, cells, theta, phis)
    for attempt in range(1, ROUNDS + 1):
        theta, log_density = evaluation.theta, evaluation.log_density()
        density = normalised(theta, log_density)
        theta_error = _coarse_theta_error(theta, density)
        phi_error = _coarse_phi_error(evaluation, density)
        too_wide = cell_masses(theta, density).max() > LARGEST_STEP
        error = max(theta_error, phi_error) + lost
        converged = bool(error <= TOLERANCE and not too_wide)
        if converged or attempt == ROUNDS:
            break
        phis = evaluation.phis
        between = np.sqrt(phis[1:] * phis[:-1])
        if theta_error > TOLERANCE or too_wide:
            theta = spread_nodes(theta, log_density, (SECOND_NODES - 1) * 2**attempt + 1)
            phis = np.sort(np.concatenate([phis, between])) if phi_error > TOLERANCE else phis
            evaluation = evaluate(instruments, slabs, cells, theta, phis)
        else:
            added = evaluate(instruments, slabs, cells, theta, between)
            evaluation = evaluation.with_layers(added)
    return Explored(slabs, evaluation, error, converged)


def first_nodes(instruments: Instruments) -> Array:
    """Nodes of theta of the first pass, increasing; at most 121.

    Two thirds are quantiles of the points ratio_j + c r_j, c = -1.5, -.5, .5, 1.5, with r_j
    the standard error of the ratio, weighted by the root of the information.
    """
    even = np.concatenate([[-8.0, -7.0], np.linspace(-6.0, 6.0, 41), [7.0, 8.0]])
    mean, variance = valid_moments(instruments, np.array([0.0, 1.0]), 1.0)
    slope = mean[:, 1] - mean[:, 0]
    usable = np.abs(slope) > 0
    slope = slope[usable]
    ratio = (instruments.y - mean[:, 0])[usable] / slope
    error = np.sqrt(variance.mean(axis=1))[usable] / np.abs(slope)
    points = (ratio[:, None] + error[:, None] * np.array([-1.5, -0.5, 0.5, 1.5])).ravel()
    weights = np.repeat(np.sqrt(information(instruments))[usable], 4)
    inside = np.abs(points) < 8.0
    points, weights = points[inside], weights[inside]
    order = np.argsort(points, kind="stable")
    total = float(weights.sum())
    if not total > 0:
        return even
    middle = np.cumsum(weights[order]) - 0.5 * weights[order]
    wanted = FIRST_NODES - even.size
    share = (np.arange(wanted) + 0.5) / wanted * total
    nodes = np.sort(np.concatenate([even, np.interp(share, middle, points[order])]))
    return nodes[np.concatenate([[True], np.diff(nodes) > 1e-9])]


def evaluate(
    instruments: Instruments, slabs: Slabs, cells: Cells, theta: Array, phis: Array
) -> Evaluation:
    """Evaluate likelihood times the priors of theta and cells."""
    log_prior = cells.log_weight[:, None] + log_prior_density(theta)
    joint, shares = [], []
    for phi in phis.tolist():
        share = log_likelihood(instruments, slabs, cells, theta, phi)
        share += log_prior
        top = share.max(axis=0)
        share -= top
        np.exp(share, out=share)
        total = share.sum(axis=0)
        share /= total
        joint.append(top + np.log(total))
        shares.append(share)
    return Evaluation(cells, theta, phis, np.array(joint), shares)


def log_prior_density(theta: Array) -> Array:
    """Log prior density of scaled causal effects, up to a constant."""
    return np.asarray(-0.5 * (theta / PRIOR_SD) ** 2)


def log_sum(values: Array) -> Array:
    """Logarithm of the sum of exponentials over the first axis."""
    top = values.max(axis=0)
    return np.asarray(top + np.log(np.exp(values - top).sum(axis=0)))


def _peak_resolved(theta: Array, density: Array) -> bool:
    """Whether neither one step nor one node has so much mass that a peak lies between nodes.

    For a normal density it holds up to a step of about 1.8 SD.
    """
    step = cell_masses(theta, density).max()
    node = (node_weights(theta) * density).max()
    return bool(step <= _COARSE_STEP and node <= _COARSE_NODE)


def _cells_with_mass(evaluation: Evaluation) -> tuple[NDArray[np.intp], float]:
    """Return the cells worth keeping and the share of mass of the others.

    A cell is kept for its share of the whole mass, or of the mass of a layer next to one that
    matters: phi will be refined in between.
    """
    mass = evaluation.masses()
    layers = mass.sum(axis=1)
    matters = layers > 1e-4
    beside = matters.copy()
    beside[1:] |= matters[:-1]
    beside[:-1] |= matters[1:]
    share = mass[beside] / np.maximum(layers[beside, None], 1e-300)
    keep = (mass.sum(axis=0) > _NEGLIGIBLE) | (share.max(axis=0) > _NEGLIGIBLE_BESIDE)
    return np.flatnonzero(keep), float(mass[:, ~keep].sum())


def _refine_phi(
    first: Evaluation, instruments: Instruments, slabs: Slabs, cells: Cells, theta: Array
) -> Evaluation:
    """Halve the steps of phi that matter until they are as fine as the instruments can tell."""
    finest = 1.5 / np.sqrt(2.0 * instruments.x.size)
    given = first.phis.tolist()
    best = int(np.argmax(first.log_evidence()))
    wanted = given[max(best - 1, 0) : best + 2]
    current = evaluate(instruments, slabs, cells, theta, np.array(wanted))
    while True:
        nodes = current.phis.tolist()
        drop = current.log_evidence()
        drop = drop.max() - drop
        wanted = []
        for left, right, a, b in zip(nodes[:-1], nodes[1:], drop[:-1], drop[1:], strict=True):
            matters = min(a, b) < 1.0 or (min(a, b) < _PHI_DROP and abs(a - b) > 2.0)
            if matters and np.log(right / left) > finest:
                wanted.append(float(np.sqrt(left * right)))
        lowest, highest = given.index(nodes[0]), given.index(nodes[-1])
        if drop[0] < _PHI_DROP and lowest > 0:
            wanted.append(given[lowest - 1])
        if drop[-1] < _PHI_DROP and highest < len(given) - 1:
            wanted.append(given[highest + 1])
        if not wanted:
            return current
        added = evaluate(instruments, slabs, cells, theta, np.array(wanted))
        current = current.with_layers(added)


def _phi_nodes(refined: Evaluation) -> Array:
    """Nodes of phi, even in its logarithm, over where the evidence is within e^-7 of its top."""
    log_phi = np.log(refined.phis)
    drop = refined.log_evidence()
    drop = drop.max() - drop
    fine = np.linspace(log_phi[0], log_phi[-1], 1001)
    inside = fine[np.interp(fine, log_phi, drop) <= _PHI_DROP]
    return np.exp(np.linspace(inside[0], inside[-1], PHI_NODES))


def _coarse_theta_error(theta: Array, density: Array) -> float:
    """Distance of the distribution function from that on every second node."""
    nodes = thinned(theta.size, 2)
    coarse = density[nodes]
    return distance_between(theta, density, nodes, coarse / cell_masses(theta[nodes], coarse).sum())


def _coarse_phi_error(evaluation: Evaluation, density: Array) -> float:
    """Distance of the distribution function from that on every second node of phi."""
    if evaluation.phis.size < 3:
        return 0.0
    half = evaluation.layers(thinned(evaluation.phis.size, 2))
    theta = evaluation.theta
    return distance_between(
        theta, density, np.arange(theta.size), normalised(theta, half.log_density())
    )
