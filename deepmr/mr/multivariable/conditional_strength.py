r"""Strength of the instruments for one exposure when the others are held fixed.

Sanderson, Spiller and Bowden (Stat Med 2021;40:5434), after Sanderson and Windmeijer (J Econom
2016;190:212): regress the effects on exposure k on those on the other exposures. What is left,
x_k - d'x_(-k) = c'x, must stand out of its own error,

    F_k = sum_j (c'x_j)^2 / (c'S_j c) / (n - K + 1),    S_j = error covariance of instrument j,

c being 1 at k and -d elsewhere. Without any conditional strength F_k is 1 on average. The R
package MVMR (0.4.6) divides by n instead of n - K + 1, so its values are smaller by
(n - K + 1)/n. MendelianRandomization minimises the same sum over c, with a gradient that leaves
out the denominator; its values depend on where that stops.

Correlated instruments: d by generalised least squares, and the sum becomes r' V^-1 r with
V_ij = rho_ij c'S_ij c, S_ij holding the products of the standard errors of i and j.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from deepmr.mr.estimator import Array
from deepmr.mr.multivariable.least_squares import least_squares


def conditional_f(
    bx: Array,
    se_x: Array,
    error_correlation: Array | None = None,
    correlation: Array | None = None,
) -> Array:
    """Conditional F statistic of every exposure.

    Parameters
    ----------
    bx, se_x : ndarray, shape (sequences, n, exposures)
        Effects on the exposures and their standard errors; finite, SEs > 0.
    error_correlation : ndarray, shape (exposures, exposures), optional
        Correlation of the errors of one instrument's effects on different exposures, or one for
        each instrument, (sequences, n or 1, exposures, exposures); left out, they are independent.
    correlation : ndarray, shape (sequences, n, n), optional
        Correlation of the errors of different instruments, positive definite; then
        `error_correlation` must be one matrix.

    Returns
    -------
    ndarray, shape (sequences, exposures)
        With one exposure its mean F. NaN where the other exposures are collinear or there are
        fewer instruments than exposures.
    """
    count, n, exposures = bx.shape
    result = np.full((count, exposures), np.nan)
    if n < exposures:
        return result
    plain = bx
    if correlation is not None:
        plain = np.stack(
            [whitened(np.linalg.cholesky(c), x) for c, x in zip(correlation, bx, strict=True)]
        )
    for k in range(exposures):
        others = [i for i in range(exposures) if i != k]
        fit = least_squares(plain[..., others], np.ascontiguousarray(plain[..., k]))
        contrast = np.zeros((count, exposures))
        contrast[:, k] = 1.0
        contrast[:, others] = -fit.coefficients
        residual = (bx @ contrast[..., None])[..., 0]
        q = combined_q(residual, contrast, se_x, error_correlation, correlation)
        result[:, k] = q / (n - exposures + 1)
    return result


def joint_errors(
    bx: Array, se_x: Array, sample_sizes: ArrayLike, exposure_correlation: ArrayLike | None = None
) -> tuple[Array, Array]:
    """Errors of effects from a joint regression on all instruments, given those one by one.

    For associations in samples: all instruments together explain more of an exposure than one of
    them, which leaves less error, and correlated exposures share it (the covariance of
    MendelianRandomization's ``CondFstat``). Effects found in silico have no sample size.

    Parameters
    ----------
    bx, se_x : ndarray, shape (sequences, n, exposures)
        Effects of independent instruments, from one regression each.
    sample_sizes : array_like, scalar or shape (exposures,)
        Sample sizes.
    exposure_correlation : array_like, shape (exposures, exposures), optional
        Correlation of the exposures themselves; left out, they are uncorrelated.

    Returns
    -------
    se : ndarray, shape (sequences, n, exposures)
        Standard errors.
    error_correlation : ndarray, shape (sequences, 1, exposures, exposures)
        Correlation of the errors, the same for all instruments; for `conditional_f`.
    """
    _, n, exposures = bx.shape
    size = np.broadcast_to(np.asarray(sample_sizes, dtype=np.float64), (exposures,))
    own = np.eye(exposures) if exposure_correlation is None else np.asarray(exposure_correlation)
    total = size * se_x * se_x + bx * bx
    part = bx / np.sqrt(total)
    left = own - np.swapaxes(part, 1, 2) @ part
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(np.diagonal(left, axis1=1, axis2=2))
        se = np.sqrt(total / (size - n + 1.0)) * spread[:, None, :]
    correlation = left / (spread[:, :, None] * spread[:, None, :])
    return se, correlation[:, None]


def combined_variance(coefficients: Array, se: Array, error_correlation: Array | None) -> Array:
    """Error variance of a linear combination of every instrument's effects.

    Parameters
    ----------
    coefficients : ndarray, shape (sequences, traits)
        One combination for each sequence.
    se : ndarray, shape (sequences, n, traits)
        Standard errors.
    error_correlation : ndarray, shape (traits, traits) or (sequences, n, traits, traits) or None
        Correlation between traits.

    Returns
    -------
    ndarray, shape (sequences, n)
    """
    part = coefficients[:, None, :] * se
    if error_correlation is None:
        return np.asarray((part * part).sum(axis=-1))
    total = np.zeros(part.shape[:-1])
    for k in range(part.shape[-1]):
        for other in range(part.shape[-1]):
            total += part[..., k] * part[..., other] * error_correlation[..., k, other]
    return total


def combined_q(
    residual: Array,
    coefficients: Array,
    se: Array,
    error_correlation: Array | None,
    correlation: Array | None,
) -> Array:
    """Sum of squares of the residuals in units of their error, shape (sequences,).

    Parameters are those of `combined_variance` and `conditional_f`, with the `residual`,
    shape (sequences, n). NaN where the covariance of the residuals is not positive definite.
    """
    if correlation is None:
        variance = combined_variance(coefficients, se, error_correlation)
        with np.errstate(divide="ignore", invalid="ignore"):
            q = (residual * residual / variance).sum(axis=-1)
        return np.where((variance > 0).all(axis=-1), q, np.nan)
    result = np.full(len(residual), np.nan)
    for i in range(len(residual)):
        part = coefficients[i] * se[i]
        between = part @ part.T if error_correlation is None else part @ error_correlation @ part.T
        try:
            factor = np.linalg.cholesky(correlation[i] * between)
        except np.linalg.LinAlgError:
            continue
        unit = whitened(factor, residual[i])
        result[i] = (unit * unit).sum()
    return result


def whitened(factor: Array, values: Array) -> Array:
    """Return L^-1 times values, L the lower Cholesky factor of their covariance."""
    return np.asarray(solve_triangular(factor, values, lower=True, check_finite=False))
