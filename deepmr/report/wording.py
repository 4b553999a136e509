"""The words of the report: numbers, headlines and sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from deepmr.report.answers import Answer, Effect, Head, Settings, decoys_for

MINUS = "−"
NBSP = "\N{NO-BREAK SPACE}"
_NEAR_NULL = 0.1
"""A true slope nearer 0 than this gets no relative deviation: the ratio would say nothing."""

_STATUS_WORDS = {
    "no_motif_hit": "without a motif hit of the exposure",
    "too_few_instruments": "with too few instruments",
    "no_variation": "without variation among the instruments",
    "no_motif": "without a motif of the exposure",
    "not_estimable": "in which the method has no solution",
    "no_sequences": "no sequence had an estimate",
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
    if not isinstance(value, (int, float, np.number)) or not np.isfinite(value):
        return "–"
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


def with_interval(effect: Effect) -> str:
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


def calibrator(name: str) -> str:
    """Return the name of a calibrator in words."""
    return _CALIBRATOR_WORDS.get(name, name)


def joined(names: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


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
    if answer.control:
        silent = answer.verdict == "none"
        text.append(
            "This pair is a decoy: there is no effect to find, and none is found."
            if silent
            else "This pair is a decoy: whatever is found here is an error of the method or model."
        )
    else:
        text += [_decoy(decoy) for decoy in decoys_for(answer, everything)]
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


def _decoy(decoy: Answer) -> str:
    effect = decoy.forward
    says = "the interval holds 0" if not effect.sign else "the interval excludes 0, a bad sign"
    if not effect.known:
        return f"The decoy {effect.name}: {with_interval(effect)}."
    return f"Asked the same, the decoy {effect.name} gives {with_interval(effect)}; {says}."


def _more(effect: Effect) -> str:
    return "more" if effect.sign > 0 else "less"


def _signed(effect: Effect) -> str:
    return "positive" if effect.sign > 0 else "negative"
