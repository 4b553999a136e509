"""The public function `deepmr.mr.estimate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deepmr.effects import SE_KIND
from deepmr.mr.batch import DIAGNOSTIC_COLUMNS, ESTIMATE_COLUMNS, Instruments, estimate_all
from deepmr.mr.estimator import Options
from deepmr.mr.registry import estimators


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
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Estimate the causal effect of an exposure on an outcome in one or many sequences.

    Parameters
    ----------
    bx, se_x, by, se_y : array_like, shape (n,) or (sequences, n)
        Effects of the instruments on exposure and outcome, with their standard errors. Sequences
        with fewer instruments are padded with NaN; instruments with a missing value or a
        standard error of 0 are left out and `n_instruments` tells how many stayed.
    methods : sequence of str
        ``ivw``, ``ivw_fixed``, ``egger``, ``weighted_median``.
    rho_xy, correlation : array_like, optional
        Error correlations, for methods that use them; of the present ones none does.
    draws_x, draws_y : array_like, shape (draws, n) or (sequences, draws, n), optional
        Effects in each draw. Then estimate, se, interval and p-value are draw-wise.
    seed : int
        Seed of every bootstrap.
    **options
        ``bootstrap_iterations`` (1000), ``centre`` (``draws``); see `deepmr.mr.estimator.Options`.

    Returns
    -------
    pandas.DataFrame
        One row for each (sequence, method): ``sequence`` (row number), ``method``, ``estimate``,
        ``se``, ``se_kind`` (``posterior_sd`` with draws, otherwise ``analytic``), ``ci_low``,
        ``ci_high`` (95 %), ``p_value``, ``se_within``, ``se_draws``, the same without
        correlations as ``estimate_diagonal``, ``se_diagonal``, ``p_value_diagonal``, then
        ``n_instruments``, ``mean_f``, ``i2_gx``, ``i2_gx_weighted``, ``q``, ``q_p``,
        ``intercept``, ``intercept_se``, ``intercept_p``, ``status``, and with draws ``draws``
        and ``draws_se`` (an array in each row).

    Raises
    ------
    ValueError
        If shapes disagree, a method or option is unknown, or an argument is given that no
        method asked for would use.
    """
    chosen = estimators(methods)
    for name, value in (("rho_xy", rho_xy), ("correlation", correlation)):
        if value is not None:
            raise ValueError(
                f"{name} is given, but none of {', '.join(methods)} uses it; leave it out, or give "
                "draws_x and draws_y, which carry every correlation"
            )
    unknown = set(options) - {"bootstrap_iterations", "centre"}
    if unknown:
        raise ValueError(
            f"unknown option {', '.join(sorted(unknown))}; the options are "
            "bootstrap_iterations and centre"
        )
    x = np.asarray(bx, dtype=np.float64)
    if x.ndim not in (1, 2):
        raise ValueError(f"bx must have shape (n,) or (sequences, n); found {x.shape}")
    arrays = [_matched(name, a, x.shape) for name, a in (("bx", bx), ("se_x", se_x))]
    arrays += [_matched(name, a, x.shape) for name, a in (("by", by), ("se_y", se_y))]
    draws = _draws(draws_x, draws_y, x.shape)
    items = [
        _instruments([a[i] for a in arrays], [d[i] for d in draws]) for i in range(len(arrays[0]))
    ]
    results = estimate_all(items, chosen, Options(seed=seed, **options))

    frames = []
    for order, (name, result) in enumerate(results.items()):
        count = len(items)
        frame = pd.DataFrame(
            {
                "sequence": np.arange(count),
                "method": [name] * count,
                **{column: result.values[column] for column in ESTIMATE_COLUMNS[:2]},
                "se_kind": [SE_KIND if draws else "analytic"] * count,
                **{column: result.values[column] for column in ESTIMATE_COLUMNS[2:10]},
                "n_instruments": result.n_instruments,
                **{column: result.values[column] for column in DIAGNOSTIC_COLUMNS},
                **{column: result.values[column] for column in ESTIMATE_COLUMNS[10:]},
                "status": result.status,
                "order": order,
            }
        )
        if draws:
            frame["draws"] = list(result.draws)
            frame["draws_se"] = list(result.draws_se)
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True).sort_values(["sequence", "order"], kind="stable")
    return table.drop(columns="order").reset_index(drop=True)


def _matched(name: str, values: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of bx, {shape}; found {array.shape}")
    return np.atleast_2d(array)


def _draws(
    draws_x: ArrayLike | None, draws_y: ArrayLike | None, shape: tuple[int, ...]
) -> list[NDArray[np.float64]]:
    if draws_x is None and draws_y is None:
        return []
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
    return [x[None], y[None]] if len(shape) == 1 else [x, y]


def _instruments(
    values: list[NDArray[np.float64]], draws: list[NDArray[np.float64]]
) -> Instruments:
    present = ~np.isnan(np.stack(values)).all(axis=0)
    bx, se_x, by, se_y = (value[present] for value in values)
    draws_x, draws_y = (d[:, present] for d in draws) if draws else (None, None)
    return Instruments(bx, se_x, by, se_y, draws_x, draws_y)
