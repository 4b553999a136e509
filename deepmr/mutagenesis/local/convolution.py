"""Convolution along the positions, by the cheapest of four products.

``taps``: for each position of the window, one product with all elements of the kernel, added to the
outputs that it reaches. ``shifts``: one product of all positions with all elements, whose results
are added up shifted. Neither multiplies with zeros. ``band``: one product of the whole window with
a banded matrix, zeros included. ``window``: the convolution of the library, on the window with
zeros around it. Many channels want taps, wide windows shifts, few channels a band, and channels in
groups or strides the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepmr.mutagenesis.capture import Node
from deepmr.mutagenesis.local.geometry import (
    Block,
    Layout,
    NotLocalError,
    Piece,
    Sliding,
    slide,
)
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.rules import Given, Rule, one, only_constants
from deepmr.mutagenesis.local.taps import (
    Part,
    Run,
    Step,
    clear_others,
    clipped,
    find_part,
    runs_of,
)
from deepmr.mutagenesis.local.windows import Delta, clear_beyond


class Convolution(Rule):
    """Convolution of deltas: linear, so without the bias.

    Parameters
    ----------
    weight : tensor, shape (outputs, inputs / groups, kernel)
        The kernel.
    channel_groups : int
        Groups of channels.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        layout: Layout,
        window: Sliding,
        weight: Tensor,
        channel_groups: int,
        result: Layout,
    ) -> None:
        stride, groups, pieces = slide(layout, window)
        super().__init__(node, [name], replace(result, stride=stride, groups=groups))
        self._window, self._source = window, layout
        self._weight, self._channel_groups = weight, channel_groups
        self._outputs, self._inputs = weight.shape[0], weight.shape[1] * channel_groups
        self._parts = [self._part(piece) for piece in pieces]
        self.methods = tuple(dict.fromkeys(part.method for part in self._parts))
        for part in self._parts:
            share = len(part.source.residues) / stride
            self.flops += share * self._costs(part)[part.method][0]
        self.scratch = self.layout.numbers
        self._methods = {
            "taps": self._taps,
            "shifts": self._shifts,
            "band": self._banded,
            "window": self._windows,
        }

    def bind(self, span: int, products: Products) -> None:
        """Lay the weights out for each part."""
        super().bind(span, products)
        self._laid_out: dict[Any, Tensor] = {}
        for part in self._parts:
            if part.method == "taps":
                for _, _, elements in part.taps:
                    if elements not in self._laid_out:
                        kernel = self._weight[:, :, list(elements)]
                        kernel = kernel.permute(1, 2, 0).flatten(1).contiguous()
                        self._laid_out[elements] = products.weight(kernel)
            elif part.method == "band":
                self._laid_out[self._band_key(part)] = products.weight(self._band(part))
        if "shifts" in self.methods:
            kernel = self._weight.permute(1, 2, 0).flatten(1).contiguous()
            self._elements = products.weight(kernel)
        if "window" in self.methods:
            kernel = self._weight[:, :, None]
            self._kernel = products.weight(kernel).contiguous(memory_format=torch.channels_last)

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Convolve."""
        (delta,) = deltas
        count = block.count(self.layout.stride)
        draws, alleles = delta[0].shape[2:4]
        result: list[Tensor | None] = [None] * len(self.layout.groups)
        for part in self._parts:
            source = delta[part.piece.source][part.piece.phase :: part.piece.step]
            group = self.layout.groups[part.piece.target]
            computed = self._methods[part.method](part, source, block)
            residues = computed.shape[1]
            if residues == len(group.residues):
                result[part.piece.target] = computed
                continue
            whole = result[part.piece.target]
            if whole is None:
                whole = computed.new_empty(
                    (count, len(group.residues), draws, alleles, group.width, self._outputs)
                )
                result[part.piece.target] = whole
            first = part.piece.first_residue
            whole[:, first : first + residues] = computed
        found = [
            tensor.reshape(*tensor.shape[:5], *self.layout.rest)
            for tensor in result
            if tensor is not None
        ]
        if {"window", "shifts"} & set(self.methods):
            clear_beyond(found, self.layout, block)
        return found

    def _taps(self, part: Part, source: Tensor, block: Block) -> Tensor:
        """Multiply each position of the window with all elements that see it."""
        made, given = self._rows(part, source)
        runs = self._runs(part, block)
        clear_others(made, runs)
        for run in runs:
            steps = clipped(part.taps, run)
            if steps:
                self._tap_run(steps, made[run.rows], given[run.rows])
            else:
                made[run.rows].zero_()
        return made.view(*source.shape[:4], part.target.width, self._outputs)

    def _tap_run(self, steps: Sequence[Step], made: Tensor, given: Tensor) -> None:
        """Add up the products of a run; what a product is the first to reach, it overwrites."""
        depth, channels = self._inputs, self._outputs
        given, flat = given.flatten(0, 1), made.flatten(0, 1)

        def add(step: Step, low: int, high: int, fresh: bool) -> None:
            if low < high:
                weight = self._laid_out[step.elements]
                self.products.add(
                    flat[:, low * channels : high * channels],
                    given[:, step.place * depth : (step.place + 1) * depth],
                    weight[:, (low - step.first) * channels : (high - step.first) * channels],
                    fresh=fresh,
                )

        # Outputs rise with the place: the first and the last step reach both ends.
        first, last = steps[0], steps[-1]
        meeting = max(first.high, last.low)
        for begin, end in ((0, first.low), (first.high, meeting), (last.high, None)):
            flat[:, begin * channels : None if end is None else end * channels].zero_()
        add(first, first.low, first.high, True)
        if len(steps) > 1:
            add(last, meeting, last.high, True)
            add(last, last.low, min(meeting, last.high), False)
        for step in steps[1:-1]:
            add(step, step.low, step.high, False)

    def _banded(self, part: Part, source: Tensor, block: Block) -> Tensor:
        """Multiply the window with a banded matrix."""
        made, given = self._rows(part, source)
        band = self._laid_out[self._band_key(part)]
        runs = self._runs(part, block)
        clear_others(made, runs)
        for run in runs:
            rows = slice(run.inputs.start * self._inputs, run.inputs.stop * self._inputs)
            columns = slice(run.outputs.start * self._outputs, run.outputs.stop * self._outputs)
            whole = made[run.rows]
            whole[:, :, : columns.start].zero_()
            whole[:, :, columns.stop :].zero_()
            self.products.add(
                whole[:, :, columns].flatten(0, 1),
                given[run.rows, :, rows].flatten(0, 1),
                band[rows, columns],
                fresh=True,
            )
        return made.view(*source.shape[:4], part.target.width, self._outputs)

    def _shifts(self, part: Part, source: Tensor, block: Block) -> Tensor:
        """Multiply all positions with all elements, and add up the results shifted."""
        width, channels, elements = part.source.width, self._outputs, self._window.kernel
        given = source.reshape(-1, width, self._inputs)
        made = source.new_zeros((len(given), part.target.width, channels))
        # As many rows at a time as stay in the caches of a CPU.
        step = _SHIFTED[source.device.type] // (width * elements * channels) or 1
        for x, y in zip(given.split(step), made.split(step), strict=True):
            products = self.products.product(x.reshape(-1, self._inputs), self._elements)
            products = products.view(-1, width, elements, channels)
            for look in part.looks:
                y[:, look.outputs] += products[:, look.inputs, look.element]
        return made.view(*source.shape[:4], part.target.width, channels)

    def _windows(self, part: Part, source: Tensor, block: Block) -> Tensor:
        """Convolve the window with zeros around it."""
        count, residues, draws, alleles, width = source.shape[:5]
        rows = count * residues * draws * alleles
        x = F.pad(source.reshape(rows, width, self._inputs), (0, 0, *part.pads))
        # (rows, channels, 1, window) in channels-last order is the order in memory.
        y = F.conv2d(
            x[:, None].permute(0, 3, 1, 2).to(self._kernel.dtype),
            self._kernel,
            stride=(1, self._window.stride),
            dilation=(1, self._window.dilation),
            groups=self._channel_groups,
        )
        y = y.permute(0, 2, 3, 1).to(source.dtype)
        return y.reshape(*source.shape[:4], part.target.width, self._outputs)

    def _rows(self, part: Part, source: Tensor) -> tuple[Tensor, Tensor]:
        """Return room for the result, and the source, as (m, rows, window · channels)."""
        count, residues, draws, alleles, width = source.shape[:5]
        rows = residues * draws * alleles
        made = source.new_empty((count, rows, part.target.width * self._outputs))
        return made, source.reshape(count, rows, width * self._inputs)

    def _runs(self, part: Part, block: Block) -> list[Run]:
        first, count = block.first(self.layout.stride), block.count(self.layout.stride)
        return runs_of(part, first, count, self._source.size, self.layout.size)

    def _part(self, piece: Piece) -> Part:
        source, target = self._source.groups[piece.source], self.layout.groups[piece.target]
        part = find_part(self._window, piece, source, target)
        costs = self._costs(part)
        return replace(part, method=min(costs, key=lambda method: costs[method][1]))

    def _costs(self, part: Part) -> dict[str, tuple[float, float]]:
        """Return operations and cost, in operations, of each method for a mutation and draw."""
        cin, cout, kernel = self._inputs, self._outputs, self._window.kernel
        if not part.taps:
            # A stride longer than the kernel leaves some positions unseen.
            return {"taps": (0.0, 0.0)}
        width, made = part.source.width, part.target.width
        one_tap = 2.0 * cin * cout
        full = one_tap * made * kernel / self._channel_groups
        costs = {"window": (full, _WINDOW * full + _MOVED * (cin * width + cout * made))}
        if self._channel_groups == 1:
            number = sum(len(elements) for _, _, elements in part.taps)
            taps = one_tap * number
            breadth = cout * number / len(part.taps)
            moved = cout * (2 * number + made)
            costs["taps"] = (taps, taps * _thin(cin) * _thin(breadth) + _MOVED * moved)
            if self._window.stride == 1:
                moved = cout * (5 * width * kernel + made)
                costs["shifts"] = (taps, taps * _thin(cin) + _MOVED * moved)
            band = one_tap * width * made
            if width * made * cin * cout <= _LARGEST_BAND:
                costs["band"] = (band, band * _thin(cin * width) + _MOVED * cout * made)
        return costs

    def _band_key(self, part: Part) -> tuple[Any, ...]:
        return ("band", part.taps, part.source.width, part.target.width)

    def _band(self, part: Part) -> Tensor:
        band = self._weight.new_zeros(
            (part.source.width, self._inputs, part.target.width, self._outputs)
        )
        for place, first, elements in part.taps:
            for offset, element in enumerate(elements):
                band[place, :, first + offset] = self._weight[:, :, element].T
        return band.reshape(part.source.width * self._inputs, -1)


_MOVED = 8.0
"""Operations in the time that moving a number of a result takes."""

_WINDOW = 1.5
"""What an operation costs in the library's convolution of short windows, a large product's = 1."""

_SHIFTED = {"cpu": 2**18, "cuda": 2**28}
"""Numbers of the products that are shifted at a time."""

_LARGEST_BAND = 2**24
"""Numbers of a banded matrix."""


def _thin(depth: float) -> float:
    """Return what an operation costs in a product so many numbers wide or deep; 1 if many."""
    return 1 + 24 / depth


def convolution(node: Node, given: Given) -> Rule:
    """Build the rule of a convolution of one or, with a height of 1, of two dimensions."""
    a = given.arguments(node)
    only_constants(a, "input")
    layout, weight = given.layout(a["input"]), a["weight"]
    if not layout.local:
        raise NotLocalError("its input changes everywhere")
    if layout.axis() != len(layout.dims) - 1 or any(len(dim) > 1 for dim in layout.dims):
        raise NotLocalError("positions are not the last axis")
    if a.get("transposed"):
        raise NotLocalError("it is transposed")
    if weight.ndim == 4:
        if weight.shape[2] != 1 or layout.dims[1] != ():
            raise NotLocalError("it has a height")
        weight = weight[:, :, 0]
    if weight.ndim != 3 or node.shape is None:
        raise NotLocalError("it is not along the positions")
    dilation, reach = one(a["dilation"]), one(a["dilation"]) * (weight.shape[2] - 1)
    padding = a["padding"]
    if isinstance(padding, str):
        # As torch: of an odd number of zeros the larger half stands behind.
        before = reach // 2 if padding == "same" else 0
    else:
        before = one(padding)
        if len(padding) == 2 and padding[0] != 0:
            raise NotLocalError("it has a height")
    window = Sliding(weight.shape[2], one(a["stride"]), before, dilation)
    channels, size = node.shape[0], node.shape[-1]
    if size == 1:
        raise NotLocalError("one position is left")
    height = [()] * (len(node.shape) - 2)
    result = replace(layout, atoms=(channels, size), dims=((0,), *height, (1,)), position=1)
    return Convolution(node, a["input"].name, layout, window, weight, a["groups"], result)


CONVOLUTION: dict[str, Callable[[Node, Given], Rule]] = {
    "conv1d": convolution,
    "conv2d": convolution,
    "convolution": convolution,
}
"""Operations by name."""
