"""The tables of a mutagenesis shard: effects of every mutation, and outputs of the references."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from deepmr import schemas, tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import AMBIGUOUS, Codes, alternatives, encode
from deepmr.mutagenesis.drawn_model import DrawnModel, Model
from deepmr.mutagenesis.parts import Parts
from deepmr.mutagenesis.saturation import MEMORY_GB, choose_engine, saturate_each
from deepmr.mutagenesis.substitutions import Effects
from deepmr.progress import track

_BASES = np.array(list("ACGTN"))
_ROW_GROUP_VALUES = 2**24

Row = tuple[pa.Table, pa.Table]
"""A sequence's rows of the effects table, and its row of the references table."""


@dataclass(frozen=True)
class Counts:
    """What a shard holds: sequences, mutations, and positions skipped as ambiguous.

    `seconds` and `cpu_seconds` are what it took, the start of the engine left out.
    """

    sequences: int
    mutations: int
    skipped_positions: int
    seconds: float = field(default=0.0, compare=False)
    cpu_seconds: float = field(default=0.0, compare=False)


def write_shard(
    model: Model,
    sequences: pa.Table,
    targets: Sequence[str],
    draws: DrawSet,
    effects_path: str | Path,
    references_path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    engine: str = "auto",
    memory_gb: float = MEMORY_GB,
    precision: str = "tf32",
    average_strands: bool = False,
    device: str | torch.device | None = None,
    rows_per_batch: int | None = None,
    workers: int = 1,
    resume_dir: str | Path | None = None,
    fingerprint: str = "",
    save_every: float = 60.0,
) -> Counts:
    """Mutate the sequences of a shard and write both tables, going on where a killed run stopped.

    Parameters
    ----------
    model : Model
        A trained model.
    sequences : pyarrow.Table
        Columns ``sequence_id`` and ``sequence``; may be empty.
    targets : sequence of str
        Targets to keep.
    draws : DrawSet
        The functions.
    effects_path, references_path : path
        Where the tables go; they appear only when both are complete.
    metadata : mapping, optional
        What made the tables, for their Parquet metadata.
    engine : str
        ``auto``, ``local`` or ``naive``; see :func:`deepmr.mutagenesis.saturation.choose_engine`.
    memory_gb : float
        Memory of the local engine for all sequences in work together.
    precision : str
        Of its products on a GPU.
    average_strands : bool
        Average the outputs of both strands, draw by draw.
    device : str or torch.device, optional
        Where the networks run; the GPU if there is one.
    rows_per_batch : int, optional
        Rows (draws × mutants) of a forward pass.
    workers : int
        Sequences worked on at the same time on a CPU; a GPU takes them one by one.
    resume_dir : path, optional
        Folder of this shard alone for its finished sequences. Those of the same sequences,
        settings, device and `fingerprint` are not computed again, any others are discarded. Left
        out, it is beside the effects table and gone at the end.
    fingerprint : str
        What else the numbers depend on: a hash of the code and of the model.
    save_every : float
        Seconds of work after which finished sequences are saved.

    Returns
    -------
    Counts
        What was written and what was skipped.

    Raises
    ------
    ValueError
        If a sequence has another length than the model's input, an effect is too large for
        float16, or the model does not fit `targets` and `draws`.
    deepmr.outputs.SupersededError
        If a later run of this job has begun.
    """
    drawn = DrawnModel(
        model,
        targets,
        draws,
        device=device,
        rows_per_batch=rows_per_batch,
        average_strands=average_strands,
    )
    ids = sequences["sequence_id"].to_pylist()
    codes = _codes(sequences, drawn.length)
    effects_schema = schemas.effects_schema(drawn.targets, drawn.n_draws)
    references_schema = schemas.references_schema(drawn.targets, drawn.n_draws)
    # What `auto` comes to is decided by the model and the memory.
    settings = (
        *(drawn.targets, draws, average_strands, rows_per_batch, fingerprint),
        *(engine, memory_gb, precision),
    )
    beside = Path(effects_path).with_name(f".{Path(effects_path).name}.parts")
    parts = Parts(resume_dir or beside, _identity(ids, codes, drawn.device, settings))
    if parts.finished:
        logging.info("%d of %d sequences were finished before", parts.finished, len(ids))
    rest = range(parts.finished, len(ids))
    group = max(1, _ROW_GROUP_VALUES // (3 * drawn.length * drawn.n_draws * len(drawn.targets)))
    each: Iterable[tuple[int, Effects]] = ()
    if rest:
        chosen = choose_engine(drawn, engine, memory_gb, precision)
        each = zip(rest, saturate_each(drawn, chosen, codes[rest.start :], workers), strict=True)
    started = time.perf_counter(), time.process_time()
    tracked = track(each, len(ids), "mutagenesis", "sequence", done=parts.finished)
    rows = (
        (effects_rows(ids[i], codes[i], effects), _reference_row(ids[i], effects))
        for i, effects in tracked
    )
    for some in _batches(rows, group, save_every):
        effects, references = (pa.concat_tables(kind) for kind in zip(*some, strict=True))
        parts.add(effects.cast(effects_schema), references.cast(references_schema))
    metadata = {**(metadata or {}), "dropout_sites": _sites(drawn)}
    with (
        tables.writer(effects_path, effects_schema, metadata) as effects_out,
        tables.writer(references_path, references_schema, metadata) as references_out,
    ):
        # The same row groups wherever the parts were cut.
        for table in _regrouped(parts.effects(), group * 3 * drawn.length):
            effects_out.write_table(table)
        for table in _regrouped(parts.references(), group):
            references_out.write_table(table)
    if resume_dir is None:
        parts.remove()
    else:
        parts.keep_whole(effects_path, references_path)
    skipped = int((codes == AMBIGUOUS).sum())
    return Counts(
        len(ids),
        3 * (codes.size - skipped),
        skipped,
        time.perf_counter() - started[0],
        time.process_time() - started[1],
    )


def _sites(drawn: DrawnModel) -> list[list[str]]:
    """Return the dropout sites of each member, in words."""
    return [[str(site) for site in member.network.sites] for member in drawn.members]


def _identity(
    ids: Sequence[str], codes: Codes, device: torch.device, settings: tuple[Any, ...]
) -> str:
    """Hash all that the numbers of a shard depend on, so that no part of another run is read."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    digest = hashlib.blake2b(digest_size=8)
    digest.update(repr((list(ids), name, torch.__version__, settings)).encode())
    digest.update(codes.tobytes())
    return digest.hexdigest()


def _batches(items: Iterable[Row], size: int, seconds: float) -> Iterator[list[Row]]:
    """Yield the items in lists, each of `size` at most and not longer than `seconds` in the making.

    The time counts from the list's first wait; a list holds one item or more.
    """
    some: list[Row] = []
    started = time.monotonic()
    for item in items:
        some.append(item)
        if len(some) == size or time.monotonic() - started >= seconds:
            yield some
            some, started = [], time.monotonic()
    if some:
        yield some


def _regrouped(parts: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the rows of tables in tables of `size` rows; the last has the rest."""
    rest: pa.Table | None = None
    for part in parts:
        rest = part if rest is None else pa.concat_tables([rest, part])
        while rest.num_rows >= size:
            yield rest.slice(0, size)
            rest = rest.slice(size)
    if rest is not None and rest.num_rows:
        yield rest


def effects_rows(sequence_id: str, codes: Codes, effects: Effects) -> pa.Table:
    """Return one sequence's rows of the effects table, ambiguous positions left out.

    Parameters
    ----------
    sequence_id : str
        Name of the sequence.
    codes : ndarray of uint8, shape (length,)
        Its bases.
    effects : Effects
        Its effects, n = 1.

    Returns
    -------
    pyarrow.Table
        Rows ordered by position, then alternative; mean and SD (ddof 1) over the draws are those
        of the float32 draws, the draws are stored as float16. The SD of one draw is null.

    Raises
    ------
    ValueError
        If an effect is too large for float16.
    """
    known = codes != AMBIGUOUS
    position = np.flatnonzero(known)
    columns: dict[str, pa.Array] = {
        "sequence_id": pa.array([sequence_id] * (3 * len(position)), pa.string()),
        "position": pa.array(np.repeat(position, 3).astype(np.int32)),
        "ref": pa.array(_BASES[np.repeat(codes[known], 3)], pa.string()),
        "alt": pa.array(_BASES[alternatives(codes[known]).ravel()], pa.string()),
    }
    for k, target in enumerate(effects.targets):
        delta = effects.delta[0, known, :, :, k]
        delta = delta.reshape(-1, delta.shape[-1])
        evaluated = effects.delta_eval[0, known, :, k].ravel()
        columns[target] = _struct(
            eval=pa.array(evaluated),
            mean=pa.array(delta.mean(1)),
            sd=_sd(delta),
            draws=tables.draws_column(_half(delta, sequence_id, target)),
        )
    return pa.table(columns)


def _sd(delta: NDArray[np.float32]) -> pa.Array:
    if delta.shape[1] == 1:
        return pa.nulls(len(delta), pa.float32())
    return pa.array(delta.std(1, ddof=1))


def _half(delta: NDArray[np.float32], sequence_id: str, target: str) -> NDArray[np.float16]:
    largest = np.abs(delta).max(initial=0)
    # Written so that NaN fails it too.
    if not largest <= np.finfo(np.float16).max:
        raise ValueError(
            f"{target}: an effect in {sequence_id} is {largest}, beyond the float16 of the "
            "table (65504); rescale the target's labels"
        )
    return delta.astype(np.float16)


def _reference_row(sequence_id: str, effects: Effects) -> pa.Table:
    columns: dict[str, pa.Array] = {"sequence_id": pa.array([sequence_id])}
    for k, target in enumerate(effects.targets):
        columns[target] = _struct(
            eval=pa.array(effects.reference_eval[:, k]),
            draws=tables.draws_column(effects.reference[:, :, k]),
        )
    return pa.table(columns)


def _struct(**fields: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields))


def _codes(sequences: pa.Table, length: int) -> Codes:
    codes = np.empty((sequences.num_rows, length), np.uint8)
    columns = (sequences[name].to_pylist() for name in ("sequence_id", "sequence"))
    for row, (sequence_id, letters) in enumerate(zip(*columns, strict=True)):
        if len(letters) != length:
            raise ValueError(
                f"{sequence_id}: the sequence has {len(letters)} bases, the model reads {length}; "
                "give sequences of that length"
            )
        codes[row] = encode(letters)
    return codes
