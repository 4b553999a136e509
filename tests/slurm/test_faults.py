"""Whatever happens on the cluster, the tables are those of a run that nothing disturbed.

Faults are made by a network that does harm on order (tests/slurm/toy.py) and by this file, which
kills what a cluster loses: jobs, daemons, Snakemake. Only what was lost is computed again.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.slurm import toy
from tests.slurm.runs import TARGET, Run, final_tables
from tests.slurm.scenarios import CANCEL, EAT, FAIL, LATE


@pytest.fixture
def sizes(toy_base) -> dict[str, int]:
    return toy_base[1]


def assert_as_undisturbed(run: Run, undisturbed) -> None:
    found = final_tables(run.folder)
    assert found.keys() == undisturbed.keys()
    for name, table in undisturbed.items():
        assert found[name].equals(table), name
    assert run.unfinished_files() == []


# --- Faults of single jobs, Snakemake and disks ---------------------------------------------------


def test_four_faults_leave_the_tables_as_they_should_be(side_by_side, undisturbed):
    run, done = side_by_side["four_faults"]
    done.result()
    assert_as_undisturbed(run, undisturbed)


@pytest.mark.parametrize(
    ("shard", "state"),
    [
        pytest.param(FAIL, "FAILED", id="exit 1"),
        pytest.param(CANCEL, "CANCELLED", id="scancel"),
        pytest.param(LATE, "TIMEOUT", id="time limit"),
        # Where cgroups watch the memory, it is OUT_OF_MEMORY.
        pytest.param(EAT, "FAILED", id="memory limit"),
    ],
)
def test_failed_job_is_retried_larger_and_goes_on(side_by_side, sizes, shard, state):
    run, done = side_by_side["four_faults"]
    first, second = done.result()[shard]
    assert first["state"] == state
    assert second["state"] == "COMPLETED"
    assert second["memory_mb"] == 2 * first["memory_mb"] == 3000
    assert second["minutes"] == 2 * first["minutes"] == 6
    assert first["gpus"] == second["gpus"] == 1
    # What is computed again is at most what the killed job had in hand and not yet saved.
    twice = toy.computed(run.folder)[f"{shard}-of-4"] - sizes[f"{shard}-of-4"]
    assert 0 <= twice <= 2


def test_job_over_its_memory_was_killed_for_it(side_by_side):
    _, done = side_by_side["four_faults"]
    log = Path(done.result()[EAT][0]["log"])
    assert "exceeded memory limit" in log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system that is full needs root to mount it")
def test_full_disk(side_by_side, undisturbed):
    run, done = side_by_side["full_disk"]
    assert "No space left on device" in done.result()
    assert_as_undisturbed(run, undisturbed)


def test_table_that_appears_late_is_waited_for(side_by_side, undisturbed):
    run, done = side_by_side["delayed_file"]
    assert len(done.result()) > 0
    assert len(run.jobs()) == toy.SHARDS
    assert_as_undisturbed(run, undisturbed)


def test_same_command_after_snakemake_was_killed(side_by_side, undisturbed, sizes):
    run, done = side_by_side["snakemake_killed"]
    # Nothing twice: shard 1 goes on behind its third sequence, and shard 2 was finished by the
    # orphaned job, of which the killed Snakemake never heard.
    assert sum(done.result().values()) - sum(sizes.values()) <= 1
    assert "Cancelled SLURM job" in run.said()
    assert [job["state"] for job in run.jobs(shard=1)] == ["CANCELLED", "COMPLETED"]
    assert len(run.jobs(shard=3)) == 1
    assert_as_undisturbed(run, undisturbed)


# --- Faults of the cluster: one after the other ---------------------------------------------------


def test_controller_restarted(new_run, cluster, undisturbed, sizes):
    run = new_run("controller")
    waiting = toy.order(run.folder, 1, "wait", 3)
    snakemake = run.start(TARGET)
    run.wait_until(lambda: waiting.waits, "shard that waits")
    # What was submitted last is on slurmctld's disk.
    run.wait_until(lambda: len(run.jobs("estimate_mr")) == toy.SHARDS - 1, "MR of the others")
    cluster.stop_controller()
    time.sleep(15)
    cluster.start_controller()
    waiting.let_go()
    run.finish(snakemake)
    assert len(run.jobs()) == toy.SHARDS
    assert toy.computed(run.folder) == sizes
    assert_as_undisturbed(run, undisturbed)


@dataclass(frozen=True)
class Stray:
    """A job whose node is thought dead and that goes on, and the next run of the same job."""

    snakemake: subprocess.Popen
    orphan: toy.Order
    replacement: toy.Order
    pid: int

    @property
    def at_large(self) -> bool:
        return Path(f"/proc/{self.pid}").exists()


@contextmanager
def dead_node(run: Run, *arguments: str) -> Iterator[Stray]:
    """Kill the daemon of a node on which a shard waits, until the shard's next run waits too.

    The node comes back at the end: SLURM would then kill what still runs there.
    """
    orphan = toy.order(run.folder, 1, "wait", 3, "orphan")
    snakemake = run.start(TARGET, *arguments)
    run.wait_until(lambda: orphan.waits and len(run.jobs("estimate_mr")) == 3, "orphan")
    replacement = toy.order(run.folder, 1, "wait", 1, "replacement")
    event = next(event for event in toy.seen(run.folder) if event["shard"] == "1-of-4")
    run.cluster.kill_node(event["node"])
    run.cluster.notice_dead_node(event["node"])
    try:
        run.wait_until(lambda: replacement.waits, "replacement")
        yield Stray(snakemake, orphan, replacement, int(event["pid"]))
    finally:
        run.cluster.start_node(event["node"])
        run.wait_until(lambda: run.cluster.node_states()[event["node"]] == "IDLE", "node")


def test_dead_node_requeued_and_the_orphan_writes_on(new_run, undisturbed, sizes):
    run = new_run("requeue")
    with dead_node(run) as stray:
        # The orphan wakes up while its replacement is at work. It computes a sequence or two more,
        # finds when it saves them that it is superseded, and ends.
        assert stray.at_large
        stray.orphan.let_go()
        run.wait_until(lambda: not stray.at_large, "end of the orphan")
        assert run.jobs(shard=1)[0]["state"] == "RUNNING"
        stray.replacement.let_go()
        run.finish(stray.snakemake)
    (job,) = run.jobs(shard=1)  # the same job, started again by SLURM
    assert job["restarts"] == 1
    assert 1 <= toy.computed(run.folder)["1-of-4"] - sizes["1-of-4"] <= 3
    assert_as_undisturbed(run, undisturbed)


def test_dead_node_not_requeued_and_the_orphan_ends_last(new_run, undisturbed, sizes):
    run = new_run("no-requeue")
    profile = run.folder / "profiles" / "slurm" / "config.yaml"
    settings = yaml.safe_load(profile.read_text())
    del settings["slurm-requeue"]
    profile.write_text(yaml.safe_dump(settings | {"slurm-no-requeue": True}))
    with dead_node(run) as stray:
        stray.replacement.let_go()
        run.finish(stray.snakemake)
        # Now that all is done the orphan wakes up, finds itself superseded and fails: its
        # Snakemake must not take the outputs, which are another's, for its own and remove them.
        assert stray.at_large
        stray.orphan.let_go()
        run.wait_until(lambda: not stray.at_large, "end of the orphan")
        first, second = run.jobs(shard=1)
        run.wait_until(lambda: not processes_of(run, first["id"]), "end of the orphan's Snakemake")
    assert first["state"] == "NODE_FAIL"
    assert second["state"] == "COMPLETED"
    assert second["memory_mb"] == 2 * first["memory_mb"]
    assert 1 <= toy.computed(run.folder)["1-of-4"] - sizes["1-of-4"] <= 3
    assert_as_undisturbed(run, undisturbed)


def processes_of(run: Run, job: str) -> list[int]:
    """Processes of a job's Snakemake and script, not those of SLURM that watch them."""
    found = []
    for pid in run.cluster.job_processes():
        try:
            process = Path(f"/proc/{pid}")
            of_job = f"SLURM_JOB_ID={job}\0".encode() in (process / "environ").read_bytes()
            if of_job and b"snakemake" in (process / "cmdline").read_bytes():
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found
