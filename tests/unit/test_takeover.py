from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepmr import takeover
from tests.unit.test_config import ROOT


@pytest.fixture(autouse=True)
def nothing_is_held():
    yield
    if takeover._held is not None:
        os.close(takeover._held)
        takeover._held = None


def lock_as_snakemake(folder: Path) -> Path:
    lock = folder / ".snakemake" / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("results/mr.parquet\n")
    return lock


def test_first_run_finds_nothing_to_take_over(tmp_path):
    assert takeover.hold(tmp_path) is None


def test_lock_of_a_killed_run_is_removed(tmp_path):
    lock = lock_as_snakemake(tmp_path)
    assert "takes over" in takeover.hold(tmp_path)
    assert not lock.exists()


HOLD = """
import sys
from pathlib import Path
from deepmr import takeover
takeover.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder, until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_lock_of_a_run_at_work_is_left_alone(tmp_path, other):
    lock = lock_as_snakemake(tmp_path)
    assert takeover.hold(tmp_path) is None
    assert lock.exists()


def test_killed_holder_holds_no_more(tmp_path, other):
    lock = lock_as_snakemake(tmp_path)
    other.kill()
    other.wait()
    assert "takes over" in takeover.hold(tmp_path)
    assert not lock.exists()


def test_dry_run_is_waited_for(tmp_path, other, monkeypatch):
    waited = []

    def end_it(seconds):
        waited.append(seconds)
        other.kill()
        other.wait()

    monkeypatch.setattr(takeover.time, "sleep", end_it)
    assert takeover.hold(tmp_path) is None
    assert len(waited) == 1


def test_file_system_without_locks(tmp_path, monkeypatch):
    lock = lock_as_snakemake(tmp_path)

    def flock(handle, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(takeover.fcntl, "flock", flock)
    assert "--unlock" in takeover.hold(tmp_path)
    assert lock.exists()


SQUEUE = """#!/bin/sh
echo "$@" >> {folder}/asked
[ -e {folder}/down ] && {{ echo "slurm_load_jobs error: Unable to contact" >&2; exit 1; }}
[ -e {folder}/cancelled ] && exit 0
echo "11|rule_mutagenesis_wildcards_cnn_1-of-4|{work}"
echo "12|rule_mutagenesis_wildcards_cnn_2-of-4|{work}/elsewhere"
echo "13|my own job|{work}"
echo "14|rule_estimate_mr|{work}"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs that answer as SLURM does."""
    folder, work = tmp_path / "slurm", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    programs = {
        "squeue": SQUEUE.format(folder=folder, work=work),
        "scancel": f'#!/bin/sh\necho "$@" > {folder}/cancelled\n',
    }
    for name, text in programs.items():
        program = folder / name
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder, work


def test_jobs_of_a_killed_run_in_this_folder_are_cancelled(slurm):
    folder, work = slurm
    assert takeover.cancel_jobs(work) == ["11", "14"]
    assert (folder / "cancelled").read_text() == "11 14\n"


def test_nothing_is_cancelled_elsewhere(slurm):
    folder, work = slurm
    assert takeover.cancel_jobs(work.parent) == []
    assert not (folder / "cancelled").exists()


def test_slurm_that_does_not_answer_is_an_error(slurm):
    folder, work = slurm
    (folder / "down").touch()
    with pytest.raises(takeover.TakeoverError, match="Unable to contact"):
        takeover.cancel_jobs(work)


def test_jobs_that_do_not_end_are_an_error(slurm, monkeypatch):
    folder, work = slurm
    (folder / "scancel").write_text("#!/bin/sh\n")
    monkeypatch.setattr(takeover, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(takeover.TakeoverError, match="scancel 11 14"):
        takeover.cancel_jobs(work)


def test_missing_slurm_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(takeover.TakeoverError, match="squeue is not on the PATH"):
        takeover.cancel_jobs(tmp_path)
