"""Where and how torch runs: the same bits every time, a part of the rows at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Few enough for 64 exposures of each row to stay in a CPU's cache, where that takes half the time.
_ROWS_AT_ONCE = 64


@contextmanager
def reproducible(seed: int, device: str, threads: int) -> Iterator[None]:
    """Seed torch, fix what the bits of a result depend on, and put torch back as it was."""
    before = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    forked = [] if torch.device(device).type == "cpu" else range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=forked):
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def evaluate(
    function: Callable[[Tensor], Tensor],
    rows: NDArray[np.int64],
    device: str,
    threads: int,
    seed: int = 0,
) -> Tensor:
    """Return a function of rows, without gradients and a part of the rows at a time.

    Parameters
    ----------
    function : callable
        Maps rows (int64, (b,), on the device) to numbers (b, …).
    rows : ndarray of int64, shape (m,)
        The rows; 64 at most go into one call.
    device, threads
        Where it runs, and with how many threads on a CPU.
    seed : int
        Of torch's default generator, where the function draws from it.

    Returns
    -------
    Tensor, shape (m, …)
        The numbers, on the device.
    """
    parts = torch.as_tensor(rows, device=device).split(_ROWS_AT_ONCE)
    with reproducible(seed, device, threads), torch.no_grad():
        return torch.cat([function(part) for part in parts])
