"""Calibrators as a table: ``calibrators.parquet``, a row for each target and map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from deepmr import schemas
from deepmr.calibration.maps import (
    NAMES,
    Affine,
    Beta,
    Calibrator,
    Centred,
    Fitted,
    Identity,
    NotStrictlyIncreasingError,
    Steps,
    for_effects,
)


def to_table(
    fitted: Sequence[Fitted],
    model: str,
    zero_effects: Mapping[tuple[str, str], float] | None = None,
) -> pa.Table:
    """Return fitted calibrators as rows of ``calibrators.parquet``.

    Parameters
    ----------
    fitted : sequence of Fitted
        Of any targets and maps.
    model : str
        Model that they belong to.
    zero_effects : mapping, optional
        Share of mutation effects made exactly 0, by (target, name); null where it is missing.

    Returns
    -------
    pyarrow.Table
        With the schema ``schemas.CALIBRATORS``. A target that stays as it is has the parameters
        of the identity, and no knots.
    """
    shares = zero_effects or {}
    rows = [
        {
            "model": model,
            "target": one.target,
            "calibrator": one.name,
            **_parameters(one),
            "n": one.n,
            "n_positive": one.n_positive,
            "shrinkage": one.shrinkage,
            "strictly_increasing": one.calibrator.strictly_increasing,
            "zero_effects": shares.get((one.target, one.name)),
            "status": one.status,
        }
        for one in fitted
    ]
    return pa.Table.from_pylist(rows, schema=schemas.CALIBRATORS)


def read_calibrators(table: pa.Table, model: str, name: str) -> dict[str, Calibrator]:
    """Return the map of every target.

    Parameters
    ----------
    table : pyarrow.Table
        Rows of ``calibrators.parquet``.
    model, name : str
        Which rows: the model, and one of :data:`deepmr.calibration.fitting.NAMES`.

    Returns
    -------
    dict of str to Calibrator
        By target; the identity where the status is not ``ok``.

    Raises
    ------
    ValueError
        If there is no such row, or a target has two.
    """
    return {row["target"]: _calibrator(row) for row in _rows(table, model, name)}


def effect_calibrators(table: pa.Table, model: str, name: str) -> dict[str, Calibrator]:
    """Return the map of every target for the effects of mutations.

    Parameters and result as :func:`read_calibrators`.

    Raises
    ------
    NotStrictlyIncreasingError
        If the map of a target is constant somewhere; with the share of effects it makes 0,
        where the table holds it.
    ValueError
        As :func:`read_calibrators`.
    """
    found = {}
    for row in _rows(table, model, name):
        try:
            found[row["target"]] = for_effects(_calibrator(row), row["zero_effects"])
        except NotStrictlyIncreasingError as error:
            raise NotStrictlyIncreasingError(
                f"model {model}, target {row['target']}: {error} (calibration.apply)"
            ) from None
    return found


def _parameters(fitted: Fitted) -> dict[str, Any]:
    """Columns a, b, c, knots, values."""
    match fitted.calibrator:
        case Affine(a, b):
            return {"a": a, "b": b}
        case Beta(a, b, c):
            return {"a": a, "b": b, "c": c}
        case Steps(knots, values) | Centred(knots, values):
            return {"knots": knots.tolist(), "values": values.tolist()}
    if fitted.name == "beta":
        return {"a": 1.0, "b": 1.0, "c": 0.0}
    return {"a": 1.0, "b": 0.0} if fitted.name in ("temperature", "platt") else {}


def _rows(table: pa.Table, model: str, name: str) -> list[dict[str, Any]]:
    every = table.select(schemas.CALIBRATORS.names).to_pylist()
    rows = [row for row in every if (row["model"], row["calibrator"]) == (model, name)]
    if not rows:
        there = sorted({f"{row['model']}/{row['calibrator']}" for row in every})
        raise ValueError(
            f"the table of calibrators has no map {name!r} of model {model!r}; it has "
            f"{', '.join(there) or 'no row'}. Write one of {', '.join(NAMES)} that is fitted "
            "(calibration.calibrators)"
        )
    targets = [row["target"] for row in rows]
    twice = sorted({target for target in targets if targets.count(target) > 1})
    if twice:
        raise ValueError(
            f"the table of calibrators has several maps {name!r} of model {model!r} for "
            f"{', '.join(twice)}; it must have one a target"
        )
    return rows


def _calibrator(row: Mapping[str, Any]) -> Calibrator:
    if row["status"] != "ok":
        return Identity()
    match row["calibrator"]:
        case "temperature" | "platt":
            return Affine(row["a"], row["b"])
        case "beta":
            return Beta(row["a"], row["b"], row["c"])
        case "isotonic":
            return Steps(row["knots"], row["values"])
        case "centred_isotonic":
            return Centred(row["knots"], row["values"])
    raise ValueError(
        f"target {row['target']}: calibrator {row['calibrator']!r} is unknown; "
        f"it must be one of {', '.join(NAMES)}"
    )
