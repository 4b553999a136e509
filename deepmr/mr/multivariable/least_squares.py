"""Least squares of many small problems of equal size, each by its own QR decomposition."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array

_COLLINEAR = 1e-8
"""Smallest singular value of the design with columns of length 1, below which it counts as 0."""


class LeastSquares(NamedTuple):
    """Solutions; NaN where the columns are collinear.

    Attributes
    ----------
    coefficients : ndarray, shape (problems, columns)
        Least-squares coefficients.
    unit_se : ndarray, shape (problems, columns)
        Their standard errors for an error variance of 1.
    residual : ndarray, shape (problems, n)
        Target minus fit.
    """

    coefficients: Array
    unit_se: Array
    residual: Array


def least_squares(design: Array, target: Array) -> LeastSquares:
    """Solve every problem of a stack.

    Parameters
    ----------
    design : ndarray, shape (problems, n, columns)
        Finite; n >= columns.
    target : ndarray, shape (problems, n)
        Finite.

    Returns
    -------
    LeastSquares
    """
    triangle, lost = _triangle(design)
    if design.shape[-1] == 0:
        empty = np.zeros((len(design), 0))
        return LeastSquares(empty, empty, target.copy())
    inverse = np.linalg.inv(triangle)
    # R'R = X'X, so R^-1 R^-T X'y; one step of refinement brings back what X'y has lost.
    solver = inverse @ np.swapaxes(design @ inverse, -1, -2)
    coefficients = solver @ target[..., None]
    coefficients = coefficients + solver @ (target[..., None] - design @ coefficients)
    residual = target - (design @ coefficients)[..., 0]
    unit_se = np.sqrt((inverse * inverse).sum(axis=-1))
    return LeastSquares(
        np.where(lost[:, None], np.nan, coefficients[..., 0]),
        np.where(lost[:, None], np.nan, unit_se),
        np.where(lost[:, None], np.nan, residual),
    )


def collinear(design: Array) -> NDArray[np.bool_]:
    """Tell which designs (problems, n, columns) have linearly dependent (or zero) columns."""
    return _triangle(design)[1]


def _triangle(design: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Return R of the QR decomposition, the unit matrix where it is singular, and where."""
    columns = design.shape[-1]
    triangle = np.asarray(np.linalg.qr(design, mode="r"), dtype=np.float64)
    length = np.sqrt((triangle * triangle).sum(axis=-2, keepdims=True))
    unit = triangle / np.where(length > 0, length, 1.0)
    if columns == 0:
        return triangle, np.zeros(len(design), dtype=bool)
    lost = ~(np.linalg.svd(unit, compute_uv=False)[..., -1] > _COLLINEAR)
    triangle[lost] = np.eye(columns)
    return triangle, lost
