"""Whether the standard errors of mutation effects are right, and widened where they are not.

s is the factor that makes the mean squared z of the errors 1 (or, where a few mutations with next
to no standard error decide that mean, root mean squared error over standard error). Above 1 the
standard errors are too small, below 1 too wide. At most they are widened: retrained networks share
their data and architecture, and so their spread cannot show what all of them get wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Settings
from deepmr.report.table import Cell, Row, Table, as_count, as_float, name_of, records
from deepmr.uncertainty.replicates import RETRAINED, TRUTH
from deepmr.uncertainty.scores import LARGEST_TOLD

NO_REFERENCE = "no_reference"
_TOO_FEW = (NO_REFERENCE, "too_few_members", "too_few_degrees_of_freedom")

_REFERENCE_WORDS = {RETRAINED: "retrained networks", TRUTH: "simulated truth"}


@dataclass(frozen=True)
class Section:
    """What the report says of the standard errors.

    Attributes
    ----------
    summary : tuple of str
        For each model and reference: which targets' standard errors are too small, right, too wide.
    table : Table
        A row is a target and a reference; none where there is nothing to hold them against.
    against_truth : bool
        Whether a simulated truth is among the references.
    """

    summary: tuple[str, ...]
    table: Table
    against_truth: bool


def of_standard_errors(uncertainty: pd.DataFrame, settings: Settings) -> Section:
    """Return what the report says of the standard errors of mutation effects.

    Parameters
    ----------
    uncertainty : DataFrame
        ``uncertainty.parquet``.
    settings : Settings
        ``apply_scale``.

    Returns
    -------
    Section
    """
    rows = records(uncertainty)
    several = uncertainty["model"].nunique() > 1
    held = [row for row in rows if row["status"] != NO_REFERENCE]
    return Section(
        (
            *_summary(held, several),
            *_by_size(held, several),
            *_same_spread(held),
            *_without(uncertainty),
        ),
        Table(_COLUMNS, tuple(_row(row, several, settings) for row in held), 3),
        any(row["reference"] == "truth" for row in held),
    )


def verdict(row: Mapping[str, object]) -> str:
    """Return "too small", "too wide" or "fitting" from the interval of s; "" without one."""
    _, low, high = _scale(row)
    if not np.isfinite([low, high]).all():
        return ""
    if low > 1:
        return "too small"
    return "too wide" if high < 1 else "fitting"


def scale(row: Mapping[str, object]) -> str:
    """Return "s = 1.32 [1.10, 1.55]"."""
    return wording.unbroken(f"s = {wording.estimate(*_scale(row))}")


def by_size(row: Mapping[str, object]) -> bool:
    """Return whether s compares root mean squares, for a few errors would decide the mean z^2."""
    return row["status"] == "few_errors_decide"


def _scale(row: Mapping[str, object]) -> tuple[float, float, float]:
    name = "se_ratio" if by_size(row) else "se_scale"
    value, low, high = (as_float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return value, low, high


def unjudged(uncertainty: pd.DataFrame) -> list[str]:
    """Return the models with too few networks to hold their standard errors against."""
    enough = (uncertainty["reference"] == RETRAINED) & ~uncertainty["status"].isin(_TOO_FEW)
    judged = set(uncertainty.loc[enough, "model"])
    return [str(m) for m in dict.fromkeys(uncertainty["model"]) if m not in judged]


_COLUMNS = (
    "target",
    "held against",
    "the SEs are",
    "networks",
    "sequences",
    "mutations",
    "RMSE",
    "RMS SE",
    "mean squared z",
    "ENCE",
    wording.unbroken("in 95 %"),
    wording.unbroken("in 50 %"),
    "s",
    "after s",
    "applied",
)


def _row(row: Mapping[str, object], several: bool, settings: Settings) -> Row:
    says = verdict(row) or wording.status(str(row["status"]))
    s, after = ("se_ratio", "se_ratio_scaled") if by_size(row) else ("se_scale", "zms_scaled")
    return (
        name_of(row, several),
        _REFERENCE_WORDS.get(str(row["reference"]), str(row["reference"])),
        says,
        f"{as_count(row['members'])}",
        f"{as_count(row['n_sequences']):,}",
        f"{as_count(row['n_mutations']):,}",
        wording.number(as_float(row["rmse"]), 3),
        wording.number(as_float(row["sharpness"]), 3),
        _interval(row, "zms"),
        wording.number(as_float(row["ence"])),
        _covered(row, 0.95),
        _covered(row, 0.5),
        _interval(row, s),
        _interval(row, after),
        _applied(row, settings),
    )


def _interval(row: Mapping[str, object], name: str) -> str | Cell:
    value, low, high = (as_float(row[name + end]) for end in ("", "_low", "_high"))
    if value > LARGEST_TOLD:
        return Cell(f">{wording.NBSP}{LARGEST_TOLD}", marked=True)
    if not np.isfinite([value, low, high]).all():
        return wording.number(value)
    places = wording.decimals(low, high)
    return Cell(
        wording.number(value, places),
        wording.interval(low, high, places),
        marked=not low <= 1 <= high,
    )


def _covered(row: Mapping[str, object], level: float) -> str:
    levels, shares = (_listed(row[name]) for name in ("levels", "coverage"))
    found = [share for at, share in zip(levels, shares, strict=True) if abs(at - level) < 1e-9]
    return wording.percent(found[0]) if found and np.isfinite(found[0]) else "–"


def _listed(values: object) -> list[float]:
    return [] if values is None or isinstance(values, float) else [float(v) for v in values]  # type: ignore[attr-defined]


def _applied(row: Mapping[str, object], settings: Settings) -> str:
    """Return the factor that the standard errors of effects were multiplied by."""
    if row["reference"] == TRUTH:
        return "never"
    recommended = as_float(row["recommended_scale"])
    used = recommended if settings.apply_scale and np.isfinite(recommended) else 1.0
    return f"×{wording.NBSP}{wording.number(used)}"


def _summary(held: Sequence[Mapping[str, object]], several: bool) -> list[str]:
    text = []
    for reference in (RETRAINED, TRUTH):
        for model in dict.fromkeys(str(row["model"]) for row in held):
            here = [r for r in held if r["reference"] == reference and r["model"] == model]
            parts = []
            for says in ("too small", "fitting", "too wide"):
                named = [f"{row['target']} {_factor(row)}" for row in here if verdict(row) == says]
                if named:
                    parts.append(f"{says} for {wording.joined(named)}")
            unknown = [
                f"{row['target']} ({wording.status(str(row['status']))})"
                for row in here
                if not verdict(row)
            ]
            if unknown:
                parts.append(f"not judged for {wording.joined(unknown)}")
            if parts:
                against = _REFERENCE_WORDS[reference] + (f" ({model})" if several else "")
                text.append(f"Against {against}, standard errors are {'; '.join(parts)}.")
    return text


def _by_size(held: Sequence[Mapping[str, object]], several: bool) -> list[str]:
    named = list(dict.fromkeys(name_of(row, several) for row in held if by_size(row)))
    if not named:
        return []
    return [
        f"Some mutations of {wording.joined(named)} have next to no standard error and decide the "
        "mean squared z by themselves; s is there the root mean squared error over the root mean "
        "squared standard error, in which they count for little."
    ]


def _same_spread(held: Sequence[Mapping[str, object]]) -> list[str]:
    own = [r for r in held if r["method"] == "ensemble" and r["reference"] == RETRAINED]
    if not any(verdict(row) for row in own):
        return []
    return [
        "The members of an ensemble are themselves the retrained networks: s is near 1 by "
        "construction and says nothing of the size of the standard errors."
    ]


def _factor(row: Mapping[str, object]) -> str:
    return wording.unbroken(f"(s = {wording.number(_scale(row)[0])})")


def _without(uncertainty: pd.DataFrame) -> list[str]:
    return [
        f"{model} has too few networks, trained alike from other seeds, to hold its standard "
        f"errors against. To have them, set models.{model}.members: 6 and run again."
        for model in unjudged(uncertainty)
    ]
