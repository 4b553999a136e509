r"""Additive heterogeneity of a line with errors in both effects, together with its slope.

τ² is Paule and Mandel's (J Res Natl Bur Stand 1982;87:377): the minimum of Q(θ, τ²) over θ equals
its degrees of freedom. That minimum falls with τ² (∂Q/∂τ² <= 0 at every θ), so there is one such
τ², or none above 0 where Q is below its degrees of freedom without.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.profile_objective import ITERATIONS, TOLERANCE, Objective, Point, minimum

_RESCANS = 5


def heterogeneity(objective: Objective, start: Point) -> tuple[Array, Point, Array]:
    """Find Paule and Mandel's τ² and the minimum of Q there.

    Parameters
    ----------
    objective : Objective
        Q.
    start : Point
        Minimum at τ² = 0.

    Returns
    -------
    tau2 : ndarray, shape (sequences,)
        0 where Q is not above its degrees of freedom.
    point : Point
        Global minimum at τ².
    scan : ndarray, shape (nodes, sequences)
        Q at the nodes at τ²; NaN where τ² = 0.
    """
    tau2 = np.zeros(len(start.q))
    scan = np.full((len(objective.nodes), len(tau2)), np.nan)
    index = np.flatnonzero(start.q > objective.df)
    point = start
    # Another minimum may be the lowest at τ²: then Q there is below its degrees of freedom, so
    # that τ² was too large, and the search goes on from there.
    for _ in range(_RESCANS):
        if not index.size:
            break
        rows = objective.rows(index)
        tau2[index], found = _follow(rows, point.at(index), tau2[index])
        scan[:, index] = rows.scan(tau2[index])
        lowest = minimum(rows, tau2[index], scan[:, index])
        other = lowest.q < found.q * (1.0 - 1e-8)
        point = point.with_rows(index, found)
        point = point.with_rows(index[other], lowest.at(other))
        index = index[other]
    df = objective.df
    for row in np.flatnonzero(np.abs(point.q - df) > 1e-9 * df):
        if start.q[row] > df:
            one = np.array([row])
            tau2[one], found, scan[:, one] = _bracketed(objective.rows(one))
            point = point.with_rows(one, found)
    return tau2, point, scan


def _bracketed(objective: Objective) -> tuple[Array, Point, Array]:
    """Find τ² of one sequence with the global minimum at every step: slow, but sure."""

    def excess(tau2: float) -> float:
        at = np.array([tau2])
        return float(minimum(objective, at, objective.scan(at)).q[0]) - objective.df

    high = float(objective.y.var()) + float(objective.ratio[0] * objective.se_x[0]) ** 2
    while excess(high) > 0.0:
        high *= 4.0
    if not np.isfinite(high):
        tau2 = np.array([np.nan])
    else:
        tau2 = np.array([brentq(excess, 0.0, high, xtol=1e-14 * high, rtol=1e-13)])
    scan = objective.scan(tau2)
    return tau2, minimum(objective, tau2, scan), scan


def _follow(objective: Objective, start: Point, tau2: Array) -> tuple[Array, Point]:
    """Solve Q̇ = 0 and Q = df together by Newton's method from a minimum at some τ².

    For τ² the equation is 1/Q = 1/df: for independent instruments 1/Q is concave in τ² and
    nearly a line, so that Newton's steps from below neither overshoot nor dawdle.
    """
    count = len(tau2)
    tau2 = tau2.copy()
    a, b = start.a.copy(), start.b.copy()
    low, high = np.zeros(count), np.full(count, np.inf)
    q, curvature = start.q.copy(), start.curvature.copy()
    active = np.arange(count)
    current = objective
    df = objective.df
    for _ in range(ITERATIONS):
        d = current.derivatives(a[active], b[active], tau2[active])
        at = tau2[active]
        convex = d.curvature > 0
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = -d.slope / d.curvature
            gain = -0.5 * d.slope * newton
            least = d.q - gain
            falling = -(d.by_tau2 + newton * d.slope_by_tau2)
            target = at + least * (least - df) / (df * falling)
            se = np.sqrt(2.0 / d.curvature)
        # Far from the minimum of Q `least` is a guess, which must not exclude any τ².
        low[active] = np.where(convex & (gain < 0.01 * (d.q - df)), at, low[active])
        high[active] = np.where(d.q <= df, at, high[active])
        bounded = np.isfinite(high[active])
        half = np.where(bounded, 0.5 * (low[active] + high[active]), 2.0 * at)
        inside = (target >= low[active]) & (target <= high[active])
        target = np.where(convex, np.where(inside, target, half), at)
        with np.errstate(divide="ignore", invalid="ignore"):
            turn = newton - (target - at) * d.slope_by_tau2 / d.curvature
        downhill = np.where(d.slope > 0, -0.1, 0.1)
        turn = np.where(convex, np.clip(turn, -0.3, 0.3), downhill)
        q[active], curvature[active] = d.q, d.curvature
        still = np.abs(target - at) > 1e-11 * target
        still |= ~(np.abs(turn) <= TOLERANCE * se)
        still &= np.isfinite(target) & np.isfinite(turn)
        tau2[active] = np.where(still, target, at)
        moved = np.where(still, turn, 0.0)
        size = 1.0 / np.sqrt(1.0 + moved * moved)
        a[active], b[active] = (
            (a[active] - moved * b[active]) * size,
            (b[active] + moved * a[active]) * size,
        )
        if not still.all():
            active = active[still]
            if not active.size:
                break
            current = current.rows(still)
    flip = np.where(a < 0, -1.0, 1.0)
    return tau2, Point(a * flip, b * flip, q, curvature)
