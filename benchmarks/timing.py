"""What benchmarks share: CPU seconds of this process, and a line through times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")


def cpu_seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the processor's seconds that the work took in this process, and what it returned."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def fitted(x: Sequence[int], y: Sequence[float]) -> dict[str, Any]:
    """Return a line of least squares and how much of the variance it explains."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.sum((np.array(y) - intercept - slope * np.array(x)) ** 2)
    spread = np.sum((np.array(y) - np.mean(y)) ** 2)
    return {
        "seconds": {str(each): float(f"{value:.4g}") for each, value in zip(x, y, strict=True)},
        "slope_s": float(f"{slope:.4g}"),
        "intercept_s": float(f"{intercept:.4g}"),
        "r2": round(float(1 - rest / spread), 5) if spread > 0 else 1.0,
    }
