"""The minimum behind the profile estimators: the errors of every sequence, slope and heterogeneity.

`deepmr.mr.estimators.profile` says what the estimators are and makes intervals of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array, Group
from deepmr.mr.estimators.covariance import DiagonalErrors, Errors, errors_from_correlation
from deepmr.mr.estimators.draw_covariance import errors_from_draws
from deepmr.mr.estimators.profile_heterogeneity import heterogeneity
from deepmr.mr.estimators.profile_objective import COARSE, FINE, Objective, Point, minimum
from deepmr.mr.estimators.regression_line import orientation

_BLOCK = 1 << 15
"""Instruments of independent sequences at once: what stays in the cache."""
_STEEPEST = 1e6
"""A slope above this many se_y/se_x is none: Q has its minimum at infinity."""


@dataclass(frozen=True)
class Model:
    """What distinguishes the estimators.

    Attributes
    ----------
    intercept : bool
        Egger's line; instruments are oriented.
    additive : bool
        Heterogeneity by τ² (or else by a multiplicative scale).
    """

    intercept: bool = False
    additive: bool = True


@dataclass(frozen=True, eq=False)
class Solution:
    """Fit of some sequences, all arrays (sequences,) except `scan`, (nodes, sequences).

    `strength` is the mean F statistic in the metric of the errors, x'Sxx⁻¹x/n (centred where there
    is an intercept): bx²/sx² on average for independent errors, and near 1 where bx is what its
    errors look like, however many single mutations stand out. `error_information` is what the
    errors of the effects alone put into `information`, without τ².
    """

    objective: Objective
    start: Point
    point: Point
    tau2: Array
    scan: Array
    curvature: Array
    information: Array
    error_information: Array
    inflation: Array
    strength: Array

    @property
    def estimate(self) -> Array:
        """The slope."""
        return self.objective.unit * self._steepness

    @property
    def per_turn(self) -> Array:
        """Change of the slope with the angle."""
        return self.objective.unit * (1.0 + self._steepness**2)

    @property
    def _steepness(self) -> Array:
        """b/a, NaN where it has no finite value."""
        with np.errstate(divide="ignore", invalid="ignore"):
            steepness = self.point.b / self.point.a
        return np.where(np.abs(steepness) < _STEEPEST, steepness, np.nan)

    def se(self, curvature: Array, information: Array) -> Array:
        """Return the standard error with the curvature and the information at some τ²."""
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(self.inflation * information) / (0.5 * curvature)
        return np.where(curvature > 0, self.per_turn * spread, np.nan)


def solve_all(
    group: Group, model: Model
) -> tuple[list[tuple[NDArray[np.intp], Solution]], NDArray[np.object_]]:
    """Minimise Q of every sequence.

    Parameters
    ----------
    group : Group
        Effects.
    model : Model
        Which of the estimators.

    Returns
    -------
    parts : list of (ndarray, Solution)
        Indices of sequences, and their solution.
    status : ndarray of object, shape (sequences,)
        ``ok``, ``not_finite`` or ``bad_correlation``; sequences that are not ``ok`` are in no part.
    """
    status = np.full(len(group.bx), "ok", dtype=object)
    finite = np.isfinite(group.bx) & np.isfinite(group.by)
    finite &= np.isfinite(group.se_x) & np.isfinite(group.se_y)
    finite &= (group.se_x > 0) & (group.se_y > 0)
    if group.draws_x is not None and group.draws_y is not None:
        finite &= (np.isfinite(group.draws_x) & np.isfinite(group.draws_y)).all(axis=1)
    status[~finite.all(axis=1)] = "not_finite"
    parts = []
    for index, errors in _errors(group, model, status):
        sign = orientation(group.anchor_x[index])
        x, y = group.bx[index], group.by[index]
        if model.intercept:
            x, y, errors = x * sign, y * sign, errors.oriented(sign)
        objective = Objective(
            x,
            y,
            errors,
            np.median(group.se_y[index] / group.se_x[index], axis=-1),
            np.median(group.se_x[index], axis=-1),
            model.intercept,
            FINE if isinstance(errors, DiagonalErrors) else COARSE,
        )
        scan = objective.scan(np.zeros(len(index)))
        known = np.asarray(np.isfinite(scan).all(axis=0))
        status[index[~known]] = "not_finite"
        if known.any():
            index, objective, scan = index[known], objective.rows(known), scan[:, known]
            parts.append((index, _solve(objective, scan, group, index, model)))
    return parts, status


def _errors(
    group: Group, model: Model, status: NDArray[np.object_]
) -> Iterator[tuple[NDArray[np.intp], Errors]]:
    """Yield sequences with their covariance; independent ones in blocks, others one by one."""
    rows = np.flatnonzero(status == "ok")
    if group.correlation is not None:
        rho = group.error_correlation
        for row in rows:
            try:
                errors = errors_from_correlation(
                    group.se_x[row], group.se_y[row], rho[row], group.correlation[row]
                )
            except ValueError:
                status[row] = "bad_correlation"
                continue
            yield np.array([row]), errors
    elif model.additive and (draws := _draws(group)) is not None:
        for row in rows:
            yield (
                np.array([row]),
                errors_from_draws(draws[0][row], draws[1][row], group.se_x[row], group.se_y[row]),
            )
    else:
        rho = group.error_correlation
        step = max(1, _BLOCK // group.bx.shape[1])
        for start in range(0, len(rows), step):
            index = rows[start : start + step]
            yield index, DiagonalErrors.from_rho(group.se_x[index], group.se_y[index], rho[index])


def _draws(group: Group) -> tuple[Array, Array] | None:
    """Return the draws where there are enough for a covariance."""
    if group.draws_x is None or group.draws_y is None or group.draws_x.shape[1] < 2:
        return None
    return group.draws_x, group.draws_y


def _solve(
    objective: Objective, scan: Array, group: Group, index: NDArray[np.intp], model: Model
) -> Solution:
    zero = np.zeros(len(index))
    strength = scan[-1] / (objective.df + 1)  # the last node is the direction of x alone
    start = minimum(objective, zero, scan)
    tau2, point = zero, start
    if model.additive:
        tau2, point, at_tau2 = heterogeneity(objective, start)
        scan = np.where(tau2 > 0, at_tau2, scan)
    information, influence = objective.information(point.a, point.b, tau2)
    scatter = tau2 * point.a**2 * (influence * influence).sum(axis=-1)
    inflation = np.ones(len(index))
    if model.additive and (draws := _draws(group)) is not None:
        sign = orientation(group.anchor_x[index]) if model.intercept else 1.0
        weights = influence * sign
        weights_x = -(objective.unit * point.b)[:, None] * weights
        weights_y = point.a[:, None] * weights
        for position, row in enumerate(index):
            x, y = weights_x[position], weights_y[position]
            over_draws = np.var(draws[0][row] @ x + draws[1][row] @ y, ddof=1)
            beyond = tau2[position] * (y * y).sum()
            inflation[position] = max(1.0, (over_draws + beyond) / information[position])
    return Solution(
        objective,
        start,
        point,
        tau2,
        scan,
        point.curvature,
        information,
        np.maximum(information - scatter, 0.0),
        inflation,
        strength,
    )
