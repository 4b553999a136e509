"""What goes along with the effect: covariates of sequences, in words and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Answer, Effect
from deepmr.report.heterogeneity import key_of
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Cell, Heading, Table, as_count, as_float, records
from deepmr.report.table import Row as TableRow

ALONE, TOGETHER = "alone", "together"
INTERCEPT = "intercept"
Row = Mapping[str, object]


@dataclass(frozen=True)
class Section:
    """What the report says of the covariates.

    Attributes
    ----------
    summary : tuple of str
        What each effect goes along with.
    table : Table
        A row is a covariate of an effect, alone and together with the others.
    """

    summary: tuple[str, ...]
    table: Table


def of_moderators(regression: pd.DataFrame, found: Sequence[Answer]) -> Section:
    """Return what the report says of the covariates.

    Parameters
    ----------
    regression : DataFrame
        ``meta_regression.parquet``.
    found : sequence of Answer
        The pairs.

    Returns
    -------
    Section
    """
    slopes = [row for row in records(regression) if row["term"] != INTERCEPT]
    seen: list[str] = []
    unseen: list[str] = []
    rows: list[TableRow] = []
    untested: dict[str, list[str]] = {}
    for effect in effects_of(found):
        key = effect.model, effect.pair, effect.direction
        of_effect = [row for row in slopes if key_of(row) == key]
        if not of_effect:
            continue
        name = effect_name(effect, found)
        terms = list(dict.fromkeys(str(row["term"]) for row in of_effect))
        at = {(str(row["term"]), str(row["covariates"])): row for row in of_effect}
        pairs = {term: (at.get((term, ALONE)), at.get((term, TOGETHER))) for term in terms}
        tested = {term: row for term, (row, _) in pairs.items() if row is not None and _known(row)}
        going_along = [
            f"{_how(row, effect)} {_where(term, effect)}: {_signed(row)} {row['unit']}"
            f"{_given(pairs[term][1])}"
            for term, row in tested.items()
            if as_float(row["p_value"]) < 0.05
        ]
        if going_along:
            seen.append(f"{name}: the effect is {'; '.join(going_along)}.")
        elif tested:
            unseen.append(name)
        else:
            untested.setdefault(_whys(of_effect), []).append(name)
        rows.append(Heading(name))
        rows += [_row(term, *both, effect) for term, both in pairs.items()]
    text = list(seen)
    if unseen:
        text.append(
            f"Not seen to change with any covariate: {wording.joined(unseen)}. That may be for "
            "want of sequences; the intervals tell."
        )
    text += [
        f"No covariate could be tested for {wording.joined(names)} ({why})."
        for why, names in untested.items()
    ]
    columns = (
        "covariate",
        "unit",
        "sequences",
        "alone",
        "p",
        "τ² explained",
        "together with the others",
        "p",
    )
    return Section(tuple(text), Table(columns, tuple(rows), 2))


def _whys(rows: Sequence[Row]) -> str:
    return "; ".join(dict.fromkeys(_why(row) for row in rows))


def _how(row: Row, effect: Effect) -> str:
    """Return how the effect changes as the covariate grows: "larger" is away from 0."""
    up = as_float(row["estimate"]) > 0
    if not effect.sign:
        return "higher" if up else "lower"
    return "larger" if up == (effect.sign > 0) else "smaller"


def _where(term: str, effect: Effect) -> str:
    built_in = {
        "gc": "where more bases are G or C",
        "predicted_exposure": f"where the model predicts more {effect.exposure}",
        "motif_distance": (
            f"where the motifs of {effect.exposure} and {effect.outcome} lie further apart"
        ),
        "bound": "in bound than in unbound sequences",
    }
    if term in built_in:
        return built_in[term]
    return f"in sequences with {wording.stratum(term)}" if "=" in term else f"with more {term}"


def _named(term: str, effect: Effect) -> str:
    return {
        "gc": "GC content",
        "predicted_exposure": f"predicted {effect.exposure}",
        "motif_distance": "distance of the motifs",
        "bound": "bound or not",
    }.get(term, wording.stratum(term))


def _given(together: Row | None) -> str:
    if together is None or not _known(together):
        return ""
    return f" (with the other covariates in the model {_signed(together)})"


def _signed(row: Row) -> str:
    """Return a change with its interval, "+" before one that is not printed as 0."""
    value, low, high = (as_float(row[key]) for key in ("estimate", "ci_low", "ci_high"))
    places = wording.decimals(low, high)
    text = wording.estimate(value, low, high, places)
    return f"+{text}" if round(value, places) > 0 else text


def _row(term: str, alone: Row | None, together: Row | None, effect: Effect) -> TableRow:
    shown = next(row for row in (alone, together) if row is not None)
    explained = np.nan if alone is None else as_float(alone["r2"])
    return (
        _named(term, effect),
        unit if isinstance(unit := shown["unit"], str) else "–",
        f"{as_count(shown['k'])}",
        _cell(alone),
        "–" if alone is None else wording.p_value(as_float(alone["p_value"]), ""),
        wording.percent(explained / 100) if np.isfinite(explained) else "–",
        _cell(together),
        "–" if together is None else wording.p_value(as_float(together["p_value"]), ""),
    )


def _cell(row: Row | None) -> str | Cell:
    if row is None:
        return "–"
    return _signed(row) if _known(row) else Cell("–", _why(row))


def _why(row: Row) -> str:
    return wording.reason(row["reason"]) or wording.status(str(row["status"]))


def _known(row: Row) -> bool:
    return bool(np.isfinite([as_float(row[key]) for key in ("estimate", "ci_low")]).all())
