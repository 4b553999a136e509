"""Estimation of many sequences at once, grouped by their number of instruments.

Grouping instead of padding keeps every sum over exactly the instruments of its sequence, so the
result of a sequence is the same to the last bit whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from deepmr.mr.diagnostics.describe import describe, position_influence
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options
from deepmr.mr.instrument_effects import Instruments

_GROUP_ELEMENTS = 500_000
"""Draws x instruments held at once for X: more is slower, once it leaves the cache."""

NUMBERS = (
    "estimate",
    "se",
    "ci_low",
    "ci_high",
    "p_value",
    "se_within",
    "se_draws",
    "estimate_diagonal",
    "se_diagonal",
    "p_value_diagonal",
    "se_unfloored",
    "q",
    "q_p",
    "i2",
    "tau2",
    "intercept",
    "intercept_se",
    "intercept_p",
    "n_valid",
    "n_modes",
    "p_global",
    "p_distortion",
    "without_position_low",
    "without_position_high",
    "influential_position",
)
"""Result columns that hold a number, of every method."""

_COPIED = (
    *("se_unfloored", "q", "q_p", "tau2", "intercept", "intercept_se", "intercept_p"),
    *("n_valid", "n_modes", "p_global", "p_distortion"),
)


@dataclass(frozen=True, eq=False)
class Estimates:
    """Results of one method, a value for each sequence.

    Attributes
    ----------
    values : dict of str to ndarray of float64, shape (sequences,)
        `NUMBERS`; NaN where there is no value.
    diagnostics : dict of str to ndarray, shape (sequences,)
        What `deepmr.mr.describe.describe` tells, the same for every method.
    n_instruments, n_dropped : ndarray of int32, shape (sequences,)
        Instruments used, or found where the status is not ``ok``; and left out.
    status : ndarray of object, shape (sequences,)
        ``ok``, ``too_few_instruments``, ``no_variation``, ``not_estimable`` (the instruments do
        not identify an effect), the estimator's own reason, or the status of the input.
    ci_kind : ndarray of object, shape (sequences,)
        ``rubin``, ``wald``, ``clr``, ``likelihood``, ``hpd``; None without an estimate.
    ci_set : ndarray of object, shape (sequences,)
        (intervals, 2) where the 95 % set may be more than one interval, otherwise None.
    p_valid : ndarray of object, shape (sequences,)
        (instruments,) where the method judges each instrument, otherwise None.
    draws, draws_se : ndarray, shape (sequences, draws)
        Estimate and its own standard error in each draw; no columns without draws.
    """

    values: dict[str, Array]
    diagnostics: dict[str, np.ndarray]
    n_instruments: np.ndarray
    n_dropped: np.ndarray
    status: np.ndarray
    ci_kind: np.ndarray
    ci_set: np.ndarray
    p_valid: np.ndarray
    draws: Array
    draws_se: Array


def estimate_all(
    items: Sequence[Instruments], methods: Sequence[Estimator], options: Options
) -> dict[str, Estimates]:
    """Estimate every sequence by every method.

    Parameters
    ----------
    items : sequence of Instruments
        One for each sequence; with draws all must have the same number.
    methods : sequence of Estimator
        From the registry.
    options : Options
        Settings.

    Returns
    -------
    dict of str to Estimates
        By method name, in the order of `items`.
    """
    usable = [item.usable() if item.status == "ok" else item for item in items]
    n_draws = max((len(i.draws_x) for i in usable if i.draws_x is not None), default=0)
    diagnostics = _no_diagnostics(len(usable))
    results = {method.name: _empty(usable, n_draws, diagnostics) for method in methods}
    for indices, group in _groups(usable):
        for name, value in describe(group).items():
            diagnostics[name][indices] = value
        for method in methods:
            result = results[method.name]
            if group.bx.shape[1] < method.minimum:
                result.status[indices] = "too_few_instruments"
                continue
            _estimate_group(group, method, options, indices, result)
    return results


def _no_diagnostics(count: int) -> dict[str, np.ndarray]:
    one = np.ones((1, 1))
    return {
        name: np.full(count, None if value.dtype == object else np.nan, dtype=value.dtype)
        for name, value in describe(Group(one, one, one, one)).items()
    }


def _empty(
    items: Sequence[Instruments], n_draws: int, diagnostics: dict[str, np.ndarray]
) -> Estimates:
    count = len(items)
    status = np.array([i.status for i in items], dtype=object)
    sizes = np.array([i.bx.size for i in items], dtype=np.int32)
    status[(status == "ok") & (sizes == 0)] = "too_few_instruments"
    return Estimates(
        values={name: np.full(count, np.nan) for name in NUMBERS},
        diagnostics=diagnostics,
        n_instruments=sizes,
        n_dropped=np.array([i.n_dropped for i in items], dtype=np.int32),
        status=status,
        ci_kind=np.full(count, None, dtype=object),
        ci_set=np.full(count, None, dtype=object),
        p_valid=np.full(count, None, dtype=object),
        draws=np.full((count, n_draws), np.nan),
        draws_se=np.full((count, n_draws), np.nan),
    )


def _groups(items: Sequence[Instruments]) -> Iterator[tuple[np.ndarray, Group]]:
    """Yield (indices, group) of sequences with equal numbers of instruments."""
    by_size: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        if item.status == "ok" and item.bx.size:
            by_size.setdefault(item.bx.size, []).append(index)
    for size, indices in by_size.items():
        first = items[indices[0]]
        layers = 1 if first.draws_x is None else len(first.draws_x)
        if first.correlation is not None:
            layers = size
        step = max(1, _GROUP_ELEMENTS // (size * layers))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            yield np.array(chunk), _group([items[i] for i in chunk])


def _group(members: Sequence[Instruments]) -> Group:
    """Stack in C order; `np.stack` keeps the order of its inputs, and sums round by order."""

    def stack(name: str) -> Any:
        given = [getattr(member, name) for member in members]
        return None if given[0] is None else np.ascontiguousarray(np.stack(given))

    names = ("bx", "se_x", "by", "se_y", "draws_x", "draws_y", "rho_xy", "correlation", "positions")
    return Group(**{name: stack(name) for name in names})


def _estimate_group(
    group: Group, method: Estimator, options: Options, indices: np.ndarray, result: Estimates
) -> None:
    """Write the results of a group into `result`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fit = method.fit(group, options)
        values = _of_fit(fit)
        kind = _kinds(fit)
        diagonal = fit
        if group.draws_x is not None:
            drawn = method.fit_draws(group, options)
            estimates = drawn.estimates
            if fit.holds_draws or options.centre == "mean_effects":
                estimates = estimates + (fit.estimate - estimates.mean(axis=1))[:, None]
            combined = rubin(estimates, drawn.se_within * drawn.se_within)
            values["se_within"] = combined.se_within
            values["se_draws"] = combined.se_draws
            if fit.holds_draws:
                diagonal = method.fit(_without_draws(group), options)
            else:
                for name in ("estimate", "se", "ci_low", "ci_high", "p_value"):
                    values[name] = getattr(combined, name)
                kind[:] = "rubin"
        values["estimate_diagonal"], values["se_diagonal"] = diagonal.estimate, diagonal.se
        values["p_value_diagonal"] = _interval(diagonal)[2]
        values |= position_influence(group, method.name)
    determined = np.isfinite(values["estimate"]) & np.isfinite(values["se"]) & (values["se"] > 0)
    reason = np.full(len(indices), "not_estimable", dtype=object)
    if fit.status is not None:
        own = fit.status != "ok"
        reason[own] = fit.status[own]
        determined &= ~own
    for name, value in values.items():
        result.values[name][indices] = np.where(determined, value, np.nan)
    result.status[indices[~determined]] = reason[~determined]
    result.ci_kind[indices[determined]] = kind[determined]
    for row in np.flatnonzero(determined):
        if fit.ci_set is not None:
            result.ci_set[indices[row]] = fit.ci_set[row]
        if fit.p_valid is not None:
            result.p_valid[indices[row]] = fit.p_valid[row]
    if group.draws_x is not None:
        result.draws[indices[determined]] = estimates[determined]
        result.draws_se[indices[determined]] = drawn.se[determined]


def _without_draws(group: Group) -> Group:
    """Keep only each instrument's own error correlation of what the draws tell."""
    return replace(group, draws_x=None, draws_y=None, rho_xy=group.error_correlation)


def _interval(fit: Fit) -> tuple[Array, Array, Array]:
    if fit.ci_low is None or fit.ci_high is None or fit.p_value is None:
        return student_interval(fit.estimate, fit.se, fit.df)
    return fit.ci_low, fit.ci_high, fit.p_value


def _kinds(fit: Fit) -> np.ndarray:
    if fit.ci_kind is not None:
        return fit.ci_kind.copy()
    return np.full(len(fit.estimate), "wald", dtype=object)


def _of_fit(fit: Fit) -> dict[str, Array]:
    low, high, p_value = _interval(fit)
    values = {
        "estimate": fit.estimate,
        "se": fit.se,
        "ci_low": low,
        "ci_high": high,
        "p_value": p_value,
    }
    for name in _COPIED:
        value = getattr(fit, name)
        if value is not None:
            values[name] = value
    if fit.q is not None:
        values["i2"] = np.maximum(1.0 - fit.q_df / fit.q, 0.0) if fit.q_df > 0 else fit.q * np.nan
    return values
