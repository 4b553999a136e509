"""Runs that do not get in each other's way, and so go on at the same time: they mostly wait.

Each returns what a test looks at besides the tables.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.slurm import toy
from tests.slurm.runs import TARGET, Run

FAIL, CANCEL, LATE, EAT = 1, 2, 3, 4


def four_faults(run: Run) -> dict[int, list[dict]]:
    toy.order(run.folder, FAIL, "fail", 3)
    cancelled = toy.order(run.folder, CANCEL, "wait", 2)
    toy.order(run.folder, LATE, "wait", 4)
    toy.order(run.folder, EAT, "eat", 1)
    # Limits that the two can reach; the rules' own grow with the attempt in the same way. On a busy
    # machine the others need more than a minute to come to their faults.
    limits = ("mutagenesis:runtime=3*attempt", "mutagenesis:mem_mb=1500*attempt")
    # On the command line they take the place of the profile's, the partition too.
    limits = (*limits, "mutagenesis:slurm_partition=gpu")
    snakemake = run.start(TARGET, "--set-resources", *limits)
    run.wait_until(lambda: cancelled.waits, "shard that waits")
    run.cluster.run("scancel", run.jobs(shard=CANCEL)[0]["id"])
    run.finish(snakemake)
    return {shard: run.jobs(shard=shard) for shard in (FAIL, CANCEL, LATE, EAT)}


def full_disk(run: Run) -> str:
    """The shards' file system fills up, and is cleared when the first job has failed of it."""
    small = run.folder / "results" / "effects"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        filler = small / "filler"
        filler.write_bytes(bytes(4 * 2**20 - 2**15))
        snakemake = run.start(TARGET)
        run.wait_until(lambda: "No space left on device" in run.said(), "full disk")
        filler.unlink()
        run.finish(snakemake)
        # The tables must outlive the file system.
        kept = run.folder / "kept"
        subprocess.run(["cp", "-a", f"{small}/.", str(kept)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
    small.rmdir()
    kept.rename(small)
    return run.said()


def delayed_file(run: Run) -> str:
    """A finished table is not seen for some seconds, as on a network file system."""
    table = run.folder / "results" / "effects" / "model=mine" / "1-of-4.parquet"
    hidden = run.folder / "hidden"
    snakemake = run.start(TARGET)
    for _ in ("the job's Snakemake", "the main one"):
        run.wait_until(table.exists, "table of shard 1")
        table.rename(hidden)
        time.sleep(6)
        hidden.rename(table)
        time.sleep(1)
    run.finish(snakemake)
    return run.said()


def snakemake_killed(run: Run) -> dict[str, int]:
    """Killed outright with two jobs at work, one of which ends before the same command comes."""
    stuck = toy.order(run.folder, 1, "wait", 3)
    orphan = toy.order(run.folder, 2, "wait", 3)
    snakemake = run.start(TARGET)
    done = run.folder / "results" / "effects" / "model=mine" / "3-of-4.parquet"
    run.wait_until(lambda: stuck.waits and orphan.waits and done.exists(), "two waiting shards")
    os.kill(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    orphan.let_go()
    run.wait_until(lambda: run.jobs(shard=2)[0]["state"] == "COMPLETED", "end of the orphan")
    run.finish(run.start(TARGET))
    return dict(toy.computed(run.folder))


def shipped_example(run: Run) -> list[dict]:
    """The shipped example, from nothing to the report."""
    run.finish(run.start())
    return [job for job in run.cluster.jobs() if job["folder"] == str(run.folder)]
