"""Output files: whole or not there, and only from the job that owns them.

A file is written under a temporary name and renamed when it is complete, so a reader sees all of it
or nothing.

On a cluster a job can be started again while its first run, which was thought dead, goes on: the
node had lost its network, the daemon that watches the job was killed, Snakemake itself was killed.
So a job leaves a mark where it can be found by its next run (:func:`own`). The latest run owns the
outputs; an earlier one finds another's mark before it writes or renames anything, and stops.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TEMPORARY = ".{name}.{unique}.tmp"
"""Name of an unfinished file, beside the file that it becomes."""

RESUME = ".resume"
"""Folder, beside tables or models, of what a job keeps to go on with when it is killed."""


class SupersededError(RuntimeError):
    """A later run of the same job owns its outputs; this one must not write them."""


@dataclass(frozen=True)
class _Mark:
    path: Path
    token: str

    def holder(self) -> str | None:
        """Return the token of the run that owns the job now."""
        try:
            return str(json.loads(self.path.read_text(encoding="utf-8"))["token"])
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return None


_own_mark: _Mark | None = None
"""This process's mark. A process runs one job, as it has one standard output."""


def own(path: Path) -> None:
    """Make this process the owner of a job's outputs, whoever owned them before.

    Parameters
    ----------
    path : Path
        The mark: the same for every run of the job, and of no other job. It says where the job
        runs, and is there as long as it does (and after it was killed).
    """
    global _own_mark
    _own_mark = _Mark(path, uuid.uuid4().hex)
    content = {
        "token": _own_mark.token,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _temporary(path)
    unfinished.write_text(json.dumps(content) + "\n", encoding="utf-8")
    unfinished.replace(path)


def disown() -> None:
    """Take this process's mark away, if it still is this process's."""
    global _own_mark
    if _own_mark is not None and _own_mark.holder() == _own_mark.token:
        _own_mark.path.unlink(missing_ok=True)
    _own_mark = None


def check_owner() -> None:
    """Refuse to go on when a later run of this job has begun.

    A process that owns no job, such as a notebook, may write what it likes.

    Raises
    ------
    SupersededError
        If the mark is another run's, or gone (the later run has ended).
    """
    if _own_mark is not None and _own_mark.holder() != _own_mark.token:
        raise SupersededError(
            f"a later run of this job has begun ({_own_mark.path} is no longer this run's); "
            "this one stops and writes nothing. Nothing needs to be done"
        )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` when the block succeeds.

    Parameters
    ----------
    path : path
        The final file; its folder is made.

    Yields
    ------
    Path
        Where to write. Nobody else uses this name. It is removed when the block raises; what a
        killed run of this job has left of the same file is removed first.

    Raises
    ------
    SupersededError
        If a later run of this job has begun, before the block or at its end.
    """
    path = Path(path)
    check_owner()
    path.parent.mkdir(parents=True, exist_ok=True)
    if _own_mark is not None:
        same = TEMPORARY.format(name=glob.escape(path.name), unique="*")
        for abandoned in path.parent.glob(same):
            abandoned.unlink(missing_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        check_owner()
        os.replace(temporary, path)  # noqa: PTH105 (Path.replace reads like str.replace)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(results: Path) -> None:
    """Remove what killed runs have left, when all is made and nobody writes any more.

    Parameters
    ----------
    results : Path
        Folder of the results: unfinished files below it go, and what jobs keep to go on with when
        they are killed (folders of the name `RESUME`).
    """
    for abandoned in results.rglob(TEMPORARY.format(name="*", unique="*")):
        abandoned.unlink(missing_ok=True)
    for kept in results.glob(f"*/{RESUME}"):
        shutil.rmtree(kept, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(TEMPORARY.format(name=path.name, unique=uuid.uuid4().hex))
