"""Mutation effects of some sequences as every member of a model predicts them, each by itself.

Members are networks trained from other seeds on the same windows: the spread of their effects is
what the standard errors of one of them are held against (`deepmr.uncertainty`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr import schemas, tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import AMBIGUOUS, alternatives, encode
from deepmr.models.checkpoint import TrainedModel
from deepmr.mutagenesis.saturation import saturate

Float = NDArray[np.float32]

_OWN_DRAWS = {
    "mc_dropout": "mc_dropout",
    "ensemble_mc_dropout": "mc_dropout",
    "laplace": "laplace",
}
"""What a member by itself draws from. Without an entry it draws nothing: it is a draw."""


def write_replicates(
    model: TrainedModel,
    sequences: pa.Table,
    targets: Sequence[str],
    draws: DrawSet,
    path: str | Path,
    truth: Mapping[str, NDArray[np.float64]] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Mutate every base of the sequences with each member and write the replicates table.

    Parameters
    ----------
    model : TrainedModel
        One member or more.
    sequences : pyarrow.Table
        Columns ``sequence_id`` and ``sequence``.
    targets : sequence of str
        Targets to keep.
    draws : DrawSet
        Of the whole model. With dropout masks or samples of the last layer every member makes as
        many draws by itself; effect and reference are means over them. With ``ensemble`` a member
        is a draw and has no standard error of its own.
    path : path
        Where the table goes.
    truth : mapping of str to ndarray, shape (n, length, 3), optional
        By target, the true effects; where a target has none it is null.
    metadata : mapping, optional
        What made the table.
    **options
        Further arguments of :func:`deepmr.mutagenesis.saturation.saturate`.
    """
    own = _OWN_DRAWS.get(draws.method)
    codes = np.stack([encode(letters) for letters in sequences["sequence"].to_pylist()])
    # The masks of the whole model: the first member's standard errors are those of the run.
    of_member = replace(draws, method=own or "ensemble", n_members=1)
    each = [
        _member_effects(model.alone(member), codes, targets, of_member, options)
        for member in range(len(model.members))
    ]
    known = codes != AMBIGUOUS
    rows, positions = (np.repeat(place, 3) for place in np.nonzero(known))
    ids = np.array(sequences["sequence_id"].to_pylist(), dtype=object)
    bases = np.array(list("ACGTN"))
    columns: dict[str, pa.Array] = {
        "sequence_id": pa.array(ids[rows], pa.string()),
        "position": pa.array(positions.astype(np.int32)),
        "ref": pa.array(bases[codes[rows, positions]], pa.string()),
        "alt": pa.array(bases[alternatives(codes[known]).ravel()], pa.string()),
    }
    for k, target in enumerate(targets):
        reference = np.stack([one[0][rows, k] for one in each], axis=1)
        effect = np.stack([one[1][known][..., k].ravel() for one in each], axis=1)
        se = np.stack([one[2][known][..., k].ravel() for one in each], axis=1)
        true = None if truth is None else truth.get(target)
        columns[target] = pa.StructArray.from_arrays(
            [
                _lists(reference),
                _lists(effect),
                _lists(se) if own else pa.nulls(len(rows), pa.list_(pa.float32())),
                pa.nulls(len(rows), pa.float32())
                if true is None
                else pa.array(true[known].ravel().astype(np.float32)),
            ],
            ["reference", "effect", "se", "truth"],
        )
    tables.write_table(pa.table(columns), path, schemas.replicates_schema(targets), metadata)


def _member_effects(
    member: TrainedModel,
    codes: NDArray[np.uint8],
    targets: Sequence[str],
    draws: DrawSet,
    options: Mapping[str, Any],
) -> tuple[Float, Float, Float]:
    """Return reference (n, K), effects (n, length, 3, K) and their SEs of one member."""
    found = saturate(member, codes, targets, draws, **options)
    if draws.method == "ensemble":
        return found.reference_eval, found.delta_eval, np.full_like(found.delta_eval, np.nan)
    # Sequence by sequence: the draws of all of them in float64 would take eight times the memory.
    se = np.stack([one.std(axis=2, ddof=1, dtype=np.float64) for one in found.delta])
    return found.reference.mean(axis=1), found.delta.mean(axis=3), se.astype(np.float32)


def _lists(values: Float) -> pa.Array:
    n, size = values.shape
    offsets = np.arange(0, n * size + 1, size, dtype=np.int32)
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets), flat)
