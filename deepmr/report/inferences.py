"""Three inferences: what the global effects are known to be, by whose errors count as shared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deepmr.report import wording
from deepmr.report.answers import Answer, Effect
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Cell, Table, as_count, as_float


@dataclass(frozen=True)
class Section:
    """What the report says of the three inferences.

    Attributes
    ----------
    summary : tuple of str
        Why the draw-wise one is used, and what the others would claim.
    table : Table
        A row is a pair in one direction.
    """

    summary: tuple[str, ...]
    table: Table


def of_inferences(found: Sequence[Answer]) -> Section:
    """Return what the report says of the three inferences.

    Parameters
    ----------
    found : sequence of Answer
        The pairs.

    Returns
    -------
    Section
        An effect without an estimate has no row.
    """
    known = [effect for effect in effects_of(found) if effect.known]
    return Section(tuple(_summary(known, found)), _table(known, found))


def _summary(known: Sequence[Effect], found: Sequence[Answer]) -> list[str]:
    text = [
        "Draw-wise is used: one network made the estimates of all sequences, so its errors are "
        "shared. A whole meta-analysis is made in each draw of the network, and what a draw gets "
        "wrong in all sequences alike stays in the interval however many sequences there are."
    ]
    shown = next((e for e in known if e.sign), next(iter(known), None))
    if shown is None:
        return text
    fmi = as_float(shown.row["fmi"])
    if np.isfinite(fmi):
        text.append(
            f"Of the variance of {effect_name(shown, found)}, {wording.percent(fmi)} is error of "
            "the network (the fraction of missing information). Further sequences remove of it "
            "only what is not the same in all of them."
        )
    if shown.diagonal is not None:
        diagonal_se = as_float(shown.diagonal["se"])
        ratio = as_float(shown.row["se"]) / diagonal_se if diagonal_se > 0 else np.nan
        times = f", {wording.number(ratio, 1)} times as narrow" if ratio > 1 else ""
        text.append(
            f"A diagonal analysis takes every sequence for an independent study and would claim "
            f"{wording.row_estimate(shown.diagonal)}{times}."
        )
    claimed = [effect_name(e, found) for e in known if not e.sign and _excludes_0(e.diagonal)]
    if claimed:
        text.append(
            f"It would also claim an effect where the draw-wise interval holds 0: "
            f"{wording.joined(claimed)}."
        )
    if any(e.chromosome is not None for e in known):
        text.append(
            "The inference by chromosome (CR2) lets errors be shared within a chromosome only. It "
            "sees what neighbouring sequences have in common, not what the network got wrong in "
            "all of them. With few chromosomes it has few degrees of freedom (df) and is wide; "
            "below 4 it is not to be trusted."
        )
    return text


def _table(known: Sequence[Effect], found: Sequence[Answer]) -> Table:
    rows = []
    for effect in known:
        row = effect.row
        se = as_float(row["se"])
        rows.append(
            (
                effect_name(effect, found),
                wording.with_interval(effect),
                _chromosome(effect.chromosome),
                "–" if effect.diagonal is None else wording.row_estimate(effect.diagonal),
                *(wording.number(as_float(row[key]), 3) for key in ("se_within", "se_draws")),
                _share(as_float(row["fmi"])),
                _times(se, effect.chromosome),
                _times(se, effect.diagonal),
            )
        )
    return Table(
        (
            "effect",
            "draw-wise (used)",
            "by chromosome (CR2)",
            "diagonal",
            "SE within draws",
            "SE over draws",
            "missing information",
            "draw-wise SE over CR2",
            "over diagonal",
        ),
        tuple(rows),
    )


def _chromosome(row: Mapping[str, object] | None) -> str | Cell:
    if row is None:
        return "–"
    clusters = as_count(row["n_clusters"])
    if not np.isfinite(as_float(row["estimate"])):
        return Cell("–", wording.reason(row["reason"]) or wording.status(str(row["status"])))
    return Cell(
        wording.row_estimate(row), f"{clusters} chromosomes; df {wording.number(row['df'], 1)}"
    )


def _times(se: float, row: Mapping[str, object] | None) -> str:
    other = np.nan if row is None else as_float(row["se"])
    return f"{wording.number(se / other, 1)} ×" if other > 0 else "–"


def _share(value: float) -> str:
    return wording.percent(value) if np.isfinite(value) else "–"


def _excludes_0(row: Mapping[str, object] | None) -> bool:
    return row is not None and (as_float(row["ci_low"]) > 0 or as_float(row["ci_high"]) < 0)
