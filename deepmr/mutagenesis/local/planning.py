"""Which rule each operation of a network gets, and what that costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

import torch

from deepmr.mutagenesis import capture
from deepmr.mutagenesis.capture import CaptureError, Graph, Node
from deepmr.mutagenesis.local.activations import FUNCTIONS
from deepmr.mutagenesis.local.arithmetic import ARITHMETIC
from deepmr.mutagenesis.local.convolution import CONVOLUTION, Convolution
from deepmr.mutagenesis.local.dense import (
    LINEAR,
    LINEAR_MAPS,
    Anything,
    AtFullLength,
    forward_flops,
    linear_map,
)
from deepmr.mutagenesis.local.geometry import Layout, NotLocalError, input_layout
from deepmr.mutagenesis.local.pooling import POOLING
from deepmr.mutagenesis.local.recurrent import RECURRENT
from deepmr.mutagenesis.local.rules import Given, Rule
from deepmr.mutagenesis.local.shaping import SHAPING

RULES: dict[str, Callable[[Node, Given], Rule]] = {
    **FUNCTIONS,
    **ARITHMETIC,
    **POOLING,
    **CONVOLUTION,
    **LINEAR,
    **RECURRENT,
    **SHAPING,
}
"""Builders of rules by the name of the operation; a new operation is a line in one of these."""


@dataclass(frozen=True)
class Fallback:
    """An operation that runs at full length, and why."""

    operation: str
    reason: str


@dataclass
class Plan:
    """The rules of a network, in order, and what is known of their cost.

    Attributes
    ----------
    graph : Graph
        The operations, for the reference.
    rules : list of Rule
        What happens to deltas.
    output : str
        Name of the outputs.
    count_nodes : list of Node
        Operations on nothing but the number of sequences.
    drawn : dict of str to bool
        Of each value, whether it differs between draws.
    handed_on : set of str
        Results that are no tensor with a row for each sequence.
    stride : int
        A multiple of all strides; blocks are multiples of it.
    fallbacks : list of Fallback
        Operations at full length.
    forward_flops : dict of bool to float
        Of one sequence through the whole network: through what is the same for all draws, and
        through what differs.
    """

    graph: Graph
    output: str
    count_nodes: list[Node] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    drawn: dict[str, bool] = field(default_factory=dict)
    handed_on: set[str] = field(default_factory=set)
    stride: int = 1
    fallbacks: list[Fallback] = field(default_factory=list)
    forward_flops: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})

    def flops(self, drawn: bool) -> float:
        """Return the operations for a mutation (and draw, of the part that differs by draw)."""
        return sum(rule.flops for rule in self.rules if rule.layout.drawn is drawn)

    def numbers(self, drawn: bool) -> float:
        """Return the most numbers held at a time for a mutation (and draw), working memory too."""
        most = 0.0
        held: dict[str, float] = {}
        last = self.last_uses()
        for rule in self.rules:
            if rule.layout.drawn is not drawn:
                continue
            held[rule.node.name] = rule.layout.numbers
            most = max(most, sum(held.values()) + rule.scratch)
            for name in rule.inputs:
                if last[name] is rule:
                    held.pop(name, None)
        return most

    def boundary(self) -> set[str]:
        """Return the values that are the same for all draws and are needed where they differ."""
        made = {rule.node.name for rule in self.rules if not rule.layout.drawn}
        taken = {name for rule in self.rules if rule.layout.drawn for name in rule.inputs}
        return (taken | {self.output}) & (made | {self.graph.input})

    def boundary_numbers(self) -> float:
        """Return the numbers of a mutation's deltas at the boundary."""
        boundary = self.boundary()
        return sum(rule.layout.numbers for rule in self.rules if rule.node.name in boundary)

    def speed_up(self, draws: int, *, shared: bool = False) -> float:
        """Return how many times fewer operations there are than at full length.

        Parameters
        ----------
        draws : int
            Functions that are evaluated, the one without dropout included.
        shared : bool
            Compare with a loop that runs only once what is the same for all draws.
        """
        once = draws if shared else 1
        loop = self.forward_flops[False] / once + self.forward_flops[True]
        ours = self.flops(False) / draws + self.flops(True)
        return loop / ours if ours else 1.0

    def counts(self, rows: int) -> dict[str, Any]:
        """Return the values of `count_nodes` for so many sequences."""
        values: dict[str, Any] = dict(self.graph.constants)
        found: dict[str, Any] = {}
        for node in self.count_nodes:
            counted = (
                rows if node.operation == "sym_size" else capture.run(node, {**values, **found})
            )
            found[node.name] = counted
        return found

    def last_uses(self) -> dict[str, Rule]:
        """Return the last rule that takes each value."""
        return {name: rule for rule in self.rules for name in rule.inputs}

    def describe(self, draws: int) -> list[str]:
        """Return the plan in words, for the log.

        Parameters
        ----------
        draws : int
            Functions that are evaluated, the one without dropout included.
        """
        local = [rule for rule in self.rules if rule.layout.local]
        lines = [f"{len(local)} operations in windows, {len(self.fallbacks)} at full length"]
        lines += [f"at full length: {f.operation} ({f.reason})" for f in self.fallbacks]
        for rule in self.rules:
            if isinstance(rule, Convolution):
                lines.append(
                    f"{rule.node.name}: {rule.layout.positions_changed:.1f} of "
                    f"{rule.layout.size} positions, by {' and '.join(rule.methods)}"
                )
        whole = sum(self.forward_flops.values()) / 1e6
        lines.append(
            f"{whole:.4g} MFLOP for a mutant and draw at full length, "
            f"{self.speed_up(draws):.1f} times fewer as planned"
        )
        return lines


def make_plan(graph: Graph, length: int) -> Plan:
    """Choose a rule for each operation.

    Parameters
    ----------
    graph : Graph
        A captured network.
    length : int
        Length of its input.

    Returns
    -------
    Plan
        The rules.
    """
    try:
        return _Planner(graph, length, False).plan
    except _MixedError:
        return _Planner(graph, length, True).plan


class _MixedError(Exception):
    """Something handed on as it is, the same for all draws, meets something that differs."""


class _Planner:
    def __init__(self, graph: Graph, length: int, all_drawn: bool) -> None:
        self.plan = Plan(graph, graph.output)
        first = replace(input_layout(length), drawn=all_drawn)
        self._layouts: dict[str, Layout] = {graph.input: first}
        zeros = {node.name for node in graph.nodes if node.target is torch.ops.aten.zeros.default}
        self._given = Given(self._layouts, graph.constants, zeros, graph.like)
        self.plan.drawn[graph.input] = all_drawn
        for node in graph.nodes:
            if self._only_counts(node):
                self.plan.count_nodes.append(node)
                continue
            flops = forward_flops(node, self._given)
            rule = self._rule(node)
            self.plan.forward_flops[rule.layout.drawn] += flops
            self.plan.rules.append(rule)
            self.plan.drawn[node.name] = rule.layout.drawn
            if isinstance(rule, Anything) and rule.handed_on:
                self.plan.handed_on.add(node.name)
            else:
                self._layouts[node.name] = rule.layout
                self.plan.stride = lcm(self.plan.stride, rule.layout.stride)

        if graph.output not in self._layouts:
            raise CaptureError("its outputs are no row for each sequence")
        if self._layouts[graph.output].local:
            self.plan.output = self._at_full_length(graph.output, "the outputs are windows")

    def _rule(self, node: Node) -> Rule:
        try:
            return self._build(node)
        except NotLocalError as error:
            reason = str(error)
        local = [
            name
            for name in dict.fromkeys(capture.references(node))
            if name in self._layouts and self._layouts[name].local
        ]
        if local:
            names = {name: self._at_full_length(name, reason) for name in local}
            node = capture.renamed(node, names)
            try:
                return self._build(node)
            except NotLocalError:
                pass
        if node.operation in LINEAR_MAPS:
            try:
                return linear_map(node, self._given)
            except NotLocalError:
                pass
        self.plan.fallbacks.append(Fallback(node.operation, reason))
        return self._anything(node)

    def _build(self, node: Node) -> Rule:
        if node.shape is None:
            raise NotLocalError("its result is not a value for each sequence")
        if node.operation not in RULES:
            raise NotLocalError("no rule is known for it")
        return RULES[node.operation](node, self._given)

    def _at_full_length(self, name: str, reason: str) -> str:
        rule = AtFullLength(name, self._layouts[name])
        whole = rule.node.name
        if whole not in self._layouts:
            self.plan.rules.append(rule)
            self._layouts[whole] = rule.layout
            self.plan.drawn[whole] = rule.layout.drawn
            operation = name.partition(".")[0]
            self.plan.fallbacks.append(Fallback(f"what follows {operation}", reason))
        return whole

    def _anything(self, node: Node) -> Rule:
        counts = {count.name for count in self.plan.count_nodes}
        names = [
            name
            for name in dict.fromkeys(capture.references(node))
            if name not in self._given.constants and name not in counts
        ]
        layouts = [self._layouts.get(name) for name in names]
        drawn = any(self.plan.drawn[name] for name in names)
        if drawn and any(n in self.plan.handed_on and not self.plan.drawn[n] for n in names):
            raise _MixedError
        return Anything(
            node,
            names,
            layouts,
            self._given.constants,
            self.plan.counts,
            drawn,
            forward_flops(node, self._given),
        )

    def _only_counts(self, node: Node) -> bool:
        """Tell whether a node depends on nothing but the number of sequences."""
        if node.operation == "sym_size":
            return True
        counts = {count.name for count in self.plan.count_nodes}
        names = [n for n in capture.references(node) if n not in self._given.constants]
        return bool(names) and counts.issuperset(names)
