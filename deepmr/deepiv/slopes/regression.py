"""Whether the slope of a model's outcome on its exposure depends on the rest of the sequence.

This is what Deep IV becomes on a model's own draws. There the exposure is a function of the
sequence: given the context nothing is left that an instrument could decide, and the two stages
degenerate to one, a *context-dependent slope regression* of the effects of mutations,

    by = s(c) bx + error,    s(c) = constant + f(c),

where c is the sequence with its instruments masked, and f a network that starts at 0. It is no
further evidence that the exposure acts; it says where the model's slope is larger.

Each sequence gets the f of networks that learned from other folds of sequences
(`deepmr.deepiv.slopes.dependence`). Then in every draw t, over all instruments,

    by_t = (theta_t + gamma_t f) bx_t,

with f, like the instruments, weights and orientation of MR, fixed by the mean effects, and 0 in the
mean of the sequences. theta is the slope at the mean context. gamma says whether what networks
foretell of sequences that they have not seen holds: 1 fully, 0 not at all, above 1 more than fully
(networks that stop early are cautious). The line is the best linear predictor of Chernozhukov,
Demirer, Duflo and Fernandez-Val (Econometrica 2025;93:1121), for slopes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr import schemas
from deepmr.deepiv.seeds import derived_seed
from deepmr.deepiv.slopes.dependence import in_hash_order, out_of_fold
from deepmr.deepiv.slopes.draw_wise_line import draw_wise_line
from deepmr.deepiv.slopes.sequence_slopes import Slopes, collect, overlapping
from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.networks import Design
from deepmr.effects import PLAIN, Response
from deepmr.genome.alphabet import AMBIGUOUS
from deepmr.models import architectures
from deepmr.motifs import Motif
from deepmr.mr.drawwise import Combined
from deepmr.mr.questions import Pair, Question, Settings, questions_of
from deepmr.mr.shard import shard_instruments

Array = NDArray[np.float64]

FEWEST_SEQUENCES = 20
"""With fewer (overlapping windows count once) nothing is estimated: a fold of four would hold fewer
than five. As many as there are folds are needed besides."""

_UNITS = {
    "logit": {"binary": "logit", "count": "log rate", "continuous": "unit"},
    "probability": {"binary": "probability", "count": "rate", "continuous": "unit"},
}
_NO_CONTEXT = (
    "in most sequences instruments are at every position, and nothing is left that the slope could "
    "depend on; an instrument rule that selects fewer, such as motif, leaves a context"
)
_NOT_FORETOLD = "no network foretold the slopes of held-out sequences better than one slope does"

_PASS_STEPS = 16
"""Steps that few sequences are cut into."""

_FIT_STEPS = 1000
"""Ten times as many as the moving average of the weights looks back on."""

_MOST_STATUSES = 3
"""Statuses of sequences without instruments that a reason names."""


@dataclass(frozen=True, eq=False)
class SlopeRegression:
    """The slopes of one model, pair and direction.

    Attributes
    ----------
    constant : Combined or None
        The average slope over all instruments, draw-wise; None where nothing is estimated.
    context : Combined or None
        theta, the slope at the mean context; `constant` where no dependence was learned.
    moderation : Combined or None
        gamma; None where no dependence was learned. Its SE allows for what sequences of different
        folds taught each other (`deepmr.deepiv.slopes.draw_wise_line`).
    dependence : ndarray, shape (n,)
        f of each sequence, out of fold, of mean 0, in the order of the slopes that were given.
    r2 : float
        Share of the weighted residual squares about the constant slope of the other folds that f
        explains out of fold; below 0 where it makes them larger.
    slope_sd : float
        Standard deviation of `dependence` over sequences.
    n_sequences, n_left_out, n_instruments : int
        Sequences with instruments, without, and instruments.
    status, reason : str
        ``ok`` or ``too_few_sequences``, and why.
    context_status, context_reason : str
        Of what regards the context: ``ok``, ``too_few_sequences``, or ``no_context`` (the
        instruments leave nothing of the sequence).
    """

    constant: Combined | None
    context: Combined | None
    moderation: Combined | None
    dependence: Array
    r2: float
    slope_sd: float
    n_sequences: int
    n_left_out: int
    n_instruments: int
    status: str
    reason: str
    context_status: str
    context_reason: str


def regress(
    slopes: Slopes, design: Design, settings: fitting.Settings, *, folds: int, seed: int
) -> SlopeRegression:
    """Regress the slope of sequences on their context, across folds.

    Parameters
    ----------
    slopes : Slopes
        The sequences.
    design : Design
        The network f; its encoder takes one-hot sequences.
    settings : fitting.Settings
        How it is fitted; the tolerance is taken as 0.
    folds : int
        Folds of sequences, 2 or more; a group is in one fold.
    seed : int
        Decides folds, what is held out, weights and dropout.

    Returns
    -------
    SlopeRegression
        A function of the set of sequences and the other arguments: the order of the sequences
        changes nothing.

    Raises
    ------
    deepmr.deepiv.stages.fitting.FittingError
        If the loss is not finite.
    ValueError
        If there are fewer than two folds.
    """
    n_groups = len(np.unique(slopes.groups))
    counts = {
        "n_sequences": len(slopes),
        "n_left_out": sum(slopes.left_out.values()),
        "n_instruments": int(slopes.n_instruments.sum()),
    }
    dependence = np.zeros(len(slopes))
    needed = max(FEWEST_SEQUENCES, folds)
    if n_groups < needed:
        status, reason = "too_few_sequences", _shortage(slopes, n_groups, needed)
        return SlopeRegression(
            constant=None,
            context=None,
            moderation=None,
            dependence=dependence,
            r2=math.nan,
            slope_sd=math.nan,
            **counts,
            status=status,
            reason=reason,
            context_status=status,
            context_reason=reason,
        )
    order = in_hash_order(slopes.sequence_ids, seed)
    ordered = slopes.take(order).capped()
    sums = (ordered.xx, ordered.draws_xx, ordered.draws_xy)
    (constant,) = draw_wise_line(*sums)
    context, moderation, r2, slope_sd = None, None, math.nan, math.nan
    context_status, context_reason = "ok", ""
    if np.median((ordered.codes != AMBIGUOUS).sum(axis=1)) == 0:
        context_status, context_reason = "no_context", _NO_CONTEXT
    else:
        found = out_of_fold(ordered, design, settings, folds, seed)
        r2, f = found.r2, found.dependence - found.dependence.mean()
        slope_sd = float(f.std(ddof=1))
        dependence[order] = f
        if slope_sd > 0:
            context, moderation = draw_wise_line(*sums, f)
        else:
            context, context_reason = constant, _NOT_FORETOLD
    return SlopeRegression(
        constant=constant,
        context=context,
        moderation=moderation,
        dependence=dependence,
        r2=r2,
        slope_sd=slope_sd,
        **counts,
        status="ok",
        reason="",
        context_status=context_status,
        context_reason=context_reason,
    )


def regress_model(
    model: str,
    sequences: pa.Table,
    effects: str | Path | Sequence[str | Path],
    references: str | Path | Sequence[str | Path],
    pairs: Sequence[Pair],
    motifs: Mapping[str, Motif | None],
    mr_settings: Settings,
    responses: Mapping[str, Response] | None = None,
    *,
    architecture: str,
    options: Mapping[str, Any],
    features: int,
    hidden: Sequence[int],
    settings: fitting.Settings,
    folds: int,
    seed: int,
) -> pa.Table:
    """Regress the slopes of a model on the context: every pair, both directions.

    Parameters
    ----------
    model : str
        Name for the ``model`` column.
    sequences, effects, references, pairs, motifs, mr_settings, responses
        As in :func:`deepmr.mr.shard.estimate_shard`; the tables of all shards. Of `mr_settings`
        only instruments and scale matter.
    architecture, options : str, mapping
        Encoder of the context: a key of `architectures.ARCHITECTURES` and its arguments.
    features : int
        Numbers that it makes of a context.
    hidden : sequence of int
        Units of the layers after it.
    settings : fitting.Settings
        How networks are fitted, and at least; see :func:`for_few`.
    folds : int
        Folds of sequences. Windows that overlap are in one fold.
    seed : int
        Seed of the run.

    Returns
    -------
    pyarrow.Table
        Schema `deepmr.schemas.DEEP_IV`, source ``model``: for each pair and direction (forward
        first) the rows ``constant_slope`` and ``context_slope``. It does not depend on the number
        of shards or the order of their rows.

    Raises
    ------
    deepmr.models.architectures.ArchitectureError
        If the encoder cannot be built.
    deepmr.deepiv.stages.fitting.FittingError
        If a loss is not finite.
    ValueError
        As :func:`deepmr.mr.shard.estimate_shard`, or if there are fewer than two folds.
    """
    letters = dict(
        zip(sequences["sequence_id"].to_pylist(), sequences["sequence"].to_pylist(), strict=True)
    )
    instruments = shard_instruments(
        sequences,
        effects,
        references,
        pairs,
        motifs,
        replace(mr_settings, conditional=()),
        responses,
    )
    found = collect(instruments, letters, overlapping(sequences))
    rows: list[dict[str, Any]] = []
    for question in questions_of(pairs, motifs, mr_settings):
        slopes = found.get(question, Slopes.none())
        encoder = partial(
            architectures.build, architecture, features, slopes.codes.shape[1], **options
        )
        # The encoder has its own dropout; the perceptron after it is small.
        design = Design(features, tuple(hidden), 0.0, encoder)
        regression = regress(
            slopes,
            design,
            for_few(settings, len(slopes)),
            folds=folds,
            seed=derived_seed(seed, question.pair.name, question.direction),
        )
        unit = _unit(question, mr_settings.effect_scale, responses or {})
        rows += table_rows(model, question, unit, regression)
    return pa.Table.from_pylist(rows, schema=schemas.DEEP_IV)


def for_few(settings: fitting.Settings, n: int) -> fitting.Settings:
    """Return settings for so few sequences that a pass over them would be a step or two.

    Parameters
    ----------
    settings : fitting.Settings
        What suits thousands of rows.
    n : int
        Sequences.

    Returns
    -------
    fitting.Settings
        With batches so small that a pass has about `_PASS_STEPS` steps, and so many passes that a
        fit has at least `_FIT_STEPS`; the patience in proportion to the passes. The moving average
        of the weights would otherwise hardly leave the weights that a network starts with.
    """
    batch_size = min(settings.batch_size, max(n // _PASS_STEPS, 1))
    epochs = max(settings.epochs, math.ceil(_FIT_STEPS * batch_size / max(n, 1)))
    patience = math.ceil(settings.patience * epochs / settings.epochs)
    return replace(settings, batch_size=batch_size, epochs=epochs, patience=patience)


def table_rows(
    model: str, question: Question, unit: str, regression: SlopeRegression
) -> list[dict[str, Any]]:
    """Return the two rows of `deepmr.schemas.DEEP_IV` for one question."""
    keys = {
        "source": "model",
        "model": model,
        "pair": question.pair.name,
        "direction": question.direction,
        "exposure": question.exposure,
        "outcome": question.outcome,
        "unit": unit,
        "n_windows": regression.n_sequences,
        "n_left_out": regression.n_left_out,
        "n_instruments": regression.n_instruments,
        "n_clusters": regression.n_sequences,
    }
    gamma = regression.moderation
    constant = {
        "method": "constant_slope",
        **_numbers(regression.constant),
        "status": regression.status,
        "reason": regression.reason or None,
    }
    context = {
        "method": "context_slope",
        **_numbers(regression.context),
        "moderation": None if gamma is None else float(gamma.estimate),
        "moderation_se": None if gamma is None else float(gamma.se),
        "moderation_p": None if gamma is None else float(gamma.p_value),
        "r2": regression.r2,
        "slope_sd": regression.slope_sd,
        "status": regression.context_status,
        "reason": regression.context_reason or None,
    }
    return [
        {name: None if value != value else value for name, value in {**keys, **row}.items()}
        for row in (constant, context)
    ]


def _numbers(found: Combined | None) -> dict[str, float]:
    names = ("estimate", "se", "df", "ci_low", "ci_high", "p_value")
    return {} if found is None else {name: float(getattr(found, name)) for name in names}


def _shortage(slopes: Slopes, n_groups: int, needed: int) -> str:
    """Say why there are too few sequences."""
    found = f"{len(slopes)} sequences have instruments"
    if n_groups < len(slopes):
        found = f"{found} ({n_groups} where windows that overlap count once)"
    most = sorted(slopes.left_out.items(), key=lambda item: (-item[1], item[0]))[:_MOST_STATUSES]
    without = ", ".join(f"{status}: {count}" for status, count in most)
    return f"{found}; {needed} are needed" + (f" ({without})" if without else "")


def _unit(question: Question, scale: str, responses: Mapping[str, Response]) -> str:
    outcome, exposure = (
        _UNITS[scale][responses.get(target, PLAIN).kind]
        for target in (question.outcome, question.exposure)
    )
    return f"{outcome} per {exposure}"
