"""MR of one shard: stored logit draws in, rows of ``mr.parquet`` out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr import schemas
from deepmr.effects import PLAIN, Effects, Response, on_scale
from deepmr.genome.alphabet import encode
from deepmr.instruments import Mask, resolve, select
from deepmr.motifs import Motif, hit_positions
from deepmr.mr.batch import estimate_all
from deepmr.mr.estimator import Options
from deepmr.mr.instrument_effects import Instruments
from deepmr.mr.registry import estimators
from deepmr.mr.rows import result_columns
from deepmr.mr.stored_effects import Mutations, read_mutations, read_references

_BLOCK = 64
"""Sequences whose instruments are held at once."""


@dataclass(frozen=True)
class Pair:
    """An exposure and an outcome as configured; both directions are estimated."""

    name: str
    exposure: str
    outcome: str


@dataclass(frozen=True)
class Settings:
    """Configuration sections ``instruments`` and ``mr``, and the seed.

    Attributes
    ----------
    methods : sequence of str
        Names of estimators.
    effect_scale : str
        ``logit`` or ``probability``.
    rule, minimum, maximum, strength
        As in `deepmr.instruments.select`; `rule` may be ``auto``.
    motif_p_value : float
        A hit is a word that a random word outscores with at most this probability.
    both_strands : bool
        Look for motifs on both strands (False for RNA).
    options : Options
        Settings of the estimators.
    """

    methods: Sequence[str] = ("egger", "ivw", "ivw_fixed", "weighted_median")
    effect_scale: str = "logit"
    rule: str = "auto"
    minimum: int = 10
    maximum: int | None = None
    strength: float = 2.0
    motif_p_value: float = 1e-4
    both_strands: bool = True
    options: Options = field(default_factory=Options)

    @classmethod
    def of(
        cls,
        mr: Mapping[str, Any],
        instruments: Mapping[str, Any],
        *,
        both_strands: bool,
        seed: int,
    ) -> Settings:
        """Return the settings that the sections ``mr`` and ``instruments`` of a config say."""
        own = ("methods", "primary", "effect_scale")
        return cls(
            methods=mr["methods"],
            effect_scale=mr["effect_scale"],
            both_strands=both_strands,
            options=Options(seed=seed, **{k: v for k, v in mr.items() if k not in own}),
            **instruments,
        )


@dataclass(frozen=True)
class Question:
    """A pair in one direction, with the instrument rule that holds for it."""

    pair: Pair
    direction: str
    exposure: str
    outcome: str
    rule: str


@dataclass(frozen=True, eq=False)
class SequenceInstruments:
    """The instruments of one sequence for one question.

    Attributes
    ----------
    sequence_id : str
        The sequence.
    row : int
        Its row in the references table.
    stratum : str
        ``bound`` or ``unbound``, by the exposure of the pair as configured.
    question : Question
        Pair and direction.
    instruments : Instruments
        Their effects, or why there are none.
    """

    sequence_id: str
    row: int
    stratum: str
    question: Question
    instruments: Instruments


def estimate_shard(
    model: str,
    sequences: pa.Table,
    effects: str | Path | Sequence[str | Path],
    references: str | Path | Sequence[str | Path],
    pairs: Sequence[Pair],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
    responses: Mapping[str, Response] | None = None,
) -> pa.Table:
    """Estimate every sequence of a shard: all pairs, both directions, all methods.

    A pair uses the sequences sampled for its exposure (``stratum.<exposure>`` not null), in both
    directions the same. What cannot be estimated gets a row with a status.

    Parameters
    ----------
    model : str
        Name for the ``model`` column.
    sequences : pyarrow.Table
        Sequences table; may hold sequences of other shards.
    effects, references : path or sequence of paths
        The shard's tables; `references` tells which sequences the shard has. Only the targets
        of `pairs` are read, sequence by sequence.
    pairs : sequence of Pair
        The questions.
    motifs : mapping of str to Motif or None
        By target; a target that is missing has no motif.
    settings : Settings
        Instruments and methods.
    responses : mapping of str to Response, optional
        By target, what its logits stand for; a binary target as its network predicts it when left
        out.

    Returns
    -------
    pyarrow.Table
        Schema `deepmr.schemas.MR`, ordered by sequence (as in `references`), pair, direction
        (forward first) and method. A pure function of its inputs.

    Raises
    ------
    ValueError
        If a target, column or sequence is missing, or a sequence's effects are not together.
    """
    chosen = estimators(settings.methods)
    questions = _questions(pairs, motifs, settings)
    parts: list[pa.Table] = []
    found = shard_instruments(sequences, effects, references, pairs, motifs, settings, responses)
    while some := list(itertools.islice(found, _BLOCK * len(questions))):
        for place, question in enumerate(questions):
            own = [one for one in some if one.question == question]
            results = estimate_all([one.instruments for one in own], chosen, settings.options)
            rows = np.array([one.row for one in own], dtype=np.int64)
            for rank, (method, result) in enumerate(results.items()):
                columns = result_columns(method, [one.instruments for one in own], result)
                columns |= _key_columns(model, question, own)
                columns["rank"] = pa.array((rows * len(questions) + place) * len(chosen) + rank)
                parts.append(pa.table(columns))
    if not parts:
        return schemas.MR.empty_table()
    table = pa.concat_tables(parts)
    return (
        table.take(np.argsort(table["rank"].to_numpy())).select(schemas.MR.names).cast(schemas.MR)
    )


def shard_instruments(
    sequences: pa.Table,
    effects: str | Path | Sequence[str | Path],
    references: str | Path | Sequence[str | Path],
    pairs: Sequence[Pair],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
    responses: Mapping[str, Response] | None = None,
    only: str | None = None,
) -> Iterator[SequenceInstruments]:
    """Yield the instruments of every sequence of a shard, for each pair and direction.

    Parameters
    ----------
    sequences, effects, references, pairs, motifs, settings, responses
        As in :func:`estimate_shard`.
    only : str, optional
        Leave out every sequence but this one.

    Yields
    ------
    SequenceInstruments
        Sequence by sequence, in the order of the effects table.

    Raises
    ------
    ValueError
        As :func:`estimate_shard`.
    """
    questions = _questions(pairs, motifs, settings)
    targets = sorted({t for q in questions for t in (q.exposure, q.outcome)})
    reference = read_references(_paths(references), targets, only)
    strata, letters = _sequences(sequences, reference.ids, pairs)
    hits = _hits(letters, questions, motifs, settings)
    response_of = {target: (responses or {}).get(target, PLAIN) for target in targets}
    row_of = {sequence_id: i for i, sequence_id in enumerate(reference.ids)}
    done = np.zeros(len(reference.ids), dtype=np.bool_)
    for mutations in read_mutations(_paths(effects), targets):
        if only not in (None, mutations.sequence_id):
            continue
        row = row_of.get(mutations.sequence_id)
        if row is None or done[row]:
            problem = "is not in the references table" if row is None else "has rows in two places"
            raise ValueError(
                f"sequence {mutations.sequence_id!r} of the effects table {problem}; "
                "make this shard again"
            )
        done[row] = True
        scaled: dict[str, Effects] = {}
        for question in questions:
            stratum = strata[question.pair.exposure][row]
            if stratum is None:
                continue
            for target in (question.exposure, question.outcome):
                if target not in scaled:
                    scaled[target] = on_scale(
                        reference.draws[target][row],
                        mutations.draws[target],
                        settings.effect_scale,
                        response_of[target],
                        reference_eval=float(reference.evaluated[target][row]),
                        delta_eval=mutations.evaluated[target],
                    )
            motif_positions = hits[question.exposure][row] if question.exposure in hits else None
            item = _instruments(question, scaled, mutations, motif_positions, settings)
            yield SequenceInstruments(mutations.sequence_id, row, stratum, question, item)
    for absent in np.flatnonzero(~done).tolist():
        for question in questions:
            stratum = strata[question.pair.exposure][absent]
            if stratum is not None:
                item = Instruments.none("no_effects")
                yield SequenceInstruments(reference.ids[absent], absent, stratum, question, item)


def _questions(
    pairs: Sequence[Pair], motifs: Mapping[str, Motif | None], settings: Settings
) -> list[Question]:
    if not pairs:
        raise ValueError("pairs is empty; name at least one exposure and outcome")
    questions = []
    for pair in pairs:
        for direction, (exposure, outcome) in (
            ("forward", (pair.exposure, pair.outcome)),
            ("reverse", (pair.outcome, pair.exposure)),
        ):
            rule = resolve(settings.rule, motifs.get(exposure) is not None)
            questions.append(Question(pair, direction, exposure, outcome, rule))
    return questions


def _paths(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]


def _sequences(
    table: pa.Table, ids: Sequence[str], pairs: Sequence[Pair]
) -> tuple[dict[str, list[str | None]], list[str]]:
    """Return by exposure the stratum of each sequence of the shard, and the sequences."""
    place = {sequence_id: i for i, sequence_id in enumerate(table["sequence_id"].to_pylist())}
    unknown = [sequence_id for sequence_id in ids if sequence_id not in place]
    if unknown:
        raise ValueError(
            f"{len(unknown)} sequences of the references table are not in the sequences table "
            f"({', '.join(unknown[:3])}); make this shard again"
        )
    own = table.take(pa.array([place[sequence_id] for sequence_id in ids], type=pa.int64()))
    strata = {}
    for exposure in dict.fromkeys(pair.exposure for pair in pairs):
        column = f"stratum.{exposure}"
        if column not in table.column_names:
            raise ValueError(
                f"the sequences table has no column {column!r}, though {exposure} is the exposure "
                f"of a pair; it has {', '.join(table.column_names)}"
            )
        strata[exposure] = own[column].to_pylist()
    return strata, own["sequence"].to_pylist()


def _hits(
    letters: Sequence[str],
    questions: Sequence[Question],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
) -> dict[str, NDArray[np.bool_]]:
    """Return by exposure with a motif the positions inside its hits, (sequences, length)."""
    if not letters:
        return {}
    if len({len(sequence) for sequence in letters}) > 1:
        raise ValueError("the sequences of a shard must all have the same length")
    codes = np.stack([encode(sequence) for sequence in letters])
    hits = {}
    for exposure in dict.fromkeys(q.exposure for q in questions if q.rule == "motif"):
        motif = motifs.get(exposure)
        if motif is not None:
            hits[exposure] = hit_positions(
                codes, motif, settings.motif_p_value, settings.both_strands
            )
    return hits


def _instruments(
    question: Question,
    scaled: Mapping[str, Effects],
    mutations: Mutations,
    motif_positions: Mask | None,
    settings: Settings,
) -> Instruments:
    """Select the instruments of one sequence and gather their usable effects."""
    exposure, outcome = scaled[question.exposure], scaled[question.outcome]
    if len(exposure.draws) < 2:
        return Instruments.none("too_few_draws")
    selection = select(
        question.rule,
        exposure,
        mutations.positions,
        motif_positions,
        minimum=settings.minimum,
        maximum=settings.maximum,
        strength=settings.strength,
    )
    mask = selection.mask
    if selection.status != "ok":
        return Instruments.none(selection.status, int(mask.sum()))
    x, y = exposure.using(selection.draws), outcome.using(selection.draws)
    if len(x.draws) < 2:
        return Instruments.none("too_few_draws", int(mask.sum()))
    return Instruments(
        x.point[mask],
        x.se[mask],
        y.point[mask],
        y.se[mask],
        np.ascontiguousarray(x.draws[:, mask]),
        np.ascontiguousarray(y.draws[:, mask]),
        positions=mutations.positions[mask].astype(np.int64),
        alleles=mutations.alleles[mask],
    ).usable()


def _key_columns(
    model: str, question: Question, own: Sequence[SequenceInstruments]
) -> dict[str, pa.Array]:
    """Columns of `schemas.MR` that say what was asked."""
    asked = {
        "model": model,
        "pair": question.pair.name,
        "direction": question.direction,
        "exposure": question.exposure,
        "outcome": question.outcome,
        "instrument_rule": question.rule,
    }
    columns = {name: pa.array([value] * len(own), pa.string()) for name, value in asked.items()}
    columns["sequence_id"] = pa.array([one.sequence_id for one in own], pa.string())
    columns["stratum"] = pa.array([one.stratum for one in own], pa.string())
    return columns
