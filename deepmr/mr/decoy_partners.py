"""Whose effects on the exposure a decoy takes: every sequence gets another one as its partner."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pyarrow as pa

Window = tuple[str | None, int | None, int | None]
"""Chromosome, start and end; None where a sequence comes from no genome."""


def partners(windows: pa.Table, exposure: str, seed: int, count: int) -> dict[str, str]:
    """Pair each of some sequences with another, in a cycle.

    The sequences are put in the order of a hash of seed, exposure and id, and the first `count`
    taken; each is paired with the next, the last with the first. Windows that overlap share
    motifs, and a decoy of two such is none: where neighbours in the cycle overlap on the genome,
    one of them changes its place with the first that makes fewer do so.

    Parameters
    ----------
    windows : pyarrow.Table
        Columns ``sequence_id``, ``chrom``, ``start`` and ``end`` of the sequences sampled for the
        exposure, in any order.
    exposure : str
        Its name.
    seed : int
        Seed of the run.
    count : int
        How many sequences to take, 2 or more.

    Returns
    -------
    dict of str to str
        The partner of each sequence that is taken, in the order of the cycle: a function of the
        set of sequences alone. No sequence is its own partner; with fewer than two there is none,
        and the result is empty.

    Raises
    ------
    ValueError
        If `count` is below 2 or a sequence stands twice.
    """
    if count < 2:
        raise ValueError(f"mr.decoy_sequences must be 2 or more; found {count}")
    names = windows["sequence_id"].to_pylist()
    if len(set(names)) < len(names):
        raise ValueError("a sequence stands twice in the sequences table; make it again")
    columns = (windows[column].to_pylist() for column in ("chrom", "start", "end"))
    window_of = dict(zip(names, zip(*columns, strict=True), strict=True))
    cycle = sorted(names, key=lambda name: (_hash(seed, exposure, name), name))[:count]
    if len(cycle) < 2:
        return {}
    _separate(cycle, window_of)
    return {name: cycle[(i + 1) % len(cycle)] for i, name in enumerate(cycle)}


def overlap(first: Window, second: Window) -> bool:
    """Whether two windows share a base; False where one has no place on a genome."""
    if None in first or None in second or first[0] != second[0]:
        return False
    (_, start, end), (_, other_start, other_end) = first, second
    return bool(start < other_end and other_start < end)  # type: ignore[operator]


def _hash(seed: int, exposure: str, name: str) -> bytes:
    text = "\n".join((str(seed), exposure, name))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _separate(cycle: list[str], window_of: Mapping[str, Window]) -> None:
    """Exchange places in the cycle as long as that makes fewer neighbours overlap."""
    n = len(cycle)

    def overlaps(*places: int) -> int:
        links = {k % n for place in places for k in (place - 1, place)}
        return sum(overlap(window_of[cycle[k]], window_of[cycle[(k + 1) % n]]) for k in links)

    def exchanged(one: int, other: int) -> bool:
        before = overlaps(one, other)
        cycle[one], cycle[other] = cycle[other], cycle[one]
        if overlaps(one, other) < before:
            return True
        cycle[one], cycle[other] = cycle[other], cycle[one]
        return False

    k = 0
    while k < n:
        after = (k + 1) % n
        crowded = overlap(window_of[cycle[k]], window_of[cycle[after]])
        # Begin again after an exchange: it may make room for a pair that nothing helped before.
        moved = crowded and any(exchanged(one, other) for one in (after, k) for other in range(n))
        k = 0 if moved else k + 1
