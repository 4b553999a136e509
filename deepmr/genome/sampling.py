"""Choose the held-out sequences that are mutated: bound and unbound ones for each exposure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, Codes, decode, reverse_complement
from deepmr.genome.fasta import SequenceReader

STRATA = ("bound", "unbound")
_ROWS = 20_000
"""Sequences read at a time."""


def sample(
    windows: pa.Table,
    reader: SequenceReader,
    exposures: Sequence[str],
    n_bound: int,
    n_unbound: int,
    seed: int,
    split: str = "test",
) -> tuple[pa.Table, dict[str, Any]]:
    """Sample sequences of a split for each exposure.

    A sequence is bound when its label is 1, or, for count and continuous labels, above the median
    of the split. Of sequences that are equal (or reverse complements of each other, unless the
    assay is strand-specific) one is eligible. The sample of an exposure depends on the seed and
    the sequences, not on their order nor on the other exposures.

    Parameters
    ----------
    windows : pyarrow.Table
        sequence_id, chrom, start, end, strand, split and label.<exposure>.
    reader : SequenceReader
        Where the sequences are read.
    exposures : sequence of str
        Targets to sample for.
    n_bound, n_unbound : int
        Sequences asked for each exposure; where there are fewer, all are taken.
    seed : int
        The seed.
    split : str
        From which split.

    Returns
    -------
    sequences : pyarrow.Table
        Ordered by sequence_id: sequence_id, chrom, start, end, strand, sequence (as the model
        reads it) and stratum.<exposure> ("bound", "unbound", null = not sampled for it).
    counts : dict
        windows, with_n and duplicates of the split, sampled, and exposures: for each exposure and
        stratum asked, available and taken.

    Raises
    ------
    ValueError
        Unknown exposure, or no sequence to sample.
    """
    lacking = [e for e in exposures if f"label.{e}" not in windows.column_names]
    if lacking:
        raise ValueError(f"the windows have no label of {lacking}; name targets of the run")
    # In the order of ids, so that which of two equal sequences is eligible is no accident.
    held_out = windows.filter(pc.equal(windows["split"], split)).sort_by("sequence_id")
    clean, first = _eligible(held_out, reader)
    counts: dict[str, Any] = {
        "windows": len(held_out),
        "with_n": int((~clean).sum()),
        "duplicates": int((clean & ~first).sum()),
    }
    pool = held_out.filter(pa.array(clean & first))
    ids = pool["sequence_id"].to_pylist()
    strata: dict[str, NDArray[np.object_]] = {}
    counts["exposures"] = {}
    for exposure in exposures:
        strata[exposure], counts["exposures"][exposure] = _stratify(
            pool[f"label.{exposure}"].to_numpy(), ids, exposure, (n_bound, n_unbound), seed
        )
    taken = np.zeros(len(pool), dtype=bool)
    for stratum in strata.values():
        taken |= stratum != None  # noqa: E711 (element-wise)
    if not taken.any():
        raise ValueError(
            f"no {split} sequence can be sampled for {', '.join(exposures)}: {counts}; "
            "ask for some, or hold out other chromosomes"
        )
    chosen = pool.filter(pa.array(taken))
    counts["sampled"] = len(chosen)
    columns = {name: chosen[name] for name in ("sequence_id", "chrom", "start", "end", "strand")}
    columns["sequence"] = pa.array([decode(row) for row in reader.windows(chosen)], pa.string())
    for exposure, stratum in strata.items():
        columns[f"stratum.{exposure}"] = pa.array(stratum[taken], pa.string())
    return pa.table(columns), counts


def _stratify(
    labels: NDArray[np.float32],
    ids: Sequence[str],
    exposure: str,
    asked: tuple[int, int],
    seed: int,
) -> tuple[NDArray[np.object_], dict[str, dict[str, int]]]:
    """Return the stratum of each sampled sequence, None for the others, and what was found."""
    measured = ~np.isnan(labels)
    binary = np.isin(labels[measured], (0.0, 1.0)).all()
    threshold = 0.5 if binary or not measured.any() else float(np.median(labels[measured]))
    stratum = np.full(len(labels), None, dtype=object)
    counts = {}
    for name, member, wanted in zip(
        STRATA, (labels > threshold, measured & ~(labels > threshold)), asked, strict=True
    ):
        rows = np.flatnonzero(member)
        keys = np.array([_key(seed, exposure, ids[row]) for row in rows.tolist()], dtype=np.uint64)
        taken = rows[np.argsort(keys, kind="stable")[:wanted]]
        stratum[taken] = name
        counts[name] = {"asked": wanted, "available": len(rows), "taken": len(taken)}
    return stratum, counts


def _key(seed: int, exposure: str, sequence_id: str) -> int:
    text = f"{seed}\t{exposure}\t{sequence_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _eligible(
    table: pa.Table, reader: SequenceReader
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each row whether it is free of N, and whether it is the first of its kind."""
    clean = np.zeros(len(table), dtype=bool)
    first = np.zeros(len(table), dtype=bool)
    seen: set[bytes] = set()
    for offset in range(0, len(table), _ROWS):
        codes = reader.windows(table.slice(offset, _ROWS))
        clean[offset : offset + len(codes)] = ~(codes == AMBIGUOUS).any(axis=1)
        canonical = codes if reader.strand else _canonical(codes)
        for row, content in enumerate(canonical, start=offset):
            digest = hashlib.blake2b(content.tobytes(), digest_size=16).digest()
            first[row] = digest not in seen
            seen.add(digest)
    return clean, first


def _canonical(codes: Codes) -> Codes:
    """Return of each sequence and its reverse complement the one that sorts first."""
    reverse = reverse_complement(codes)
    differ = codes != reverse
    at = differ.argmax(axis=1)
    rows = np.arange(len(codes))
    return np.where((codes[rows, at] <= reverse[rows, at])[:, None], codes, reverse)
