"""Bayesian mode-based estimator: the effect on which the largest homogeneous group agrees.

A contamination posterior under the plurality-valid assumption: every instrument is valid, with
ratio theta and no scatter beyond its own errors, or belongs to a slab that is at least 2 typical
standard errors wide. (Hartwig, Davey Smith and Bowden, Int J Epidemiol 2017;46:1985, for the
assumption; the likelihood of a mixture with the indicators summed out as in Burgess et al., Nat
Commun 2020;11:376, but with the error of the exposure, the errors' correlation and a prior on every
nuisance value. It is not a posterior of Hartwig's kernel density mode.) The likelihood is in
`deepmr.mr.estimators.bayesian_grid`, the grid in `deepmr.mr.estimators.bayesian_passes`: exact up
to the grid, whose error is estimated, without any sampling.

The estimate is the posterior mode, the interval the hull of the 95 % highest-density set. Two
groups of similar size give two modes and a set of two intervals: `n_modes` and `ci_set` say so.

Limits, measured by `benchmarks.invalid_instruments` (50 instruments): coverage is .92-.98 with up
to half of them invalid, but in a tie of two homogeneous groups chance often decides for one of
them (two modes in .83-.91, coverage .75-.92). Invalid instruments whose ratios lie within about
one standard error of theta on one side cannot be told from valid ones; with 150 instruments, half
invalid with ratios spread from there upwards, coverage is .85 (.92 with errors correlated .6).
"""

from __future__ import annotations

import numpy as np

from deepmr.mr.estimator import Array, DrawFit, Estimator, Fit, Group, Options, drawn
from deepmr.mr.estimators.bayesian_grid import Instruments, log_likelihood
from deepmr.mr.estimators.bayesian_passes import (
    Explored,
    first_nodes,
    log_prior_density,
    log_sum,
)
from deepmr.mr.estimators.bayesian_posterior import (
    LEADING_CELLS,
    MINIMUM,
    Posterior,
    Scaled,
    bayesian_mode_posterior,
    fault_of,
    leading_cells,
    posterior_of,
    scale,
)
from deepmr.mr.estimators.posterior_set import (
    highest_mode,
    node_weights,
    normalised,
    spread_nodes,
    thinned,
)

__all__ = ["BAYESIAN_MODE", "Posterior", "bayesian_mode_posterior", "fit", "fit_draws"]

DRAW_NODES = 81

_DRAW_COVER = 0.99
_ELEMENTS_AT_ONCE = 65_536


def fit(group: Group, options: Options) -> Fit:
    """Posterior mode, SD, highest-density set and probabilities of validity.

    ``status`` is ``ok``, ``grid_not_converged`` (the values stand, the grid error is above 1 % of
    the mass) or the reason why a sequence has no estimate.
    """
    n_sequences, n = group.bx.shape
    correlation = group.error_correlation
    values = np.full((8, n_sequences), np.nan)
    p_valid = np.full((n_sequences, n), np.nan)
    sets = [np.empty((0, 2))] * n_sequences
    status = np.full(n_sequences, "ok", object)
    for i in range(n_sequences):
        scaled = _scaled_row(group, i, correlation, options)
        if isinstance(scaled, str):
            status[i] = scaled
            continue
        found, _ = posterior_of(scaled, options.scale_errors)
        low, high = found.hpd_set[0, 0], found.hpd_set[-1, 1]
        n_valid = float(found.p_valid.sum())
        values[:, i] = (
            found.mode,
            found.sd,
            low,
            high,
            found.p_value,
            n_valid,
            found.n_modes,
            found.se_model,
        )
        p_valid[i] = found.p_valid
        sets[i] = found.hpd_set
        if not found.converged:
            status[i] = "grid_not_converged"
    mode, sd, low, high, p_value, n_valid_each, n_modes, se_model = values
    return Fit(
        mode,
        sd,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        ci_kind=np.full(n_sequences, "hpd", object),
        ci_set=sets,
        se_model=se_model,
        n_valid=n_valid_each,
        n_modes=n_modes,
        p_valid=p_valid,
        status=status,
    )


def fit_draws(group: Group, options: Options) -> DrawFit:
    """Posterior mode and SD in every draw, nuisance values fixed by the mean effects.

    Orientation, scale, instruments, phi (its posterior mean) and the probabilities of the leading
    cells (those with 99 % of the mass, at most 16) are those of the mean effects; only theta is
    free. In each draw the posteriors of theta under the cells are averaged with these
    probabilities.
    """
    draws_x, draws_y = drawn(group)
    n_sequences, n_draws, _ = draws_x.shape
    correlation = group.error_correlation
    estimates = np.full((n_sequences, n_draws), np.nan)
    se = np.full((n_sequences, n_draws), np.nan)
    within = np.full(n_sequences, np.nan)
    for i in range(n_sequences):
        scaled = _scaled_row(group, i, correlation, options)
        if isinstance(scaled, str):
            continue
        found, explored = posterior_of(scaled, options.scale_errors)
        within[i] = np.sqrt(max(found.sd**2 - found.se_model**2, 0.0))
        estimates[i], se[i] = _in_draws(scaled, explored, found, draws_x[i], draws_y[i])
    return DrawFit(estimates, se, within)


def _scaled_row(group: Group, i: int, correlation: Array, options: Options) -> Scaled | str:
    """Return one sequence of a group, or why it has no posterior."""
    bx, se_x, by, se_y = group.bx[i], group.se_x[i], group.by[i], group.se_y[i]
    anchors, rho = (group.anchor_x[i], group.anchor_y[i]), correlation[i]
    fault = fault_of(bx, se_x, by, se_y, rho) or fault_of(anchors[0], se_x, anchors[1], se_y, rho)
    if fault is not None:
        return fault
    return scale(bx, se_x, by, se_y, rho, anchors, options.bayesian_instruments)


def _in_draws(
    scaled: Scaled, explored: Explored, found: Posterior, draws_x: Array, draws_y: Array
) -> tuple[Array, Array]:
    """Mode and SD of every draw, in the units of the effects."""
    final = explored.evaluation
    mass = final.masses().sum(axis=0)
    chosen = leading_cells(mass, _DRAW_COVER, LEADING_CELLS)
    cells = final.cells.subset(chosen)
    log_mass = np.log(mass[chosen])[:, None]
    around = final.theta[thinned(final.theta.size, 4)]
    coarse = np.unique(np.concatenate([first_nodes(scaled.instruments)[::2], around]))
    per_draw = scaled.kept.size * coarse.size
    rows = max(1, _ELEMENTS_AT_ONCE // per_draw)
    modes, sds = np.empty(len(draws_x)), np.empty(len(draws_x))

    def log_density(instruments: Instruments, theta: Array) -> Array:
        """Log posterior density in every draw, shape (draws, nodes)."""
        joint = log_likelihood(instruments, explored.slabs, cells, theta, found.phi)
        joint += log_prior_density(theta)[..., None, :]
        log_weights = np.log(node_weights(theta))[..., None, :]
        evidence = log_sum(np.moveaxis(joint + log_weights, -1, 0))
        joint += log_mass - evidence[..., None]
        return log_sum(np.moveaxis(joint, -2, 0))

    for start in range(0, len(draws_x), rows):
        part = slice(start, start + rows)
        instruments = scaled.draws(draws_x[part], draws_y[part])
        first = log_density(instruments, coarse)
        theta = np.array([spread_nodes(coarse, row, DRAW_NODES) for row in first])
        second = log_density(instruments, theta)
        weights = node_weights(theta) * normalised(theta, second)
        mean = (weights * theta).sum(axis=1, keepdims=True)
        sds[part] = np.sqrt((weights * (theta - mean) ** 2).sum(axis=1))
        modes[part] = highest_mode(theta, second)
    unit = scaled.size_y / scaled.size_x
    return modes * unit, sds * unit


BAYESIAN_MODE = Estimator("bayesian_mode", MINIMUM, fit, fit_draws, frozenset({"rho_xy"}))
