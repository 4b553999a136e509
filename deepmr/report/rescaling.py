"""What a calibrator does to the effects of mutations, and so to the slope of a pair.

An affine calibrator of the logits, l -> a l + b, multiplies the effect of a mutation on a target
by a. The slope of Y on X is then multiplied by a_Y / a_X, and so is its standard error: z and p
stay. The other maps bend the logit, which no single factor undoes.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Answer, Effect, Settings
from deepmr.report.table import Table, as_count, as_float, name_of, records

AFFINE = ("platt", "temperature")
BENT = ("beta", "centred_isotonic")


def effect_sentences(
    calibrators: pd.DataFrame, found: Sequence[Answer], settings: Settings
) -> list[str]:
    """Return which calibrator the effects went through, and what calibration changes in them."""
    applied, fitted = settings.calibrator, set(calibrators["calibrator"])
    named = wording.calibrator(applied)
    text = [
        "No calibrator is applied to the effects (calibration.apply: none)."
        if applied == "none"
        else f"Every draw went through {named} calibration before effects were taken "
        f"(calibration.apply: {applied}){_left_out(calibrators, applied)}."
    ]
    spoken = applied if applied in AFFINE else next((n for n in AFFINE if n in fitted), None)
    if applied in BENT:
        text.append(
            f"{_upper(named)} calibration bends the logit and is no mere change of units: "
            "slopes, z and p changed with it. A run with calibration.apply: none tells by how much."
        )
    elif settings.effect_scale != "logit":
        text.append(
            "On the probability scale no calibrator is a mere change of units: slopes, z and p "
            "all change with it."
        )
    elif spoken is not None:
        text += [_rescaled(answer, calibrators, spoken, settings) for answer in found]
        text.append(
            "An affine map of the logits (temperature, Platt) changes units alone: z and p of "
            "every effect stay as they are. How well the factor itself is known is in no interval."
        )
    others = [wording.calibrator(n) for n in BENT if n in fitted and n != applied]
    if others:
        text.append(
            f"{_upper(wording.joined(others))} calibration, if applied, would bend the logit: more "
            "than a change of units, so z and p would change too."
        )
    if "isotonic" in fitted:
        text.append(_staircase(calibrators))
    return text


def maps_table(calibrators: pd.DataFrame) -> Table:
    """Return the parameters of every calibrator, and what it would do to mutation effects."""
    several = calibrators["model"].nunique() > 1
    rows = []
    for row in records(calibrators):
        fitted = row["status"] == "ok"
        zeroed = as_float(row["zero_effects"])
        rows.append(
            (
                name_of(row, several),
                wording.calibrator(str(row["calibrator"])),
                *(wording.number(as_float(row[key]), 3) if fitted else "–" for key in "abc"),
                f"{as_count(row['n']):,}",
                f"{as_count(row['n_positive']):,}",
                wording.percent(as_float(row["shrinkage"])) if row["shrinkage"] else "–",
                wording.percent(zeroed) if np.isfinite(zeroed) else "–",
                "fitted" if fitted else f"stays as predicted: {wording.status(str(row['status']))}",
            )
        )
    return Table(
        (
            "target",
            "calibrator",
            "a",
            "b",
            "c",
            "validation windows",
            "label 1",
            "leans on other targets",
            "effects made 0",
            "status",
        ),
        tuple(rows),
        2,
    )


def factors(
    calibrators: pd.DataFrame, model: str, exposure: str, outcome: str, name: str
) -> tuple[float, float]:
    """Return the factors (a_X, a_Y) of the logits of a pair under an affine calibrator."""
    slope = {
        r["target"]: as_float(r["a"]) if r["status"] == "ok" else 1.0
        for r in records(calibrators)
        if r["model"] == model and r["calibrator"] == name
    }
    return slope.get(exposure, np.nan), slope.get(outcome, np.nan)


def _rescaled(answer: Answer, calibrators: pd.DataFrame, name: str, settings: Settings) -> str:
    x, y = answer.forward.exposure, answer.forward.outcome
    a_x, a_y = factors(calibrators, answer.model, x, y, name)
    if not (a_x > 0 and a_y > 0):
        return f"{answer.forward.name}: nothing is known of {wording.calibrator(name)} calibration."
    applied = settings.calibrator == name
    as_predicted = _as_predicted(calibrators, answer.model, name)
    becomes = [
        f"1 logit of {target} "
        + ("stays as predicted" if target in as_predicted else f"becomes {wording.number(a)}")
        for target, a in ((x, a_x), (y, a_y))
    ]
    ways = [
        way
        for effect, times in ((answer.forward, a_y / a_x), (answer.reverse, a_x / a_y))
        if (way := _one_way(effect, times, applied))
    ]
    slopes = "; ".join(ways) if ways else "there is no estimate to rescale"
    return f"With {wording.calibrator(name)} calibration {' and '.join(becomes)}: {slopes}."


def _as_predicted(calibrators: pd.DataFrame, model: str, name: str) -> list[str]:
    """Return the targets that a calibrator could not be fitted for."""
    return [
        str(r["target"])
        for r in records(calibrators)
        if r["model"] == model and r["calibrator"] == name and r["status"] != "ok"
    ]


def _left_out(calibrators: pd.DataFrame, name: str) -> str:
    """Return which targets the applied map leaves as they are, as the end of a sentence."""
    several = calibrators["model"].nunique() > 1
    names = [
        name_of(r, several)
        for r in records(calibrators)
        if r["calibrator"] == name and r["status"] != "ok"
    ]
    return f", except {wording.joined(names)}, which could not be calibrated" if names else ""


def _one_way(effect: Effect, times: float, applied: bool) -> str:
    """Return "θ of X → Y would read 0.85 instead of 0.93 (× 0.91)"."""
    if not effect.known:
        return ""
    places = wording.decimals(effect.ci_low, effect.ci_high)
    other = effect.estimate / times if applied else effect.estimate * times
    here, there = (wording.number(value, places) for value in (effect.estimate, other))
    reads = (
        f"reads {here} instead of {there}" if applied else f"would read {there} instead of {here}"
    )
    name, by = wording.unbroken(effect.name), wording.unbroken(f"(× {wording.number(times)})")
    return f"θ of {name} {reads} {by}"


def _staircase(calibrators: pd.DataFrame) -> str:
    several = calibrators["model"].nunique() > 1
    shares = [
        (wording.percent(share), name_of(row, several))
        for row in records(calibrators[calibrators["calibrator"] == "isotonic"])
        if row["status"] == "ok" and np.isfinite(share := as_float(row["zero_effects"]))
    ]
    text = "Isotonic regression is a staircase: it measures calibration and is refused for effects"
    if not shares:
        return f"{text}."
    listed = wording.joined([f"{share} of {target}" for share, target in shares])
    return f"{text}, of which it would make exactly zero {listed}."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
