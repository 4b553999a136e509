"""Elementwise passes that a GPU makes as one kernel each; on a CPU they are made in place instead.

A GPU spends more time on moving deltas than on multiplying them, if each addition is a pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Pass = Callable[..., Tensor]


def rectify(delta: Tensor, shift: Tensor, least: Tensor) -> Tensor:
    """Return max(delta + shift, least)."""
    return torch.maximum(delta + shift, least)


def keep_larger(largest: Tensor, delta: Tensor, below: Tensor) -> Tensor:
    """Return max(largest, delta + below)."""
    return torch.maximum(largest, delta + below)


@cache
def compiled(function: Pass) -> Pass:
    """Return a pass as one kernel, for tensors of any shape."""
    kernel: Pass = torch.compile(function, dynamic=True, fullgraph=True)
    return kernel
