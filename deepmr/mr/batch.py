"""Estimation of many sequences at once, grouped by their number of instruments.

Grouping instead of padding keeps every sum over exactly the instruments of its sequence, so the
result of a sequence is the same to the last bit whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepmr.mr import diagnostics
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options

_GROUP_ELEMENTS = 500_000
"""Draws x instruments held at once for X: more is slower, once it leaves the cache."""

ESTIMATE_COLUMNS = (
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
    "q",
    "q_p",
    "intercept",
    "intercept_se",
    "intercept_p",
)
DIAGNOSTIC_COLUMNS = ("mean_f", "i2_gx", "i2_gx_weighted")


@dataclass(frozen=True, eq=False)
class Instruments:
    """Effects of one sequence's instruments.

    Attributes
    ----------
    bx, se_x, by, se_y : ndarray of float64, shape (instruments,)
        Effects on exposure and outcome and their standard errors.
    draws_x, draws_y : ndarray of float64, shape (draws, instruments) or None
        The effects in each draw.
    status : str
        ``ok``, or why there is nothing to estimate; then the arrays only give the count.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    draws_x: Array | None = None
    draws_y: Array | None = None
    status: str = "ok"

    @classmethod
    def none(cls, status: str, count: int = 0) -> Instruments:
        """Return a sequence that cannot be estimated, with the number of instruments found."""
        nothing = np.full(count, np.nan)
        return cls(nothing, nothing, nothing, nothing, status=status)

    def usable(self) -> Instruments:
        """Drop instruments with a missing or infinite value or without a standard error.

        An outcome effect that does not vary over draws (se_y = 0) would get infinite weight.
        """
        keep = np.isfinite(self.bx) & np.isfinite(self.by)
        keep &= np.isfinite(self.se_x) & np.isfinite(self.se_y) & (self.se_x > 0) & (self.se_y > 0)
        for draws in (self.draws_x, self.draws_y):
            if draws is not None:
                keep &= np.isfinite(draws).all(axis=0)
        if keep.all():
            return self
        return Instruments(
            self.bx[keep],
            self.se_x[keep],
            self.by[keep],
            self.se_y[keep],
            None if self.draws_x is None else self.draws_x[:, keep],
            None if self.draws_y is None else self.draws_y[:, keep],
            self.status if keep.any() or not self.bx.size else "no_variation",
        )


@dataclass(frozen=True, eq=False)
class Estimates:
    """Results of one method, a value for each sequence.

    Attributes
    ----------
    values : dict of str to ndarray of float64, shape (sequences,)
        `ESTIMATE_COLUMNS` and `DIAGNOSTIC_COLUMNS`; NaN where there is no value.
    n_instruments : ndarray of int32, shape (sequences,)
        Instruments used, or found where the status is not ``ok``.
    status : ndarray of object, shape (sequences,)
        ``ok``, ``too_few_instruments``, ``no_variation``, ``not_estimable`` (the instruments do
        not identify a slope), or the status of the input.
    draws, draws_se : ndarray, shape (sequences, draws)
        Estimate and its own standard error in each draw; no columns without draws.
    """

    values: dict[str, Array]
    n_instruments: np.ndarray
    status: np.ndarray
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
    results = {method.name: _empty(usable, n_draws) for method in methods}
    for indices, group in _groups(usable):
        with np.errstate(divide="ignore", invalid="ignore"):
            strength = {name: getattr(diagnostics, name)(group) for name in DIAGNOSTIC_COLUMNS}
        for method in methods:
            result = results[method.name]
            for name, value in strength.items():
                result.values[name][indices] = value
            if group.bx.shape[1] < method.minimum:
                result.status[indices] = "too_few_instruments"
                continue
            _estimate_group(group, method, options, indices, result)
    return results


def _empty(items: Sequence[Instruments], n_draws: int) -> Estimates:
    count = len(items)
    status = np.array([i.status for i in items], dtype=object)
    sizes = np.array([i.bx.size for i in items], dtype=np.int32)
    status[(status == "ok") & (sizes == 0)] = "too_few_instruments"
    return Estimates(
        {name: np.full(count, np.nan) for name in ESTIMATE_COLUMNS + DIAGNOSTIC_COLUMNS},
        sizes,
        status,
        np.full((count, n_draws), np.nan),
        np.full((count, n_draws), np.nan),
    )


def _groups(items: Sequence[Instruments]) -> Iterator[tuple[np.ndarray, Group]]:
    """Yield (indices, group) of sequences with equal numbers of instruments."""
    by_size: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        if item.status == "ok" and item.bx.size:
            by_size.setdefault(item.bx.size, []).append(index)
    for size, indices in by_size.items():
        first = items[indices[0]].draws_x
        step = max(1, _GROUP_ELEMENTS // (size * (1 if first is None else len(first))))
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            members = [items[i] for i in chunk]
            yield (
                np.array(chunk),
                Group(
                    _stack([m.bx for m in members]),
                    _stack([m.se_x for m in members]),
                    _stack([m.by for m in members]),
                    _stack([m.se_y for m in members]),
                    _stack_draws([m.draws_x for m in members]),
                    _stack_draws([m.draws_y for m in members]),
                ),
            )


def _stack(arrays: Sequence[Array]) -> Array:
    """Stack in C order; `np.stack` keeps the order of its inputs, and sums round by order."""
    return np.ascontiguousarray(np.stack(arrays))


def _stack_draws(draws: Sequence[Array | None]) -> Array | None:
    given = [d for d in draws if d is not None]
    return _stack(given) if given else None


def _estimate_group(
    group: Group, method: Estimator, options: Options, indices: np.ndarray, result: Estimates
) -> None:
    """Write the results of a group into `result`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        fit = method.fit(group, options)
        values = _diagonal(fit)
        if group.draws_x is not None:
            drawn = method.fit_draws(group)
            estimates = drawn.estimates
            if options.centre == "mean_effects":
                estimates = estimates + (fit.estimate - estimates.mean(axis=1))[:, None]
            combined = rubin(estimates, drawn.se_within * drawn.se_within)
            for name in ("estimate", "se", "ci_low", "ci_high", "p_value"):
                values[name] = getattr(combined, name)
            values["se_within"] = combined.se_within
            values["se_draws"] = combined.se_draws
    determined = np.isfinite(values["estimate"]) & np.isfinite(values["se"]) & (values["se"] > 0)
    for name, value in values.items():
        result.values[name][indices] = np.where(determined, value, np.nan)
    result.status[indices[~determined]] = "not_estimable"
    if group.draws_x is not None:
        result.draws[indices[determined]] = estimates[determined]
        result.draws_se[indices[determined]] = drawn.se[determined]


def _diagonal(fit: Fit) -> dict[str, Array]:
    low, high, p_value = student_interval(fit.estimate, fit.se, np.inf)
    values = {
        "estimate": fit.estimate,
        "se": fit.se,
        "ci_low": low,
        "ci_high": high,
        "p_value": p_value,
        "estimate_diagonal": fit.estimate,
        "se_diagonal": fit.se,
        "p_value_diagonal": p_value,
    }
    for name in ("q", "q_p", "intercept", "intercept_se", "intercept_p"):
        value = getattr(fit, name)
        if value is not None:
            values[name] = value
    return values
