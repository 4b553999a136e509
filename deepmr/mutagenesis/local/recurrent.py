"""LSTM and GRU layers: no step is taken before the window, no input projected outside of it.

Up to its window a direction's states are the reference's, which are kept for every step; behind it
the states change, but the inputs do not, so their projections are the reference's, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepmr.mutagenesis.capture import Node, Ref
from deepmr.mutagenesis.local.geometry import Block, Group, Layout, NotLocalError, everywhere
from deepmr.mutagenesis.local.rules import Given, Reference, Rule
from deepmr.mutagenesis.local.windows import Delta, by_position

States = tuple[Tensor, ...]
"""Hidden state, and the cell's of an LSTM, (…, units)."""


@dataclass(frozen=True)
class _Weights:
    """Weights of a direction, transposed: (inputs, gates) and (units, gates); biases (gates,)."""

    inputs: Tensor
    hidden: Tensor
    input_bias: Tensor
    hidden_bias: Tensor


@dataclass(frozen=True)
class _Kept:
    """Of the reference and a direction: projections (draws, positions, gates), states after each.

    Attributes
    ----------
    projected : tensor
        Projections of the inputs.
    before : tuple of tensor, shape (draws, positions, units)
        States before each step.
    hidden : tensor, shape (draws, positions, units)
        Hidden states after each step.
    """

    projected: Tensor
    before: States
    hidden: Tensor


class Recurrent(Rule):
    """A recurrent layer on a local value (positions, channels).

    Parameters
    ----------
    directions : sequence of _Weights
        Forwards, and backwards if there are two.
    step : callable
        One step: projected input, states and weights to the next states.
    n_states : int
        2 for an LSTM, 1 for a GRU.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        layout: Layout,
        directions: Sequence[_Weights],
        step: Callable[[Tensor, States, _Weights], States],
        n_states: int,
    ) -> None:
        super().__init__(node, [name], everywhere(node.shape or (), layout.drawn))
        self.needs = (name,)
        self._source, self._directions = layout, directions
        self._step, self._n_states = step, n_states
        for weights in directions:
            # On average half of the steps, and the projections of the window.
            self.flops += layout.size * weights.hidden.numel()
            self.flops += 2 * layout.positions_changed * weights.inputs.numel()
        gates = max(weights.hidden.shape[1] for weights in directions)
        self.scratch = 3.0 * gates

    def prepare(self, reference: Reference) -> list[_Kept]:
        """Run the reference, step by step."""
        value = reference.values[self.inputs[0]]
        return [
            self._keep(value if forwards else value.flip(1), weights)
            for forwards, weights in zip((True, False), self._directions, strict=False)
        ]

    def _keep(self, value: Tensor, weights: _Weights) -> _Kept:
        projected = value @ weights.inputs + weights.input_bias
        units = weights.hidden.shape[0]
        states: States = (value.new_zeros(len(value), units),) * self._n_states
        before, hidden = [], []
        for position in range(value.shape[1]):
            before.append(states)
            states = self._step(projected[:, position], states, weights)
            hidden.append(states[0])
        kept = tuple(torch.stack(each, 1) for each in zip(*before, strict=True))
        return _Kept(projected, kept, torch.stack(hidden, 1))

    def apply(
        self, prepared: list[_Kept], deltas: Sequence[Delta], block: Block, free: bool
    ) -> Delta:
        """Go on from the window, in both directions."""
        result = []
        for group, delta in zip(self._source.groups, deltas[0], strict=True):
            outputs = [
                self._run(kept, weights, group, delta, block, forwards)
                for kept, weights, forwards in zip(
                    prepared, self._directions, (True, False), strict=False
                )
            ]
            result.append(torch.cat(outputs, -1))
        return [by_position(result, self._source, block).unsqueeze(1)]

    def _run(
        self,
        kept: _Kept,
        weights: _Weights,
        group: Group,
        delta: Tensor,
        block: Block,
        forwards: bool,
    ) -> Tensor:
        """Return what changes of a direction's outputs, (m, residue, draw, allele, position, unit).

        Backwards, positions and m are counted from the other end, so that it is the same walk.
        """
        size, count = self._source.size, delta.shape[0]
        draws = kept.hidden.shape[0]
        begin = group.start + block.first(self._source.stride)
        changes = delta.expand(-1, -1, draws, -1, -1, -1) @ weights.inputs
        if not forwards:
            changes = changes.flip(0, 4)
            # The last m's window comes first.
            begin = size - (begin + count - 1 + group.width)
        units = weights.hidden.shape[0]
        shape = (*changes.shape[:4], units)
        states = tuple(delta.new_zeros(shape) for _ in range(self._n_states))
        outputs = delta.new_zeros((*changes.shape[:4], size, units))
        active = 0
        for position in range(size):
            while active < count and max(begin + active, 0) <= position:
                # A window that begins before the sequence begins with it.
                for state, before in zip(states, kept.before, strict=True):
                    state[active] = before[:, position, None]
                active += 1
            if not active:
                continue
            projected = kept.projected[:, position, None].expand(*shape[2:4], -1)
            projected = projected.expand(active, shape[1], -1, -1, -1)
            inside = [m for m in range(active) if 0 <= position - begin - m < group.width]
            if inside:
                projected = projected.clone()
                for m in inside:
                    projected[m] += changes[m, :, :, :, position - begin - m]
            rows = tuple(state[:active] for state in states)
            for state, made in zip(states, self._step(projected, rows, weights), strict=True):
                state[:active] = made
            torch.sub(
                states[0][:active],
                kept.hidden[:, position, None],
                out=outputs[:active, :, :, :, position],
            )
        return outputs if forwards else outputs.flip(0, 4)


def _lstm_step(projected: Tensor, states: States, weights: _Weights) -> States:
    hidden, cell = states
    gates = projected + hidden @ weights.hidden + weights.hidden_bias
    enter, forget, new, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_step(projected: Tensor, states: States, weights: _Weights) -> States:
    (hidden,) = states
    reset, update, new = projected.chunk(3, -1)
    h_reset, h_update, h_new = (hidden @ weights.hidden + weights.hidden_bias).chunk(3, -1)
    update = (update + h_update).sigmoid()
    new = (new + (reset + h_reset).sigmoid() * h_new).tanh()
    return (new + update * (hidden - new),)


def recurrent(node: Node, given: Given) -> Rule:
    """Build the rule of a recurrent layer of one level that starts from zeros."""
    a = given.arguments(node)
    layout = given.layout(a["input"])
    if not layout.local or layout.dims != ((0,), (1,)) or layout.position != 0:
        raise NotLocalError("its input is not (positions, channels) in windows")
    if a["num_layers"] != 1 or not a["batch_first"] or node.shape is None:
        raise NotLocalError("it has several levels, or its batch is not the first axis")
    states = a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
    if any(not isinstance(s, Ref) or s.name not in given.zeros for s in states):
        raise NotLocalError("it does not start from zeros")
    each = 4 if a["has_biases"] else 2
    parameters = a["params"]
    directions = []
    for first in range(0, len(parameters), each):
        inputs, hidden = parameters[first : first + 2]
        biases = parameters[first + 2 : first + each] or [inputs.new_zeros(len(inputs))] * 2
        directions.append(_Weights(inputs.T.contiguous(), hidden.T.contiguous(), *biases))
    step, n_states = (_lstm_step, 2) if node.operation == "lstm" else (_gru_step, 1)
    return Recurrent(node, a["input"].name, layout, directions, step, n_states)


RECURRENT: dict[str, Callable[[Node, Given], Rule]] = {"lstm": recurrent, "gru": recurrent}
"""Operations by name."""
