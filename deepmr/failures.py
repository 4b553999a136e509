"""What failed in a run: told at its end, and written to `failed_shards.tsv` beside the results.

Snakemake tells its hooks only where its own log is, so the failed jobs are read from there. Each
job is introduced with its rule, outputs, log and number; later lines name it by that number. With
`show-failed-logs` the logs of failed jobs are copied into it. On a cluster these hold the output of
another Snakemake, with numbers of its own, and are passed over.
"""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import dropwhile
from pathlib import Path
from typing import Any

from deepmr.outputs import replacing

TABLE = "failed_shards.tsv"
LISTED = 20  # on the terminal; the table has them all
_LAST_LINES, _LONGEST, _TAIL_BYTES = 5, 200, 65536
_LOG_NAME = ".snakemake.log"

_HEADING = re.compile(r"((?:local)?(?:rule|checkpoint)|Error in rule) (\w+):")
_FIELD = re.compile(r"(message|jobid|output|log|wildcards|external_jobid): (.*)")
_SUBMITTED = re.compile(r"Job (\S+) has been submitted with SLURM jobid (\S+) \(log: (.*)\)\.")
_NO_OUTPUT = re.compile(r"Job (\S+) completed successfully, but some output files are missing")
_FINISHED = re.compile(r"Finished jobid: (\S+)")
_TOTAL = re.compile(r"total\s+(\d+)")
_TIME = re.compile(r"\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\]")
_LOG_NOTE = " (check log file(s) for error details)"
_MESSAGE_NOTE = "For further error details see the cluster/cloud log"

_SLURM_STATUS = re.compile(r"SLURM status is: '(\w+)'")
_SIGNAL = re.compile(r"died with <Signals\.(\w+)")
_SLURM_ERROR = re.compile(r"(?:slurmstepd|srun): error: ")


@dataclass
class Failure:
    """A job that failed and was not made by a later attempt.

    Attributes
    ----------
    rule : str
        Its rule.
    wildcards : dict of str to str
        Such as ``{"model": "cnn", "scatteritem": "3-of-7"}``.
    outputs : list of str
        The files that it should have made.
    log : str
        Its own log; empty if its rule has none.
    slurm_jobs : list of str
        SLURM's numbers of its attempts.
    slurm_log : str
        SLURM's log of the last attempt; empty without SLURM.
    attempts : int
        How often it failed.
    message : str
        What Snakemake said about the last attempt.
    last_lines : list of str
        The end of its log; empty if the log is missing, empty or of an earlier run.
    reason : str
        Why it failed, in a line.
    """

    rule: str
    wildcards: dict[str, str] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    log: str = ""
    slurm_jobs: list[str] = field(default_factory=list)
    slurm_log: str = ""
    attempts: int = 0
    message: str = ""
    last_lines: list[str] = field(default_factory=list)
    reason: str = ""

    def add_slurm_job(self, number: str) -> None:
        """Remember SLURM's number of an attempt, once."""
        if number and number not in self.slurm_jobs:
            self.slurm_jobs.append(number)


@dataclass(frozen=True)
class Ending:
    """How a run ended: what failed, and how many more jobs were not done.

    Jobs are not done because they need one that failed, or because the run was stopped.
    """

    failed: list[Failure]
    not_done: int


def on_error(logs: Sequence[str], results: str | Path, argv: Sequence[str]) -> str:
    """Write the table of what failed and return what is told at the end.

    Parameters
    ----------
    logs : sequence of str
        The log files of this run that Snakemake gives its hook.
    results : str or Path
        The folder of results.
    argv : sequence of str
        What was typed, ``sys.argv``.

    Returns
    -------
    str
        Text for people.
    """
    table = Path(results) / TABLE
    own = [Path(log) for log in logs if log.endswith(_LOG_NAME)]
    ending = read(own[-1]) if own else Ending([], 0)
    if ending.failed:
        write_table(ending.failed, table, argv)
    else:
        table.unlink(missing_ok=True)
    return describe(ending, rerun_command(argv), table)


def on_success(results: str | Path) -> None:
    """Remove the table that an earlier run has left."""
    (Path(results) / TABLE).unlink(missing_ok=True)


def read(snakemake_log: Path) -> Ending:
    """Read how a run ended from Snakemake's own log.

    Parameters
    ----------
    snakemake_log : Path
        A file of `.snakemake/log`.
    """
    run = _Run()
    with snakemake_log.open(encoding="utf-8", errors="replace") as file:
        for line in _without_shown_logs(line.rstrip("\n") for line in file):
            run.read(line)
    run.close()
    failed = [job for number, job in run.jobs.items() if job.attempts and number not in run.done]
    started = _start(snakemake_log)
    for job in failed:
        _explain(job, started)
    return Ending(failed, max(0, run.total - len(run.done) - len(failed)))


def write_table(failed: Sequence[Failure], path: Path, argv: Sequence[str]) -> None:
    """Write a tab-separated table with a line for each failed job.

    Parameters
    ----------
    failed : sequence of Failure
        What failed.
    path : Path
        The table; it is written under a temporary name and renamed.
    argv : sequence of str
        What was typed. The column `rerun` is this command, for that job alone.
    """
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _row(Failure(""), argv), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(job, argv) for job in failed)


def _row(job: Failure, argv: Sequence[str]) -> dict[str, Any]:
    return {
        "rule": job.rule,
        "model": job.wildcards.get("model", ""),
        "shard": job.wildcards.get("scatteritem", ""),
        "attempts": job.attempts,
        "reason": job.reason.replace("\t", " "),
        "slurm_jobs": ",".join(job.slurm_jobs),
        "log": job.log,
        "slurm_log": job.slurm_log,
        "rerun": rerun_command(argv, *job.outputs[:1]),
    }


def rerun_command(argv: Sequence[str], *targets: str) -> str:
    """Return the command that was typed, for another run, as text for a shell.

    Parameters
    ----------
    argv : sequence of str
        What was typed. Options that force jobs are left out: they would make again what is done.
    *targets : str
        Files to make, instead of all.
    """
    # A path that the shell has found by itself was not typed.
    typed = Path(argv[0]).name == "snakemake" and argv[0] != shutil.which("snakemake")
    program = argv[0] if typed else "snakemake"
    kept: list[str] = []
    forced = False
    for argument in argv[1:]:
        if argument.startswith("-"):
            forced = argument.startswith(("-R", "--forcerun"))
        if not forced and argument not in {"-F", "--forceall", "-f", "--force"}:
            kept.append(argument)
    # Targets stand before all options: after one that takes several values they would be values.
    if targets:
        kept = list(dropwhile(lambda argument: not argument.startswith("-"), kept))
    return shlex.join([program, *targets, *kept])


def describe(ending: Ending, command: str, table: Path) -> str:
    """Tell what failed, why, and what to do.

    Parameters
    ----------
    ending : Ending
        How the run ended.
    command : str
        The command that was typed.
    table : Path
        Where the whole list is.
    """
    failed, again = ending.failed, f"Run the same command again: {command}"
    if not failed:
        return f"The run was stopped, and Snakemake's log names no failed job.\n{again}"
    counts = Counter(job.rule for job in failed).items()
    lines = [f"Failed: {', '.join(f'{count} of {rule}' for rule, count in counts)}."]
    for job in failed[:LISTED]:
        lines += ["", *_block(job)]
    if len(failed) > LISTED:
        lines += ["", f"and {len(failed) - LISTED} more, see {table}"]
    if ending.not_done:
        lines += ["", f"{ending.not_done} more not done: they need these, or were stopped."]
    lines += [
        "",
        f"The list, with a command for each: {table}",
        again,
        "Only these and what depends on them are made.",
    ]
    return "\n".join(lines)


def _block(job: Failure) -> Iterator[str]:
    name = " ".join([job.rule, *(f"{key}={value}" for key, value in job.wildcards.items())])
    attempts = "1 attempt" if job.attempts == 1 else f"{job.attempts} attempts"
    slurm = f", SLURM {' '.join(job.slurm_jobs)}" if job.slurm_jobs else ""
    yield f"{name} ({attempts}{slurm}): {job.reason}"
    if job.last_lines:
        yield f"    {job.log} ends with:"
        for line in job.last_lines:
            yield f"      {line[:_LONGEST]}"
    elif job.log:
        yield f"    {job.log} has nothing about this run"
    if job.slurm_log:
        yield f"    SLURM's log: {job.slurm_log}"


class _Run:
    """The jobs of a run by their number, as its log tells of them line by line."""

    def __init__(self) -> None:
        self.jobs: dict[str, Failure] = defaultdict(lambda: Failure(""))
        self.done: set[str] = set()
        self.total = 0
        self._heading = self._rule = self._signal = self._group_log = ""
        self._indented = False
        self._fields: dict[str, str] = {}

    def read(self, line: str) -> None:
        """Take in the next line."""
        text = line.strip()
        if found := _HEADING.fullmatch(text):
            self.close()
            self._heading, self._rule = found[1], found[2]
            self._indented = line.startswith(" ")
        elif found := _FIELD.fullmatch(text):
            self._fields.setdefault(found[1], found[2].removesuffix(_LOG_NOTE))
        elif _TIME.match(text):
            self.close()
        else:
            self._event(text)

    def close(self) -> None:
        """Take in the block of lines that ends here: a job that was started, or that failed."""
        heading, fields = self._heading, self._fields
        self._heading, self._fields = "", {}
        if fields.get("message", "").startswith("Error in group"):  # its jobs follow
            self._group_log = fields.get("log", "")
        if "jobid" not in fields or not heading:
            return
        job = self.jobs[fields["jobid"]]
        job.rule = self._rule
        job.outputs = [path for path in fields.get("output", "").split(", ") if path]
        if heading != "Error in rule":
            job.log = fields.get("log", "")
            for pair in filter(None, fields.get("wildcards", "").split(", ")):
                key, _, value = pair.partition("=")
                job.wildcards[key] = value
            return
        job.attempts += 1
        message = fields.get("message", "None").partition(_MESSAGE_NOTE)[0].strip()
        # On this machine there is no message, but a line before the block if a signal ended it.
        job.message = self._signal if message == "None" else message
        self._signal = ""
        logs = [log for log in fields.get("log", "").split(", ") if log != job.log]
        if self._indented:  # a job of a group
            logs.append(self._group_log)
        job.slurm_log = logs[-1] if logs else job.slurm_log
        job.add_slurm_job(fields.get("external_jobid", Path(job.slurm_log).stem))

    def _event(self, text: str) -> None:
        if found := _FINISHED.match(text):
            self.done.add(found[1])
        elif found := _SUBMITTED.match(text):
            job = self.jobs[found[1]]
            job.add_slurm_job(found[2])
            job.slurm_log = found[3]
        elif found := _NO_OUTPUT.match(text):
            job = self.jobs[found[1]]
            job.attempts += 1
            job.message = text
        elif _SIGNAL.search(text):
            self._signal = text
        elif found := _TOTAL.fullmatch(text):
            self.total = self.total or int(found[1])


def _without_shown_logs(lines: Iterable[str]) -> Iterator[str]:
    """Leave out copies of job logs: a line `Logfile …:`, a rule of `=`, the copy, the same rule."""
    end = before = ""
    for line in lines:
        text = line.strip()
        if end:
            end = "" if text == end else end
        elif text and set(text) == {"="} and before.startswith("Logfile ") and before[-1] == ":":
            end = text
        else:
            yield line
        before = text


def _explain(job: Failure, started: float) -> None:
    """Fill in the end of the job's log, and the reason, from the surest source to the vaguest."""
    own = _tail(job.log, started)
    job.last_lines = own[-_LAST_LINES:]
    status = next(iter(_SLURM_STATUS.findall(job.message)), "")
    if status not in {"", "FAILED", "ERROR"}:
        reason = f"SLURM: {status}"
    else:
        # What SLURM's log of a group says may be about another job of it.
        group = "its group: " if Path(job.slurm_log).parent.name.startswith("group_") else ""
        told = _told(_tail(job.slurm_log, started))
        reason = (
            _raised(own)
            or _told([job.message])
            or (told and group + told)
            or (f"SLURM: {status}" if status else job.message)
            or "no reason found"
        )
    job.reason = reason[:_LONGEST]


def _tail(path: str, started: float) -> list[str]:
    """Return the last lines of a log with something on them, if it was written since `started`."""
    log = Path(path)
    if not log.is_file() or log.stat().st_mtime < started:
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _raised(lines: list[str]) -> str:
    """Return the exception after the last traceback; the lines of the traceback are indented."""
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback ")]
    after = lines[starts[-1] + 1 :] if starts else []
    return next((line for line in after if not line.startswith(" ")), "")


def _told(lines: list[str]) -> str:
    """Return what the last line says that tells of a signal, of SLURM or of missing output."""
    for line in reversed(lines):
        if found := _SIGNAL.search(line):
            return f"killed by {found[1]}{' (out of memory?)' if found[1] == 'SIGKILL' else ''}"
        if _NO_OUTPUT.match(line):
            return "it ended well, but some of its output files are missing"
        if _SLURM_ERROR.match(line):
            return line
    return ""


def _start(snakemake_log: Path) -> float:
    """Return when the run began, which is the name of its log."""
    try:
        return datetime.fromisoformat(snakemake_log.name.removesuffix(_LOG_NAME)).timestamp()
    except ValueError:
        return 0.0
