"""Tests that several coefficients of a regression are all 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from deepmr.meta.result import Array


def wald(
    coefficients: Array, cov: Array, tested: NDArray[np.int64], residual_df: float
) -> dict[str, Array]:
    """Test that coefficients are all 0, in every row.

    Parameters
    ----------
    coefficients : ndarray, shape (rows, p)
    cov : ndarray, shape (rows, p, p)
    tested : ndarray of int
        Which of them.
    residual_df : float
        Degrees of freedom of the covariance; infinite: chi^2, else F.

    Returns
    -------
    dict
        qm, qm_p, qm_df and qm_df_residual, shape (rows,); the first two NaN where nothing is
        tested.
    """
    rows, m = len(coefficients), tested.size
    qm, qm_p = np.full(rows, np.nan), np.full(rows, np.nan)
    if m:
        b, c = coefficients[:, tested], cov[:, tested[:, None], tested]
        # A covariance of 0 (exact fit) tests nothing.
        some = np.diagonal(c, axis1=1, axis2=2).all(axis=1)
        solved = np.linalg.solve(c[some], b[some, :, None])[..., 0]
        qm[some] = np.einsum("ri,ri->r", b[some], solved)
        if np.isfinite(residual_df):
            qm[some] /= m
            qm_p[some] = fdtrc(m, residual_df, qm[some])
        else:
            qm_p[some] = chdtrc(m, qm[some])
    return {
        "qm": qm,
        "qm_p": qm_p,
        "qm_df": np.full(rows, float(m)),
        "qm_df_residual": np.full(rows, residual_df),
    }


def wald_over_draws(
    coefficients: Array, within: Array, between: Array, n_draws: int, tested: NDArray[np.int64]
) -> dict[str, Array]:
    """Test that coefficients are all 0, over draws.

    The statistic D1 of Li, Raghunathan and Rubin (J Am Stat Assoc 1991;86:1065); its reference
    takes the model error as alike in all directions.

    Parameters
    ----------
    coefficients : ndarray, shape (p,)
        Means over draws.
    within, between : ndarray, shape (p, p)
        Their covariance within a draw, and between draws.
    n_draws : int
    tested : ndarray of int
        Which of them.

    Returns
    -------
    dict
        As of `wald`, for one row.
    """
    m = tested.size
    values = [np.nan, np.nan, float(m), np.nan]
    inner = within[np.ix_(tested, tested)]
    if m and np.diagonal(inner).all():
        ratio = (1.0 + 1.0 / n_draws) / m
        ratio *= np.trace(np.linalg.solve(inner, between[np.ix_(tested, tested)]))
        b = coefficients[tested]
        d1 = float(b @ np.linalg.solve(inner, b)) / (m * (1.0 + ratio))
        t = m * (n_draws - 1)
        with np.errstate(divide="ignore"):
            if t > 4:
                df = 4.0 + (t - 4) * (1.0 + np.divide(1.0 - 2.0 / t, ratio)) ** 2
            else:
                df = t * (1.0 + 1.0 / m) * (1.0 + np.divide(1.0, ratio)) ** 2 / 2.0
        p_value = fdtrc(m, df, d1) if np.isfinite(df) else chdtrc(m, m * d1)
        values = [d1, float(p_value), float(m), float(df)]
    keys = ("qm", "qm_p", "qm_df", "qm_df_residual")
    return {key: np.asarray(value) for key, value in zip(keys, values, strict=True)}
