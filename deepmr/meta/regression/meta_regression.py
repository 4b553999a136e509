"""Meta-regression: what of a sequence goes with the size of its effect.

y = X b + u + e with u ~ N(0, tau2) between sequences and e ~ N(0, v) with v known (Thompson and
Higgins, Stat Med 2002;21:1559). tau2: `deepmr.meta.regression.residual_heterogeneity`. The design
is orthonormalised first (`deepmr.meta.regression.design`), so nothing depends on the units of a
covariate, and a set of weights costs O(k p^2). The conventions for I2, H2 and R2 are those of the
R package metafor (Viechtbauer, J Stat Softw 2010;36(3)).

Sequences share the error of one model. `meta_regression` of mean effects ignores that,
`draw_wise_regression` keeps it (see `deepmr.mr.drawwise`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from deepmr.meta.combine import TESTS, checked_scatter, deviation_errors, pool
from deepmr.meta.heterogeneity import check_method, estimate_tau2
from deepmr.meta.regression.design import Data, complete_cases
from deepmr.meta.regression.residual_heterogeneity import (
    INSEPARABLE,
    SEPARATE,
    residual_tau2,
    weighted_fit,
)
from deepmr.meta.regression.wald import wald, wald_over_draws
from deepmr.meta.result import Array
from deepmr.mr.drawwise import rubin, student_interval


@dataclass(frozen=True, eq=False)
class Regression:
    """A meta-regression; `...` is nothing for one set of estimates, (rows,) for many.

    Attributes
    ----------
    names : tuple of str
        Of the p coefficients.
    coefficients, se, ci_low, ci_high, p_value, df : ndarray, shape (..., p)
        Change of the effect per unit of the covariate, its standard error, 95 % interval,
        two-sided p-value and the degrees of freedom of its t distribution (infinite: normal).
    cov : ndarray, shape (..., p, p)
        Of the coefficients.
    tau2 : ndarray, shape (...)
        Variance between sequences that the covariates leave; 0 with ``FE``.
    i2, h2 : ndarray, shape (...)
        I2 in percent and H2 of the residual heterogeneity (metafor's typical variance).
    r2 : ndarray, shape (...)
        Percent of the tau2 of a model with an intercept only that the covariates take away, not
        below 0. NaN without an intercept, with ``FE``, and where that tau2 is 0.
    qe, qe_p : ndarray, shape (...)
        Test of residual heterogeneity, chi^2 with k - p degrees of freedom.
    qm, qm_p : ndarray, shape (...)
        Wald test of all coefficients but the intercept: chi^2 with z, else F; NaN where there
        are none.
    qm_df, qm_df_residual : ndarray, shape (...)
        Its degrees of freedom; the second is infinite for chi^2.
    k, n_dropped : int
        Sequences used, and left out.
    status : str
        ``ok``; ``few_sequences`` (one more than coefficients); without numbers
        ``no_sequences``, ``too_few_sequences`` (k <= p), ``constant_covariate`` and
        ``collinear_covariates``.
    reason : str
        In words, with the name of the covariate; empty where there is nothing to say.
    method, test : str
        As asked.
    se_within, se_draws, fmi : ndarray, shape (p,) or None
        Parts of a draw-wise `se`, and the share of its square that is model error.
    """

    names: tuple[str, ...]
    coefficients: Array
    se: Array
    ci_low: Array
    ci_high: Array
    p_value: Array
    df: Array
    cov: Array
    tau2: Array
    i2: Array
    h2: Array
    r2: Array
    qe: Array
    qe_p: Array
    qm: Array
    qm_p: Array
    qm_df: Array
    qm_df_residual: Array
    k: int
    n_dropped: int
    status: str
    reason: str
    method: str
    test: str
    se_within: Array | None = None
    se_draws: Array | None = None
    fmi: Array | None = None

    @property
    def has_numbers(self) -> bool:
        """Whether there is an estimate."""
        return self.status in ("ok", "few_sequences")


def meta_regression(
    estimates: ArrayLike,
    variances: ArrayLike,
    design: ArrayLike,
    names: Sequence[str] | None = None,
    method: str = "REML",
    test: str = "knha",
) -> Regression:
    """Regress independent estimates on properties of their sequences.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,) or (rows, k)
        Estimates and their squared standard errors; each row is a regression of its own.
    design : array_like, shape (k, p)
        The design matrix, **with** its column of ones where an intercept is wanted. Sequences
        with a value that is not finite, or (in any row) an estimate that is not finite or a
        variance that is 0, negative, not finite or rounding, are left out and counted.
    names : sequence of str, optional
        Of the columns; by default ``intercept``, ``x1``, ...
    method : str
        Estimator of tau2: ``REML``, ``DL``, ``PM``, ``ML``, ``HS``, ``HSk``, ``SJ``, ``EB``,
        ``HE``, ``PMM``, or ``FE`` (tau2 = 0).
    test : str
        ``z`` normal, ``t`` with k - p degrees of freedom, ``knha`` Knapp and Hartung's (Stat Med
        2003;22:2693) covariance, scaled by y'Py/(k - p), with t, ``adhoc`` the same with that
        factor not below 1.

    Returns
    -------
    Regression

    Raises
    ------
    ValueError
        If method or test is unknown or shapes or names disagree.
    """
    _check_options(method, test)
    data = complete_cases(estimates, variances, design, names)
    rows = _regress(data, method, test)
    return rows if np.ndim(estimates) == 2 else _first(rows)


def draw_wise_regression(
    estimates: ArrayLike,
    variances: ArrayLike,
    design: ArrayLike,
    names: Sequence[str] | None = None,
    method: str = "REML",
    test: str = "knha",
    scatter: ArrayLike | None = None,
) -> Regression:
    """Make the regression in every draw and combine the draws, coefficient by coefficient.

    Parameters
    ----------
    estimates, variances : array_like, shape (draws, k)
        Estimate of each sequence in each draw, and its squared standard error in that draw.
    design, names, method, test
        As for :func:`meta_regression`.
    scatter : array_like, shape (k,), optional
        As of `deepmr.meta.draw_wise`.

    Returns
    -------
    Regression
        se^2 = se_within^2 + (1 + 1/T) se_draws^2 by Rubin's rules. tau2, i2, h2, r2 and qe are
        those of the mean effects beyond the error of their residuals, as in
        `deepmr.meta.draw_wise`: the noise of single draws is no part of them; r2 compares that
        tau2 with the one of `draw_wise`. qm is the statistic
        D1 of Li, Raghunathan and Rubin (J Am Stat Assoc 1991;86:1065), F with qm_df and
        qm_df_residual degrees of freedom. A sequence that cannot be used in one draw is left out
        of all.

    Raises
    ------
    ValueError
        As :func:`meta_regression`, and if there are fewer than 2 draws.
    """
    _check_options(method, test)
    if np.ndim(estimates) != 2:
        raise ValueError(
            f"estimates must have shape (draws, k); found {np.shape(estimates)}: for a single "
            "set of estimates call meta_regression"
        )
    own = checked_scatter(scatter, np.shape(estimates)[1])
    data = complete_cases(estimates, variances, design, names)
    n_draws = len(data.y)
    if n_draws < 2:
        raise ValueError(f"a combination over draws needs at least 2 of them; found {n_draws}")
    each = _regress(data, method, test)
    p = len(data.names)
    if not each.has_numbers:
        empty = _first(each)
        return replace(empty, se_within=empty.se, se_draws=empty.se, fmi=empty.se)
    within = each.cov.mean(axis=0)
    total = rubin(each.coefficients.T, np.diagonal(within).copy(), _residual_df(test, data.k - p))
    deviation = each.coefficients - total.estimate
    between = np.einsum("ti,tj->ij", deviation, deviation) / (n_draws - 1)
    inflated = (1.0 + 1.0 / n_draws) * between
    beyond = _beyond_the_draws(data, each.coefficients, method, own)
    with np.errstate(invalid="ignore", divide="ignore"):
        fmi = np.diagonal(inflated) / total.se**2
    return Regression(
        names=data.names,
        coefficients=total.estimate,
        se=total.se,
        ci_low=total.ci_low,
        ci_high=total.ci_high,
        p_value=total.p_value,
        df=total.df,
        cov=within + inflated,
        tau2=beyond.tau2,
        i2=beyond.i2,
        h2=beyond.h2,
        r2=beyond.r2,
        qe=beyond.qe,
        qe_p=beyond.qe_p,
        **wald_over_draws(total.estimate, within, between, n_draws, data.tested),
        k=data.k,
        n_dropped=data.n_dropped,
        status=each.status,
        reason=each.reason,
        method=method,
        test=test,
        se_within=total.se_within,
        se_draws=total.se_draws,
        fmi=fmi,
    )


def _check_options(method: str, test: str) -> None:
    check_method(method)
    if test not in TESTS:
        raise ValueError(f"test {test!r} is unknown; write one of {', '.join(TESTS)}")


def _residual_df(test: str, left: int) -> float:
    """Degrees of freedom of a test where the coefficients leave `left`."""
    return np.inf if test == "z" else float(left)


def _beyond_the_draws(
    data: Data, coefficients: Array, method: str, scatter: Array | None
) -> Regression:
    """Regress the mean effects, with Rubin's total variance of their residuals."""
    fitted = data.q @ np.linalg.solve(data.to_names, coefficients.T)
    own = None if scatter is None else scatter[data.kept]
    errors = deviation_errors(data.y - fitted.T, data.v, own)
    mean = replace(data, y=data.y.mean(axis=0)[None], v=errors[None])
    found = _first(_regress(mean, method, "z"))
    if data.intercept is None or method == "FE":
        return found
    # An error of the model that goes with a covariate is none of the residuals, but spreads the
    # effects about their mean: tau2 of those needs errors of its own.
    centre = pool(data.y, data.v, method).estimate[:, None]
    errors = deviation_errors(data.y - centre, data.v, own)
    alone = estimate_tau2(mean.y, errors[None], method)[0]
    r2 = 100.0 * max(1.0 - float(found.tau2) / alone, 0.0) if alone > 0 else np.nan
    return replace(found, r2=np.asarray(r2))


def _regress(data: Data, method: str, test: str) -> Regression:
    """Make the regression of every row."""
    if not data.solvable:
        return _empty(data, len(data.y), method, test)
    y, v, q = data.y, data.v, data.q
    k, p = q.shape
    common = weighted_fit(y, 1.0 / v, q)
    tau2 = residual_tau2(y, v, q, method)
    fit = weighted_fit(y, 1.0 / (v + tau2[:, None]), q)
    if min(fit.separation.min(), common.separation.min()) < SEPARATE:
        return _empty(_inseparable(data), len(y), method, test)
    residual = fit.rss / (k - p)
    # Of what the fit takes away no more than rounding is left.
    rounding = (k * np.finfo(np.float64).eps) ** 2 * (fit.weights * y * y).sum(axis=1)
    residual[fit.rss <= rounding] = 0.0
    if test == "knha":
        factor = residual
    else:
        factor = np.maximum(residual, 1.0) if test == "adhoc" else np.ones_like(residual)
    reason = data.reason
    if not factor.all():
        exact = "a standard error is 0: the covariates fit exactly"
        reason = f"{reason}; {exact}" if reason else exact
    coefficients = np.einsum("ij,rj->ri", data.to_names, fit.coefficients)
    # As a square, so that rounding leaves no variance below 0.
    half = np.einsum("ij,rjk->rik", data.to_names, np.linalg.inv(fit.triangle))
    cov = np.einsum("rik,rlk->ril", half, half)
    cov *= factor[:, None, None]
    se = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    residual_df = _residual_df(test, k - p)
    df = np.full(se.shape, residual_df)
    low, high, p_value = student_interval(coefficients, se, df)
    typical = (k - p) / common.trace
    i2, h2 = _heterogeneity(tau2, typical, common.rss, k - p, method)
    r2 = np.full(len(y), np.nan)
    if data.intercept is not None and method != "FE":
        alone = residual_tau2(y, v, np.full((k, 1), 1.0 / np.sqrt(k)), method)
        some = alone > 0
        r2[some] = 100.0 * np.maximum(1.0 - tau2[some] / alone[some], 0.0)
    return Regression(
        names=data.names,
        coefficients=coefficients,
        se=se,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        df=df,
        cov=cov,
        tau2=tau2,
        i2=i2,
        h2=h2,
        r2=r2,
        qe=common.rss,
        qe_p=chdtrc(k - p, common.rss),
        **wald(coefficients, cov, data.tested, residual_df),
        k=k,
        n_dropped=data.n_dropped,
        status=data.status,
        reason=reason,
        method=method,
        test=test,
    )


def _inseparable(data: Data) -> Data:
    reason = f"{data.reason}; {INSEPARABLE}" if data.reason else INSEPARABLE
    return replace(data, status="collinear_covariates", reason=reason)


def _first(rows: Regression) -> Regression:
    """Return the regression of the only row."""
    arrays = {name: value[0] for name, value in vars(rows).items() if isinstance(value, np.ndarray)}
    return replace(rows, **arrays)


def _heterogeneity(
    tau2: Array, typical: Array, qe: Array, df: int, method: str
) -> tuple[Array, Array]:
    """Return I2 in percent and H2, of equal effects from their test of heterogeneity."""
    if method != "FE":
        return 100.0 * tau2 / (tau2 + typical), tau2 / typical + 1.0
    return 100.0 * (1.0 - df / np.maximum(qe, df)), qe / df


def _empty(data: Data, rows: int, method: str, test: str) -> Regression:
    """Return a regression without numbers."""
    p = len(data.names)
    by_coefficient = ("coefficients", "se", "ci_low", "ci_high", "p_value", "df")
    by_row = ("tau2", "i2", "h2", "r2", "qe", "qe_p", "qm", "qm_p", "qm_df", "qm_df_residual")
    return Regression(
        names=data.names,
        **{name: np.full((rows, p), np.nan) for name in by_coefficient},
        cov=np.full((rows, p, p), np.nan),
        **{name: np.full(rows, np.nan) for name in by_row},
        k=data.k,
        n_dropped=data.n_dropped,
        status=data.status,
        reason=data.reason,
        method=method,
        test=test,
    )
