"""The words of the report: how numbers, intervals, statuses and names are written."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from deepmr.report.answers import Estimate
from deepmr.report.table import as_count, as_float

MINUS = "−"
NBSP = "\N{NO-BREAK SPACE}"

_STATUS_WORDS = {
    "no_motif_hit": "without a motif hit of the exposure",
    "too_few_instruments": "with too few instruments",
    "no_variation": "without variation among the instruments",
    "no_motif": "without a motif of the exposure",
    "not_estimable": "in which the method has no solution",
    "no_sequences": "no sequence had an estimate",
    "single_sequence": "one sequence only",
    "few_sequences": "two sequences only",
    "no_partner": "without another sequence to take effects from",
    "no_labels": "no window was measured",
    "one_class": "every label is the same",
    "count_target": "counts, not 0 or 1",
    "continuous_target": "values, not 0 or 1",
    "too_few_positives": "too few windows with label 1",
    "too_few_negatives": "too few windows with label 0",
    "too_few_members": "too few networks",
    "too_few_degrees_of_freedom": "too few networks",
    "no_standard_error": "every standard error is 0",
    "too_few_sequences": "too few sequences",
    "too_few_draws": "with fewer than two draws",
    "too_few_windows": "too few windows of either label",
    "too_few_clusters": "too few blocks of windows",
    "no_context": "nothing of the sequence is left as context",
    "weak_instrument": "weak instrument",
    "no_first_stage": "the word of the motif does not foretell the exposure",
    "constant_exposure": "the exposure is the same in every window",
    "constant_outcome": "the outcome is the same in every window",
}
_CALIBRATOR_WORDS = {
    "none": "as predicted",
    "platt": "Platt",
    "centred_isotonic": "centred isotonic",
}


def decimals(low: float, high: float) -> int:
    """Return how many decimals an interval deserves.

    Two digits of its width and at least 2, but so many (up to 5) that an end is not printed as
    0.00 when it is not: whether the interval holds 0 must be seen.
    """
    width = high - low
    if not (np.isfinite(width) and width > 0):
        return 2
    places = int(np.clip(np.ceil(1 - np.log10(width)), 2, 5)) if width < 50 else 0
    while places < 5 and any(0 < abs(end) < 0.5 * 10.0**-places for end in (low, high)):
        places += 1
    return places


def number(value: object, places: int = 2) -> str:
    """Return a number with a true minus sign; "–" when there is none."""
    if not isinstance(value, (int, float, np.number)) or np.isnan(value):
        return "–"
    if np.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{float(value):.{places}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval(low: float, high: float, places: int | None = None) -> str:
    """Return "[low, high]", with decimals that suit its width when `places` is left out."""
    places = decimals(low, high) if places is None else places
    return f"[{number(low, places)},{NBSP}{number(high, places)}]"


def estimate(value: float, low: float, high: float, places: int | None = None) -> str:
    """Return "0.93 [0.81, 1.05]", with decimals that suit the interval."""
    places = decimals(low, high) if places is None else places
    return f"{number(value, places)}{NBSP}{interval(low, high, places)}"


def unbroken(text: str) -> str:
    """Return a text that stays on one line."""
    return text.replace(" ", NBSP)


def percent(share: float) -> str:
    """Return 0.07 as "7 %"."""
    return f"{100 * share:.0f}{NBSP}%"


def level(share: float) -> str:
    """Return a level of a test with all its digits: 0.005 as "0.5 %"."""
    return f"{100 * share:g}{NBSP}%"


def sequences(count: object) -> str:
    """Return "1 sequence", "71 sequences"; a missing number is none."""
    k = as_count(count)
    return f"{k} sequence" if k == 1 else f"{k} sequences"


def with_interval(effect: Estimate) -> str:
    """Return "0.93 [0.81, 1.05]", or why there is no number."""
    if not effect.known:
        return f"not estimated ({status(str(effect.row['status']))})"
    places = decimals(effect.ci_low, effect.ci_high)
    return estimate(effect.estimate, effect.ci_low, effect.ci_high, places)


def p_value(value: object, name: str = "p") -> str:
    """Return "p = 0.03" or "p < 0.001"; "–" when there is none."""
    if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
        return "–"
    comparison = f"<{NBSP}0.001" if value < 0.001 else f"={NBSP}{value:.2g}"
    return f"{name}{NBSP}{comparison}" if name else comparison.removeprefix(f"={NBSP}")


def status(name: str) -> str:
    """Return a status of a table in words."""
    return _STATUS_WORDS.get(name, name.replace("_", " "))


def reason(text: object) -> str:
    """Return the reason of a table, with the names of statuses in it in words; "" for none."""
    if not isinstance(text, str):
        return ""
    return re.sub(r"\w+", lambda word: _STATUS_WORDS.get(word[0], word[0]), text)


def row_estimate(row: Mapping[str, object]) -> str:
    """Return "0.93 [0.81, 1.05]" of a row of a table, or its status in words."""
    value, low, high = (as_float(row[key]) for key in ("estimate", "ci_low", "ci_high"))
    return estimate(value, low, high) if np.isfinite(value) else status(str(row["status"]))


def stratum(name: str) -> str:
    """Return a stratum, or a term of an annotation, in words: "a=yes" as "a: yes"."""
    return name.replace("=", ": ", 1)


def calibrator(name: str) -> str:
    """Return the name of a calibrator in words."""
    return _CALIBRATOR_WORDS.get(name, name)


def joined(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
