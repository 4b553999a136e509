"""Progress of a long loop, with the time left, on a terminal and in a job's log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def track(
    items: Iterable[T], total: int, description: str, unit: str = "it", *, done: int = 0
) -> Iterator[T]:
    """Yield the items and show how many are done and when the rest will be.

    On a terminal the line is redrawn; in a log file a new line is written at most every 30 s,
    so that a log stays short and `tail` shows where the job is.

    Parameters
    ----------
    items : iterable
        What to loop over.
    total : int
        Number of items, with those done before.
    description, unit : str
        What is counted.
    done : int
        How many were done before, by a run that was killed.

    Yields
    ------
    object
        The items, unchanged.
    """
    terminal = sys.stderr.isatty()
    bar = tqdm(
        items,
        total=total,
        initial=done,
        desc=description,
        unit=unit,
        mininterval=0.5 if terminal else 30.0,
        ascii=not terminal,
        dynamic_ncols=terminal,
        file=sys.stderr if terminal else _LineWriter(),
    )
    yield from bar


class _LineWriter:
    """Write each redraw of a bar as a line of its own."""

    def write(self, text: str) -> int:
        stripped = text.strip("\r\n ")
        if stripped:
            sys.stderr.write(stripped + "\n")
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()
