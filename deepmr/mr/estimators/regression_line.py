r"""The lines of IVW and MR-Egger by weighted and generalised least squares, batched.

Every regression here is by = theta bx (+ alpha s) + e with Var(e) = D R D, where D = diag(w^-1/2),
R is the correlation of the instruments' errors (the identity if left out) and s = +-1 is the sign
that orients an instrument to bx > 0. Regressing on s instead of flipping bx and by is the same
fit, since least squares does not change when a row is multiplied by -1, and R needs no flipping.
Rows are whitened by R = LL' (Aitken, Proc R Soc Edinb 1935;55:42), x = L^-1 (w^1/2 bx), and the
intercept's column is projected out, so that one formula serves both: theta = x'y / x'x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, solve_triangular

from deepmr.mr.drawwise import scatter_without_draw_noise
from deepmr.mr.estimator import Array, DrawFit

# Rows are worked off in blocks whose temporaries stay in the cache; no sum crosses a row.
BLOCK_ELEMENTS = 32_768
# A relative spread of the oriented exposure effects below this is rounding.
SPREAD = 1e-10


@dataclass(frozen=True, eq=False)
class Lines:
    """Fitted lines; every array is (sequences,).

    Attributes
    ----------
    slope, rss : ndarray
        Slope and weighted residual sum of squares.
    information : ndarray
        1/information is the variance of the slope at scale 1.
    intercept, intercept_variance : ndarray
        In the exposure-increasing orientation; the variance at scale 1. 0 without an intercept.
    spread : ndarray of bool
        Whether the exposure effects differ from 0 or, with an intercept, from each other.
    positive_definite : ndarray of bool
        Whether the correlation matrix is; if not, every number is NaN.
    """

    slope: Array
    rss: Array
    information: Array
    intercept: Array
    intercept_variance: Array
    spread: NDArray[np.bool_]
    positive_definite: NDArray[np.bool_]


def orientation(bx: Array) -> Array:
    """Return -1 where bx < 0, and 1 elsewhere."""
    return np.where(bx < 0, -1.0, 1.0)


def fit_lines(
    root: Array, bx: Array, by: Array, sign: Array | None = None, correlation: Array | None = None
) -> Lines:
    """Fit a line to every sequence.

    Parameters
    ----------
    root : ndarray, shape (sequences, instruments)
        Square roots of the weights, >= 0.
    bx, by : ndarray, shape (sequences, instruments)
        Effects.
    sign : ndarray, shape (sequences, instruments), optional
        Orientation of the instruments; with it the line has an intercept.
    correlation : ndarray, shape (sequences, instruments, instruments), optional
        Correlation of the errors of different instruments.

    Returns
    -------
    Lines
        NaN where a line is not determined.
    """
    n_sequences = len(bx)
    slope, rss, information = np.full((3, n_sequences), np.nan)
    intercept, intercept_variance = np.zeros((2, n_sequences))
    spread, definite = np.zeros((2, n_sequences), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for rows, factor in _blocks(bx, correlation):
            if factor is None and correlation is not None:
                continue
            definite[rows] = True
            x = _whitened(root[rows] * bx[rows], factor)
            y = _whitened(root[rows] * by[rows], factor)
            if sign is not None:
                one = _whitened(root[rows] * sign[rows], factor)
                size = _dot(one, one)
                mean_x, mean_y = _dot(one, x) / size, _dot(one, y) / size
                x -= mean_x[:, None] * one
                y -= mean_y[:, None] * one
            information[rows] = squares = _dot(x, x)
            slope[rows] = _dot(x, y) / squares
            spread[rows] = squares > 0
            if sign is not None:
                spread[rows] = _has_spread(squares, size * mean_x * mean_x)
                intercept[rows] = mean_y - slope[rows] * mean_x
                intercept_variance[rows] = 1.0 / size + mean_x * mean_x / squares
            x *= slope[rows, None]
            y -= x
            rss[rows] = _dot(y, y)
    return Lines(slope, rss, information, intercept, intercept_variance, spread, definite)


def residual_squares(
    root: Array,
    bx: Array,
    by: Array,
    slope: Array,
    intercept: Array | float = 0.0,
    sign: Array | float = 1.0,
    correlation: Array | None = None,
) -> Array:
    """Return the weighted residual sum of squares about given lines, shape (sequences,)."""
    offset = np.broadcast_to(np.asarray(intercept, dtype=np.float64), slope.shape)
    signs = np.broadcast_to(np.asarray(sign, dtype=np.float64), bx.shape)
    result = np.full(len(bx), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        for rows, factor in _blocks(bx, correlation):
            if factor is None and correlation is not None:
                continue
            residual = by[rows] - slope[rows, None] * bx[rows] - offset[rows, None] * signs[rows]
            residual = _whitened(root[rows] * residual, factor)
            result[rows] = _dot(residual, residual)
    return result


def fit_draws(
    root: Array,
    bx: Array,
    by: Array,
    draws_x: Array,
    draws_y: Array,
    sign: Array | None = None,
    correlation: Array | None = None,
) -> DrawFit:
    """Fit a line to every draw, with the weights and the orientation of the mean effects.

    Parameters
    ----------
    root, bx, by, sign, correlation
        As in `fit_lines`; `bx` and `by` are the mean effects.
    draws_x, draws_y : ndarray, shape (sequences, draws, instruments)
        Effects in every draw.

    Returns
    -------
    DrawFit
        NaN where a line is not determined.
    """
    n_sequences, n_draws, _ = draws_x.shape
    degrees = np.count_nonzero(root, axis=-1) - (1 if sign is None else 2)
    slopes, se = np.full((2, n_sequences, n_draws), np.nan)
    mean_square, information = np.full((2, n_sequences), np.nan)
    noise_square = np.full((n_sequences, n_draws), np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for i, df in enumerate(degrees):
            factor = None if correlation is None else _factor(correlation[i])
            if df < 1 or (factor is None and correlation is not None):
                continue
            x, y = _whitened(root[i] * bx[i], factor), _whitened(root[i] * by[i], factor)
            all_x = _whitened(draws_x[i] * root[i], factor)
            all_y = _whitened(draws_y[i] * root[i], factor)
            removed: Array | float = 0.0
            if sign is not None:
                one = _whitened(root[i] * sign[i], factor)
                size = one @ one
                x -= (one @ x / size) * one
                y -= (one @ y / size) * one
                means = all_x @ one / size
                removed = size * means * means
                all_x -= means[:, None] * one
                all_y -= (all_y @ one / size)[:, None] * one
            information[i] = x @ x
            slope = x @ y / information[i]
            residual = y - slope * x
            mean_square[i] = residual @ residual / df
            squares = _dot(all_x, all_x)
            slopes[i] = np.where(
                _has_spread(squares, removed), _dot(all_x, all_y) / squares, np.nan
            )
            # Deviation of the draws from the mean effects about the line of the mean effects.
            noise = all_x * -slope
            noise += all_y
            noise -= residual
            along = noise @ x
            noise_square[i] = (_dot(noise, noise) - along * along / information[i]) / df
            all_x *= slopes[i, :, None]
            all_y -= all_x
            se[i] = np.sqrt(_dot(all_y, all_y) / df / squares)
        within = np.sqrt(scatter_without_draw_noise(mean_square, noise_square) / information)
    return DrawFit(slopes, se, within)


def _dot(left: Array, right: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->i", left, right))


def _has_spread(information: Array, removed: Array | float) -> NDArray[np.bool_]:
    """Whether what an intercept leaves of the squared exposure effects is more than rounding."""
    return np.asarray(information > SPREAD * SPREAD * (information + removed))


def _blocks(bx: Array, correlation: Array | None) -> Iterator[tuple[slice, Array | None]]:
    """Yield blocks of rows; with a correlation single rows and the Cholesky factor (or None)."""
    n_sequences, n = bx.shape
    if correlation is not None:
        for i in range(n_sequences):
            yield slice(i, i + 1), _factor(correlation[i])
        return
    step = max(1, BLOCK_ELEMENTS // n)
    for start in range(0, n_sequences, step):
        yield slice(start, start + step), None


def _factor(correlation: Array) -> Array | None:
    """Return the lower Cholesky factor, or None where the matrix is not positive definite."""
    try:
        factor = cholesky(correlation, lower=True, check_finite=False)
    except LinAlgError:
        return None
    # A pivot at rounding level means that the matrix is singular.
    smallest = np.square(np.diagonal(factor)).min()
    return np.asarray(factor) if smallest > len(factor) * np.finfo(np.float64).eps else None


def _whitened(rows: Array, factor: Array | None) -> Array:
    if factor is None:
        return rows
    return np.ascontiguousarray(solve_triangular(factor, rows.T, lower=True, check_finite=False).T)
