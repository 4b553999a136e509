"""What a rule is: how one operation of a network acts on deltas instead of values.

A rule knows its own layout (where the result changes), prepares what it needs of the reference
once for a sequence and some draws, and turns deltas into deltas, block by block. A new operation is
one class, or one line in a table, in a module beside this one; `deepmr.mutagenesis.local.planning`
puts the tables together.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepmr.mutagenesis.capture import Node, Ref
from deepmr.mutagenesis.local.geometry import Block, Layout, NotLocalError
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.windows import Delta


@dataclass(frozen=True)
class Reference:
    """Values of the unmutated sequence that rules prepare from.

    Attributes
    ----------
    values : mapping of str to tensor
        By node, (draws or 1, *shape); those that are still needed.
    factors : sequence of tensor
        Dropout factors of each site, (draws, *shape); none without dropout.
    draws : int
        Number of draws.
    """

    values: Mapping[str, Tensor]
    factors: Sequence[Tensor]
    draws: int


class Rule:
    """How an operation acts on deltas.

    Parameters
    ----------
    node : Node
        The operation.
    inputs : sequence of str
        Values whose deltas it takes.
    layout : Layout
        Of the result.
    flops : float
        Operations for one mutation and draw, two for a multiplication with addition.

    Attributes
    ----------
    needs : tuple of str
        Reference values that :meth:`prepare` reads.
    scratch : float
        Numbers of working memory for one mutation and draw, besides input and result.
    """

    needs: tuple[str, ...] = ()
    scratch: float = 0.0

    def __init__(
        self, node: Node, inputs: Sequence[str], layout: Layout, flops: float = 0.0
    ) -> None:
        self.node = node
        self.inputs = tuple(inputs)
        self.layout = layout
        self.flops = flops

    def bind(self, span: int, products: Products) -> None:
        """Prepare what depends on nothing but the network.

        Parameters
        ----------
        span : int
            Mutations lie in [0, span).
        products : Products
            Multiplies matrices.
        """
        self.span, self.products = span, products

    def prepare(self, reference: Reference) -> Any:
        """Return what is needed of the reference."""

    def apply(self, prepared: Any, deltas: Sequence[Delta], block: Block, free: bool) -> Delta:
        """Return the delta of the result.

        Parameters
        ----------
        prepared
            From :meth:`prepare`.
        deltas : sequence of Delta
            Of the inputs.
        block : Block
            Which mutated positions.
        free : bool
            Whether the first input may be overwritten, nobody else needing it.

        Returns
        -------
        Delta
            In the rule's layout.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Given:
    """What a rule is built from besides its node.

    Attributes
    ----------
    layouts : mapping of str to Layout
        Of the values before it.
    constants : mapping of str to tensor
        What does not depend on the sequence.
    zeros : collection of str
        Nodes that are zeros, as many as there are sequences.
    like : tensor
        Of the type and on the device of the network's numbers.
    """

    layouts: Mapping[str, Layout]
    constants: Mapping[str, Any]
    zeros: Collection[str]
    like: Tensor

    def arguments(self, node: Node) -> dict[str, Any]:
        """Return the arguments by their names in the operation's schema, defaults filled in."""
        operation: Any = getattr(node.target, "operation", node.target)
        names = operation._schema.arguments
        found = {a.name: a.default_value for a in names if a.has_default_value()}
        found.update(zip((a.name for a in names), node.args, strict=False))
        found.update(node.kwargs)
        return {name: self._known(value) for name, value in found.items()}

    def varies(self, argument: Any) -> bool:
        """Tell whether an argument depends on the sequence."""
        return isinstance(argument, Ref)

    def layout(self, argument: Any) -> Layout:
        """Return the layout of an argument.

        Raises
        ------
        NotLocalError
            If the argument has none.
        """
        if not isinstance(argument, Ref) or argument.name not in self.layouts:
            raise NotLocalError("an argument is not the activations of a sequence each")
        return self.layouts[argument.name]

    def _known(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._known(each) for each in value)
        if isinstance(value, Ref) and value.name in self.constants:
            return self.constants[value.name]
        return value


def only_constants(arguments: Mapping[str, Any], *varying: str) -> None:
    """Refuse an operation that depends on the sequence by more than the arguments named.

    Raises
    ------
    NotLocalError
        If another argument varies.
    """
    for name, value in arguments.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if name not in varying and any(isinstance(part, Ref) for part in parts):
            raise NotLocalError(f"its {name} depends on the sequence")


def one(value: Any) -> int:
    """Return the last of a list of sizes, or the size itself."""
    return int(value[-1]) if isinstance(value, list | tuple) else int(value)
