r"""Robust adjusted profile score: profile likelihood with balanced pleiotropy and robust loss.

Zhao, Wang, Hemani, Bowden and Small, Ann Stat 2020;48:1742. With r = by - theta bx, its variance
v = se_y^2 + tau^2 + theta^2 se_x^2 - 2 theta rho se_x se_y, its covariance with the error of bx
c = rho se_x se_y - theta se_x^2, the standardised residual t = r/sqrt(v), and the estimate
g = bx - c r/v of the true exposure effect, which is independent of r:

    S1 = sum psi(t) g / sqrt(v) = 0,
    S2 = sum se_x^2 (t psi(t) - delta) / v = 0   or   tau^2 = 0 and S2 <= 0,

psi the derivative of the loss (l2; Huber, k = 1.345; Tukey, k = 4.685) and delta = E t psi(t) at
the normal. The paper has rho = 0; with it S1 is still the gradient of sum rho(t) at fixed tau^2.
The SE is the paper's sandwich, which carries the uncertainty of tau^2.

Which root. Without overdispersion theta is the *global* minimum of the loss, found by a scan of the
whole line (`deepmr.mr.estimators.raps_score`). With overdispersion the equations may have several
roots; tau^2 (the largest root of S2) and theta are solved for in turn from the slope of least
squares, which belongs to tau^2 = inf, so that the root is the one of large tau^2. R begins at tau^2
= 0, where the loss may have its minimum far off or nowhere when there is much pleiotropy; for l2
both ways end at the same root in every reference. Roots are solved to machine precision, tau^2
without an upper limit.

R's ``mr.raps.mle`` 0.4.2 agrees for the three losses without overdispersion and for l2 with it, to
its tolerances (1e-7 in theta; where tau^2 is 0 it stops at 8e-9 instead). With overdispersion and
a robust loss its values do not solve the equations; tests/unit/test_mr_raps.py puts both into them.
"""

from __future__ import annotations

import numpy as np

from deepmr.mr.drawwise import refit
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options, chi2_p
from deepmr.mr.estimators.raps_loss import LOSS, Loss
from deepmr.mr.estimators.raps_score import Score, global_minimum, joint_root

_BLOCK = 20_000
"""Instruments worked on at once; more would leave the cache."""


def fit(group: Group, options: Options) -> Fit:
    """Solve the score equations of the mean effects.

    Returns
    -------
    Fit
        `tau2` is 0 without `Options.overdispersion`. `se_model` is the part of the SE that stays
        when each term's variance is cut by the share tau^2/v of pleiotropy. `q` weighs the
        residuals by their error variance. Status ``no_finite_estimate``: the loss falls towards
        infinite theta or no root was reached; ``weak_instruments``: the information about theta
        is not positive.
    """
    n_sequences, n = group.bx.shape
    score = Score.of(group)
    step = max(1, _BLOCK // n)
    blocks = [
        _solve(score.rows(np.arange(start, min(start + step, n_sequences))), options)
        for start in range(0, max(n_sequences, 1), step)
    ]
    theta, tau2, se, se_model, q, status = (
        np.concatenate(parts) for parts in zip(*blocks, strict=True)
    )
    return Fit(
        theta,
        se,
        se_model=se_model,
        q=q,
        q_p=chi2_p(q, n - 1),
        q_df=n - 1,
        tau2=tau2,
        status=status,
    )


def _solve(score: Score, options: Options) -> tuple[np.ndarray, ...]:
    """Return theta, tau2, se, se_model, q and status of a block of sequences."""
    loss = LOSS[options.loss]
    if options.overdispersion:
        theta, tau2 = joint_root(score, loss)
    else:
        theta = global_minimum(score, loss)
        tau2 = np.where(np.isfinite(theta), 0.0, np.nan)
    status = np.where(np.isfinite(theta), "ok", "no_finite_estimate").astype(object)
    se, se_model, q = _sandwich(score, theta, tau2, loss, options.overdispersion)
    status[(status == "ok") & ~np.isfinite(se)] = "weak_instruments"
    failed = status != "ok"
    numbers = (np.where(failed, np.nan, value) for value in (theta, tau2, se, se_model, q))
    return *numbers, status


def _sandwich(
    score: Score, theta: Array, tau2: Array, loss: Loss, overdispersion: bool
) -> tuple[Array, Array, Array]:
    """Return the standard error, its part without pleiotropy, and Q about the line.

    bx^2 - se_x^2, by^2 - se_y^2 - tau^2 and bx by - rho se_x se_y have the expectations 1, theta^2
    and theta times the squared true exposure effect; together they estimate it without bias.
    """
    slope, extra = theta[:, None], tau2[:, None]
    outcome = score.variance_y + extra
    c = score.covariance - slope * score.variance_x
    error = score.variance_y + slope * (slope * score.variance_x - 2.0 * score.covariance)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        v = error + extra
        square = v * v
        signal = (
            (score.bx * score.bx - score.variance_x) * outcome
            + (score.by * score.by - outcome) * score.variance_x
            - 2.0 * (score.bx * score.by - score.covariance) * score.covariance
        ) / square
        terms = signal + (score.variance_x * v - c * c) / square
        information = loss.delta * signal.sum(axis=-1)
        meat = loss.score_variance * terms.sum(axis=-1)
        model = loss.score_variance * (terms * error / v).sum(axis=-1)
        if overdispersion:
            cross = loss.delta * (c / square).sum(axis=-1)
            bread = 0.5 * (loss.delta + loss.curvature) * (score.variance_x / square).sum(axis=-1)
            noise = loss.scale_variance * score.variance_x**2 / square
            meat = meat + (cross / bread) ** 2 * noise.sum(axis=-1)
            model = model + (cross / bread) ** 2 * (noise * (error / v) ** 2).sum(axis=-1)
        weak = ~(information > 0)
        se = np.where(weak, np.nan, np.sqrt(meat) / information)
        se_model = np.where(weak, np.nan, np.sqrt(np.maximum(model, 0.0)) / information)
        residual = score.by - slope * score.bx
        q = (residual * residual / error).sum(axis=-1)
    return se, np.minimum(se, se_model), q


RAPS = Estimator("raps", 3, fit, refit(fit), frozenset({"rho_xy"}))
