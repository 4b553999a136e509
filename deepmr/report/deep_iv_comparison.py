"""Deep IV on measured labels held against MR on the network: what each says, and what of both.

The two have different units, so that only their signs are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from deepmr.deepiv.local_effect import WEAK_F
from deepmr.report import wording
from deepmr.report.answers import Answer, Effect, Settings
from deepmr.report.checks import Check
from deepmr.report.summaries import effect_name, effects_of
from deepmr.report.table import as_float, records

LABELS, MODEL = "labels", "model"
DEEP_IV = "deep_iv"

Row = Mapping[str, object]
Verdict = Literal[
    "agree", "opposite", "network_only", "labels_only", "neither", "weak", "not_comparable"
]

_VERDICTS: dict[Verdict, str] = {
    "agree": "labels and network agree in sign",
    "opposite": "labels and network have opposite signs",
    "network_only": "seen by the network only",
    "labels_only": "seen in the labels only",
    "neither": "seen by neither",
    "weak": "the labels cannot tell, for their instrument is weak",
    "not_comparable": "labels and network cannot be compared",
}
_ALIKE: dict[Verdict, str] = {
    "agree": "the same sign by Deep IV on measured labels and by MR on the network",
    "neither": "neither of the two tells an effect from 0",
}
_ALONE: dict[Verdict, str] = {
    "labels_only": "in the measured labels only",
    "network_only": "by the network only",
}
_WHY = {
    "no_motif": "the exposure has no motif, so there is no instrument",
    "no_variation": "the exposure, the outcome or the instrument does not vary",
}
"""What a status means in this section, where it means something else than elsewhere."""


@dataclass(frozen=True)
class Comparison:
    """One direction of a pair: Deep IV on measured labels beside MR on the network.

    Attributes
    ----------
    effect : Effect
        The global effect of MR, of one model.
    row : mapping
        The row of ``deep_iv.parquet`` of the labels with the method ``deep_iv``.
    name : str
        The direction in words, with the model where there are several.
    unit : str
        Of the effect of MR: that of the model's slopes, where the table has them.
    """

    effect: Effect
    row: Row
    name: str
    unit: str

    @property
    def verdict(self) -> Verdict:
        """What labels and network say together."""
        network, labels = self.effect.sign, sign(self.row)
        if not (self.effect.known and known(self.row)):
            return "not_comparable"
        if labels == 0 and weak(self.row):
            return "weak"
        if network and labels:
            return "agree" if network == labels else "opposite"
        if network:
            return "network_only"
        return "labels_only" if labels else "neither"


def comparisons(
    deep_iv: pd.DataFrame, found: Sequence[Answer], settings: Settings
) -> list[Comparison]:
    """Return every pair, both directions, beside what measured labels say of it.

    Parameters
    ----------
    deep_iv : DataFrame
        ``deep_iv.parquet``.
    found : sequence of Answer
        The pairs, of every model.
    settings : Settings
        ``effect_scale``, which names the unit of MR where the model has no slopes.

    Returns
    -------
    list of Comparison
        Empty when the table has no row of measured labels.

    Raises
    ------
    ValueError
        When the table has labels, but not one row of Deep IV for a pair and direction.
    """
    everything = records(deep_iv)
    labels = [row for row in everything if row["source"] == LABELS]
    if not labels:
        return []
    units = {
        (row["model"], row["pair"], row["direction"]): str(row["unit"])
        for row in everything
        if row["source"] == MODEL
    }
    scale = settings.effect_scale
    listed = []
    for effect in effects_of(found):
        rows = [
            row
            for row in labels
            if (row["pair"], row["direction"], row["method"])
            == (effect.pair, effect.direction, DEEP_IV)
        ]
        if len(rows) != 1:
            raise ValueError(
                f"deep_iv table: {len(rows)} rows instead of 1 for the pair {effect.pair}, "
                f"direction {effect.direction}, source {LABELS}, method {DEEP_IV}; the table has "
                f"the pairs {sorted({str(row['pair']) for row in labels})}"
            )
        unit = units.get((effect.model, effect.pair, effect.direction), f"{scale} per {scale}")
        listed.append(Comparison(effect, rows[0], effect_name(effect, found), unit))
    return listed


def known(row: Row) -> bool:
    """Return whether a row has an estimate with an interval."""
    return bool(
        np.isfinite([as_float(row[key]) for key in ("estimate", "ci_low", "ci_high")]).all()
    )


def weak(row: Row) -> bool:
    """Return whether the first stage of a row has an F below 10."""
    return as_float(row["f"]) < WEAK_F


def sign(row: Row) -> int:
    """Return 1 or -1 when a row excludes 0, else 0.

    With a weak instrument the Anderson-Rubin set decides, where there is one: the interval around
    the estimate is not valid then.
    """
    low, high = as_float(row["ci_low"]), as_float(row["ci_high"])
    if weak(row) and has_set(row):
        # Of a set with a gap, both ends run to infinity: it has no sign.
        if row["ar_kind"] != "interval":
            return 0
        low, high = as_float(row["ar_low"]), as_float(row["ar_high"])
    return int(low > 0) - int(high < 0)


def has_set(row: Row) -> bool:
    """Return whether a row has an Anderson-Rubin set; two-stage least squares have none."""
    return isinstance(row["ar_kind"], str) and row["ar_kind"] != ""


def ar_set(row: Row) -> str:
    """Return the Anderson-Rubin set of a row in words; "–" when there is none."""
    low, high = as_float(row["ar_low"]), as_float(row["ar_high"])
    places = wording.decimals(low, high)
    return {
        "interval": wording.interval(low, high),
        "outside": f"below {wording.number(low, places)} or above {wording.number(high, places)}",
        "everything": "every value",
        "empty": "no value",
    }.get(str(row["ar_kind"]), "–")


def strength(row: Row) -> str:
    """Return the first-stage F of a row; "–" when there is none."""
    f = as_float(row["f"])
    return wording.number(f, 1 if f < 100 else 0)


def why(row: Row) -> str:
    """Return why a row has no number, in words."""
    status = str(row["status"])
    return wording.reason(row["reason"]) or _WHY.get(status) or wording.status(status)


def sentence(one: Comparison) -> str:
    """Return what labels and network say of one direction of a pair, the verdict first."""
    return f"{one.name}: {_VERDICTS[one.verdict]}. {_of_labels(one)}; {_of_network(one)}."


def deep_iv_checks(
    deep_iv: pd.DataFrame, found: Sequence[Answer], settings: Settings
) -> list[Check]:
    """Return whether measured labels and the network agree in sign.

    Parameters
    ----------
    deep_iv : DataFrame
        ``deep_iv.parquet``.
    found : sequence of Answer
        The pairs, of every model.
    settings : Settings
        ``effect_scale``.

    Returns
    -------
    list of Check
        A warning of opposite signs, good of agreement, notes of what one of the two sees alone
        and of weak instruments.
    """
    by_verdict: dict[Verdict, list[Comparison]] = {verdict: [] for verdict in _VERDICTS}
    everything = comparisons(deep_iv, found, settings)
    for one in everything:
        by_verdict[one.verdict].append(one)
    names = {
        verdict: wording.joined([one.name for one in of_verdict])
        for verdict, of_verdict in by_verdict.items()
    }
    listed = []
    if names["opposite"]:
        listed.append(
            Check(
                "warn",
                "Labels and network disagree",
                f"{names['opposite']}: Deep IV on measured labels and MR on the network have "
                "opposite signs. The word of the motif may act on the outcome by itself, the "
                "effect may be another one in the windows that the word decides, or the network "
                "has learned the wrong thing.",
            )
        )
    alike = [f"{names[verdict]}: {text}." for verdict, text in _ALIKE.items() if names[verdict]]
    if alike:
        listed.append(Check("good", "Labels and network agree", " ".join(alike)))
    alone = [f"{names[verdict]} {text}." for verdict, text in _ALONE.items() if names[verdict]]
    if alone:
        listed.append(
            Check(
                "note",
                "Seen by one of the two only",
                f"{' '.join(alone)} An interval that holds 0 does not prove that there is none.",
            )
        )
    strengths = [
        f"{one.name} (F{wording.NBSP}{strength(one.row)})"
        for one in everything
        if weak(one.row) and known(one.row)
    ]
    if strengths:
        listed.append(
            Check(
                "note",
                "A weak instrument in the labels",
                f"{wording.joined(strengths)}: the best word of the motif hardly decides the "
                "exposure once the rest of the window is known. The Anderson-Rubin set is valid "
                "all the same; estimate and interval are not.",
            )
        )
    return listed


def _of_labels(one: Comparison) -> str:
    row = one.row
    if not known(row):
        return f"Measured labels give no answer ({why(row)})"
    unit = f"({row['unit']})"
    direction = f", that is, {_more(one.effect, sign(row))}" if sign(row) else ""
    if weak(row):
        f = f"F{wording.NBSP}{strength(row)}"
        return (
            f"In the measured labels the instrument is weak ({f}), so that only the "
            f"Anderson-Rubin set counts: {ar_set(row)} {unit}{direction}"
        )
    if not direction:
        return f"Measured labels tell no effect from 0, {wording.row_estimate(row)} {unit}"
    return f"Measured labels say {_more(one.effect, sign(row))}, {wording.row_estimate(row)} {unit}"


def _of_network(one: Comparison) -> str:
    effect = one.effect
    if not effect.known:
        return f"by the network (MR) it is {wording.with_interval(effect)}"
    number = f"{wording.with_interval(effect)} ({one.unit})"
    if not effect.sign:
        return f"the network (MR) tells no effect from 0, {number}"
    return f"the network (MR) says {_more(effect, effect.sign)}, {number}"


def _more(effect: Effect, of_sign: int) -> str:
    return f"more {effect.exposure}, {'more' if of_sign > 0 else 'less'} {effect.outcome}"
