"""``meta.parquet``: every pair, direction, method and stratum, combined in every way asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from deepmr.meta.combine import METHODS, Result, random_effects
from deepmr.meta.drawwise import draw_wise, median
from deepmr.schemas import META

COMBINATIONS = (*METHODS, "median")
STRATA = ("all", "bound", "unbound")
INFERENCES = ("draw_wise", "diagonal")

_KEY = ["model", "pair", "direction", "exposure", "outcome", "method", "instrument_rule"]
_FAMILY = ["model", "method", "stratum", "combination", "inference"]


def summarise(
    mr: pd.DataFrame, combinations: Sequence[str] = ("REML", "DL", "median")
) -> pd.DataFrame:
    """Combine the sequences of an MR table.

    Parameters
    ----------
    mr : pandas.DataFrame
        Columns of `deepmr.schemas.MR`.
    combinations : sequence of str
        ``REML``, ``DL``, ``FE`` or ``median`` (over sequences).

    Returns
    -------
    pandas.DataFrame
        Columns of `deepmr.schemas.META`: a row for each model, pair, direction, method, stratum
        (all, bound, unbound), combination and inference (``draw_wise``, and ``diagonal``, which
        ignores that errors are shared). Only rows with the status ``ok`` are combined; `k` counts
        them and `n_sequences` all. `fdr` is Benjamini and Hochberg's over pairs and directions
        within the same model, method, stratum, combination and inference.

    Raises
    ------
    ValueError
        If a combination is unknown or a column is missing.
    """
    for combination in combinations:
        if combination not in COMBINATIONS:
            raise ValueError(
                f"combination {combination!r} is unknown; write one of {', '.join(COMBINATIONS)}"
            )
    needed = [*_KEY, "stratum", "status", "estimate_diagonal", "se_diagonal", "draws", "draws_se"]
    missing = [name for name in needed if name not in mr.columns]
    if missing:
        raise ValueError(f"the MR table lacks the columns {', '.join(missing)}")
    rows: list[dict[str, Any]] = []
    for key, group in mr.groupby(_KEY, sort=True):
        for stratum in STRATA:
            part = group if stratum == "all" else group[group["stratum"] == stratum]
            labels = dict(zip(_KEY, key, strict=True)) | {
                "stratum": stratum,
                "n_sequences": len(part),
            }
            rows += [labels | row for row in _combine(part[part["status"] == "ok"], combinations)]
    table = pd.DataFrame(rows, columns=[name for name in META.names if name != "fdr"])
    table["fdr"] = np.nan
    for _, members in table.groupby(_FAMILY, sort=False).groups.items():
        p_values = table.loc[members, "p_value"].dropna()
        if len(p_values):
            table.loc[p_values.index, "fdr"] = false_discovery_control(p_values.to_numpy())
    return table[META.names]


def headline(meta: pd.DataFrame, method: str, combination: str) -> pd.DataFrame:
    """Return the rows a report speaks of: all strata, draw-wise, one a pair and direction.

    Parameters
    ----------
    meta : pandas.DataFrame
        Columns of `deepmr.schemas.META`.
    method, combination : str
        Estimator and combination.
    """
    return meta[
        (meta["method"] == method)
        & (meta["combination"] == combination)
        & (meta["stratum"] == "all")
        & (meta["inference"] == "draw_wise")
    ]


def _combine(part: pd.DataFrame, combinations: Sequence[str]) -> list[dict[str, Any]]:
    draws = _stacked(part["draws"])
    variances = _stacked(part["draws_se"]) ** 2
    # A fit that is exact in a draw up to rounding has a standard error that is rounding itself.
    least = variances.max(axis=0, initial=0) * np.finfo(np.float32).eps ** 2
    usable = (np.isfinite(draws) & np.isfinite(variances) & (variances > least)).all(axis=0)
    draws, variances = draws[:, usable], variances[:, usable]
    estimates = part["estimate_diagonal"].to_numpy(dtype=np.float64)
    squared = part["se_diagonal"].to_numpy(dtype=np.float64) ** 2
    known = np.isfinite(estimates) & np.isfinite(squared) & (squared > 0)
    estimates, squared = estimates[known], squared[known]
    rows = []
    for combination in combinations:
        for inference in INFERENCES:
            result: Result
            if combination == "median":
                result = median(draws if inference == "draw_wise" else estimates[None])
            elif inference == "draw_wise":
                result = draw_wise(draws, variances, combination)
            else:
                result = random_effects(estimates, squared, combination)
            rows.append({"combination": combination, "inference": inference, **asdict(result)})
    return rows


def _stacked(column: pd.Series) -> NDArray[np.float64]:
    """Return a column of equally long lists as an array (draws, rows)."""
    if not len(column):
        return np.empty((0, 0))
    return np.ascontiguousarray(np.stack([np.asarray(v, dtype=np.float64) for v in column]).T)
