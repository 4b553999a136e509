"""The report's tables of causal effects: cells of text made from the tables of a run."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import DIAGONAL, DRAW_WISE, Answer, Effect, Settings
from deepmr.report.table import Table
from deepmr.report.table import as_float as _float


def pairs_table(found: Sequence[Answer], settings: Settings) -> Table:
    """Return pairs × directions by the headline's method, the truth beside it where known."""
    effects = _effects(found)
    simulated = settings.effect_scale == "logit" and any(e.truth for e in effects)
    columns = [
        "effect",
        "sequences",
        "estimate [95 % interval]",
        "p",
        "FDR",
    ]
    if simulated:
        columns += ["true marginal slope", "true θ", "held"]
    columns += ["SE", "SE within draws", "SE over draws", "τ", "I² %", "prediction interval"]
    rows = []
    for effect in effects:
        row, known = effect.row, effect.known
        places = wording.decimals(effect.ci_low, effect.ci_high)
        tau2 = _float(row["tau2"])
        cells = [
            _name(effect, found),
            f"{effect.estimated} / {effect.asked}",
            wording.with_interval(effect),
            wording.p_value(row["p_value"], ""),
            wording.p_value(row["fdr"], ""),
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
        cells += [
            *(wording.number(_float(row[key]), 3) for key in ("se", "se_within", "se_draws")),
            wording.number(np.sqrt(tau2) if tau2 >= 0 else np.nan, 3),
            wording.number(_float(row["i2"]), 0),
            wording.interval(_float(row["pi_low"]), _float(row["pi_high"]), places)
            if np.isfinite(_float(row["pi_low"]))
            else "–",
        ]
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows))


def diagonal_table(found: Sequence[Answer]) -> Table:
    """Return the draw-wise SE beside the diagonal one, which leaves covariances out."""
    rows = []
    for effect in _effects(found):
        if effect.diagonal is None or not effect.known:
            continue
        se, other = _float(effect.row["se"]), _float(effect.diagonal["se"])
        rows.append(
            (
                _name(effect, found),
                wording.with_interval(effect),
                wording.number(se, 3),
                _estimate_cell(effect.diagonal),
                wording.number(other, 3),
                wording.p_value(_float(effect.diagonal["p_value"]), ""),
                f"{wording.number(se / other, 1)} ×" if other > 0 else "–",
            )
        )
    return Table(
        (
            "effect",
            "draw-wise (used here)",
            "SE",
            "diagonal (not used)",
            "SE",
            "p",
            "too narrow by",
        ),
        tuple(rows),
    )


def views_table(meta: pd.DataFrame, answer: Answer) -> Table:
    """Return every method, stratum and combination of one pair, both directions."""
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
                f"{row['exposure']} → {row['outcome']}",
                str(row["method"]),
                str(row["stratum"]),
                str(row["combination"]),
                f"{row['k']}",
                _estimate_cell(row),
                wording.p_value(_float(row["p_value"]), ""),
                wording.p_value(_float(row["fdr"]), ""),
                wording.number(_float(row["i2"]), 0),
            )
            for row in rows.to_dict("records")
        ),
        4,
    )


def instruments_table(mr: pd.DataFrame, found: Sequence[Answer], settings: Settings) -> Table:
    """Return how strong the instruments were, and why sequences have no estimate."""
    rows = []
    for effect in _effects(found):
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
                _name(effect, found),
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


def has_diagonal(meta: pd.DataFrame) -> bool:
    """Return whether the meta-analysis also holds the inference without covariances."""
    return bool((meta["inference"] == DIAGONAL).any())


def _effects(found: Sequence[Answer]) -> list[Effect]:
    return [effect for answer in found for effect in (answer.forward, answer.reverse)]


def _name(effect: Effect, found: Sequence[Answer]) -> str:
    several = len({answer.model for answer in found}) > 1
    return f"{effect.name} ({effect.model})" if several else effect.name


def _estimate_cell(row: Mapping[str, object] | Mapping[Hashable, object]) -> str:
    cells = {str(key): value for key, value in row.items()}
    estimate, low, high = (_float(cells[key]) for key in ("estimate", "ci_low", "ci_high"))
    if not np.isfinite(estimate):
        return wording.status(str(cells["status"]))
    return wording.estimate(estimate, low, high)


def _share_below(p_values: pd.Series, threshold: float = 0.05) -> str:
    known = p_values.dropna()
    return wording.percent(float((known < threshold).mean())) if len(known) else "–"
