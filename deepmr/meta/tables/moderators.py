"""``meta_regression.parquet``: which properties of sequences go with the size of their effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepmr.meta.regression.meta_regression import Regression, draw_wise_regression
from deepmr.meta.result import Array
from deepmr.meta.tables.covariates import Coded, coded

Row = dict[str, Any]

INTERCEPT = "intercept"
MOST_MISSING = 0.5
"""Regression of all covariates together: one that more of the sequences lack is left out, lest it
take those sequences from the others."""

_CONSTANT = 1e-12
"""Spread, relative to the largest value, below which a covariate is constant up to rounding."""
_COLLINEAR = 1e-6
"""What must be left of a covariate of norm 1 besides those before it."""


def regress_on_covariates(
    estimates: Array,
    variances: Array,
    covariates: pd.DataFrame,
    method: str,
    test: str,
    scatter: Array | None = None,
) -> list[Row]:
    """Regress effects on each covariate alone and on all together, in every draw.

    Parameters
    ----------
    estimates, variances : ndarray, shape (draws, k)
        Estimate of each sequence in each draw and its squared standard error; with a usable
        standard error in all of them.
    covariates : pandas.DataFrame
        A row for each of the k sequences: columns of numbers or texts, as
        `deepmr.meta.tables.covariates.covariates` makes them.
    method, test : str
        As in `deepmr.meta.regression.meta_regression.draw_wise_regression`.
    scatter : ndarray, shape (k,), optional
        Squared standard error of each mean estimate without the model's error.

    Returns
    -------
    list of dict
        The columns of `deepmr.schemas.META_REGRESSION` from `covariates` on: a row for each term
        of each regression; ``together`` has an intercept too, the effect where every number is at
        its mean and every text is the commonest. A covariate that cannot be judged has a row with
        a status and the reason: ``no_sequences``, ``missing_covariate``, ``constant_covariate``,
        ``collinear_covariates``, ``too_few_sequences``, and those of
        `deepmr.meta.regression.meta_regression.Regression`.
    """
    every = [coded(covariates[name], name) for name in covariates.columns]
    if not estimates.shape[1]:
        return [
            row
            for kind in ("alone", "together")
            for one in every
            for row in _without(one, kind, "no_sequences", "no sequence to regress")
        ]

    def fit(kept: Sequence[Coded]) -> Regression:
        return draw_wise_regression(
            estimates, variances, *_design(kept), method=method, test=test, scatter=scatter
        )

    rows: list[Row] = []
    for one in every:
        why = _unusable(one, 0.0)
        if why is not None:
            rows += _without(one, "alone", *why)
            continue
        found = fit([one])
        rows += [
            _row(found, "alone", one.terms[i], one.units[i], i + 1) for i in range(len(one.terms))
        ]
    return rows + _together(every, fit)


def _together(every: Sequence[Coded], fit: Callable[[Sequence[Coded]], Regression]) -> list[Row]:
    rows: list[Row] = []
    usable: list[Coded] = []
    for one in every:
        why = _unusable(one, 1.0 - MOST_MISSING)
        if why is None:
            usable.append(one)
        else:
            rows += _without(one, "together", *why)
    if not usable:
        return rows
    complete = np.logical_and.reduce([one.known for one in usable])
    n, p = int(complete.sum()), 1 + sum(len(one.terms) for one in usable)
    if n <= p:
        reason = f"{n} sequences with all covariates do not tell {p} coefficients"
        return rows + [
            _empty("together", term, unit, complete, "too_few_sequences", reason)
            for one in usable
            for term, unit in zip(one.terms, one.units, strict=True)
        ]
    kept, dependent = _independent(usable, complete)
    rows += [
        _empty("together", term, unit, complete, status, reason)
        for term, unit, status, reason in dependent
    ]
    if not kept:
        return rows
    found = fit(kept)
    terms = [(INTERCEPT, "at mean numbers and commonest texts")]
    terms += [pair for one in kept for pair in zip(one.terms, one.units, strict=True)]
    fitted = [_row(found, "together", *term, i) for i, term in enumerate(terms)]
    return fitted + rows


def _design(kept: Sequence[Coded]) -> tuple[Array, list[str]]:
    """Return the design matrix, numbers centred on their means, and the names of its columns."""
    values = np.concatenate([one.values for one in kept], axis=1)
    complete = np.isfinite(values).all(axis=1)
    centre = np.zeros(values.shape[1])
    numbers = [one.terms == (one.name,) for one in kept for _ in one.terms]
    if complete.any():
        centre = np.where(numbers, values[complete].mean(axis=0), 0.0)
    design = np.concatenate([np.ones((len(values), 1)), values - centre], axis=1)
    names = [INTERCEPT, *(term for one in kept for term in one.terms)]
    return design, names


def _unusable(one: Coded, least_known: float) -> tuple[str, str] | None:
    """Return status and reason where a covariate tells nothing of these sequences."""
    known = one.known
    if not known.any() or known.mean() < least_known:
        some = f"only {int(known.sum())}" if known.any() else "none"
        return "missing_covariate", f"{one.name} is known of {some} of {len(known)} sequences"
    if not one.terms or (one.values[known] == one.values[known][0]).all():
        return "constant_covariate", f"{one.name} is the same in all {int(known.sum())} sequences"
    return None


def _independent(
    usable: Sequence[Coded], complete: NDArray[np.bool_]
) -> tuple[list[Coded], list[tuple[str, str, str, str]]]:
    """Keep the terms that the intercept and the earlier terms do not determine.

    Returns also (term, unit, status, reason) of the others.
    """
    basis = [np.ones(int(complete.sum()))]
    kept: list[Coded] = []
    left_out: list[tuple[str, str, str, str]] = []
    for one in usable:
        own = []
        for i, (term, unit) in enumerate(zip(one.terms, one.units, strict=True)):
            column = one.values[complete, i]
            spread = column - column.mean()
            constant = not (np.abs(spread) > _CONSTANT * np.abs(column).max()).any()
            if constant:
                reason = f"{term} is the same in the {column.size} sequences with all covariates"
                left_out.append((term, unit, "constant_covariate", reason))
                continue
            scaled = spread / np.linalg.norm(spread)
            others = np.stack(basis, axis=1)
            rest = scaled - others @ np.linalg.lstsq(others, scaled, rcond=None)[0]
            if np.linalg.norm(rest) < _COLLINEAR:
                reason = f"{term} is determined by the covariates before it"
                left_out.append((term, unit, "collinear_covariates", reason))
                continue
            basis.append(scaled)
            own.append(i)
        if own:
            kept.append(one.only(own))
    return kept, left_out


def _row(found: Regression, kind: str, term: str, unit: str, at: int) -> Row:
    return {
        "covariates": kind,
        "term": term,
        "unit": unit,
        "k": found.k,
        "n_dropped": found.n_dropped,
        "estimate": found.coefficients[at],
        "se": found.se[at],
        "ci_low": found.ci_low[at],
        "ci_high": found.ci_high[at],
        "p_value": found.p_value[at],
        "se_within": None if found.se_within is None else found.se_within[at],
        "se_draws": None if found.se_draws is None else found.se_draws[at],
        "df": found.df[at],
        "tau2": float(found.tau2),
        "r2": float(found.r2),
        "status": found.status,
        "reason": found.reason or None,
    }


def _without(one: Coded, kind: str, status: str, reason: str) -> list[Row]:
    if not one.terms:
        return [_empty(kind, one.name, None, one.known, status, reason)]
    terms = zip(one.terms, one.units, strict=True)
    return [_empty(kind, term, unit, one.known, status, reason) for term, unit in terms]


def _empty(
    kind: str, term: str, unit: str | None, known: NDArray[np.bool_], status: str, reason: str
) -> Row:
    return {
        "covariates": kind,
        "term": term,
        "unit": unit,
        "k": int(known.sum()),
        "n_dropped": int((~known).sum()),
        "status": status,
        "reason": reason,
    }
