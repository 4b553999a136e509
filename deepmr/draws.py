"""A draw is one function of the network: the same for every sequence, mutant and shard.

A draw names a member of an ensemble, a set of dropout masks, both, or a sample of the weights of
the last layer. A mask depends on nothing but (seed, dropout site, draw), and a sample on (seed,
target, member, draw), so reference and mutant meet the same function, and so do sequences in
different jobs. Only integers decide which units are kept, hence the masks are the same on every
machine and device.

The generator is Philox-4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as
1, 2, 3. SC'11): key (seed, site) or (seed, hash of target and member), counter (1, 0, 0, draw) and
on from there in its lowest word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

METHODS = ("mc_dropout", "ensemble", "ensemble_mc_dropout", "laplace")

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
    weights : int or None
        Which sample of the last layer's weights; None is the trained layer.
    """

    member: int
    mask: int | None = None
    weights: int | None = None


@dataclass(frozen=True)
class DrawSet:
    """The functions whose spread is a model's uncertainty; iterates over them in their order.

    Attributes
    ----------
    method : str
        ``mc_dropout``: the masks 0, 1, … on the first member; ``ensemble``: every member without
        dropout; ``ensemble_mc_dropout``: draw t is member t mod members under masks t;
        ``laplace``: the samples 0, 1, … of the first member's last layer.
    number : int
        How many draws. An ``ensemble`` has as many as it has members, whatever stands here; one
        member makes one draw, and no standard error.
    seed : int
        Key of the masks and samples.
    n_members : int
        Networks in the ensemble.

    Raises
    ------
    ValueError
        If the method is unknown or a number is out of range.
    """

    method: str
    number: int
    seed: int
    n_members: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.method not in METHODS:
            raise ValueError(
                f"uncertainty.method: {self.method!r} is unknown; write one of {', '.join(METHODS)}"
            )
        if self.number < 1:
            raise ValueError(f"uncertainty.draws: found {self.number}; write 1 or more")
        if self.n_members < 1:
            raise ValueError(f"the model has {self.n_members} members; it needs 1 or more")
        _check_word("seed", self.seed)

    def __len__(self) -> int:
        """Return the number of draws."""
        return self.n_members if self.method == "ensemble" else self.number

    def __iter__(self) -> Iterator[Draw]:
        """Yield the draws in their order."""
        for t in range(len(self)):
            if self.method == "mc_dropout":
                yield Draw(0, mask=t)
            elif self.method == "ensemble":
                yield Draw(t)
            elif self.method == "ensemble_mc_dropout":
                yield Draw(t % self.n_members, mask=t)
            else:
                yield Draw(0, weights=t)


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
    raw = _random_words(seed, site, draw, (n + 1) // 2)
    words = raw.astype("<u8", copy=False).view("<u4")[:n]
    kept: NDArray[np.bool] = words < np.uint64((1 - p) * _WORDS)
    return kept.reshape(shape)


def standard_normals(
    seed: int, target: str, member: int, draw: int, size: int
) -> NDArray[np.float64]:
    """Return the standard normal numbers that make a sample of a target's weights.

    Parameters
    ----------
    seed, draw : int
        The seed and the draw, each in [0, 2^64).
    target : str
        Name of the target.
    member : int
        Which network of the ensemble.
    size : int
        How many numbers.

    Returns
    -------
    ndarray of float64, shape (size,)
        The normal quantiles of (w + ½)/2^53, w the upper 53 bits of each of Philox's words: number
        i depends on the arguments and i alone.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    for name, value in (("seed", seed), ("draw", draw)):
        _check_word(name, value)
    digest = hashlib.blake2b(f"{member} {target}".encode(), digest_size=8).digest()
    words = _random_words(seed, int.from_bytes(digest, "little"), draw, size)
    normals: NDArray[np.float64] = ndtri(
        ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    )
    return normals


def _random_words(seed: int, stream: int, draw: int, number: int) -> NDArray[np.uint64]:
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, 0, draw], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(number)


def _check_word(name: str, value: int) -> None:
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: found {value}; write an integer from 0 to 2^64 - 1")
