"""Do all sequences say the same? The spread between them, strata, and shares with an effect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import DRAW_WISE, Answer, Effect, Settings
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Cell, Table, as_count, as_float, records
from deepmr.report.table import Row as TableRow
from deepmr.schemas import DIRECTIONS

_CONVENTIONS = {
    "metafor": "metafor's convention (quantile of the test, √(SE² + τ²))",
    "hts": "that of Higgins, Thompson and Spiegelhalter (t with k − 2 degrees of freedom)",
    "t_k-1": "t with k − 1 degrees of freedom",
    "normal": "the normal quantile",
}
_EQUAL = "FE"
"""The combination that takes tau2 for 0 and does not estimate it."""
Key = tuple[str, str, str]
Row = Mapping[str, object]


@dataclass(frozen=True)
class Section:
    """What the report says of how sequences differ.

    Attributes
    ----------
    summary : tuple of str
        The spread and the shares of each effect that differs from 0.
    spread : Table
        tau, I2 and H2 with their Q-profile intervals, and the prediction interval.
    convention : str
        How the prediction intervals were made, in words; empty where there is none.
    shares : Table
        Shares of sequences without, with a negative and with a positive effect.
    strata : Table
        The estimate in each stratum; a row is an effect.
    """

    summary: tuple[str, ...]
    spread: Table
    convention: str
    shares: Table
    strata: Table


def of_heterogeneity(
    meta: pd.DataFrame,
    diagnostics: pd.DataFrame,
    found: Sequence[Answer],
    settings: Settings,
) -> Section:
    """Return what the report says of how sequences differ.

    Parameters
    ----------
    meta, diagnostics : DataFrame
        ``meta.parquet`` and ``meta_diagnostics.parquet``.
    found : sequence of Answer
        The pairs.
    settings : Settings
        Method and combination of the rows of `meta`.

    Returns
    -------
    Section
    """
    effects = effects_of(found)
    row_of = by_effect(diagnostics)
    conventions = dict.fromkeys(
        str(e.row["pi_kind"]) for e in effects if np.isfinite(as_float(e.row["pi_low"]))
    )
    return Section(
        tuple(_summary(effects, row_of, found)),
        _spread(effects, found),
        wording.joined([_CONVENTIONS.get(kind, kind) for kind in conventions]),
        _shares(effects, row_of, found),
        _strata(meta, effects, found, settings),
    )


def by_effect(table: pd.DataFrame) -> dict[Key, dict[str, object]]:
    """Return the rows of a table by model, pair and direction; one row each."""
    return {key_of(row): row for row in records(table)}


def key_of(row: Row) -> Key:
    """Return model, pair and direction of a row."""
    return str(row["model"]), str(row["pair"]), str(row["direction"])


def _summary(
    effects: Sequence[Effect], row_of: Mapping[Key, Row], found: Sequence[Answer]
) -> list[str]:
    seen = [effect for effect in effects if effect.sign]
    if not seen:
        return ["No effect differs from 0; how far sequences differ all the same is below."]
    text = []
    for effect in seen:
        parts = [_spread_words(effect)]
        row = row_of.get((effect.model, effect.pair, effect.direction))
        if row is not None:
            parts.append(_share_words(row))
        text.append(f"{effect_name(effect, found)}: {'. '.join(filter(None, parts))}.")
    return text


def _spread_words(effect: Effect) -> str:
    row = effect.row
    if row["combination"] == _EQUAL:
        return f"{_EQUAL} takes one effect for all sequences; how far they differ is not estimated"
    tau2, low = as_float(row["tau2"]), as_float(row["tau2_low"])
    if not np.isfinite(tau2):
        why = wording.reason(row["reason"])
        return why or "how far sequences differ is not estimated by this combination"
    tau = f"τ {_root(row)}"
    if not np.isfinite(low):
        text = f"sequences differ by {tau}"
    elif low > 0:
        text = f"sequences differ by more than their errors ({tau})"
    else:
        text = f"no difference between sequences can be told from their errors ({tau})"
    pi_low, pi_high = as_float(row["pi_low"]), as_float(row["pi_high"])
    if not np.isfinite([pi_low, pi_high]).all():
        return text
    text += f"; a new one is expected in {wording.interval(pi_low, pi_high)}"
    return text + (", which holds 0" if pi_low <= 0 <= pi_high else "")


def _share_words(row: Row) -> str:
    if not np.isfinite(as_float(row["share_zero"])):
        return ""
    return (
        f"{_share(row, 'positive')} of sequences have a positive effect, "
        f"{_share(row, 'negative')} a negative one, {_share(row, 'zero')} none; the sign is sure "
        f"in {as_count(row['n_sure'])} of {as_count(row['k'])}"
    )


def _spread(effects: Sequence[Effect], found: Sequence[Answer]) -> Table:
    rows: list[TableRow] = []
    for effect in effects:
        row = effect.row
        if not effect.known:
            why = wording.reason(row["reason"]) or wording.status(str(row["status"]))
            rows.append(
                (effect_name(effect, found), f"{as_count(row['k'])}", Cell("–", why), *["–"] * 5)
            )
            continue
        pi = as_float(row["pi_low"]), as_float(row["pi_high"])
        rows.append(
            (
                effect_name(effect, found),
                Cell(f"{as_count(row['k'])}", wording.reason(row["reason"])),
                wording.with_interval(effect),
                "–" if row["combination"] == _EQUAL else _root(row),
                _bounded(row, "i2", 0),
                _bounded(row, "h2", 2),
                wording.p_value(as_float(row["q_p"]), ""),
                wording.interval(*pi) if np.isfinite(pi).all() else "–",
            )
        )
    columns = ("effect", "sequences", "estimate [95 % interval]", "τ", "I² %", "H²", "p of Q")
    return Table((*columns, "prediction interval"), tuple(rows))


def _shares(effects: Sequence[Effect], row_of: Mapping[Key, Row], found: Sequence[Answer]) -> Table:
    rows: list[TableRow] = []
    for effect in effects:
        name = effect_name(effect, found)
        row = row_of.get((effect.model, effect.pair, effect.direction))
        if row is None or not np.isfinite(as_float(row["share_zero"])):
            rows.append((name, "–" if row is None else _why(row), *["–"] * 4))
            continue
        rows.append(
            (
                name,
                f"{as_count(row['k'])}",
                *(_share(row, kind) for kind in ("zero", "negative", "positive")),
                f"{as_count(row['n_sure'])}",
            )
        )
    columns = ("effect", "sequences", "no effect", "negative", "positive", "sure of the sign")
    return Table(columns, tuple(rows))


def _why(row: Row) -> Cell:
    why = wording.reason(row["reason"]) or wording.status(str(row["status"]))
    return Cell(f"{as_count(row['k'])}", why)


def _share(row: Row, kind: str) -> str:
    share, sd = as_float(row[f"share_{kind}"]), as_float(row[f"share_{kind}_sd"])
    within = f" ±{wording.NBSP}{wording.number(100 * sd, 0)}" if np.isfinite(sd) else ""
    return wording.unbroken(f"{wording.number(100 * share, 0)}{within} %")


def _strata(
    meta: pd.DataFrame,
    effects: Sequence[Effect],
    found: Sequence[Answer],
    settings: Settings,
) -> Table:
    rows = meta[
        (meta["method"] == settings.method)
        & (meta["combination"] == settings.combination)
        & (meta["inference"] == DRAW_WISE)
        & meta["direction"].isin(DIRECTIONS)
    ]
    names = list(dict.fromkeys(str(name) for name in rows["stratum"]))
    at = {(key_of(row), str(row["stratum"])): row for row in records(rows)}
    return Table(
        ("effect", *(wording.stratum(name) for name in names)),
        tuple(
            (
                effect_name(effect, found),
                *(
                    _in_stratum(at.get(((effect.model, effect.pair, effect.direction), name)))
                    for name in names
                ),
            )
            for effect in effects
        ),
    )


def _in_stratum(row: Row | None) -> str | Cell:
    if row is None:
        return "–"
    asked = f"{as_count(row['k'])} of {wording.sequences(row['n_sequences'])}"
    if not np.isfinite(as_float(row["estimate"])):
        return Cell("–", asked)
    return Cell(wording.row_estimate(row), asked)


def _root(row: Row) -> str:
    """Return tau with its interval, from those of tau2."""
    bounds = [as_float(row[key]) for key in ("tau2", "tau2_low", "tau2_high")]
    value, low, high = np.sqrt(np.maximum(bounds, 0.0))
    if np.isnan([low, high]).any():
        return wording.number(value, 3)
    return wording.estimate(value, low, high)


def _bounded(row: Row, name: str, places: int) -> str:
    value, low, high = (as_float(row[key]) for key in (name, f"{name}_low", f"{name}_high"))
    if np.isnan([low, high]).any():
        return wording.number(value, places)
    return wording.estimate(value, low, high, places)
