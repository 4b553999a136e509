"""Only the outputs that are kept: the last linear layer with fewer rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from deepmr.mutagenesis.capture import Graph, Node, Ref, references
from deepmr.mutagenesis.local.activations import ACTIVATIONS


def keep_columns(graph: Graph, columns: Sequence[int]) -> tuple[Graph, list[int]]:
    """Take the outputs wanted as early as possible.

    Parameters
    ----------
    graph : Graph
        A captured network with outputs (rows, targets).
    columns : sequence of int
        Outputs to keep, in the order wanted.

    Returns
    -------
    graph : Graph
        With a last linear layer that gives those outputs alone, if nothing but elementwise
        functions follows it; otherwise as it was.
    left : list of int
        Columns to take from the outputs of that graph.
    """
    by_name = {node.name: node for node in graph.nodes}
    node: Node | None
    users: dict[str, int] = {}
    for other in graph.nodes:
        for name in references(other):
            users[name] = users.get(name, 0) + 1
    tail: list[Node] = []
    node = by_name.get(graph.output)
    while node is not None and _elementwise(node):
        tail.append(node)
        (source,) = references(node)
        node = by_name.get(source) if users[source] == 1 else None
    if node is None or node.operation != "linear" or node.shape is None or len(node.shape) != 1:
        return graph, list(columns)
    constants = dict(graph.constants)
    args = list(node.args)
    for place in range(1, len(args)):
        argument: Any = args[place]
        if argument is None:
            continue
        if not isinstance(argument, Ref) or not isinstance(constants.get(argument.name), Tensor):
            return graph, list(columns)
        # Under a name of its own: another layer may share the weights.
        args[place] = Ref(f"{argument.name}.kept")
        constants[args[place].name] = constants[argument.name][list(columns)]
    shape = (len(columns),)
    changed = {node.name: replace(node, args=tuple(args), shape=shape)}
    changed.update({other.name: replace(other, shape=shape) for other in tail})
    nodes = [changed.get(other.name, other) for other in graph.nodes]
    return replace(graph, nodes=nodes, constants=constants), list(range(len(columns)))


def _elementwise(node: Node) -> bool:
    return node.operation in (*ACTIVATIONS, "relu") and len(references(node)) == 1
