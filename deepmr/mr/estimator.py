"""What an estimator is: its input, its two kinds of output, and its entry in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr

Array = NDArray[np.float64]

CENTRES = ("draws", "mean_effects")


@dataclass(frozen=True, eq=False)
class Group:
    """Effects of sequences that have the same number of instruments; nothing is missing.

    Sums must run over the last axis of C-contiguous arrays and nothing may depend on the number
    of sequences (no matrix product), so that a result never depends on its neighbours.

    Attributes
    ----------
    bx, se_x, by, se_y : ndarray, shape (sequences, instruments)
        Effects on exposure and outcome with their standard errors; se_y > 0.
    draws_x, draws_y : ndarray, shape (sequences, draws, instruments) or None
        The effects in every draw.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    draws_x: Array | None = None
    draws_y: Array | None = None

    @property
    def weights(self) -> Array:
        """First-order inverse-variance weights 1/se_y^2, shape (sequences, instruments)."""
        return np.asarray(1.0 / (self.se_y * self.se_y))


@dataclass(frozen=True)
class Options:
    """Settings of the estimators.

    Attributes
    ----------
    seed : int
        Seed of every bootstrap.
    bootstrap_iterations : int
        Replicates of the diagonal standard error of the weighted median.
    centre : str
        Where draw-wise estimates stand: ``draws``, the mean over draws (Rubin), or
        ``mean_effects``, the estimate from the mean effects, the draws being shifted onto it.
        See `deepmr.mr.drawwise`.
    """

    seed: int = 0
    bootstrap_iterations: int = 1000
    centre: str = "draws"

    def __post_init__(self) -> None:
        """Refuse an unknown centre."""
        if self.centre not in CENTRES:
            raise ValueError(
                f"centre {self.centre!r} is unknown; write one of {', '.join(CENTRES)}"
            )


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimate from mean effects with the diagonal (independence) standard error, (sequences,).

    `q` is Cochran's Q about the fitted line with its p-value; `intercept` belongs to the
    exposure-increasing orientation. None where the method has no such thing.
    """

    estimate: Array
    se: Array
    q: Array | None = None
    q_p: Array | None = None
    intercept: Array | None = None
    intercept_se: Array | None = None
    intercept_p: Array | None = None


@dataclass(frozen=True, eq=False)
class DrawFit:
    """The same estimator in every draw; see `deepmr.mr.drawwise` for the two within-draw SEs.

    Attributes
    ----------
    estimates : ndarray, shape (sequences, draws)
        Estimate of each draw.
    se : ndarray, shape (sequences, draws)
        Standard error of each draw's own fit, from its residuals; never floored.
    se_within : ndarray, shape (sequences,)
        Scatter of the instruments with the share of the model's error removed.
    """

    estimates: Array
    se: Array
    se_within: Array


@dataclass(frozen=True)
class Estimator:
    """An entry of the registry.

    Attributes
    ----------
    name : str
        As in the configuration and in the tables.
    minimum : int
        Fewest instruments it can work with.
    fit : callable
        ``fit(group, options) -> Fit``.
    fit_draws : callable
        ``fit_draws(group) -> DrawFit``; weights, orientation and instruments come from the mean
        effects and are the same in every draw.
    """

    name: str
    minimum: int
    fit: Callable[[Group, Options], Fit]
    fit_draws: Callable[[Group], DrawFit]


def drawn(group: Group) -> tuple[Array, Array]:
    """Return the draws of a group, which must have some."""
    if group.draws_x is None or group.draws_y is None:
        raise ValueError("this group has no draws; give draws_x and draws_y")
    return group.draws_x, group.draws_y


def two_sided_p(z: Array) -> Array:
    """Two-sided normal p-value by the survival function (R's 1 - pnorm is 0 beyond z = 8.3)."""
    return np.asarray(2.0 * ndtr(-np.abs(z)))


def chi2_p(q: Array, df: int) -> Array:
    """Upper tail of a chi-squared distribution; NaN without degrees of freedom."""
    return np.asarray(chdtrc(df, q)) if df > 0 else np.full_like(q, np.nan)
