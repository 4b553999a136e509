from __future__ import annotations

from pathlib import Path

import pytest

from deepmr.shards import membership
from deepmr.shards.lost import lost_tables


def finished(results: Path, shards: int, gathered: bool = True) -> None:
    jobs = membership.mr_jobs(shards)
    for table, count in (("effects", shards), ("references", shards), ("mr", jobs)):
        folder = results / table / "model=cnn"
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / f"{number}-of-{count}.parquet").touch()
    if gathered:
        (results / "mr.parquet").touch()


def test_nothing_is_lost_before_the_first_run(tmp_path):
    assert lost_tables(tmp_path, ["cnn"], 4) == []


@pytest.mark.parametrize("shards", [1, 4, 203])
def test_nothing_is_lost_after_a_run(tmp_path, shards):
    finished(tmp_path, shards)
    assert lost_tables(tmp_path, ["cnn"], shards) == []


@pytest.mark.parametrize("name", ["effects", "references", "mr"])
def test_lost_table_is_named(tmp_path, name):
    finished(tmp_path, 4)
    path = tmp_path / name / "model=cnn" / "3-of-4.parquet"
    path.unlink()
    assert lost_tables(tmp_path, ["cnn"], 4) == [str(path)]


def test_shard_of_a_large_mr_job_is_named(tmp_path):
    finished(tmp_path, 203, gathered=False)
    path = tmp_path / "effects" / "model=cnn" / "202-of-203.parquet"
    path.unlink()
    assert lost_tables(tmp_path, ["cnn"], 203) == [str(path)]
    # Without its MR table, Snakemake asks for it anyway.
    (tmp_path / "mr" / "model=cnn" / "2-of-200.parquet").unlink()
    assert lost_tables(tmp_path, ["cnn"], 203) == []


def test_other_number_of_shards_has_nothing_yet(tmp_path):
    finished(tmp_path, 4, gathered=False)
    assert lost_tables(tmp_path, ["cnn"], 7) == []


def test_other_number_of_shards_is_left_to_snakemake_when_all_is_gathered(tmp_path):
    finished(tmp_path, 4)
    # They are made for mr.parquet anyway, whose inputs are others now.
    assert len(lost_tables(tmp_path, ["cnn"], 7)) == 3 * 7
