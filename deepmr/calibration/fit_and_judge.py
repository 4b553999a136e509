"""Calibrators fitted on validation windows and judged on validation and test windows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from deepmr.calibration.fitting import fit_targets
from deepmr.calibration.maps import Fitted, calibrated_draws, zero_effects
from deepmr.calibration.parameters import to_table
from deepmr.calibration.report import evaluate, target_rng
from deepmr.held_out import HeldOut
from deepmr.schemas import CALIBRATION
from deepmr.uncertainty.replicates import Replicates

logger = logging.getLogger(__name__)

_WHY = {
    "too_few_positives": "fewer windows with label 1 than calibration.minimum_positives",
    "too_few_negatives": "fewer windows with label 0 than calibration.minimum_positives",
    "one_class": "all labels are alike",
    "no_labels": "nothing was measured",
}


@dataclass(frozen=True)
class Settings:
    """Section ``calibration`` of the configuration, and the seed.

    Attributes
    ----------
    calibrators : sequence of str
        Maps to fit.
    minimum_positives, shrink_below : int
        As in :func:`deepmr.calibration.fitting.fit_targets`.
    bins, simulations : int
        As in :func:`deepmr.calibration.report.evaluate`.
    seed : int
        Of the null bands.
    """

    calibrators: Sequence[str]
    minimum_positives: int
    shrink_below: int
    bins: int
    simulations: int
    seed: int

    @classmethod
    def of(cls, section: Mapping[str, object], seed: int) -> Settings:
        """Return the settings of a configuration's section."""
        own = {key: value for key, value in section.items() if key != "apply"}
        return cls(seed=seed, **own)  # type: ignore[arg-type]


def fit_and_judge(
    held_out: Mapping[str, HeldOut],
    kinds: Sequence[str],
    replicates: Replicates,
    settings: Settings,
    model: str,
) -> tuple[pd.DataFrame, pa.Table]:
    """Fit every calibrator on validation windows and judge it on all held-out windows.

    Parameters
    ----------
    held_out : mapping of str to HeldOut
        ``validation`` and ``test``.
    kinds : sequence of str
        Type of each target.
    replicates : Replicates
        Mutation effects of some sequences, to count those that a map makes exactly zero.
    settings : Settings
        What to fit, and how to judge it.
    model : str
        Name of the model.

    Returns
    -------
    metrics : DataFrame
        Columns of `deepmr.schemas.CALIBRATION`.
    calibrators : pyarrow.Table
        Schema `deepmr.schemas.CALIBRATORS`.
    """
    fitted = fit_all(held_out["validation"], kinds, settings, model)
    metrics = judge(held_out, kinds, fitted, settings, model)
    return metrics, to_table(fitted, model, share_of_zero_effects(fitted, replicates))


def fit_all(
    validation: HeldOut, kinds: Sequence[str], settings: Settings, model: str
) -> list[Fitted]:
    """Fit every calibrator of every target, and say in the log what stays as it is.

    Parameters
    ----------
    validation : HeldOut
        Validation windows.
    kinds : sequence of str
        Type of each target.
    settings : Settings
        What to fit.
    model : str
        Name of the model, for the log.

    Returns
    -------
    list of Fitted
        Calibrator by calibrator.
    """
    chromosomes = set(validation.chromosomes)
    if len(chromosomes) == 1:
        (only,) = chromosomes
        logger.warning(
            "%s: %s; what differs between chromosomes can neither be seen in the null bands nor be "
            "calibrated for. %s",
            model,
            "validation windows are of no known chromosome"
            if only is None
            else f"all validation windows lie on {only}",
            "Give the label table a column chrom"
            if only is None
            else "Name more in split.validation",
        )
    fitted = []
    for name in settings.calibrators:
        fitted += fit_targets(
            name,
            validation.labels,
            validation.draws,
            validation.targets,
            kinds,
            minimum_positives=settings.minimum_positives,
            shrink_below=settings.shrink_below,
        )
    for one in fitted:
        if one.status in _WHY and one.name == settings.calibrators[0]:
            logger.warning(
                "%s, %s: stays as predicted, because of %d validation windows %d have label 1 "
                "(%s): %s",
                model,
                one.target,
                one.n,
                one.n_positive,
                one.status,
                _WHY[one.status],
            )
    return fitted


def judge(
    held_out: Mapping[str, HeldOut],
    kinds: Sequence[str],
    fitted: Sequence[Fitted],
    settings: Settings,
    model: str,
) -> pd.DataFrame:
    """Return the metrics of every target and split, as predicted and after every calibrator.

    Parameters
    ----------
    held_out : mapping of str to HeldOut
        By split.
    kinds : sequence of str
        Type of each target.
    fitted : sequence of Fitted
        What :func:`fit_all` returned.
    settings : Settings
        Bins, simulations and seed.
    model : str
        Written into the column of this name.

    Returns
    -------
    DataFrame
        Columns of `deepmr.schemas.CALIBRATION`. The null bands of a target come from the same
        random numbers in all its rows. A calibrator that could not be fitted has the numbers of
        "none" and the status that says why.
    """
    by_key = {(one.name, one.target): one for one in fitted}
    rows = []
    for split, windows in held_out.items():
        for k, (target, kind) in enumerate(zip(windows.targets, kinds, strict=True)):
            own = [by_key[name, target] for name in settings.calibrators]
            found = _judge_target(windows, k, kind, own, settings)
            status = found[0]["status"]
            if split == "test" and status in _WHY:
                logger.warning(
                    "%s, %s: not judged on the %d test windows that were measured (%s): %s",
                    *(model, target, found[0]["n"], status, _WHY[str(status)]),
                )
            rows += [{"model": model, "target": target, "split": split} | row for row in found]
    return pd.DataFrame(rows, columns=CALIBRATION.names)


def _judge_target(
    windows: HeldOut, column: int, kind: str, fitted: Sequence[Fitted], settings: Settings
) -> list[dict[str, object]]:
    """Return the metrics of one target as predicted, and after each of its calibrators."""
    measured = ~np.isnan(windows.labels[:, column])
    draws = windows.draws[measured, :, column].astype(np.float64)

    def metrics(outputs: np.ndarray) -> dict[str, object]:
        return evaluate(
            windows.labels[measured, column],
            outputs,
            kind,
            windows.chromosomes[measured],
            bins=settings.bins,
            simulations=settings.simulations,
            rng=target_rng(settings.seed, windows.targets[column]),
        )

    plain = metrics(draws)
    rows = [{"calibrator": "none"} | plain]
    for one in fitted:
        found = (
            metrics(calibrated_draws(one.calibrator, draws))
            if one.status == "ok"
            else plain | {"status": one.status}
        )
        rows.append({"calibrator": one.name} | found)
    return rows


def share_of_zero_effects(
    fitted: Iterable[Fitted], replicates: Replicates
) -> dict[tuple[str, str], float]:
    """Return by (target, calibrator) the share of mutation effects that a map makes exactly zero.

    Parameters
    ----------
    fitted : iterable of Fitted
        Calibrators.
    replicates : Replicates
        Mutation effects of some sequences; the first member's count.
    """
    return {
        (one.target, one.name): zero_effects(
            one.calibrator,
            replicates.reference[one.target][:, 0],
            replicates.effects[one.target][:, 0],
        )
        for one in fitted
        if one.status == "ok"
    }
