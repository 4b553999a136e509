"""What is asked of the sequences: pairs, directions, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from deepmr.instruments import resolve
from deepmr.motifs import Motif
from deepmr.mr.estimator import Options


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
    conditional : sequence of str
        Those of `deepmr.mr.conditional.METHODS` that estimate direct effects.
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
    conditional: Sequence[str] = ("mv_ivw",)
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
        own = ("methods", "conditional", "primary", "effect_scale", "decoy_sequences")
        return cls(
            methods=mr["methods"],
            conditional=mr["conditional"],
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

    def keys(
        self, model: str, sequence_ids: Sequence[str], strata: Sequence[str | None]
    ) -> dict[str, str | Sequence[str | None]]:
        """Return the columns of `deepmr.schemas.MR` that say what was asked of which sequences."""
        return {
            "model": model,
            "pair": self.pair.name,
            "direction": self.direction,
            "exposure": self.exposure,
            "outcome": self.outcome,
            "instrument_rule": self.rule,
            "sequence_id": sequence_ids,
            "stratum": strata,
        }


def stratum_column(sequences: pa.Table, exposure: str) -> str:
    """Return the name of the column with the strata of an exposure.

    Raises
    ------
    ValueError
        If the sequences table has none.
    """
    column = f"stratum.{exposure}"
    if column not in sequences.column_names:
        raise ValueError(
            f"the sequences table has no column {column!r}, though {exposure} is the exposure of a "
            f"pair; it has {', '.join(sequences.column_names)}"
        )
    return column


def questions_of(
    pairs: Sequence[Pair], motifs: Mapping[str, Motif | None], settings: Settings
) -> list[Question]:
    """Return each pair in both directions, forward first.

    Raises
    ------
    ValueError
        If there is no pair, or the instrument rule is unknown.
    """
    questions = []
    for pair in checked_pairs(pairs):
        for direction, (exposure, outcome) in (
            ("forward", (pair.exposure, pair.outcome)),
            ("reverse", (pair.outcome, pair.exposure)),
        ):
            rule = resolve(settings.rule, motifs.get(exposure) is not None)
            questions.append(Question(pair, direction, exposure, outcome, rule))
    return questions


def checked_pairs(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return the pairs; at least one.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not pairs:
        raise ValueError("pairs is empty; name at least one exposure and outcome")
    return pairs


def shared_outcomes(questions: Sequence[Question]) -> dict[str, dict[str, str]]:
    """Return by outcome its exposures with their instrument rules, where they are two or more.

    They are those of all questions about the outcome, in the order of the questions.
    """
    found: dict[str, dict[str, str]] = {}
    for question in questions:
        found.setdefault(question.outcome, {})[question.exposure] = question.rule
    return {outcome: rules for outcome, rules in found.items() if len(rules) > 1}
