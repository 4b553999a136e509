"""What a model's draws say of the slope in each sequence: weighted sums over its instruments.

In sequence i the mean effects are by = s_i bx + error with weights w = 1/se_y^2, those of MR. All
that a regression of the slope on the context needs of a sequence is three sums, and two of them in
every draw (weights, like instruments, are those of the mean effects):

    xx = sum w bx^2,    xy = sum w bx by,    yy = sum w by^2;

xy/xx is its slope by inverse-variance weighting, and xx how much it says of it. So no effect of a
single mutation is kept, and memory is draws x sequences whatever the number of instruments.

The context of a sequence is its letters with the positions of its instruments masked. The pattern
of what is masked is part of it: it tells where the sites are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, Codes, encode
from deepmr.mr.questions import Question
from deepmr.mr.shard import SequenceInstruments

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

_PER_SEQUENCE = ("codes", "groups", "xx", "xy", "yy", "n_instruments")
_PER_DRAW = ("draws_xx", "draws_xy")

LARGEST_SHARE = 10.0
"""A sequence says at most so many times what the median sequence says. SEs are the spread of one
network, and where it is saturated they are tiny: a single sequence could have most of the weight.
Slopes scatter between sequences by more than their SEs, so the best weights are far more even than
1/se^2 (those of a random-effects meta-analysis), and capping costs little."""


@dataclass(frozen=True, eq=False)
class Slopes:
    """The sequences of one question that have instruments.

    Attributes
    ----------
    sequence_ids : tuple of str
        The n sequences.
    codes : ndarray of uint8, shape (n, length)
        Their letters; the positions of instruments are `AMBIGUOUS`.
    groups : ndarray of str, shape (n,)
        Sequences with one name are never apart when some are learned from and others predicted.
    xx, xy, yy : ndarray of float64, shape (n,)
        Weighted sums of products of the mean effects (see above); xx is above 0.
    draws_xx, draws_xy : ndarray of float64, shape (draws, n)
        The same in each draw.
    n_instruments : ndarray of int64, shape (n,)
        Instruments of each.
    left_out : mapping of str to int
        Sequences without usable instruments, counted by their status.
    """

    sequence_ids: tuple[str, ...]
    codes: Codes
    groups: NDArray[np.str_]
    xx: Array
    xy: Array
    yy: Array
    draws_xx: Array
    draws_xy: Array
    n_instruments: Rows
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def none(cls) -> Slopes:
        """Return no sequences."""
        return _slopes([], {}, {})

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.sequence_ids)

    def take(self, rows: Rows) -> Slopes:
        """Return some of the sequences, in the order of `rows`."""
        chosen = {name: getattr(self, name)[rows] for name in _PER_SEQUENCE}
        chosen |= {name: getattr(self, name)[:, rows] for name in _PER_DRAW}
        return replace(self, sequence_ids=tuple(self.sequence_ids[row] for row in rows), **chosen)

    def capped(self) -> Slopes:
        """Return the same with the weights of a sequence scaled so that xx keeps to the cap.

        The cap is `LARGEST_SHARE` medians of xx.
        """
        if len(self) == 0:
            return self
        scale = np.minimum(1.0, LARGEST_SHARE * np.median(self.xx) / self.xx)
        sums = ("xx", "xy", "yy", *_PER_DRAW)
        return replace(self, **{name: getattr(self, name) * scale for name in sums})


def collect(
    instruments: Iterable[SequenceInstruments],
    letters: Mapping[str, str],
    groups: Mapping[str, str] | None = None,
) -> dict[Question, Slopes]:
    """Sum up the instruments of every sequence, question by question.

    Parameters
    ----------
    instruments : iterable of SequenceInstruments
        As :func:`deepmr.mr.shard.shard_instruments` yields them; read once, and not held.
    letters : mapping of str to str
        The sequences by id, all of one length.
    groups : mapping of str to str, optional
        By id, the name of the sequence's group (:func:`overlapping`); by default each is its own.

    Returns
    -------
    dict of Question to Slopes
        Every question that `instruments` asks, though no sequence be left.
    """
    found: dict[Question, list[_Sums]] = {}
    left_out: dict[Question, Counter[str]] = {}
    for one in instruments:
        own = found.setdefault(one.question, [])
        without = left_out.setdefault(one.question, Counter())
        status = one.instruments.status
        sums = _sums(one, letters[one.sequence_id]) if status == "ok" else None
        if sums is None:
            without["exposure_unchanged" if status == "ok" else status] += 1
        else:
            own.append(sums)
    return {
        question: _slopes(own, groups or {}, dict(left_out[question]))
        for question, own in found.items()
    }


def overlapping(windows: pa.Table) -> dict[str, str]:
    """Return the group of each sequence: windows that overlap, also by way of others, are one.

    Overlapping windows share their sites, so one of them tells the slope of the other. Those of
    both strands are one group as well.

    Parameters
    ----------
    windows : pyarrow.Table
        Columns ``sequence_id``, ``chrom``, ``start`` and ``end``; without a place on a genome
        (null) a sequence is its own group.

    Returns
    -------
    dict of str to str
        By sequence, the id that comes first among those of its group; it does not depend on the
        order of the rows.
    """
    columns = (windows[name].to_pylist() for name in ("chrom", "start", "end", "sequence_id"))
    rows = list(zip(*columns, strict=True))
    runs: list[list[str]] = []
    last, reached = None, 0
    for chrom, start, end, name in sorted(row for row in rows if None not in row):
        if chrom == last and start < reached:
            runs[-1].append(name)
        else:
            runs.append([name])
            reached = end
        last, reached = chrom, max(reached, end)
    runs += [[row[-1]] for row in rows if None in row]
    return {name: min(run) for run in runs for name in run}


@dataclass(frozen=True, eq=False)
class _Sums:
    """One sequence's part of `Slopes`."""

    sequence_id: str
    codes: Codes
    xx: float
    xy: float
    yy: float
    draws_xx: Array
    draws_xy: Array
    n_instruments: int


def _sums(one: SequenceInstruments, letters: str) -> _Sums | None:
    """Return a sequence's sums; None where no instrument moves the exposure."""
    own = one.instruments
    if own.positions is None or own.draws_x is None or own.draws_y is None:
        raise ValueError(
            f"sequence {one.sequence_id!r}: its instruments have no positions or draws; give "
            "those of stored effects"
        )
    w = 1.0 / (own.se_y * own.se_y)
    xx = float(w @ (own.bx * own.bx))
    if xx == 0:
        return None
    codes = encode(letters)
    codes[own.positions] = AMBIGUOUS
    return _Sums(
        one.sequence_id,
        codes,
        xx,
        float(w @ (own.bx * own.by)),
        float(w @ (own.by * own.by)),
        np.einsum("ti,ti,i->t", own.draws_x, own.draws_x, w),
        np.einsum("ti,ti,i->t", own.draws_x, own.draws_y, w),
        len(own.bx),
    )


def _slopes(
    found: Sequence[_Sums], groups: Mapping[str, str], left_out: Mapping[str, int]
) -> Slopes:
    ids = tuple(one.sequence_id for one in found)
    n, n_draws = len(found), len(found[0].draws_xx) if found else 0

    def stacked(name: str, kind: type) -> NDArray[Any]:
        return np.array([getattr(one, name) for one in found], dtype=kind)

    def by_draw(name: str) -> Array:
        return np.ascontiguousarray(stacked(name, np.float64).reshape(n, n_draws).T)

    return Slopes(
        sequence_ids=ids,
        codes=stacked("codes", np.uint8).reshape(n, -1) if found else np.zeros((0, 0), np.uint8),
        groups=np.array([groups.get(name, name) for name in ids], dtype=np.str_),
        xx=stacked("xx", np.float64),
        xy=stacked("xy", np.float64),
        yy=stacked("yy", np.float64),
        draws_xx=by_draw("draws_xx"),
        draws_xy=by_draw("draws_xy"),
        n_instruments=stacked("n_instruments", np.int64),
        left_out=left_out,
    )
