from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from deepmr import failures

ARGV = [".venv/bin/snakemake", "--profile", "slurm", "--configfile", "my own.yaml"]
TRACEBACK = """2026-11-24 06:31:59,414 host vm, code deepmr.shards=30575ab62171e408
Traceback (most recent call last):
  File "mutagenesis.py", line 13, in <module>
    network(x)
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "mutagenesis.py", line 15, in <module>
    raise ValueError("boom")
ValueError: boom
2026-11-24 06:31:59,491 ended: 0.1 s, 1.6 CPU s, peak memory 255 MB
"""
TIME = "[Tue Nov 24 06:31:52 2026]\n"
STATS = "Job stats:\njob            count\n-----------  -------\nmutagenesis        3\ntotal  10\n"
NOTE = " (check log file(s) for error details)"
SIGKILL = """RuleException:
CalledProcessError in file "/co/workflow/rules/mutagenesis.smk", line 32:
Command '/venv/bin/python /co/scripts/tmp1.mutagenesis.py' died with <Signals.SIGKILL: 9>.
"""


class Run:
    """The log of a run, as Snakemake 9.27 and its SLURM plugin write it, and the jobs' own logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "2026-11-24T063141.856808.snakemake.log"
        self.text = STATS

    def log(self, shard: str) -> Path:
        return self.folder / f"logs/mutagenesis/cnn/{shard}.log"

    def slurm_log(self, number: int) -> Path:
        return self.folder / f"slurm_logs/rule_mutagenesis/{number}.log"

    def files(self, shard: str) -> str:
        return f"effects/model=cnn/{shard}.parquet, references/model=cnn/{shard}.parquet"

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # The run of this log's name is in the future; its jobs write later still.
        os.utime(path, (2e9, 2e9))

    def start(self, jobid: int | str, shard: str, slurm: int | None = None) -> None:
        self.text += (
            f"{TIME}{'' if slurm else 'local'}rule mutagenesis:\n    input: sequences.parquet\n"
            f"    output: {self.files(shard)}\n    log: {self.log(shard)}\n    jobid: {jobid}\n"
            "    reason: Missing output files: a; log: b\n"
            f"    wildcards: model=cnn, scatteritem={shard}\n    resources: tmpdir=/tmp\n"
        )
        if slurm:
            self.text += (
                f"Job {jobid} has been submitted with SLURM jobid {slurm} "
                f"(log: {self.slurm_log(slurm)}).\n"
            )

    def fail(
        self,
        jobid: int | str,
        shard: str,
        message: str = "None",
        slurm: int | None = None,
        shown: str = "",
    ) -> None:
        logs = f"{self.log(shard)}{f', {self.slurm_log(slurm)}' if slurm else ''}"
        if message != "None":
            message += "For further error details see the cluster/cloud log and the log files."
        self.text += (
            f"{TIME}Error in rule mutagenesis:\n    message: {message}\n    jobid: {jobid}\n"
            f"    output: {self.files(shard)}\n    log: {logs}{NOTE}\n"
        )
        if slurm:
            self.text += f"    external_jobid: {slurm}\n"
        if shown:
            rule = "=" * 60
            self.text += f"Logfile {self.log(shard)}:\n{rule}\n{shown}{rule}\n"

    def finish(self, jobid: int | str) -> None:
        self.text += (
            f"{TIME}Finished jobid: {jobid} (Rule: mutagenesis)\n1 of 10 steps (10%) done\n"
        )

    def read(self) -> failures.Ending:
        self.path.write_text(self.text)
        return failures.read(self.path)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def status(number: int, name: str) -> str:
    return (
        f"SLURM-job '{number}' failed, SLURM status is: '{name}'. Detailed failure reason "
        "unavailable (status command is not 'sacct')."
    )


def test_failed_job_with_its_log(run):
    run.start(7, "2-of-3")
    run.write(run.log("2-of-3"), TRACEBACK)
    run.fail(7, "2-of-3", shown=TRACEBACK)
    (job,) = run.read().failed
    assert (job.rule, job.attempts, job.slurm_jobs, job.slurm_log) == ("mutagenesis", 1, [], "")
    assert job.wildcards == {"model": "cnn", "scatteritem": "2-of-3"}
    assert job.outputs == run.files("2-of-3").split(", ")
    assert job.log == str(run.log("2-of-3"))
    assert job.reason == "ValueError: boom"
    assert len(job.last_lines) == 5
    assert job.last_lines[-1].endswith("peak memory 255 MB")


def test_job_that_a_retry_made_is_not_listed(run):
    for attempt in range(2):
        run.start(7, "2-of-3")
        run.start(8, "3-of-3")
        run.fail(8, "3-of-3")
        if attempt == 0:
            run.fail(7, "2-of-3")
            run.text += "Trying to restart job 7.\n"
    run.finish(7)
    ending = run.read()
    assert [(job.wildcards["scatteritem"], job.attempts) for job in ending.failed] == [
        ("3-of-3", 2)
    ]
    assert ending.not_done == 10 - 1 - 1


def test_numbers_within_a_shown_log_are_not_this_runs(run):
    inner = Run(run.folder)
    inner.start(0, "2-of-3")
    inner.fail(0, "2-of-3")
    inner.finish(7)
    run.start(7, "2-of-3", slurm=11)
    run.fail(7, "2-of-3", status(11, "FAILED"), slurm=11, shown="\nSNAKEMAKE\n=====\n" + inner.text)
    ending = run.read()
    assert [job.attempts for job in ending.failed] == [1]
    assert ending.not_done == 9


def test_slurm_status_and_jobs(run):
    for number in (11, 12):
        run.start(7, "2-of-3", slurm=number)
        run.write(run.log("2-of-3"), "host cpu1\n")
        run.fail(7, "2-of-3", status(number, "TIMEOUT"), slurm=number)
    (job,) = run.read().failed
    assert job.reason == "SLURM: TIMEOUT"
    assert (job.slurm_jobs, job.slurm_log) == (["11", "12"], str(run.slurm_log(12)))
    assert job.last_lines == ["host cpu1"]


@pytest.mark.parametrize(
    ("own", "slurm", "reason"),
    [
        (TRACEBACK, SIGKILL, "ValueError: boom"),
        ("host cpu1\n", SIGKILL + "WorkflowError:\n", "killed by SIGKILL (out of memory?)"),
        (
            "",
            "slurmstepd: error: Exceeded memory limit\n",
            "slurmstepd: error: Exceeded memory limit",
        ),
        ("", "", "SLURM: FAILED"),
    ],
)
def test_a_bare_failed_of_slurm_is_explained_by_the_logs(run, own, slurm, reason):
    run.start(7, "2-of-3", slurm=11)
    run.write(run.log("2-of-3"), own)
    run.write(run.slurm_log(11), slurm)
    run.fail(7, "2-of-3", status(11, "FAILED"), slurm=11)
    assert run.read().failed[0].reason == reason


def test_signal_on_this_machine(run):
    run.start(7, "2-of-3")
    run.write(run.log("2-of-3"), "host vm\n")
    run.text += SIGKILL
    run.fail(7, "2-of-3")
    assert run.read().failed[0].reason == "killed by SIGKILL (out of memory?)"


def test_refused_submission(run):
    run.start(7, "2-of-3")
    said = (
        "SLURM sbatch failed. The error message was 'sbatch: error: Invalid partition specified'."
    )
    run.fail(7, "2-of-3", f'{said}\n    sbatch call:\n        sbatch --parsable --wrap="x"\n\n')
    (job,) = run.read().failed
    assert (job.reason, job.slurm_jobs, job.last_lines) == (said, [], [])


def test_missing_output_has_no_error_block(run):
    run.start(7, "2-of-3", slurm=11)
    run.text += (
        'MissingOutputException in rule mutagenesis in file "/co/mutagenesis.smk", line 1:\n'
        "Job 7 completed successfully, but some output files are missing. Missing files after 2 s\n"
    )
    (job,) = run.read().failed
    assert job.reason == "it ended well, but some of its output files are missing"
    assert (job.attempts, job.slurm_jobs) == (1, ["11"])


def test_log_of_an_earlier_run_is_not_shown(run):
    run.start(7, "2-of-3", slurm=11)
    run.write(run.log("2-of-3"), TRACEBACK)
    os.utime(run.log("2-of-3"), (1e9, 1e9))
    run.fail(7, "2-of-3", status(11, "NODE_FAIL"), slurm=11)
    ending = run.read()
    assert ending.failed[0].last_lines == []
    text = failures.describe(ending, "CMD", Path("T"))
    assert f"{run.log('2-of-3')} has nothing about this run" in text
    assert f"SLURM's log: {run.slurm_log(11)}" in text


def test_jobs_of_a_group(run):
    log = run.folder / "slurm_logs/group_g/18.log"
    run.write(log, SIGKILL)
    for jobid, shard in ((7, "1-of-3"), (8, "2-of-3")):
        run.start(jobid, shard)
    run.text += "Job 0395635a-7339 has been submitted with SLURM jobid 18 (log: x).\n"
    run.text += f"{TIME}    message: Error in group g\n    log: {log}{NOTE}\n    jobs:\n"
    run.text += (
        f"        rule mutagenesis:\n            jobid: 7\n            log: {run.log('1-of-3')}\n"
    )
    group = Run(run.folder)
    group.text = ""
    for jobid, shard in ((7, "1-of-3"), (8, "2-of-3")):
        group.fail(jobid, shard, shown="x\n")
    run.text += "".join(f"    {line}\n" for line in group.text.splitlines())
    jobs = run.read().failed
    assert [job.wildcards["scatteritem"] for job in jobs] == ["1-of-3", "2-of-3"]
    assert {(job.slurm_log, *job.slurm_jobs, job.reason) for job in jobs} == {
        (str(log), "18", "its group: killed by SIGKILL (out of memory?)")
    }


def test_table_and_text(run):
    results = run.folder / "results"
    run.start(7, "2-of-3", slurm=11)
    run.write(run.log("2-of-3"), TRACEBACK.replace("boom", "a\tb"))
    run.fail(7, "2-of-3", status(11, "FAILED"), slurm=11)
    run.read()
    text = failures.on_error(["other.log", str(run.path)], results, ARGV)
    (row,) = csv.DictReader((results / failures.TABLE).open(), delimiter="\t")
    assert row == {
        "rule": "mutagenesis",
        "model": "cnn",
        "shard": "2-of-3",
        "attempts": "1",
        "reason": "ValueError: a b",
        "slurm_jobs": "11",
        "log": str(run.log("2-of-3")),
        "slurm_log": str(run.slurm_log(11)),
        "rerun": ".venv/bin/snakemake effects/model=cnn/2-of-3.parquet --profile slurm "
        "--configfile 'my own.yaml'",
    }
    assert [path.name for path in results.iterdir()] == [failures.TABLE]
    assert "Failed: 1 of mutagenesis." in text
    assert "mutagenesis model=cnn scatteritem=2-of-3 (1 attempt, SLURM 11): ValueError" in text
    assert "      ValueError: a" in text
    assert "9 more not done" in text
    assert "again: .venv/bin/snakemake --profile slurm --configfile 'my own.yaml'" in text
    failures.on_success(results)
    failures.on_success(results)
    assert list(results.iterdir()) == []


def test_long_list_is_cut(run):
    for i in range(1, 24):
        run.start(i, f"{i}-of-23")
        run.fail(i, f"{i}-of-23")
    text = failures.on_error([str(run.path)], run.folder / "r", ARGV) if run.read() else ""
    assert text.count("(1 attempt)") == failures.LISTED
    assert f"and 3 more, see {run.folder / 'r' / failures.TABLE}" in text
    assert len((run.folder / "r" / failures.TABLE).read_text().splitlines()) == 24


def test_stopped_run_without_a_failure(run, tmp_path):
    (tmp_path / failures.TABLE).write_text("of an earlier run\n")
    run.start(7, "2-of-3")
    run.read()
    text = failures.on_error([str(run.path)], tmp_path, ARGV)
    assert "names no failed job" in text
    assert "Run the same command again" in text
    assert not (tmp_path / failures.TABLE).exists()
    assert "names no failed job" in failures.on_error([], tmp_path, ARGV)


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["/venv/bin/snakemake", "-c", "2"], "/venv/bin/snakemake -c 2"),
        (["/venv/snakemake/__main__.py", "-c2"], "snakemake -c2"),
        (["snakemake", "-F", "-c2", "--forceall"], "snakemake -c2"),
        (["snakemake", "-R", "a", "b", "-c2"], "snakemake -c2"),
        (["snakemake", "--forcerun=a", "b", "--config", "a=1 2"], "snakemake --config 'a=1 2'"),
    ],
)
def test_rerun_command(argv, command):
    assert failures.rerun_command(argv) == command


def test_program_that_the_shell_found_is_named_as_typed(tmp_path, monkeypatch):
    program = tmp_path / "snakemake"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert failures.rerun_command([str(program), "-c2"]) == "snakemake -c2"


def test_rerun_of_one_file_takes_the_place_of_the_targets_that_were_typed():
    argv = ["snakemake", "mr.parquet", "--configfile", "my.yaml"]
    assert failures.rerun_command(argv) == "snakemake mr.parquet --configfile my.yaml"
    assert failures.rerun_command(argv, "a b") == "snakemake 'a b' --configfile my.yaml"


def test_log_under_another_name_is_read_too(run):
    run.path = run.folder / "moved.log"
    run.start(7, "2-of-3")
    run.write(run.log("2-of-3"), TRACEBACK)
    run.fail(7, "2-of-3")
    assert run.read().failed[0].reason == "ValueError: boom"
