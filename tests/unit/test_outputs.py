from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepmr import outputs


@pytest.fixture(autouse=True)
def no_mark_remains():
    yield
    outputs.disown()


def unfinished(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*.tmp"))


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table"
    with outputs.replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert unfinished(path.parent) == []


def test_file_stays_as_it_was_when_writing_fails(tmp_path):
    path = tmp_path / "table"
    path.write_text("old")
    with (  # noqa: PT012
        pytest.raises(OSError, match="No space left"),
        outputs.replacing(path) as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert unfinished(tmp_path) == []


def later_run(mark: Path) -> None:
    """Another process, on another node, begins the same job."""
    mark.write_text(json.dumps({"token": "another"}))


@pytest.mark.parametrize("when", ["before", "while writing", "after its end"])
def test_superseded_run_writes_nothing(tmp_path, when):
    mark, path = tmp_path / "job.log.running", tmp_path / "table"
    path.write_text("of the later run")
    outputs.own(mark)
    if when == "before":
        later_run(mark)
    with (  # noqa: PT012
        pytest.raises(outputs.SupersededError, match="later run of this job"),
        outputs.replacing(path) as temporary,
    ):
        temporary.write_text("of the earlier run")
        later_run(mark)
        if when == "after its end":
            mark.unlink()
    assert path.read_text() == "of the later run"
    assert unfinished(tmp_path) == []


def test_mark_says_where_the_job_is_and_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    mark = tmp_path / "logs" / "job.log.running"
    outputs.own(mark)
    said = json.loads(mark.read_text())
    assert said["slurm_job"] == "17"
    assert said["host"]
    outputs.check_owner()
    outputs.disown()
    assert not mark.exists()


def test_superseded_run_leaves_the_mark_of_the_later_one(tmp_path):
    mark = tmp_path / "job.log.running"
    outputs.own(mark)
    later_run(mark)
    outputs.disown()
    assert json.loads(mark.read_text())["token"] == "another"


def test_owner_removes_what_a_killed_run_left_of_the_same_file_only(tmp_path):
    for name in (".table[1].abc.tmp", ".other.abc.tmp"):
        (tmp_path / name).write_text("half")
    outputs.own(tmp_path / "job.log.running")
    with outputs.replacing(tmp_path / "table[1]") as temporary:
        temporary.write_text("whole")
    assert unfinished(tmp_path) == [".other.abc.tmp"]


def test_who_owns_no_job_leaves_unfinished_files_of_others_alone(tmp_path):
    (tmp_path / ".table.abc.tmp").write_text("another notebook is writing")
    with outputs.replacing(tmp_path / "table") as temporary:
        temporary.write_text("whole")
    assert unfinished(tmp_path) == [".table.abc.tmp"]


def test_sweep_removes_unfinished_files_and_parts(tmp_path):
    (tmp_path / "a" / ".resume" / "shard").mkdir(parents=True)
    (tmp_path / "a" / ".resume" / "shard" / "part").write_text("1")
    (tmp_path / "a" / ".table.abc.tmp").write_text("half")
    (tmp_path / "a" / "table").write_text("whole")
    outputs.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "table"]
