"""The public function `deepmr.mr.estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deepmr.effects import SE_KIND
from deepmr.mr.batch import estimate_all
from deepmr.mr.estimator import Estimator, Options
from deepmr.mr.instrument_effects import Instruments, correlation_status
from deepmr.mr.registry import estimators

_LAST_POSITION = 2.0**53
"""Above it a float does not hold every whole number."""

OPTIONS = tuple(field.name for field in fields(Options) if field.name != "seed")


def estimate(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    methods: Sequence[str] = ("ivw", "egger"),
    *,
    rho_xy: ArrayLike | None = None,
    correlation: ArrayLike | None = None,
    draws_x: ArrayLike | None = None,
    draws_y: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Estimate the causal effect of an exposure on an outcome in one or many sequences.

    Parameters
    ----------
    bx, se_x, by, se_y : array_like, shape (n,) or (sequences, n)
        Effects of the instruments on exposure and outcome, with their standard errors. Sequences
        with fewer instruments are padded with NaN; instruments with a missing value or a
        standard error of 0 are left out (`n_instruments` stayed, `n_dropped` did not).
    methods : sequence of str
        Names in `deepmr.mr.registry.ESTIMATORS`; ``docs/estimators.md`` explains each.
    rho_xy : array_like, shape of bx, or float, optional
        Correlation of the errors of an instrument's two effects, inside (-1, 1).
    correlation : array_like, shape (n, n) or (sequences, n, n), or float, optional
        Correlation of the errors of different instruments; a number is the same for all pairs
        (effects that share a reference). Not together with draws, which carry it.
    draws_x, draws_y : array_like, shape (draws, n) or (sequences, draws, n), optional
        Effects in each draw. Then estimate, se, interval and p-value are draw-wise, or, for the
        covariance-aware methods, from the covariance of the draws.
    positions : array_like of int, shape of bx, optional
        Positions of the instruments, for leave-one-position-out; -1 or less is padding.
    seed : int
        Seed of every bootstrap.
    **options
        Fields of `deepmr.mr.estimator.Options`.

    Returns
    -------
    pandas.DataFrame
        One row for each (sequence, method): ``sequence`` (row number), ``method``, ``estimate``,
        ``se``, ``se_kind`` (``posterior_sd`` with draws, otherwise ``analytic``), ``ci_low``,
        ``ci_high`` (95 %), ``ci_kind``, ``ci_set``, ``p_value``; ``se_within``, ``se_draws``;
        the same with instruments taken for independent as ``estimate_diagonal``,
        ``se_diagonal``, ``p_value_diagonal``; the method's own numbers
        (`deepmr.mr.batch.NUMBERS`) and ``p_valid``; what describes the instruments
        (`deepmr.mr.diagnostics.describe`); ``n_instruments``, ``n_dropped``, ``status``; and
        with draws ``draws`` and ``draws_se`` (an array in each row).

    Raises
    ------
    ValueError
        If shapes disagree, a method or option is unknown, the correlation of all sequences is
        none, or an argument is given that no method asked for would use. What is wrong with
        one sequence alone gets a status.
    """
    chosen = estimators(methods)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(unknown)}; the options are {', '.join(OPTIONS)}"
        )
    x = np.asarray(bx, dtype=np.float64)
    if x.ndim not in (1, 2):
        raise ValueError(f"bx must have shape (n,) or (sequences, n); found {x.shape}")
    arrays = {"bx": bx, "se_x": se_x, "by": by, "se_y": se_y}
    if rho_xy is not None:
        _used("rho_xy", chosen)
        arrays["rho_xy"] = np.broadcast_to(rho_xy, x.shape) if np.ndim(rho_xy) == 0 else rho_xy
    if positions is not None:
        arrays["positions"] = _whole(positions)
    matched = {name: _matched(name, values, x.shape) for name, values in arrays.items()}
    draws = _draws(draws_x, draws_y, x.shape)
    matrices = None
    if correlation is not None:
        _used("correlation", chosen)
        if draws:
            raise ValueError(
                "correlation is given beside draws_x and draws_y, which carry every correlation; "
                "leave one of them out"
            )
        matrices = _correlations(correlation, x.shape)
    items = [
        _instruments(
            {name: values[i] for name, values in matched.items()},
            {name: values[i] for name, values in draws.items()},
            None if matrices is None else matrices[i],
        )
        for i in range(len(matched["bx"]))
    ]
    return _table(items, chosen, Options(seed=seed, **options), bool(draws))


def _table(
    items: Sequence[Instruments], chosen: Sequence[Estimator], options: Options, with_draws: bool
) -> pd.DataFrame:
    count = len(items)
    frames = []
    for order, (name, result) in enumerate(estimate_all(items, chosen, options).items()):
        values = dict(result.values)
        first = {column: values.pop(column) for column in ("estimate", "se")}
        frame = pd.DataFrame(
            {
                "sequence": np.arange(count),
                "method": [name] * count,
                **first,
                "se_kind": [SE_KIND if with_draws else "analytic"] * count,
                **{column: values.pop(column) for column in ("ci_low", "ci_high")},
                "ci_kind": pd.array(result.ci_kind, dtype="str"),
                "ci_set": result.ci_set,
                **values,
                "p_valid": result.p_valid,
                **result.diagnostics,
                "rucker": pd.array(result.diagnostics["rucker"], dtype="str"),
                "n_instruments": result.n_instruments,
                "n_dropped": result.n_dropped,
                "status": result.status,
                "order": order,
            }
        )
        if with_draws:
            frame["draws"] = list(result.draws)
            frame["draws_se"] = list(result.draws_se)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True).sort_values(["sequence", "order"], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)


def _used(name: str, chosen: Sequence[Estimator]) -> None:
    if not any(name in method.uses for method in chosen):
        raise ValueError(
            f"{name} is given, but none of {', '.join(method.name for method in chosen)} uses "
            "it; leave it out, or give draws_x and draws_y, which carry every correlation"
        )


def _matched(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of bx, {shape}; found {array.shape}")
    return np.atleast_2d(array)


def _whole(positions: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(positions, dtype=np.float64)
    array = np.where(np.isnan(array), -1.0, array)
    broken = (np.abs(array) > _LAST_POSITION) | (array != np.rint(array))
    if broken.any():
        raise ValueError(
            "positions must be whole numbers, with -1 or NaN where there is no instrument; found "
            f"{array[broken][0]}"
        )
    return array


def _draws(
    draws_x: ArrayLike | None, draws_y: ArrayLike | None, shape: tuple[int, ...]
) -> dict[str, NDArray[np.float64]]:
    if draws_x is None and draws_y is None:
        return {}
    if draws_x is None or draws_y is None:
        raise ValueError("give both draws_x and draws_y, or neither")
    x, y = np.asarray(draws_x, dtype=np.float64), np.asarray(draws_y, dtype=np.float64)
    lead = shape[:-1]
    if x.ndim != len(shape) + 1 or x.shape[: len(lead)] != lead or x.shape[-1] != shape[-1]:
        expected = "(draws, n)" if len(shape) == 1 else "(sequences, draws, n)"
        raise ValueError(f"draws_x must have shape {expected} with bx {shape}; found {x.shape}")
    if y.shape != x.shape:
        raise ValueError(f"draws_y must have the shape of draws_x, {x.shape}; found {y.shape}")
    if x.shape[-2] < 2:
        raise ValueError(f"draw-wise standard errors need at least 2 draws; found {x.shape[-2]}")
    if len(shape) == 1:
        x, y = x[None], y[None]
    return {"draws_x": x, "draws_y": y}


def _correlations(
    correlation: ArrayLike, shape: tuple[int, ...]
) -> Sequence[NDArray[np.float64]] | NDArray[np.float64]:
    """Return a matrix for each sequence; one that holds for all is checked here."""
    n, count = shape[-1], 1 if len(shape) == 1 else shape[0]
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = np.where(np.eye(n, dtype=np.bool_), 1.0, matrix)
    if matrix.shape == (n, n):
        status = correlation_status(matrix)
        if status != "ok":
            raise ValueError(
                f"correlation is no correlation matrix: {status.replace('_', ' ')}; its diagonal "
                "must be 1, it must be symmetric, and every eigenvalue must be positive"
            )
        return [matrix] * count
    if matrix.shape == (*shape, n) and len(shape) == 2:
        return matrix
    expected = f"({n}, {n})" + (f" or ({count}, {n}, {n})" if len(shape) == 2 else "")
    raise ValueError(f"correlation must be a number or have shape {expected}; found {matrix.shape}")


def _instruments(
    values: dict[str, NDArray[np.float64]],
    draws: dict[str, NDArray[np.float64]],
    correlation: NDArray[np.float64] | None,
) -> Instruments:
    """Take the padding off one sequence."""
    present = ~np.isnan(np.stack([values[name] for name in ("bx", "se_x", "by", "se_y")])).all(0)
    kept: dict[str, Any] = {name: array[present] for name, array in values.items()}
    kept |= {name: array[:, present] for name, array in draws.items()}
    if "positions" in kept:
        kept["positions"] = kept["positions"].astype(np.int64)
    if correlation is not None:
        kept["correlation"] = correlation[np.ix_(present, present)]
    return Instruments(**kept)
