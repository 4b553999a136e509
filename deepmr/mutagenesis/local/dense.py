"""Linear layers, and everything that runs at full length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from deepmr.mutagenesis import capture
from deepmr.mutagenesis.capture import Node, Ref
from deepmr.mutagenesis.local.geometry import Block, Layout, NotLocalError, everywhere
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.rules import Given, Reference, Rule, only_constants
from deepmr.mutagenesis.local.windows import (
    ALLELES,
    Delta,
    at_full_length,
    by_position,
    inside,
    positions_first,
)


class FlatLinear(Rule):
    """A linear layer on a flattened value: only the changed columns are multiplied.

    Parameters
    ----------
    weight : tensor, shape (outputs, channels · positions)
        Its columns are in the order of the flattened value.
    """

    def __init__(self, node: Node, name: str, layout: Layout, weight: Tensor) -> None:
        super().__init__(node, [name], everywhere(node.shape or (), layout.drawn))
        self._source, self._weight = layout, weight
        self.flops = 2 * layout.numbers * weight.shape[0]

    def bind(self, span: int, products: Products) -> None:
        """Order the columns by position, as deltas are."""
        super().bind(span, products)
        columns = positions_first(
            self._weight, replace(self._source, dims=(tuple(range(len(self._source.atoms))),))
        )
        # (outputs, positions, rest) to (positions · rest, outputs)
        self._columns = products.weight(columns.flatten(1).T.contiguous())

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Multiply, for each window with the rows of its positions."""
        source, depth = self._source, prod(self._source.rest)
        first = block.first(source.stride)
        outputs = self._columns.shape[1]
        result = []
        for group, delta in zip(source.groups, deltas[0], strict=True):
            count, residues, draws, alleles = delta.shape[:4]
            rows = delta.reshape(count, residues * draws * alleles, group.width * depth)
            made = rows.new_empty((count, rows.shape[1], outputs))
            whole = [
                m for m in range(count) if inside(group, source, first + m) == (0, group.width)
            ]
            if whole:
                low, high = whole[0], whole[-1] + 1
                at = (group.start + first + low) * depth
                # Windows overlap: each m's rows begin one position after the last's.
                weights = self._columns[at:].as_strided(
                    (high - low, group.width * depth, outputs), (depth * outputs, outputs, 1)
                )
                self.products.each(made[low:high], rows[low:high], weights)
            for m in range(count):
                begin, end = inside(group, source, first + m)
                if (begin, end) == (0, group.width):
                    continue
                at = group.start + first + m
                self.products.add(
                    made[m],
                    rows[m, :, begin * depth : end * depth],
                    self._columns[(at + begin) * depth : (at + end) * depth],
                    fresh=True,
                )
            result.append(made.view(count, residues, draws, alleles, outputs))
        whole_block = by_position(result, source, block)
        return [whole_block.reshape(block.size, 1, *whole_block.shape[1:3], *self.layout.shape)]


class ChannelLinear(Rule):
    """A linear layer on the channels of each position, or on a value that changes everywhere."""

    def __init__(self, node: Node, name: str, layout: Layout, weight: Tensor) -> None:
        if layout.local:
            if layout.dims[-1] != (len(layout.atoms) - 1,) or layout.position == (
                len(layout.atoms) - 1
            ):
                raise NotLocalError("it mixes positions")
            atoms = (*layout.atoms[:-1], weight.shape[0])
            result = replace(layout, atoms=atoms)
        else:
            result = everywhere(node.shape or (), layout.drawn)
        super().__init__(node, [name], result)
        self._weight = weight
        self.flops = 2 * layout.numbers * weight.shape[0]

    def bind(self, span: int, products: Products) -> None:
        """Transpose the weights."""
        super().bind(span, products)
        self._transposed = products.weight(self._weight.T.contiguous())

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Multiply."""
        return [
            self.products.product(tensor.reshape(-1, tensor.shape[-1]), self._transposed).view(
                *tensor.shape[:-1], self._transposed.shape[1]
            )
            for tensor in deltas[0]
        ]


class AtFullLength(Rule):
    """A value with its zeros, so that what follows may change it everywhere."""

    def __init__(self, name: str, layout: Layout) -> None:
        node = Node(f"{name}.everywhere", _identity, (Ref(name),), {}, layout.shape)
        super().__init__(node, [name], everywhere(layout.shape, layout.drawn))
        self._source = layout

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Put the windows into zeros."""
        return [at_full_length(deltas[0], self._source, block, self.span)]


def _identity(x: Tensor) -> Tensor:
    return x


class LinearMap(Rule):
    """An operation that is linear in its input, on a value that changes everywhere.

    Parameters
    ----------
    function : callable
        Maps (rows, *shape) to (rows, *shape of the result), without its bias.
    flops : float
        Of one row.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        layout: Layout,
        function: Callable[[Tensor], Tensor],
        flops: float,
    ) -> None:
        super().__init__(node, [name], everywhere(node.shape or (), layout.drawn), flops)
        self._function = function

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Map."""
        (tensor,) = deltas[0]
        made = self._function(tensor.flatten(0, 3))
        return [made.reshape(*tensor.shape[:4], *self.layout.shape)]


class Anything(Rule):
    """Any operation: it gets the mutated values, and the reference is subtracted from its result.

    Where a result is no tensor with a row for each sequence, it is handed on as it is.

    Parameters
    ----------
    names : sequence of str
        The inputs that depend on the sequence, numbers that depend on the number of rows left out.
    layouts : sequence of Layout or None
        Theirs; None for what is handed on.
    rows : callable
        Returns, for a number of rows, what depends on nothing but that, by name.
    drawn : bool
        Whether it differs between draws.
    """

    def __init__(
        self,
        node: Node,
        names: Sequence[str],
        layouts: Sequence[Layout | None],
        constants: Mapping[str, Any],
        rows: Callable[[int], Mapping[str, Any]],
        drawn: bool,
        flops: float,
    ) -> None:
        super().__init__(node, names, everywhere(node.shape or (), drawn), flops)
        self._constants, self._rows = constants, rows
        self._plain = [n for n, layout in zip(names, layouts, strict=True) if layout is not None]
        self.handed_on = node.shape is None
        self.needs = (*self._plain, *(() if self.handed_on else (node.name,)))
        known = [layout.numbers for layout in layouts if layout is not None]
        self.scratch = 2 * sum(known) + self.layout.numbers

    def prepare(self, reference: Reference) -> tuple[int, Mapping[str, Tensor]]:
        """Return the number of draws, and the reference's inputs and result."""
        draws = reference.draws if self.layout.drawn else 1
        return draws, {name: reference.values[name] for name in self.needs}

    def apply(
        self,
        prepared: tuple[int, Mapping[str, Tensor]],
        deltas: Sequence[Delta],
        block: Block,
        free: bool,
    ) -> Delta:
        """Run the operation on mutants."""
        draws, reference = prepared
        rows = block.size * draws * ALLELES
        values: dict[str, Any] = {**self._constants, **self._rows(rows)}
        for name, (delta,) in zip(self.inputs, deltas, strict=True):
            if name not in self._plain:
                values[name] = delta
                continue
            mutated = delta + reference[name][None, None, :, None]
            mutated = mutated.expand(-1, -1, draws, *(-1 for _ in mutated.shape[3:]))
            # Deltas of truth values and indices are numbers too.
            values[name] = mutated.flatten(0, 3).to(reference[name].dtype)
        made = capture.run(self.node, values)
        if self.handed_on:
            return [made]
        shape = (block.size, 1, draws, ALLELES, *self.layout.shape)
        before = reference[self.node.name]
        if not made.is_floating_point():
            made, before = made.float(), before.float()
        return [made.reshape(shape) - before[None, None, :, None]]


def linear(node: Node, given: Given) -> Rule:
    """Build the rule of a linear layer."""
    a = given.arguments(node)
    if node.operation == "linear":
        x, weight = a["input"], a["weight"]
    elif node.operation == "addmm":
        x, weight = a["mat1"], a["mat2"]
        only_constants(a, "mat1")
        weight = weight.T
    else:
        x, weight = a["self"], a["mat2"] if "mat2" in a else a["other"]
        if isinstance(weight, Ref) or weight.ndim != 2:
            raise NotLocalError("it multiplies two values that depend on the sequence")
        weight = weight.T
    if not isinstance(x, Ref) or isinstance(weight, Ref):
        raise NotLocalError("its weights depend on the sequence")
    layout = given.layout(x)
    if layout.local and len(layout.dims) == 1:
        return FlatLinear(node, x.name, layout, weight)
    return ChannelLinear(node, x.name, layout, weight)


def linear_map(node: Node, given: Given) -> Rule:
    """Build the rule of another operation that is linear, on a value that changes everywhere."""
    a = given.arguments(node)
    key = "input" if "input" in a else "self"
    only_constants(a, key)
    layout = given.layout(a[key])
    if layout.local or node.shape is None:
        raise NotLocalError("it has no rule for windows")
    if node.operation.startswith("max") or node.operation == "amax":
        raise NotLocalError("it is not linear")
    without = {"bias": None} if "bias" in a else {}
    return LinearMap(
        node,
        a[key].name,
        layout,
        lambda x: node.target(**{**a, **without, key: x}),
        forward_flops(node, given),
    )


def forward_flops(node: Node, given: Given) -> float:
    """Return the operations of a node for one sequence; 0 for all but products."""
    a = (
        given.arguments(node)
        if hasattr(node.target, "_schema") or hasattr(node.target, "operation")
        else {}
    )
    shape = node.shape
    weight: Any = a.get("weight", a.get("mat2", a.get("other")))
    if node.operation in ("conv1d", "conv2d", "convolution") and shape:
        return 2.0 * prod(shape) * prod(weight.shape[1:])
    if node.operation in ("linear", "matmul", "mm", "addmm") and isinstance(weight, Tensor):
        inner = weight.shape[-1] if node.operation == "linear" else weight.shape[0]
        return 2.0 * prod(shape or (0,)) * inner
    if node.operation in ("lstm", "gru") and shape:
        return 2.0 * shape[0] * sum(w.numel() for w in a["params"] if w.ndim == 2)
    if node.operation == "scaled_dot_product_attention" and shape:
        # Queries against keys, and weights against values, of as many positions.
        return 4.0 * prod(shape) * shape[-2]
    return 0.0


LINEAR: dict[str, Callable[[Node, Given], Rule]] = dict.fromkeys(
    ("linear", "addmm", "matmul", "mm"), linear
)
"""Operations by name."""

LINEAR_MAPS = (
    "conv1d",
    "conv2d",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "mean",
    "sum",
    "select",
    "slice",
    "flip",
)
"""Operations that are linear in their first argument, by name."""
