"""A causal model learned directly: Deep IV on measured labels, slopes on a model's own draws."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Answer, Settings
from deepmr.report.deep_iv_comparison import (
    DEEP_IV,
    LABELS,
    MODEL,
    Row,
    comparisons,
    known,
    sentence,
    weak,
    why,
)
from deepmr.report.deep_iv_tables import labels_table, slopes_table
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import Table, as_float, records

NAIVE, CONTEXT_SLOPE = "naive", "context_slope"


@dataclass(frozen=True)
class Section:
    """What the report says of Deep IV and of the slopes that depend on the context.

    Attributes
    ----------
    summary : tuple of str
        Each pair, both directions: what measured labels say, what the network says, and whether
        they agree in sign.
    beside : tuple of str
        What the same network says without the instrument.
    labels : Table
        Every method on measured labels; without rows if there was none.
    slopes_summary : tuple of str
        Whether the network's slopes depend on the context.
    slopes : Table
        MR, one slope and slopes by context; without rows if there was none.
    """

    summary: tuple[str, ...]
    beside: tuple[str, ...]
    labels: Table
    slopes_summary: tuple[str, ...]
    slopes: Table


def of_deep_iv(deep_iv: pd.DataFrame, found: Sequence[Answer], settings: Settings) -> Section:
    """Return what the report says of Deep IV.

    Parameters
    ----------
    deep_iv : DataFrame
        ``deep_iv.parquet``.
    found : sequence of Answer
        The pairs, of every model.
    settings : Settings
        Scale and method of the network's effects.

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        When the table has labels, but not one row of Deep IV for a pair and direction.
    """
    rows = records(deep_iv)
    labels = [row for row in rows if row["source"] == LABELS]
    slopes = [row for row in rows if row["source"] == MODEL]
    return Section(
        summary=tuple(sentence(one) for one in comparisons(deep_iv, found, settings)),
        beside=tuple(_beside(labels)),
        labels=labels_table(labels),
        slopes_summary=tuple(_slopes(slopes, found)),
        slopes=slopes_table(slopes, found, settings),
    )


def _beside(labels: Sequence[Row]) -> list[str]:
    """Return where the naive network says something else than Deep IV."""
    by_method = {(row["pair"], row["direction"], row["method"]): row for row in labels}
    apart, alike = [], []
    for row in labels:
        naive = by_method.get((row["pair"], row["direction"], NAIVE))
        if row["method"] != DEEP_IV or naive is None or not (known(row) and known(naive)):
            continue
        if weak(row):
            continue
        name = f"{row['exposure']} → {row['outcome']}"
        if _apart(row, naive):
            apart.append(
                f"{name} {wording.row_estimate(naive)} instead of {wording.row_estimate(row)}"
            )
        else:
            alike.append(name)
    text = []
    if apart:
        text.append(
            f"Without the instrument the same network, the naive one, says something else: "
            f"{'; '.join(apart)}. The difference is confounding of the labels, or that the "
            "average of Deep IV is local, over the windows that the word decides, or a word that "
            "acts past the exposure."
        )
    if alike:
        text.append(
            f"Deep IV and the naive network have intervals that overlap: {wording.joined(alike)}."
        )
    return text


def _apart(one: Row, other: Row) -> bool:
    return bool(
        as_float(one["ci_low"]) > as_float(other["ci_high"])
        or as_float(one["ci_high"]) < as_float(other["ci_low"])
    )


def _slopes(slopes: Sequence[Row], found: Sequence[Answer]) -> list[str]:
    """Return whether the slopes of each effect depend on the context."""
    by_key = {
        (row["model"], row["pair"], row["direction"]): row
        for row in slopes
        if row["method"] == CONTEXT_SLOPE
    }
    text: list[str] = []
    unseen: list[str] = []
    untested: dict[str, list[str]] = {}
    for effect in effects_of(found):
        row = by_key.get((effect.model, effect.pair, effect.direction))
        if row is None:
            continue
        name = effect_name(effect, found)
        factor, p = as_float(row["moderation"]), as_float(row["moderation_p"])
        if not np.isfinite(factor) and row["status"] == "ok":
            unseen.append(f"{name} (none was learned)")
        elif not np.isfinite(factor):
            untested.setdefault(why(row), []).append(name)
        elif not p < 0.05:
            unseen.append(f"{name} ({wording.p_value(p)})")
        elif factor < 0:
            text.append(
                f"{name}: sequences that were kept aside go against the predicted differences "
                f"of the slope, by a factor of {_factor(row)}. The network of slopes has learned "
                "noise; this is no dependence on the context."
            )
        else:
            text.append(
                f"{name}: the slope depends on the context. Predicted slopes have an SD of "
                f"{wording.number(as_float(row['slope_sd']))} between sequences, and sequences "
                f"that were kept aside follow them by a factor of {_factor(row)}; 1 would be in "
                f"full. {_explained(row)}"
            )
    if unseen:
        text.append(
            f"Not seen to depend on the context: {wording.joined(unseen)}. That may be for want "
            "of sequences."
        )
    text += [
        f"Not estimated for {wording.joined(names)}: {reason}."
        for reason, names in untested.items()
    ]
    return text


def _factor(row: Row) -> str:
    factor, se = as_float(row["moderation"]), as_float(row["moderation_se"])
    p = wording.p_value(as_float(row["moderation_p"]))
    return f"{wording.number(factor)} (SE{wording.NBSP}{wording.number(se)}, {p})"


def _explained(row: Row) -> str:
    r2 = as_float(row["r2"])
    if round(r2, 2) <= 0:
        return "They explain nothing of the scatter around one slope."
    return f"They explain {wording.percent(r2)} of the scatter around one slope."
