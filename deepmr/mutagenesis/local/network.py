"""One network, mutated: the reference once, then blocks of positions and chunks of draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepmr.mutagenesis import capture
from deepmr.mutagenesis.local.geometry import Block, ceil_to
from deepmr.mutagenesis.local.planning import Plan
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.rules import Reference, Rule
from deepmr.mutagenesis.local.sizes import Sizes
from deepmr.mutagenesis.local.windows import ALLELES, Delta
from deepmr.mutagenesis.masking import Masks


class LocalNetwork:
    """A planned network under masks.

    Parameters
    ----------
    plan : Plan
        Its rules.
    length : int
        Length of its input.
    chunks : sequence of Masks
        Draws of each chunk, in order.
    sizes : Sizes
        How the work is cut.
    columns : list of int
        Outputs to keep, in the order wanted.
    products : Products, optional
        Multiplies the matrices of deltas; in full precision when left out.
    """

    def __init__(
        self,
        plan: Plan,
        length: int,
        chunks: Sequence[Masks],
        sizes: Sizes,
        columns: Sequence[int],
        products: Products | None = None,
    ) -> None:
        self.plan, self._length, self._sizes = plan, length, sizes
        self._span = ceil_to(length, plan.stride)
        self._columns = list(columns)
        self._products = products or Products()
        # Factors come with an axis for the sequences, of which here is one.
        self._factors = [[factor.squeeze(1) for factor in chunk.factors] for chunk in chunks]
        self._draws = [chunk.number for chunk in chunks]
        self._last = plan.last_uses()
        for rule in plan.rules:
            rule.bind(self._span, self._products)
        self._shared = [rule for rule in plan.rules if not rule.layout.drawn]
        self._drawn = [rule for rule in plan.rules if rule.layout.drawn]
        self._strides = {rule.node.name: rule.layout.stride for rule in self._shared}
        self._strides[plan.graph.input] = 1
        self._boundary = plan.boundary()
        self._kept = self._boundary | {plan.output}

    def __call__(self, inputs: Tensor, positions: range | None = None) -> tuple[Tensor, Tensor]:
        """Evaluate a sequence and all its substitutions.

        Parameters
        ----------
        inputs : tensor, shape (4, length)
            The sequence, one-hot.
        positions : range, optional
            Positions to mutate, consecutive ones; all by default.

        Returns
        -------
        reference : tensor, shape (draws, K)
            Outputs of the sequence.
        delta : tensor, shape (positions, 3, draws, K)
            What each alternative adds.
        """
        wanted = range(self._length) if positions is None else positions
        return self._run(inputs, wanted, len(self._draws))

    def some_draws(self, inputs: Tensor, positions: range) -> tuple[Tensor, Tensor]:
        """Evaluate some substitutions with the draws of the first chunk only."""
        return self._run(inputs, positions, 1)

    def _run(self, inputs: Tensor, wanted: range, chunks: int) -> tuple[Tensor, Tensor]:
        first = wanted.start - wanted.start % self._sizes.shared
        total = sum(self._draws[:chunks])
        reference = inputs.new_empty((total, len(self._columns)))
        delta = inputs.new_empty((len(wanted), ALLELES, total, len(self._columns)))
        changes = substitutions(inputs, self._span)
        shared, plain = self._reference({self.plan.graph.input: inputs[None]}, self._shared, [], 1)
        boundary: dict[int, dict[str, Delta]] = {}
        for start in range(first, wanted.stop, self._sizes.shared):
            block = Block(start, min(self._sizes.shared, self._span - start))
            boundary[start] = self._block(
                self._shared,
                plain,
                {self.plan.graph.input: [changes[start : start + block.size]]},
                block,
            )
        at = 0
        for factors, draws in zip(self._factors[:chunks], self._draws[:chunks], strict=True):
            values, prepared = self._reference(dict(shared), self._drawn, factors, draws)
            chunk = slice(at, at + draws)
            reference[chunk] = values[self.plan.output][:, self._columns]
            for start, kept in boundary.items():
                stop = min(start + self._sizes.shared, self._span)
                for begin in range(start, stop, self._sizes.drawn):
                    block = Block(begin, min(self._sizes.drawn, stop - begin))
                    low, high = max(begin, wanted.start), min(begin + block.size, wanted.stop)
                    if low >= high:
                        continue
                    found = self._block(
                        self._drawn, prepared, self._part(kept, start, block), block
                    )
                    (made,) = found[self.plan.output]
                    made = made[low - begin : high - begin, 0].transpose(1, 2)
                    place = slice(low - wanted.start, high - wanted.start)
                    delta[place, :, chunk] = made[..., self._columns]
            at += draws
        return reference, delta

    def _part(self, kept: dict[str, Delta], start: int, block: Block) -> dict[str, Delta]:
        """Return the deltas of a smaller block within one that begins at `start`."""
        part = {}
        for name, delta in kept.items():
            stride = self._strides[name]
            m = (block.start - start) // stride
            part[name] = [tensor[m : m + block.count(stride)] for tensor in delta]
        return part

    def _reference(
        self, values: dict[str, Any], rules: Sequence[Rule], factors: Sequence[Tensor], draws: int
    ) -> tuple[dict[str, Any], list[Any]]:
        """Run operations on the reference; return what is needed later, and what rules prepare."""
        drawn = bool(rules) and rules[0].layout.drawn
        known = {**self.plan.graph.constants, **self.plan.counts(draws), **values}
        prepared = []
        for rule in rules:
            if drawn:
                for name in rule.inputs:
                    if name not in self.plan.handed_on:
                        known[name] = _expanded(known[name], draws)
            if rule.node.target is capture.SITE:
                x, site = known[rule.inputs[0]], rule.node.args[1]
                known[rule.node.name] = x * factors[site] if factors else x
            else:
                known[rule.node.name] = capture.run(rule.node, known)
            prepared.append(rule.prepare(Reference(known, factors, draws)))
        return {name: known[name] for name in self._kept if name in known}, prepared

    def _block(
        self, rules: Sequence[Rule], prepared: Sequence[Any], deltas: dict[str, Delta], block: Block
    ) -> dict[str, Delta]:
        """Run rules on a block; return the deltas that are needed afterwards."""
        deltas = dict(deltas)
        lent = {_storage(delta) for delta in deltas.values()}
        for rule, known in zip(rules, prepared, strict=True):
            given = [deltas[name] for name in rule.inputs]
            done = [n for n in rule.inputs if self._last[n] is rule and n not in self._boundary]
            for name in done:
                deltas.pop(name, None)
            # Nobody else may look at memory that is overwritten.
            taken = lent | {_storage(delta) for delta in deltas.values()}
            free = rule.inputs[0] in done and _storage(given[0]) not in taken
            with self._products.allowed():
                deltas[rule.node.name] = rule.apply(known, given, block, free)
        return {name: deltas[name] for name in self._kept if name in deltas}


def _storage(delta: Delta) -> int:
    first = delta[0]
    return first.untyped_storage().data_ptr() if isinstance(first, Tensor) else id(first)


def substitutions(inputs: Tensor, span: int) -> Tensor:
    """Return what each alternative adds to the one-hot input.

    Parameters
    ----------
    inputs : tensor, shape (4, length)
        The sequence, one-hot.
    span : int
        Positions of the result; there is no change behind the length.

    Returns
    -------
    tensor, shape (span, 1, 1, 3, 1, 4)
        Alternatives are the other three bases in the order ACGT; for an ambiguous base, the last
        three.
    """
    length = inputs.shape[1]
    reference = inputs.T
    alternatives = torch.eye(4, dtype=inputs.dtype, device=inputs.device).repeat(length, 1, 1)
    places = torch.arange(4, device=inputs.device).expand(length, 4)
    others = places[places != reference.argmax(1, keepdim=True)].view(length, ALLELES)
    chosen = alternatives.gather(1, others[:, :, None].expand(-1, -1, 4))
    changes = inputs.new_zeros((span, 1, 1, ALLELES, 1, 4))
    changes[:length, 0, 0, :, 0] = chosen - reference[:, None]
    return changes


def _expanded(value: Any, rows: int) -> Any:
    if isinstance(value, Tensor) and value.shape[0] == 1:
        return value.expand(rows, *(-1 for _ in value.shape[1:]))
    return value
