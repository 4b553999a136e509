"""Decoys: the outcome's effects of one sequence with the exposure's effects of another.

A mutation of one sequence cannot act on the outcome of another, so the effect is zero. What a
decoy shows all the same comes from what all sequences have in common: the position in the window,
the order of the bases, one network's error, which a draw carries into both. It is a negative
control that every run has, for every pair and method.

Row r of the mutation table of a sequence is matched with row r of its partner's: the same position
and the same rank among the three other bases. The instruments are those that the pair's rule
selects on the exposure in the partner.

The exposure's instruments are read first, then the outcome's effects of the same mutations; of all
other sequences nothing is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepmr.effects import Response
from deepmr.instruments import resolve
from deepmr.motifs import Motif
from deepmr.mr.batch import estimate_all
from deepmr.mr.decoy_partners import partners
from deepmr.mr.estimator import Array
from deepmr.mr.instrument_effects import Instruments
from deepmr.mr.questions import Pair, Question, Settings, checked_pairs, stratum_column
from deepmr.mr.registry import estimators
from deepmr.mr.rows import in_order, rows
from deepmr.mr.sequence_effects import SequenceEffects, motif_hits
from deepmr.mr.stored_effects import Mutations, read_mutations, read_references
from deepmr.shards.membership import shard_of

DIRECTION = "decoy"

_BLOCK = 64
"""Sequences whose instruments are held at once, for both exposure and outcome."""


@dataclass(frozen=True, eq=False)
class _Exposure:
    """The instruments of one sequence, to be used with the outcome of another.

    Attributes
    ----------
    rows : ndarray of int64, shape (instruments,)
        Rows of the mutation table, as :func:`table_rows` counts them.
    point, se : ndarray of float64, shape (instruments,)
        Mean effects and their standard errors.
    draws : ndarray of float64, shape (draws, instruments)
        Effects in each draw.
    used : slice
        Which draws those are.
    status : str
        ``ok``, or why there is nothing to estimate.
    """

    rows: NDArray[np.int64]
    point: Array
    se: Array
    draws: Array
    used: slice
    status: str


def estimate_decoys(
    model: str,
    sequences: pa.Table,
    effects: Sequence[str | Path],
    references: Sequence[str | Path],
    pairs: Sequence[Pair],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
    count: int,
    responses: Mapping[str, Response] | None = None,
) -> pa.Table:
    """Estimate every pair with the exposure's effects of other sequences.

    Parameters
    ----------
    model : str
        Name for the ``model`` column.
    sequences : pyarrow.Table
        Sequences table.
    effects, references : sequence of path
        The tables of all shards, in the order of the shards' numbers. Only those that hold a
        sequence of a decoy are opened.
    pairs, motifs, settings, responses
        As in :func:`deepmr.mr.shard.estimate_shard`; the seed is that of `settings.options`.
    count : int
        Sequences that an exposure's decoys take, 2 or more; see
        :func:`deepmr.mr.decoy_partners.partners`.

    Returns
    -------
    pyarrow.Table
        Schema `deepmr.schemas.MR`, direction ``decoy``, ordered by pair, the cycle of partners and
        method. ``sequence_id`` and ``stratum`` are those of the sequence whose outcome is used,
        ``partner`` is the one whose exposure is. Does not depend on the number of shards or on the
        order of any table. An exposure with a single sequence has a row with the status
        ``no_partner`` for each of its pairs and methods.

    Raises
    ------
    ValueError
        If `count` is below 2, the numbers of tables differ, sequences differ in length, or a
        target, column or sequence is missing.
    """
    chosen = estimators(settings.methods)
    if len(effects) != len(references) or not effects:
        raise ValueError(
            "effects and references must be the tables of the same shards, one or more; found "
            f"{len(effects)} and {len(references)}"
        )
    parts: list[pa.Table] = []
    for exposure in dict.fromkeys(pair.exposure for pair in checked_pairs(pairs)):
        sampled = _sampled(sequences, exposure)
        strata = _by_id(sampled, f"stratum.{exposure}")
        rule = resolve(settings.rule, motifs.get(exposure) is not None)
        own = {
            Question(pair, DIRECTION, exposure, pair.outcome, rule): i * len(sequences)
            for i, pair in enumerate(pairs)
            if pair.exposure == exposure
        }
        partner_of = partners(sampled, exposure, settings.options.seed, count)
        place = {name: i for i, name in enumerate(partner_of or strata)}
        source = _Source(sampled, place, effects, references, motifs, settings, responses or {})
        found = _instruments(source, partner_of, list(own))
        while some := list(itertools.islice(found, _BLOCK * len(own))):
            for question, first in own.items():
                names, items = zip(*((n, i) for n, q, i in some if q == question), strict=True)
                rank = len(chosen) * np.array([first + place[name] for name in names])
                keys = question.keys(model, names, [strata[name] for name in names])
                keys["partner"] = [partner_of.get(name) for name in names]
                results = estimate_all(items, chosen, settings.options)
                for i, (method, result) in enumerate(results.items()):
                    parts.append(rows(keys, rank + i, method, result, items))
    return in_order(parts)


def table_rows(mutations: Mutations) -> NDArray[np.int64]:
    """Return the row of the mutation table of each mutation: 3 position + rank of its base.

    The rank is that among the alternatives of the position in alphabetical order. A position that
    was not mutated (an ambiguous base) leaves its rows out, and so moves no other.
    """
    position = mutations.positions.astype(np.int64)
    order = np.lexsort((mutations.alleles.astype(str), position))
    ordered = position[order]
    first = np.searchsorted(ordered, ordered, side="left")
    found = np.empty_like(position)
    found[order] = 3 * ordered + np.arange(len(ordered)) - first
    return found


@dataclass(frozen=True, eq=False)
class _Source:
    """Where the effects of an exposure's sequences are."""

    sampled: pa.Table
    names: Mapping[str, int]
    effects: Sequence[str | Path]
    references: Sequence[str | Path]
    motifs: Mapping[str, Motif | None]
    settings: Settings
    responses: Mapping[str, Response]

    def read(self, targets: Sequence[str], rules: Mapping[str, str]) -> Iterator[SequenceEffects]:
        """Yield the sequences that have effects; motif hits are those of `rules`."""
        shards = sorted({shard_of(name, len(self.effects)) - 1 for name in self.names})
        among = set(self.names)
        reference = read_references([Path(self.references[i]) for i in shards], targets, among)
        row_of = {name: i for i, name in enumerate(reference.ids)}
        missing = sorted(among - set(row_of))
        if missing:
            raise ValueError(
                f"{len(missing)} sequences are in no references table ({', '.join(missing[:3])}); "
                "make the shards again"
            )
        letters = _by_id(self.sampled, "sequence")
        hits = motif_hits([letters[n] for n in reference.ids], rules, self.motifs, self.settings)
        seen: set[str] = set()
        paths = [Path(self.effects[i]) for i in shards]
        for mutations in read_mutations(paths, targets, among):
            name = mutations.sequence_id
            if name in seen:
                raise ValueError(
                    f"sequence {name!r} has rows in two places of the effects tables; "
                    "make the shards again"
                )
            seen.add(name)
            yield SequenceEffects(
                mutations, reference, row_of[name], hits, self.settings, self.responses
            )


def _sampled(sequences: pa.Table, exposure: str) -> pa.Table:
    """Return the sequences sampled for an exposure, all of one length."""
    sampled = sequences.filter(pc.is_valid(sequences[stratum_column(sequences, exposure)]))
    lengths = pc.unique(pc.utf8_length(sampled["sequence"])).to_pylist()
    if len(lengths) > 1:
        raise ValueError(
            f"the sequences of {exposure} have the lengths {', '.join(map(str, sorted(lengths)))}; "
            "decoys match mutations by position, give sequences of one length"
        )
    return sampled


def _by_id(table: pa.Table, column: str) -> dict[str, str]:
    return dict(zip(table["sequence_id"].to_pylist(), table[column].to_pylist(), strict=True))


def _instruments(
    source: _Source, partner_of: Mapping[str, str], questions: Sequence[Question]
) -> Iterator[tuple[str, Question, Instruments]]:
    """Yield every sequence with its partner's instruments, question by question."""
    if not partner_of:
        for name in source.names:
            for question in questions:
                yield name, question, Instruments.none("no_partner")
        return
    exposure, rule = questions[0].exposure, questions[0].rule
    given = {
        one.mutations.sequence_id: _exposure(one, exposure, rule)
        for one in source.read([exposure], {exposure: rule})
    }
    outcomes = list(dict.fromkeys(question.outcome for question in questions))
    absent = dict.fromkeys(partner_of)
    for one in source.read(outcomes, {}):
        name = one.mutations.sequence_id
        del absent[name]
        partner = given.get(partner_of[name])
        for question in questions:
            item = Instruments.none("no_effects")
            if partner is not None:
                item = _matched(partner, one, question.outcome)
            yield name, question, item
    for name in absent:
        for question in questions:
            yield name, question, Instruments.none("no_effects")


def _exposure(one: SequenceEffects, exposure: str, rule: str) -> _Exposure:
    selection = one.selection(exposure, rule)
    effects, status = one.on(exposure).using(selection.draws), selection.status
    if min(len(effects.draws), len(one.on(exposure).draws)) < 2:
        status = "too_few_draws"
    mask = selection.mask
    return _Exposure(
        table_rows(one.mutations)[mask],
        effects.point[mask],
        effects.se[mask],
        np.ascontiguousarray(effects.draws[:, mask]),
        selection.draws,
        status,
    )


def _matched(exposure: _Exposure, one: SequenceEffects, outcome: str) -> Instruments:
    """Return a partner's instruments with the outcome's effects of the same rows."""
    if exposure.status != "ok":
        return Instruments.none(exposure.status, len(exposure.rows))
    own = table_rows(one.mutations)
    order = np.argsort(own)
    at = order[np.minimum(np.searchsorted(own, exposure.rows, sorter=order), len(own) - 1)]
    present = own[at] == exposure.rows
    y = one.on(outcome).using(exposure.used)
    # A mutation that this sequence lacks is a missing value, and left out as any other.
    return Instruments(
        exposure.point,
        exposure.se,
        np.where(present, y.point[at], np.nan),
        np.where(present, y.se[at], np.nan),
        exposure.draws,
        np.ascontiguousarray(np.where(present, y.draws[:, at], np.nan)),
        positions=exposure.rows // 3,
        alleles=one.mutations.alleles[at],
    ).usable()
