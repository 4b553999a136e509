"""A network as a graph of ATen operations, its dropout calls kept as sites.

``torch.export`` runs the network's Python code once, with a symbolic batch size, so that loops,
shapes and lambdas of a user's ``forward`` do not matter. Dropout would be erased in eval mode;
its calls are met by the same interception as in `deepmr.mutagenesis.masking` and numbered alike.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from deepmr.mutagenesis.masking import Intercept, Kind

Operation = Callable[..., Any]

_PROBE_ROWS = 3


class CaptureError(ValueError):
    """A network that cannot be captured as a graph."""


@torch.library.custom_op("deepmr::site", mutates_args=())
def _site(x: Tensor, index: int) -> Tensor:
    return x.clone()


@_site.register_fake
def _(x: Tensor, index: int) -> Tensor:
    return torch.empty_like(x)


SITE: Operation = torch.ops.deepmr.site.default
"""A dropout call: the activations, and the number of the site."""


@dataclass(frozen=True)
class Node:
    """An operation of the graph.

    Attributes
    ----------
    name : str
        Unique name of the result.
    target : callable
        The ATen operation, or one of ``operator``.
    args, kwargs
        Arguments; other nodes stand there as `Ref`.
    shape : tuple of int or None
        Shape of the result without its batch axis; None if it is no tensor, or its first axis
        is not the batch or another depends on it.
    """

    name: str
    target: Operation
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...] | None

    @property
    def operation(self) -> str:
        """Name of the operation, such as ``conv1d``."""
        packet = getattr(self.target, "overloadpacket", self.target)
        return str(packet.__name__)


@dataclass(frozen=True)
class Ref:
    """The result of another node, as an argument."""

    name: str


@dataclass(frozen=True)
class Graph:
    """A network in eval mode.

    Attributes
    ----------
    nodes : list of Node
        In order of execution; those that do not depend on the input are not among them.
    constants : dict of str to tensor
        Weights, buffers and what depends on them alone.
    input, output : str
        Name of the one-hot input, and of the outputs.
    like : tensor
        Of the type and on the device of the network's numbers.
    """

    nodes: list[Node]
    constants: dict[str, Any]
    input: str
    output: str
    like: Tensor


_ALIASES = {
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.contiguous.default,
    torch.ops.aten.detach.default,
    torch.ops.aten.lift_fresh_copy.default,
}
"""Operations that return the numbers they get."""


_VIEWS = {torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}
"""Operations that want an order in memory."""


class FirstOf:
    """An operation that returns the first of the tensors that another returns."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        self.overloadpacket = getattr(operation, "overloadpacket", operation)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation."""
        return self.operation(*args, **kwargs)[0]


def capture(network: nn.Module, length: int) -> Graph:
    """Capture a network.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode; maps (rows, 4, length) to (rows, targets).
    length : int
        Length of its input.

    Returns
    -------
    Graph
        The operations.

    Raises
    ------
    CaptureError
        If ``torch.export`` cannot follow the network, or only for one batch size.
    """
    sites = 0

    def keep(x: Tensor, p: float, kind: Kind) -> Tensor:
        nonlocal sites
        sites += 1
        kept: Tensor = SITE(x, sites - 1)
        return kept

    parameter = next(network.parameters(), None)
    probe = torch.zeros(_PROBE_ROWS, 4, length)
    if parameter is not None:
        probe = probe.to(parameter.device, parameter.dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad(), Intercept(keep):
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                network, (probe,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
            ).run_decompositions({})
            return _Reader(exported).graph(probe)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise CaptureError(
            f"torch.export cannot follow {type(network).__name__} "
            f"({type(error).__name__}: {reason})"
        ) from error


class _Reader:
    """Turns an exported program into a `Graph`."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        self._nodes = list(exported.graph.nodes)
        signature = exported.graph_signature
        state = {**exported.state_dict, **exported.constants}
        stored = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        self._constants: dict[str, Any] = {
            node.name: state[stored[node.name]].detach()
            for node in placeholders
            if node.name in stored
        }
        (self._input,) = (node for node in placeholders if node.name not in stored)
        self._batch = self._input.meta["val"].shape[0]
        if isinstance(self._batch, int):
            raise CaptureError("its Python code depends on the number of sequences")
        self._alias: dict[str, str] = {}

    def graph(self, probe: Tensor) -> Graph:
        varies = {self._input.name}
        nodes = []
        for node in self._nodes:
            if node.op != "call_function" or self._is_alias(node):
                continue
            read = self._read(node)
            if varies.intersection(references(read)):
                varies.add(read.name)
                nodes.append(read)
            else:
                self._constants[read.name] = run(read, self._constants)
        (result,) = self._nodes[-1].args[0]
        output = self._name(result)
        return Graph(nodes, self._constants, self._input.name, output, probe[:0])

    def _is_alias(self, node: fx.Node) -> bool:
        source = node.args[0] if node.args else None
        if node.target in _ALIASES or (
            node.target is operator.getitem and isinstance(source, fx.Node) and _first(source)
        ):
            if node.target is operator.getitem and node.args[1] != 0:
                return True  # nobody uses it
            self._alias[node.name] = self._name(source)
            return True
        if node.target is torch.ops.aten.copy.default:
            into, values = (_tensor(argument) for argument in node.args[:2])
            if into.meta["val"].shape == values.meta["val"].shape:
                self._alias[node.name] = self._name(values)
                return True
        return False

    def _name(self, node: Any) -> str:
        return self._alias.get(node.name, str(node.name))

    def _read(self, node: fx.Node) -> Node:
        target: Operation = node.target  # type: ignore[assignment]
        if target in _VIEWS:
            # The strides of a value may differ from those that were exported.
            target = torch.ops.aten.reshape.default
        value = node.meta.get("val")
        if _first(node):
            value, target = value[0], FirstOf(target)  # type: ignore[index]
        return Node(
            node.name,
            target,
            tuple(_map(list(node.args), self._ref)),
            _map(dict(node.kwargs), self._ref),
            self._shape(value),
        )

    def _ref(self, argument: Any) -> Any:
        return Ref(self._name(argument)) if isinstance(argument, fx.Node) else argument

    def _shape(self, value: Any) -> tuple[int, ...] | None:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return None
        first, *others = value.shape
        if isinstance(first, int) or first.node.expr != self._batch.node.expr:
            return None
        return tuple(others) if all(isinstance(size, int) for size in others) else None


def _tensor(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _first(node: fx.Node) -> bool:
    """Tell whether a node returns a tuple of which nothing but the first tensor is used."""
    users = list(node.users)
    return (
        isinstance(node.meta.get("val"), tuple | list)
        and bool(users)
        and all(user.target is operator.getitem for user in users)
        and all(user.args[1] == 0 or not user.users for user in users)
    )


def _map(argument: Any, function: Callable[[Any], Any]) -> Any:
    """Return an argument with `function` applied to everything that is no container."""
    if isinstance(argument, dict):
        return {key: _map(value, function) for key, value in argument.items()}
    if isinstance(argument, list | tuple):
        return type(argument)(_map(value, function) for value in argument)
    return function(argument)


def references(node: Node) -> list[str]:
    """Return the names of the nodes and constants among a node's arguments."""
    found: list[str] = []

    def note(argument: Any) -> None:
        if isinstance(argument, Ref):
            found.append(argument.name)

    _map([list(node.args), dict(node.kwargs)], note)
    return found


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """Return a node that takes other results, by the names of those that it takes now."""

    def other(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(names.get(argument.name, argument.name))
        return argument

    return replace(
        node, args=tuple(_map(list(node.args), other)), kwargs=_map(dict(node.kwargs), other)
    )


def run(node: Node, values: Mapping[str, Any]) -> Any:
    """Run a node's operation on the values of its arguments."""

    def value(argument: Any) -> Any:
        return values[argument.name] if isinstance(argument, Ref) else argument

    return node.target(*_map(list(node.args), value), **_map(dict(node.kwargs), value))
