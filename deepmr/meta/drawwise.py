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

    u_i = s_i^2 + (1 + 1/T) Var_t(theta_it - mu_t),

in which an error that all sequences share has no part. s_i is the scatter that estimate i would
have, were the model without error (``se_within`` of the MR table); mean_t v_it stands in its place
where it is not given. The v_it of MR are made of a draw's residuals, which hold the model's error
twice more (see `deepmr.mr.drawwise`): with them tau2 was .006 instead of .009 in the simulation of
tests/unit/test_meta_drawwise.py. tau2, I2, H2, Q and their intervals are those of the mean effects
with the variances u_i, and the prediction interval takes this tau2.

u_i is taken as known. With few draws it is not, though sequences lend each other strength
(`deepmr.meta.combine.deviation_errors`): without any heterogeneity in the truth Q had p < .05 in
33, 28 and 13 % of simulations with 5, 10 and 40 draws. Where deviations go together (an error along
GC content), Q has fewer degrees of freedom than k - 1: `deepmr.meta.effective_df`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from deepmr.meta.combine import (
    checked,
    checked_scatter,
    deviation_errors,
    heterogeneity_bounds,
    missing,
    pool,
    scaled_se,
    test_df,
    usable,
)
from deepmr.meta.effective_df import effective_df, tau2_bounds
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.intervals import check_prediction, prediction_df
from deepmr.meta.result import Array, Result, reason_of, status_of
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.quantiles import median_and_se


def draw_wise(
    estimates: ArrayLike,
    variances: ArrayLike,
    method: str = "REML",
    test: str = "z",
    prediction: str = "metafor",
    scatter: ArrayLike | None = None,
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
    scatter : array_like, shape (k,), optional
        Squared standard error of each mean estimate without the model's error, for the
        heterogeneity (see above and `deepmr.meta.combine.deviation_errors`).

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
    own = checked_scatter(scatter, y.shape[1])
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
    deviation = y - pooled.estimate[:, None]
    errors = deviation_errors(deviation, v, None if own is None else own[keep])
    values |= _heterogeneity(y.mean(axis=0), deviation, errors, method)
    if method != "FE":
        new_df = rubin(
            pooled.estimate, np.asarray((se * se).mean()), prediction_df(prediction, k, df)
        ).df
        new_se = np.sqrt(values["tau2"] + values["se"] ** 2)
        low, high, _ = student_interval(np.asarray(values["estimate"]), new_se, new_df)
        values |= {"pi_low": float(low), "pi_high": float(high)}
    reason = reason_of(k, left_out, *missing(method, prediction, k, values["se"]))
    return Result(**values, **labels, reason=reason)


def _heterogeneity(middle: Array, deviation: Array, errors: Array, method: str) -> dict[str, float]:
    """Return what a `Result` says of it, from mean effects and the errors of their deviations."""
    beyond = pool(middle[None], errors[None], method)
    found = {name: float(getattr(beyond, name)[0]) for name in ("tau2", "i2", "h2", "q")}
    h = effective_df(deviation, errors, 0.0)
    found["q_p"] = float(chdtrc(h, found["q"] * h / (middle.size - 1)))
    if method != "FE":
        bounds = tau2_bounds(middle, deviation, errors, found["tau2"])
        found |= heterogeneity_bounds(*bounds, float(beyond.typical[0]))
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
    if not se.any() and not np.ptp(middle):
        exact = "the standard error is 0: the sequences about the median agree exactly"
        labels["reason"] = reason_of(k, left_out, exact)
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
