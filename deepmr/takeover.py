"""Take over from a Snakemake that was killed outright: its lock on the folder, and its jobs.

Snakemake locks its working directory with files, which a killed one leaves behind; then the same
command would refuse to start until somebody types ``--unlock``. So the main process of this
workflow also holds a lock of the operating system, which ends with the process however it ends:
who gets that lock knows that nobody else is at work here, and may remove what the files say.

The SLURM jobs of a killed Snakemake go on, and new ones still start. None of them is known to the
new Snakemake, which submits its own; so they are cancelled first. What they have finished is kept:
whole shards, and the parts of unfinished ones.

Only the standard library is imported here, because every job parses the Snakefile again.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import subprocess
import time
from pathlib import Path

_SNAKEMAKE = ".snakemake"
_LOCK = "deepmr.lock"
_PATIENCE_S = 60.0

_held: int | None = None
"""The open lock, kept until the process ends."""


class TakeoverError(RuntimeError):
    """Jobs of an earlier run cannot be found or do not end."""


def hold(folder: Path) -> str | None:
    """Hold this workflow's lock on a working directory, and remove what a killed run left locked.

    Parameters
    ----------
    folder : Path
        Snakemake's working directory.

    Returns
    -------
    str or None
        What the user should know: that a killed run's lock was removed, or that the file system
        knows no locks, so that this cannot be told. None where all is well, and where another run
        is at work: Snakemake itself says so.
    """
    global _held
    state = folder / _SNAKEMAKE
    state.mkdir(exist_ok=True)
    handle = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    while True:
        # Before the try: a run that has just begun holds our lock before it writes Snakemake's.
        locks = list((state / "locks").glob("*.lock"))
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if locks:
                os.close(handle)
                return None
            time.sleep(0.2)  # a dry run, or one that is still reading the Snakefile
            continue
        except OSError as error:  # Lustre without -o flock, for one
            os.close(handle)
            return (
                f"{folder} is on a file system without locks ({error.strerror}), so a run that was "
                "killed cannot be told from one at work: should Snakemake call the folder locked, "
                "see that no other run is there, and type the same command with --unlock"
            )
        _held = handle
        locks = list((state / "locks").glob("*.lock"))
        for lock in locks:
            lock.unlink(missing_ok=True)
        return "an earlier run was killed; this one takes over from it" if locks else None


def cancel_jobs(folder: Path) -> list[str]:
    """Cancel the SLURM jobs that an earlier Snakemake started in this folder, and wait for it.

    Parameters
    ----------
    folder : Path
        Snakemake's working directory; the caller holds it (:func:`hold`).

    Returns
    -------
    list of str
        The ids of the jobs.

    Raises
    ------
    TakeoverError
        If SLURM cannot be asked, or the jobs are still there after a minute.
    """
    cancelled = _jobs(folder)
    if not cancelled:
        return []
    _slurm("scancel", *cancelled)
    deadline = time.monotonic() + _PATIENCE_S
    while left := _jobs(folder):
        if time.monotonic() > deadline:
            raise TakeoverError(
                f"SLURM jobs {', '.join(left)} of an earlier run in {folder} do not end; "
                f"wait until they have, or run `scancel {' '.join(left)}`, then run again"
            )
        time.sleep(1.0)
    return cancelled


def _jobs(folder: Path) -> list[str]:
    """Return the ids of unfinished jobs that the SLURM plugin has submitted from the folder."""
    listing = _slurm("squeue", f"--user={getpass.getuser()}", "--noheader", "--format=%i|%k|%Z")
    rows = [line.split("|", 2) for line in listing.splitlines()]
    return [
        job
        for job, comment, where in (row for row in rows if len(row) == 3)
        if comment.startswith(("rule_", "group_")) and Path(where) == folder
    ]


def _slurm(program: str, *arguments: str) -> str:
    if shutil.which(program) is None:
        raise TakeoverError(f"{program} is not on the PATH; start the workflow where SLURM is")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise TakeoverError(
            f"`{program}` failed ({done.stderr.strip()}), so jobs of an earlier run in this folder "
            "cannot be found; run again when SLURM answers"
        )
    return done.stdout
