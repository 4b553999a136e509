"""Which shard a sequence belongs to: a stable hash of its id, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

_SCATTER_ITEM = re.compile(r"(\d+)-of-(\d+)")


def shard_of(sequence_id: str, shards: int) -> int:
    """Return the shard, 1 to `shards`, of a sequence.

    The hash is the same on every machine and in every Python, so a sequence's shard depends on its
    id and the number of shards only.
    """
    digest = hashlib.blake2b(sequence_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % shards + 1


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
    match = _SCATTER_ITEM.fullmatch(scatteritem)
    if match is None:
        raise ValueError(f"{scatteritem!r} is no shard name; write it like '3-of-7'")
    shard, shards = int(match[1]), int(match[2])
    return [row for row, name in enumerate(sequence_ids) if shard_of(name, shards) == shard]
