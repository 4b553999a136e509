r"""The two score equations of `deepmr.mr.raps`, their losses and how they are solved.

theta at fixed tau^2 minimises L = sum rho(t), t = (by - theta bx)/sqrt(v). As theta goes to either
infinity, t goes to -bx/se_x and L to a finite limit, so the whole line is scanned in the coordinate
u of theta = K u/(1 - u^2), -1 < u < 1, K the root of sum(w by^2)/sum(w bx^2), which bounds the
IVW slope. A robust loss can have a narrow minimum at each group of ratios; quantiles of the
ratios are scanned besides. Newton steps inside the bracket of the best point find the root of S1.

All is done for many sequences at once; a sequence leaves the arrays when it has converged, and
every sum runs over its own row, so that none depends on another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from deepmr.mr.estimator import Array, Group

_SCAN = 64
"""Points on the line in the first scan, and as many quantiles of the ratios."""

_SOLVED = 1e-9
"""Scores smaller than this many standard deviations of their own count as a root."""

_NEAR = 0.1
"""Standard errors that theta may still move in a turn when Newton's steps take over."""


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
        """Return t and v of the module docstring of `deepmr.mr.raps`."""
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


@dataclass(frozen=True)
class Loss:
    """A loss and its moments at the normal distribution.

    Attributes
    ----------
    value, psi, slope : callable
        rho(t), its first and second derivative.
    delta : float
        E t psi(t) = E psi'(t).
    score_variance : float
        E psi(t)^2.
    scale_variance : float
        Var t psi(t).
    curvature : float
        E t^2 psi'(t).
    """

    value: Callable[[Array], Array]
    psi: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    delta: float
    score_variance: float
    scale_variance: float
    curvature: float


def _with_moments(
    value: Callable[[Array], Array],
    psi: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    corner: float,
) -> Loss:
    """Integrate by Gauss-Legendre on both sides of the corner; 12 SD hold all of the normal."""
    nodes, weights = np.polynomial.legendre.leggauss(100)

    def mean(function: Callable[[Array], Array]) -> float:
        total = 0.0
        for low, high in ((0.0, corner), (corner, 12.0)):
            t = 0.5 * (high - low) * nodes + 0.5 * (high + low)
            density = np.exp(-0.5 * t * t) * (high - low) / np.sqrt(2.0 * np.pi)
            total += float((weights * density * function(t)).sum())
        return total

    delta = mean(lambda t: t * psi(t))
    return Loss(
        value,
        psi,
        slope,
        delta,
        mean(lambda t: psi(t) ** 2),
        mean(lambda t: (t * psi(t)) ** 2) - delta * delta,
        mean(lambda t: t * t * slope(t)),
    )


_HUBER, _TUKEY = 1.345, 4.685


def _tukey_rest(t: Array) -> Array:
    """Return 1 - (t/k)^2, not below 0."""
    return np.maximum(1.0 - (t / _TUKEY) ** 2, 0.0)


LOSS = {
    "l2": _with_moments(lambda t: 0.5 * t * t, lambda t: t, np.ones_like, 6.0),
    "huber": _with_moments(
        lambda t: (
            np.abs(t) * np.minimum(np.abs(t), _HUBER) - 0.5 * np.minimum(np.abs(t), _HUBER) ** 2
        ),
        lambda t: np.clip(t, -_HUBER, _HUBER),
        lambda t: (np.abs(t) <= _HUBER).astype(np.float64),
        _HUBER,
    ),
    "tukey": _with_moments(
        lambda t: _TUKEY**2 / 6.0 * (1.0 - _tukey_rest(t) ** 3),
        lambda t: t * _tukey_rest(t) ** 2,
        lambda t: _tukey_rest(t) * (5.0 * _tukey_rest(t) - 4.0),
        _TUKEY,
    ),
}


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
    rounding = 1e-14 * np.abs(theta) + 1e-12 / np.sqrt(information)
    return (psi * g).sum(axis=-1), (change - loss.slope(t) * g * g).sum(axis=-1), rounding


def joint_root(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array]:
    """Solve both equations from a start.

    Parameters
    ----------
    score : Score
        Sequences.
    theta, tau2 : ndarray, shape (sequences,)
        Start; a sequence whose start is NaN stays NaN.
    loss : Loss
        From `LOSS`.

    Returns
    -------
    theta, tau2 : ndarray, shape (sequences,)
        NaN where no root was reached.
    """
    theta, tau2 = theta.copy(), tau2.copy()
    active = np.flatnonzero(np.isfinite(theta))
    score = score.rows(active)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(200):
            if not len(active):
                break
            spread = _solve_tau2(score, theta[active], tau2[active], loss)
            slope = _descend(score, theta[active], spread, loss)
            _, _, rounding = _first(score, slope, spread, loss)
            moved = np.abs(slope - theta[active]) / rounding
            theta[active], tau2[active] = slope, spread
            # solving in turn leads to the root; Newton's steps in both at once end the way
            near = np.flatnonzero((moved > 1.0) & (moved * 1e-12 < _NEAR) & (spread > 0))
            slope, spread, solved = _newton(score.rows(near), slope[near], spread[near], loss)
            theta[active[near[solved]]] = slope[solved]
            tau2[active[near[solved]]] = spread[solved]
            moved[near[solved]] = 0.0
            keep = np.flatnonzero(~(moved <= 1.0))
            active, score = active[keep], score.rows(keep)
        theta[active] = tau2[active] = np.nan
    return theta, tau2


def _solve_tau2(score: Score, theta: Array, start: Array, loss: Loss) -> Array:
    """Solve S2 = 0 at fixed theta; 0 where S2 is not positive there.

    Where tau^2 reaches the largest r^2/delta, t psi(t) <= t^2 makes every term negative.
    """
    result = np.zeros(len(theta))
    second, _ = _second(score, theta, result, loss)
    active = np.flatnonzero(second > 0)
    score, theta = score.rows(active), theta[active]
    residual = score.by - theta[:, None] * score.bx
    low = np.zeros(len(active))
    high = (residual * residual).max(axis=-1) / loss.delta
    tau2 = np.where(start[active] > 0, np.minimum(start[active], high), 0.1 * high)
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
    for _ in range(200):
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
    return result


def _newton(score: Score, theta: Array, tau2: Array, loss: Loss) -> tuple[Array, Array, np.ndarray]:
    """Take Newton steps in theta and tau^2 at once; the last array says who reached a root.

    The root must be a minimum of the loss in theta, and tau^2 positive.
    """
    theta, tau2 = theta.copy(), tau2.copy()
    for _ in range(12):
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
    first, second = equations(score, theta, tau2, loss)
    minimum = _first(score, theta, tau2, loss)[1] < 0
    solved = (np.abs(first) <= _SOLVED) & (np.abs(second) <= _SOLVED) & (tau2 > 0) & minimum
    return theta, tau2, np.flatnonzero(solved)
