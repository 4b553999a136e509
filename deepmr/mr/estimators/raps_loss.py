r"""Losses of `deepmr.mr.estimators.raps` with their moments at the normal distribution.

l2: t^2/2. Huber (Ann Math Stat 1964;35:73): linear beyond 1.345. Tukey's biweight (Beaton and
Tukey, Technometrics 1974;16:147): constant beyond 4.685.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepmr.mr.estimator import Array


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
"""Both corners give an efficiency of 95 % at the normal."""


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
