"""Why effects differ between sequences: the tables of single sequences, covariates, diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from deepmr.meta.tables.covariates import annotate, best_sites, covariates, predicted_logits
from deepmr.meta.tables.diagnostics import diagnostics
from deepmr.meta.tables.estimated import Estimated
from deepmr.meta.tables.moderators import regress_on_covariates
from deepmr.meta.tables.sequence_effects import evidence, sequence_effects
from deepmr.motifs import Motif
from deepmr.progress import track
from deepmr.schemas import DIRECTIONS, META_DIAGNOSTICS, META_REGRESSION, SEQUENCE_EFFECTS

_COLUMNS = (
    "sequence_id",
    "model",
    "pair",
    "direction",
    "stratum",
    "estimate",
    "se",
    "se_within",
    "status",
    "draws",
    "draws_se",
)
_SCHEMAS = {
    "sequence_effects": SEQUENCE_EFFECTS,
    "meta_regression": META_REGRESSION,
    "meta_diagnostics": META_DIAGNOSTICS,
}


@dataclass(frozen=True)
class Settings:
    """How the effects of sequences are combined, and where motifs are looked for.

    Attributes
    ----------
    method : str
        Estimator of the effect of a sequence, for the column ``method``.
    combination : str
        One of `deepmr.meta.combine.METHODS`, or ``median``; with the median, which has no variance
        between sequences, the tables are made with REML and say so.
    test : str
        One of `deepmr.meta.combine.TESTS`.
    motif_p_value : float
        A site is a word whose score a random word reaches with at most this probability.
    both_strands : bool
        Look for motifs on both strands (False for RNA).
    """

    method: str
    combination: str = "REML"
    test: str = "adhoc"
    motif_p_value: float = 1e-4
    both_strands: bool = True

    @property
    def estimator(self) -> str:
        """Estimator of tau2 of the tables."""
        return "REML" if self.combination == "median" else self.combination


@dataclass(frozen=True, eq=False)
class Explained:
    """Tables of the schemas `SEQUENCE_EFFECTS`, `META_REGRESSION` and `META_DIAGNOSTICS`."""

    sequence_effects: pa.Table
    meta_regression: pa.Table
    meta_diagnostics: pa.Table


def read_effects(path: str | Path, method: str) -> pd.DataFrame:
    """Read the rows of ``mr.parquet`` that one estimator made, without those of the others.

    Parameters
    ----------
    path : path
        A table of `deepmr.schemas.MR`.
    method : str
        The estimator.
    """
    rows = [("method", "=", method), ("direction", "in", DIRECTIONS)]
    table = pq.read_table(path, columns=list(_COLUMNS), filters=rows, partitioning=None)
    return table.to_pandas()


def explain(
    mr: pd.DataFrame,
    sequences: pa.Table,
    predictions: Mapping[str, str | Path],
    motifs: Mapping[str, Motif | None],
    pairs: Mapping[str, Mapping[str, str]],
    annotations: Mapping[str, str | Path],
    settings: Settings,
) -> Explained:
    """Make the tables for every model, pair and direction.

    Parameters
    ----------
    mr : pandas.DataFrame
        From `read_effects`.
    sequences : pyarrow.Table
        Columns of `deepmr.schemas.sequences_schema`.
    predictions : mapping of str to path
        Predictions table of each model; its models are those of the tables.
    motifs : mapping of str to Motif or None
        By target; a target that is missing has none.
    pairs : mapping
        By name: exposure and outcome. All are in the tables, in both directions, also one of
        which no sequence was sampled.
    annotations : mapping of str to path
        As `deepmr.meta.tables.covariates.annotate` takes them.
    settings : Settings
        The rest.

    Returns
    -------
    Explained
        In the order of models, pairs, directions and, in `sequence_effects`, sequence ids.

    Raises
    ------
    ValueError
        If a sequence has no predictions, or an annotation or a motif cannot be used.
    """
    ids = sequences["sequence_id"].to_pylist()
    targets = list(dict.fromkeys(t for p in pairs.values() for t in (p["exposure"], p["outcome"])))
    sites = best_sites(
        sequences,
        {target: motifs.get(target) for target in targets},
        settings.motif_p_value,
        settings.both_strands,
    )
    notes = annotate(sequences, annotations)
    groups = dict(iter(mr.groupby(["model", "pair", "direction"], sort=False)))
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in _SCHEMAS}
    questions = [
        (model, pair, way) for model in predictions for pair in pairs for way in DIRECTIONS
    ]
    logits: dict[str, pd.DataFrame] = {}
    for model, pair, direction in track(questions, len(questions), "explaining", "question"):
        if model not in logits:
            logits = {model: predicted_logits(predictions[model], targets, ids)}
        ends = pairs[pair]["exposure"], pairs[pair]["outcome"]
        exposure, outcome = ends if direction == "forward" else ends[::-1]
        key = {
            "model": model,
            "pair": pair,
            "direction": direction,
            "exposure": exposure,
            "outcome": outcome,
            "method": settings.method,
        }
        known = covariates(sequences, logits[model], sites, exposure, outcome, ends[0], notes)
        rows = groups.get((model, pair, direction), mr.iloc[:0]).sort_values("sequence_id")
        for name, found in _one(rows, known, settings).items():
            tables[name] += [key | row for row in found]
    return Explained(**{name: _table(rows, _SCHEMAS[name]) for name, rows in tables.items()})


def _one(
    rows: pd.DataFrame, known: pd.DataFrame, settings: Settings
) -> dict[str, Sequence[dict[str, Any]]]:
    """Make the rows of one model, pair and direction."""
    estimated = Estimated.of(rows)
    judged = evidence(estimated, settings.estimator)
    own = known.loc[rows["sequence_id"]]
    used = {"combination": settings.estimator}
    regressions = regress_on_covariates(
        estimated.draws,
        estimated.variances,
        own.iloc[estimated.place],
        settings.estimator,
        settings.test,
        estimated.se_within**2,
    )
    return {
        "sequence_effects": sequence_effects(rows, own, estimated, judged),
        "meta_regression": [used | row for row in regressions],
        "meta_diagnostics": [used | diagnostics(estimated, judged, settings.estimator)],
    }


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = [
        pa.array([row.get(name) for row in rows], schema.field(name).type, from_pandas=True)
        for name in schema.names
    ]
    return pa.Table.from_arrays(columns, schema=schema)
