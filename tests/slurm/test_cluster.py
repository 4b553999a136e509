"""The test cluster does what a real one does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import ENDED, Cluster, available

HOLD = "python3 -c 'import time; hold = bytearray({mb} * 1_000_000); time.sleep(60)'"


@pytest.fixture(scope="module", autouse=True)
def overdue(cluster: Cluster) -> str:
    """A job that must end by its time limit; a limit is at least a minute, so start it first."""
    return cluster.submit("sleep 600", "--time=1")


def ended(cluster: Cluster, job: str, seconds: float = 30) -> dict:
    cluster.wait_until(
        lambda: cluster.job(job)["state"] in ENDED, seconds=seconds, what=f"end of job {job}"
    )
    return cluster.job(job)


def running(cluster: Cluster, job: str, seconds: float = 30) -> dict:
    cluster.wait_until(
        lambda: cluster.job(job)["state"] == "RUNNING", seconds=seconds, what=f"start of job {job}"
    )
    return cluster.job(job)


def text(row: dict) -> str:
    return Path(row["log"]).read_text()


def test_a_job_runs_on_each_partition_as_it_asks(cluster: Cluster) -> None:
    options = ("--account=default", "--time=30", "--mem=1536", "--cpus-per-task=8")
    jobs = {
        partition: cluster.submit("echo $SLURMD_NODENAME; squeue --me", f"-p{partition}", *options)
        for partition in ("gpu", "cpu")
    }
    for partition, job in jobs.items():
        row = ended(cluster, job)
        assert row["state"] == "COMPLETED"
        assert (row["minutes"], row["memory_mb"], row["cpus"], row["gpus"]) == (30, 1536, 8, 0)
        assert row["partition"] == partition
        assert text(row).startswith(row["nodes"])
        # A job finds the cluster's commands.
        assert f" {job} " in text(row)


def test_two_jobs_on_a_node_see_different_gpus(cluster: Cluster) -> None:
    command = "echo gpu $CUDA_VISIBLE_DEVICES; srun -n1 sleep 1"
    jobs = [cluster.submit(command, "-pgpu", "-wgpu1", "--gpus=1") for _ in range(2)]
    rows = [ended(cluster, job) for job in jobs]
    assert {text(row) for row in rows} == {"gpu 0\n", "gpu 1\n"}
    assert [row["gpus"] for row in rows] == [1, 1]


def test_a_text_with_spaces_is_read_back(cluster: Cluster) -> None:
    job = cluster.submit("true", "--comment=rule_a JobState=x y")
    assert ended(cluster, job)["comment"] == "rule_a JobState=x y"


def test_more_memory_than_asked_for_is_killed(cluster: Cluster) -> None:
    job = cluster.submit(HOLD.format(mb=400), "--mem=200")
    step = cluster.submit("srun -n1 " + HOLD.format(mb=400), "--mem=200")
    fits = cluster.submit(HOLD.format(mb=400).replace("60", "3"), "--mem=600")
    for failed in (job, step):
        row = ended(cluster, failed)
        assert row["state"] == "FAILED"
        assert "exceeded memory limit" in text(row)
    assert ended(cluster, fits)["state"] == "COMPLETED"


def test_cpu_seconds_are_those_of_batch_and_step(cluster: Cluster) -> None:
    burn = cluster.folder / "jobs" / "burn.py"
    burn.write_text("import time\nwhile time.process_time() < 1: pass\n")
    job = cluster.submit(f"python3 {burn}; srun -n1 sh -c 'python3 {burn}; true'; sleep 1")
    ended(cluster, job)
    assert cluster.cpu_seconds()[job] == pytest.approx(2.1, abs=0.15)


def test_a_job_survives_the_controller(cluster: Cluster) -> None:
    job = cluster.submit("sleep 3; echo over")
    running(cluster, job)
    cluster.stop_controller()
    with pytest.raises(RuntimeError, match="Unable to contact slurm controller"):
        cluster.jobs()
    cluster.start_controller()
    row = ended(cluster, job)
    assert (row["state"], row["restarts"], text(row)) == ("COMPLETED", 0, "over\n")


def test_a_dead_node_gives_its_jobs_back(cluster: Cluster) -> None:
    ran = cluster.folder / "jobs" / "ran"
    again = cluster.submit(f"sleep 15; echo run $SLURM_RESTART_COUNT >>{ran}", "-pgpu", "--requeue")
    once = cluster.submit("sleep 15", "-pgpu", "--no-requeue")
    node = running(cluster, once)["nodes"]
    assert running(cluster, again)["nodes"] == node
    cluster.kill_node(node)
    cluster.notice_dead_node(node)
    assert cluster.job(once)["state"] == "NODE_FAIL"
    assert cluster.job(again)["restarts"] == 1
    assert running(cluster, again)["nodes"] != node
    # What the node was doing went on, though nobody asked for it any more.
    assert ended(cluster, again)["state"] == "COMPLETED"
    assert ran.read_text() == "run\nrun 1\n"
    cluster.start_node(node)
    cluster.wait_until(lambda: cluster.node_states()[node] == "IDLE", seconds=30, what="node")


def test_too_long_a_job_is_ended(cluster: Cluster, overdue: str) -> None:
    row = ended(cluster, overdue, 120)
    assert (row["state"], row["minutes"]) == ("TIMEOUT", 1)


def test_nothing_is_left() -> None:
    with Cluster() as cluster:
        # A job that forgets where it came from.
        cluster.submit("env -i /bin/sleep 1000; true")
        cluster.wait_until(lambda: len(cluster.job_processes()) == 3, seconds=30, what="job")
        processes = cluster.job_processes()
    assert not cluster.folder.exists()
    deadline = time.monotonic() + 5
    while any(is_alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(process) for process in processes)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    # Some containers' first process buries nobody.
    return state != "Z"


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.slurm.cluster._system_path", lambda: os.devnull)
    assert "slurmctld" in (available() or "")
