r"""Meta-analysis of estimates that share the error of one model.

Every draw is one function for all sequences, so a whole meta-analysis is made in each draw and
the results are combined by Rubin's rules (see `deepmr.mr.drawwise`). What the model got wrong in
all sequences alike stays in se_draws, however many sequences there are.

The share of the variance that it makes is Rubin's fraction of missing information (1987, section
3.3), without the term that few draws add to it:

    fmi = (1 + 1/T) se_draws^2/se^2,    se^2 = se_within^2 + (1 + 1/T) se_draws^2.

How much true effects differ between sequences is another question. Within a draw estimates are
spread by the draw's own noise too, and the mean over draws by the model's error in single
sequences, so tau2 of a draw counts both (docs/meta_analysis.md: five times too much in one
design). What spreads estimates about the global effect is their deviation from it, theta_it -
mu_t, and its error has Rubin's total variance as well,

    u_i = mean_t v_it + (1 + 1/T) Var_t(theta_it - mu_t),

in which an error that all sequences share has no part. tau2, I2, H2, Q and their intervals are
those of the mean effects with the variances u_i, and the prediction interval takes this tau2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from deepmr.meta.combine import (
    checked,
    heterogeneity_bounds,
    missing,
    pool,
    scaled_se,
    test_df,
    usable,
)
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.intervals import check_prediction, prediction_df, q_profile
from deepmr.meta.result import Array, Result, reason_of, status_of
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.quantiles import median_and_se


def draw_wise(
    estimates: ArrayLike,
    variances: ArrayLike,
    method: str = "REML",
    test: str = "z",
    prediction: str = "metafor",
) -> Result:
    """Combine sequences in every draw and then the draws.

    Parameters
    ----------
    estimates, variances : array_like, shape (draws, k)
        Estimate of each sequence in each draw, and its squared standard error in that draw.
    method, test, prediction : str
        As of `deepmr.meta.random_effects`. The test decides the standard error within a draw and
        its degrees of freedom (infinite or k - 1), with which those of the draws are combined
        (see `deepmr.mr.drawwise.rubin`); the convention of prediction likewise.

    Returns
    -------
    Result
        se^2 = se_within^2 + (1 + 1/T) se_draws^2, with se_within^2 the mean over draws of the
        squared standard error of the global effect and se_draws its standard deviation over
        draws. Heterogeneity is that of the mean effects beyond the error of their deviations from
        the global effect (see above), estimated by the same method. A sequence that
        cannot be combined in one draw is left out of all (see `deepmr.meta.combine.usable`).

    Raises
    ------
    ValueError
        If method, test or prediction is unknown, the shapes disagree or there is a single
        draw.
    """
    check_method(method)
    check_prediction(prediction)
    test_df(test, 1)
    y, v = checked(estimates, variances, 2)
    if len(y) < 2 and y.size:
        raise ValueError(
            f"found {len(y)} draws; give 2 or more, or use random_effects for one set of estimates"
        )
    keep, left_out = usable(y, v)
    n_dropped = int((~keep).sum())
    if n_dropped:
        y, v = np.ascontiguousarray(y[:, keep]), np.ascontiguousarray(v[:, keep])
    k = y.shape[1]
    labels = {"k": k, "n_dropped": n_dropped, "status": status_of(k), "test": test}
    if k == 0:
        return Result(**labels, reason=reason_of(0, left_out))
    if k == 1:
        alone = _total(y[:, 0], v[:, 0], np.inf)
        return Result(**alone, **labels, reason=reason_of(1, left_out))
    pooled = pool(y, v, method)
    se = scaled_se(pooled, test)
    df = test_df(test, k)
    values = _total(pooled.estimate, se * se, df)
    values |= _heterogeneity(y, v, pooled.estimate, method)
    if method != "FE":
        new_df = rubin(
            pooled.estimate, np.asarray((se * se).mean()), prediction_df(prediction, k, df)
        ).df
        new_se = np.sqrt(values["tau2"] + values["se"] ** 2)
        low, high, _ = student_interval(np.asarray(values["estimate"]), new_se, new_df)
        values |= {"pi_low": float(low), "pi_high": float(high)}
    reason = reason_of(k, left_out, *missing(method, prediction, k, values["se"]))
    return Result(**values, **labels, reason=reason)


def _heterogeneity(y: Array, v: Array, centre: Array, method: str) -> dict[str, float]:
    """Return what a `Result` says of it, from effects and variances of draws and their means."""
    k, middle = y.shape[1], y.mean(axis=0)
    deviation = y - centre[:, None]
    errors = v.mean(axis=0) + (1.0 + 1.0 / len(y)) * deviation.var(axis=0, ddof=1)
    beyond = pool(middle[None], errors[None], method)
    found = {name: float(getattr(beyond, name)[0]) for name in ("tau2", "i2", "h2", "q")}
    found["q_p"] = float(chdtrc(k - 1, found["q"]))
    if method != "FE":
        found |= heterogeneity_bounds(*q_profile(middle, errors), float(beyond.typical[0]))
    return found


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
        A sequence whose estimate is missing or infinite in a draw is left out of all.

    Raises
    ------
    ValueError
        If the shape is wrong.
    """
    y = np.asarray(draws, dtype=np.float64)
    if y.ndim != 2 or (y.shape[1] and not len(y)):
        raise ValueError(f"draws must have shape (draws, k); found {y.shape}")
    keep, left_out = usable(y, np.ones_like(y))
    y = np.ascontiguousarray(y[:, keep])
    k = y.shape[1]
    labels: dict[str, Any] = {
        "k": k,
        "n_dropped": int((~keep).sum()),
        "status": status_of(k),
        "reason": reason_of(k, left_out),
    }
    if k == 0:
        return Result(**labels)
    if k == 1:
        return Result(estimate=float(y.mean()), **labels)
    middle, se = median_and_se(y)
    if len(y) > 1:
        return Result(**_total(middle, se * se, np.inf), **labels)
    low, high, p_value = student_interval(middle, se, np.inf)
    return Result(
        **labels,
        estimate=float(middle[0]),
        se=float(se[0]),
        ci_low=float(low[0]),
        ci_high=float(high[0]),
        p_value=float(p_value[0]),
        df=np.inf,
    )


def _total(estimates: Array, variances: Array, complete_df: float) -> dict[str, Any]:
    """Apply Rubin's rules to the global effects of the draws."""
    total = rubin(estimates, np.asarray(variances.mean()), complete_df)
    error = (1.0 + 1.0 / estimates.size) * float(total.se_draws) ** 2
    square = float(total.se) ** 2
    names = ("estimate", "se", "ci_low", "ci_high", "p_value", "df", "se_within", "se_draws")
    values = {name: float(getattr(total, name)) for name in names}
    return values | {"fmi": error / square if square > 0 else np.nan}
