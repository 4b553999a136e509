"""Rows of ``mr.parquet`` from the estimates of a batch; what has no value becomes null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr import schemas
from deepmr.effects import SE_KIND
from deepmr.mr.batch import Estimates
from deepmr.mr.instrument_effects import Instruments

RANK = "rank"
"""Column that orders rows until :func:`in_order`."""


def rows(
    keys: Mapping[str, str | Sequence[str | None]],
    rank: NDArray[np.int64],
    method: str,
    result: Estimates,
    instruments: Sequence[Instruments] | None = None,
) -> pa.Table:
    """Return the rows of one method, with every column of `deepmr.schemas.MR` and `RANK`.

    Parameters
    ----------
    keys : mapping of str to str or sequence of str
        Columns that say what was asked: one text for all rows, or one (or None) for each.
    rank : ndarray of int64, shape (sequences,)
        Place of each row in the table.
    method, result, instruments
        As in :func:`result_columns`.

    Returns
    -------
    pyarrow.Table
        A column that neither `keys` nor the method fills is null.
    """
    count = len(rank)
    columns = result_columns(method, result, instruments)
    for name, value in keys.items():
        columns[name] = pa.array(
            [value] * count if isinstance(value, str) else list(value), pa.string()
        )
    for field in schemas.MR:
        if field.name not in columns:
            columns[field.name] = pa.nulls(count, field.type)
    table = pa.table({name: columns[name] for name in schemas.MR.names})
    return table.cast(schemas.MR).append_column(RANK, pa.array(rank))


def in_order(parts: Sequence[pa.Table]) -> pa.Table:
    """Return rows of :func:`rows` as one table, schema `deepmr.schemas.MR`, ordered by rank."""
    if not parts:
        return schemas.MR.empty_table()
    table = pa.concat_tables(parts)
    return table.take(np.argsort(table[RANK].to_numpy())).drop_columns([RANK]).cast(schemas.MR)


def result_columns(
    method: str, result: Estimates, instruments: Sequence[Instruments] | None = None
) -> dict[str, pa.Array]:
    """Return the columns of `deepmr.schemas.MR` that hold results of one method.

    Parameters
    ----------
    method : str
        Its name.
    result : Estimates
        A value for each sequence.
    instruments : sequence of Instruments, optional
        What was estimated, already without the unusable ones; needed where the method judges
        each instrument.

    Returns
    -------
    dict of str to pyarrow.Array
        By column name.
    """
    count = len(result.status)
    judged = [None] * count if instruments is None else instruments
    columns = {
        "method": pa.array([method] * count, pa.string()),
        "se_kind": pa.array([SE_KIND] * count, pa.string()),
        "n_instruments": pa.array(result.n_instruments),
        "n_dropped": pa.array(result.n_dropped),
        "status": pa.array(result.status, pa.string()),
        "ci_kind": pa.array(result.ci_kind, pa.string()),
        "ci_set": pa.array(
            [None if one is None else one.tolist() for one in result.ci_set],
            schemas.MR.field("ci_set").type,
        ),
        "p_valid": pa.array(
            [
                None if p is None else _validity(one, p)
                for one, p in zip(judged, result.p_valid, strict=True)
            ],
            schemas.MR.field("p_valid").type,
        ),
    }
    for name, values in {**result.values, **result.diagnostics}.items():
        columns[name] = pa.array(values, schemas.MR.field(name).type, from_pandas=True)
    for name, draws in (("draws", result.draws), ("draws_se", result.draws_se)):
        columns[name] = _lists(draws, result.status == "ok")
    return columns


def _validity(instruments: Instruments | None, p: NDArray[np.float64]) -> list[dict[str, object]]:
    if instruments is None or instruments.positions is None or instruments.alleles is None:
        raise ValueError("the instruments of a stored sequence must have positions and alleles")
    triples = zip(instruments.positions.tolist(), instruments.alleles, p.tolist(), strict=True)
    return [{"position": place, "alt": base, "p": share} for place, base, share in triples]


def _lists(values: NDArray[np.float64], present: NDArray[np.bool_]) -> pa.ListArray:
    """Pack (n, draws) as a list column, null where a row is not present."""
    lengths = np.where(present, values.shape[1], 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = pa.array(values[present].astype(np.float32).reshape(-1))
    missing = pa.array(~present)
    return pa.ListArray.from_arrays(pa.array(offsets), flat, mask=missing)
