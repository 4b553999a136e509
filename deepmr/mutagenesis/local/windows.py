"""Reference values seen through windows, and deltas put back to full length.

Deltas have the axes (m, residue, draw, allele, window, *rest); views of reference values broadcast
with that.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from torch import Tensor
from torch.nn import functional as F

from deepmr.mutagenesis.local.geometry import Block, Group, Layout, Share

Delta = list[Tensor]
"""One tensor for each group of a layout."""

ALLELES = 3


class Windowed:
    """Values of the reference whose windows can be looked at.

    Parameters
    ----------
    value : tensor, shape (draws or 1, *shape)
        Axes of size 1 stand for the same number everywhere.
    layout : Layout
        Of the deltas that they will meet.
    span : int
        Mutated positions lie in [0, span).
    beyond : float
        What stands beyond the ends.
    """

    def __init__(self, value: Tensor, layout: Layout, span: int, beyond: float = 0.0) -> None:
        self._layout = layout
        self._sliding = False
        if not layout.local:
            self._value = value[None, None, :, None]
            return
        value = positions_first(value, layout)
        if value.shape[1] == 1 < layout.size:
            self._value = value[None, None].unsqueeze(3)
            return
        self._sliding = True
        self._before, after = _margins(layout, span)
        pads = [0, 0] * (value.ndim - 2) + [self._before, after]
        self._value = F.pad(value, pads, value=beyond).contiguous()

    def __call__(self, group: Group, block: Block) -> Tensor:
        """Return the windows of a group, shape (m, 1, draw, 1, window, *rest); axes may be 1."""
        if not self._sliding:
            return self._value
        first, count = block.first(self._layout.stride), block.count(self._layout.stride)
        value = self._value[:, self._before + group.start + first :]
        draws, position, *rest = value.stride()
        return value.as_strided(
            (count, 1, value.shape[0], 1, group.width, *value.shape[2:]),
            (position, 0, draws, 0, position, *rest),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Windowed:
        """Return the windows of a function that acts on each position by itself."""
        mapped = copy(self)
        mapped._value = function(self._value)
        return mapped


def positions_first(value: Tensor, layout: Layout) -> Tensor:
    """Return a value (draws, *shape) as (draws, positions, *rest); axes of size 1 stay 1."""
    sizes = [value.shape[0]]
    for axis, dim in enumerate(layout.dims):
        whole = value.shape[axis + 1] == layout.shape[axis]
        sizes += [layout.atoms[atom] if whole else 1 for atom in dim]
    value = value.reshape(sizes)
    assert layout.position is not None
    return value.movedim(layout.position + 1, 1)


def at_hull(delta: Delta, share: Share, width: int, local: bool) -> Tensor:
    """Return the part of a delta that belongs to a common group, zeros around its window."""
    tensor = delta[share.source]
    if not local:
        return tensor
    if share.residues != tuple(range(tensor.shape[1])):
        tensor = tensor[:, list(share.residues)]
    after = width - share.offset - tensor.shape[4]
    if share.offset or after:
        tensor = F.pad(tensor, [0, 0] * (tensor.ndim - 5) + [share.offset, after])
    return tensor


def clear_beyond(delta: Delta, layout: Layout, block: Block) -> None:
    """Set to zero, in place, what lies beyond the ends of the layer."""
    first, count = block.first(layout.stride), block.count(layout.stride)
    for group, tensor in zip(layout.groups, delta, strict=True):
        for m in range(count):
            begin = group.start + first + m
            if begin < 0:
                tensor[m, :, :, :, : min(-begin, group.width)] = 0
            if begin + group.width > layout.size:
                tensor[m, :, :, :, max(0, layout.size - begin) :] = 0


def inside(group: Group, layout: Layout, m: int) -> tuple[int, int]:
    """Return which part of a window lies within the layer; m counts from the first block."""
    begin = group.start + m
    low = min(max(0, -begin), group.width)
    return low, max(low, min(group.width, layout.size - begin))


def at_full_length(delta: Delta, layout: Layout, block: Block, span: int) -> Tensor:
    """Return a delta as it is everywhere, zeros included: (position, 1, draw, allele, *shape)."""
    if not layout.local:
        return delta[0]
    before, after = _margins(layout, span)
    draws, alleles = delta[0].shape[2:4]
    count, first = block.count(layout.stride), block.first(layout.stride)
    whole = delta[0].new_zeros(
        (count, layout.stride, draws, alleles, before + layout.size + after, *layout.rest)
    )
    m, _, *others = whole.stride()
    for group, tensor in zip(layout.groups, delta, strict=True):
        for place, residue in enumerate(group.residues):
            # Along a diagonal: with the next m the window moves by one position.
            target = whole[:, residue, :, :, before + group.start + first :]
            target.as_strided(tensor[:, place].shape, (m + others[2], *others)).copy_(
                tensor[:, place]
            )
    whole = whole[:, :, :, :, before : before + layout.size].flatten(0, 1)
    whole = whole.movedim(3, 3 + _place(layout))
    return whole.reshape(block.size, 1, draws, alleles, *layout.shape)


def by_position(delta: Delta, layout: Layout, block: Block) -> Tensor:
    """Return tensors (m, residue, *others) of all groups as one, (position, *others)."""
    count, others = block.count(layout.stride), delta[0].shape[2:]
    if layout.stride == 1:
        return delta[0].reshape(block.size, *others)
    whole = delta[0].new_empty((count, layout.stride, *others))
    for group, tensor in zip(layout.groups, delta, strict=True):
        whole[:, list(group.residues)] = tensor
    return whole.flatten(0, 1)


def _place(layout: Layout) -> int:
    assert layout.position is not None
    return layout.position


def _margins(layout: Layout, span: int) -> tuple[int, int]:
    """Return how far windows reach beyond the ends."""
    last = span // layout.stride - 1
    furthest = max(group.stop for group in layout.groups) + last
    lowest = min(group.start for group in layout.groups)
    return max(0, -lowest), max(0, furthest - layout.size)
