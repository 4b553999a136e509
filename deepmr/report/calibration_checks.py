"""What calibration, of predictions and of standard errors, says for and against the answers."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Settings
from deepmr.report.calibration import in_words, judged, outside, unfitted, why_unfitted
from deepmr.report.checks import Check
from deepmr.report.rescaling import AFFINE, BENT
from deepmr.report.standard_errors import scale, unjudged, verdict
from deepmr.report.table import as_float, name_of, records
from deepmr.uncertainty.draws_needed import ENOUGH, draws_for, enough, relative_error
from deepmr.uncertainty.replicates import RETRAINED

_LIMITS = ("ece", "cox_slope")


def calibration_checks(
    calibration: pd.DataFrame,
    calibrators: pd.DataFrame,
    uncertainty: pd.DataFrame,
    settings: Settings,
) -> list[Check]:
    """Return what calibration says for and against believing the answers.

    Parameters
    ----------
    calibration, calibrators, uncertainty : DataFrame
        The tables of these names.
    settings : Settings
        ``calibrator``, ``apply_scale``, ``effect_scale``, ``n_draws``, ``minimum_positives``.

    Returns
    -------
    list of Check
    """
    return [
        *_predictions(calibration, settings),
        *_rare(calibrators, settings),
        *_chromosomes(calibration),
        *_standard_errors(uncertainty, settings),
        *_draws(settings),
    ]


def _predictions(calibration: pd.DataFrame, settings: Settings) -> list[Check]:
    several = calibration["model"].nunique() > 1
    test = judged(calibration)
    used = records(test[test["calibrator"] == settings.calibrator])
    off = [row for row in used if _is_off(row)]
    how = wording.calibrator(settings.calibrator)
    by_whom = "As predicted" if settings.calibrator == "none" else f"After {how} calibration"
    if used and not off:
        return [
            Check(
                "good",
                "Probabilities mean what they say",
                f"{by_whom}, test ECE and Cox slope of {_every(used)} lie inside their null bands.",
            )
        ]
    if not off:
        return []
    # chance alone puts 1 perfect target in 20 outside of a band, seldom outside of both
    sure = any(all(outside(row, metric) for metric in _LIMITS) for row in off)
    listed = "; ".join(f"{name_of(row, several)} ({_how_far(row)})" for row in off)
    return [
        Check(
            "warn" if sure else "note",
            "Probabilities are off",
            f"{by_whom}, outside the null band of a calibrated model: {listed}. "
            f"{_remedy(records(test), settings)}",
        )
    ]


def _is_off(row: Mapping[str, object]) -> bool:
    return any(outside(row, metric) for metric in _LIMITS)


def _every(rows: Sequence[Mapping[str, object]]) -> str:
    return "the one target" if len(rows) == 1 else f"all {len(rows)} targets"


def _how_far(row: Mapping[str, object]) -> str:
    """Return "ECE 0.031, band [0.004, 0.018]; Cox slope 0.78, band …: overconfident"."""
    parts = []
    for metric, name in zip(_LIMITS, ("ECE", "Cox slope"), strict=True):
        if outside(row, metric):
            value, band = in_words(row, metric)
            parts.append(f"{name} {value}, band {band}")
    if outside(row, "cox_slope"):
        overconfident = as_float(row["cox_slope"]) < as_float(row["cox_slope_null_low"])
        parts[-1] += ": overconfident" if overconfident else ": underconfident"
    return ", ".join(parts)


def _remedy(rows: Sequence[Mapping[str, object]], settings: Settings) -> str:
    """Return which calibrator predicts the test windows best, or what to look at if none does.

    By the negative log-likelihood: a proper score, unlike a count of bands that are left.
    """
    several = len({row["model"] for row in rows}) > 1
    of_name = {
        name: [row for row in rows if row["calibrator"] == name]
        for name in (settings.calibrator, *AFFINE, *BENT, "none")
    }
    nll = {
        name: round(float(np.mean([as_float(row["nll"]) for row in here])), 3)
        for name, here in of_name.items()
        if here
    }
    best = min(nll, key=lambda name: nll[name])  # the first, and so the simplest, of equals
    if best == settings.calibrator:
        return (
            "No calibrator that may be applied predicts test windows better; look at the "
            "reliability figures, and take the size of θ with care."
        )
    left = [name_of(row, several) for row in of_name[best] if _is_off(row)]
    outside_still = wording.joined(left) if left else "no target"
    text = (
        f"{_mapping(best)} predicts test windows best "
        f"(mean NLL {wording.number(nll[best], 3)} instead of "
        f"{wording.number(nll[settings.calibrator], 3)}), with {outside_still} outside: set "
        f"calibration.apply: {best}."
    )
    if best in AFFINE and settings.calibrator == "none" and settings.effect_scale == "logit":
        text += " It changes the size of θ, not z or p; the factors are below."
    return text


def _mapping(name: str) -> str:
    if name == "none":
        return "No calibration"
    shown = wording.calibrator(name)
    return f"{shown[:1].upper()}{shown[1:]} calibration"


def _rare(calibrators: pd.DataFrame, settings: Settings) -> list[Check]:
    several = calibrators["model"].nunique() > 1
    rare = [
        f"{name_of(row, several)} ({why_unfitted(row, settings)})"
        for row in unfitted(calibrators)
        if row["status"] not in ("count_target", "continuous_target")
    ]
    if not rare:
        return []
    return [
        Check(
            "note",
            "Too rare to calibrate",
            f"{wording.joined(rare)}: predictions stay as they are. More validation chromosomes "
            "give more windows.",
        )
    ]


def _chromosomes(calibration: pd.DataFrame) -> list[Check]:
    plain = calibration[(calibration["calibrator"] == "none") & (calibration["n"] > 0)]
    single = [
        split
        for split in ("validation", "test")
        if (plain.loc[plain["split"] == split, "n_chromosomes"] == 1).any()
    ]
    if not single:
        return []
    keys = wording.joined([f"split.{split}" for split in single])
    return [
        Check(
            "note",
            f"One chromosome of {wording.joined(single)} windows",
            "Null bands then hold the chance of the labels, but no difference between chromosomes, "
            f"and may be too narrow. Name two or more in {keys}.",
        )
    ]


def _not_judged(uncertainty: pd.DataFrame, several: bool) -> str:
    """Return a sentence on the targets whose standard errors could not be judged, or nothing."""
    names = [
        name_of(row, several)
        for row in records(uncertainty)
        if row["reference"] == RETRAINED and not verdict(row)
    ]
    return f" Not judged: {wording.joined(names)}." if names else ""


def _standard_errors(uncertainty: pd.DataFrame, settings: Settings) -> list[Check]:
    several = uncertainty["model"].nunique() > 1
    held = [row for row in records(uncertainty) if row["reference"] == RETRAINED and verdict(row)]
    small = [
        f"{name_of(row, several)} ({scale(row)})" for row in held if verdict(row) == "too small"
    ]
    listed = []
    if small and settings.apply_scale:
        listed.append(
            Check(
                "good",
                "Standard errors are widened",
                f"Against retrained networks those of {wording.joined(small)} are too small; they "
                "are multiplied by s before any estimate.",
            )
        )
    elif small:
        listed.append(
            Check(
                "warn",
                "Standard errors are too small",
                f"Against retrained networks: {wording.joined(small)}. Intervals of effects are "
                "too narrow. Set uncertainty.apply_scale: true, which multiplies them by s.",
            )
        )
    elif held:
        listed.append(
            Check(
                "good",
                "Standard errors cover retraining",
                "Networks trained again from other seeds differ by no more than the standard "
                f"errors of mutations say.{_not_judged(uncertainty, several)}",
            )
        )
    missing = unjudged(uncertainty)
    if missing:
        keys = wording.joined([f"models.{model}.members: 6" for model in missing])
        listed.append(
            Check(
                "note",
                "Standard errors are not held against retraining",
                f"Whether they are right is not known from one network. Set {keys} to find out.",
            )
        )
    return listed


def _draws(settings: Settings) -> list[Check]:
    n = settings.n_draws
    if n == 1:
        return [
            Check(
                "warn",
                "One draw",
                "An ensemble of one network makes one draw: no effect has a standard error, and "
                "nothing is estimated. Raise models.<name>.members.",
            )
        ]
    if n < 2 or enough(n):
        return []
    more = (
        f"use uncertainty.method: ensemble_mc_dropout with {draws_for(ENOUGH)} draws"
        if settings.draw_method == "ensemble"
        else f"set uncertainty.draws: {draws_for(ENOUGH)}"
    )
    return [
        Check(
            "warn",
            "Few draws",
            f"{n} draws know their own SD to about {wording.percent(relative_error(n))} only; "
            f"{more} or more to know it to {wording.percent(ENOUGH)}.",
        )
    ]
