"""What an estimator is: its input, its two kinds of output, and its entry in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, ndtr

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Group:
    """Effects of sequences that have the same number of instruments; nothing is missing.

    The result of a sequence must not depend on its neighbours: sums run over the last axis of
    C-contiguous arrays, and a matrix product belongs to one sequence.

    Attributes
    ----------
    bx, se_x, by, se_y : ndarray, shape (sequences, instruments)
        Effects on exposure and outcome with their standard errors; finite, and both SEs > 0.
    draws_x, draws_y : ndarray, shape (sequences, draws, instruments) or None
        The effects in every draw.
    rho_xy : ndarray, shape (sequences, instruments) or None
        Correlation of the two errors of an instrument, inside (-1, 1).
    correlation : ndarray, shape (sequences, instruments, instruments) or None
        Correlation of the errors of different instruments: symmetric, positive definite.
    given_anchor_x, given_anchor_y : ndarray, shape (sequences, instruments) or None
        What decides weights, orientation and bandwidth where it is not bx and by: the mean
        effects, when this group holds the effects of single draws.
    positions : ndarray of int, shape (sequences, instruments) or None
        Position of each instrument in its sequence; alleles of one position share it.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    draws_x: Array | None = None
    draws_y: Array | None = None
    rho_xy: Array | None = None
    correlation: Array | None = None
    given_anchor_x: Array | None = None
    given_anchor_y: Array | None = None
    positions: NDArray[np.int64] | None = None

    @property
    def weights(self) -> Array:
        """First-order inverse-variance weights 1/se_y^2, shape (sequences, instruments)."""
        return np.asarray(1.0 / (self.se_y * self.se_y))

    @property
    def anchor_x(self) -> Array:
        """Exposure effects that decide weights and orientation, the same in every draw."""
        return self.bx if self.given_anchor_x is None else self.given_anchor_x

    @property
    def anchor_y(self) -> Array:
        """Outcome effects that decide weights, the same in every draw."""
        return self.by if self.given_anchor_y is None else self.given_anchor_y

    @property
    def error_correlation(self) -> Array:
        """`rho_xy` as given, or over the draws, or 0; shape (sequences, instruments)."""
        if self.rho_xy is not None:
            return self.rho_xy
        if self.draws_x is None or self.draws_y is None:
            return np.zeros_like(self.bx)
        x = self.draws_x - self.draws_x.mean(axis=1, keepdims=True)
        y = self.draws_y - self.draws_y.mean(axis=1, keepdims=True)
        size = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
        product = (x * y).sum(axis=1)
        rho = np.divide(product, size, out=np.zeros_like(size), where=size > 0)
        return np.clip(rho, -0.999, 0.999)


CENTRES = ("draws", "mean_effects")
DISTRIBUTIONS = ("normal", "t")
ORDERS = ("first", "second")
LOSSES = ("l2", "huber", "tukey")


@dataclass(frozen=True)
class Options:
    """Settings of the estimators.

    Attributes
    ----------
    seed : int
        Seed of every bootstrap and simulation.
    bootstrap_iterations : int
        Replicates of the diagonal standard error of medians and modes; with 0 it is a closed
        form (Woodruff's interval for a median, the sandwich for a mode).
    centre : str
        Where draw-wise estimates stand: ``draws``, the mean over draws (Rubin), or
        ``mean_effects``, the estimate from the mean effects, the draws being shifted onto it.
        See `deepmr.mr.drawwise`.
    distribution : str
        Reference of interval and p-value of the regressions and modes: ``normal`` or ``t``.
    penalized : bool
        Weigh down heterogeneous instruments in ``ivw``, ``ivw_fixed``, ``ivw_delta``, ``egger``.
    robust : bool
        MM-regression (bisquare) instead of least squares in the same.
    median_order, mode_order : str
        Order of the delta method behind the weights of medians (``first`` as R's
        MendelianRandomization, ``second`` as TwoSampleMR) and modes.
    phi : float
        Factor of the bandwidth of the modes.
    loss : str
        Loss of ``raps``: ``l2``, ``huber`` or ``tukey``.
    overdispersion : bool
        Let ``raps`` and ``divw`` estimate a variance of balanced pleiotropy.
    contamination_sd : float or None
        SD of the invalid instruments' ratio estimates in ``contamination_mixture``; None is
        1.5 times the SD of the ratio estimates.
    presso_iterations : int
        Simulations behind the p-values of ``mr_presso``.
    presso_significance : float
        Level at which ``mr_presso`` calls an instrument an outlier.
    scale_errors : bool
        Let ``bayesian_mode`` learn a common factor phi of the standard errors.
    bayesian_instruments : int
        ``bayesian_mode`` uses this many instruments, the most informative, where there are more.
    weak_f : float
        ``profile`` gives a set robust to weak instruments where the mean F, in the metric of the
        errors' covariance, is below this.
    draw_covariance : bool
        Let ``profile`` and ``egger_profile`` put the covariance that different mutations have over
        the draws into their likelihood. It must be that of an error of the mean effects; the
        spread of a network's draws often is not (``docs/estimators.md``).
    """

    seed: int = 0
    bootstrap_iterations: int = 1000
    centre: str = "draws"
    distribution: str = "normal"
    penalized: bool = False
    robust: bool = False
    median_order: str = "first"
    mode_order: str = "second"
    phi: float = 1.0
    loss: str = "l2"
    overdispersion: bool = True
    contamination_sd: float | None = None
    presso_iterations: int = 1000
    presso_significance: float = 0.05
    scale_errors: bool = True
    bayesian_instruments: int = 300
    weak_f: float = 10.0
    draw_covariance: bool = False

    def __post_init__(self) -> None:
        """Refuse what no estimator knows."""
        for name, known in (
            ("centre", CENTRES),
            ("distribution", DISTRIBUTIONS),
            ("median_order", ORDERS),
            ("mode_order", ORDERS),
            ("loss", LOSSES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; write one of {', '.join(known)}")
        for name in ("phi", "contamination_sd"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be greater than 0; found {value!r}")
        for name in ("presso_iterations", "bayesian_instruments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; found {getattr(self, name)!r}")
        if self.bootstrap_iterations != 0 and self.bootstrap_iterations < 2:
            raise ValueError(
                f"bootstrap_iterations must be 0 or at least 2; found {self.bootstrap_iterations}"
            )
        if not 0 < self.presso_significance < 1:
            raise ValueError(
                f"presso_significance must lie between 0 and 1; found {self.presso_significance}"
            )


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimate from mean effects with its own standard error; every array is (sequences,).

    None where a method has no such thing, NaN where a sequence has no value.

    Attributes
    ----------
    estimate, se : ndarray
        Causal effect (outcome per exposure) and its standard error.
    df : float
        Degrees of freedom of the reference distribution of a Wald interval; infinite is normal.
    ci_low, ci_high, p_value : ndarray, optional
        Interval and p-value where they are not Wald's; all three or none. Hull of `ci_set`.
    ci_kind : ndarray of object, optional
        What the interval is (``wald`` when left out): ``clr``, ``hpd``, ``likelihood``.
    ci_set : list of ndarray, shape (intervals, 2), optional
        The 95 % set of each sequence where it may be more than one interval.
    se_unfloored : ndarray, optional
        Standard error with the multiplicative scale not floored at 1.
    se_model : ndarray, optional
        The part of `se` that the errors of the effects alone would give; what is above it is
        scatter of the instruments. Where it is None all of `se` counts as scatter.
    q, q_p : ndarray, optional
        Cochran's Q about the fitted line, with its p-value.
    q_df : int
        Its degrees of freedom.
    tau2 : ndarray, optional
        Variance of the instruments' own effects on the outcome (additive heterogeneity).
    intercept, intercept_se, intercept_p : ndarray, optional
        In the exposure-increasing orientation.
    n_valid : ndarray, optional
        Instruments taken for valid (a posterior expectation may be fractional).
    n_modes : ndarray, optional
        Modes of the posterior or density.
    p_valid : ndarray, shape (sequences, instruments), optional
        Probability that an instrument is valid, or 1 and 0.
    p_global, p_distortion : ndarray, optional
        Tests of ``mr_presso``.
    status : ndarray of object, optional
        Why a sequence has no estimate; ``ok`` where it has.
    holds_draws : bool
        Whether `se` and interval already hold the covariance over the draws, so that with draws
        they are reported, and not Rubin's combination.
    """

    estimate: Array
    se: Array
    df: float = np.inf
    ci_low: Array | None = None
    ci_high: Array | None = None
    p_value: Array | None = None
    ci_kind: NDArray[np.object_] | None = None
    ci_set: list[Array] | None = None
    se_unfloored: Array | None = None
    se_model: Array | None = None
    q: Array | None = None
    q_p: Array | None = None
    q_df: int = 0
    tau2: Array | None = None
    intercept: Array | None = None
    intercept_se: Array | None = None
    intercept_p: Array | None = None
    n_valid: Array | None = None
    n_modes: Array | None = None
    p_valid: Array | None = None
    p_global: Array | None = None
    p_distortion: Array | None = None
    status: NDArray[np.object_] | None = None
    holds_draws: bool = False


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
        ``fit_draws(group, options) -> DrawFit``; weights, orientation and instruments come from
        the mean effects and are the same in every draw. `deepmr.mr.drawwise.refit` makes it of
        any `fit`.
    uses : frozenset of str
        Which of ``rho_xy`` and ``correlation`` change its answer.
    """

    name: str
    minimum: int
    fit: Callable[[Group, Options], Fit]
    fit_draws: Callable[[Group, Options], DrawFit]
    uses: frozenset[str] = field(default_factory=frozenset)


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
