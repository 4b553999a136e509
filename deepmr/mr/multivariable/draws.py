"""Multivariable IVW and Egger in every draw, weights and orientation fixed by the mean effects.

With one exposure this is `deepmr.mr.estimators.regression_line.fit_draws`; what belongs into a
standard error within a draw, and why, stands in `deepmr.mr.drawwise`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepmr.mr.drawwise import scatter_without_draw_noise
from deepmr.mr.estimator import Array
from deepmr.mr.multivariable.fits import Exposures
from deepmr.mr.multivariable.least_squares import least_squares


@dataclass(frozen=True, eq=False)
class MultivariableDraws:
    """Direct effects in every draw; NaN where the exposures are collinear.

    Attributes
    ----------
    estimates : ndarray, shape (sequences, draws, exposures)
        Direct effects.
    se : ndarray, shape (sequences, draws, exposures)
        Standard error of each draw's own fit, from its residuals; never floored.
    se_within : ndarray, shape (sequences, exposures)
        Scatter of the instruments with the share of the model's error removed.
    """

    estimates: Array
    se: Array
    se_within: Array


def fit_draws(
    data: Exposures, draws_x: Array, draws_y: Array, *, orient: int | None = None
) -> MultivariableDraws:
    """Fit multivariable IVW, or Egger where `orient` names an exposure, to every draw.

    Parameters
    ----------
    data : Exposures
        Mean effects of S sequences with n > K (Egger: n > K + 1) independent instruments.
    draws_x : ndarray, shape (S, draws, n, K)
        Effects on the exposures in each draw; two draws or more.
    draws_y : ndarray, shape (S, draws, n)
        Effects on the outcome.
    orient : int, optional
        The exposure whose mean effects decide the signs.

    Returns
    -------
    MultivariableDraws
    """
    count, n_draws, n, exposures = draws_x.shape
    root = 1.0 / data.se_y
    design, all_x = data.bx * root[..., None], draws_x * root[:, None, :, None]
    if orient is not None:
        sign = np.where(data.bx[..., orient] < 0, -root, root)[..., None]
        design = np.concatenate([design, sign], axis=-1)
        every = np.broadcast_to(sign[:, None], (count, n_draws, n, 1))
        all_x = np.concatenate([all_x, every], axis=-1)
    all_y = draws_y * root[:, None]
    columns = design.shape[-1]
    df = n - columns

    mean = least_squares(design, data.by * root)
    each = least_squares(all_x.reshape(-1, n, columns), all_y.reshape(-1, n))
    scale = np.sqrt((each.residual * each.residual).sum(axis=-1) / df)
    shape = (count, n_draws, columns)
    estimates = each.coefficients.reshape(shape)[..., :exposures]
    se = (each.unit_se * scale[:, None]).reshape(shape)[..., :exposures]

    # Deviation of the draws from the mean effects about the fit of the mean effects.
    noise = all_y - (all_x @ mean.coefficients[:, None, :, None])[..., 0] - mean.residual[:, None]
    along = noise @ np.linalg.qr(design)[0]
    noise_square = ((noise * noise).sum(axis=-1) - (along * along).sum(axis=-1)) / df
    mean_square = (mean.residual * mean.residual).sum(axis=-1) / df
    scatter = scatter_without_draw_noise(mean_square, noise_square)
    within = np.sqrt(scatter)[:, None] * mean.unit_se[:, :exposures]
    return MultivariableDraws(
        np.ascontiguousarray(estimates), np.ascontiguousarray(se), np.ascontiguousarray(within)
    )
