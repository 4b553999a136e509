"""Finished sequences of a shard, kept on disk until the shard is whole.

A shard may take hours, and its job may be killed: preempted, out of time, its node dead. Every so
often the sequences finished since the last time are written as a part, and the next run of the
job goes on behind them. When the shard is whole, its tables themselves are kept as one part (hard
links, no copies), until the workflow has succeeded: if Snakemake was killed meanwhile, it does not
know that the job has ended and starts it again, but then nothing is left to compute.

A part belongs to one identity: a hash of all that its numbers depend on. Parts of another identity
(another model, other draws, edited code) are never read, only removed.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from deepmr import outputs, tables

_NAME = re.compile(r"(?P<identity>[0-9a-f]+)\.(?P<start>\d+)-(?P<stop>\d+)\.references\.parquet")


class Parts:
    """The parts of one shard.

    Parameters
    ----------
    folder : path
        A folder for this shard alone.
    identity : str
        Hexadecimal digits that name all that the numbers depend on.

    Attributes
    ----------
    finished : int
        How many sequences are in parts, counted from the shard's first.
    """

    def __init__(self, folder: str | Path, identity: str) -> None:
        self._folder = Path(folder)
        self._identity = identity
        self._chain: list[tuple[int, int]] = []
        found = [_NAME.fullmatch(path.name) for path in self._paths()]
        if any(match is None or match["identity"] != identity for match in found):
            self._drop_others()
        own = [(int(m["start"]), int(m["stop"])) for m in found if m and m["identity"] == identity]
        # Longest first: two runs of the job, one thought dead, may have cut the same sequences
        # into parts differently. Their numbers are the same.
        for start, stop in sorted(own, key=lambda part: (part[0], -part[1])):
            if start == self.finished and self._whole(start, stop):
                self._chain.append((start, stop))

    @property
    def finished(self) -> int:
        """How many sequences are in parts, counted from the shard's first."""
        return self._chain[-1][1] if self._chain else 0

    def add(self, effects: pa.Table, references: pa.Table) -> None:
        """Keep the next sequences.

        Parameters
        ----------
        effects, references : pyarrow.Table
            Their rows; one row a sequence in `references`.
        """
        start, stop = self.finished, self.finished + references.num_rows
        tables.write_table(effects, self._path(start, stop, "effects"))
        # The references come second: a part counts when both are there.
        tables.write_table(references, self._path(start, stop, "references"))
        self._chain.append((start, stop))

    def effects(self) -> Iterator[pa.Table]:
        """Yield the effects of the parts, in the order of the sequences."""
        return (tables.read_table(self._path(*part, "effects")) for part in self._chain)

    def references(self) -> Iterator[pa.Table]:
        """Yield the references of the parts, in the order of the sequences."""
        return (tables.read_table(self._path(*part, "references")) for part in self._chain)

    def keep_whole(self, effects: str | Path, references: str | Path) -> None:
        """Keep the shard's finished tables, under a second name, in place of the parts.

        Parameters
        ----------
        effects, references : path
            The tables. On a file system without hard links nothing is kept.
        """
        outputs.check_owner()
        if not self._chain:
            return
        whole = (0, self.finished)
        kept = {
            self._path(*whole, "effects"): effects,
            self._path(*whole, "references"): references,
        }
        for path, table in kept.items():
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.hardlink_to(table)
        for path in self._folder.iterdir():
            if path not in kept:
                path.unlink(missing_ok=True)
        self._chain = [whole]

    def remove(self) -> None:
        """Delete all parts."""
        outputs.check_owner()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        # Each part by its references; without them, effects are no part.
        return sorted(self._folder.glob("*.references.parquet"))

    def _path(self, start: int, stop: int, kind: str) -> Path:
        return self._folder / f"{self._identity}.{start:09d}-{stop:09d}.{kind}.parquet"

    def _whole(self, start: int, stop: int) -> bool:
        try:
            kept = tables.read_table(self._path(start, stop, "references"), ["sequence_id"])
            tables.read_table(self._path(start, stop, "effects"), ["position"])
        except (FileNotFoundError, tables.DamagedTableError):
            return False
        return kept.num_rows == stop - start

    def _drop_others(self) -> None:
        outputs.check_owner()
        for path in self._folder.iterdir():
            if not path.name.startswith(f"{self._identity}."):
                path.unlink(missing_ok=True)
