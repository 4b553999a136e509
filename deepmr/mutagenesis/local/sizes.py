"""How the work on a sequence is cut, and what memory that takes.

The cut depends on the network, the number of draws, the device and the budget, never on how many
sequences are worked on at a time: rounding depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from deepmr.mutagenesis.local.geometry import ceil_to
from deepmr.mutagenesis.local.planning import Plan
from deepmr.mutagenesis.local.windows import ALLELES

_DRAWS = {"cpu": 25, "cuda": 50}
"""Draws of a chunk: enough for large products, above all in the layers behind a flattening."""

_BLOCK_BYTES = {"cpu": 2**25, "cuda": 2**32}
"""Memory of a block's deltas. On a CPU more would only leave the caches."""

_COPIES = 3.0
"""What a reference value takes, prepared forms included, over the value itself."""


class MemoryBudgetError(ValueError):
    """The network does not fit into the memory allowed, however the work is cut."""


@dataclass(frozen=True)
class Sizes:
    """How the work is cut.

    Attributes
    ----------
    shared : int
        Mutated positions of a block where all draws are the same; a multiple of `drawn`.
    drawn : int
        The same where they differ.
    draws : int
        Draws of a chunk.
    bytes : int
        Memory that a sequence in work takes, masks and weights left out.
    """

    shared: int
    drawn: int
    draws: int
    bytes: int = 0


def choose_sizes(
    plan: Plan, length: int, draws: int, itemsize: int, device: str, budget: float
) -> Sizes:
    """Choose how to cut the work on a sequence.

    Parameters
    ----------
    plan : Plan
        The rules.
    length : int
        Bases of a sequence.
    draws : int
        Functions to evaluate.
    itemsize : int
        Bytes of a number.
    device : str
        ``cpu`` or ``cuda``.
    budget : float
        Bytes that one sequence may take.

    Returns
    -------
    Sizes
        Positions and draws.

    Raises
    ------
    MemoryBudgetError
        If a block of one stride and one draw does not fit.
    """
    span = ceil_to(length, plan.stride)
    chunks = -(-draws // _DRAWS[device])
    chunk = -(-draws // chunks)
    while True:
        sizes = _cut(plan, span, chunk, itemsize, min(_BLOCK_BYTES[device], budget / 2))
        if sizes.bytes <= budget:
            return sizes
        if chunk == 1:
            raise MemoryBudgetError(
                f"a sequence takes {sizes.bytes / 1e9:.2g} GB however the work is cut, "
                f"{budget / 1e9:.2g} GB are allowed; raise mutagenesis.memory_gb"
            )
        chunk = -(-chunk // 2)


def _cut(plan: Plan, span: int, chunk: int, itemsize: int, block: float) -> Sizes:
    shared_bytes = plan.numbers(False) * ALLELES * itemsize
    drawn_bytes = plan.numbers(True) * ALLELES * itemsize * chunk
    drawn = _multiple(block / max(drawn_bytes, 1), plan.stride, span)
    shared = _multiple(block / max(shared_bytes, 1), drawn, ceil_to(span, drawn))
    deltas = max(shared * shared_bytes, drawn * drawn_bytes)
    kept = plan.boundary_numbers() * ALLELES * itemsize * span
    reference = sum(
        prod(rule.node.shape or (0,)) * (chunk if rule.layout.drawn else 1) for rule in plan.rules
    )
    return Sizes(shared, drawn, chunk, int(deltas + kept + _COPIES * itemsize * reference))


def _multiple(number: float, step: int, most: int) -> int:
    """Return the largest multiple of `step` up to `number` and `most`, at least one."""
    return max(step, min(int(number), most) // step * step)
