"""Meta-analysis of estimates that share the error of one model.

Every draw is one function for all sequences, so a whole meta-analysis is made in each draw and
the results are combined by Rubin's rules (see `deepmr.mr.drawwise`). What the model got wrong in
all sequences alike stays in se_draws, however many sequences there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from deepmr.meta.combine import Array, Result, checked, pool, status_of
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.quantiles import median_and_se


def draw_wise(estimates: ArrayLike, variances: ArrayLike, method: str = "REML") -> Result:
    """Combine sequences in every draw and then the draws.

    Parameters
    ----------
    estimates, variances : array_like, shape (draws, k)
        Estimate of each sequence in each draw, and its squared standard error in that draw.
    method : str
        ``REML``, ``DL`` or ``FE``.

    Returns
    -------
    Result
        se^2 = se_within^2 + (1 + 1/T) se_draws^2, with se_within^2 the mean over draws of the
        squared standard error of the global effect and se_draws its standard deviation over
        draws. tau2, i2, h2 and q are means over draws, q_p belongs to the mean of q.

    Raises
    ------
    ValueError
        If the method is unknown, shapes disagree, there are fewer than 2 draws, a value is not
        finite or a variance is not above 0.
    """
    y, v = checked(estimates, variances, 2)
    k = y.shape[1]
    if k == 0:
        return Result()
    if k == 1:
        return _combined(y[:, 0], v[:, 0], 1)
    pooled = pool(y, v, method)
    q = float(pooled.q.mean())
    return _combined(
        pooled.estimate,
        pooled.se * pooled.se,
        k,
        tau2=np.nan if method == "FE" else float(pooled.tau2.mean()),
        i2=float(pooled.i2.mean()),
        h2=float(pooled.h2.mean()),
        q=q,
        q_p=float(chdtrc(k - 1, q)),
    )


def median(draws: ArrayLike) -> Result:
    """Median over sequences in every draw: right while half of the sequences are.

    Parameters
    ----------
    draws : array_like, shape (draws, k)
        Estimate of each sequence in each draw. A single row (one set of estimates, no draws)
        gives the within-draw standard error alone.

    Returns
    -------
    Result
        Woodruff's standard error within a draw (see `deepmr.mr.quantiles.median_and_se`), combined
        over draws. No heterogeneity and no prediction interval; no standard error for k = 1.

    Raises
    ------
    ValueError
        If the shape is wrong or a value is not finite.
    """
    y = np.asarray(draws, dtype=np.float64)
    if y.ndim != 2 or not np.isfinite(y).all():
        raise ValueError(f"draws must be finite with shape (draws, k); found shape {y.shape}")
    k = y.shape[1]
    if k == 0:
        return Result()
    if k == 1:
        return Result(estimate=float(y.mean()), k=1, status=status_of(1))
    middle, se = median_and_se(y)
    if len(y) > 1:
        return _combined(middle, se * se, k)
    low, high, p_value = student_interval(middle, se, np.inf)
    return Result(
        k=k,
        status=status_of(k),
        estimate=float(middle[0]),
        se=float(se[0]),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        p_value=float(p_value[0]),
    )


def _combined(estimates: Array, variances: Array, k: int, **heterogeneity: float) -> Result:
    """Apply Rubin's rules to the global effects of the draws."""
    total = rubin(estimates, np.asarray(variances.mean()))
    tau2 = heterogeneity.get("tau2", np.nan)
    spread = np.sqrt(tau2 + total.se * total.se)
    pi_low, pi_high, _ = student_interval(total.estimate, spread, total.df)
    values = {
        "estimate": total.estimate,
        "se": total.se,
        "ci_low": total.ci_low,
        "ci_high": total.ci_high,
        "p_value": total.p_value,
        "pi_low": pi_low,
        "pi_high": pi_high,
        "se_within": total.se_within,
        "se_draws": total.se_draws,
    }
    return Result(
        **{name: float(value) for name, value in values.items()},
        **heterogeneity,
        k=k,
        status=status_of(k),
    )
