"""Which positions of a window meet which elements of a kernel, and what of it is in the layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from deepmr.mutagenesis.local.geometry import Group, Look, Piece, Sliding, looks

Tap = tuple[int, int, tuple[int, ...]]
"""A position of the window, the first output that it reaches, and the elements by output."""


@dataclass(frozen=True)
class Part:
    """A piece of the convolution, how it is computed, and its weights."""

    piece: Piece
    source: Group
    target: Group
    method: str
    taps: tuple[Tap, ...]
    looks: tuple[Look, ...]
    pads: tuple[int, int]


@dataclass(frozen=True)
class Run:
    """Neighbouring m, and which parts of their windows lie within the layers."""

    rows: slice
    inputs: slice
    outputs: slice


def _clip(begin: int, width: int, size: int) -> slice:
    """Return the part of a window that lies within [0, size)."""
    return slice(min(width, max(0, -begin)), max(0, min(width, size - begin)))


def clear_others(made: Tensor, runs: Sequence[Run]) -> None:
    """Set to zero the m that belong to no run."""
    begin = 0
    for run in runs:
        made[begin : run.rows.start].zero_()
        begin = run.rows.stop
    made[begin:].zero_()


@dataclass(frozen=True)
class Step:
    """A tap within a run: elements from output `first` on, of which [low, high) are inside."""

    place: int
    first: int
    elements: tuple[int, ...]
    low: int
    high: int


def clipped(taps: Sequence[Tap], run: Run) -> list[Step]:
    """Return the taps of a run, without what lies beyond the layers' ends."""
    steps = []
    for place, first, elements in taps:
        low = max(first, run.outputs.start)
        high = min(first + len(elements), run.outputs.stop)
        if run.inputs.start <= place < run.inputs.stop and low < high:
            steps.append(Step(place, first, elements, low, high))
    return steps


def find_part(window: Sliding, piece: Piece, source: Group, target: Group) -> Part:
    """Return what a piece of a sliding product is made of; its method is still to be chosen."""
    seen = looks(window, piece, source.width, target)
    places: dict[int, list[tuple[int, int]]] = {}
    for look in seen:
        outputs = range(look.outputs.start, look.outputs.stop)
        inputs = range(look.inputs.start, look.inputs.stop, look.inputs.step or 1)
        for output, place in zip(outputs, inputs, strict=False):
            places.setdefault(place, []).append((output, look.element))
    taps: list[Tap] = []
    for place, pairs in sorted(places.items()):
        run: list[tuple[int, int]] = []
        for pair in sorted(pairs):
            if run and pair[0] != run[-1][0] + 1:
                taps.append((place, run[0][0], tuple(e for _, e in run)))
                run = []
            run.append(pair)
        taps.append((place, run[0][0], tuple(e for _, e in run)))
    # Zeros from the first output's first input on, to the last output's last.
    first = target.start * window.stride - window.padding
    last = (target.stop - 1) * window.stride - window.padding
    pads = (piece.start - first, last + window.reach - (piece.start + source.width - 1))
    return Part(piece, source, target, "", tuple(taps), tuple(seen), pads)


def runs_of(part: Part, first: int, count: int, inputs: int, outputs: int) -> list[Run]:
    """Return runs of m whose windows lie alike in the layers, clipped at their ends.

    Parameters
    ----------
    part : Part
        Whose windows.
    first, count : int
        The m of a block.
    inputs, outputs : int
        Positions of the layers.
    """
    begin = part.piece.start + part.piece.step * first
    runs: list[Run] = []
    for m in range(count):
        seen = _clip(begin + part.piece.step * m, part.source.width, inputs)
        made = _clip(part.target.start + first + m, part.target.width, outputs)
        if seen.start >= seen.stop or made.start >= made.stop:
            continue
        last = runs[-1] if runs else None
        if last and (last.inputs, last.outputs, last.rows.stop) == (seen, made, m):
            runs[-1] = replace(last, rows=slice(last.rows.start, m + 1))
            continue
        runs.append(Run(slice(m, m + 1), seen, made))
    return runs
