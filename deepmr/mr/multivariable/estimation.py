"""The public function `estimate_multivariable`: direct effects of several exposures at once.

For transcription factors that share motifs: an instrument that acts through one of the exposures
is a pleiotropic one for the others, until all of them are in the model. Formulas:
`deepmr.mr.multivariable.fits` and `deepmr.mr.multivariable.conditional_strength`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deepmr.mr.drawwise import student_interval
from deepmr.mr.estimator import DISTRIBUTIONS, Array
from deepmr.mr.multivariable.conditional_strength import conditional_f
from deepmr.mr.multivariable.fits import Exposures, MultivariableFit, fit_median, fit_regression
from deepmr.mr.multivariable.input import checked_input

METHODS = ("mv_ivw", "mv_ivw_fixed", "mv_egger", "mv_median")


@dataclass(frozen=True)
class MultivariableOptions:
    """Settings of the multivariable estimators.

    Attributes
    ----------
    orientate : int or str
        Exposure (number from 0, or name) whose effects ``mv_egger`` makes positive.
    distribution : str
        ``normal`` or ``t`` (n minus coefficients degrees of freedom), for interval and p-value.
    bootstrap_iterations : int
        Replicates behind the standard error of ``mv_median``; with 0 it is a closed form.
    """

    orientate: int | str = 0
    distribution: str = "normal"
    bootstrap_iterations: int = 1000

    def __post_init__(self) -> None:
        """Refuse what no estimator knows."""
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution {self.distribution!r} is unknown; write one of "
                f"{', '.join(DISTRIBUTIONS)}"
            )
        if self.bootstrap_iterations != 0 and self.bootstrap_iterations < 2:
            raise ValueError(
                f"bootstrap_iterations must be 0 or at least 2; found {self.bootstrap_iterations}"
            )


def estimate_multivariable(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    methods: Sequence[str] = ("mv_ivw",),
    *,
    correlation: ArrayLike | None = None,
    error_correlation: ArrayLike | None = None,
    exposures: Sequence[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Estimate the direct effects of several exposures on an outcome.

    Parameters
    ----------
    bx, se_x : array_like, shape (n, exposures) or (sequences, n, exposures)
        Effects of the instruments on the exposures, with standard errors. Sequences with fewer
        instruments are padded with NaN; an instrument with a value missing in any exposure or the
        outcome, or a standard error of 0, is left out.
    by, se_y : array_like, shape (n,) or (sequences, n)
        Effects on the outcome, with standard errors.
    methods : sequence of str
        ``mv_ivw`` (multiplicative random effects), ``mv_ivw_fixed``, ``mv_egger``, ``mv_median``.
    correlation : float or array_like, shape (n, n) or (sequences, n, n), optional
        Correlation of the errors of different instruments; a number holds for all pairs.
        ``mv_median`` uses it for the standard error only.
    error_correlation : float or array_like, optional
        Correlation of the errors of one instrument's effects on different exposures: a number for
        all pairs, a matrix (exposures, exposures), or with the outcome as the last row and column
        (exposures + 1, exposures + 1); either also with the leading dimensions of bx up to n in
        front, a matrix for each instrument. Without the outcome its errors are independent of the
        exposures'. Used by ``conditional_f``, ``q_a`` and the bootstrap.
    exposures : sequence of str, optional
        Names; left out ``exposure_0``, ``exposure_1``, ...
    seed : int
        Seed of the bootstrap.
    **options
        See `MultivariableOptions`.

    Returns
    -------
    pandas.DataFrame
        One row for each (sequence, method, exposure): ``sequence``, ``method``, ``exposure``,
        ``estimate``, ``se``, ``ci_low``, ``ci_high`` (95 %), ``p_value``, ``n_instruments``,
        ``conditional_f``, ``q``, ``q_p``, ``q_a``, ``q_a_p`` (NaN for the median), ``intercept``,
        ``intercept_se``, ``intercept_p`` (``mv_egger`` only) and ``status``: ``ok``,
        ``too_few_instruments``, ``no_variation``, ``negative_se``, ``collinear_exposures``,
        ``correlation_not_symmetric``, ``correlation_not_positive_definite``, ``not_converged``,
        ``not_estimable`` (no standard error).

    Raises
    ------
    ValueError
        If shapes disagree, a method, option or exposure is unknown, there are too many exposures
        for any sequence, or a correlation that is the same for all sequences is none.
    """
    chosen = _chosen(methods)
    unknown = set(options) - {field.name for field in fields(MultivariableOptions)}
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(sorted(unknown))}; the options are "
            f"{', '.join(field.name for field in fields(MultivariableOptions))}"
        )
    settings = MultivariableOptions(**options)
    given = checked_input(bx, se_x, by, se_y, correlation, error_correlation)
    count, _, k = given.bx.shape
    names = _names(exposures, k)
    orient = _orientation(settings.orientate, names)

    results = {method: _Result.empty(count, k, given.status) for method in chosen}
    strength = np.full((count, k), np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for indices, reason, data in given.groups():
            good = reason == "ok"
            for result in results.values():
                result.status[indices] = reason
            if not good.any():
                continue
            strength[indices[good]] = _strength(data)
            for method, result in results.items():
                if data.by.shape[1] < k + (2 if method == "mv_egger" else 1):
                    result.status[indices[good]] = "too_few_instruments"
                else:
                    result.write(indices[good], _fit(method, data, settings, orient, seed))
    sizes = given.usable.sum(axis=1)
    return _table(results, names, sizes, strength, settings.distribution)


@dataclass(frozen=True, eq=False)
class _Result:
    """Values of one method; what is (sequences,) in a fit stands in every exposure's row."""

    values: dict[str, Array]
    df: Array
    status: NDArray[np.object_]

    @classmethod
    def empty(cls, count: int, k: int, status: NDArray[np.object_]) -> _Result:
        """Return a result without any value yet."""
        values = {name: np.full((count, k), np.nan) for name in _FITTED}
        return cls(values, np.full(count, np.nan), status.copy())

    def write(self, indices: NDArray[np.int64], fit: MultivariableFit) -> None:
        """Write a fit into the rows of its sequences."""
        known = fit.status == "ok"
        numbers = np.isfinite(fit.estimate) & np.isfinite(fit.se) & (fit.se > 0)
        lost = known & ~numbers.all(axis=-1)
        known &= ~lost
        for name, value in self.values.items():
            new = getattr(fit, name)
            new = new if new.ndim == 2 else new[:, None]
            value[indices] = np.where(known[:, None], new, np.nan)
        self.df[indices] = fit.df
        self.status[indices] = np.where(lost, "not_estimable", fit.status)


_FITTED = ("estimate", "se", "q", "q_p", "q_a", "q_a_p", "intercept", "intercept_se")


def _fit(
    method: str, data: Exposures, settings: MultivariableOptions, orient: int, seed: int
) -> MultivariableFit:
    if method == "mv_median":
        return fit_median(data, bootstrap_iterations=settings.bootstrap_iterations, seed=seed)
    if method == "mv_egger":
        return fit_regression(data, orient=orient)
    return fit_regression(data, fixed=method == "mv_ivw_fixed")


def _strength(data: Exposures) -> Array:
    between = data.error_correlation
    k = data.bx.shape[-1]
    between = None if between is None else between[..., :k, :k]
    return conditional_f(data.bx, data.se_x, between, data.correlation)


def _table(
    results: dict[str, _Result],
    names: list[str],
    sizes: NDArray[np.int64],
    strength: Array,
    distribution: str,
) -> pd.DataFrame:
    count, k = strength.shape
    columns: dict[str, list[NDArray[Any]]] = {}

    def add(name: str, values: ArrayLike) -> None:
        array = np.asarray(values)
        if array.ndim == 1:
            array = np.repeat(array[:, None], k, axis=1)
        columns.setdefault(name, []).append(array)

    for method, result in results.items():
        value = result.values
        df = np.full((count, 1), np.inf) if distribution == "normal" else result.df[:, None]
        low, high, p_value = student_interval(value["estimate"], value["se"], df)
        add("sequence", np.arange(count))
        add("method", np.full(count, method, dtype=object))
        add("exposure", np.tile(np.array(names, dtype=object), (count, 1)))
        add("estimate", value["estimate"])
        add("se", value["se"])
        add("ci_low", low)
        add("ci_high", high)
        add("p_value", p_value)
        add("n_instruments", sizes.astype(np.int32))
        add("conditional_f", strength)
        for name in _FITTED[2:]:
            add(name, value[name])
        add("intercept_p", student_interval(value["intercept"], value["intercept_se"], df)[2])
        add("status", result.status)
    return pd.DataFrame({name: np.stack(v, axis=1).ravel() for name, v in columns.items()})


def _chosen(methods: Sequence[str]) -> list[str]:
    if isinstance(methods, str):
        raise ValueError(f"methods must be a sequence of names, such as ({methods!r},)")
    unknown = [method for method in methods if method not in METHODS]
    if unknown or not methods:
        raise ValueError(
            f"unknown method {', '.join(map(repr, unknown)) or '(none given)'}; the multivariable "
            f"methods are {', '.join(METHODS)}"
        )
    return list(dict.fromkeys(methods))


def _names(exposures: Sequence[str] | None, k: int) -> list[str]:
    names = [f"exposure_{i}" for i in range(k)] if exposures is None else list(exposures)
    if len(names) != k or len(set(names)) != k:
        raise ValueError(f"exposures must be {k} different names, as bx has columns; found {names}")
    return names


def _orientation(orientate: int | str, names: list[str]) -> int:
    if isinstance(orientate, str):
        if orientate not in names:
            raise ValueError(f"orientate {orientate!r} is no exposure; they are {', '.join(names)}")
        return names.index(orientate)
    if not 0 <= orientate < len(names):
        raise ValueError(f"orientate must be 0 to {len(names) - 1}; found {orientate}")
    return orientate
