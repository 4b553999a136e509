r"""Likelihood of estimates with correlated errors, and its maximum.

    y ~ N(mu 1, V + tau2 I + omega2 Z Z')

with mu profiled out. The maxima are roots of the derivative, found between points of a grid that
tell its sign: a likelihood of variances may have several, and the highest is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri

from deepmr.meta.dependence.error_covariance import ErrorCovariance
from deepmr.meta.dependence.marginal import Array, Marginal, Membership

_GRID = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 9)])
"""Shares of the largest variance that can maximise the likelihood."""
_DOUBLINGS = 200
_ITERATIONS = 1000
_TAILS = (0.025, 0.975)


@dataclass(frozen=True)
class Point:
    """The likelihood at one pair of variances.

    Attributes
    ----------
    tau2, omega2 : float
        Variances between sequences and between clusters.
    mean, information : float
        The mean that is best there, and the inverse of its variance.
    q : float
        y'Py, the weighted squares about the mean.
    log_likelihood : float
        That of metafor's `rma.mv`, restricted or not.
    slope_tau2, slope_omega2 : float
        Its derivatives.
    """

    tau2: float
    omega2: float
    mean: float
    information: float
    q: float
    log_likelihood: float
    slope_tau2: float
    slope_omega2: float


@dataclass(frozen=True, eq=False)
class Model:
    """Data of a fit, in the coordinates in which V is diagonal plus low rank.

    Attributes
    ----------
    covariance : ErrorCovariance
        V of k >= 2 estimates.
    y, ones : ndarray, shape (k,)
        Q'y and Q'1.
    membership : Membership, or None
        Q'Z.
    restricted : bool
        REML, or else ML.
    """

    covariance: ErrorCovariance
    y: Array
    ones: Array
    membership: Membership | None
    restricted: bool

    def at(self, tau2: float, omega2: float = 0.0) -> Point:
        """Return the likelihood at these variances and at the mean that is best for them."""
        k = self.y.size
        marginal, ones, residual, mean, information, q = self._solved(tau2, omega2)
        log = -0.5 * (k * np.log(2.0 * np.pi) + marginal.logdet + q)
        trace, between = marginal.trace_of_inverse, marginal.trace_between_clusters
        if self.restricted:
            log += 0.5 * (np.log(2.0 * np.pi) + np.log(k) - np.log(information))
            trace -= float(ones @ ones) / information
            between -= self._between(ones) / information
        return Point(
            tau2,
            omega2,
            mean,
            information,
            q,
            float(log),
            0.5 * (float(residual @ residual) - trace),
            0.5 * (self._between(residual) - between),
        )

    def q_at(self, tau2: float) -> float:
        """Return y'Py at this tau2 and an omega2 of 0."""
        return self._solved(tau2, 0.0)[-1]

    def _solved(
        self, tau2: float, omega2: float
    ) -> tuple[Marginal, Array, Array, float, float, float]:
        """Return S, S^-1 1, P y, the mean, the inverse of its variance and y'Py."""
        marginal = self.covariance.plus(tau2, self.membership, omega2)
        ones, y = marginal.solve(np.column_stack([self.ones, self.y])).T
        information = float(self.ones @ ones)
        mean = float(self.ones @ y) / information
        residual = y - mean * ones
        q = float((self.y - mean * self.ones) @ residual)
        return marginal, ones, residual, mean, information, q

    def _between(self, x: Array) -> float:
        if self.membership is None:
            return 0.0
        sums = self.membership.sums(x[:, None])[:, 0]
        return float(sums @ sums)

    def highest_tau2(self, omega2: float) -> float:
        """Return a tau2 above which the likelihood falls.

        With s^2 the variance of y and l = tr(V + omega2 ZZ')/(k - 1), y'PPy is at most
        (k - 1) s^2/tau2^2 and tr P at least (k - 1)/(l + tau2) (Jensen), so the derivative
        (y'PPy - tr P)/2 is below 0 where tau2^2 > s^2 (l + tau2).
        """
        k = self.y.size
        y = self.covariance.backward(self.y)
        s2 = float(((y - y.mean()) ** 2).sum()) / (k - 1)
        level = (float(self.covariance.variances.sum()) + omega2 * k) / (k - 1)
        return 0.5 * s2 + float(np.sqrt(0.25 * s2 * s2 + s2 * level))

    def best_tau2(self, omega2: float = 0.0) -> Point:
        """Return the maximum over tau2 for a given omega2."""
        return _maximum(
            partial(self.at, omega2=omega2),
            lambda point: point.slope_tau2,
            self.highest_tau2(omega2),
        )

    def best(self) -> Point:
        """Return the maximum over tau2 and, with clusters, omega2."""
        if self.membership is None:
            return self.best_tau2()
        high = self.highest_tau2(0.0)
        for _ in range(_DOUBLINGS):
            if not self.best_tau2(high).slope_omega2 > 0:
                break
            high *= 2.0
        # At the best tau2 for each omega2 the derivative by omega2 is that of the profile.
        return _maximum(self.best_tau2, lambda point: point.slope_omega2, high)


def _maximum(
    likelihood: Callable[[float], Point], slope: Callable[[Point], float], high: float
) -> Point:
    """Return the highest of the maxima in 0 ... high that the grid tells apart."""
    points = [likelihood(float(x)) for x in high * _GRID]
    best = [points[0]] if slope(points[0]) <= 0 else []
    for left, right, x, y in zip(points, points[1:], high * _GRID, high * _GRID[1:], strict=False):
        if slope(left) > 0 >= slope(right):
            root = brentq(lambda t: slope(likelihood(t)), x, y, xtol=1e-15 * y, maxiter=_ITERATIONS)
            best.append(likelihood(root))
    return max(best or points, key=lambda point: point.log_likelihood)


def q_profile(model: Model) -> tuple[float, float]:
    """Return the values of tau2 at which y'Py is the .975 and the .025 quantile of chi^2."""
    ends = []
    for tail in _TAILS:
        level = float(chdtri(model.y.size - 1, tail))

        def excess(tau2: float, level: float = level) -> float:
            return model.q_at(tau2) - level

        if excess(0.0) <= 0:
            ends.append(0.0)
            continue
        high = model.highest_tau2(0.0)
        for _ in range(_DOUBLINGS):
            if excess(high) <= 0:
                break
            high *= 2.0
        ends.append(float(brentq(excess, 0.0, high, xtol=1e-15 * high, maxiter=_ITERATIONS)))
    return ends[0], ends[1]
