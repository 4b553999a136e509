"""The cards of the report: an answer in words beside a strip plot of its effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from deepmr.report import sentences, wording
from deepmr.report.answers import Answer, Effect, Estimate, Head, Settings, controls_for


@dataclass(frozen=True)
class Mark:
    """One line of a strip plot; positions in percent of its width."""

    name: str
    role: str
    """forward, reverse, decoy (effects on the exposure of other sequences) or control (a pair)."""
    note: str
    """The role in words, below the name; empty for forward."""
    text: str
    found: bool
    """Whether the interval excludes 0."""
    point: float | None
    low: float
    high: float
    pi_low: float | None
    pi_high: float | None
    truth: float | None


def cards(
    found: Sequence[Answer],
    head_of: Mapping[tuple[str, str], Head],
    settings: Settings,
) -> list[dict[str, object]]:
    """Return what the template shows of each answer: words, tone and a strip plot.

    Parameters
    ----------
    found : sequence of Answer
        In the order of the report.
    head_of : mapping
        How well each target was learned, by (model, target).
    settings : Settings
        The scale of the effects decides whether a simulated truth is drawn.

    Returns
    -------
    list of dict
        Keys as in ``template.html.j2``; the strips of a model share one axis.
    """
    made = []
    for answer in found:
        of_model = [a for a in found if a.model == answer.model]
        low, high = _axis(of_model)
        ticks = list(MaxNLocator(5, steps=[1, 2, 2.5, 5]).tick_values(low, high))
        rows: list[tuple[Estimate, str]] = [
            (answer.forward, "forward"),
            (answer.reverse, "reverse"),
        ]
        if answer.decoy is not None:
            rows.append((answer.decoy, "decoy"))
        if not answer.control:
            rows += [(control.forward, "control") for control in controls_for(answer, found)]
        first, *others = sentences.sentences(answer, found, head_of, settings)
        made.append(
            {
                "answer": answer,
                "headline": sentences.headline(answer),
                "badge": sentences.badge(answer),
                "tone": _tone(answer),
                "lead": first,
                "sentences": others,
                "marks": [_mark(e, role, low, high, settings) for e, role in rows],
                "zero": _percent(0.0, low, high),
                "ticks": [
                    (_percent(t, low, high), f"{t:g}".replace("-", wording.MINUS))
                    for t in ticks
                    if low <= t <= high
                ],
            }
        )
    return made


def _tone(answer: Answer) -> str:
    """Return the colour of a card: by sign where there is one effect, and it may be."""
    if answer.control and answer.verdict in ("forward", "reverse"):
        return "doubt"
    if answer.verdict in ("forward", "reverse"):
        effect = answer.forward if answer.verdict == "forward" else answer.reverse
        return "positive" if effect.sign > 0 else "negative"
    return {"both": "doubt", "none": "silent", "unknown": "silent"}[answer.verdict]


def _axis(found: Sequence[Answer]) -> tuple[float, float]:
    """Return limits for all strips of a model: one hopeless interval must not flatten the rest."""
    effects = [
        e for a in found for e in (a.forward, a.reverse, a.decoy) if e is not None and e.known
    ]
    if not effects:
        return -1.0, 1.0
    reach = 4 * float(np.median([e.ci_high - e.ci_low for e in effects]))
    ends = [0.0]
    for effect in effects:
        ends += [max(effect.ci_low, effect.estimate - reach), effect.estimate]
        ends += [min(effect.ci_high, effect.estimate + reach)]
        if isinstance(effect, Effect) and effect.truth is not None:
            ends.append(effect.truth.value)
    low, high = min(ends), max(ends)
    pad = 0.06 * (high - low) or 1.0
    return low - pad, high + pad


def _percent(value: float, low: float, high: float) -> float:
    return round(float(np.clip(100 * (value - low) / (high - low), 0, 100)), 2)


def _mark(effect: Estimate, role: str, low: float, high: float, settings: Settings) -> Mark:
    truth = effect.truth if isinstance(effect, Effect) else None
    shown = settings.effect_scale == "logit" and truth is not None
    notes = {
        "forward": "",
        "reverse": "reverse",
        "decoy": f"decoy: {effect.exposure} of other sequences",
        "control": "control pair",
    }

    def place(value: object) -> float | None:
        if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
            return None
        return _percent(float(value), low, high)

    return Mark(
        name=effect.name,
        role=role,
        note=notes[role],
        text=wording.with_interval(effect) if effect.known else "not estimated",
        found=effect.sign != 0,
        point=place(effect.estimate) if effect.known else None,
        low=place(effect.ci_low) or 0.0,
        high=place(effect.ci_high) or 0.0,
        pi_low=place(effect.row["pi_low"]),
        pi_high=place(effect.row["pi_high"]),
        truth=place(truth.value) if shown and truth else None,
    )
