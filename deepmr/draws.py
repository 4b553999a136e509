"""A draw is one function of the network: the same for every sequence, mutant and shard.

A draw names a member of an ensemble, a set of dropout masks, or both. A mask depends on nothing
but (seed, dropout site, draw), so reference and mutant meet the same function, and so do
sequences in different jobs. Only integers decide which units are kept, hence the masks are the
same on every machine and device.

The generator is Philox-4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as
1, 2, 3. SC'11): key (seed, site), counter (1, 0, 0, draw) and on from there in its lowest word.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

METHODS = ("mc_dropout", "ensemble", "ensemble_mc_dropout")

_WORDS = 2**32


@dataclass(frozen=True)
class Draw:
    """One function of a model.

    Attributes
    ----------
    member : int
        Which network of the ensemble.
    mask : int or None
        Which dropout masks; None is the network without dropout.
    """

    member: int
    mask: int | None


@dataclass(frozen=True)
class DrawSet:
    """The functions whose spread is a model's uncertainty.

    Attributes
    ----------
    method : str
        ``mc_dropout``: the masks 0, 1, … on the first member; ``ensemble``: every member without
        dropout; ``ensemble_mc_dropout``: draw t is member t mod members under masks t.
    number : int
        How many draws. An ``ensemble`` has as many as it has members, whatever stands here.
    seed : int
        Key of the masks.
    n_members : int
        Networks in the ensemble.

    Raises
    ------
    ValueError
        If the method is unknown, a number is out of range, or an ensemble has one member.
    """

    method: str
    number: int
    seed: int
    n_members: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.method not in METHODS:
            raise ValueError(
                f"draws.method: {self.method!r} is unknown; write one of {', '.join(METHODS)}"
            )
        if self.number < 1:
            raise ValueError(f"draws.number: found {self.number}; write 1 or more")
        if self.n_members < 1:
            raise ValueError(f"the model has {self.n_members} members; it needs 1 or more")
        if self.method.startswith("ensemble") and self.n_members < 2:
            raise ValueError(
                f"draws.method: {self.method} needs a model of 2 or more members, found 1; "
                "raise the model's `members`, or write mc_dropout"
            )
        _check_word("seed", self.seed)

    def __len__(self) -> int:
        """Return the number of draws."""
        return self.n_members if self.method == "ensemble" else self.number

    def members_and_masks(self) -> list[Draw]:
        """Return the draws in their order."""
        if self.method == "mc_dropout":
            return [Draw(0, t) for t in range(self.number)]
        if self.method == "ensemble":
            return [Draw(member, None) for member in range(self.n_members)]
        return [Draw(t % self.n_members, t) for t in range(self.number)]


def keep_mask(
    seed: int, site: int, draw: int, shape: tuple[int, ...], p: float
) -> NDArray[np.bool]:
    """Return which units a dropout site keeps in a draw.

    Parameters
    ----------
    seed, site, draw : int
        The seed, the place of the dropout call among those of a forward pass, and the draw;
        each in [0, 2^64).
    shape : tuple of int
        Shape of one sequence's activations at the site.
    p : float
        Probability of being dropped, in [0, 1].

    Returns
    -------
    ndarray of bool
        True where a unit is kept: where its 32-bit random word is below (1-p)·2^32. The words
        are the halves of Philox's 64-bit words, low half first, in C order over `shape`.

    Raises
    ------
    ValueError
        If p is no probability or a number is out of range.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability: found {p}; it must be in [0, 1]")
    for name, value in (("seed", seed), ("site", site), ("draw", draw)):
        _check_word(name, value)
    n = prod(shape)
    key = np.array([seed, site], dtype=np.uint64)
    counter = np.array([0, 0, 0, draw], dtype=np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw((n + 1) // 2)
    words = raw.astype("<u8", copy=False).view("<u4")[:n]
    kept: NDArray[np.bool] = words < np.uint64((1 - p) * _WORDS)
    return kept.reshape(shape)


def _check_word(name: str, value: int) -> None:
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: found {value}; write an integer from 0 to 2^64 - 1")
