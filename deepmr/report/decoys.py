"""Decoys: what a pair would give if the exposure's effects said nothing of the sequence.

A decoy holds the outcome's effects of a sequence against the exposure's effects of another one, at
the same positions. There is no mechanism in it. What it still finds is common to all sequences:
where in the window a mutation lies, and errors of the one model that made all effects.
"""

from collections.abc import Sequence
from typing import Literal

from deepmr.report.answers import Answer, Estimate
from deepmr.report.checks import Check
from deepmr.report.table import as_count
from deepmr.report.wording import joined, reason, status, with_interval

Judgement = Literal["beyond", "overlaps", "silent_alike", "differs", "missing"]


def judgement(answer: Answer) -> Judgement:
    """Return how the estimate of a pair stands to that of its decoy.

    Parameters
    ----------
    answer : Answer
        A pair; the decoy is one of its forward direction.

    Returns
    -------
    str
        ``missing`` (no decoy, or no interval), ``differs`` (the decoy's interval excludes 0), or,
        where the decoy's interval holds 0: ``silent_alike`` (that of the pair holds 0 too, or is
        not known), ``beyond`` (the pair's excludes 0 and lies apart from the decoy's) or
        ``overlaps``.
    """
    decoy, effect = answer.decoy, answer.forward
    if decoy is None or not decoy.known:
        return "missing"
    if decoy.sign:
        return "differs"
    if not effect.sign:
        return "silent_alike"
    return "beyond" if _apart(effect, decoy) else "overlaps"


def sentence(answer: Answer) -> str:
    """Return what the decoy of a pair gives, and what follows for the pair."""
    exposure = answer.forward.exposure
    found = judgement(answer)
    if answer.decoy is None or found == "missing":
        return (
            f"No decoy ({exposure}'s effects taken from other sequences) could be estimated: "
            f"{why_missing(answer)}."
        )
    gives = (
        f"A decoy ({exposure}'s effects taken from other sequences) gives "
        f"{with_interval(answer.decoy)}"
    )
    if found == "beyond":
        return f"{gives}: near 0, and the interval of {answer.forward.name} lies beyond it."
    if found == "overlaps":
        return (
            f"{gives}: it holds 0 but overlaps the interval of {answer.forward.name}, so that "
            "the effect cannot be told from what all sequences have in common."
        )
    if found == "differs":
        beyond = (
            " The pair's own interval lies apart from it."
            if _apart(answer.forward, answer.decoy)
            else " The pair's own interval does not lie apart from it."
        )
        return (
            f"{gives}. The decoy itself is not 0: what is common to all sequences, such as the "
            f"position in the window, makes part of the estimate."
            f"{beyond if answer.forward.known else ''}"
        )
    alike = ", as does that of the pair" if answer.forward.known else ""
    return f"{gives}: its interval holds 0{alike}."


def why_missing(answer: Answer) -> str:
    """Return in words why a pair has no decoy, or none with an interval."""
    if answer.decoy is None:
        return f"no sequence was sampled for {answer.forward.exposure}"
    row = answer.decoy.row
    return reason(row.get("reason")) or status(str(row["status"]))


def decoy_checks(everything: Sequence[Answer]) -> list[Check]:
    """Return what the decoys say for the answers; those against them are flags of the network.

    Parameters
    ----------
    everything : sequence of Answer
        All pairs of all models.

    Returns
    -------
    list of Check
        Good when no decoy differs from 0, and a note of those that could not be estimated.
    """
    several = len({answer.model for answer in everything}) > 1

    def label(answer: Answer) -> str:
        return answer.forward.name + (f" ({answer.model})" if several else "")

    missing = [answer for answer in everything if judgement(answer) == "missing"]
    known = [answer for answer in everything if judgement(answer) != "missing"]
    listed = []
    if known and not any(judgement(answer) == "differs" for answer in known):
        fewest = min(as_count(answer.decoy.row["k"]) for answer in known if answer.decoy)
        listed.append(
            Check(
                "good",
                "Decoys stay at 0",
                f"With the exposure's effects taken from other sequences the interval of "
                f"{joined([label(answer) for answer in known])} holds 0 (at least {fewest} "
                "sequences each): what sequences have in common makes no effect by itself. "
                "Positions that do nothing weigh most in a decoy, so this is easily passed.",
            )
        )
    if missing:
        whys = "; ".join(f"{label(answer)} ({why_missing(answer)})" for answer in missing)
        listed.append(
            Check(
                "note",
                "Without a decoy",
                f"{whys}. Nothing says what these pairs would give without a mechanism.",
            )
        )
    return listed


def _apart(one: Estimate, other: Estimate) -> bool:
    return one.known and (one.ci_low > other.ci_high or one.ci_high < other.ci_low)
