r"""MR-PRESSO: is there pleiotropy, which instruments are outliers, does leaving them out matter.

Verbanck, Chen, Neale and Do, Nat Genet 2018;50:693, one exposure, weights 1/se_y^2. theta_-j is the
IVW estimate without instrument j and e_j = by_j - theta_-j bx_j.

* Global test: RSS = sum e_j^2/se_y^2 against its distribution when by_j ~ N(theta_-j bx_j, se_y^2)
  and bx_j ~ N(bx_j, se_x^2), simulated.
* Outlier test, where the global test is significant: e_j against the same, with theta_-j as
  observed. The simulated e_j is then exactly N(0, se_y^2 + theta_-j^2 se_x^2), so that its p-value
  has a closed form; Bonferroni's correction multiplies it by n.
* Distortion test: how far the outliers move the estimate, (theta - theta_kept)/|theta_kept|,
  against the same with as many of the other instruments left out instead: the k outliers and
  n - 2k drawn with replacement from the rest. There is none if n <= 2k.

The estimate is IVW of the instruments kept. Its SE is floored as that of ``ivw``; MR-PRESSO's own
is `Fit.se_unfloored`, with its t distribution for ``distribution="t"``.

The R package counts the share of simulations beyond the observed value, prints "<1/N" for none, and
simulates the outlier test too, so that no corrected p-value lies between 0 and n/N; with n/N above
the level it calls an instrument an outlier only if no simulation is beyond. Here a simulated p is
(count + 1)/(N + 1), never 0, and valid at any N (Davison and Hinkley, Bootstrap Methods, 1997); the
outlier test is the limit of infinitely many simulations. Errors of bx and by that correlate by rho
are simulated so and subtract 2 theta rho se_x se_y above; the paper has rho = 0.

The random numbers depend on seed and number of instruments alone. A round costs O(n), because

    by - theta_-j bx = (by - theta bx)/(1 - h_j),    h_j = w_j bx_j^2/sum w bx^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from deepmr.mr.drawwise import scatter_without_draw_noise, student_interval
from deepmr.mr.estimator import (
    Array,
    DrawFit,
    Estimator,
    Fit,
    Group,
    Options,
    drawn,
    two_sided_p,
)

_BLOCK = 16_384
"""Random numbers used at once; more would leave the cache."""


@dataclass(frozen=True, eq=False)
class PressoTest:
    """What the global and the outlier test say.

    Attributes
    ----------
    rss, p_global : ndarray, shape (sequences,)
        Residual sum of squares, each residual about the line without its instrument, and its
        simulated p-value.
    squared_residual, p_outlier : ndarray, shape (sequences, instruments)
        e_j^2 (not weighted, as ``RSSobs`` of the R package's outlier test) and its p-value times
        n, at most 1. They are given whether or not the global test is significant.
    outlier : ndarray of bool, shape (sequences, instruments)
        Global test significant and p_outlier at most the level.
    """

    rss: Array
    p_global: Array
    squared_residual: Array
    p_outlier: Array
    outlier: NDArray[np.bool_]


def presso_test(group: Group, options: Options) -> PressoTest:
    """Test for pleiotropy and for outliers, of the anchors' effects.

    Parameters
    ----------
    group : Group
        At least two instruments with an exposure effect in each sequence; otherwise its values
        are NaN and there is no outlier.
    options : Options
        `presso_iterations`, `presso_significance` and `seed` count.

    Returns
    -------
    PressoTest
    """
    n_sequences, n = group.bx.shape
    rho = group.error_correlation
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # oriented to x >= 0, so that the simulated errors do not depend on the orientation
        scale = np.where(group.anchor_x < 0, -group.se_y, group.se_y)
        x, y = group.anchor_x / scale, group.anchor_y / scale
        ratio = group.se_x / group.se_y
        rest = (x * x).sum(axis=-1, keepdims=True) - x * x
        without = ((x * y).sum(axis=-1, keepdims=True) - x * y) / np.where(rest > 0, rest, np.nan)
        residual = y - without * x
        rss = (residual * residual).sum(axis=-1)
        error = 1.0 + without * ratio * (without * ratio - 2.0 * rho)
        p_outlier = np.minimum(n * two_sided_p(residual / np.sqrt(error)), 1.0)
    known = np.flatnonzero(np.isfinite(rss))
    count = np.zeros(n_sequences)
    generator = np.random.default_rng([options.seed, n])
    rounds = max(1, _BLOCK // n)
    free = np.sqrt(1.0 - rho * rho)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for start in range(0, options.presso_iterations, rounds):
            size = min(rounds, options.presso_iterations - start)
            noise_x, noise_y = generator.standard_normal((2, size, n))
            for i in known:
                simulated_x = x[i] + ratio[i] * noise_x
                simulated_y = without[i] * x[i] + free[i] * noise_y
                if rho[i].any():
                    simulated_y += rho[i] * noise_x
                count[i] += (_rss(simulated_x, simulated_y) >= rss[i]).sum()
    p_global = np.where(np.isfinite(rss), (count + 1) / (options.presso_iterations + 1), np.nan)
    significant = p_global < options.presso_significance
    return PressoTest(
        rss,
        p_global,
        residual * residual * group.se_y * group.se_y,
        p_outlier,
        significant[:, None] & (p_outlier <= options.presso_significance),
    )


def _rss(x: Array, y: Array) -> Array:
    """Sum the squared residuals, each about the line without its point, in every row.

    It writes into x.
    """
    total = np.einsum("ij,ij->i", x, x)
    residual = y - (np.einsum("ij,ij->i", x, y) / total)[:, None] * x
    x *= x
    x *= (-1.0 / total)[:, None]
    x += 1.0
    residual /= x
    return np.asarray(np.einsum("ij,ij->i", residual, residual))


def fit(group: Group, options: Options) -> Fit:
    """IVW without the outliers that the anchors show, and the tests.

    Returns
    -------
    Fit
        `p_valid` is 0 for outliers and 1 for the others, `n_valid` counts the latter; `q` is
        about the corrected line. Status ``all_outliers`` where fewer than two instruments stay.
    """
    test = presso_test(group, options)
    kept = ~test.outlier
    n_kept = kept.sum(axis=-1)
    weights = np.where(kept, group.weights, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        theta, information, q = _line(weights, group.bx, group.by)
        df = np.where(n_kept > 1, n_kept - 1.0, np.nan)
        scale = np.sqrt(q / df)
        se_model = 1.0 / np.sqrt(information)
        reference = df if options.distribution == "t" else np.inf
        se = np.maximum(scale, 1.0) * se_model
        ci_low, ci_high, p_value = student_interval(theta, se, reference)
    status = np.where(information > 0, "ok", "no_exposure_effect").astype(object)
    status[n_kept < 2] = "all_outliers"
    return Fit(
        np.where(n_kept > 1, theta, np.nan),
        se,
        ci_low=ci_low,
        ci_high=ci_high,
        p_value=p_value,
        se_unfloored=scale * se_model,
        se_model=se_model,
        q=q,
        q_p=np.asarray(chdtrc(df, q)),
        n_valid=n_kept.astype(np.float64),
        p_valid=kept.astype(np.float64),
        p_global=test.p_global,
        p_distortion=_distortion(group, test.outlier, options),
        status=status,
    )


def _line(weights: Array, bx: Array, by: Array) -> tuple[Array, Array, Array]:
    """Return slope through the origin, its information and the residual sum of squares."""
    information = (weights * bx * bx).sum(axis=-1)
    slope = (weights * bx * by).sum(axis=-1) / information
    residual = by - slope[..., None] * bx
    return slope, information, (weights * residual * residual).sum(axis=-1)


def _distortion(group: Group, outlier: NDArray[np.bool_], options: Options) -> Array:
    """Return the p-value of the distortion test; NaN where it cannot be made."""
    n_sequences, n = outlier.shape
    n_outliers = outlier.sum(axis=-1)
    p_value = np.full(n_sequences, np.nan)
    chosen = np.flatnonzero((n_outliers > 0) & (2 * n_outliers < n))
    if not len(chosen):
        return p_value
    uniform = np.random.default_rng([options.seed, n, 1]).random((options.presso_iterations, n))
    product = group.weights * group.anchor_x * group.anchor_y
    square = group.weights * group.anchor_x * group.anchor_x
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in np.unique(n_outliers[chosen]):
            times = _times_drawn(uniform[:, : n - 2 * k], n - k)
            for i in chosen[n_outliers[chosen] == k]:
                out, rest = outlier[i], ~outlier[i]
                simulated = (product[i][out].sum() + times @ product[i][rest]) / (
                    square[i][out].sum() + times @ square[i][rest]
                )
                theta = product[i].sum() / square[i].sum()
                without = product[i][rest].sum() / square[i][rest].sum()
                observed = abs((theta - without) / without)
                count = (np.abs((theta - simulated) / simulated) >= observed).sum()
                p_value[i] = (count + 1) / (options.presso_iterations + 1)
    return p_value


def _times_drawn(uniform: Array, n: int) -> Array:
    """Count how often each of n is drawn in every row of uniform numbers, shape (rows, n)."""
    pick = np.minimum((uniform * n).astype(np.intp), n - 1)
    pick += n * np.arange(len(pick))[:, None]
    return np.bincount(pick.ravel(), minlength=n * len(pick)).reshape(-1, n).astype(np.float64)


def fit_draws(group: Group, options: Options) -> DrawFit:
    """IVW in every draw without the outliers of the mean effects."""
    draws_x, draws_y = drawn(group)
    kept = ~presso_test(group, options).outlier
    n_kept = kept.sum(axis=-1)
    df = np.where(n_kept > 1, n_kept - 1.0, np.nan)
    weights = np.where(kept, group.weights, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slopes, information, rss = _line(weights[:, None, :], draws_x, draws_y)
        slope, mean_information, mean_rss = _line(weights, group.bx, group.by)
        noise = (draws_y - group.by[:, None, :]) - slope[:, None, None] * (
            draws_x - group.bx[:, None, :]
        )
        bx = np.broadcast_to(group.bx[:, None, :], draws_x.shape)
        _, _, noise_rss = _line(weights[:, None, :], bx, noise)
        scatter = scatter_without_draw_noise(mean_rss / df, noise_rss / df[:, None])
        slopes = np.where(n_kept[:, None] > 1, slopes, np.nan)
        return DrawFit(
            slopes, np.sqrt(rss / df[:, None] / information), np.sqrt(scatter / mean_information)
        )


MR_PRESSO = Estimator("mr_presso", 4, fit, fit_draws, frozenset({"rho_xy"}))
