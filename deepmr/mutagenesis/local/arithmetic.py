"""Sums, products and scales: dropout and batch normalisation in eval mode among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deepmr.mutagenesis.capture import Node
from deepmr.mutagenesis.local.geometry import Block, Layout, NotLocalError, Share, common
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.rules import Given, Reference, Rule, only_constants
from deepmr.mutagenesis.local.windows import Delta, Windowed, at_hull


class Same(Rule):
    """The delta does not change: adding a constant."""

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Return the delta of the input."""
        return deltas[0]


class Scale(Rule):
    """The delta is multiplied by a constant.

    Parameters
    ----------
    factor : tensor, shape (1, *shape), axes may be 1
        The constant.
    """

    def __init__(self, node: Node, name: str, layout: Layout, factor: Tensor) -> None:
        super().__init__(node, [name], layout)
        self._factor = factor

    def bind(self, span: int, products: Products) -> None:
        """Lay the factor out in windows."""
        self._windows = Windowed(self._factor, self.layout, span)

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Multiply."""
        return _multiply(deltas[0], self.layout, self._windows, block, free)


class Dropout(Rule):
    """The delta is multiplied by the factors of a dropout site."""

    def __init__(self, node: Node, name: str, layout: Layout, site: int) -> None:
        super().__init__(node, [name], replace(layout, drawn=True))
        self._site = site

    def prepare(self, reference: Reference) -> Windowed | None:
        """Lay the factors out in windows; None if there is no dropout."""
        if not reference.factors:
            return None
        return Windowed(reference.factors[self._site], self.layout, self.span)

    def apply(
        self, prepared: Windowed | None, deltas: Sequence[Delta], block: Block, free: bool
    ) -> Delta:
        """Multiply."""
        if prepared is None:
            return deltas[0]
        return _multiply(deltas[0], self.layout, prepared, block, free)


def _multiply(delta: Delta, layout: Layout, factor: Windowed, block: Block, free: bool) -> Delta:
    result = []
    for group, tensor in zip(layout.groups, delta, strict=True):
        window = factor(group, block)
        if free and window.shape[2] in (1, tensor.shape[2]):
            result.append(tensor.mul_(window))
        else:
            result.append(tensor * window)
    return result


class Combination(Rule):
    """Two values that depend on the sequence, added, subtracted, multiplied or divided.

    Parameters
    ----------
    kind : str
        ``add``, ``mul`` or ``div``.
    names : pair of str
        The operands.
    layouts : pair of Layout
        Theirs.
    weights : pair of float
        What they are multiplied with before they are added.
    """

    def __init__(
        self,
        node: Node,
        kind: str,
        names: Sequence[str],
        layouts: Sequence[Layout],
        weights: Sequence[float] = (1.0, 1.0),
    ) -> None:
        first, second = layouts
        if (first.position, first.atoms, first.dims) != (
            second.position,
            second.atoms,
            second.dims,
        ):
            raise NotLocalError(f"operands of shapes {first.shape} and {second.shape}")
        drawn = first.drawn or second.drawn
        groups, self._shares = (
            common(layouts) if first.local else (first.groups, [[Share(0, (0,), 0)]] * 2)
        )
        super().__init__(node, names, replace(first, groups=groups, drawn=drawn))
        self._kind, self._weights = kind, weights
        self.needs = () if kind == "add" else tuple(names)
        self.scratch = self.layout.numbers

    def prepare(self, reference: Reference) -> tuple[Windowed, Windowed] | None:
        """Return the windows of what the two deltas are multiplied with."""
        if self._kind == "add":
            return None
        x, y = (reference.values[name] for name in self.inputs)
        if self._kind == "mul":
            return Windowed(x, self.layout, self.span), Windowed(y, self.layout, self.span)
        # Beyond the ends 1, so that nothing is divided by 0 there.
        return (
            Windowed(x / y, self.layout, self.span),
            Windowed(y, self.layout, self.span, beyond=1.0),
        )

    def apply(
        self,
        prepared: tuple[Windowed, Windowed] | None,
        deltas: Sequence[Delta],
        block: Block,
        free: bool,
    ) -> Delta:
        """Combine."""
        result = []
        for index, group in enumerate(self.layout.groups):
            first, second = (
                at_hull(delta, shares[index], group.width, self.layout.local)
                for delta, shares in zip(deltas, self._shares, strict=True)
            )
            if prepared is None:
                one, other = self._weights
                first = first if one == 1 else first * one
                result.append(torch.add(first, second, alpha=other))
                continue
            x, y = (windows(group, block) for windows in prepared)
            if self._kind == "mul":
                result.append(x * second + first * (y + second))
            else:
                result.append((first - x * second) / (y + second))
        return result


def dropout(node: Node, given: Given) -> Rule:
    """Build the rule of a dropout site."""
    x, site = node.args
    return Dropout(node, x.name, given.layout(x), site)


def batch_norm(node: Node, given: Given) -> Rule:
    """Build the rule of batch normalisation in eval mode: a scale for each channel."""
    a = given.arguments(node)
    only_constants(a, "input")
    layout = given.layout(a["input"])
    mean, variance = a["running_mean"], a["running_var"]
    if mean is None or variance is None:
        raise NotLocalError("it normalises over the batch")
    scale = torch.rsqrt(variance + a["eps"])
    if a["weight"] is not None:
        scale = scale * a["weight"]
    return Scale(
        node, a["input"].name, layout, scale.reshape(1, -1, *(1 for _ in layout.shape[1:]))
    )


def arithmetic(node: Node, given: Given) -> Rule:
    """Build the rule of a sum, difference, product or quotient."""
    a = given.arguments(node)
    x, y = a["self"], a["other"]
    if node.operation in ("add", "sub", "rsub"):
        alpha = float(a["alpha"])
        weights = {"add": (1.0, alpha), "sub": (1.0, -alpha), "rsub": (-alpha, 1.0)}
        return _sum(node, given, (x, y), weights[node.operation])
    if node.operation == "div" and a.get("rounding_mode") is not None:
        raise NotLocalError("it rounds")
    if given.varies(x) and given.varies(y):
        layouts = [given.layout(x), given.layout(y)]
        return Combination(node, node.operation, [x.name, y.name], layouts)
    if node.operation == "mul":
        varying, constant = (x, y) if given.varies(x) else (y, x)
        return _scale(node, given, varying, constant)
    if given.varies(y):
        raise NotLocalError("a constant divided by activations")
    return _scale(node, given, x, 1 / _tensor(y, given))


def negation(node: Node, given: Given) -> Rule:
    """Build the rule of a change of sign."""
    return _scale(node, given, node.args[0], -1.0)


def _sum(node: Node, given: Given, terms: Sequence[Any], weights: Sequence[float]) -> Rule:
    varying = [(term, w) for term, w in zip(terms, weights, strict=True) if given.varies(term)]
    layouts = [given.layout(term) for term, _ in varying]
    names = [term.name for term, _ in varying]
    if len(varying) == 2:
        return Combination(node, "add", names, layouts, weights)
    if varying[0][1] != 1:
        return _scale(node, given, varying[0][0], varying[0][1])
    if node.shape != layouts[0].shape:
        raise NotLocalError("a constant of more axes")
    return Same(node, names, layouts[0])


def _scale(node: Node, given: Given, varying: Any, constant: Any) -> Rule:
    layout = given.layout(varying)
    if node.shape != layout.shape:
        raise NotLocalError("a constant of more axes")
    factor = _tensor(constant, given)
    missing = len(layout.shape) + 1 - factor.ndim
    return Scale(node, varying.name, layout, factor.reshape([1] * missing + list(factor.shape)))


def _tensor(constant: Any, given: Given) -> Tensor:
    if isinstance(constant, Tensor):
        return constant.to(given.like)
    return given.like.new_tensor(constant)


ARITHMETIC: dict[str, Callable[[Node, Given], Rule]] = {
    "site": dropout,
    "batch_norm": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div"), arithmetic),
    "neg": negation,
}
"""Operations by name."""
