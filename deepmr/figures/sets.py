"""The figures of a model and of a pair, drawn from the tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from deepmr.calibration.maps import calibrated_draws
from deepmr.calibration.parameters import read_calibrators
from deepmr.calibration.predicted import predicted as pooled
from deepmr.calibration.predicted import probabilities
from deepmr.effects import Response
from deepmr.figures import (
    calibration,
    causal,
    heterogeneity,
    network,
    prediction,
    style,
    uncertainty,
)
from deepmr.held_out import HeldOut
from deepmr.motifs import Motif
from deepmr.mr.conditional import METHODS as CONDITIONAL
from deepmr.mr.questions import Pair, Settings
from deepmr.mr.shard import shard_instruments
from deepmr.schemas import NETWORK
from deepmr.shards.membership import shard_of
from deepmr.uncertainty.replicates import Replicates

_NOT_FITTED = {
    "too_few_positives": "too few positives ({n_positive:,} of {n:,} validation windows)",
    "too_few_negatives": "too few negatives ({n_negative:,} of {n:,} validation windows)",
    "one_class": "all labels of the {n:,} validation windows are alike",
    "no_labels": "no validation window was measured",
}


def model_figures(
    test: HeldOut,
    kinds: Sequence[str],
    history: pd.DataFrame,
    metrics: pd.DataFrame,
    calibrators: pa.Table,
    model: str,
    *,
    bins: int,
    seed: int,
) -> dict[str, Figure]:
    """Draw how well a model predicts, before and after calibration.

    Parameters
    ----------
    test : HeldOut
        Test windows with labels and predictions.
    kinds : sequence of str
        Type of each target; only binary targets have probabilities to draw.
    history : DataFrame
        Learning curves; empty for an imported network.
    metrics : DataFrame
        ``calibration.parquet``.
    calibrators : pyarrow.Table
        ``calibrators.parquet``.
    model : str
        Name of the model in both.
    bins : int
        Bins of the reliability diagrams.
    seed : int
        Seed of their null bands.

    Returns
    -------
    dict of str to Figure
        ``learning_curves``, ``roc``, and of every target ``reliability/<target>``,
        ``calibrators/<target>`` and ``histogram/<target>``.
    """
    p = probabilities(test.evaluated, test.draws)
    binary = [k for k, kind in enumerate(kinds) if kind == "binary"]
    drawn = {
        "learning_curves": prediction.learning_curves(history)
        if len(history)
        else style.note("This network was imported, not trained here: no learning curves."),
        "roc": prediction.roc(
            test.labels[:, binary], p[:, binary], [test.targets[k] for k in binary]
        )
        if binary
        else style.note("No target is binary: no ROC."),
    }
    judged = metrics[(metrics["model"] == model) & (metrics["split"] == "test")]
    for k, target in enumerate(test.targets):
        labels, predicted = test.labels[:, k], p[:, k]
        if k in binary and np.unique(labels[np.isfinite(labels)]).size == 2:
            drawn[f"reliability/{target}"] = calibration.reliability(
                labels, predicted, target, bins=bins, seed=seed
            )
            drawn[f"calibrators/{target}"] = calibration.calibrators(
                labels,
                {"none": predicted} | _calibrated(test.draws[:, :, k], calibrators, model, target),
                judged[judged["target"] == target],
                target,
                bins=bins,
                seed=seed,
            )
            drawn[f"histogram/{target}"] = prediction.histogram(labels, predicted, target)
        else:
            for kind in ("reliability", "calibrators", "histogram"):
                drawn[f"{kind}/{target}"] = style.note(
                    f"{target}: {kinds[k]} labels of one class, or not binary; nothing to draw."
                )
    return drawn


def uncertainty_figures(replicates: Replicates, judged: pd.DataFrame) -> dict[str, Figure]:
    """Draw whether the standard errors of a model's mutation effects are right.

    Parameters
    ----------
    replicates : Replicates
        Effects of each member of the model.
    judged : DataFrame
        Rows of ``uncertainty.parquet`` of the model.

    Returns
    -------
    dict of str to Figure
        ``standard_errors/<target>`` of every target.

    Raises
    ------
    ValueError
        If a target has no row.
    """
    return {
        f"standard_errors/{target}": uncertainty.standard_errors(replicates, target, judged)
        for target in replicates.targets
    }


def effects_figures(
    headline: pd.DataFrame,
    edges: pd.DataFrame,
    truth: pd.DataFrame | None,
    targets: Sequence[str],
    *,
    fdr: float,
    effect_scale: str,
) -> dict[str, Figure]:
    """Draw the global effects of all pairs in both directions.

    Parameters
    ----------
    headline : DataFrame
        Rows of ``meta.parquet`` of one model, one a pair and direction, without decoys.
    edges : DataFrame
        Rows of ``network.parquet`` of the same model.
    truth : DataFrame, optional
        ``truth.parquet``; its marginal slopes are on the logit scale and drawn only there.
    targets : sequence of str
        Targets in the order of the configuration.
    fdr : float
        The level behind the column ``significant`` of `edges`.
    effect_scale : str
        Scale of the effects.

    Returns
    -------
    dict of str to Figure
        ``global_effects`` and ``network``.
    """
    decoys = [name for name in NETWORK.names if name.startswith("decoy_")]
    rows = headline.merge(
        edges[["pair", "direction", *decoys]], on=["pair", "direction"], how="left"
    )
    if truth is not None and effect_scale == "logit":
        known = truth[["exposure", "outcome", "marginal_slope"]]
        rows = rows.merge(known, on=["exposure", "outcome"], how="left")
    return {
        "global_effects": causal.global_effects(rows, effect_scale=effect_scale),
        "network": network.network(edges, targets, fdr=fdr, effect_scale=effect_scale),
    }


def pair_figures(
    pair: Pair,
    test: HeldOut,
    sequences: pa.Table,
    effects: Sequence[str],
    references: Sequence[str],
    mr: pd.DataFrame,
    headline: pd.DataFrame,
    sequence_effects: pd.DataFrame,
    diagnostics: pd.DataFrame,
    truth: pd.DataFrame | None,
    motifs: Mapping[str, Motif | None],
    settings: Settings,
    responses: Mapping[str, Response],
    method: str,
) -> dict[str, Figure]:
    """Draw what Mendelian randomization says of a pair.

    Parameters
    ----------
    pair : Pair
        The pair.
    test : HeldOut
        Test windows of the exposure and the outcome, in this order.
    sequences : pyarrow.Table
        ``sequences.parquet``.
    effects, references : sequence of path
        The shards, in order.
    mr : DataFrame
        Rows of ``mr.parquet`` of one model and this pair.
    headline : DataFrame
        Rows of ``meta.parquet`` of the same, one a direction; decoys are not drawn.
    sequence_effects, diagnostics : DataFrame
        Rows of ``sequence_effects.parquet`` and ``meta_diagnostics.parquet`` of the same.
    truth : DataFrame, optional
        ``truth.parquet``.
    motifs, settings, responses
        As in :func:`deepmr.mr.shard.estimate_shard`.
    method : str
        The estimator that the report speaks of.

    Returns
    -------
    dict of str to Figure
        ``uncertainty``, and of every direction ``mr_scatter_<direction>``,
        ``forest_<direction>`` and ``funnel_<direction>``.

    Raises
    ------
    ValueError
        If a direction has not one row of `diagnostics`.
    """
    drawn = {
        "uncertainty": uncertainty.predictions(
            test.targets, test.draws, test.labels, seed=settings.options.seed
        )
        if test.draws.shape[1] > 1
        else style.note("This model makes one draw, which has no SD.")
    }
    for _, overall in headline[headline["direction"] != "decoy"].iterrows():
        direction, exposure, outcome = overall[["direction", "exposure", "outcome"]]
        local = mr[mr["direction"] == direction]
        primary = local[local["method"] == method]
        known = _truth(truth, exposure, outcome) if settings.effect_scale == "logit" else {}
        drawn[f"forest_{direction}"] = causal.forest(
            primary,
            overall,
            exposure=exposure,
            outcome=outcome,
            truth=known,
            effect_scale=settings.effect_scale,
        )
        drawn[f"funnel_{direction}"] = heterogeneity.funnel(
            sequence_effects[sequence_effects["direction"] == direction],
            overall,
            _one_row(diagnostics, pair.name, direction),
            exposure=exposure,
            outcome=outcome,
            effect_scale=settings.effect_scale,
        )
        if not (primary["status"] == "ok").any():
            reasons = ", ".join(
                f"{count} {status}" for status, count in primary["status"].value_counts().items()
            )
            drawn[f"mr_scatter_{direction}"] = style.note(
                f"{exposure} → {outcome}: no sequence has an estimate ({reasons})."
            )
            continue
        chosen = causal.representative(primary)
        shard = shard_of(chosen, len(effects)) - 1
        of_chosen = pc.equal(sequences["sequence_id"], chosen)
        found = next(
            one.instruments
            for one in shard_instruments(
                sequences.filter(of_chosen),
                effects[shard],
                references[shard],
                [pair],
                motifs,
                settings,
                responses,
                only=chosen,
            )
            if one.question.direction == direction
        )
        drawn[f"mr_scatter_{direction}"] = causal.mr_scatter(
            found.bx,
            found.by,
            found.se_x,
            found.se_y,
            # Direct effects come from other instruments: no line through these points.
            local[(local["sequence_id"] == chosen) & ~local["method"].isin(CONDITIONAL)],
            exposure=exposure,
            outcome=outcome,
            sequence_id=chosen,
            references={f"true {name}": value for name, value in known.items()},
            effect_scale=settings.effect_scale,
        )
    return drawn


def _one_row(diagnostics: pd.DataFrame, pair: str, direction: str) -> pd.Series:
    rows = diagnostics[diagnostics["direction"] == direction]
    if len(rows) != 1:
        raise ValueError(
            f"{len(rows)} rows of diagnostics of the pair {pair!r}, {direction}, not one; "
            "run the rule explain_heterogeneity"
        )
    return rows.iloc[0]


def _truth(truth: pd.DataFrame | None, exposure: str, outcome: str) -> dict[str, Any]:
    if truth is None:
        return {}
    row = truth[(truth["exposure"] == exposure) & (truth["outcome"] == outcome)].iloc[0]
    return {"marginal slope": row["marginal_slope"], "structural θ": row["theta"]}


def _calibrated(
    draws: np.ndarray, calibrators: pa.Table, model: str, target: str
) -> dict[str, np.ndarray | str]:
    """Return by calibrator the probabilities that it makes of `draws`, or why it makes none."""
    of_target = calibrators.filter(
        pc.and_(pc.equal(calibrators["model"], model), pc.equal(calibrators["target"], target))
    )
    found: dict[str, np.ndarray | str] = {}
    for row in of_target.to_pylist():
        name, status = row["calibrator"], row["status"]
        if status == "ok":
            calibrator = read_calibrators(of_target, model, name)[target]
            found[name] = pooled(calibrated_draws(calibrator, draws)).p
        else:
            why = _NOT_FITTED[status].format(**row, n_negative=row["n"] - row["n_positive"])
            found[name] = f"Not fitted: {why}. Predictions stay as they are."
    return found
