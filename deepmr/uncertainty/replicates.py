"""Effects of mutations as every member of a model predicts them, and the errors that they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr.tables import targets_of
from deepmr.uncertainty.errors import (
    Errors,
    against_left_out,
    against_retrained,
    against_truth,
    ensemble_se,
)

Array = NDArray[np.float64]

RETRAINED, TRUTH = "retrained", "truth"
"""What the errors are errors from."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """Effects of J mutations as each of K members predicts them.

    Attributes
    ----------
    targets : tuple of str
        Names of the targets.
    sequence_ids : tuple of str
        Ids of the sequences.
    sequence : ndarray of int64, shape (J,)
        Number of each mutation's sequence among `sequence_ids`.
    effects : mapping of str to ndarray of float64, shape (J, K)
        By target; logit.
    se : mapping of str to ndarray of float64, shape (J, K)
        By target, SD over the draws of a member; absent where members are the draws.
    truth : mapping of str to ndarray of float64, shape (J,)
        By target, true effects, NaN where unknown; absent where none is known.
    reference : mapping of str to ndarray of float64, shape (J, K)
        By target, output for the unmutated sequence; logit. Scores do not ask for it.
    """

    targets: tuple[str, ...]
    sequence_ids: tuple[str, ...]
    sequence: NDArray[np.int64]
    effects: Mapping[str, Array]
    se: Mapping[str, Array] = field(default_factory=dict)
    truth: Mapping[str, Array] = field(default_factory=dict)
    reference: Mapping[str, Array] = field(default_factory=dict)

    @property
    def members(self) -> int:
        """Number K of members."""
        return int(next(iter(self.effects.values())).shape[1])


def read_replicates(table: pa.Table) -> Replicates:
    """Take the arrays out of a table of replicates.

    Parameters
    ----------
    table : pyarrow.Table
        Schema `deepmr.schemas.replicates_schema`, in any order of rows.

    Returns
    -------
    Replicates
        In the order of sequence, position and alternative base.

    Raises
    ------
    ValueError
        If a column is missing, there is no target or no row, or rows have different numbers of
        members.
    """
    keys = ["sequence_id", "position", "alt"]
    missing = [name for name in keys if name not in table.column_names]
    targets = targets_of(table.schema)
    if missing or not targets or table.num_rows == 0:
        found = f"columns {table.column_names}, {table.num_rows} rows"
        raise ValueError(f"no table of replicates ({found}); make the predictions again")
    table = table.sort_by([(key, "ascending") for key in keys]).combine_chunks()
    ids, sequence = np.unique(
        table["sequence_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True
    )
    effects, se, truth, reference = {}, {}, {}, {}
    members: int | None = None
    for target in targets:
        column = table[target].combine_chunks()
        effects[target] = _matrix(column.field("effect"), f"{target}.effect", members)
        members = effects[target].shape[1]
        reference[target] = _matrix(column.field("reference"), f"{target}.reference", members)
        spread, true = column.field("se"), column.field("truth")
        if spread.null_count < len(spread):
            se[target] = _matrix(spread, f"{target}.se", members)
        if true.null_count < len(true):
            truth[target] = true.to_numpy(zero_copy_only=False).astype(np.float64)
    codes = sequence.astype(np.int64)
    names = tuple(ids.tolist())
    return Replicates(tuple(targets), names, codes, effects, se, truth, reference)


def in_use(
    replicates: Replicates, target: str, method: str
) -> tuple[Array, Array, float | Array, float]:
    """Return the effects and standard errors that a run with this method uses.

    With ``ensemble_mc_dropout`` a run takes the SD of its draws, without moderation; here it is
    what many draws would give, and its part between the members is moderated.

    Parameters
    ----------
    replicates : Replicates
        Effects of each member.
    target : str
        One of its targets.
    method : str
        One of `deepmr.draws.METHODS`. With an ensemble all members together, else the first. One
        network under dropout masks is the same with ``ensemble_mc_dropout`` and ``mc_dropout``.

    Returns
    -------
    effect, se : ndarray, shape (J,)
        Logit. The standard error of an ensemble of one is NaN.
    df : float or ndarray, shape (J,)
        Degrees of freedom of the standard error.
    prior_df : float
        Of moderated variances; NaN where none were.
    """
    effects = replicates.effects[target]
    alone = replicates.members < 2
    if not method.startswith("ensemble") or (alone and method != "ensemble"):
        return effects[:, 0], replicates.se[target][:, 0], np.inf, np.nan
    if alone:
        return effects[:, 0], np.full(len(effects), np.nan), np.inf, np.nan
    return effects.mean(axis=1), *ensemble_se(effects, _within(replicates, target, method))


def errors_of(replicates: Replicates, target: str, reference: str, method: str) -> Errors:
    """Return the errors of a target's effects from a reference, with their standard errors.

    Parameters
    ----------
    replicates : Replicates
        Effects of each member.
    target : str
        One of its targets.
    reference : str
        ``retrained`` or ``truth``.
    method : str
        One of `deepmr.draws.METHODS`. Against retrained networks a member of an ensemble is left
        out and predicted from the others; with other methods each has its own standard error.
        Against the truth the effects are those :func:`in_use`.

    Returns
    -------
    Errors

    Raises
    ------
    ValueError
        If there are too few members.
    """
    effects, sequence = replicates.effects[target], replicates.sequence
    if reference == RETRAINED:
        if method.startswith("ensemble"):
            return against_left_out(effects, sequence, _within(replicates, target, method))
        return against_retrained(effects, replicates.se[target], sequence)
    truth = replicates.truth[target]
    known = np.isfinite(truth)
    point, se, df, prior_df = in_use(replicates, target, method)
    df = df if isinstance(df, float) else df[known]
    return against_truth(point[known], se[known], truth[known], sequence[known], df, prior_df)


def _within(replicates: Replicates, target: str, method: str) -> Array | None:
    """Return the variances over masks, where the standard error of an ensemble has them."""
    return replicates.se[target] ** 2 if method == "ensemble_mc_dropout" else None


def _matrix(lists: pa.Array, name: str, members: int | None) -> Array:
    """Return a list column, every row of the same length, as an array (rows, length)."""
    lengths = np.asarray(lists.value_lengths().to_numpy(zero_copy_only=False), np.float64)
    wanted = lengths[0] if members is None else float(members)
    if np.isnan(wanted) or wanted < 1 or not (lengths == wanted).all():
        found = sorted({"none" if np.isnan(x) else str(int(x)) for x in lengths})
        raise ValueError(
            f"{name} has rows of {', '.join(found)} members; every row must have the same number; "
            "make the predictions again"
        )
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(len(lists), int(wanted))
