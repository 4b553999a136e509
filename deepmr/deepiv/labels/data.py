"""The measured labels of a pair in one direction, with instrument and context of each window.

The instrument is the score of the best word of the exposure's motif, the context what is left of
the window when that word is masked (:mod:`deepmr.deepiv.labels.motif_instrument`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr.deepiv.cross_fitting import blocks
from deepmr.deepiv.labels.motif_instrument import motif_instrument
from deepmr.genome.alphabet import AMBIGUOUS, BASES, Codes
from deepmr.models.batches import Reader
from deepmr.motifs import Motif, word_scores
from deepmr.shards.membership import choose

Array = NDArray[np.float64]

LEAST_WINDOWS = 400
"""Fewer windows are not worth a network: a fold of a quarter would hold fewer than a hundred."""

LEAST_OF_A_LABEL = 50
"""Windows of the rarer label, for a binary exposure or outcome."""

_ROWS = 4096
"""Windows scanned for a motif at a time."""

_STRONG_GC = tuple(BASES.index(base) for base in "GC")


class NotEstimableError(ValueError):
    """The labels of a pair do not permit an estimate in this direction.

    Attributes
    ----------
    status : str
        ``no_motif``, ``no_variation`` or ``too_few_windows``.
    reason : str
        What was found, in words.
    n_windows, n_left_out : int
        Windows that could be used, and the others.
    """

    def __init__(self, status: str, reason: str, n_windows: int, n_left_out: int) -> None:
        self.status = status
        self.reason = reason
        self.n_windows = n_windows
        self.n_left_out = n_left_out
        super().__init__(f"{status}: {reason}")


@dataclass(frozen=True)
class Side:
    """The exposure or the outcome of a question.

    Attributes
    ----------
    target : str
        Its name.
    kind : str
        ``binary``, ``count`` or ``continuous``.
    """

    target: str
    kind: str

    @property
    def binary(self) -> bool:
        """Whether the label is 0 or 1."""
        return self.kind == "binary"

    def values(self, labels: Array) -> Array:
        """Return labels as they are analysed: counts as log(1 + count), others as they are."""
        return np.log1p(labels) if self.kind == "count" else labels

    def unit(self, change: str) -> str:
        """Return the unit: `change` for a binary label, else that of `values`."""
        return {"binary": change, "count": "log(1 + count)"}.get(self.kind, "value")


@dataclass(frozen=True, eq=False)
class LabelData:
    """Windows with both labels, in the order of chromosome and start.

    Attributes
    ----------
    sequence_ids : list of str
        Names of the n windows.
    exposure, outcome : ndarray of float64, shape (n,)
        As `Side.values` gives them.
    sides : tuple of two Side
        Exposure and outcome.
    score : ndarray of float64, shape (n,)
        The instrument: bits of the best word of the exposure's motif.
    context : ndarray of uint8, shape (n, length)
        Codes with that word masked, turned so that it reads forward.
    overlapping : ndarray of float64, shape (n, k)
        Bits of each other motif's best word that overlaps the masked one: what the mask hides.
    covariates : ndarray of float64, shape (n, p)
        Numbers of the context for the linear peers: its share of G and C, the bits of the best
        word of each other motif, and `overlapping`.
    blocks : ndarray of int64, shape (n,)
        Block of consecutive windows: the clusters.
    n_left_out : int
        Windows of the run without one of the labels, or without a word free of ambiguous letters.
    """

    sequence_ids: list[str]
    exposure: Array
    outcome: Array
    sides: tuple[Side, Side]
    score: Array
    context: Codes
    overlapping: Array
    covariates: Array
    blocks: NDArray[np.int64]
    n_left_out: int

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.sequence_ids)


def label_data(
    windows: pa.Table,
    reader: Reader,
    exposure: Side,
    outcome: Side,
    motifs: Mapping[str, Motif | None],
    *,
    at_most: int | None,
    both_strands: bool,
    seed: int,
) -> LabelData:
    """Collect the windows of all splits that have both labels.

    Parameters
    ----------
    windows : pyarrow.Table
        Schema of ``windows.parquet``. Without coordinates, neighbours in the table count as
        neighbours.
    reader : Reader
        Gives the codes of the windows.
    exposure, outcome : Side
        What is asked.
    motifs : mapping of str to Motif or None
        By target. How the motifs of other targets fit is part of the context.
    at_most : int, optional
        Keep so many windows, those whose names have the smallest hashes.
    both_strands : bool
        Look for words on both strands (False for RNA).
    seed : int
        Seed of the hash.

    Returns
    -------
    LabelData

    Raises
    ------
    NotEstimableError
        If the exposure has no motif, a label does not vary, or windows are too few.
    ValueError
        If a window is shorter than the motif.
    """
    motif = motifs.get(exposure.target)
    values = [
        windows[f"label.{side.target}"].to_numpy().astype(np.float64)
        for side in (exposure, outcome)
    ]
    measured = ~np.isnan(values[0]) & ~np.isnan(values[1])
    if motif is None:
        raise NotEstimableError(
            "no_motif",
            f"{exposure.target} has no motif to make an instrument of",
            int(measured.sum()),
            int((~measured).sum()),
        )
    rows = _in_order(windows, np.flatnonzero(measured))
    left_out = windows.num_rows - len(rows)
    rows = _subsample(windows, rows, at_most, seed)
    x, y = (side.values(v) for side, v in zip((exposure, outcome), values, strict=True))
    _check(x[rows], y[rows], exposure, outcome, left_out)

    others = _others(motif, motifs)
    found = motif_instrument(
        reader.windows(windows.take(rows)),
        motif,
        both_strands=both_strands,
        others=others,
    )
    usable = found.usable
    rows, left_out = rows[usable], left_out + int((~usable).sum())
    _check(x[rows], y[rows], exposure, outcome, left_out)
    logging.info(
        "%s -> %s: %d windows, %d left out",
        exposure.target,
        outcome.target,
        len(rows),
        left_out,
    )
    kept = windows.take(rows)
    context = found.context[usable]
    overlapping = _varying(found.overlapping[usable])
    return LabelData(
        kept["sequence_id"].to_pylist(),
        x[rows],
        y[rows],
        (exposure, outcome),
        found.score[usable],
        context,
        overlapping,
        np.concatenate((_covariates(context, others, both_strands), overlapping), axis=1),
        blocks(*_places(kept)),
        left_out,
    )


def _places(windows: pa.Table) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return chromosome and start; the place in the table where there are none."""
    chrom = np.array([name or "" for name in windows["chrom"].to_pylist()], dtype=np.str_)
    if windows["start"].null_count:
        return chrom, np.arange(windows.num_rows, dtype=np.int64)
    return chrom, windows["start"].to_numpy().astype(np.int64)


def _in_order(windows: pa.Table, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort rows by chromosome and start, the two strands of a window by name."""
    some = windows.take(rows)
    ids = np.array(some["sequence_id"].to_pylist(), dtype=np.str_)
    chrom, start = _places(some)
    return rows[np.lexsort((ids, start, chrom))]


def _subsample(
    windows: pa.Table, rows: NDArray[np.int64], at_most: int | None, seed: int
) -> NDArray[np.int64]:
    if at_most is None:
        return rows
    names = windows["sequence_id"].take(rows).to_pylist()
    return rows[np.array(choose([f"{seed}\t{name}" for name in names], at_most), dtype=np.int64)]


def _check(x: Array, y: Array, exposure: Side, outcome: Side, left_out: int) -> None:
    for values, side in ((x, exposure), (y, outcome)):
        if len(values) and np.ptp(values) == 0:
            raise NotEstimableError(
                "no_variation",
                f"the label of {side.target} is {values[0]:g} in every window with both labels",
                len(x),
                left_out,
            )
    if len(x) < LEAST_WINDOWS:
        raise NotEstimableError(
            "too_few_windows",
            f"{len(x)} windows have both labels, {LEAST_WINDOWS} are needed",
            len(x),
            left_out,
        )
    for values, side in ((x, exposure), (y, outcome)):
        rarer = int(min((values == 0).sum(), (values == 1).sum()))
        if side.binary and rarer < LEAST_OF_A_LABEL:
            raise NotEstimableError(
                "too_few_windows",
                f"{rarer} windows have the rarer label of {side.target}, "
                f"{LEAST_OF_A_LABEL} are needed",
                len(x),
                left_out,
            )


def _others(motif: Motif, motifs: Mapping[str, Motif | None]) -> list[Motif]:
    """Return the other motifs of the run, each once."""
    others = {other.id: other for other in motifs.values() if other is not None}
    others.pop(motif.id, None)
    return list(others.values())


def _covariates(context: Codes, others: list[Motif], both_strands: bool) -> Array:
    """Return share of G and C and the best words of other motifs; only columns that vary."""
    gc = np.isin(context, _STRONG_GC).sum(axis=1) / (context != AMBIGUOUS).sum(axis=1)
    best = (_best_scores(context, motif, both_strands) for motif in others)
    return _varying(np.stack([gc, *best], axis=1))


def _varying(columns: Array) -> Array:
    """Return the columns that are not constant."""
    return columns[:, np.ptp(columns, axis=0) > 0] if len(columns) else columns


def _best_scores(codes: Codes, motif: Motif, both_strands: bool) -> Array:
    """Return the bits of the best word; where the mask leaves none, the lowest of the others."""
    if codes.shape[1] < motif.width:
        return np.zeros(len(codes))
    best = np.empty(len(codes))
    for first in range(0, len(codes), _ROWS):
        rows = slice(first, first + _ROWS)
        best[rows] = word_scores(codes[rows], motif, both_strands).max(axis=1)
    known = np.isfinite(best)
    return np.where(known, best, best[known].min() if known.any() else 0.0)
