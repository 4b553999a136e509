"""What is known of sequences beside their effects: covariates of a meta-regression, and strata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepmr.genome.alphabet import encode
from deepmr.genome.annotations import inside_regions, is_regions, read_values
from deepmr.motifs import Motif, threshold, word_scores
from deepmr.tables import draws_array

_UNITS = {
    "gc": (0.1, "per 0.1"),
    "predicted_exposure": (1.0, "per logit"),
    "motif_distance": (10.0, "per 10 bp"),
    "bound": (1.0, "bound against unbound"),
}
_ROWS = 1_000
"""Sequences whose words are scored at once."""


def annotate(sequences: pa.Table, annotations: Mapping[str, str | Path]) -> pd.DataFrame:
    """Look up the user's annotations of sequences.

    Parameters
    ----------
    sequences : pyarrow.Table
        Columns of `deepmr.schemas.sequences_schema`.
    annotations : mapping of str to path
        Section ``meta.annotations``: a BED file (is the sequence inside?), or a table with
        sequence_id and a column of that name.

    Returns
    -------
    pandas.DataFrame
        A row for each sequence, by sequence_id, and a column for each annotation: text or
        float64, None or NaN where nothing is said of the sequence. A BED file says ``yes`` where
        its regions cover at least half of the sequence, ``no`` elsewhere.

    Raises
    ------
    deepmr.genome.annotations.AnnotationError, deepmr.genome.regions.RegionsError
        If a file cannot be used.
    """
    ids = pd.Index(sequences["sequence_id"].to_pylist(), name="sequence_id", dtype=object)
    columns = {}
    for name, path in annotations.items():
        if is_regions(path):
            columns[name] = inside_regions(path, sequences)
        else:
            values = read_values(path, name).reindex(ids)
            columns[name] = values if _is_number(values) else values.where(values.notna(), None)
    return pd.DataFrame(columns, index=ids)


def annotation_strata(
    sequences: pa.Table, annotations: Mapping[str, str | Path]
) -> dict[str, NDArray[np.object_]]:
    """Return the strata that annotations with texts make.

    Parameters
    ----------
    sequences, annotations
        As in `annotate`.

    Returns
    -------
    dict of str to ndarray of str
        ``<annotation>=<value>`` and the ids of its sequences, in the order of the annotations and
        of the values. Numbers make no strata.

    Raises
    ------
    deepmr.genome.annotations.AnnotationError, deepmr.genome.regions.RegionsError
        If a file cannot be used.
    """
    values = annotate(sequences, annotations)
    return {
        f"{name}={value}": values.index[values[name] == value].to_numpy(dtype=object)
        for name in values.columns
        if not _is_number(values[name])
        for value in sorted(values[name].dropna().unique())
    }


def predicted_logits(
    path: str | Path, targets: Sequence[str], sequence_ids: Sequence[str]
) -> pd.DataFrame:
    """Read what a network predicts for sequences.

    Parameters
    ----------
    path : path
        A table of `deepmr.schemas.predictions_schema`.
    targets : sequence of str
        Targets wanted.
    sequence_ids : sequence of str
        Sequences wanted.

    Returns
    -------
    pandas.DataFrame
        Mean over draws of the logit, by sequence_id (in the order given) and target.

    Raises
    ------
    ValueError
        If a sequence is not in the table.
    """
    wanted = pd.Index(list(sequence_ids), name="sequence_id", dtype=object)
    columns = ["sequence_id", *(f"{target}.draws" for target in targets)]
    parts = [pd.DataFrame(index=wanted[:0], columns=list(targets), dtype=np.float64)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=columns):
            ids = pd.Index(batch["sequence_id"].to_pylist(), name="sequence_id", dtype=object)
            own = np.flatnonzero(ids.isin(wanted))
            rows = batch.take(pa.array(own))
            means = {
                target: draws_array(rows[target].field("draws")).mean(axis=1, dtype=np.float64)
                for target in targets
            }
            parts.append(pd.DataFrame(means, index=ids[own], columns=list(targets)))
    found = pd.concat(parts)
    unknown = wanted.difference(found.index)
    if len(unknown):
        raise ValueError(
            f"{path} has no prediction of {len(unknown)} sampled sequences, first {unknown[0]}; "
            "make the predictions again"
        )
    return found.loc[wanted]


def best_sites(
    sequences: pa.Table,
    motifs: Mapping[str, Motif | None],
    motif_p_value: float,
    both_strands: bool,
) -> pd.DataFrame:
    """Find the best-scoring site of each motif in each sequence.

    Parameters
    ----------
    sequences : pyarrow.Table
        sequence_id and sequence.
    motifs : mapping of str to Motif or None
        By target.
    motif_p_value : float
        A site is a word whose score a random word reaches with at most this probability.
    both_strands : bool
        Also look for the reverse complement (False for RNA).

    Returns
    -------
    pandas.DataFrame
        Centre of the site in bp, 0-based, by sequence_id and target; the first of equally good
        ones. NaN where the target has no motif or the sequence no site.

    Raises
    ------
    deepmr.motifs.MotifError
        If no word of a motif is so rare.
    """
    letters = sequences["sequence"].to_pylist()
    sites = pd.DataFrame(
        np.nan,
        index=pd.Index(sequences["sequence_id"].to_pylist(), name="sequence_id", dtype=object),
        columns=list(motifs),
    )
    for target, motif in motifs.items():
        if motif is None:
            continue
        lowest = threshold(motif, motif_p_value)
        centres = np.full(len(letters), np.nan)
        for first in range(0, len(letters), _ROWS):
            codes = np.stack([encode(one) for one in letters[first : first + _ROWS]])
            best = word_scores(codes, motif, both_strands)
            if not best.shape[1]:
                continue
            at = best.argmax(axis=1)
            found = best[np.arange(len(at)), at] >= lowest
            centres[first : first + len(at)][found] = at[found] + (motif.width - 1) / 2
        sites[target] = centres
    return sites


def covariates(
    sequences: pa.Table,
    logits: pd.DataFrame,
    sites: pd.DataFrame,
    exposure: str,
    outcome: str,
    sampled_for: str,
    annotations: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Put together what is known of each sequence for one question.

    Parameters
    ----------
    sequences : pyarrow.Table
        Columns of `deepmr.schemas.sequences_schema`.
    logits : pandas.DataFrame
        From `predicted_logits`.
    sites : pandas.DataFrame
        From `best_sites`.
    exposure, outcome : str
        The question.
    sampled_for : str
        Exposure of the pair as configured, in both directions: by it a sequence is bound.
    annotations : pandas.DataFrame, optional
        From `annotate`.

    Returns
    -------
    pandas.DataFrame
        By sequence_id: gc (fraction of G and C), predicted_exposure (logit), motif_distance (bp
        between the centres of the best sites of exposure and outcome; NaN unless both have one),
        bound (1, 0, NaN = not sampled), and the annotations.
    """
    ids = pd.Index(sequences["sequence_id"].to_pylist(), name="sequence_id", dtype=object)
    letters = sequences["sequence"].to_pylist()
    strata = sequences[f"stratum.{sampled_for}"].to_pylist()
    table = pd.DataFrame(
        {
            "gc": [(s.count("G") + s.count("C")) / len(s) for s in letters],
            "predicted_exposure": logits[exposure].reindex(ids),
            "motif_distance": (sites[exposure] - sites[outcome]).abs().reindex(ids),
            "bound": [{"bound": 1.0, "unbound": 0.0}.get(s, np.nan) for s in strata],
        },
        index=ids,
    )
    return table if annotations is None else table.join(annotations)


@dataclass(frozen=True, eq=False)
class Coded:
    """A covariate as columns of a design matrix.

    Attributes
    ----------
    name : str
        The covariate.
    terms : tuple of str
        Name of each column: the covariate, or for texts ``<covariate>=<value>``.
    units : tuple of str
        What one unit of each column is.
    values : ndarray, shape (k, columns)
        NaN where the covariate is missing. Texts that are all the same (or missing) have no
        column; the commonest text (of equally common ones the first in alphabetical order) is
        the reference.
    known : ndarray of bool, shape (k,)
        Where the covariate is not missing.
    """

    name: str
    terms: tuple[str, ...]
    units: tuple[str, ...]
    values: NDArray[np.float64]
    known: NDArray[np.bool_]

    def only(self, columns: Sequence[int]) -> Coded:
        """Return it with some of its columns."""
        return Coded(
            self.name,
            tuple(self.terms[i] for i in columns),
            tuple(self.units[i] for i in columns),
            self.values[:, list(columns)],
            self.known,
        )


def coded(values: pd.Series, name: str) -> Coded:
    """Turn a covariate into numbers.

    Parameters
    ----------
    values : pandas.Series
        Numbers or texts; NaN or None where missing.
    name : str
        The covariate; decides the unit (gc per 0.1, motif_distance per 10 bp, others per 1).
    """
    if _is_number(values):
        size, unit = _UNITS.get(name, (1.0, "per unit"))
        numbers = values.to_numpy(dtype=np.float64)
        return Coded(name, (name,), (unit,), numbers[:, None] / size, np.isfinite(numbers))
    counts = values.value_counts()
    ranked = sorted(counts.index, key=lambda text: (-counts[text], text))
    others = sorted(ranked[1:])
    known = values.notna().to_numpy()
    columns = [np.where(known, (values == text).to_numpy(), np.nan) for text in others]
    return Coded(
        name,
        tuple(f"{name}={text}" for text in others),
        tuple(f"{text} against {ranked[0]}" for text in others),
        np.stack(columns, axis=1) if columns else np.empty((len(values), 0)),
        known,
    )


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values.dtype)
