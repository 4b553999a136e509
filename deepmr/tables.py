"""Reading and writing Parquet tables, so that a file is whole or not there.

What made a table (code fingerprint, configuration hash, seed, versions) stands in the
Parquet metadata under the key ``deepmr``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepmr.outputs import replacing

Metadata = Mapping[str, Any]

_METADATA_KEY = b"deepmr"
_COMPRESSION = "zstd"


class DamagedTableError(ValueError):
    """A Parquet file that cannot be read to its end."""


def draws_column(values: NDArray[np.floating[Any]]) -> pa.Array:
    """Pack an (n, draws) array as a fixed-size list column, keeping its float width."""
    n, size = values.shape
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return (
        pa.FixedSizeListArray.from_arrays(flat, size)
        if n
        else pa.array([], pa.list_(flat.type, size))
    )


def draws_array(column: pa.Array | pa.ChunkedArray) -> NDArray[np.floating[Any]]:
    """Unpack a fixed-size list column to an (n, draws) array, keeping its float width."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def _with_metadata(schema: pa.Schema, metadata: Metadata | None) -> pa.Schema:
    if metadata is None:
        return schema
    return schema.with_metadata({_METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)})


@contextmanager
def writer(
    path: str | Path, schema: pa.Schema, metadata: Metadata | None = None
) -> Iterator[pq.ParquetWriter]:
    """Open a Parquet file for writing row group by row group; it appears when the block ends.

    Parameters
    ----------
    path : path
        The final file.
    schema : pyarrow.Schema
        One of `deepmr.schemas`.
    metadata : mapping, optional
        What made the table; JSON values.

    Yields
    ------
    pyarrow.parquet.ParquetWriter
        Call ``write_table`` on it, once per row group.
    """
    with (
        replacing(path) as temporary,
        pq.ParquetWriter(
            temporary, _with_metadata(schema, metadata), compression=_COMPRESSION
        ) as out,
    ):
        yield out


def write_table(
    table: pa.Table,
    path: str | Path,
    schema: pa.Schema | None = None,
    metadata: Metadata | None = None,
) -> None:
    """Write a whole table, cast to `schema`, with its provenance.

    Parameters
    ----------
    table : pyarrow.Table
        Rows to write; column order and types follow `schema`.
    path : path
        The final file.
    schema : pyarrow.Schema, optional
        One of `deepmr.schemas`; the table's own when left out.
    metadata : mapping, optional
        What made the table; JSON values.

    Raises
    ------
    ValueError
        If a column of the schema is missing or cannot be cast.
    """
    if schema is not None:
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise ValueError(
                f"{path}: the table lacks the columns {missing}; it has {table.column_names}"
            )
        table = table.select(schema.names).cast(schema)
    with writer(path, schema if schema is not None else table.schema, metadata) as out:
        out.write_table(table.replace_schema_metadata(None))


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns (``target.mean`` keeps one part of a struct).

    Raises
    ------
    DamagedTableError
        If the file is truncated or no Parquet file.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedTableError(
            f"{path} cannot be read as Parquet ({error}); delete it and run the same command again"
        ) from error


def read_tables(paths: Sequence[str | Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read the listed files, in the order given, as one table."""
    return pa.concat_tables([read_table(path, columns) for path in paths])


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what made a table, as it was given to :func:`write_table`."""
    stored = pq.read_schema(path).metadata or {}
    return json.loads(stored[_METADATA_KEY]) if _METADATA_KEY in stored else {}


def targets_of(schema: pa.Schema) -> list[str]:
    """Return the targets of a predictions, effects or references table, in their order."""
    return [field.name for field in schema if pa.types.is_struct(field.type)]
