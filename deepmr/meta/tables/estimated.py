"""The sequences of one question that have an effect and a standard error in every draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepmr.meta.combine import usable
from deepmr.meta.result import Array, reason_of, status_of


@dataclass(frozen=True, eq=False)
class Estimated:
    """What a meta-analysis is made of.

    Attributes
    ----------
    ids : tuple of str
        The k sequences.
    place : ndarray of int, shape (k,)
        Their rows among those asked.
    draws, variances : ndarray, shape (draws, k)
        Estimate in each draw and its squared standard error in that draw.
    estimates, se : ndarray, shape (k,)
        Combined over draws by Rubin's rules.
    se_within : ndarray, shape (k,)
        The part of `se` that is scatter, without the model's error.
    n_dropped : int
        Sequences with an estimate, but without a usable standard error.
    status, reason : str
        Of k sequences (`deepmr.meta.result.status_of`); why there are few, or some left out.
    """

    ids: tuple[str, ...]
    place: NDArray[np.int64]
    draws: Array
    variances: Array
    estimates: Array
    se: Array
    se_within: Array
    n_dropped: int
    status: str
    reason: str

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Estimated:
        """Gather them from the rows of an MR table for one model, pair, direction and method."""
        ok = np.flatnonzero((rows["status"] == "ok").to_numpy())
        own = rows.iloc[ok]
        draws, variances = stacked(own["draws"]), stacked(own["draws_se"]) ** 2
        estimates, se, se_within = (
            own[name].to_numpy(dtype=np.float64) for name in ("estimate", "se", "se_within")
        )
        keep, left_out = usable(draws, variances)
        # Of those also the total standard error must be one that can weigh.
        keep[keep], unweighable = usable(estimates[None, keep], se[None, keep] ** 2)
        k = int(keep.sum())
        return cls(
            tuple(own["sequence_id"].to_numpy()[keep]),
            ok[keep],
            np.ascontiguousarray(draws[:, keep]),
            np.ascontiguousarray(variances[:, keep]),
            estimates[keep],
            se[keep],
            se_within[keep],
            int((~keep).sum()),
            status_of(k),
            reason_of(
                k,
                "" if k else why_none(rows["status"]),
                left_out,
                unweighable,
            ),
        )

    @property
    def k(self) -> int:
        """Number of sequences."""
        return len(self.ids)


def why_none(statuses: pd.Series) -> str:
    """Return in words why none of the sequences with these statuses of MR has an estimate."""
    if not len(statuses):
        return "no sequence was sampled"
    counts = statuses[statuses != "ok"].value_counts()
    named = ", ".join(f"{counts[status]} {status}" for status in sorted(counts.index))
    return f"without an estimate: {named}" if named else ""


def stacked(column: pd.Series) -> Array:
    """Return a column of equally long lists as an array, shape (draws, rows)."""
    if not len(column):
        return np.empty((0, 0))
    return np.ascontiguousarray(np.stack([np.asarray(v, dtype=np.float64) for v in column]).T)
