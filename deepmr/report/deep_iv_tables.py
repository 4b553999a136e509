"""The tables of Deep IV and of the slopes that depend on the context."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from deepmr.report import wording
from deepmr.report.answers import Answer, Effect, Settings
from deepmr.report.deep_iv_comparison import Row, ar_set, has_set, known, sign, strength, weak, why
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Cell, Heading, Table, as_count, as_float
from deepmr.report.table import Row as TableRow

METHODS = {
    "deep_iv": "Deep IV",
    "naive": "naive network",
    "2sls": "2SLS",
    "polynomial_2sls": "polynomial 2SLS",
    "constant_slope": "one slope",
    "context_slope": "slope by context",
}
"""Method of ``deep_iv.parquet`` -> its name in a table."""

_NO_NUMBER = "–"


def labels_table(labels: Sequence[Row]) -> Table:
    """Return every method on measured labels; a group is a pair in one direction.

    Parameters
    ----------
    labels : sequence of mapping
        The rows of ``deep_iv.parquet`` with the source ``labels``.

    Returns
    -------
    Table
    """
    columns = (
        "method",
        "estimate [95 % interval]",
        "p",
        "Anderson-Rubin set",
        "F",
        "decided by the word",
        "network's own average",
        "windows",
        "left out",
        "remark",
    )
    rows: list[TableRow] = []
    for _, group in groupby(labels, lambda row: (row["pair"], row["direction"])):
        of_arrow = list(group)
        first = of_arrow[0]
        rows.append(Heading(f"{first['exposure']} → {first['outcome']}", str(first["unit"])))
        rows += _without_answer(of_arrow, len(columns)) or [_of_labels(row) for row in of_arrow]
    return Table(columns, tuple(rows), prose=True)


def slopes_table(slopes: Sequence[Row], found: Sequence[Answer], settings: Settings) -> Table:
    """Return MR, one slope and slopes by context; a group is an effect of a model.

    Parameters
    ----------
    slopes : sequence of mapping
        The rows of ``deep_iv.parquet`` with the source ``model``.
    found : sequence of Answer
        The pairs, of every model; their MR estimate heads each group.
    settings : Settings
        The method of MR, for its name.

    Returns
    -------
    Table
        An effect without such rows has no group.
    """
    columns = (
        "method",
        "estimate [95 % interval]",
        "p",
        "factor of the predicted slopes",
        "scatter explained",
        "SD of predicted slopes",
        "sequences",
        "instruments",
        "remark",
    )
    rows: list[TableRow] = []
    for effect in effects_of(found):
        key = effect.model, effect.pair, effect.direction
        of_effect = [row for row in slopes if (row["model"], row["pair"], row["direction"]) == key]
        if of_effect:
            rows.append(Heading(effect_name(effect, found), str(of_effect[0]["unit"])))
            rows.append(_of_mr(effect, settings))
            rows += _without_answer(of_effect, len(columns)) or [_of_slope(r) for r in of_effect]
    return Table(columns, tuple(rows), prose=True)


def _of_labels(row: Row) -> TableRow:
    return (
        _method(row),
        _estimate(row),
        wording.p_value(as_float(row["p_value"]), ""),
        ar_set(row),
        strength(row),
        _share(row["q_variance_share"], 1) if has_set(row) else _NO_NUMBER,
        wording.number(as_float(row["network"]), _places(row)),
        Cell(f"{as_count(row['n_windows']):,}", f"{as_count(row['n_clusters'])} blocks"),
        f"{as_count(row['n_left_out']):,}",
        _remark(row),
    )


def _of_slope(row: Row) -> TableRow:
    factor, se = as_float(row["moderation"]), as_float(row["moderation_se"])
    p = wording.p_value(as_float(row["moderation_p"]))
    return (
        _method(row),
        _estimate(row),
        wording.p_value(as_float(row["p_value"]), ""),
        Cell(wording.number(factor), f"SE{wording.NBSP}{wording.number(se)}, {p}")
        if np.isfinite(factor)
        else _NO_NUMBER,
        _share(row["r2"]),
        wording.number(as_float(row["slope_sd"])),
        f"{as_count(row['n_windows']):,}",
        f"{as_count(row['n_instruments']):,}",
        _remark(row),
    )


def _of_mr(effect: Effect, settings: Settings) -> TableRow:
    row = effect.row
    return (
        Cell("MR", settings.method),
        Cell(wording.with_interval(effect), _se(row) if effect.known else "", effect.sign != 0),
        wording.p_value(as_float(row["p_value"]), ""),
        _NO_NUMBER,
        _NO_NUMBER,
        _NO_NUMBER,
        f"{as_count(row['k']):,}",
        _NO_NUMBER,
        "",
    )


def _without_answer(rows: Sequence[Row], width: int) -> list[TableRow]:
    """Return one row in place of several that have no number, all for the same reason."""
    reasons = {why(row) for row in rows}
    if any(np.isfinite(as_float(row["estimate"])) for row in rows) or len(reasons) > 1:
        return []
    return [("no estimate", *[_NO_NUMBER] * (width - 2), *reasons)]


def _method(row: Row) -> str:
    return METHODS.get(str(row["method"]), str(row["method"]))


def _estimate(row: Row) -> str | Cell:
    value = as_float(row["estimate"])
    if not np.isfinite(value):
        return _NO_NUMBER
    if not known(row):
        return wording.number(value)
    return Cell(wording.row_estimate(row), _se(row), sign(row) != 0)


def _se(row: Row) -> str:
    """Return the SE with its degrees of freedom, where these are finite."""
    df = as_float(row["df"])
    text = f"SE{wording.NBSP}{wording.number(as_float(row['se']), _places(row) + 1)}"
    return f"{text}, {df:.0f}{wording.NBSP}df" if np.isfinite(df) else text


def _places(row: Row) -> int:
    return wording.decimals(as_float(row["ci_low"]), as_float(row["ci_high"]))


def _share(value: object, places: int = 0) -> str:
    share = as_float(value)
    if not np.isfinite(share):
        return _NO_NUMBER
    return f"{wording.number(100 * share, places)}{wording.NBSP}%"


def _remark(row: Row) -> str:
    if not np.isfinite(as_float(row["estimate"])):
        return why(row)
    if weak(row):
        text = wording.status("weak_instrument")
        return f"{text}: read the Anderson-Rubin set" if has_set(row) else text
    return wording.reason(row["reason"])
