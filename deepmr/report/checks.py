"""What the causal answers themselves, and what was learned, say for and against believing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepmr.report.answers import Answer, Head, Settings
from deepmr.report.table import as_float
from deepmr.report.wording import joined, level, number, status

Level = Literal["good", "warn", "note"]


@dataclass(frozen=True)
class Check:
    """One line of "how far to trust this"."""

    level: Level
    title: str
    text: str


def checks(
    everything: Sequence[Answer], head_of: Mapping[tuple[str, str], Head], settings: Settings
) -> list[Check]:
    """Return what speaks for and against believing the answers, most general first."""
    return [
        *_control_checks(everything),
        _head_check(everything, head_of, settings),
        *_direction_checks(everything),
        _sequence_check(everything, settings),
        *_multiplicity_checks(everything, settings),
        *_truth_checks(everything, settings),
    ]


def _control_checks(everything: Sequence[Answer]) -> list[Check]:
    controls = [a for a in everything if a.control]
    if not controls:
        return [
            Check(
                "note",
                "No control pair was asked",
                "Beside the decoys, a pair that cannot have an effect shows whether the method "
                "would find one anyway. Add one to pairs and mark it control: true.",
            )
        ]
    loud = [a for a in controls if a.verdict not in ("none", "unknown")]
    if loud:
        return [
            Check(
                "warn",
                "A control pair shows an effect",
                f"{joined([_label(a, everything) for a in loud])} can have no effect, yet the "
                "interval excludes 0. The other answers may be wrong in the same way.",
            )
        ]
    unknown = [a for a in controls if a.verdict == "unknown"]
    if unknown:
        return [
            Check(
                "warn",
                "A control pair could not be estimated",
                f"{joined([_label(a, everything) for a in unknown])} gives no check on the others.",
            )
        ]
    names = joined([_label(a, everything) for a in controls])
    text = f"{names}: both intervals hold 0, as they must."
    return [Check("good", "The control pair is silent", text)]


def _head_check(
    everything: Sequence[Answer], head_of: Mapping[tuple[str, str], Head], settings: Settings
) -> Check:
    asked = {(a.model, t) for a in everything for t in (a.forward.exposure, a.forward.outcome)}
    missing = sorted(f"{t}" for m, t in asked if (m, t) not in head_of)
    listed = joined(
        [
            f"{h.target} {number(h.auroc)}"
            if np.isfinite(h.auroc)
            else f"{h.target} ({status(h.status)})"
            for h in head_of.values()
        ]
    )
    poor = [h.target for h in head_of.values() if h.poor]
    if poor or missing:
        text = f"Test AUROC: {listed}. " if listed else ""
        if poor:
            text += (
                f"{joined(poor)} {'lies' if len(poor) == 1 else 'lie'} below "
                f"{number(settings.minimum_auroc)} or could not be judged. A head learned badly "
                "biases the ratio of effects by more than any interval here admits."
            )
        if missing:
            text += f"Nothing is known of {joined(missing)}."
        return Check("warn", "Not every head is known to be learned well", text.strip())
    return Check("good", "The heads are learned", f"Test AUROC: {listed}.")


def _direction_checks(everything: Sequence[Answer]) -> list[Check]:
    both = [_label(a, everything) for a in everything if a.verdict == "both"]
    if not both:
        return []
    return [
        Check(
            "warn",
            "Direction not identified",
            f"{joined(both)}: the effect is there both ways. Shared motifs, or a cause of both, "
            "do this as well as a loop; do not read either arrow as proven.",
        )
    ]


def _sequence_check(everything: Sequence[Answer], settings: Settings) -> Check:
    few = [
        f"{e.name} ({e.estimated} of {e.asked})"
        for a in everything
        for e in (a.forward, a.reverse)
        if e.estimated < settings.minimum_sequences
    ]
    if few:
        return Check(
            "warn",
            "Few sequences",
            f"{joined(few)}: fewer than {settings.minimum_sequences} sequences gave an estimate. "
            "The spread between sequences is then hardly known.",
        )
    least = min((e for a in everything for e in (a.forward, a.reverse)), key=lambda e: e.estimated)
    return Check(
        "good",
        "Enough sequences",
        f"Every direction rests on at least {least.estimated} sequences with an estimate.",
    )


def _multiplicity_checks(everything: Sequence[Answer], settings: Settings) -> list[Check]:
    lost = [
        e.name
        for a in everything
        for e in (a.forward, a.reverse)
        if e.sign and as_float(e.row["fdr"]) > settings.fdr
    ]
    if not lost:
        return []
    return [
        Check(
            "warn",
            "Many pairs were asked",
            f"{joined(lost)}: the interval excludes 0, but the false-discovery rate over all "
            f"pairs and directions is above {level(settings.fdr)}.",
        )
    ]


def _truth_checks(everything: Sequence[Answer], settings: Settings) -> list[Check]:
    effects = [
        e for a in everything for e in (a.forward, a.reverse) if e.truth is not None and e.known
    ]
    if not effects:
        return []
    if settings.effect_scale != "logit":
        return [
            Check(
                "note",
                "The truth is on another scale",
                "The simulator's slopes are on the logit scale and are not compared with effects "
                "on the probability scale.",
            )
        ]
    missed = [e.name for e in effects if e.truth is not None and not e.holds(e.truth.value)]
    held = f"{len(effects) - len(missed)} of {len(effects)} intervals hold the simulated truth"
    if missed:
        return [Check("warn", "The truth is missed", f"{held}; not {joined(missed)}.")]
    return [Check("good", "The truth is held", f"{held} (marginal slope).")]


def _label(answer: Answer, everything: Sequence[Answer]) -> str:
    several = len({a.model for a in everything}) > 1
    return answer.forward.name + (f" ({answer.model})" if several else "")
