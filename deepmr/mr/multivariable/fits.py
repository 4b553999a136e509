r"""Several exposures, one outcome: the estimators, for sequences with equally many instruments.

Multivariable IVW (Burgess and Thompson, Am J Epidemiol 2015;181:251), Egger (Rees, Wood and
Burgess, Stat Med 2017;36:4705) and median (Grant and Burgess, Stat Med 2021;40:5813):

* ``mv_ivw``: regression of by on all bx through the origin, weights 1/se_y^2, SE times
  max(1, sqrt(Q/(n - K))); ``mv_ivw_fixed`` without that factor;
* ``mv_egger``: with an intercept after orienting every instrument to a positive effect on one
  exposure. The constant column of oriented data is the sign column of the data as they are;
* ``mv_median``: weighted least absolute deviations, the same weights.

With correlated instruments the regressions are generalised least squares with the covariance
rho_ij se_yi se_yj. The modified heterogeneity statistic (Sanderson, Davey Smith, Windmeijer and
Bowden, Int J Epidemiol 2019;48:713)

    Q_A = sum_j r_j^2/(se_yj^2 + t'S_j t),   S_j = error covariance of the exposures' effects,

also counts the errors of bx. It has n - K degrees of freedom (one less for Egger); the R package
MVMR refers it to n - K - 1 without having fitted an intercept, so its p-value is too small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from deepmr.mr.estimator import Array, chi2_p
from deepmr.mr.multivariable.conditional_strength import combined_q, combined_variance, whitened
from deepmr.mr.multivariable.least_absolute import least_absolute
from deepmr.mr.multivariable.least_squares import least_squares


@dataclass(frozen=True, eq=False)
class Exposures:
    """Effects of sequences with equally many instruments; nothing is missing.

    Attributes
    ----------
    bx, se_x : ndarray, shape (sequences, n, exposures)
        Effects on the exposures and standard errors, which are > 0.
    by, se_y : ndarray, shape (sequences, n)
        The same for the outcome.
    correlation : ndarray, shape (sequences, n, n) or None
        Correlation of the errors of different instruments, positive definite.
    error_correlation : ndarray or None
        Shape (exposures + 1, exposures + 1) or (sequences, n, exposures + 1, exposures + 1):
        correlation of the errors of one instrument's effects, the outcome last.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    correlation: Array | None = None
    error_correlation: Array | None = None


@dataclass(frozen=True, eq=False)
class MultivariableFit:
    """Results; NaN where a method has no such value, ``df`` that of its t distribution.

    Attributes
    ----------
    estimate, se : ndarray, shape (sequences, exposures)
        Direct effects on the outcome.
    q, q_p, q_a, q_a_p, intercept, intercept_se : ndarray, shape (sequences,)
        Heterogeneity and, for Egger, the intercept.
    df : int
        Instruments minus coefficients.
    status : ndarray of object, shape (sequences,)
        ``ok``, ``collinear_exposures`` or ``not_converged``.
    """

    estimate: Array
    se: Array
    q: Array
    q_p: Array
    q_a: Array
    q_a_p: Array
    intercept: Array
    intercept_se: Array
    df: int
    status: NDArray[np.object_]


def fit_regression(
    data: Exposures, *, fixed: bool = False, orient: int | None = None
) -> MultivariableFit:
    """Multivariable IVW, or Egger where `orient` names the exposure that decides the signs."""
    count, n, exposures = data.bx.shape
    design = data.bx
    if orient is not None:
        sign = np.where(data.bx[..., orient] < 0, -1.0, 1.0)
        design = np.concatenate([data.bx, sign[..., None]], axis=-1)
    x, y = design / data.se_y[..., None], data.by / data.se_y
    if data.correlation is not None:
        factor = np.linalg.cholesky(data.correlation)
        x = np.stack([whitened(*pair) for pair in zip(factor, x, strict=True)])
        y = np.stack([whitened(*pair) for pair in zip(factor, y, strict=True)])
    solution = least_squares(x, y)
    df = n - x.shape[-1]
    q = (solution.residual * solution.residual).sum(axis=-1)
    scale = 1.0 if fixed else np.sqrt(np.maximum(q / df, 1.0))[:, None]
    se = solution.unit_se * scale
    estimate = np.ascontiguousarray(solution.coefficients[:, :exposures])
    residual = data.by - (design @ solution.coefficients[..., None])[..., 0]
    q_a = _q_a(data, estimate, residual)
    nothing = np.full(count, np.nan)
    return MultivariableFit(
        estimate,
        se[:, :exposures],
        q,
        chi2_p(q, df),
        q_a,
        chi2_p(q_a, df),
        nothing if orient is None else solution.coefficients[:, -1],
        nothing if orient is None else se[:, -1],
        df,
        np.where(np.isnan(q), "collinear_exposures", "ok").astype(object),
    )


def fit_median(data: Exposures, *, bootstrap_iterations: int, seed: int) -> MultivariableFit:
    """Multivariable median.

    The SE is the SD over parametric bootstrap replicates of bx and by, with their correlations,
    weights fixed. The standard normals depend on seed and shape alone, so that no result depends
    on the neighbours. With 0 iterations it is `_closed_form_se`.
    """
    count, n, exposures = data.bx.shape
    weights = data.se_y**-2.0
    solution = least_absolute(data.bx, data.by, weights)
    if bootstrap_iterations:
        generator = np.random.default_rng([seed, n, exposures])
        normal = generator.standard_normal((bootstrap_iterations, exposures + 1, n))
        se = np.empty_like(solution.coefficients)
        for i in range(count):
            error = _errors(data, i, normal)
            replicate = least_absolute(
                np.ascontiguousarray(data.bx[i] + error[..., :-1]),
                np.ascontiguousarray(data.by[i] + error[..., -1]),
                np.broadcast_to(weights[i], (bootstrap_iterations, n)),
                np.broadcast_to(solution.basis[i], (bootstrap_iterations, exposures)),
            )
            se[i] = replicate.coefficients.std(axis=0, ddof=1)
    else:
        se = _closed_form_se(data, solution.coefficients)
    lost = np.isnan(solution.coefficients).any(axis=-1)
    nothing = np.full(count, np.nan)
    return MultivariableFit(
        solution.coefficients,
        se,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        n - exposures,
        np.where(lost, "not_converged", "ok").astype(object),
    )


def _with_outcome(data: Exposures, estimate: Array) -> tuple[Array, Array]:
    """Return what makes a residual of the effects, (t, -1), and their SEs, the outcome last."""
    contrast = np.concatenate([estimate, np.full((len(estimate), 1), -1.0)], axis=-1)
    return contrast, np.concatenate([data.se_x, data.se_y[..., None]], axis=-1)


def _q_a(data: Exposures, estimate: Array, residual: Array) -> Array:
    contrast, se = _with_outcome(data, estimate)
    return combined_q(residual, contrast, se, data.error_correlation, data.correlation)


def _errors(data: Exposures, i: int, normal: Array) -> Array:
    """Errors of one sequence, shape (replicates, n, exposures + 1), from standard normals."""
    if data.correlation is not None:
        normal = normal @ np.linalg.cholesky(data.correlation[i]).T
    error = np.ascontiguousarray(np.swapaxes(normal, 1, 2))
    if data.error_correlation is not None:
        shared = data.error_correlation.ndim == 2
        between = data.error_correlation if shared else data.error_correlation[i]
        # The symmetric root exists where a correlation of 1 leaves no Cholesky factor.
        values, vectors = np.linalg.eigh(between)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))[..., None, :]) @ np.swapaxes(
            vectors, -1, -2
        )
        error = (error[..., None, :] @ root)[..., 0, :]
    return error * np.concatenate([data.se_x[i], data.se_y[i][:, None]], axis=-1)


def _closed_form_se(data: Exposures, estimate: Array) -> Array:
    r"""Large-sample SD of what the bootstrap of a median draws.

    A replicate solves sum w_i x_i sign(r_i + e_i) = 0, e_i ~ N(0, s_i^2), r_i the residual of the
    data and s_i^2 = var(y_i - x_i't). With u_i = r_i/s_i the sum has the derivative H and the
    variance J,

        H = sum 2 w_i phi(u_i)/s_i x_i x_i',   J = sum 4 w_i^2 Phi(u_i) Phi(-u_i) x_i x_i';

    the SE is the root of the diagonal of H^-1 J H^-1. Signs of correlated errors correlate by
    (2/pi) asin(rho), exact at u = 0. With tens of
    instruments it stays within some 15 % of the bootstrap. What one error shared by all of them
    does is not linear: at a common correlation of .6 it is up to a third too small, and the
    bootstrap is the one to trust.
    """
    contrast, se = _with_outcome(data, estimate)
    deviation = np.sqrt(combined_variance(contrast, se, data.error_correlation))
    residual = data.by - (data.bx @ estimate[..., None])[..., 0]
    weights = data.se_y**-2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        u = residual / deviation
        density = 2.0 * weights * np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi) / deviation
    spread = weights * 2.0 * np.sqrt(ndtr(u) * ndtr(-u))
    transposed = np.ascontiguousarray(np.swapaxes(data.bx, 1, 2))
    derivative = (transposed * density[:, None, :]) @ data.bx
    scores = transposed * spread[:, None, :]
    between = scores
    if data.correlation is not None:
        between = scores @ (np.arcsin(np.clip(data.correlation, -1.0, 1.0)) * (2.0 / np.pi))
    variance = between @ np.ascontiguousarray(np.swapaxes(scores, 1, 2))
    known = np.isfinite(derivative).all(axis=(1, 2))
    known[known] = np.linalg.cond(derivative[known]) < 1e12
    derivative[~known] = np.eye(data.bx.shape[-1])
    bread = np.linalg.inv(derivative)
    result = np.sqrt(np.diagonal(bread @ variance @ bread, axis1=1, axis2=2))
    return np.where(known[:, None], result, np.nan)
