"""Stored logit draws of a shard, read sequence by sequence; a file is never held whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
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
    paths: Sequence[Path], targets: Sequence[str], only: str | None = None
) -> References:
    """Read the listed reference tables: the columns of `targets`, of all sequences or of one.

    Raises
    ------
    ValueError
        If a target is not in a table.
    """
    for path in paths:
        _check_targets(path, targets)
    table = tables.read_tables(paths, ["sequence_id", *targets])
    if only is not None:
        table = table.filter(pc.equal(table["sequence_id"], only))
    columns = {target: table[target].combine_chunks() for target in targets}
    return References(
        table["sequence_id"].to_pylist(),
        {t: tables.draws_array(c.field("draws")) for t, c in columns.items()},
        {t: c.field("eval").to_numpy(zero_copy_only=False) for t, c in columns.items()},
    )


def read_mutations(paths: Iterable[Path], targets: Sequence[str]) -> Iterator[Mutations]:
    """Yield the mutations of the listed effects tables, a sequence at a time."""
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
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
                table = pa.Table.from_batches([batch])
                ids = table["sequence_id"].combine_chunks().dictionary_encode()
                code = ids.indices.to_numpy()
                starts = np.flatnonzero(np.diff(code)) + 1
                bounds = [0, *starts.tolist(), len(code)]
                for start, stop in itertools.pairwise(bounds):
                    piece = table.slice(start, stop - start)
                    if rest and piece["sequence_id"][0] != rest[0]["sequence_id"][0]:
                        yield _block(rest, targets)
                        rest = []
                    if piece.num_rows:
                        rest.append(piece)
        if rest:
            yield _block(rest, targets)


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
