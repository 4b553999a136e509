"""Labels beside predictions: the windows that no network was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepmr import tables


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Labels and predictions of n windows for K targets.

    Attributes
    ----------
    targets : tuple of str
        The K targets.
    chromosomes : ndarray of object, shape (n,)
        Chromosome or contig of each window; None where it is not known.
    labels : ndarray of float32, shape (n, K)
        NaN = not measured.
    evaluated : ndarray of float32, shape (n, K)
        Logits without dropout.
    draws : ndarray of float32, shape (n, T, K)
        Logits of each draw.
    """

    targets: tuple[str, ...]
    chromosomes: NDArray[np.object_]
    labels: NDArray[np.float32]
    evaluated: NDArray[np.float32]
    draws: NDArray[np.float32]


def read_held_out(
    windows: str | Path, predictions: str | Path, targets: Sequence[str], split: str
) -> HeldOut:
    """Read what was measured and what was predicted in one split.

    Parameters
    ----------
    windows, predictions : path
        ``windows.parquet`` and a model's predictions table.
    targets : sequence of str
        Targets wanted.
    split : str
        ``validation`` or ``test``.

    Returns
    -------
    HeldOut
        In the order of the predictions table.

    Raises
    ------
    ValueError
        If the two tables do not hold the same windows.
    """
    predicted = tables.read_table(predictions, ["sequence_id", "split", *targets])
    predicted = predicted.filter(pc.equal(predicted["split"], split)).combine_chunks()
    names = [f"label.{target}" for target in targets]
    measured = tables.read_table(windows, ["sequence_id", "chrom", "split", *names])
    measured = measured.filter(pc.equal(measured["split"], split)).combine_chunks()
    if not measured["sequence_id"].equals(predicted["sequence_id"]):
        raise ValueError(
            f"{predictions} and {windows} hold other {split} windows; make the predictions again"
        )
    columns = [predicted[target].combine_chunks() for target in targets]
    return HeldOut(
        tuple(targets),
        measured["chrom"].to_numpy(zero_copy_only=False).astype(object),
        np.stack([measured[n].to_numpy().astype(np.float32) for n in names], axis=1),
        np.stack([c.field("eval").to_numpy(zero_copy_only=False) for c in columns], axis=1),
        np.stack([tables.draws_array(c.field("draws")) for c in columns], axis=2),
    )
