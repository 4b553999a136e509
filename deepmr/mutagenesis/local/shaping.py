"""Operations that move numbers without changing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from deepmr.mutagenesis.capture import Node
from deepmr.mutagenesis.local.geometry import (
    Block,
    Group,
    Layout,
    NotLocalError,
    Share,
    common,
    permute,
    reshape,
    rest_order,
)
from deepmr.mutagenesis.local.rules import Given, Rule, only_constants
from deepmr.mutagenesis.local.windows import Delta, at_hull, clear_beyond


class Reshaped(Rule):
    """The same numbers in the same order."""

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Return the delta with the new axes."""
        fixed = 5 if self.layout.local else 4
        return [tensor.reshape(*tensor.shape[:fixed], *self.layout.rest) for tensor in deltas[0]]


class Permuted(Rule):
    """The same numbers with other axes first."""

    def __init__(self, node: Node, name: str, layout: Layout, order: Sequence[int]) -> None:
        super().__init__(node, [name], permute(layout, order))
        self._order = rest_order(layout, order)

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Permute the axes that are not the position."""
        fixed = 5 if self.layout.local else 4
        axes = [*range(fixed), *(fixed + axis for axis in self._order)]
        return [tensor.permute(axes) for tensor in deltas[0]]


class Shifted(Rule):
    """Positions cut off or added at the ends."""

    def __init__(self, node: Node, name: str, layout: Layout, size: int, shift: int) -> None:
        atoms = list(layout.atoms)
        assert layout.position is not None
        atoms[layout.position] = size
        groups = tuple(Group(g.residues, g.start + shift, g.width) for g in layout.groups)
        super().__init__(node, [name], replace(layout, atoms=tuple(atoms), groups=groups))

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Clear what is cut off."""
        kept = deltas[0] if free else [tensor.clone() for tensor in deltas[0]]
        clear_beyond(kept, self.layout, block)
        return kept


class Narrowed(Rule):
    """A part of an axis that is not the position."""

    def __init__(self, node: Node, name: str, layout: Layout, axis: int, part: slice) -> None:
        if layout.local and (
            len(layout.dims[axis]) != 1 or layout.dims[axis][0] == layout.position
        ):
            raise NotLocalError("a part of merged axes")
        atom = layout.dims[axis][0] if layout.local else axis
        atoms = list(layout.atoms)
        atoms[atom] = len(range(atoms[atom])[part])
        super().__init__(node, [name], replace(layout, atoms=tuple(atoms)))
        before = layout.local and layout.position is not None and atom > layout.position
        self._axis = (5 if layout.local else 4) + atom - int(before)
        self._part = part

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Take the part."""
        index = (slice(None),) * self._axis + (self._part,)
        return [tensor[index] for tensor in deltas[0]]


class Concatenation(Rule):
    """Values side by side along an axis that is not the position.

    Parameters
    ----------
    names : sequence of str
        The values.
    layouts : sequence of Layout
        Theirs.
    axis : int
        Of the value, batch not counted.
    """

    def __init__(
        self, node: Node, names: Sequence[str], layouts: Sequence[Layout], axis: int
    ) -> None:
        first = layouts[0]
        if len({(layout.local, layout.dims, layout.position) for layout in layouts}) > 1:
            raise NotLocalError("values of different forms side by side")
        axis %= len(first.dims)
        if first.local:
            if len(first.dims[axis]) != 1 or first.dims[axis][0] == first.position:
                raise NotLocalError("values side by side along their positions")
            groups, self._shares = common(layouts)
            (atom,) = first.dims[axis]
        else:
            groups, self._shares = first.groups, [[Share(0, (0,), 0)] for _ in layouts]
            atom = axis
        atoms = list(first.atoms)
        atoms[atom] = sum(layout.atoms[atom] for layout in layouts)
        drawn = any(layout.drawn for layout in layouts)
        super().__init__(
            node, names, replace(first, atoms=tuple(atoms), groups=groups, drawn=drawn)
        )
        # Axes (m, residue, draw, allele), the window, and the atoms before it.
        self._axis = (
            5 + atom - (first.position is not None and atom > first.position)
            if first.local
            else 4 + axis
        )
        self.scratch = self.layout.numbers

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Put side by side."""
        result = []
        for index, group in enumerate(self.layout.groups):
            parts = [
                at_hull(delta, shares[index], group.width, self.layout.local)
                for delta, shares in zip(deltas, self._shares, strict=True)
            ]
            draws = max(part.shape[2] for part in parts)
            parts = [part.expand(-1, -1, draws, *(-1 for _ in part.shape[3:])) for part in parts]
            result.append(torch.cat(parts, self._axis))
        return result


def view(node: Node, given: Given) -> Rule:
    """Build the rule of a view, flattening or an axis of size 1 more or less."""
    x = node.args[0]
    layout = given.layout(x)
    if node.shape is None:
        raise NotLocalError("its result is not a value for each sequence")
    return Reshaped(node, [x.name], reshape(layout, node.shape))


def permutation(node: Node, given: Given) -> Rule:
    """Build the rule of a permutation or transposition of axes."""
    a = given.arguments(node)
    layout = given.layout(a["self"])
    count = len(layout.dims) + 1
    if node.operation == "permute":
        order = [axis % count for axis in a["dims"]]
    else:
        order = list(range(count))
        one, other = (
            (a["dim0"] % count, a["dim1"] % count) if "dim0" in a else (count - 1, count - 2)
        )
        order[one], order[other] = order[other], order[one]
    if order[0] != 0 or node.shape is None:
        raise NotLocalError("it moves the axis of the sequences")
    return Permuted(node, a["self"].name, layout, [axis - 1 for axis in order[1:]])


def slicing(node: Node, given: Given) -> Rule:
    """Build the rule of a slice."""
    a = given.arguments(node)
    only_constants(a, "self")
    layout = given.layout(a["self"])
    axis = a["dim"] % (len(layout.dims) + 1) - 1
    if node.shape is None:
        raise NotLocalError("it takes some of the sequences")
    if axis < 0:
        # All of them, as in x[:, :, 5:-5].
        return Reshaped(node, [a["self"].name], layout)
    size = layout.shape[axis]
    start, stop, step = slice(a["start"], a["end"], a["step"]).indices(size)
    if layout.local and layout.dims[axis] == (layout.position,):
        if step != 1:
            raise NotLocalError("it takes every so many positions")
        return Shifted(node, a["self"].name, layout, stop - start, -start)
    return Narrowed(node, a["self"].name, layout, axis, slice(start, stop, step))


def padding(node: Node, given: Given) -> Rule:
    """Build the rule of padding the positions with a constant."""
    a = given.arguments(node)
    layout = given.layout(a["self"])
    if a.get("mode", "constant") != "constant":
        raise NotLocalError("it pads with other positions")
    if not layout.local or any(a["pad"][2:]) or layout.axis() != len(layout.dims) - 1:
        raise NotLocalError("it pads other axes than the positions")
    if node.shape is None:
        raise NotLocalError("its result is not a value for each sequence")
    return Shifted(node, a["self"].name, layout, node.shape[-1], a["pad"][0])


def concatenation(node: Node, given: Given) -> Rule:
    """Build the rule of ``cat``."""
    a = given.arguments(node)
    if a["dim"] == 0:
        raise NotLocalError("sequences side by side")
    layouts = [given.layout(value) for value in a["tensors"]]
    axis = a["dim"] - 1 if a["dim"] > 0 else a["dim"]
    return Concatenation(node, [value.name for value in a["tensors"]], layouts, axis)


SHAPING: dict[str, Callable[[Node, Given], Rule]] = {
    **dict.fromkeys(
        ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"), view
    ),
    **dict.fromkeys(("permute", "transpose", "t", "mT"), permutation),
    "slice": slicing,
    "cat": concatenation,
    "constant_pad_nd": padding,
    "pad": padding,
}
"""Operations by name."""
