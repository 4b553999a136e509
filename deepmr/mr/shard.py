"""MR of one shard: stored logit draws in, rows of ``mr.parquet`` out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from deepmr.effects import Response
from deepmr.motifs import Motif
from deepmr.mr.batch import estimate_all
from deepmr.mr.conditional import (
    RULE,
    ConditionalInstruments,
    conditional_methods,
    estimate_conditional,
)
from deepmr.mr.instrument_effects import Instruments
from deepmr.mr.questions import (
    Pair,
    Question,
    Settings,
    questions_of,
    shared_outcomes,
    stratum_column,
)
from deepmr.mr.registry import estimators
from deepmr.mr.rows import in_order, rows
from deepmr.mr.sequence_effects import SequenceEffects, motif_hits
from deepmr.mr.stored_effects import read_mutations, read_references

_BLOCK = 64
"""Sequences whose instruments are held at once."""


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
    conditional : ConditionalInstruments or None
        Those of all exposures of the outcome; None where it has only the one, or where no
        conditional effect is asked.
    """

    sequence_id: str
    row: int
    stratum: str
    question: Question
    instruments: Instruments
    conditional: ConditionalInstruments | None = None


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
    directions the same. What cannot be estimated gets a row with a status. Where the questions
    know several exposures of an outcome, `Settings.conditional` adds the direct effect of each,
    the others held fixed.

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
        (forward first) and method, conditional effects last. A pure function of its inputs.

    Raises
    ------
    ValueError
        If a target, column or sequence is missing, or a sequence's effects are not together.
    """
    chosen = estimators(settings.methods)
    conditional = conditional_methods(settings.conditional)
    questions = questions_of(pairs, motifs, settings)
    shared = shared_outcomes(questions)
    parts: list[pa.Table] = []
    found = shard_instruments(sequences, effects, references, pairs, motifs, settings, responses)
    while some := list(itertools.islice(found, _BLOCK * len(questions))):
        for place, question in enumerate(questions):
            own = [one for one in some if one.question == question]
            keys = question.keys(
                model, [one.sequence_id for one in own], [one.stratum for one in own]
            )
            first = np.array([one.row for one in own], dtype=np.int64) * len(questions) + place
            first *= len(chosen) + len(conditional)
            instruments = [one.instruments for one in own]
            results = estimate_all(instruments, chosen, settings.options)
            for rank, (method, result) in enumerate(results.items()):
                parts.append(rows(keys, first + rank, method, result, instruments))
            if question.outcome not in shared:
                continue
            joint = [one.conditional for one in own if one.conditional is not None]
            exposure = list(shared[question.outcome]).index(question.exposure)
            direct = estimate_conditional(joint, exposure, conditional, settings.options)
            keys["instrument_rule"] = RULE
            for rank, (method, result) in enumerate(direct.items(), len(chosen)):
                parts.append(rows(keys, first + rank, method, result))
    return in_order(parts)


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
    questions = questions_of(pairs, motifs, settings)
    shared = shared_outcomes(questions) if settings.conditional else {}
    targets = sorted({t for q in questions for t in (q.exposure, q.outcome)})
    among = None if only is None else {only}
    reference = read_references(_paths(references), targets, among)
    strata, letters = _sequences(sequences, reference.ids, pairs)
    hits = motif_hits(letters, {q.exposure: q.rule for q in questions}, motifs, settings)
    row_of = {sequence_id: i for i, sequence_id in enumerate(reference.ids)}
    done = np.zeros(len(reference.ids), dtype=np.bool_)

    def asked(row: int) -> Iterator[tuple[str, Question]]:
        for question in questions:
            stratum = strata[question.pair.exposure][row]
            if stratum is not None:
                yield stratum, question

    for mutations in read_mutations(_paths(effects), targets, among):
        row = row_of.get(mutations.sequence_id)
        if row is None or done[row]:
            problem = "is not in the references table" if row is None else "has rows in two places"
            raise ValueError(
                f"sequence {mutations.sequence_id!r} of the effects table {problem}; "
                "make this shard again"
            )
        done[row] = True
        of = SequenceEffects(mutations, reference, row, hits, settings, responses or {})
        for stratum, question in asked(row):
            rules = shared.get(question.outcome)
            yield SequenceInstruments(
                mutations.sequence_id,
                row,
                stratum,
                question,
                of.instruments(question),
                None if rules is None else of.conditional(question, rules),
            )
    for absent in np.flatnonzero(~done).tolist():
        for stratum, question in asked(absent):
            rules = shared.get(question.outcome)
            yield SequenceInstruments(
                reference.ids[absent],
                absent,
                stratum,
                question,
                Instruments.none("no_effects"),
                None if rules is None else ConditionalInstruments.none("no_effects", len(rules)),
            )


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
        strata[exposure] = own[stratum_column(table, exposure)].to_pylist()
    return strata, own["sequence"].to_pylist()
