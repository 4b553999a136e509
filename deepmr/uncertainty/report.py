"""The table that says of every target whether the standard errors of its effects are right.

Scores come from all sequences, with standard errors as they are. The scale is fitted on half of
the sequences and judged on the other half; a stable hash of its id decides on which side a
sequence is, so that adding sequences moves none of the others. What standard errors are multiplied
with, where a run asks for it, is max(1, s): the spread of retrained networks cannot see what all
of them get wrong, so it may widen standard errors but never narrow them.

s = sqrt(ZMS) counts every mutation alike. Dropout can leave a mutation that hardly touches the
network with next to no standard error, and then a few such mutations make s whatever they like.
Where they do (`few_errors_decide`), s is the root mean squared error over the root mean squared
standard error instead, to which every mutation contributes as much as it can do to a causal effect.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from deepmr.draws import METHODS
from deepmr.schemas import UNCERTAINTY
from deepmr.shards.membership import shard_of
from deepmr.uncertainty import draws_needed, scores
from deepmr.uncertainty.errors import Errors
from deepmr.uncertainty.replicates import RETRAINED, TRUTH, Replicates, errors_of, in_use
from deepmr.uncertainty.scale import fit_scale, ratio_interval, zms_interval

Array = NDArray[np.float64]

_LEAST_SEQUENCES = 2
_MOST_OF_LARGEST = 0.5
_RATIO_SCALED = ("se_ratio_scaled", "se_ratio_scaled_low", "se_ratio_scaled_high")
"""Where the largest hundredth of z^2 carries more than this, the mean of z^2 is theirs."""

_NUMBERS = [f.name for f in UNCERTAINTY if pa.types.is_float64(f.type)]
_LISTS = [f.name for f in UNCERTAINTY if pa.types.is_list(f.type)]


def report(
    replicates: Replicates, *, model: str, method: str, draws: int, seed: int
) -> pd.DataFrame:
    """Return a row for every target and reference.

    Parameters
    ----------
    replicates : Replicates
        Effects of each member.
    model : str
        Name of the model.
    method : str
        One of `deepmr.draws.METHODS`. With ``ensemble`` the standard error is the spread of the
        members, with ``ensemble_mc_dropout`` it has the spread over masks too; both then predict
        a member from the others. Else every member has its own, and it is the first member whose
        errors from the truth are told: it is the one whose effects a run uses.
    draws : int
        Draws behind a standard error; with ``ensemble`` the number of members counts instead.
    seed : int
        Of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        Columns of `deepmr.schemas.UNCERTAINTY`. A target's rows depend on no other target.
        `reference` is ``retrained`` (2 members or more), ``truth`` (where there is any), or
        missing in the only row of a target without either. `n_without_se` counts errors: one a
        mutation and member for ``retrained``. `recommended_scale` against the truth is what
        would have been right; a run never applies it. `status` is

        * ``ok``;
        * ``no_reference``: a single network and no truth;
        * ``too_few_members``: an ensemble of 2 cannot predict a member from the others;
        * ``no_standard_error``: all are 0 or not finite;
        * ``too_few_degrees_of_freedom``: 2 or fewer behind the variances of an ensemble, so that
          mean squares do not exist; coverage does;
        * ``too_few_sequences``: fewer than 2 in a half; nothing is said of a scale;
        * ``few_errors_decide``: the largest 1 % of squared z in the fit half is more than half of
          their sum. `se_scale` would be theirs alone, so it is missing; `recommended_scale` is
          then max(1, `se_ratio`).

    Raises
    ------
    ValueError
        If the method is unknown, or draws have no standard errors in the table.
    """
    if method not in METHODS:
        raise ValueError(
            f"uncertainty.method: {method!r} is unknown; write one of {', '.join(METHODS)}"
        )
    members = replicates.members
    n_draws = members if method == "ensemble" else draws
    rows = []
    for target in replicates.targets:
        if method != "ensemble" and target not in replicates.se:
            raise ValueError(
                f"{target}: the table has no standard errors, which {method} needs; "
                "make the predictions again"
            )
        references: list[str | None] = [RETRAINED] if members > 1 else []
        references += [TRUTH] if target in replicates.truth else []
        for reference in references or [None]:
            row: dict[str, Any] = {
                **dict.fromkeys(_NUMBERS, np.nan),
                **{name: [] for name in _LISTS},
                "model": model,
                "target": target,
                "reference": reference,
                "method": method,
                "members": members,
                "draws": n_draws,
                "draw_error": draws_needed.relative_error(n_draws) if n_draws > 1 else np.nan,
                "n_sequences": len(replicates.sequence_ids),
                "n_mutations": replicates.sequence.size,
                "n_without_se": 0,
            }
            rows.append(row | _judged(replicates, target, reference, method, seed))
    return pd.DataFrame(rows, columns=UNCERTAINTY.names)


def in_fit_half(sequence_id: str) -> bool:
    """Tell whether the scale is fitted on a sequence, rather than judged on it."""
    return shard_of(sequence_id, 2) == 1


def _judged(
    replicates: Replicates, target: str, reference: str | None, method: str, seed: int
) -> dict[str, Any]:
    """Return what the errors of one target from one reference say."""
    if reference is None:
        return {"status": "no_reference"}
    if reference == RETRAINED:
        if method.startswith("ensemble") and replicates.members < 3:
            return {"status": "too_few_members"}
        size: dict[str, Any] = {"slope": _slope_on_others(replicates.effects[target])}
    else:
        truth = replicates.truth[target]
        known = np.isfinite(truth)
        point = in_use(replicates, target, method)[0]
        size = {
            "n_sequences": np.unique(replicates.sequence[known]).size,
            "n_mutations": int(known.sum()),
            "slope": _through_origin(truth[known], point[known]),
        }
    errors = errors_of(replicates, target, reference, method)
    return size | _scored(errors, replicates.sequence_ids, seed)


def _scored(errors: Errors, sequence_ids: tuple[str, ...], seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"n_without_se": errors.n_without_se, "prior_df": errors.prior_df}
    if errors.error.size == 0:
        return row | {"status": "no_standard_error"}
    zms, low, high = zms_interval(errors, seed)
    row |= {
        "rmse": scores.rmse(errors),
        "sharpness": scores.sharpness(errors),
        "zms": zms,
        "zms_low": low,
        "zms_high": high,
        "ence": scores.ence(errors),
        "levels": list(scores.LEVELS),
        "coverage": scores.coverage(errors).tolist(),
    }
    if np.isnan(zms):
        return row | {"status": "too_few_degrees_of_freedom"}
    fits = np.array([in_fit_half(name) for name in sequence_ids])
    fit, judge = (errors.of_sequences(np.flatnonzero(half)) for half in (fits, ~fits))
    if min(fit.n_sequences, judge.n_sequences) < _LEAST_SEQUENCES:
        return row | {"status": "too_few_sequences"}
    scale = fit_scale(fit, seed)
    row |= {
        "se_factor": scale.factor,
        "se_offset": scale.offset,
        "se_ratio": scale.ratio,
        "se_ratio_low": scale.ratio_low,
        "se_ratio_high": scale.ratio_high,
        "recommended_scale": max(1.0, scale.ratio),
    }
    if scale.ratio > 0:
        again = ratio_interval(judge, seed, scale.ratio)
        row |= dict(zip(_RATIO_SCALED, again, strict=True))
    if scores.share_of_largest(fit) > _MOST_OF_LARGEST:
        return row | {"status": "few_errors_decide"}
    row |= {
        "se_scale": scale.s,
        "se_scale_low": scale.low,
        "se_scale_high": scale.high,
        "recommended_scale": max(1.0, scale.s),
    }
    if scale.s > 0:
        zms, low, high = zms_interval(judge, seed, scale.s)
        scaled = judge.scaled(scale.s)
        row |= {
            "zms_scaled": zms,
            "zms_scaled_low": low,
            "zms_scaled_high": high,
            "ence_scaled": scores.ence(scaled),
            "coverage_scaled": scores.coverage(scaled).tolist(),
        }
    return row | {"status": "ok"}


def _slope_on_others(effects: Array) -> float:
    """Slope of each member's effects on the mean of the other members."""
    k = effects.shape[1]
    others = (effects.sum(axis=1, keepdims=True) - effects) / (k - 1)
    return _through_origin(others.ravel(), effects.ravel())


def _through_origin(x: Array, y: Array) -> float:
    squares = float(np.sum(x * x))
    return float(np.sum(x * y)) / squares if squares > 0 else np.nan
