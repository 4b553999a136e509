"""Work on sequences in threads, each with single-threaded arithmetic.

Sums of floats depend on how many threads share them; one thread for each sequence keeps every
bit of a result the same whatever the number of workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of the items, computed by threads.

    Parameters
    ----------
    function : callable
        Called in a thread whose torch operations use one core.
    items : iterable
        Read at most ``2 * workers`` ahead of what has been yielded.
    workers : int
        Number of threads.

    Yields
    ------
    object
        The results.

    Raises
    ------
    ValueError
        If `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers: found {workers}; write 1 or more")
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # Setting it in a worker also sets it for threads started later; put that back.
        torch.set_num_threads(threads)
