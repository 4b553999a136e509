"""Dropout masks made on the device that uses them, the same integers as `deepmr.draws.keep_mask`.

Philox-4x64-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC'11) in
64-bit integer operations of torch, which wrap around as unsigned ones do.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = 0xFFFFFFFF


def keep_masks(
    seed: int, site: int, draws: list[int], shape: tuple[int, ...], p: float, device: torch.device
) -> Tensor:
    """Return which units a dropout site keeps in each of some draws.

    Parameters
    ----------
    seed, site : int
        The key.
    draws : list of int
        The draws, each a word of the counter.
    shape : tuple of int
        Shape of one sequence's activations at the site.
    p : float
        Probability of being dropped.
    device : torch.device
        Where the masks are made.

    Returns
    -------
    tensor of bool, shape (draws, *shape)
        Of every draw what :func:`deepmr.draws.keep_mask` gives.
    """
    n = prod(shape)
    blocks = (n + 7) // 8
    low = torch.arange(1, blocks + 1, device=device).expand(len(draws), -1)
    zero = torch.zeros_like(low)
    high = torch.tensor([_signed(draw) for draw in draws], device=device)[:, None].expand_as(low)
    words = torch.stack(_philox((low, zero, zero, high), (seed, site)), dim=-1).flatten(1)
    # Each word gives two numbers of 32 bits, the low half first.
    numbers = torch.stack((words & _LOW, (words >> 32) & _LOW), dim=-1).flatten(1)[:, :n]
    return (numbers < int((1 - p) * 2**32)).reshape(len(draws), *shape)


Counter = tuple[Tensor, Tensor, Tensor, Tensor]


def _philox(counter: Counter, key: tuple[int, int]) -> Counter:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ _signed(k0), low1, high0 ^ c3 ^ _signed(k1), low0
        k0, k1 = (k0 + _WEYL[0]) % 2**64, (k1 + _WEYL[1]) % 2**64
    return c0, c1, c2, c3


def _multiply(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 64 bits of an unsigned product."""
    x_low, x_high = x & _LOW, (x >> 32) & _LOW
    by_low, by_high = by & _LOW, by >> 32
    low, cross, other = x_low * by_low, x_low * by_high, x_high * by_low
    middle = ((low >> 32) & _LOW) + (cross & _LOW) + (other & _LOW)
    high = x_high * by_high + ((cross >> 32) & _LOW) + ((other >> 32) & _LOW) + (middle >> 32)
    return high, x * _signed(by)


def _signed(word: int) -> int:
    """Return the signed integer with the bits of an unsigned one."""
    return word - 2**64 if word >= 2**63 else word
