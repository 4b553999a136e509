"""Which mutations of a sequence serve as instruments."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deepmr.effects import Effects

Mask = NDArray[np.bool_]

RULES = ("motif", "all", "strength", "strength_halves", "per_position")


@dataclass(frozen=True, eq=False)
class Selection:
    """Instruments of one sequence.

    Attributes
    ----------
    mask : ndarray of bool, shape (mutations,)
        The instruments.
    status : str
        ``ok``, ``no_motif`` (the exposure has none), ``no_motif_hit``, ``no_variation`` (no
        effect varies over draws) or ``too_few_instruments``.
    draws : slice
        The draws to estimate with: all, or for ``strength_halves`` the odd ones.
    """

    mask: Mask
    status: str
    draws: slice = field(default_factory=lambda: slice(None))


def resolve(rule: str, has_motif: bool) -> str:
    """Return the rule that ``auto`` stands for: ``motif`` where there is one, otherwise ``all``.

    Raises
    ------
    ValueError
        If the rule is unknown.
    """
    if rule == "auto":
        return "motif" if has_motif else "all"
    if rule not in RULES:
        raise ValueError(
            f"instruments.rule {rule!r} is unknown; write auto or one of {', '.join(RULES)}"
        )
    return rule


def select(
    rule: str,
    exposure: Effects,
    positions: NDArray[np.integer],
    motif_positions: Mask | None = None,
    *,
    minimum: int = 10,
    maximum: int | None = None,
    strength: float = 2.0,
) -> Selection:
    """Choose the instruments of one sequence.

    Parameters
    ----------
    rule : str
        ``motif``: mutations inside a hit of the exposure's motif; ``all``; ``strength``: effect
        over its SE above `strength`; ``strength_halves``: the same, judged on the even draws,
        the odd ones being left for estimation (against the winner's curse); ``per_position``:
        the strongest allele of each position.
    exposure : Effects
        Effects on the exposure. The evaluation-mode effect judges strength where there is one
        and the rule does not judge by halves; otherwise the mean over the draws does.
    positions : ndarray of int, shape (mutations,)
        0-based position of each mutation in the sequence.
    motif_positions : ndarray of bool, shape (length,), optional
        Positions inside hits of the exposure's motif; None when it has no motif.
    minimum : int
        Fewer instruments give the status ``too_few_instruments``.
    maximum : int, optional
        Keep only so many, those of largest effect over SE (the earlier one of a tie).
    strength : float
        Threshold of the strength rules.

    Returns
    -------
    Selection
        Always; what is wrong stands in its status.

    Raises
    ------
    ValueError
        If the rule is unknown, or shapes disagree.
    """
    if rule not in RULES:
        raise ValueError(f"instrument rule {rule!r} is unknown; write one of {', '.join(RULES)}")
    n = exposure.point.size
    if positions.shape != (n,):
        raise ValueError(
            f"positions must have shape ({n},) as the effects; found {positions.shape}"
        )
    halves = rule == "strength_halves"
    if halves:
        half = exposure.using(slice(0, None, 2))
        effect, se = half.point, half.se
    else:
        effect = exposure.point if exposure.evaluated is None else exposure.evaluated
        se = exposure.se
    draws = slice(1, None, 2) if halves else slice(None)
    varies = np.isfinite(effect) & np.isfinite(se) & (se > 0)
    ratio = np.zeros(n)
    np.divide(np.abs(effect), se, out=ratio, where=varies)

    if rule == "motif":
        if motif_positions is None:
            return Selection(np.zeros(n, dtype=np.bool_), "no_motif", draws)
        mask = motif_positions[positions]
        if not mask.any():
            return Selection(mask, "no_motif_hit", draws)
    elif rule == "all":
        mask = np.ones(n, dtype=np.bool_)
    elif rule == "per_position":
        mask = _strongest_per_position(positions, np.where(np.isfinite(effect), effect, 0.0))
    else:
        mask = ratio > strength
    if n and not varies.any():
        return Selection(mask & varies, "no_variation", draws)
    mask = mask & varies
    if maximum is not None and mask.sum() > maximum:
        ranked = np.argsort(-np.where(mask, ratio, -1.0), kind="stable")
        mask = np.zeros(n, dtype=np.bool_)
        mask[ranked[:maximum]] = True
    return Selection(mask, "ok" if mask.sum() >= minimum else "too_few_instruments", draws)


def _strongest_per_position(positions: NDArray[np.integer], effect: NDArray[np.float64]) -> Mask:
    mask = np.zeros(positions.size, dtype=np.bool_)
    order = np.lexsort((np.arange(positions.size), -np.abs(effect), positions))
    ordered = positions[order]
    first = np.ones(positions.size, dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    mask[order[first]] = True
    return mask
