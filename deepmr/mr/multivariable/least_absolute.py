r"""Weighted least absolute deviations, exactly, for many problems of equal size at once.

sum_i w_i |y_i - x_i'b| is smallest at some b that fits K instruments exactly (Koenker and Bassett,
Econometrica 1978;46:33), the basis. From a basis h with inverse D = X_h^-1 the column D_k is the
direction that leaves the k-th of them and keeps the others; with s_i the side on which instrument
i lies, the objective falls along +-D_k if

    |sum_i w_i s_i x_i'D_k| > w_(h_k).

The steepest such direction is followed until the slope changes sign: past the instruments whose
residual becomes 0, each of which turns the slope by 2 w_i |x_i'D_k| - a weighted median. That
instrument enters the basis (Barrodale and Roberts, SIAM J Numer Anal 1973;10:839). Without such a
direction the s_i/w_i are the dual solution and b is optimal. Sides are kept from step to step
instead of being read from residuals, which are 0 up to rounding where instruments coincide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array

_STEPS = 500
"""Far beyond what is needed (some ten); only cycling through ties would reach it."""
_ROUNDING = 1e-12


class LeastAbsolute(NamedTuple):
    """Solutions; NaN where the steps did not end.

    Attributes
    ----------
    coefficients : ndarray, shape (problems, columns)
        Minimisers.
    basis : ndarray of int64, shape (problems, columns)
        Instruments that are fitted exactly.
    """

    coefficients: Array
    basis: NDArray[np.int64]


def least_absolute(
    design: Array, target: Array, weights: Array, basis: NDArray[np.int64] | None = None
) -> LeastAbsolute:
    """Solve every problem of a stack.

    Parameters
    ----------
    design : ndarray, shape (problems, n, columns)
        Finite, of full column rank.
    target : ndarray, shape (problems, n)
        Finite.
    weights : ndarray, shape (problems, n)
        Greater than 0.
    basis : ndarray of int, shape (problems, columns), optional
        Where to start: rows of the design that are linearly independent.

    Returns
    -------
    LeastAbsolute
    """
    count, n, columns = design.shape
    final = independent_rows(design) if basis is None else basis.copy()
    coefficients = np.full((count, columns), np.nan)
    active = np.arange(count)
    x, y, w, h = design, target, weights, final.copy()
    inverse = np.asarray(np.linalg.inv(np.take_along_axis(x, h[..., None], axis=1)), np.float64)
    side = np.where(y - _times(x, _fitted(inverse, y, h)) < 0, -1.0, 1.0)
    for _ in range(_STEPS):
        row = np.arange(len(active))
        np.put_along_axis(side, h, 0.0, axis=1)
        pull = ((w * side)[:, None, :] @ x) @ inverse
        excess = np.abs(pull[:, 0]) - np.take_along_axis(w, h, axis=1)
        # Directions differ in length; the steepest per unit length needs the fewest steps.
        length = np.sqrt((inverse * inverse).sum(axis=-2))
        leave = (excess / length).argmax(axis=1)
        done = excess[row, leave] <= _ROUNDING * np.abs(pull).max(axis=(1, 2))
        if done.any():
            b = _fitted(inverse[done], y[done], h[done])
            coefficients[active[done]] = b
            final[active[done]] = h[done]
            keep = ~done
            active, x, y, w, h = active[keep], x[keep], y[keep], w[keep], h[keep]
            inverse, side, pull, leave = inverse[keep], side[keep], pull[keep], leave[keep]
            excess = excess[keep]
            if not active.size:
                break
            row = np.arange(len(active))
        residual = y - _times(x, _fitted(inverse, y, h))
        sign = np.where(pull[row, 0, leave] < 0, -1.0, 1.0)
        shrink = _times(x, inverse[row, :, leave]) * sign[:, None]
        size = np.abs(shrink)
        crossing = (side * shrink > 0) & (size > _ROUNDING * size.max(axis=1, keepdims=True))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(crossing, np.maximum(residual / shrink, 0.0), np.inf)
        order = np.argsort(step, axis=1, kind="stable")
        turn = np.take_along_axis(np.where(crossing, 2.0 * w * size, 0.0), order, axis=1)
        passed = np.cumsum(turn, axis=1) < excess[row, leave][:, None]
        # The slope turns positive before the last crossing, up to rounding.
        stop = np.minimum(passed.sum(axis=1), crossing.sum(axis=1) - 1)
        enter = order[row, stop]
        before = np.arange(n)[None, :] < stop[:, None]
        flip = np.empty_like(before)
        np.put_along_axis(flip, order, before, axis=1)
        side = np.where(flip, -side, side)
        side[row, h[row, leave]] = -sign
        # Replace a row of X_h: Sherman-Morrison.
        weight = _times(np.swapaxes(inverse, 1, 2), x[row, enter])
        pivot = weight[row, leave]
        weight[row, leave] -= 1.0
        column = inverse[row, :, leave] / pivot[:, None]
        inverse = inverse - column[:, :, None] * weight[:, None, :]
        h[row, leave] = enter
    return LeastAbsolute(coefficients, final)


def independent_rows(design: Array) -> NDArray[np.int64]:
    """Choose rows that span the columns: again and again the longest, what it spans removed."""
    left = design.copy()
    row = np.arange(len(design))
    chosen = np.empty((len(design), design.shape[-1]), dtype=np.int64)
    for k in range(design.shape[-1]):
        length = (left * left).sum(axis=-1)
        chosen[:, k] = length.argmax(axis=1)
        longest = left[row, chosen[:, k]]
        unit = longest / np.sqrt(length[row, chosen[:, k]])[:, None]
        left -= (left * unit[:, None, :]).sum(axis=-1)[..., None] * unit[:, None, :]
    return chosen


def _times(matrix: Array, vector: Array) -> Array:
    return np.asarray((matrix @ vector[..., None])[..., 0])


def _fitted(inverse: Array, target: Array, basis: NDArray[np.int64]) -> Array:
    return _times(inverse, np.take_along_axis(target, basis, axis=1))
