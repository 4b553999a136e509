"""A plan in words and in JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from deepmr.shards.plan import ModelPlan, Plan, Stage
from deepmr.shards.resources import SNAKEMAKE_SECONDS

_HEAD = ("rule", "jobs", "sequences", "minutes", "asked", "memory", "asked", "tables", "scratch")
_LEAST_MINUTES = 8
"""Below this, the 5 CPU seconds of starting a job are more than 1 % of it."""


def as_text(plan: Plan) -> str:
    """Return a plan for people: a block for each model, the totals, and what to write."""
    blocks = [
        f"{plan.sequences:,} sequences at most, {plan.shards:,} shards a model",
        *(_model(model) for model in plan.models),
        _table([plan.decoys, plan.gather]),
        "Minutes: mean job (largest job). Memory: highest of the largest job's script; what is\n"
        "asked has a margin of one half, Snakemake's own processes, and what a GPU needs on the\n"
        "host. Tables: Parquet of the mean job, effects + references. Scratch: disk that the\n"
        "largest job fills while it runs.",
        f"The whole run: {_hours(plan)}, {_size(plan.disk_mb)} of tables.",
        _advice(plan),
    ]
    return "\n\n".join(blocks)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as numbers: the fields of `deepmr.shards.plan.Plan`, and the suggestion."""
    return {
        **asdict(plan),
        "machine": platform.node(),
        "suggestion": _suggestion(plan),
    }


def _model(model: ModelPlan) -> str:
    where = "" if model.source == "as given" else f"; {platform.node()}, {model.device}"
    lines = [
        f"{model.name}: {model.seconds_per_sequence:.3g} s a sequence ({model.source}{where})",
        _table(model.stages),
        *(f"Warning: {warning}." for warning in model.warnings),
    ]
    return "\n".join(lines)


def _table(stages: Sequence[Stage]) -> str:
    rows = [_HEAD, *(_row(stage) for stage in stages)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _row(stage: Stage) -> tuple[str, ...]:
    mean, most = (
        (seconds + SNAKEMAKE_SECONDS) / 60 for seconds in (stage.seconds, stage.largest_seconds)
    )
    tables = _size(stage.table_mb)
    if stage.reference_mb:
        tables += f" + {_size(stage.reference_mb)}"
    return (
        stage.rule,
        f"{stage.jobs:,}",
        f"{stage.sequences:,.0f} ({stage.largest:,})",
        f"{mean:.1f} ({most:.1f})",
        f"{stage.asked_minutes:,}",
        _size(stage.memory_mb),
        _size(stage.asked_mb),
        tables,
        _size(stage.scratch_mb),
    )


def _hours(plan: Plan) -> str:
    where = " and ".join(dict.fromkeys(model.device for model in plan.models))
    return f"{plan.mutagenesis_hours:.3g} hours of mutagenesis ({where})"


def _suggestion(plan: Plan) -> dict[str, float]:
    return {
        "shards": plan.suggested_shards,
        "seconds_per_sequence": float(f"{plan.seconds_per_sequence:.3g}"),
    }


def _advice(plan: Plan) -> str:
    found = _suggestion(plan)
    each = plan.sequences / plan.suggested_shards * plan.seconds_per_sequence / 60
    return "\n".join(
        [
            f"For shards of {each:.3g} minutes, write into the configuration:",
            "",
            "sharding:",
            f"  shards: {found['shards']}",
            f"  seconds_per_sequence: {found['seconds_per_sequence']:g}",
            "",
            f"A shard then asks for {plan.suggested_minutes:,} minutes and "
            f"{_size(plan.suggested_mb)}. --minutes {plan.minutes:g} was asked; below",
            f"{_LEAST_MINUTES} minutes, starting jobs costs more than 1 %.",
        ]
    )


def _size(megabytes: float) -> str:
    for unit, scale in (("TB", 1e6), ("GB", 1e3)):
        if megabytes >= scale:
            return f"{megabytes / scale:.1f} {unit}"
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"
