"""Pooling along the positions: in windows, and over the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from deepmr.mutagenesis.capture import Node
from deepmr.mutagenesis.local.fused import compiled, keep_larger
from deepmr.mutagenesis.local.geometry import (
    Block,
    Layout,
    NotLocalError,
    Sliding,
    everywhere,
    looks,
    slide,
)
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.rules import Given, Reference, Rule, one, only_constants
from deepmr.mutagenesis.local.windows import (
    Delta,
    Windowed,
    by_position,
    clear_beyond,
    positions_first,
)


class _Pool(Rule):
    """Pooling in windows that slide along the positions."""

    def __init__(
        self, node: Node, name: str, layout: Layout, window: Sliding, shape: Sequence[int]
    ) -> None:
        axis = layout.axis()
        atoms = list(layout.atoms)
        assert layout.position is not None
        atoms[layout.position] = shape[axis]
        stride, groups, self._pieces = slide(layout, window)
        super().__init__(
            node,
            [name],
            replace(layout, atoms=tuple(atoms), stride=stride, groups=groups),
        )
        self._window, self._source = window, layout
        self._looks = [
            looks(window, piece, layout.groups[piece.source].width, groups[piece.target])
            for piece in self._pieces
        ]


class MaximumPool(_Pool):
    """Maximum in a window without cancellation.

    max(r + d) - max(r) = max(d - (max(r) - r)), where nothing but differences is computed.
    """

    def __init__(
        self, node: Node, name: str, layout: Layout, window: Sliding, shape: Sequence[int]
    ) -> None:
        super().__init__(node, name, layout, window, shape)
        self.needs = (name,)
        self.scratch = self.layout.numbers

    def prepare(self, reference: Reference) -> list[Windowed]:
        """Return, for each element of the window, the windows of r - max(r)."""
        value = positions_first(reference.values[self.inputs[0]], self._source)
        window, outputs = self._window, self.layout.size
        last = (outputs - 1) * window.stride + window.reach - window.padding
        after = max(0, last + 1 - value.shape[1])
        pads = [0, 0] * (value.ndim - 2) + [window.padding, after]
        value = F.pad(value, pads, value=-torch.inf)
        seen = [
            value[:, start : start + (outputs - 1) * window.stride + 1 : window.stride]
            for start in range(0, window.reach + 1, window.dilation)
        ]
        largest = seen[0]
        for other in seen[1:]:
            largest = torch.maximum(largest, other)
        flat = self.layout.apart
        assert flat.position is not None
        return [
            Windowed((s - largest).movedim(1, flat.position + 1), flat, self.span) for s in seen
        ]

    def apply(
        self, prepared: list[Windowed], deltas: Sequence[Delta], block: Block, free: bool
    ) -> Delta:
        """Pool."""
        (delta,) = deltas
        first = prepared[0](self.layout.groups[0], block)
        draws = max(first.shape[2], delta[0].shape[2])
        count, others = block.count(self.layout.stride), (delta[0].shape[3], delta[0].shape[5:])
        result = [
            first.new_empty((count, len(g.residues), draws, others[0], g.width, *others[1]))
            for g in self.layout.groups
        ]
        seen = [[windows(g, block) for windows in prepared] for g in self.layout.groups]
        for piece, elements in zip(self._pieces, self._looks, strict=True):
            source = delta[piece.source][piece.phase :: piece.step]
            last = piece.first_residue + source.shape[1]
            target = result[piece.target][:, piece.first_residue : last]
            width = target.shape[4]
            for look in elements:
                below = seen[piece.target][look.element]
                inner = target[:, :, :, :, look.outputs]
                candidate = source[:, :, :, :, look.inputs]
                if look.element == 0:
                    torch.add(candidate, below[:, :, :, :, look.outputs], out=inner)
                else:
                    shift = below[:, :, :, :, look.outputs]
                    if inner.is_cuda:
                        inner.copy_(compiled(keep_larger)(inner, candidate, shift))
                    else:
                        torch.maximum(inner, candidate + shift, out=inner)
                for unchanged in (slice(0, look.outputs.start), slice(look.outputs.stop, width)):
                    outer = target[:, :, :, :, unchanged]
                    if look.element == 0:
                        outer.copy_(below[:, :, :, :, unchanged])
                    elif outer.shape[4]:
                        torch.maximum(outer, below[:, :, :, :, unchanged], out=outer)
        clear_beyond(result, self.layout, block)
        return result


class AveragePool(_Pool):
    """Mean in a window.

    Parameters
    ----------
    weights : tensor, shape (size,)
        One over what each output divides its sum by.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        layout: Layout,
        window: Sliding,
        shape: Sequence[int],
        weights: Tensor,
    ) -> None:
        super().__init__(node, name, layout, window, shape)
        assert self.layout.position is not None
        weights = weights.reshape(
            [1] + [-1 if a == self.layout.position else 1 for a in range(len(self.layout.atoms))]
        )
        self._weights = weights

    def bind(self, span: int, products: Products) -> None:
        """Lay the weights out in windows."""
        flat = self.layout.apart
        self._windows = Windowed(self._weights, flat, span)

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Pool."""
        (delta,) = deltas
        count = block.count(self.layout.stride)
        draws, alleles, _, *rest = delta[0].shape[2:]
        result = [
            delta[0].new_zeros((count, len(g.residues), draws, alleles, g.width, *rest))
            for g in self.layout.groups
        ]
        for piece, elements in zip(self._pieces, self._looks, strict=True):
            source = delta[piece.source][piece.phase :: piece.step]
            last = piece.first_residue + source.shape[1]
            target = result[piece.target][:, piece.first_residue : last]
            for look in elements:
                target[:, :, :, :, look.outputs] += source[:, :, :, :, look.inputs]
        for group, tensor in zip(self.layout.groups, result, strict=True):
            tensor.mul_(self._windows(group, block))
        clear_beyond(result, self.layout, block)
        return result


class GlobalSum(Rule):
    """Sum or mean over all positions."""

    def __init__(self, node: Node, name: str, layout: Layout, weight: float) -> None:
        super().__init__(node, [name], everywhere(node.shape or (), layout.drawn))
        self._source, self._weight = layout, weight

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Sum what changed."""
        sums = [tensor.sum(4).mul_(self._weight) for tensor in deltas[0]]
        return _vector(sums, self._source, block, self.layout.shape)


class GlobalMaximum(Rule):
    """Maximum over all positions: of the window, and of what lies left and right of it."""

    def __init__(self, node: Node, name: str, layout: Layout) -> None:
        super().__init__(node, [name], everywhere(node.shape or (), layout.drawn))
        self._source = layout
        self.needs = (name,)

    def prepare(self, reference: Reference) -> tuple[Windowed, Tensor, Tensor]:
        """Return r - max(r) in windows, and its maxima left of and right of each position."""
        raw = reference.values[self.inputs[0]]
        value = positions_first(raw, self._source)
        value = value - value.amax(1, keepdim=True)
        nothing = torch.full_like(value[:, :1], -torch.inf)
        left = torch.cat([nothing, value.cummax(1).values], 1)
        right = torch.cat([value.flip(1).cummax(1).values.flip(1), nothing], 1)
        flat = self._source.apart
        assert flat.position is not None
        windows = Windowed(value.movedim(1, flat.position + 1), flat, self.span, beyond=-torch.inf)
        return windows, left, right

    def apply(
        self,
        prepared: tuple[Windowed, Tensor, Tensor],
        deltas: Sequence[Delta],
        block: Block,
        free: bool,
    ) -> Delta:
        """Compare the window with the rest."""
        windows, left, right = prepared
        source = self._source
        begin = torch.arange(block.count(source.stride), device=left.device)
        begin = begin + block.first(source.stride)
        largest = []
        for group, delta in zip(source.groups, deltas[0], strict=True):
            inner = delta + windows(group, block)
            if not group.width:
                # Nothing changes, but a maximum must be of something.
                inner = F.pad(inner, [0, 0] * (inner.ndim - 5) + [0, 1], value=-torch.inf)
            inner = inner.amax(4)
            for side, edge in ((left, group.start), (right, group.stop)):
                outer = side[:, (begin + edge).clamp(0, source.size)]
                inner = torch.maximum(inner, outer.transpose(0, 1)[:, None, :, None])
            largest.append(inner)
        return _vector(largest, source, block, self.layout.shape)


def _vector(delta: Delta, source: Layout, block: Block, shape: Sequence[int]) -> Delta:
    """Return one tensor (position, 1, draw, allele, *shape) from (m, residue, draw, allele, …)."""
    whole = by_position(delta, source, block)
    return [whole.reshape(block.size, 1, *whole.shape[1:3], *shape)]


def pool(node: Node, given: Given) -> Rule:
    """Build the rule of a max- or average-pooling."""
    a = given.arguments(node)
    name = "input" if "input" in a else "self"
    only_constants(a, name)
    layout = given.layout(a[name])
    if not layout.local:
        raise NotLocalError("it pools a value that changes everywhere")
    axis, shape = _last_axis(layout), node.shape
    if shape is None:
        raise NotLocalError("its result is not a value for each sequence")
    _no_height(layout, shape, a)
    maximum = "max" in node.operation
    whole = layout.size if node.operation.lstrip("_").startswith("adaptive") else 0
    if shape[axis] == 1 and (
        whole or (one(a["kernel_size"]) == layout.size and one(a["padding"]) == 0)
    ):
        if maximum:
            return GlobalMaximum(node, a[name].name, layout)
        weight = 1 / (a.get("divisor_override") or layout.size)
        return GlobalSum(node, a[name].name, layout, weight)
    if whole:
        if layout.size % shape[axis]:
            raise NotLocalError("adaptive pooling into windows of different widths")
        step = layout.size // shape[axis]
        window, include = Sliding(step, step, 0), True
    else:
        kernel = one(a["kernel_size"])
        window = Sliding(
            kernel,
            one(a["stride"]) if a["stride"] else kernel,
            one(a["padding"]),
            one(a.get("dilation", 1)),
        )
        include = a.get("count_include_pad", True)
    if maximum:
        return MaximumPool(node, a[name].name, layout, window, shape)
    divisors = (
        [a["divisor_override"]] * shape[axis]
        if a.get("divisor_override")
        else _divisors(window, layout.size, shape[axis], include)
    )
    weights = 1 / given.like.new_tensor(divisors)
    return AveragePool(node, a[name].name, layout, window, shape, weights)


def _divisors(window: Sliding, size: int, outputs: int, include: bool) -> list[int]:
    """Return what each mean divides by; with ceil_mode the last window may end in the padding."""
    found = []
    for output in range(outputs):
        start = output * window.stride - window.padding
        if include:
            found.append(min(start + window.kernel, size + window.padding) - start)
        else:
            found.append(min(start + window.kernel, size) - max(start, 0))
    return found


def _last_axis(layout: Layout) -> int:
    """Return the axis of the position, which must be the last."""
    axis = layout.axis()
    if axis != len(layout.dims) - 1:
        raise NotLocalError("positions are not the last axis")
    return axis


def _no_height(layout: Layout, shape: Sequence[int], arguments: Mapping[str, Any]) -> None:
    """Refuse windows that are higher than 1."""
    if len(layout.dims) != 3:
        return
    for key, flat in (("kernel_size", 1), ("padding", 0)):
        value = arguments.get(key, flat)
        if (value[0] if isinstance(value, list | tuple) else value) != flat:
            raise NotLocalError("it has a height")
    # Adaptive pooling asks for the height of its result.
    if tuple(shape[:-1]) != layout.shape[:-1]:
        raise NotLocalError("it has a height")


def over_positions(node: Node, given: Given) -> Rule:
    """Build the rule of a sum, mean or maximum over all positions."""
    a = given.arguments(node)
    only_constants(a, "self")
    layout = given.layout(a["self"])
    asked_for = a.get("dim")
    count = len(layout.dims) + 1
    axes = asked_for if isinstance(asked_for, list | tuple) else [asked_for]
    asked = {axis % count - 1 for axis in axes if axis is not None}
    if not layout.local or asked != {layout.axis()}:
        raise NotLocalError("it reduces other axes than the positions")
    name = a["self"].name
    if node.operation in ("amax", "max"):
        return GlobalMaximum(node, name, layout)
    return GlobalSum(node, name, layout, 1 / layout.size if node.operation == "mean" else 1.0)


POOLING: dict[str, Callable[[Node, Given], Rule]] = {
    **dict.fromkeys(
        (
            "max_pool1d",
            "max_pool2d",
            "max_pool1d_with_indices",
            "max_pool2d_with_indices",
            "avg_pool1d",
            "avg_pool2d",
            "adaptive_avg_pool1d",
            "adaptive_avg_pool2d",
            "_adaptive_avg_pool2d",
            "adaptive_max_pool1d",
            "adaptive_max_pool2d",
        ),
        pool,
    ),
    **dict.fromkeys(("mean", "sum", "amax", "max"), over_positions),
}
"""Operations by name."""
