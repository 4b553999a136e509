r"""The two score equations of `deepmr.mr.estimators.raps` and how they are solved.

theta at fixed tau^2 minimises L = sum rho(t), t = (by - theta bx)/sqrt(v). As theta goes to either
infinity, t goes to -bx/se_x and L to a finite limit, so the whole line is scanned in the coordinate
u of theta = K u/(1 - u^2), -1 < u < 1, K the root of sum(w by^2)/sum(w bx^2), which bounds the
IVW slope. A robust loss can have a narrow minimum at each group of ratios; quantiles of the
ratios are scanned besides. Newton steps inside the bracket of the best point find the root of S1.

All is done for many sequences at once; a sequence leaves the arrays when it has converged, and
every sum runs over its own row, so that none depends on another.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from deepmr.mr.estimator import Array, Group
from deepmr.mr.estimators.raps_loss import LOSS, Loss

_SCAN = 64
"""Points on the line in the first scan, and as many quantiles of the ratios."""

_SOLVED = 1e-9
"""Scores smaller than this many standard deviations of their own count as a root."""

_ROUNDING = 1e-12
"""Standard errors of theta that no step need resolve."""

_NEAR = 0.1
"""Standard errors that theta may still move when Newton's steps in both take over."""

_TURNS = 10
"""Turns of solving for tau^2 and theta before the search becomes one of halving."""


@dataclass(frozen=True, eq=False)
class Score:
    """What the equations need of the sequences, each array (sequences, instruments)."""

    bx: Array
    by: Array
    variance_x: Array
    variance_y: Array
    covariance: Array

    @classmethod
    def of(cls, group: Group) -> Self:
        """Take the effects and the variances and covariance of their errors."""
        covariance = group.error_correlation * group.se_x * group.se_y
        return cls(group.bx, group.by, group.se_x * group.se_x, group.se_y * group.se_y, covariance)

    def rows(self, index: np.ndarray) -> Self:
        """Return some of the sequences."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def residual(self, theta: Array, tau2: Array) -> tuple[Array, Array]:
        """Return t and v of the module docstring of `deepmr.mr.estimators.raps`."""
        slope = theta[:, None]
        v = self.variance_y + tau2[:, None]
        v += slope * (slope * self.variance_x - 2.0 * self.covariance)
        return (self.by - slope * self.bx) / np.sqrt(v), v

    def parts(self, theta: Array, tau2: Array) -> tuple[Array, Array, Array, Array]:
        """Return t, g/sqrt(v), c/sqrt(v) and v."""
        t, v = self.residual(theta, tau2)
        root = np.sqrt(v)
        c = (self.covariance - theta[:, None] * self.variance_x) / root
        return t, (self.bx - c * t) / root, c, v


def equations(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array]:
    """Return S1 and S2 in standard deviations of their own at the normal.

    Parameters
    ----------
    score : Score
        Sequences.
    theta, tau2 : ndarray, shape (sequences,)
        Where to evaluate.
    loss : Loss
        From `LOSS`.

    Returns
    -------
    s1, s2 : ndarray, shape (sequences,)
    """
    t, g, _, v = score.parts(theta, tau2)
    psi = loss.psi(t)
    share = score.variance_x / v
    first = (psi * g).sum(axis=-1) / np.sqrt(loss.score_variance * (g * g).sum(axis=-1))
    second = (share * (t * psi - loss.delta)).sum(axis=-1)
    return first, second / np.sqrt(loss.scale_variance * (share * share).sum(axis=-1))


def global_minimum(score: Score, loss: Loss) -> Array:
    """Return the theta of least loss at tau^2 = 0; NaN where the loss has no finite minimum."""
    n_sequences = len(score.bx)
    zero = np.zeros(n_sequences)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        points = _candidates(score, loss)
        usable = np.asarray(np.isfinite(points).all(axis=-1))
        heights = np.stack(
            [_height(score, np.ascontiguousarray(p), zero, loss) for p in points.T], axis=-1
        )
        best = np.where(usable[:, None], heights, 0.0).argmin(axis=-1)[:, None]
        start = np.take_along_axis(points, best, axis=-1)
        low = np.where(points < start, points, -np.inf).max(axis=-1)
        high = np.where(points > start, points, np.inf).min(axis=-1)
        # a best point at the rim says that the loss falls towards infinity
        inside = np.flatnonzero(usable & np.isfinite(low) & np.isfinite(high))
        result = np.full(n_sequences, np.nan)
        result[inside] = _root_between(
            score.rows(inside), low[inside], start[inside, 0], high[inside], loss
        )
    return result


def _height(score: Score, theta: Array, tau2: Array, loss: Loss) -> Array:
    return np.asarray(loss.value(score.residual(theta, tau2)[0]).sum(axis=-1))


def _candidates(score: Score, loss: Loss) -> Array:
    """Return sorted points to scan, shape (sequences, points)."""
    weights = 1.0 / score.variance_y
    scale = np.sqrt(
        (weights * score.by * score.by).sum(axis=-1) / (weights * score.bx * score.bx).sum(axis=-1)
    )
    u = (2.0 * np.arange(_SCAN) + 1.0) / _SCAN - 1.0
    points = scale[:, None] * (u / (1.0 - u * u))
    if loss is LOSS["l2"]:
        return points
    known = score.bx != 0
    ratio = np.divide(score.by, score.bx, out=np.zeros_like(score.bx), where=known)
    strength = np.where(known, np.abs(score.bx) / np.sqrt(score.variance_y), 0.0)
    order = np.argsort(ratio, axis=-1, kind="stable")
    ratio = np.take_along_axis(ratio, order, axis=-1)
    passed = np.cumsum(np.take_along_axis(strength, order, axis=-1), axis=-1)
    levels = (np.arange(_SCAN) + 0.5) / _SCAN
    total = passed[:, -1:]
    place = np.stack([(passed < level * total).sum(axis=-1) for level in levels], axis=-1)
    quantiles = np.take_along_axis(ratio, np.minimum(place, ratio.shape[1] - 1), axis=-1)
    inside = np.clip(quantiles, points[:, :1], points[:, -1:])
    return np.sort(np.concatenate([points, inside], axis=-1), axis=-1)


def _root_between(score: Score, low: Array, start: Array, high: Array, loss: Loss) -> Array:
    """Find S1 = 0 in a bracket by Newton steps, halving the bracket where one leaves it.

    S1 is minus the slope of the loss: above the minimum it is negative.
    """
    result = start.copy()
    active = np.arange(len(start))
    theta = start.copy()
    for _ in range(200):
        if not len(active):
            break
        s1, slope, rounding = _first(score, theta, np.zeros(len(theta)), loss)
        low = np.where(s1 >= 0, theta, low)
        high = np.where(s1 <= 0, theta, high)
        step = theta - s1 / slope
        # a slope that is not negative belongs to a maximum of the loss
        newton = (slope < 0) & (step >= low) & (step <= high)
        proposal = np.where(newton, step, 0.5 * (low + high))
        result[active] = proposal
        keep = np.flatnonzero(np.abs(proposal - theta) > rounding)
        active, theta, low, high = active[keep], proposal[keep], low[keep], high[keep]
        score = score.rows(keep)
    return result


def _first(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array, Array]:
    """Return S1, its derivative by theta, and how large a step of theta is mere rounding."""
    t, g, c, v = score.parts(theta, tau2)
    psi = loss.psi(t)
    change = psi * (t * (score.variance_x - c * c) / v + 2.0 * c * g / np.sqrt(v))
    information = (g * g).sum(axis=-1)
    rounding = 1e-14 * np.abs(theta) + _ROUNDING / np.sqrt(information)
    return (psi * g).sum(axis=-1), (change - loss.slope(t) * g * g).sum(axis=-1), rounding


def joint_root(score: Score, loss: Loss) -> tuple[Array, Array]:
    """Solve both equations, from the slope of tau^2 = inf, that of least squares, downwards.

    tau^2 and theta are solved for in turn. What does not settle goes to and fro between a tau^2
    that is too small for the theta that belongs to it and one that is too large; there the root
    is between.

    Parameters
    ----------
    score : Score
        Sequences.
    loss : Loss
        From `LOSS`.

    Returns
    -------
    theta, tau2 : ndarray, shape (sequences,)
        NaN where no root was reached.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        theta = (score.bx * score.by).sum(axis=-1) / (score.bx * score.bx).sum(axis=-1)
        tau2 = np.full(len(theta), np.nan)
        least_squares = theta.copy()
        low, high, above = np.zeros(len(theta)), np.full(len(theta), np.inf), theta.copy()
        active = np.flatnonzero(np.isfinite(theta))
        for _ in range(_TURNS):
            if not len(active):
                break
            part = score.rows(active)
            spread = _solve_tau2(part, theta[active], tau2[active], loss)
            slope = _descend(part, theta[active], spread, loss)
            second, _ = _second(part, slope, spread, loss)
            _, _, rounding = _first(part, slope, spread, loss)
            moved = np.abs(slope - theta[active]) / rounding
            theta[active], tau2[active] = slope, spread
            small = ~(second < 0)
            # the root of large tau^2 is above every tau^2 that was too small
            raised = active[small & (spread > low[active])]
            low[raised] = tau2[raised]
            lost = raised[low[raised] >= high[raised]]
            high[lost], above[lost] = np.inf, least_squares[lost]
            lowered = active[~small & (spread > low[active])]
            high[lowered], above[lowered] = tau2[lowered], theta[lowered]
            settled = ((spread == 0) & ~small) | (moved <= 1.0)
            near = np.flatnonzero(~settled & (moved * _ROUNDING <= _NEAR))
            settled[near] = _newton_into(theta, tau2, part.rows(near), active[near], loss)
            active = active[~settled]
        _halve(score, theta, tau2, low, high, above, active, loss)
        solved = _is_root(score, theta, tau2, loss)
    return np.where(solved, theta, np.nan), np.where(solved, tau2, np.nan)


def _halve(
    score: Score,
    theta: Array,
    tau2: Array,
    low: Array,
    high: Array,
    above: Array,
    active: np.ndarray,
    loss: Loss,
) -> None:
    """Halve the bracket of tau^2, theta following from above; write into theta and tau2.

    A tau^2 whose theta runs away is too small.
    """
    for turn in range(120):
        if not len(active):
            break
        part = score.rows(active)
        unbounded = np.isinf(high[active])
        middle = 0.5 * (low[active] + high[active])
        spread = np.where(unbounded, np.maximum(4.0 * low[active], tau2[active]), middle)
        slope = _descend(part, above[active], spread, loss)
        second, _ = _second(part, slope, spread, loss)
        small = ~(second < 0)
        low[active[small]] = spread[small]
        high[active[~small]], above[active[~small]] = spread[~small], slope[~small]
        theta[active], tau2[active] = slope, spread
        settled = high[active] - low[active] <= 1e-15 * high[active]
        if turn % 3 == 2:
            rest = np.flatnonzero(~settled & np.isfinite(slope))
            settled[rest] = _newton_into(theta, tau2, part.rows(rest), active[rest], loss)
        active = active[~settled]


def _newton_into(
    theta: Array, tau2: Array, part: Score, index: np.ndarray, loss: Loss
) -> np.ndarray:
    """Write the roots that Newton's steps reach nearby; return who reached one."""
    slope, spread = _newton(part, theta[index], tau2[index], loss)
    _, _, rounding = _first(part, theta[index], tau2[index], loss)
    solved = _is_root(part, slope, spread, loss)
    solved &= np.abs(slope - theta[index]) * _ROUNDING <= _NEAR * rounding
    theta[index[solved]], tau2[index[solved]] = slope[solved], spread[solved]
    return solved


def _is_root(score: Score, theta: Array, tau2: Array, loss: Loss) -> np.ndarray:
    """Tell where both equations hold and theta is a minimum of the loss, not a maximum."""
    first, second = equations(score, theta, tau2, loss)
    _, slope, _ = _first(score, theta, tau2, loss)
    holds = np.where(tau2 > 0, np.abs(second), second) <= _SOLVED
    return np.asarray((np.abs(first) <= _SOLVED) & holds & (tau2 >= 0) & (slope < 0))


def _solve_tau2(score: Score, theta: Array, start: Array, loss: Loss) -> Array:
    """Find the largest root of S2 at fixed theta below `start`, or above it if S2 > 0 there.

    Where tau^2 reaches the largest r^2/delta, t psi(t) <= t^2 makes every term negative. From
    there (start NaN) or from the start it is searched downwards in steps of a factor 4; 0 if S2
    is never positive. The terms of a redescending psi vanish for outliers, so S2 < 0 at 0 says
    little about larger tau^2.
    """
    residual, errors = score.residual(theta, np.zeros(len(theta)))
    ceiling = (residual * residual * errors).max(axis=-1) / loss.delta
    floor = 1e-3 * errors.min(axis=-1)
    high = np.where(start > 0, np.minimum(start, ceiling), ceiling)
    second, _ = _second(score, theta, high, loss)
    low = np.where(second > 0, high, np.nan)
    high = np.where(second > 0, ceiling, high)
    active = np.flatnonzero(~(second > 0) & np.isfinite(high))
    while len(active):
        below = np.where(high[active] > floor[active], 0.25 * high[active], 0.0)
        second, _ = _second(score.rows(active), theta[active], below, loss)
        found = second > 0
        low[active[found]] = below[found]
        high[active[~found]] = below[~found]
        active = active[~found & (below > 0)]
    result = np.zeros(len(theta))
    active = np.flatnonzero(low < high)
    score, theta, low, high = score.rows(active), theta[active], low[active], high[active]
    tau2 = np.where((start[active] > low) & (start[active] < high), start[active], high)
    for _ in range(200):
        if not len(active):
            break
        second, slope = _second(score, theta, tau2, loss)
        low = np.where(second >= 0, tau2, low)
        high = np.where(second <= 0, tau2, high)
        step = tau2 - second / slope
        newton = (slope < 0) & (step >= low) & (step <= high)
        proposal = np.where(newton, step, 0.5 * (low + high))
        result[active] = proposal
        keep = np.flatnonzero(np.abs(proposal - tau2) > 1e-14 * tau2)
        active, tau2, low, high = active[keep], proposal[keep], low[keep], high[keep]
        score, theta = score.rows(keep), theta[keep]
    return result


def _second(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array]:
    """Return S2 and its derivative by tau^2."""
    t, v = score.residual(theta, tau2)
    psi = loss.psi(t)
    excess = t * psi - loss.delta
    share = score.variance_x / v
    change = 0.5 * t * (psi + t * loss.slope(t)) + excess
    return (share * excess).sum(axis=-1), -(share * change / v).sum(axis=-1)


def _descend(score: Score, theta: Array, tau2: Array, loss: Loss) -> Array:
    """Go down the loss at fixed tau^2 to the next minimum by damped Newton steps."""
    result = theta.copy()
    active = np.arange(len(theta))
    for _ in range(60):
        if not len(active):
            break
        s1, slope, rounding = _first(score, theta, tau2, loss)
        step = s1 / np.where(slope < 0, -slope, np.abs(slope))
        # close to the minimum the loss itself cannot tell the better point any more
        doubtful = np.flatnonzero(np.abs(step) > 1e6 * rounding)
        here = _height(score.rows(doubtful), theta[doubtful], tau2[doubtful], loss)
        for _ in range(40):
            if not len(doubtful):
                break
            there = theta[doubtful] + step[doubtful]
            worse = _height(score.rows(doubtful), there, tau2[doubtful], loss) > here
            step[doubtful[worse]] *= 0.5
            doubtful, here = doubtful[worse], here[worse]
        theta = theta + step
        result[active] = theta
        keep = np.flatnonzero(np.abs(step) > rounding)
        active, theta, tau2, score = active[keep], theta[keep], tau2[keep], score.rows(keep)
    result[active] = np.nan
    return result


def _newton(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array]:
    """Take Newton steps in theta and tau^2 at once."""
    for _ in range(8):
        t, g, c, v = score.parts(theta, tau2)
        root = np.sqrt(v)
        psi = loss.psi(t)
        bend = psi + t * loss.slope(t)
        first, first_theta, _ = _first(score, theta, tau2, loss)
        first_tau2 = ((psi * c * t / root - 0.5 * bend * g) / v).sum(axis=-1)
        second, second_tau2 = _second(score, theta, tau2, loss)
        change = 2.0 * c * (t * psi - loss.delta) / root - bend * g
        second_theta = (score.variance_x / v * change).sum(axis=-1)
        determinant = first_theta * second_tau2 - first_tau2 * second_theta
        theta = theta - (first * second_tau2 - second * first_tau2) / determinant
        tau2 = tau2 - (second * first_theta - first * second_theta) / determinant
    return theta, tau2
