r"""The profiled quadratic form of a line through effects with errors in both, and its minimum.

    Q(θ, τ²) = min_c (y - θ x - c 1)' V(θ, τ²)⁻¹ (y - θ x - c 1),

with c = 0 where there is no intercept. Minus a constant it is -2 log of the likelihood profiled
over the true effects, up to log|V|, which that likelihood does not hold. θ = unit · b/a with a² +
b² = 1 is treated as the direction (a, b) at the angle φ: Q is then periodic and smooth in φ, and
slopes without bound are nothing special. With r = a y - b unit x, s = P r, P = V⁻¹ - V⁻¹1(1'V⁻¹1)⁻¹
1'V⁻¹ (or V⁻¹), dots for derivatives by φ and g = ṙ - V̇ s (since 1's = 0 all of this holds with and
without intercept):

    Q̇ = 2 s'ṙ - s'V̇s,   Q̈ = 2 g'Pg - 2 s'r - s'V̈s,
    ∂Q/∂τ² = -a² s's,   ∂Q̇/∂τ² = -2a² g'Ps + 2ab s's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.covariance import Errors, Index

Direction = tuple[Array, Array]

TOLERANCE = 1e-10
"""Newton's last step, in standard errors; the next one would be about its square."""
ITERATIONS = 100


def _nodes(positive: Array) -> Array:
    """Return ascending slopes, the last one infinite."""
    return np.concatenate([-positive[::-1], [0.0], positive, [np.inf]])


FINE = _nodes(np.tan(np.linspace(0.0, np.pi / 2, 22)[1:-1]))
COARSE = _nodes(np.array([0.1, 0.3, 0.6, 1.0, 1.6, 3.0, 10.0]))


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Q and its derivatives at a direction, each of shape (sequences,)."""

    q: Array
    slope: Array
    curvature: Array
    by_tau2: Array
    slope_by_tau2: Array


@dataclass(frozen=True, eq=False)
class Point:
    """A direction for each sequence, with Q and its curvature there; all (sequences,)."""

    a: Array
    b: Array
    q: Array
    curvature: Array

    def at(self, index: Index) -> Point:
        """Return some of the sequences."""
        return Point(self.a[index], self.b[index], self.q[index], self.curvature[index])

    def with_rows(self, index: Index, other: Point) -> Point:
        """Return a copy in which some sequences are replaced."""
        arrays = []
        for name in ("a", "b", "q", "curvature"):
            values = getattr(self, name).copy()
            values[index] = getattr(other, name)
            arrays.append(values)
        return Point(*arrays)


@dataclass(frozen=True, eq=False)
class Objective:
    """Q of sequences with the same number of instruments.

    Attributes
    ----------
    x, y : ndarray, shape (sequences, instruments)
        Effects; oriented, as `errors`, where there is an intercept.
    errors : Errors
        Their covariance.
    ratio : ndarray, shape (sequences,)
        Typical se_y/se_x, the slope's natural scale.
    se_x : ndarray, shape (sequences,)
        Typical se_x.
    intercept : bool
        Whether the line has an intercept.
    nodes : ndarray
        Slopes at which to look for the minimum, in units of `ratio`: `FINE` or `COARSE`.
    """

    x: Array
    y: Array
    errors: Errors
    ratio: Array
    se_x: Array
    intercept: bool
    nodes: Array

    @property
    def unit(self) -> Array:
        """A power of 2 near `ratio`, so that scaling by it is exact."""
        return np.ldexp(1.0, np.frexp(self.ratio)[1])

    @property
    def df(self) -> int:
        """Degrees of freedom of Q at its minimum."""
        return self.x.shape[1] - 1 - int(self.intercept)

    def rows(self, index: Index) -> Objective:
        """Return some of the sequences."""
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            errors=self.errors.rows(index),
            ratio=self.ratio[index],
            se_x=self.se_x[index],
        )

    def value(self, a: Array, b: Array, tau2: Array) -> Array:
        """Return Q at directions (a, b), shape (sequences,)."""
        scaled = self.unit * b
        solve = self.errors.solver(a, scaled, tau2)
        r = a[:, None] * self.y - scaled[:, None] * self.x
        s = solve(r)
        q = (r * s).sum(axis=-1)
        if self.intercept:
            ones = solve(np.ones_like(r))
            q = q - s.sum(axis=-1) ** 2 / ones.sum(axis=-1)
        return np.asarray(q)

    def derivatives(self, a: Array, b: Array, tau2: Array) -> Derivatives:
        """Return Q and its derivatives at directions (a, b)."""
        project, r, r_dot, s = self._residuals(a, b, tau2)
        yy, xy, xx = self._products(s, tau2)
        ab, difference = 2.0 * a * b, a * a - b * b
        v_dot_s = -ab[:, None] * (yy - xx) - difference[:, None] * xy
        v_dots_s = 2.0 * (ab[:, None] * xy - difference[:, None] * (yy - xx))
        g = r_dot - v_dot_s
        p_g = project(g)
        q = (r * s).sum(axis=-1)
        squares = (s * s).sum(axis=-1)
        return Derivatives(
            q,
            2.0 * (s * r_dot).sum(axis=-1) - (s * v_dot_s).sum(axis=-1),
            2.0 * (g * p_g).sum(axis=-1) - 2.0 * q - (s * v_dots_s).sum(axis=-1),
            -a * a * squares,
            -2.0 * a * a * (s * p_g).sum(axis=-1) + ab * squares,
        )

    def information(self, a: Array, b: Array, tau2: Array) -> tuple[Array, Array]:
        """Return the variance of the estimating function -Q̇/2, and what it is made of.

        With d = ṙ - ½V̇s, the derivative of the residuals less what their own errors explain of
        it, the variance is d'Pd, and the error of the effects acts through Pd.

        Returns
        -------
        information : ndarray, shape (sequences,)
        influence : ndarray, shape (sequences, instruments)
            Pd: the change of the function for an error in r.
        """
        project, _, r_dot, s = self._residuals(a, b, tau2)
        yy, xy, xx = self._products(s, tau2)
        d = r_dot + (a * b)[:, None] * (yy - xx) + (0.5 * (a * a - b * b))[:, None] * xy
        influence = project(d)
        return (d * influence).sum(axis=-1), influence

    def _residuals(
        self, a: Array, b: Array, tau2: Array
    ) -> tuple[Callable[[Array], Array], Array, Array, Array]:
        """Return the function v -> Pv, and r, ṙ and s = Pr."""
        unit = self.unit
        scaled = unit * b
        solve = self.errors.solver(a, scaled, tau2)
        ones = solve(np.ones_like(self.x)) if self.intercept else None

        def project(v: Array) -> Array:
            solved = solve(v)
            if ones is None:
                return solved
            share = solved.sum(axis=-1) / ones.sum(axis=-1)
            return np.asarray(solved - share[:, None] * ones)

        r = a[:, None] * self.y - scaled[:, None] * self.x
        r_dot = -b[:, None] * self.y - (unit * a)[:, None] * self.x
        return project, r, r_dot, project(r)

    def _products(self, s: Array, tau2: Array) -> tuple[Array, Array, Array]:
        """Return the products of s with the parts of V, x in units of the slope's."""
        yy, xy, xx = self.errors.products(s)
        unit = self.unit[:, None]
        return yy + tau2[:, None] * s, unit * xy, (unit * unit) * xx

    def directions(self, tau2: Array) -> Direction:
        """Return the directions of the nodes, both of shape (nodes, sequences).

        The slope's natural scale grows with the heterogeneity.
        """
        scale = np.sqrt(self.ratio**2 + tau2 / self.se_x**2) / self.unit
        slopes = self.nodes[:, None] * scale
        finite = np.isfinite(self.nodes)[:, None]
        slopes = np.where(finite, slopes, 0.0)
        a = np.where(finite, 1.0 / np.sqrt(1.0 + slopes * slopes), 0.0)
        return a, np.where(finite, slopes * a, 1.0)

    def scan(self, tau2: Array) -> Array:
        """Return Q at the nodes, shape (nodes, sequences)."""
        a, b = self.directions(tau2)
        return np.stack([self.value(a[k], b[k], tau2) for k in range(len(self.nodes))])


def minimum(objective: Objective, tau2: Array, scan: Array) -> Point:
    """Find the global minimum of Q over the slope.

    Every local minimum among the nodes is followed down, and the lowest is taken.

    Parameters
    ----------
    objective : Objective
        Q.
    tau2 : ndarray, shape (sequences,)
        Heterogeneity.
    scan : ndarray, shape (nodes, sequences)
        Q at the nodes.

    Returns
    -------
    Point
        To machine precision.
    """
    a, b = objective.directions(tau2)
    below = np.roll(scan, 1, axis=0)
    above = np.roll(scan, -1, axis=0)
    local = (scan <= below) & (scan < above)
    # Where all nodes are equal (no effects) or NaN there is no local minimum; take the first.
    local[0] |= ~local.any(axis=0)
    height = np.fmin(scan, np.finfo(np.float64).max)
    order = np.argsort(np.where(local, height, np.inf), axis=0, kind="stable")
    count = len(scan)
    best = None
    for rank in range(int(local.sum(axis=0).max())):
        chosen = order[rank]
        index = np.flatnonzero(local[chosen, np.arange(len(chosen))])
        node = chosen[index]
        before, after = (node - 1) % count, (node + 1) % count
        found = _descend(
            objective.rows(index),
            (a[node, index], b[node, index]),
            (a[before, index], b[before, index]),
            (a[after, index], b[after, index]),
            tau2[index],
        )
        if best is None:
            best = found
            continue
        lower = found.q < best.q[index]
        best = best.with_rows(index[lower], found.at(lower))
    assert best is not None
    return best


def _descend(
    objective: Objective, middle: Direction, before: Direction, after: Direction, tau2: Array
) -> Point:
    """Find the minimum between two directions around a third by safeguarded Newton steps.

    w = tan(φ - φ_0) places a direction relative to the middle one; the neighbours are less than
    a right angle away.
    """
    a, b = middle

    def place(direction: Direction) -> Array:
        p, q = direction
        return np.asarray((a * q - b * p) / (a * p + b * q))

    count = len(a)
    w, low, high = np.zeros(count), place(before), place(after)
    result = [np.empty(count) for _ in range(4)]
    active = np.arange(count)
    current = objective
    for _ in range(ITERATIONS):
        at = w[active]
        size = 1.0 / np.sqrt(1.0 + at * at)
        p = (a[active] - at * b[active]) * size
        q = (b[active] + at * a[active]) * size
        d = current.derivatives(p, q, tau2[active])
        high[active] = np.where(d.slope > 0, at, high[active])
        low[active] = np.where(d.slope > 0, low[active], at)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = -d.slope / d.curvature
            newton = at + step * (1.0 + at * at)
            close = np.abs(step) <= TOLERANCE * np.sqrt(2.0 / d.curvature)
        good = (d.curvature > 0) & (newton > low[active]) & (newton < high[active])
        half = 0.5 * (low[active] + high[active])
        w[active] = np.where(close, at, np.where(good, newton, half))
        for kept, value in zip(result, (p, q, d.q, d.curvature), strict=True):
            kept[active] = value
        moving = ~close & (high[active] - low[active] > 4e-16) & np.isfinite(d.slope)
        if not moving.all():
            active = active[moving]
            if not active.size:
                break
            current = current.rows(moving)
    flip = np.where(result[0] < 0, -1.0, 1.0)
    return Point(result[0] * flip, result[1] * flip, result[2], result[3])
