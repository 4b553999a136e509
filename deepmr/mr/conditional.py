"""Direct effects of exposures that share an outcome: multivariable MR of each sequence.

An instrument of one exposure that acts on the outcome through another is a pleiotropic one, until
both are in the model (`deepmr.mr.multivariable`). Draw-wise as everything here: see
`deepmr.mr.multivariable.draws`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deepmr.mr.batch import NUMBERS, Estimates
from deepmr.mr.drawwise import rubin, student_interval
from deepmr.mr.estimator import Array, Options
from deepmr.mr.instrument_effects import LARGEST
from deepmr.mr.multivariable.conditional_strength import conditional_f
from deepmr.mr.multivariable.draws import fit_draws
from deepmr.mr.multivariable.fits import Exposures, fit_regression
from deepmr.mr.multivariable.least_squares import collinear

METHODS = ("mv_ivw", "mv_egger")
"""Methods whose weights and orientation can be held fixed over the draws."""

RULE = "union"
"""Instrument rule of their rows: what the rule selects for any of the exposures."""

_GROUP_ELEMENTS = 500_000


@dataclass(frozen=True, eq=False)
class ConditionalInstruments:
    """Effects of one sequence's instruments on K exposures and the outcome.

    Attributes
    ----------
    bx, se_x : ndarray of float64, shape (instruments, K)
        Mean effects on the exposures and their standard errors.
    by, se_y : ndarray of float64, shape (instruments,)
        The same for the outcome.
    draws_x : ndarray of float64, shape (draws, instruments, K)
        Effects on the exposures in each draw.
    draws_y : ndarray of float64, shape (draws, instruments)
        Effects on the outcome in each draw.
    status : str
        ``ok``, or why there is nothing to estimate; then the arrays only give the count.
    n_dropped : int
        Instruments left out by :meth:`usable`.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    draws_x: Array
    draws_y: Array
    status: str = "ok"
    n_dropped: int = 0

    @classmethod
    def none(cls, status: str, exposures: int, count: int = 0) -> ConditionalInstruments:
        """Return a sequence that cannot be estimated, with the number of instruments found."""
        x, y = np.full((count, exposures), np.nan), np.full(count, np.nan)
        return cls(x, x, y, y, x[None, :0], y[None, :0], status)

    def usable(self) -> ConditionalInstruments:
        """Drop instruments with a value missing or infinite, or a standard error of 0.

        Returns
        -------
        ConditionalInstruments
            With `n_dropped`, and the status ``no_variation`` (nothing is left) or ``not_finite``
            (numbers whose products overflow).
        """
        keep = np.isfinite(self.by) & np.isfinite(self.se_y) & (self.se_y > 0)
        keep &= (np.isfinite(self.bx) & np.isfinite(self.se_x) & (self.se_x > 0)).all(axis=-1)
        keep &= np.isfinite(self.draws_x).all(axis=(0, 2)) & np.isfinite(self.draws_y).all(axis=0)
        kept = ConditionalInstruments(
            self.bx[keep],
            self.se_x[keep],
            self.by[keep],
            self.se_y[keep],
            np.ascontiguousarray(self.draws_x[:, keep]),
            np.ascontiguousarray(self.draws_y[:, keep]),
            "ok" if keep.any() else "no_variation",
            int((~keep).sum()),
        )
        large = (kept.bx, kept.by, kept.se_x, kept.se_y, kept.draws_x, kept.draws_y)
        small = (kept.se_x, kept.se_y)
        if any(bool((np.abs(v) > LARGEST).any()) for v in large) or any(
            bool((se < 1.0 / LARGEST).any()) for se in small
        ):
            return ConditionalInstruments.none("not_finite", self.bx.shape[-1], int(keep.sum()))
        return kept


def conditional_methods(names: Sequence[str]) -> list[str]:
    """Return the names, each of which is in `METHODS`; there may be none.

    Raises
    ------
    ValueError
        If one is unknown or stands twice.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"conditional method {name!r} is unknown; write some of {', '.join(METHODS)}, or []"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"a method stands twice in {list(names)}; keep one of them")
    return list(names)


def estimate_conditional(
    items: Sequence[ConditionalInstruments],
    exposure: int,
    methods: Sequence[str],
    options: Options,
) -> dict[str, Estimates]:
    """Estimate the direct effect of one of the exposures in every sequence.

    Parameters
    ----------
    items : sequence of ConditionalInstruments
        One for each sequence; those with the status ``ok`` with the same exposures and draws.
    exposure : int
        Which one, from 0. ``mv_egger`` makes the mean effects on it positive.
    methods : sequence of str
        Some of `METHODS`.
    options : Options
        Uses ``centre`` and ``distribution``.

    Returns
    -------
    dict of str to Estimates
        By method, in the order of `items`. ``conditional_f`` is among the values: the strength
        that the instruments have for the exposure beside the others, with the error correlation
        of the exposures over the draws, one for all instruments of a sequence; 1 on average
        without any, where the standard errors are known (few draws know them badly). Status:
        ``ok``, ``too_few_instruments``, ``collinear_exposures`` (of the mean effects or in a
        draw), ``not_estimable`` or the status of the item. There are no diagnostics of a single
        line.

    Raises
    ------
    ValueError
        If a method is unknown or stands twice.
    """
    results = {name: _empty(items) for name in conditional_methods(methods)}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for indices, data, draws_x, draws_y in _groups(items):
            n, k = data.bx.shape[1:]
            strength = np.full(len(indices), np.nan)
            if n >= k:
                strength = conditional_f(data.bx, data.se_x, _error_correlation(draws_x, data.se_x))
                strength = strength[:, exposure]
            for name, result in results.items():
                orient = exposure if name == "mv_egger" else None
                if n < k + (1 if orient is None else 2):
                    result.status[indices] = "too_few_instruments"
                    continue
                values, draws, draws_se, status = _fit(
                    data, draws_x, draws_y, exposure, orient, options
                )
                _write(
                    result, indices, values | {"conditional_f": strength}, draws, draws_se, status
                )
    return results


def _fit(
    data: Exposures,
    draws_x: Array,
    draws_y: Array,
    exposure: int,
    orient: int | None,
    options: Options,
) -> tuple[dict[str, Array], Array, Array, np.ndarray]:
    """Return values, estimate and SE of each draw, and status of the sequences of a group."""
    fit = fit_regression(data, orient=orient)
    drawn = fit_draws(data, draws_x, draws_y, orient=orient)
    estimate, se = fit.estimate[:, exposure], fit.se[:, exposure]
    draws = drawn.estimates[..., exposure]
    if options.centre == "mean_effects":
        draws = draws + (estimate - draws.mean(axis=1))[:, None]
    within = drawn.se_within[:, exposure]
    combined = rubin(draws, within * within)
    df = np.inf if options.distribution == "normal" else fit.df
    scale = np.sqrt(fit.q / fit.df)
    values = {
        name: getattr(combined, name)
        for name in ("estimate", "se", "ci_low", "ci_high", "p_value", "se_within", "se_draws")
    }
    values |= {
        "estimate_diagonal": estimate,
        "se_diagonal": se,
        "p_value_diagonal": student_interval(estimate, se, df)[2],
        "se_unfloored": se * scale / np.maximum(scale, 1.0),
        "q": fit.q,
        "q_p": fit.q_p,
        "i2": np.maximum(1.0 - fit.df / fit.q, 0.0),
        "intercept": fit.intercept,
        "intercept_se": fit.intercept_se,
        "intercept_p": student_interval(fit.intercept, fit.intercept_se, df)[2],
    }
    lost = collinear(data.bx) | ~np.isfinite(draws).all(axis=1)
    status = np.where(lost, "collinear_exposures", fit.status).astype(object)
    return values, draws, drawn.se[..., exposure], status


def _write(
    result: Estimates,
    indices: np.ndarray,
    values: dict[str, Array],
    draws: Array,
    draws_se: Array,
    status: np.ndarray,
) -> None:
    ok = status == "ok"
    determined = ok & np.isfinite(values["estimate"]) & np.isfinite(values["se"])
    determined &= values["se"] > 0
    status[ok & ~determined] = "not_estimable"
    for name, value in values.items():
        # Strength is known, and telling, where the effect is not.
        shown = determined if name != "conditional_f" else np.isfinite(value)
        result.values[name][indices] = np.where(shown, value, np.nan)
    result.status[indices] = status
    result.ci_kind[indices[determined]] = "rubin"
    result.draws[indices[determined]] = draws[determined]
    result.draws_se[indices[determined]] = draws_se[determined]


def _error_correlation(draws_x: Array, se_x: Array) -> Array:
    """Correlation of the errors of an instrument's effects, (sequences, 1, K, K).

    Of all instruments of a sequence together, each in units of its standard errors. That of a
    single one is known from its few draws only: two correlate by 1 exactly, and even ten leave
    errors of exposures that correlate by .8 a strength of 1.3 on average where there is none.
    """
    deviation = (draws_x - draws_x.mean(axis=1, keepdims=True)) / se_x[:, None]
    flat = deviation.reshape(len(deviation), -1, deviation.shape[-1])
    product = np.swapaxes(flat, 1, 2) @ flat
    size = np.sqrt(np.einsum("skk->sk", product))
    correlation = product / (size[:, :, None] * size[:, None, :])
    # Effects that are the same but for rounding have no contrast with an error above 0.
    correlation = np.clip(correlation, -0.999, 0.999)
    np.einsum("skk->sk", correlation)[...] = 1.0
    return np.asarray(correlation[:, None])


def _empty(items: Sequence[ConditionalInstruments]) -> Estimates:
    count = len(items)
    n_draws = max((len(i.draws_x) for i in items if i.status == "ok"), default=0)
    return Estimates(
        values={name: np.full(count, np.nan) for name in (*NUMBERS, "conditional_f")},
        diagnostics={},
        n_instruments=np.array([i.by.size for i in items], dtype=np.int32),
        n_dropped=np.array([i.n_dropped for i in items], dtype=np.int32),
        status=np.array([i.status for i in items], dtype=object),
        ci_kind=np.full(count, None, dtype=object),
        ci_set=np.full(count, None, dtype=object),
        p_valid=np.full(count, None, dtype=object),
        draws=np.full((count, n_draws), np.nan),
        draws_se=np.full((count, n_draws), np.nan),
    )


def _groups(
    items: Sequence[ConditionalInstruments],
) -> Iterator[tuple[np.ndarray, Exposures, Array, Array]]:
    """Yield (indices, mean effects, draws of X and of Y) of equally many instruments."""
    by_size: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        if item.status == "ok":
            by_size.setdefault(item.by.size, []).append(index)
    for indices in by_size.values():
        step = max(1, _GROUP_ELEMENTS // items[indices[0]].draws_x.size)
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            some = [items[i] for i in chunk]
            yield (
                np.array(chunk),
                Exposures(
                    *(np.stack([getattr(i, v) for i in some]) for v in ("bx", "se_x", "by", "se_y"))
                ),
                np.stack([item.draws_x for item in some]),
                np.stack([item.draws_y for item in some]),
            )
