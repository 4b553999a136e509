"""Stored logit draws of a shard, read sequence by sequence; a file is never held whole."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepmr import tables

_BATCH_ROWS = 4096


@dataclass(frozen=True, eq=False)
class References:
    """Reference predictions of a shard's sequences.

    Attributes
    ----------
    ids : list of str
        The sequences, in the order of the table.
    draws : dict of str to ndarray, shape (sequences, draws)
        By target, logit draws.
    evaluated : dict of str to ndarray, shape (sequences,)
        By target, logits without dropout.
    """

    ids: list[str]
    draws: dict[str, NDArray[np.floating]]
    evaluated: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Mutations:
    """All mutations of one sequence, in the order of the table.

    Attributes
    ----------
    sequence_id : str
        The sequence.
    positions : ndarray, shape (mutations,)
        0-based positions.
    alleles : ndarray of object, shape (mutations,)
        The bases put in.
    draws : dict of str to ndarray, shape (mutations, draws)
        By target, logit differences.
    evaluated : dict of str to ndarray, shape (mutations,)
        By target, logit differences without dropout.
    """

    sequence_id: str
    positions: NDArray[np.int32]
    alleles: NDArray[np.object_]
    draws: dict[str, NDArray[np.floating]]
    evaluated: dict[str, NDArray[np.float32]]


def read_references(
    paths: Sequence[Path], targets: Sequence[str], only: Collection[str] | None = None
) -> References:
    """Read the listed reference tables: the columns of `targets`, of all or `only` some sequences.

    Raises
    ------
    ValueError
        If a target is not in a table.
    """
    parts = []
    for path in paths:
        _check_targets(path, targets)
        table = tables.read_table(path, ["sequence_id", *targets])
        parts.append(table if only is None else table.filter(_among(table["sequence_id"], only)))
    table = pa.concat_tables(parts)
    columns = {target: table[target].combine_chunks() for target in targets}
    return References(
        table["sequence_id"].to_pylist(),
        {t: tables.draws_array(c.field("draws")) for t, c in columns.items()},
        {t: c.field("eval").to_numpy(zero_copy_only=False) for t, c in columns.items()},
    )


def read_mutations(
    paths: Iterable[Path], targets: Sequence[str], only: Collection[str] | None = None
) -> Iterator[Mutations]:
    """Yield the mutations of the listed effects tables, a sequence at a time.

    Parameters
    ----------
    paths : iterable of path
        Effects tables.
    targets : sequence of str
        The columns to read.
    only : collection of str, optional
        Leave out every sequence but these; what holds none of them is not read, row group by row
        group.

    Yields
    ------
    Mutations
        A sequence whose rows are in two places comes twice.

    Raises
    ------
    ValueError
        If a target is not in a table.
    """
    columns = [
        "sequence_id",
        "position",
        "alt",
        *(f"{t}.{c}" for t in targets for c in ("eval", "draws")),
    ]
    for path in paths:
        _check_targets(path, targets)
        rest: list[pa.Table] = []
        with pq.ParquetFile(path) as file:
            for piece in _pieces(file, columns, only):
                if rest and (piece is None or piece["sequence_id"][0] != rest[0]["sequence_id"][0]):
                    yield _block(rest, targets)
                    rest = []
                if piece is not None:
                    rest.append(piece)
        if rest:
            yield _block(rest, targets)


def _pieces(
    file: pq.ParquetFile, columns: Sequence[str], only: Collection[str] | None
) -> Iterator[pa.Table | None]:
    """Yield rows of one sequence at a time, and None where rows are left out."""
    for group in range(file.num_row_groups):
        if only is not None and not _holds_any(file, group, only):
            yield None
            continue
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            table = pa.Table.from_batches([batch])
            ids = table["sequence_id"].combine_chunks().dictionary_encode()
            code = ids.indices.to_numpy()
            starts = np.flatnonzero(np.diff(code)) + 1
            for start, stop in itertools.pairwise([0, *starts.tolist(), len(code)]):
                if stop > start:
                    wanted = only is None or ids[start].as_py() in only
                    yield table.slice(start, stop - start) if wanted else None


def _holds_any(file: pq.ParquetFile, group: int, only: Collection[str]) -> bool:
    """Whether a row group holds one of these sequences; its other columns are not touched.

    Statistics would tell less: a shard's sequences are not in the order of their ids.
    """
    ids = file.read_row_group(group, columns=["sequence_id"])["sequence_id"]
    return bool(pc.any(_among(ids, only)).as_py())


def _among(ids: pa.ChunkedArray, only: Collection[str]) -> pa.ChunkedArray:
    return pc.is_in(ids, value_set=pa.array(sorted(only), ids.type))


def _block(pieces: Sequence[pa.Table], targets: Sequence[str]) -> Mutations:
    table = pa.concat_tables(pieces)
    columns = {target: table[target].combine_chunks() for target in targets}
    return Mutations(
        table["sequence_id"][0].as_py(),
        table["position"].to_numpy(),
        table["alt"].to_numpy(),
        {t: tables.draws_array(c.field("draws")) for t, c in columns.items()},
        {t: c.field("eval").to_numpy(zero_copy_only=False) for t, c in columns.items()},
    )


def _check_targets(path: Path, targets: Sequence[str]) -> None:
    present = tables.targets_of(pq.read_schema(path))
    missing = [target for target in targets if target not in present]
    if missing:
        raise ValueError(
            f"{path} has no target {', '.join(missing)}; it has {', '.join(present)}. "
            "Name it in mutagenesis.targets and make the effects again"
        )
