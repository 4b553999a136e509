"""Whether predicted probabilities are right: the metrics of each target, by calibrator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from deepmr.report import wording
from deepmr.report.answers import Answer, Settings
from deepmr.report.rescaling import effect_sentences, maps_table
from deepmr.report.table import Cell, Heading, Row, Table, as_count, as_float, name_of, records

# metric: heading, which side of the null band is bad
_PLAIN = {"auroc": "AUROC", "auprc": "AUPRC"}
_BANDED = {
    "nll": ("NLL", "both"),
    "brier": ("Brier", "both"),
    "brier_miscalibration": ("of it miscalibration", "above"),
    "ece": ("ECE", "above"),
    "ece_debiased": ("ECE, debiased", "above"),
    "ks": ("KS", "above"),
    "cox_slope": ("Cox slope", "both"),
    "cox_intercept": ("Cox intercept", "both"),
    "o_over_e": ("O/E", "both"),
}


@dataclass(frozen=True)
class Section:
    """What the report says of the predictions' calibration.

    Attributes
    ----------
    summary : tuple of str
        Which targets are calibrated, as predicted and after each calibrator.
    test, validation : Table
        Metrics with their null bands; a row is a calibrator of a target.
    effects : tuple of str
        Which calibrator the effects went through, and what it changes in each pair's slope.
    maps : Table
        The parameters of every calibrator.
    """

    summary: tuple[str, ...]
    test: Table
    validation: Table
    effects: tuple[str, ...]
    maps: Table


def of_predictions(
    calibration: pd.DataFrame,
    calibrators: pd.DataFrame,
    found: Sequence[Answer],
    settings: Settings,
) -> Section:
    """Return what the report says of the predictions' calibration.

    Parameters
    ----------
    calibration, calibrators : DataFrame
        The tables of these names.
    found : sequence of Answer
        The pairs, whose slopes a calibrator rescales.
    settings : Settings
        ``calibrator`` (the one applied), ``effect_scale``, ``minimum_positives``.

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        When the calibrator that is applied is not in `calibrators`.
    """
    if settings.calibrator != "none" and settings.calibrator not in set(calibrators["calibrator"]):
        raise ValueError(
            f"calibrators table: no row of {settings.calibrator!r}, which calibration.apply names; "
            f"the table has {sorted(set(calibrators['calibrator']))}"
        )
    return Section(
        summary=tuple(_summary(calibration, calibrators)),
        test=metrics_table(calibration, calibrators, "test", settings),
        validation=metrics_table(calibration, calibrators, "validation", settings),
        effects=tuple(effect_sentences(calibrators, found, settings)),
        maps=maps_table(calibrators),
    )


def outside(row: Mapping[str, object], metric: str) -> bool:
    """Return whether a metric is worse than a perfectly calibrated model gives 95 % of the time.

    Errors count above their null band only: below it there is nothing to repair.
    """
    value, low, high = (as_float(row[metric + end]) for end in ("", "_null_low", "_null_high"))
    return value > high or (_BANDED[metric][1] == "both" and value < low)


def in_words(row: Mapping[str, object], metric: str) -> tuple[str, str]:
    """Return a metric and its null band as text; the band is empty where there is none."""
    value, low, high = (as_float(row[metric + end]) for end in ("", "_null_low", "_null_high"))
    if not np.isfinite([value, low, high]).all():
        return wording.number(value, 3), ""
    places = wording.decimals(low, high)
    if outside(row, metric):
        # never printed as the very end of the band that it lies outside of
        while places < 6 and wording.number(value, places) in (
            wording.number(low, places),
            wording.number(high, places),
        ):
            places += 1
    return wording.number(value, places), wording.interval(low, high, places)


def judged(calibration: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test split whose targets could be judged.

    The row of a calibrator that could not be fitted has the numbers of "none", and stays.
    """
    test = calibration[calibration["split"] == "test"]
    plain = test[(test["calibrator"] == "none") & (test["status"] == "ok")]
    keys = pd.MultiIndex.from_frame(plain[["model", "target"]])
    return test[pd.MultiIndex.from_frame(test[["model", "target"]]).isin(keys)]


def unfitted(calibrators: pd.DataFrame) -> list[dict[str, object]]:
    """Return one row for each model and target that no calibrator could be fitted to."""
    rows = calibrators.drop_duplicates(["model", "target", "status"])
    fitted = {(r["model"], r["target"]) for r in records(rows) if r["status"] == "ok"}
    left = rows.drop_duplicates(["model", "target"])
    return [r for r in records(left) if (r["model"], r["target"]) not in fitted]


def why_unfitted(row: Mapping[str, object], settings: Settings) -> str:
    """Return why a target stays as predicted, from its row of the calibrators table."""
    status, n, positives = str(row["status"]), as_count(row["n"]), as_count(row["n_positive"])
    if status.startswith("too_few"):
        label = 1 if status == "too_few_positives" else 0
        number = positives if label else n - positives
        return (
            f"{number:,} of {n:,} validation windows have label {label}, "
            f"{settings.minimum_positives} are needed"
        )
    if status == "one_class":
        return f"every label of the {n:,} validation windows is the same"
    return wording.status(status)


def metrics_table(
    calibration: pd.DataFrame, calibrators: pd.DataFrame, split: str, settings: Settings
) -> Table:
    """Return the metrics of one split with their null bands, target by target."""
    several = calibration["model"].nunique() > 1
    reasons = {(r["model"], r["target"]): r for r in unfitted(calibrators)}
    rows: list[Row] = []
    of_split = calibration[calibration["split"] == split]
    for key, group in of_split.groupby(["model", "target"], sort=False):
        shown = records(group)
        first = shown[0]
        note = "" if first["status"] == "ok" else wording.status(str(first["status"]))
        if key in reasons and not note:
            note = f"not calibrated: {why_unfitted(reasons[key], settings)}"
        rows.append(Heading(_windows(first, several), note))
        rows += [
            _metrics(row, settings)
            for row in shown
            if row["calibrator"] == "none" or key not in reasons
        ]
    return Table(("", *_PLAIN.values(), *(heading for heading, _ in _BANDED.values())), tuple(rows))


def _summary(calibration: pd.DataFrame, calibrators: pd.DataFrame) -> list[str]:
    """Return which targets have ECE and Cox slope inside their bands, calibrator by calibrator."""
    several = calibration["model"].nunique() > 1
    unable = {(r["model"], r["target"]) for r in unfitted(calibrators)}
    rows = judged(calibration)
    text = []
    for name, group in rows.groupby("calibrator", sort=False):
        shown = [
            r for r in records(group) if name == "none" or (r["model"], r["target"]) not in unable
        ]
        off = [name_of(r, several) for r in shown if outside(r, "ece") or outside(r, "cox_slope")]
        if not shown:
            continue
        start = "As predicted" if name == "none" else f"With {wording.calibrator(str(name))}"
        inside = f"{len(shown) - len(off)} of {len(shown)} targets"
        text.append(f"{start}: {inside}{f', not {wording.joined(off)}' if off else ''}")
    return text + _not_judged(calibration, several)


def _not_judged(calibration: pd.DataFrame, several: bool) -> list[str]:
    test = calibration[(calibration["split"] == "test") & (calibration["calibrator"] == "none")]
    named = [
        f"{name_of(row, several)} ({wording.status(str(row['status']))})"
        for row in records(test)
        if row["status"] in ("one_class", "no_labels")
    ]
    return [f"Not judged on test windows: {wording.joined(named)}"] if named else []


def _metrics(row: Mapping[str, object], settings: Settings) -> tuple[str | Cell, ...]:
    name, status = str(row["calibrator"]), str(row["status"])
    called = wording.calibrator(name)
    if name != "none":
        called += "" if status == "ok" else f" ({wording.status(status)})"
        called += ", applied" if name == settings.calibrator else ""
    return (
        called,
        *(wording.number(as_float(row[metric]), 3) for metric in _PLAIN),
        *(_banded(row, metric) for metric in _BANDED),
    )


def _banded(row: Mapping[str, object], metric: str) -> str | Cell:
    value, band = in_words(row, metric)
    return Cell(value, band, outside(row, metric)) if band else value


def _windows(row: Mapping[str, object], several: bool) -> str:
    n, chromosomes = as_count(row["n"]), as_count(row["n_chromosomes"])
    ones = (
        "" if "target" in str(row["status"]) else f", {as_count(row['n_positive']):,} with label 1"
    )
    return (
        f"{name_of(row, several)}: {n:,} windows{ones}, "
        f"{chromosomes} chromosome{'' if chromosomes == 1 else 's'}"
    )
