"""The shipped example through `snakemake --profile slurm`, against the run on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepmr import tables
from deepmr.models.checkpoint import load_tensors
from tests.slurm.runs import Run

ON_GPU = {"train_model", "predict_windows", "mutagenesis", "mutate_replicates"}


@pytest.fixture(scope="module")
def on_cluster(side_by_side) -> tuple[Run, list[dict]]:
    run, jobs = side_by_side["shipped_example"]
    return run, jobs.result()


def rule(job: dict) -> str:
    return re.fullmatch(r"rule_(.*?)(_wildcards_.*)?", job["comment"])[1]


def test_each_job_runs_once_and_where_it_belongs(on_cluster):
    _, jobs = on_cluster
    assert {job["state"] for job in jobs} == {"COMPLETED"}
    assert len({job["comment"] for job in jobs}) == len(jobs)
    assert sum(rule(job) == "mutagenesis" for job in jobs) == 4
    assert {rule(job) for job in jobs} >= {*ON_GPU, "estimate_mr", "gather_mr", "write_report"}
    for job in jobs:
        on_gpu = rule(job) in ON_GPU
        assert job["partition"] == ("gpu" if on_gpu else "cpu"), job
        assert job["nodes"] in (("gpu1", "gpu2") if on_gpu else ("cpu1",)), job
        assert job["gpus"] == on_gpu, job


def test_slurm_was_asked_for_what_the_rules_say(on_cluster):
    run, jobs = on_cluster
    said = re.findall(
        r"^rule (\w+):.*?resources: .*?mem_mb=(\d+),.*?runtime=(\d+)",
        run.said(),
        re.DOTALL | re.MULTILINE,
    )
    assert len(said) == len(jobs)
    wanted = sorted((name, int(memory), int(minutes)) for name, memory, minutes in said)
    assert sorted((rule(job), job["memory_mb"], job["minutes"]) for job in jobs) == wanted


def test_logs_of_gpu_jobs_say_which_gpu_they_had(on_cluster):
    run, _ = on_cluster
    logs = sorted((run.folder / "results" / "logs").rglob("*.log"))
    for log in logs:
        first = log.read_text().partition("\n")[0]
        relative = log.relative_to(run.folder / "results" / "logs")
        name = relative.parts[0].removesuffix(".log")
        assert re.search(r"node (gpu|cpu)\d, SLURM job \d+", first), log
        assert bool(re.search(r"CUDA_VISIBLE_DEVICES \d", first)) == (name in ON_GPU), log
    assert len(logs) > 15


def test_tables_equal_those_of_this_machine_to_the_last_bit(on_cluster, example):
    here, there = example[0].folder / "results", on_cluster[0].folder / "results"
    paths = sorted(path.relative_to(here) for path in here.rglob("*.parquet"))
    assert paths == sorted(path.relative_to(there) for path in there.rglob("*.parquet"))
    assert {Path("mr.parquet"), Path("meta.parquet"), Path("calibration.parquet")} <= set(paths)
    for path in paths:
        pair = [tables.read_table(folder / path) for folder in (here, there)]
        if path.name.endswith("history.parquet"):
            pair = [table.drop_columns(["seconds"]) for table in pair]
        assert pair[0].equals(pair[1]), path


def test_weights_equal_those_of_this_machine(on_cluster, example):
    found = [
        load_tensors(run.folder / "results" / "models" / "cnn.pt")["members"]
        for run in (example[0], on_cluster[0].checkout)
    ]
    for here, there in zip(*found, strict=True):
        assert here.keys() == there.keys()
        assert all(here[name].equal(there[name]) for name in here)


def test_report_is_written_and_nothing_is_left(on_cluster):
    run, _ = on_cluster
    assert (run.folder / "results" / "report.html").stat().st_size > 100_000
    assert run.unfinished_files() == []
