"""Matrix products of deltas, and in which precision they are computed.

A delta is small against the value it changes, and is never made by subtraction in low precision, so
its products may be rounded: TF32 has 10 bits of mantissa, bfloat16 has 7. The reference itself is
always computed in full precision. On a CPU everything is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

PRECISIONS = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 0.3}
"""Precisions, and what of the largest effect a product may be wrong by before it is a defect."""


class Products:
    """Products in one precision.

    Parameters
    ----------
    precision : str
        One of `PRECISIONS`; ``tf32`` is for GPUs, and ``float32`` elsewhere.

    Attributes
    ----------
    tolerance : float
        What of the largest effect a result may be wrong by.

    Raises
    ------
    ValueError
        If the precision is unknown.
    """

    def __init__(self, precision: str = "float32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(
                f"mutagenesis.precision: {precision!r} is unknown; "
                f"write one of {', '.join(PRECISIONS)}"
            )
        self.precision = precision
        self.tolerance = PRECISIONS[precision]
        self._short = precision == "bfloat16"

    def weight(self, weight: Tensor) -> Tensor:
        """Return weights as the products want them."""
        return weight.bfloat16() if self._short else weight

    def add(self, result: Tensor, x: Tensor, weight: Tensor, *, fresh: bool) -> None:
        """Add x @ weight to a matrix in place; overwrite it if it is fresh."""
        if not self._short:
            result.addmm_(x, weight, beta=0 if fresh else 1)
        elif fresh:
            result.copy_(x.bfloat16() @ weight)
        else:
            result += x.bfloat16() @ weight

    def each(self, result: Tensor, x: Tensor, weights: Tensor) -> None:
        """Write the products of matrices, one by one, into a tensor of three axes."""
        if self._short:
            result.copy_(x.bfloat16() @ weights)
        else:
            torch.bmm(x, weights, out=result)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return x @ weight, in the precision of x."""
        return (x.bfloat16() @ weight).to(x.dtype) if self._short else x @ weight

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Allow TF32 on a GPU, where it is asked for."""
        if self.precision != "tf32" or not torch.cuda.is_available():
            yield
            return
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
