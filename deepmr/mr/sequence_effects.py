"""Effects of one sequence's mutations as a question needs them: on a scale, and selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepmr.effects import PLAIN, Effects, Response, on_scale
from deepmr.genome.alphabet import encode
from deepmr.instruments import Mask, Selection, select
from deepmr.motifs import Motif, hit_positions
from deepmr.mr.conditional import ConditionalInstruments
from deepmr.mr.instrument_effects import Instruments
from deepmr.mr.questions import Question, Settings
from deepmr.mr.stored_effects import Mutations, References


@dataclass(frozen=True, eq=False)
class SequenceEffects:
    """Mutations of one sequence. What several questions need is worked out once.

    Attributes
    ----------
    mutations : Mutations
        Stored effects.
    references : References
        Holds the sequence's reference predictions.
    row : int
        Where, in `references` and in `hits`.
    hits : mapping of str to ndarray of bool, shape (sequences, length)
        By exposure with a motif, the positions inside its hits.
    settings : Settings
        Scale and instruments.
    responses : mapping of str to Response
        By target, what its logits stand for; a binary target where one is missing.
    """

    mutations: Mutations
    references: References
    row: int
    hits: Mapping[str, Mask]
    settings: Settings
    responses: Mapping[str, Response]
    _scaled: dict[str, Effects] = field(default_factory=dict, init=False, repr=False)
    _selected: dict[str, Selection] = field(default_factory=dict, init=False, repr=False)
    _unions: dict[str, ConditionalInstruments] = field(default_factory=dict, init=False, repr=False)

    def on(self, target: str) -> Effects:
        """Return the effects on a target."""
        if target not in self._scaled:
            self._scaled[target] = on_scale(
                self.references.draws[target][self.row],
                self.mutations.draws[target],
                self.settings.effect_scale,
                self.responses.get(target, PLAIN),
                reference_eval=float(self.references.evaluated[target][self.row]),
                delta_eval=self.mutations.evaluated[target],
            )
        return self._scaled[target]

    def selection(self, exposure: str, rule: str) -> Selection:
        """Return the mutations that a rule selects as instruments of an exposure."""
        if exposure not in self._selected:
            settings = self.settings
            self._selected[exposure] = select(
                rule,
                self.on(exposure),
                self.mutations.positions,
                self.hits[exposure][self.row] if exposure in self.hits else None,
                minimum=settings.minimum,
                maximum=settings.maximum,
                strength=settings.strength,
            )
        return self._selected[exposure]

    def instruments(self, question: Question) -> Instruments:
        """Return the usable effects of the instruments of one question."""
        exposure, outcome = self.on(question.exposure), self.on(question.outcome)
        if len(exposure.draws) < 2:
            return Instruments.none("too_few_draws")
        selection = self.selection(question.exposure, question.rule)
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
            positions=self.mutations.positions[mask].astype(np.int64),
            alleles=self.mutations.alleles[mask],
        ).usable()

    def conditional(self, question: Question, rules: Mapping[str, str]) -> ConditionalInstruments:
        """Return the instruments of all exposures of an outcome, with their effects on each.

        Parameters
        ----------
        question : Question
            Its exposure must have instruments of its own here: what mutations chosen for others
            do to it by the way says nothing of its effect. Else the status is why it has none.
        rules : mapping of str to str
            Instrument rule of each exposure of the outcome. Another exposure that has no
            instruments in this sequence adds none, one that has fewer than the minimum adds those.
        """
        if len(self.on(question.outcome).draws) < 2:
            return ConditionalInstruments.none("too_few_draws", len(rules))
        own = self.selection(question.exposure, question.rule)
        if own.status != "ok":
            return ConditionalInstruments.none(own.status, len(rules), int(own.mask.sum()))
        if question.outcome not in self._unions:
            self._unions[question.outcome] = self._union(question.outcome, rules)
        return self._unions[question.outcome]

    def _union(self, outcome: str, rules: Mapping[str, str]) -> ConditionalInstruments:
        selections = [self.selection(*one) for one in rules.items()]
        mask = np.logical_or.reduce([one.mask for one in selections])
        n = int(mask.sum())
        # The slice is the rule's, and ``strength_halves`` is a rule for all exposures or for none.
        x = [self.on(exposure).using(selections[0].draws) for exposure in rules]
        y = self.on(outcome).using(selections[0].draws)
        if len(y.draws) < 2:
            return ConditionalInstruments.none("too_few_draws", len(rules), n)
        return ConditionalInstruments(
            np.stack([one.point[mask] for one in x], axis=-1),
            np.stack([one.se[mask] for one in x], axis=-1),
            y.point[mask],
            y.se[mask],
            np.stack([one.draws[:, mask] for one in x], axis=-1),
            np.ascontiguousarray(y.draws[:, mask]),
        ).usable()


def motif_hits(
    letters: Sequence[str],
    rules: Mapping[str, str],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
) -> dict[str, NDArray[np.bool_]]:
    """Return by exposure the positions inside hits of its motif, (sequences, length).

    Parameters
    ----------
    letters : sequence of str
        The sequences.
    rules : mapping of str to str
        Instrument rule of each exposure; only those of the rule ``motif`` that have one are
        looked for.
    motifs : mapping of str to Motif or None
        By target.
    settings : Settings
        P-value and strands.

    Raises
    ------
    ValueError
        If the sequences differ in length.
    """
    if not letters:
        return {}
    if len({len(sequence) for sequence in letters}) > 1:
        raise ValueError("the sequences of a shard must all have the same length")
    codes = np.stack([encode(sequence) for sequence in letters])
    hits = {}
    for exposure, rule in rules.items():
        motif = motifs.get(exposure)
        if rule == "motif" and motif is not None:
            hits[exposure] = hit_positions(
                codes, motif, settings.motif_p_value, settings.both_strands
            )
    return hits
