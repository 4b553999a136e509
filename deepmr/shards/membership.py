"""Which sequences a job takes: its shard's, or a few of all; by a stable hash of their ids."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

MOST_MR_JOBS = 200
"""MR takes a shard far less time than mutagenesis, and every job costs some 5 CPU seconds to start:
however many mutagenesis shards there are, MR is not cut finer than this."""

_SCATTER_ITEM = re.compile(r"(\d+)-of-(\d+)")


def shard_of(sequence_id: str, shards: int) -> int:
    """Return the shard, 1 to `shards`, of a sequence.

    The hash is the same on every machine and in every Python, so a sequence's shard depends on its
    id and the number of shards only.
    """
    digest = hashlib.blake2b(sequence_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards + 1


def choose(sequence_ids: Sequence[str], number: int) -> list[int]:
    """Return the rows of `number` sequences (all, if there are fewer), in their order.

    The choice depends on the ids alone: those whose hash is least.
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in sequence_ids]
    ranked = sorted(range(len(sequence_ids)), key=lambda row: (digests[row], sequence_ids[row]))
    return sorted(ranked[:number])


def members(sequence_ids: Iterable[str], scatteritem: str) -> list[int]:
    """Return the row numbers of the sequences that belong to a shard.

    Parameters
    ----------
    sequence_ids : iterable of str
        Ids of all sequences.
    scatteritem : str
        Snakemake's name of the shard, such as ``"3-of-7"``.

    Returns
    -------
    list of int
        Row numbers in the order given; empty when no sequence falls into the shard.

    Raises
    ------
    ValueError
        If `scatteritem` is no such name.
    """
    shard, shards = _parse(scatteritem)
    return [row for row, name in enumerate(sequence_ids) if shard_of(name, shards) == shard]


def shard_tables(folder: str, shards: int) -> list[str]:
    """Return the tables of all shards below a folder, in order."""
    return [f"{folder}/{shard}-of-{shards}.parquet" for shard in range(1, shards + 1)]


def mr_jobs(shards: int) -> int:
    """Return how many MR jobs a model gets when its sequences are in so many shards."""
    return min(shards, MOST_MR_JOBS)


def shards_of_mr_job(scatteritem: str, shards: int) -> list[str]:
    """Return the mutagenesis shards whose sequences an MR job takes.

    Parameters
    ----------
    scatteritem : str
        Name of the MR job, such as ``"3-of-200"``: one of :func:`mr_jobs` of them.
    shards : int
        Number of mutagenesis shards.

    Returns
    -------
    list of str
        Their names: every 200th, ``["3-of-5000", "203-of-5000", …]``; with 200 shards or fewer,
        the one of the same name. Each shard is in exactly one job.

    Raises
    ------
    ValueError
        If `scatteritem` is no such name, or not a job of a run with so many shards.
    """
    job, jobs = _parse(scatteritem)
    if jobs != mr_jobs(shards) or not 1 <= job <= jobs:
        raise ValueError(
            f"{scatteritem!r} is no MR job of a run with {shards} shards; "
            f"they are '1-of-{mr_jobs(shards)}' to '{mr_jobs(shards)}-of-{mr_jobs(shards)}'"
        )
    return [f"{shard}-of-{shards}" for shard in range(job, shards + 1, jobs)]


def _parse(scatteritem: str) -> tuple[int, int]:
    match = _SCATTER_ITEM.fullmatch(scatteritem)
    if match is None:
        raise ValueError(f"{scatteritem!r} is no shard name; write it like '3-of-7'")
    return int(match[1]), int(match[2])
