"""Does an effect depend on how well it is known, or on a single sequence? Tests and influence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Answer, Effect
from deepmr.report.checks import Check
from deepmr.report.heterogeneity import by_effect, key_of
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Cell, Table, as_count, as_float, records

Row = Mapping[str, object]
Diagnosed = tuple[Effect, Row]


@dataclass(frozen=True)
class Section:
    """What the report says of small-study tests and of influential sequences.

    Attributes
    ----------
    small_study_summary, influence_summary : tuple of str
        What was seen, in words.
    small_study, influence : Table
        A row is an effect.
    """

    small_study_summary: tuple[str, ...]
    small_study: Table
    influence_summary: tuple[str, ...]
    influence: Table


def of_small_study(
    diagnostics: pd.DataFrame, sequence_effects: pd.DataFrame, found: Sequence[Answer]
) -> Section:
    """Return what the report says of small-study tests and of influential sequences.

    Parameters
    ----------
    diagnostics, sequence_effects : DataFrame
        ``meta_diagnostics.parquet`` and ``sequence_effects.parquet``.
    found : sequence of Answer
        The pairs.

    Returns
    -------
    Section
        An effect without diagnostics has no row.
    """
    rows = _diagnosed(diagnostics, found)
    most = {row["most_influential"] for _, row in rows}
    single = {
        (*key_of(row), str(row["sequence_id"])): row
        for row in records(sequence_effects[sequence_effects["sequence_id"].isin(most)])
    }
    return Section(
        tuple(_dependence(rows, found)),
        _small_study(rows, found),
        tuple(_carried(rows, found)),
        _influence(rows, single, found),
    )


def influence_checks(diagnostics: pd.DataFrame, found: Sequence[Answer]) -> list[Check]:
    """Return a warning of effects that one sequence carries."""
    fragile = [
        f"{effect_name(effect, found)} ({row['most_influential']})"
        for effect, row in _diagnosed(diagnostics, found)
        if _is_fragile(effect, row)
    ]
    if not fragile:
        return []
    return [
        Check(
            "warn",
            "One sequence carries an answer",
            f"{wording.joined(fragile)}: without one sequence the estimate changes its sign or "
            "leaves its own interval. Look at the funnel and at that sequence.",
        )
    ]


def _diagnosed(diagnostics: pd.DataFrame, found: Sequence[Answer]) -> list[Diagnosed]:
    at = by_effect(diagnostics)
    return [
        (effect, row)
        for effect in effects_of(found)
        if (row := at.get((effect.model, effect.pair, effect.direction))) is not None
    ]


def _dependence(rows: Sequence[Diagnosed], found: Sequence[Answer]) -> list[str]:
    tested = [(e, r) for e, r in rows if np.isfinite(as_float(r["egger_p"]))]
    if not tested:
        return ["No effect has enough sequences for a test."]
    text = []
    for effect, row in tested:
        by = [
            name
            for name, key in (("Egger", "egger_p"), ("rank test", "rank_p"))
            if as_float(row[key]) < 0.05
        ]
        if by:
            text.append(
                f"{effect_name(effect, found)}: {_reading(effect, row)} ({wording.joined(by)})."
            )
    return text or ["No effect is seen to depend on its own standard error."]


def _reading(effect: Effect, row: Row) -> str:
    slope = as_float(row["egger_z"] if as_float(row["egger_p"]) < 0.05 else row["rank_tau"])
    if not effect.sign:
        return f"sequences that are less sure say {'more' if slope > 0 else 'less'}"
    if slope * effect.sign < 0:
        return (
            "sequences that are less sure have an effect nearer 0, as weak instruments make it: "
            "they dilute it"
        )
    return (
        "sequences that are less sure have a larger effect, as where a large slope makes its own "
        "standard error large; the global estimate then leans to the small ones"
    )


def _small_study(rows: Sequence[Diagnosed], found: Sequence[Answer]) -> Table:
    columns = (
        "effect",
        "sequences",
        "Egger z",
        "p",
        "Kendall τ",
        "p",
        "estimate",
        "sequences filled in",
        "estimate with them",
    )
    return Table(
        columns,
        tuple(
            (
                effect_name(effect, found),
                _counted(row),
                wording.number(as_float(row["egger_z"]), 2),
                wording.p_value(as_float(row["egger_p"]), ""),
                wording.number(as_float(row["rank_tau"]), 2),
                wording.p_value(as_float(row["rank_p"]), ""),
                _like(effect, effect.estimate),
                wording.number(as_float(row["trim_fill_k0"]), 0),
                _marked(_like(effect, as_float(row["trim_fill_estimate"])), effect, row),
            )
            for effect, row in rows
        ),
    )


def _carried(rows: Sequence[Diagnosed], found: Sequence[Answer]) -> list[str]:
    known = [(e, r) for e, r in rows if e.sign and np.isfinite(as_float(r["without_one_low"]))]
    if not known:
        return ["No effect that differs from 0 has enough sequences to leave one out."]
    fragile = [(e, r) for e, r in known if _is_fragile(e, r)]
    if fragile:
        return [
            f"{effect_name(e, found)} hangs on one sequence: leaving one out, whichever it is, "
            f"puts the estimate{_by(e, r)} between {_like(e, as_float(r['without_one_low']))} and "
            f"{_like(e, as_float(r['without_one_high']))}."
            for e, r in fragile
        ]
    names = wording.joined([effect_name(e, found) for e, _ in known])
    text = f"No single sequence carries {names}: leaving any one out"
    other = next((_by(e, r) for e, r in known if _by(e, r)), None)
    if other is not None:
        return [f"{text} does not change the sign of the estimate{other}."]
    most = max(_moved(e, r) for e, r in known)
    share = wording.percent(most) if most >= 0.005 else f"1{wording.NBSP}%"
    return [f"{text} moves the estimate by at most {share} of it."]


def _influence(
    rows: Sequence[Diagnosed],
    single: Mapping[tuple[str, str, str, str], Row],
    found: Sequence[Answer],
) -> Table:
    made = []
    for effect, row in rows:
        low, high = as_float(row["without_one_low"]), as_float(row["without_one_high"])
        name = row["most_influential"]
        one = single.get((*key_of(row), str(name)))
        made.append(
            (
                effect_name(effect, found),
                _counted(row),
                _like(effect, effect.estimate),
                _marked(f"{_like(effect, low)} to {_like(effect, high)}", effect, row)
                if np.isfinite(low)
                else "–",
                wording.number(as_float(row["n_influential"]), 0),
                str(name) if isinstance(name, str) and name else "–",
                "–" if one is None else _weight(as_float(one["weight"])),
                "–" if one is None else _like(effect, as_float(one["without"])),
            )
        )
    columns = (
        "effect",
        "sequences",
        "estimate",
        "without any one",
        "influential",
        "most of all",
        "its weight",
        "without it",
    )
    return Table(columns, tuple(made))


def _weight(percent: float) -> str:
    return f"{wording.number(percent, 1)}{wording.NBSP}%" if np.isfinite(percent) else "–"


def _counted(row: Row) -> str | Cell:
    """Return the number of sequences, with the reason where that is not all there is to say."""
    return Cell(f"{as_count(row['k'])}", wording.reason(row["reason"]))


def _marked(text: str, effect: Effect, row: Row) -> str | Cell:
    """Return a value, with the combination below it where that is not the effect's own."""
    by = _by(effect, row).strip()
    return Cell(text, by) if by else text


def _like(effect: Effect, value: float) -> str:
    """Return a number with the decimals of the effect's interval."""
    return wording.number(value, wording.decimals(effect.ci_low, effect.ci_high))


def _is_fragile(effect: Effect, row: Row) -> bool:
    low, high = as_float(row["without_one_low"]), as_float(row["without_one_high"])
    if not effect.sign or not np.isfinite([low, high]).all():
        return False
    if low <= 0 <= high:
        return True
    # An interval of the median says nothing of where REML lies.
    return not _by(effect, row) and (low < effect.ci_low or high > effect.ci_high)


def _by(effect: Effect, row: Row) -> str:
    """Return by which combination a diagnostic is, where the effect's own cannot give it."""
    used = str(row["combination"])
    return "" if used == effect.row["combination"] else f" by {used}"


def _moved(effect: Effect, row: Row) -> float:
    ends = np.array([as_float(row["without_one_low"]), as_float(row["without_one_high"])])
    return float(np.abs(ends - effect.estimate).max() / abs(effect.estimate))
