"""The answer to each pair in words: a headline, and what stands below it."""

from collections.abc import Mapping, Sequence

import numpy as np

from deepmr.report import decoys
from deepmr.report.answers import Answer, Effect, Head, Settings, controls_for
from deepmr.report.wording import NBSP, joined, number, p_value, percent, status, with_interval

_NEAR_NULL = 0.1
"""A true slope nearer 0 than this gets no relative deviation: the ratio would say nothing."""


def headline(answer: Answer) -> str:
    """Return the answer to "does the model think that X moves Y?" in one sentence."""
    x, y = answer.forward.exposure, answer.forward.outcome
    if answer.verdict == "both":
        return f"Direction not identified: {x} and {y} each seem to move the other."
    if answer.verdict == "forward":
        return f"The model has learned: more {x}, {_more(answer.forward)} {y}."
    if answer.verdict == "reverse":
        return f"The model has learned the reverse: more {y}, {_more(answer.reverse)} {x}."
    if answer.verdict == "none":
        return f"No effect of {x} on {y} can be told from zero, nor the reverse."
    return f"No answer: the effect of {x} on {y} could not be estimated."


def badge(answer: Answer) -> str:
    """Return the verdict in two or three words."""
    if answer.verdict == "forward":
        return f"{_signed(answer.forward)} effect"
    if answer.verdict == "reverse":
        return f"reverse, {_signed(answer.reverse)}"
    return {"both": "direction not identified", "none": "no effect seen", "unknown": "no answer"}[
        answer.verdict
    ]


def sentences(
    answer: Answer,
    everything: Sequence[Answer],
    head_of: Mapping[tuple[str, str], Head],
    settings: Settings,
) -> list[str]:
    """Return what stands below the headline: how much, how sure, where, and against what."""
    forward, reverse = answer.forward, answer.reverse
    # the direction that the headline speaks of comes first
    first, second = (reverse, forward) if answer.verdict == "reverse" else (forward, reverse)
    text = [_amount(first, settings)]
    if first.asked:
        text.append(_where(first, settings))
    text.append(_opposite(second))
    text.append(decoys.sentence(answer))
    if answer.control:
        silent = answer.verdict == "none"
        text.append(
            "This pair is a control: there is no effect to find, and none is found."
            if silent
            else "This pair is a control: whatever is found here is an error of method or model."
        )
    else:
        text += [_control(control) for control in controls_for(answer, everything)]
    text += [
        sentence
        for effect in (forward, reverse)
        if (sentence := truth_sentence(effect, settings)) is not None
    ]
    for target in (forward.exposure, forward.outcome):
        head = head_of.get((answer.model, target))
        if head is not None and head.poor:
            text.append(
                f"Caution: {target} was poorly learned (test AUROC {number(head.auroc)}), "
                "which biases the ratio of effects."
                if head.status == "ok"
                else f"Caution: whether {target} was learned is not known from the test windows "
                f"({status(head.status)}); a head learned badly biases the ratio of effects."
            )
    return text


def truth_sentence(effect: Effect, settings: Settings) -> str | None:
    """Return how the estimate stands to the simulator's truth; None when nothing is known."""
    if effect.truth is None or settings.effect_scale != "logit" or not effect.known:
        return None
    truth = effect.truth
    if truth.theta == 0 == round(truth.value, 3):
        holds = "holds" if effect.holds(truth.value) else "does not hold"
        return f"Simulated truth of {effect.name}: no effect; the 95{NBSP}% interval {holds} 0."
    inside = "inside" if effect.holds(truth.value) else "outside"
    known = (
        f"marginal slope {number(truth.marginal_slope)}, structural θ {number(truth.theta)}"
        if np.isfinite(truth.marginal_slope)
        else f"structural θ {number(truth.theta)}"
    )
    text = f"Simulated truth of {effect.name}: {known}; it lies {inside} the 95{NBSP}% interval"
    if abs(truth.value) > _NEAR_NULL:
        deviation = (effect.estimate - truth.value) / truth.value
        side = "above" if effect.estimate > truth.value else "below"
        text += f", and the estimate is {percent(abs(deviation))} {side} it"
    return text + "."


def _amount(effect: Effect, settings: Settings) -> str:
    if not effect.known:
        return f"{effect.name} is {with_interval(effect)}."
    unit = settings.effect_scale
    evidence = p_value(effect.row["p_value"])
    fdr = p_value(effect.row["fdr"], "FDR")
    evidence = ", ".join(part for part in (evidence, fdr) if part != "–")
    verdict = "" if effect.sign else " The interval holds 0."
    return (
        f"A change of 1 in the {unit} of {effect.exposure} changes the {unit} of {effect.outcome} "
        f"by {with_interval(effect)} (95{NBSP}% interval; {evidence}).{verdict}"
    )


def _where(effect: Effect, settings: Settings) -> str:
    strata = joined([f"{n} of {total} {name}" for name, (n, total) in effect.by_stratum.items()])
    which = "" if settings.stratum == "all" else f"{settings.stratum} "
    split = f" ({strata})" if settings.stratum == "all" and strata else ""
    text = f"{effect.estimated} of {effect.asked} {which}sequences had enough instruments{split}"
    if not effect.known or not effect.estimated:
        return text + "."
    side = "above" if effect.estimate > 0 else "below"
    return f"{text}; in {effect.agreeing} of them the local interval by itself lies {side} 0."


def _opposite(effect: Effect) -> str:
    if not effect.known:
        return f"The other way, {effect.name}: {with_interval(effect)}."
    says = "the interval holds 0" if not effect.sign else "the interval excludes 0"
    return f"The other way, {effect.name}: {with_interval(effect)}; {says}."


def _control(control: Answer) -> str:
    effect = control.forward
    says = "the interval holds 0" if not effect.sign else "the interval excludes 0, a bad sign"
    if not effect.known:
        return f"The control pair {effect.name}: {with_interval(effect)}."
    return f"Asked the same, the control pair {effect.name} gives {with_interval(effect)}; {says}."


def _more(effect: Effect) -> str:
    return "more" if effect.sign > 0 else "less"


def _signed(effect: Effect) -> str:
    return "positive" if effect.sign > 0 else "negative"
