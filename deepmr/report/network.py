"""The network of all pairs, both directions: a table, what stands against each arrow, checks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.meta.tables.network import STRONG
from deepmr.report import wording
from deepmr.report.answers import Answer, Settings
from deepmr.report.checks import Check
from deepmr.report.table import Cell, Table, as_float, records

FLAG_WORDS = {
    "both_directions": "both directions significant: direction not identified",
    "decoy_differs_from_zero": "the decoy is not 0",
    "not_beyond_decoy": "not beyond its decoy",
    "not_conditional": "not seen given the other exposures",
    "sign_changes": "the sign changes given the other exposures",
}
"""Flag of ``network.parquet`` (`deepmr.meta.tables.network.FLAGS`) -> what it says in a table."""

_WARNINGS = {
    "decoy_differs_from_zero": (
        "A decoy is not 0",
        "with the exposure's effects taken from other sequences the interval still excludes 0. "
        "What is common to all sequences, such as the position in the window, makes part of the "
        "estimate. Chance alone does this to one decoy in twenty.",
    ),
    "not_beyond_decoy": (
        "Not beyond the decoy",
        "found, but the interval overlaps that of the decoy: the effect cannot be told from what "
        "all sequences have in common.",
    ),
    "not_conditional": (
        "Another exposure may explain it",
        "found alone, but given the other exposures of the same outcome the interval holds 0.",
    ),
    "sign_changes": (
        "The sign changes given the other exposures",
        "alone and given the other exposures of the same outcome the effect has opposite signs, "
        "and both intervals exclude 0.",
    ),
    "both_directions": (
        "Direction not identified",
        f"significant both ways at the false-discovery rate asked for, though at 95{wording.NBSP}% "
        "an interval holds 0.",
    ),
}


@dataclass(frozen=True)
class Section:
    """What the report says of the network.

    Attributes
    ----------
    summary : tuple of str
        How many arrows were found, and which of them nothing stands against.
    table : Table
        A row is a pair in one direction.
    """

    summary: tuple[str, ...]
    table: Table


def of_network(network: pd.DataFrame, settings: Settings) -> Section:
    """Return what the report says of the network.

    Parameters
    ----------
    network : DataFrame
        ``network.parquet``.
    settings : Settings
        ``fdr``, the level at which an arrow counts as found.

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        When a row has a flag without words.
    """
    rows = records(network)
    return Section(tuple(_summary(rows, settings)), _table(rows))


def network_checks(network: pd.DataFrame, found: Sequence[Answer]) -> list[Check]:
    """Return a warning for each kind of flag in the network, with the arrows that have it.

    Parameters
    ----------
    network : DataFrame
        ``network.parquet``.
    found : sequence of Answer
        A pair whose answer is "both" has its warning already.

    Returns
    -------
    list of Check
    """
    warned = {(a.model, a.pair) for a in found if a.verdict == "both"}
    rows = records(network)
    listed = []
    for flag, (title, text) in _WARNINGS.items():
        flagged = [
            _name(row, rows)
            for row in rows
            if flag in flags(row)
            and not (flag == "both_directions" and (row["model"], row["pair"]) in warned)
        ]
        if flagged:
            listed.append(Check("warn", title, f"{wording.joined(flagged)}: {text}"))
    return listed


def flags(row: Mapping[str, object]) -> list[str]:
    """Return the flags of a row of the network.

    Raises
    ------
    ValueError
        When a flag has no words.
    """
    text = row["flag"]
    named = [flag for flag in text.split(",") if flag] if isinstance(text, str) else []
    for flag in named:
        if flag not in FLAG_WORDS:
            raise ValueError(
                f"network table: unknown flag {flag!r} of {row['pair']}, {row['direction']}; "
                f"flags are {', '.join(FLAG_WORDS)}"
            )
    return named


def _summary(rows: Sequence[Mapping[str, object]], settings: Settings) -> list[str]:
    level = wording.level(settings.fdr)
    significant = [row for row in rows if row["significant"]]
    if not significant:
        return [f"None of {len(rows)} arrows is found (false-discovery rate at most {level})."]
    clear = [
        _name(row, rows) + ("" if _has_decoy(row) else " (it has no decoy)")
        for row in significant
        if not flags(row)
    ]
    doubtful = [
        f"{_name(row, rows)} ({'; '.join(FLAG_WORDS[flag] for flag in flags(row))})"
        for row in significant
        if flags(row)
    ]
    text = [
        f"{len(significant)} of {len(rows)} arrows {_are(len(significant))} found (false-discovery "
        f"rate at most {level})."
    ]
    if clear:
        text.append(f"Nothing here stands against {wording.joined(clear)}.")
    if doubtful:
        text.append(f"Not to be read as a cause without more: {'; '.join(doubtful)}.")
    return text


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    return Table(
        (
            "arrow",
            "estimate [95 % interval]",
            "FDR",
            "decoy",
            "other direction",
            "given other exposures",
            "what stands against it",
        ),
        tuple(
            (
                Cell(_name(row, rows), _size(row)),
                Cell(wording.row_estimate(row), marked=bool(row["significant"])),
                Cell(wording.p_value(as_float(row["fdr"]), ""), _q(row)),
                _beside(row, "decoy"),
                _beside(row, "back"),
                Cell(_beside(row, "conditional"), _given(row)),
                _against(row),
            )
            for row in rows
        ),
        prose=True,
    )


def _beside(row: Mapping[str, object], prefix: str) -> str:
    keys = ("estimate", "ci_low", "ci_high")
    value, low, high = (as_float(row[f"{prefix}_{key}"]) for key in keys)
    return wording.estimate(value, low, high) if np.isfinite(value) else "–"


def _given(row: Mapping[str, object]) -> str:
    others, method = row["conditional_on"], row["conditional_method"]
    if not isinstance(others, str) or not others or not isinstance(method, str):
        return ""
    size, f = wording.sequences(row["conditional_k"]), as_float(row["conditional_f"])
    weak = f"; F {wording.number(f, 1)}: too weak to be read" if f < STRONG else ""
    return f"given {wording.joined(others.split(','))} ({method}, {size}){weak}"


def _size(row: Mapping[str, object]) -> str:
    control = ", control pair" if row["control"] else ""
    return f"{wording.sequences(row['k'])}{control}"


def _q(row: Mapping[str, object]) -> str:
    q = as_float(row["q_value"])
    return wording.p_value(q, "q") if np.isfinite(q) else ""


def _against(row: Mapping[str, object]) -> str:
    named = [FLAG_WORDS[flag] for flag in flags(row)]
    if named:
        return "; ".join(named)
    if not np.isfinite(as_float(row["estimate"])):
        return "not estimated"
    if not row["significant"]:
        return "not found"
    return "nothing seen" if _has_decoy(row) else "nothing seen; it has no decoy"


def _has_decoy(row: Mapping[str, object]) -> bool:
    return bool(np.isfinite(as_float(row["decoy_estimate"])))


def _name(row: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> str:
    several = len({other["model"] for other in rows}) > 1
    return f"{row['exposure']} → {row['outcome']}" + (f" ({row['model']})" if several else "")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
