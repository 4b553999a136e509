"""Which scale of the standard errors a run applies."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa


def applied_scales(table: pa.Table, model: str) -> dict[str, float]:
    """Return by target the factor that widens the standard errors of a model's effects.

    Parameters
    ----------
    table : pyarrow.Table
        Schema `deepmr.schemas.UNCERTAINTY`.
    model : str
        Name of the model.

    Returns
    -------
    dict of str to float
        max(1, s) against retrained networks; 1 where s is not known, which the log says. The scale
        against a simulated truth is never applied: outside a simulation there is none.

    Raises
    ------
    ValueError
        If the table holds nothing of the model.
    """
    every = table.to_pylist()
    own = [row for row in every if row["model"] == model and row["reference"] != "truth"]
    if not own:
        there = ", ".join(sorted({row["model"] for row in every})) or "none"
        raise ValueError(
            f"the table of uncertainty has no scale of the standard errors of model {model!r}; "
            f"it has models {there}. Make it again"
        )
    scales = {}
    for row in own:
        scale = row["recommended_scale"]
        known = scale is not None and np.isfinite(scale)
        if not known:
            logging.warning(
                "%s: no scale of the standard errors is known (%s); they stay as they are",
                row["target"],
                row["status"],
            )
        scales[row["target"]] = scale if known else 1.0
    return scales
