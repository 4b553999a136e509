r"""Debiased inverse-variance weighted estimator: IVW without the dilution by noise in bx.

Ye, Shao and Kang, Ann Stat 2021;49:2079. With w = 1/se_y^2,

    theta = sum w (bx by - c) / sum w (bx^2 - se_x^2),    c = rho se_x se_y,

because bx by and bx^2 exceed what they stand for by the covariance c and the variance se_x^2 of
the errors. The paper has independent errors (rho = 0), R's ``mr_divw`` too. Its residual
by - theta bx has the error variance v = se_y^2 + theta^2 se_x^2 - 2 theta c, and with balanced
pleiotropy tau^2 on top, tau^2 = sum w ((by - theta bx)^2 - v) / sum w, not below 0. Each term of
the estimating equation, bx (by - theta bx) - (c - theta se_x^2), then has the variance

    E bx^2 (v + tau^2) + (c - theta se_x^2)^2,

which at rho = 0 is the paper's formula.

The estimator is consistent where the total strength (mean F - 1) sqrt(n) is large; `strength`
gives it, the authors ask for more than 20.
"""

from __future__ import annotations

import numpy as np

from deepmr.mr.drawwise import refit
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options, chi2_p


def strength(group: Group) -> Array:
    """Total instrument strength (mean(bx^2/se_x^2) - 1) sqrt(n), shape (sequences,).

    ``Condition`` of R's ``mr_divw``.
    """
    z = group.bx / group.se_x
    n = z.shape[-1]
    return np.asarray(((z * z).sum(axis=-1) / n - 1.0) * np.sqrt(n))


def fit(group: Group, options: Options) -> Fit:
    """Estimate from the mean effects, without a value where the instruments are all noise.

    Returns
    -------
    Fit
        `tau2` is 0 without `Options.overdispersion`; `se_model` is the SE at tau2 = 0; `q` weighs
        the residuals by their full error variance v. The status ``weak_instruments`` says that
        sum w (bx^2 - se_x^2) is not positive.
    """
    bx, by, weights = group.bx, group.by, group.weights
    variance_x = group.se_x * group.se_x
    shared = group.error_correlation * group.se_x * group.se_y
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        information = (weights * (bx * bx - variance_x)).sum(axis=-1)
        weak = ~(information > 0)
        theta = (weights * (bx * by - shared)).sum(axis=-1) / np.where(weak, np.nan, information)
        slope = theta[:, None]
        residual = by - slope * bx
        error = group.se_y * group.se_y + slope * slope * variance_x - 2.0 * slope * shared
        tau2 = np.where(weak, np.nan, 0.0)
        if options.overdispersion:
            excess = (weights * (residual * residual - error)).sum(axis=-1)
            tau2 = np.maximum(excess / weights.sum(axis=-1), tau2)
        leftover = shared - slope * variance_x
        square = weights * weights
        model = (square * (bx * bx * error + leftover * leftover)).sum(axis=-1)
        pleiotropy = tau2 * (square * bx * bx).sum(axis=-1)
        q = (residual * residual / error).sum(axis=-1)
        se = np.sqrt(model + pleiotropy) / information
        se_model = np.where(weak, np.nan, np.sqrt(model) / information)
    q_df = bx.shape[-1] - 1
    return Fit(
        theta,
        se,
        se_model=se_model,
        q=q,
        q_p=chi2_p(q, q_df),
        q_df=q_df,
        tau2=tau2,
        status=np.where(weak, "weak_instruments", "ok").astype(object),
    )


DIVW = Estimator("divw", 2, fit, refit(fit), frozenset({"rho_xy"}))
