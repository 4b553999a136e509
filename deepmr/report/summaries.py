"""The report's tables of causal effects: cells of text made from the tables of a run."""

from collections.abc import Mapping, Sequence

import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import DECOY, DRAW_WISE, Answer, Effect, Settings
from deepmr.report.table import Cell, Table, as_count, records
from deepmr.report.table import as_float as _float


def pairs_table(found: Sequence[Answer], settings: Settings) -> Table:
    """Return pairs × directions by the headline's method, the truth beside it where known."""
    effects = effects_of(found)
    simulated = settings.effect_scale == "logit" and any(e.truth for e in effects)
    columns = [
        "effect",
        "sequences",
        "estimate [95 % interval]",
        "p",
        "FDR",
        "q",
    ]
    if simulated:
        columns += ["true marginal slope", "true θ", "held"]
    columns += ["SE"]
    rows = []
    for effect in effects:
        row, known = effect.row, effect.known
        places = wording.decimals(effect.ci_low, effect.ci_high)
        cells = [
            effect_name(effect, found),
            f"{effect.estimated} / {effect.asked}",
            wording.with_interval(effect),
            wording.p_value(row["p_value"], ""),
            wording.p_value(row["fdr"], ""),
            wording.p_value(row["q_value"], ""),
        ]
        if simulated:
            truth = effect.truth
            cells += (
                [
                    wording.number(truth.marginal_slope, places),
                    wording.number(truth.theta, 2),
                    ("yes" if effect.holds(truth.value) else "no") if known else "–",
                ]
                if truth
                else ["–", "–", "–"]
            )
        cells.append(wording.number(_float(row["se"]), 3))
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def views_table(meta: pd.DataFrame, answer: Answer) -> Table:
    """Return every method, stratum and combination of one pair: both directions and the decoy."""
    rows = meta[
        (meta["model"] == answer.model)
        & (meta["pair"] == answer.pair)
        & (meta["inference"] == DRAW_WISE)
    ]
    return Table(
        (
            "effect",
            "method",
            "stratum",
            "combination",
            "sequences",
            "estimate [95 % interval]",
            "p",
            "FDR",
            "I² %",
        ),
        tuple(
            (
                Cell(f"{row['exposure']} → {row['outcome']}", _kind(row)),
                str(row["method"]),
                wording.stratum(str(row["stratum"])),
                str(row["combination"]),
                f"{as_count(row['k'])}",
                wording.row_estimate(row),
                wording.p_value(_float(row["p_value"]), ""),
                wording.p_value(_float(row["fdr"]), ""),
                wording.number(_float(row["i2"]), 0),
            )
            for row in records(rows)
        ),
        4,
    )


def instruments_table(mr: pd.DataFrame, found: Sequence[Answer], settings: Settings) -> Table:
    """Return how strong the instruments were, and why sequences have no estimate."""
    rows = []
    for effect in effects_of(found):
        local = mr[
            (mr["model"] == effect.model)
            & (mr["pair"] == effect.pair)
            & (mr["direction"] == effect.direction)
            & (mr["method"] == settings.method)
        ]
        ok = local[local["status"] == "ok"]
        rules = " / ".join(sorted(set(local["instrument_rule"].dropna().astype(str))))
        rows.append(
            (
                effect_name(effect, found),
                rules or "–",
                "; ".join(f"{n} {wording.status(s)}" for s, n in effect.reasons.items()) or "none",
                wording.number(ok["n_instruments"].median(), 0),
                wording.number(ok["mean_f"].median(), 1),
                wording.number(ok["i2_gx"].median(), 2),
                _share_below(ok["intercept_p"]),
                _share_below(ok["q_p"]),
            )
        )
    return Table(
        (
            "effect",
            "instruments",
            "sequences without an estimate",
            "median number",
            "median F",
            "median I²_GX",
            "intercept p < 0.05",
            "Q p < 0.05",
        ),
        tuple(rows),
        3,
    )


def effects_of(found: Sequence[Answer]) -> list[Effect]:
    """Return the effects of all pairs, both directions; decoys are none."""
    return [effect for answer in found for effect in (answer.forward, answer.reverse)]


def effect_name(effect: Effect, found: Sequence[Answer]) -> str:
    """Return "GATA1 → open", with the model where the report has several models."""
    several = len({answer.model for answer in found}) > 1
    return f"{effect.name} ({effect.model})" if several else effect.name


def _kind(row: Mapping[str, object]) -> str:
    if row["direction"] == DECOY:
        return f"decoy: {row['exposure']} of other sequences"
    return "given the other exposures" if str(row["method"]).startswith("mv_") else ""


def _share_below(p_values: pd.Series, threshold: float = 0.05) -> str:
    known = p_values.dropna()
    return wording.percent(float((known < threshold).mean())) if len(known) else "–"
