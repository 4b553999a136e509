"""What the shards of a run will take, before anything is submitted: a trial here, scaled up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepmr.shards import resources
from deepmr.shards.content import Content
from deepmr.shards.membership import mr_jobs

Config = Mapping[str, Any]

TRIAL_SECONDS = 10.0
"""What the sequences of a trial take, about; start-up comes on top."""

_ROOT = Path(__file__).parents[2]
_FAILED = 2
_MR_SEQUENCES = 128


class PlanError(ValueError):
    """A trial could not be run; the message says why."""


@dataclass(frozen=True)
class Trial:
    """What a rule took in a process of its own on this machine.

    Attributes
    ----------
    start_seconds : float
        From the start of the process to its end, without the sequences.
    measured : dict
        What :mod:`deepmr.shards.trial` wrote.
    """

    start_seconds: float
    measured: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """The jobs of one rule, of one model.

    Attributes
    ----------
    rule : str
        Its name.
    jobs : int
        How many.
    sequences, largest : float
        Of the mean job and of the largest.
    seconds, largest_seconds : float
        Of the script of the mean job and of the largest.
    memory_mb : float
        Highest memory of the script of the largest job.
    table_mb, reference_mb : float
        Parquet tables of the mean job, in MB: effects and references, or MR.
    scratch_mb : float
        Most that the largest job has on disk while it runs, its tables in the making included.
    asked_mb, asked_minutes : int
        What the rule asks at the first attempt.
    """

    rule: str
    jobs: int
    sequences: float
    largest: int
    seconds: float
    largest_seconds: float
    memory_mb: float
    table_mb: float
    reference_mb: float
    scratch_mb: float
    asked_mb: int
    asked_minutes: int


@dataclass(frozen=True)
class ModelPlan:
    """What the jobs of a model will take, and where the figures come from."""

    name: str
    seconds_per_sequence: float
    source: str
    device: str
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes
    ----------
    sequences : int
        Sequences of a model, at most.
    shards : int
        Mutagenesis shards of a model.
    models : tuple of ModelPlan
        Each with its shards and MR jobs.
    gather : Stage
        The one job that gathers them.
    decoys : Stage
        The job of each model that makes the negative control.
    mutagenesis_hours, disk_mb : float
        Of the whole run: time of the mutagenesis jobs, each on one GPU if there are any; tables.
    suggested_shards : int
        With these a shard takes about `minutes`.
    suggested_mb, suggested_minutes : int
        What a shard asks for then, with its measured seconds in the configuration.
    minutes : float
        What a shard shall take.
    """

    sequences: int
    shards: int
    models: tuple[ModelPlan, ...]
    gather: Stage
    decoys: Stage
    mutagenesis_hours: float
    disk_mb: float
    suggested_shards: int
    suggested_mb: int
    suggested_minutes: int
    minutes: float

    @property
    def seconds_per_sequence(self) -> float:
        """Seconds a sequence of the slowest model, for ``sharding.seconds_per_sequence``."""
        return max(model.seconds_per_sequence for model in self.models)


def make(
    config: Config,
    shards: int,
    minutes: float = 30.0,
    seconds_per_sequence: float | None = None,
    trial_seconds: float = TRIAL_SECONDS,
) -> Plan:
    """Run the trials and predict.

    Parameters
    ----------
    config : mapping
        A configuration, defaults filled in (:func:`deepmr.config.load`).
    shards : int
        Number of mutagenesis shards.
    minutes : float
        What a shard shall take.
    seconds_per_sequence : float, optional
        Of mutagenesis, measured elsewhere; otherwise it is measured here.
    trial_seconds : float
        What the sequences of a trial take, about.

    Returns
    -------
    Plan
        Of all models.

    Raises
    ------
    PlanError
        If a trial fails.
    """
    request = resources.Request(config, shards)
    content = request.content
    models = tuple(
        _plan_model(config, name, request, seconds_per_sequence, trial_seconds)
        for name in config["models"]
    )
    gathered = sum(model.stages[1].table_mb * model.stages[1].jobs for model in models)
    rows = resources.mr_rows(content, content.all_sequences) * content.models
    seconds = models[0].stages[1].seconds + rows * resources.SECONDS_A_GATHERED_ROW
    gather = Stage(
        "gather_mr",
        1,
        content.all_sequences,
        content.all_sequences,
        seconds,
        seconds,
        resources.gather_mr_mb(content),
        gathered,
        0.0,
        gathered,
        request.gather_mr_memory(None, 1),
        request.gather_mr_minutes(None, 1),
    )
    decoy_seconds = models[0].stages[1].seconds + resources.estimate_decoys_seconds(content)
    decoys = Stage(
        "estimate_decoys",
        content.models,
        content.decoy_sequences,
        content.decoy_sequences,
        decoy_seconds,
        decoy_seconds,
        resources.estimate_decoys_mb(content),
        gathered / rows * resources.decoy_rows(content),
        0.0,
        0.0,
        request.estimate_decoys_memory(None, 1),
        request.estimate_decoys_minutes(None, 1),
    )
    shard = [model.stages[0] for model in models]
    start = resources.SNAKEMAKE_SECONDS
    tables = sum((s.table_mb + s.reference_mb) * s.jobs for m in models for s in m.stages)
    slowest = max(model.seconds_per_sequence for model in models)
    suggested = suggest(content.all_sequences, slowest, minutes)
    measured = {**config["sharding"], "seconds_per_sequence": slowest}
    then = resources.Request({**config, "sharding": measured}, suggested)
    return Plan(
        sequences=content.all_sequences,
        shards=shards,
        models=models,
        gather=gather,
        decoys=decoys,
        mutagenesis_hours=sum((stage.seconds + start) * stage.jobs for stage in shard) / 3600,
        disk_mb=tables + gathered + decoys.table_mb * decoys.jobs,
        suggested_shards=suggested,
        suggested_mb=then.mutagenesis_memory(None, 1),
        suggested_minutes=then.mutagenesis_minutes(None, 1),
        minutes=minutes,
    )


def suggest(sequences: int, seconds_per_sequence: float, minutes: float) -> int:
    """Return the number of shards with which the mean shard's sequences take about `minutes`."""
    wanted = round(sequences * seconds_per_sequence / (60 * minutes))
    return max(1, min(wanted, sequences))


def _plan_model(
    config: Config,
    name: str,
    request: resources.Request,
    given: float | None,
    trial_seconds: float,
) -> ModelPlan:
    with tempfile.TemporaryDirectory(prefix="deepmr-plan-") as folder:
        threads = min(resources.MUTAGENESIS_THREADS, os.cpu_count() or 1)
        settings = {
            "config": config,
            "model": name,
            "threads": threads,
            "seconds": trial_seconds,
            "timed": given is None,
            "most_sequences": request.content.sequences,
            "mr_sequences": _mr_sequences(request.content, trial_seconds),
        }
        (Path(folder) / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        mutagenesis = _run("mutagenesis", Path(folder), threads)
        mr = _run("mr", Path(folder), 1)
    found = mutagenesis.measured
    per = found["seconds_per_sequence"] if given is None else given
    warnings = []
    if found["timed"]:
        source = f"{found['sequences']} sequences"
        # On an idle machine 1.7 of 2: the threads wait for the one that writes the tables.
        if not found["gpu"] and found["cores"] < 0.6 * found["threads"]:
            warnings.append(
                f"the trial had {found['cores']:.1f} of {found['threads']} cores: this machine is "
                "busy, and the times are too long"
            )
    elif given is None:
        source = "one forward pass"
        warnings.append(
            f"a sequence would take {per:.0f} s here, so one forward pass was timed and memory is "
            "calculated; measure on the machine that will do the work"
        )
    else:
        source = "as given"
    one = {**config, "models": {name: config["models"][name]}}
    content = Content.of(one, request.content.shards)
    return ModelPlan(
        name=name,
        seconds_per_sequence=per,
        source=source,
        device=_device(found, given),
        stages=(
            _mutagenesis(content, request, mutagenesis, per),
            _estimate_mr(content, request, mr),
        ),
        warnings=tuple(warnings),
    )


def _mr_sequences(content: Content, seconds: float) -> int:
    """Return how many sequences a trial of MR has: two blocks, fewer if they take too long."""
    each = resources.estimate_mr_seconds(content) / content.mr_sequences
    return min(_MR_SEQUENCES, content.mr_sequences, int(seconds / each))


def _device(found: Mapping[str, Any], given: float | None) -> str:
    if given is not None:
        return "any device"
    return str(found["device"]) if found["gpu"] else f"CPU, {found['threads']} threads"


def _mutagenesis(content: Content, request: resources.Request, trial: Trial, per: float) -> Stage:
    found, mean = trial.measured, content.all_sequences / content.shards
    memory = _formula_mb(content, trial)
    if found["timed"]:
        tried = replace(content, sequences=found["sequences"], all_sequences=found["sequences"])
        memory += found["peak_mb"] - _formula_mb(tried, trial)
    effects, references = found["effects_bytes"] / 1e6, found["references_bytes"] / 1e6
    return Stage(
        "mutagenesis",
        content.shards,
        mean,
        content.sequences,
        trial.start_seconds + mean * per,
        trial.start_seconds + content.sequences * per,
        memory,
        mean * effects,
        mean * references,
        # The finished parts stay beside the tables until these are whole.
        2 * content.sequences * (effects + references),
        request.mutagenesis_memory(None, 1),
        request.mutagenesis_minutes(None, 1),
    )


def _formula_mb(content: Content, trial: Trial) -> float:
    """Return the memory of a mutagenesis script by formula: here, or where nobody has tried it."""
    found = trial.measured
    on_gpu = resources.mutagenesis_gpu_mb(content)
    if not found["timed"] and found["seconds_per_sequence"] == 0:
        return max(on_gpu, resources.mutagenesis_cpu_mb(content))
    return on_gpu if found["gpu"] else resources.mutagenesis_cpu_mb(content, found["threads"])


def _estimate_mr(content: Content, request: resources.Request, trial: Trial) -> Stage:
    found, jobs = trial.measured, mr_jobs(content.shards)
    mean, each = content.all_sequences / jobs, found["table_bytes"] / 1e6
    tried = replace(content, mr_sequences=found["sequences"], all_sequences=found["sequences"])
    memory = found["peak_mb"] + resources.estimate_mr_mb(content) - resources.estimate_mr_mb(tried)
    return Stage(
        "estimate_mr",
        jobs,
        mean,
        content.mr_sequences,
        trial.start_seconds + mean * found["seconds_per_sequence"],
        trial.start_seconds + content.mr_sequences * found["seconds_per_sequence"],
        memory,
        mean * each,
        0.0,
        content.mr_sequences * each,
        request.estimate_mr_memory(None, 1),
        request.estimate_mr_minutes(None, 1),
    )


def _run(name: str, folder: Path, threads: int) -> Trial:
    """Run a trial as Snakemake runs a script: a fresh interpreter, as many threads as the rule."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "deepmr.shards.trial", name, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if done.returncode:
        said = done.stderr.strip()
        if done.returncode < 0:
            said = f"it was killed by signal {-done.returncode}; was there too little memory?"
        elif done.returncode != _FAILED:
            said = said.rpartition("\n")[2]
        raise PlanError(f"the trial of {name} failed: {said}")
    measured = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Trial(max(seconds - measured["work_seconds"], 0.0), measured)
