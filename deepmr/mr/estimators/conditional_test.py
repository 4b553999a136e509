r"""Conditional likelihood ratio test and its 95 % set: right however weak the instruments are.

Moreira (Econometrica 2003;71:1027): the likelihood ratio LR(θ) = Q(θ) - min Q depends on the
strength of the instruments only through Q_T(θ), which is independent of it under θ; the test
conditions on it. In terms of effects and their covariance Q_T = J - Q(θ), J = [x; y]' Σ⁻¹ [x; y]
(one J for all θ, since x and y are one to one with the residuals at θ and what is independent of
them). Given Q_T = t, with k instruments,

    P(LR <= m) = E[ F₁( m (1 - W/(m + t))₊ ) ],   W ~ χ²(k - 1), F₁ the distribution of χ²(1);

which is the integral of Andrews, Moreira and Stock (J Econometrics 2007;139:116) over the other of
the two independent variables, z² + W = Q(θ): LR <= m is z² <= m (m + t - W)/(m + t).

It is exact where the errors of all instruments have the same covariance up to a factor (the case
of a correlation matrix with one rho and constant ratio of the SEs) and an approximation else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtrc, chdtri, gammaln

from deepmr.mr.estimator import Array

LEVEL = 0.05
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_SMALLEST = 1e-300


def conditional_p(ratio: Array, strength: Array, instruments: int) -> Array:
    """P-value of the conditional likelihood ratio test.

    Parameters
    ----------
    ratio : ndarray
        LR, at least 0.
    strength : ndarray, same shape
        Q_T, at least 0.
    instruments : int
        k.

    Returns
    -------
    ndarray, same shape
    """
    m = np.maximum(np.asarray(ratio, np.float64), 0.0)
    t = np.maximum(np.asarray(strength, np.float64), 0.0)
    df = instruments - 1
    if df == 0:
        return np.asarray(chdtrc(1, m))
    top = m + t
    positive = top > 0
    safe = np.where(positive, top, 1.0)
    # Large LR tilt the weight of W by exp(W m/(2 top)).
    high = np.minimum(chdtri(df, 1e-17) * safe / np.maximum(t, 1e-3 * safe), safe)
    low = np.minimum(chdtri(df, 1.0 - 1e-15), 0.5 * high)
    # W = top sin² takes the square roots at both ends out of the integrand.
    start, end = np.arcsin(np.sqrt(low / safe)), np.arcsin(np.sqrt(high / safe))
    angle = start[..., None] + (end - start)[..., None] * (0.5 * (_NODES + 1.0))
    w = safe[..., None] * np.sin(angle) ** 2
    slope = 2.0 * safe[..., None] * np.sin(angle) * np.cos(angle)
    density = np.exp(
        (0.5 * df - 1.0) * np.log(w) - 0.5 * w - 0.5 * df * np.log(2.0) - gammaln(0.5 * df)
    )
    inner = chdtrc(1, m[..., None] * np.cos(angle) ** 2)
    p = (inner * density * slope * _WEIGHTS).sum(axis=-1) * 0.5 * (end - start)
    return np.where(positive, np.minimum(p + chdtrc(df, safe), 1.0), 1.0)


def confidence_set(
    p_value: Callable[[float, float], float],
    a: Array,
    b: Array,
    p: Array,
    peak: int,
) -> Array:
    """Find the slopes whose p-value is at least `LEVEL`.

    Parameters
    ----------
    p_value : callable
        P-value of the slope b/a.
    a, b : ndarray, shape (directions,)
        Directions in ascending order of the slope; the last is infinite (a = 0).
    p : ndarray, shape (directions,)
        P-values there.
    peak : int
        Where among them the estimate is; its p-value is 1.

    Returns
    -------
    ndarray, shape (intervals, 2)
        Ordered, possibly with -inf or inf; one interval, two rays, or everything.
    """
    inside = p >= LEVEL
    inside[peak] = True
    if inside.all():
        return np.array([[-np.inf, np.inf]])
    count = len(a)
    crossings: list[tuple[float, bool]] = []
    for i in range(count):
        before = (i - 1) % count
        if inside[before] == inside[i]:
            continue
        ends = _aligned(a[before], b[before], a[i], b[i])
        crossings.append((_crossing(p_value, *ends), bool(inside[i])))
    crossings.sort()
    starts = [slope for slope, opens in crossings if opens]
    ends_ = [slope for slope, opens in crossings if not opens]
    if ends_[0] < starts[0]:
        starts = [-np.inf, *starts]
        ends_ = [*ends_, np.inf]
    return np.array(list(zip(starts, ends_, strict=True)))


def _aligned(a: float, b: float, c: float, d: float) -> tuple[float, float, float, float]:
    """Return two directions, the second turned by half a circle where that is nearer."""
    return (a, b, c, d) if a * c + b * d >= 0 else (a, b, -c, -d)


def _crossing(
    p_value: Callable[[float, float], float], a: float, b: float, c: float, d: float
) -> float:
    """Return the slope between two directions at which the p-value is `LEVEL`."""

    def excess(share: float) -> float:
        p, q = (1.0 - share) * a + share * c, (1.0 - share) * b + share * d
        size = np.hypot(p, q)
        return float(np.log(max(p_value(p / size, q / size), _SMALLEST) / LEVEL))

    first, last = excess(0.0), excess(1.0)
    # At a p-value equal to the level rounding may put both ends on one side.
    share = 0.5
    if first * last < 0:
        share = brentq(excess, 0.0, 1.0, xtol=1e-13, rtol=1e-12)
    elif first != last:
        share = 0.0 if abs(first) < abs(last) else 1.0
    return float(((1.0 - share) * b + share * d) / ((1.0 - share) * a + share * c))
