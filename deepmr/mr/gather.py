"""One ``mr.parquet`` from the tables of the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from deepmr import schemas, tables

KEY = ("model", "pair", "direction", "sequence_id", "method")


def gather(paths: Sequence[str | Path]) -> pa.Table:
    """Put the listed shards together, ordered by `KEY` whatever the number of shards.

    Parameters
    ----------
    paths : sequence of path
        The shards of this run, of one or more models.

    Returns
    -------
    pyarrow.Table
        Schema `deepmr.schemas.MR`.

    Raises
    ------
    ValueError
        If a row stands in two shards.
    """
    table = tables.read_tables(paths).sort_by([(name, "ascending") for name in KEY])
    keys = table.select(KEY).to_pandas()
    repeated = keys.duplicated()
    if repeated.any():
        first = ", ".join(keys[repeated].iloc[0])
        raise ValueError(
            f"{int(repeated.sum())} rows stand in two shards, first {first}; "
            "delete the folder of MR shards and run the same command again"
        )
    return table.select(schemas.MR.names).cast(schemas.MR)
