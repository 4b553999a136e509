"""Functions that act on each position by itself: activations, norms of channels, softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepmr.mutagenesis.capture import Node
from deepmr.mutagenesis.local.fused import compiled, rectify
from deepmr.mutagenesis.local.geometry import Block, Layout, NotLocalError
from deepmr.mutagenesis.local.rules import Given, Reference, Rule, only_constants
from deepmr.mutagenesis.local.windows import Delta, Windowed, clear_beyond


class Rectifier(Rule):
    """ReLU without cancellation.

    relu(r + d) - relu(r) = max(d + min(r, 0), -max(r, 0)), which subtracts nothing of the size of
    r from anything of the size of r where the unit is on before and after.
    """

    def __init__(self, node: Node, name: str, layout: Layout) -> None:
        super().__init__(node, [name], layout)
        self.needs = (name,)

    def prepare(self, reference: Reference) -> tuple[Windowed, Windowed]:
        """Return the windows of min(r, 0) and of -max(r, 0)."""
        value = reference.values[self.inputs[0]]
        return (
            Windowed(value.clamp(max=0), self.layout, self.span),
            Windowed(-value.clamp(min=0), self.layout, self.span),
        )

    def apply(
        self,
        prepared: tuple[Windowed, Windowed],
        deltas: Sequence[Delta],
        block: Block,
        free: bool,
    ) -> Delta:
        """Rectify."""
        below, above = prepared
        result = []
        for group, delta in zip(self.layout.groups, deltas[0], strict=True):
            least, shift = above(group, block), below(group, block)
            if delta.is_cuda:
                result.append(compiled(rectify)(delta, shift, least))
                continue
            overwrite = free and delta.shape[2] >= shift.shape[2]
            shifted = delta.add_(shift) if overwrite else delta + shift
            result.append(torch.maximum(shifted, least, out=shifted))
        return result


class PositionWise(Rule):
    """A function f that acts on each position by itself: f(r + d) - f(r).

    Parameters
    ----------
    function : callable
        Acts on (…, *rest), the axes of one position.
    """

    def __init__(
        self, node: Node, name: str, layout: Layout, function: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(node, [name], layout)
        self._function = function
        self.needs = (name,)
        self.scratch = layout.numbers

    def prepare(self, reference: Reference) -> tuple[Windowed, Windowed]:
        """Return the windows of r and f(r)."""
        value = Windowed(reference.values[self.inputs[0]], self.layout, self.span)
        return value, value.map(self._function)

    def apply(
        self,
        prepared: tuple[Windowed, Windowed],
        deltas: Sequence[Delta],
        block: Block,
        free: bool,
    ) -> Delta:
        """Evaluate and subtract."""
        before, after = prepared
        result = []
        for group, delta in zip(self.layout.groups, deltas[0], strict=True):
            mutated = self._function(delta + before(group, block))
            result.append(mutated.sub_(after(group, block)))
        if self.layout.local:
            # What has no logarithm or no inverse may stand there.
            clear_beyond(result, self.layout, block)
        return result


ACTIVATIONS = (
    "gelu",
    "sigmoid",
    "tanh",
    "silu",
    "elu",
    "leaky_relu",
    "softplus",
    "exp",
    "log",
    "log1p",
    "expm1",
    "hardtanh",
    "hardsigmoid",
    "hardswish",
    "mish",
    "selu",
    "celu",
    "abs",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "clamp",
    "clamp_min",
    "clamp_max",
    "pow",
    "sin",
    "cos",
    "erf",
    "softsign",
    "threshold",
    "logsigmoid",
    "log_sigmoid",
    "relu6",
    "sign",
)


def activation(node: Node, given: Given) -> Rule:
    """Build the rule of an elementwise function of one value."""
    arguments = given.arguments(node)
    varying = [name for name, value in arguments.items() if given.varies(value)]
    if len(varying) != 1:
        raise NotLocalError("more than one argument depends on the sequence")
    (key,) = varying
    layout = given.layout(arguments[key])
    if node.shape != layout.shape or any(
        isinstance(value, Tensor) and value.numel() > 1 for value in arguments.values()
    ):
        raise NotLocalError("a constant argument differs between positions")
    name = arguments[key].name
    if node.operation == "relu":
        return Rectifier(node, name, layout)
    return PositionWise(node, name, layout, lambda x: node.target(**{**arguments, key: x}))


def norm_of_channels(node: Node, given: Given) -> Rule:
    """Build the rule of layer normalisation over axes other than the position."""
    a = given.arguments(node)
    only_constants(a, "input")
    layout = given.layout(a["input"])
    normalised = list(a["normalized_shape"])
    if layout.local and layout.axis() >= len(layout.dims) - len(normalised):
        raise NotLocalError("it normalises over positions")
    if layout.local and list(layout.rest[len(layout.rest) - len(normalised) :]) != normalised:
        raise NotLocalError("it normalises over merged axes")
    name = a["input"].name
    return PositionWise(node, name, layout, lambda x: node.target(**{**a, "input": x}))


def softmax(node: Node, given: Given) -> Rule:
    """Build the rule of softmax over an axis other than the position."""
    a = given.arguments(node)
    layout = given.layout(a["self"])
    axis = (a["dim"] if a["dim"] < 0 else a["dim"] - 1) % len(layout.dims)
    name = a["self"].name
    if not layout.local:
        from_end = axis - len(layout.dims)
        return PositionWise(node, name, layout, lambda x: x.softmax(from_end))
    if len(layout.dims[axis]) != 1 or layout.dims[axis][0] == layout.position:
        raise NotLocalError("it compares positions")
    (atom,) = layout.dims[axis]
    rest = [other for other in range(len(layout.atoms)) if other != layout.position]
    from_end = rest.index(atom) - len(rest)
    return PositionWise(node, name, layout, lambda x: x.softmax(from_end))


FUNCTIONS: dict[str, Callable[[Node, Given], Rule]] = {
    "relu": activation,
    **dict.fromkeys(ACTIVATIONS, activation),
    "layer_norm": norm_of_channels,
    "rms_norm": norm_of_channels,
    "softmax": softmax,
    "_softmax": softmax,
}
"""Operations by name."""
