"""Rows of ``mr.parquet`` from the estimates of a batch; what has no value becomes null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr import schemas
from deepmr.effects import SE_KIND
from deepmr.mr.batch import Estimates
from deepmr.mr.instrument_effects import Instruments


def result_columns(
    method: str, instruments: Sequence[Instruments], result: Estimates
) -> dict[str, pa.Array]:
    """Return the columns of `deepmr.schemas.MR` that hold results of one method.

    Parameters
    ----------
    method : str
        Its name.
    instruments : sequence of Instruments
        What was estimated, already without the unusable ones.
    result : Estimates
        A value for each of them.

    Returns
    -------
    dict of str to pyarrow.Array
        By column name.
    """
    count = len(instruments)
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
                for one, p in zip(instruments, result.p_valid, strict=True)
            ],
            schemas.MR.field("p_valid").type,
        ),
    }
    for name, values in {**result.values, **result.diagnostics}.items():
        columns[name] = pa.array(values, schemas.MR.field(name).type, from_pandas=True)
    for name, draws in (("draws", result.draws), ("draws_se", result.draws_se)):
        columns[name] = _lists(draws, result.status == "ok")
    return columns


def _validity(instruments: Instruments, p: NDArray[np.float64]) -> list[dict[str, object]]:
    if instruments.positions is None or instruments.alleles is None:
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
