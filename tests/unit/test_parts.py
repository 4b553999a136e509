"""A shard goes on where its killed run stopped, and gives the tables of one not killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepmr import outputs
from deepmr.mutagenesis import effects_table
from tests.unit.test_effects_table import as_table, write
from tests.unit.test_mutagenesis import LENGTH, sequences

N = 7


class Killed(BaseException):
    """What stands for SIGKILL."""


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Count the sequences that are computed; a test may have the job killed at one of them."""
    seen: list[int] = []
    saturate_each = effects_table.saturate_each

    def counting(*arguments):
        for effects in saturate_each(*arguments):
            seen.append(len(seen))
            yield effects

    monkeypatch.setattr(effects_table, "saturate_each", counting)
    return seen


def kill_at(monkeypatch, number: int) -> None:
    counting = effects_table.saturate_each

    def killed(*arguments):
        for i, effects in enumerate(counting(*arguments)):
            if i == number:
                raise Killed
            yield effects

    monkeypatch.setattr(effects_table, "saturate_each", killed)


def files(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() for name in ("effects.parquet", "references.parquet")
    }


@pytest.fixture
def undisturbed(tmp_path) -> dict[str, bytes]:
    write(tmp_path / "undisturbed", as_table(sequences(N)))
    return files(tmp_path / "undisturbed")


def killed_run(folder: Path, monkeypatch, at: int, **options) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, at)
        with pytest.raises(Killed):
            write(folder, as_table(sequences(N)), resume_dir=folder / "resume", **options)


@pytest.mark.parametrize("save_every", [0.0, 3600.0])
@pytest.mark.parametrize("at", [0, 1, 4, N - 1])
def test_killed_shard_goes_on(tmp_path, monkeypatch, undisturbed, computed, at, save_every):
    folder = tmp_path / "run"
    killed_run(folder, monkeypatch, at, save_every=save_every)
    assert not (folder / "effects.parquet").exists()
    del computed[:]
    write(folder, as_table(sequences(N)), resume_dir=folder / "resume", save_every=save_every)
    saved = at if save_every == 0 else 0
    assert len(computed) == N - saved
    assert files(folder) == undisturbed


def test_shard_that_is_done_is_not_computed_again(tmp_path, undisturbed, computed):
    resume = tmp_path / "resume"
    for folder in (tmp_path / "a", tmp_path / "b"):
        write(folder, as_table(sequences(N)), resume_dir=resume)
        assert files(folder) == undisturbed
    assert len(computed) == N
    # One part, which takes no room of its own.
    kept = sorted(resume.iterdir())
    assert len(kept) == 2
    assert all(path.stat().st_nlink == 2 for path in kept)


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "edited code"},
        {"number": 5},
        {"average_strands": True},
        {"rows_per_batch": 16},
    ],
)
def test_parts_of_another_run_are_removed_and_not_read(tmp_path, monkeypatch, computed, other):
    folder = tmp_path / "run"
    killed_run(folder, monkeypatch, 5, save_every=0.0)
    del computed[:]
    write(folder, as_table(sequences(N)), resume_dir=folder / "resume", **other)
    assert len(computed) == N
    write(tmp_path / "fresh", as_table(sequences(N)), **other)
    assert files(folder) == files(tmp_path / "fresh")
    assert len(list((folder / "resume").iterdir())) == 2


def test_parts_of_other_sequences_are_not_read(tmp_path, monkeypatch, computed):
    folder = tmp_path / "run"
    killed_run(folder, monkeypatch, 5, save_every=0.0)
    del computed[:]
    write(folder, as_table(sequences(N)[::-1].copy()), resume_dir=folder / "resume")
    assert len(computed) == N


def test_damaged_part_is_computed_again(tmp_path, monkeypatch, undisturbed, computed):
    folder = tmp_path / "run"
    killed_run(folder, monkeypatch, 5, save_every=0.0)
    third = sorted((folder / "resume").glob("*.effects.parquet"))[2]
    third.write_bytes(third.read_bytes()[:100])
    del computed[:]
    write(folder, as_table(sequences(N)), resume_dir=folder / "resume")
    assert len(computed) == N - 2
    assert files(folder) == undisturbed


def test_parts_that_overlap_fit_together(tmp_path, monkeypatch, undisturbed, computed):
    """An earlier run, thought dead, has cut the same sequences into parts differently."""
    folder = tmp_path / "run"
    killed_run(folder, monkeypatch, 3, save_every=0.0)
    monkeypatch.setattr(effects_table, "_ROW_GROUP_VALUES", 2 * (3 * LENGTH * 4 * 2))
    earlier = sorted((folder / "resume").iterdir())
    (folder / "aside").mkdir()
    for path in earlier:
        path.rename(folder / "aside" / path.name)
    killed_run(folder, monkeypatch, 5, save_every=3600.0)
    for path in (folder / "aside").iterdir():
        path.rename(folder / "resume" / path.name)
    names = {path.name.split(".")[1] for path in (folder / "resume").iterdir()}
    assert {"000000000-000000001", "000000000-000000002", "000000002-000000004"} <= names
    del computed[:]
    write(folder, as_table(sequences(N)), resume_dir=folder / "resume")
    assert len(computed) == N - 4
    monkeypatch.undo()
    write(tmp_path / "again", as_table(sequences(N)), resume_dir=folder / "resume")
    assert files(tmp_path / "again") == undisturbed


def test_superseded_run_stops_at_its_next_save(tmp_path, monkeypatch, computed):
    mark = tmp_path / "job.log.running"
    outputs.own(mark)
    counting = effects_table.saturate_each

    def superseded(*arguments):
        for i, effects in enumerate(counting(*arguments)):
            if i == 2:
                mark.write_text(json.dumps({"token": "another"}))
            yield effects

    monkeypatch.setattr(effects_table, "saturate_each", superseded)
    with pytest.raises(outputs.SupersededError):
        write(tmp_path, as_table(sequences(N)), resume_dir=tmp_path / "resume", save_every=0.0)
    outputs.disown()
    assert len(computed) == 3
    assert not (tmp_path / "effects.parquet").exists()
    assert len(list((tmp_path / "resume").glob("*.references.parquet"))) == 2


def test_empty_shard_keeps_nothing(tmp_path):
    write(tmp_path, as_table(sequences(0)), resume_dir=tmp_path / "resume")
    assert (tmp_path / "effects.parquet").exists()
    assert not (tmp_path / "resume").exists()
