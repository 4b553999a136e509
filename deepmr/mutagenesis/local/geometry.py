"""Where a mutation changes a value: windows of positions, as integers only.

A base at position i changes, in a layer whose positions are ``stride`` bases apart, a window that
moves by one position when i moves by one stride. So residues r = i mod stride share all that there
is to know, and those with the same window are one `Group`: with i = r + stride·m, the window of
every residue of a group is [start + m, start + m + width). Windows reach beyond the ends of the
layer, where nothing is; `Layout.size` says where that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Residues of the mutated position, modulo a layer's stride, that change the same window.

    Attributes
    ----------
    residues : tuple of int
        In the order in which deltas hold them.
    start : int
        First changed position for mutations at the residues themselves (m = 0).
    width : int
        Number of changed positions.
    """

    residues: tuple[int, ...]
    start: int
    width: int

    @property
    def stop(self) -> int:
        """First position behind the window, m = 0."""
        return self.start + self.width


@dataclass(frozen=True)
class Block:
    """Consecutive mutated positions, worked on together; multiples of every stride."""

    start: int
    size: int

    def first(self, stride: int) -> int:
        """Return m of the first positions."""
        return self.start // stride

    def count(self, stride: int) -> int:
        """Return how many m there are."""
        return self.size // stride


@dataclass(frozen=True)
class Layout:
    """How the deltas of a value lie in memory, and which positions they are of.

    A local value holds, for each group, a tensor (m, residue, draw, allele, window, *rest). A
    value that changes everywhere holds one tensor (position, 1, draw, allele, *shape).

    Attributes
    ----------
    atoms : tuple of int
        Sizes whose row-major product is the value without its batch axis.
    dims : tuple of tuple of int
        Which atoms, consecutive ones, make each axis of the value; none for an axis of size 1.
    position : int or None
        The atom along which windows lie; None for a value that changes everywhere.
    stride : int
        Bases between positions.
    groups : tuple of Group
        A partition of the residues modulo the stride.
    drawn : bool
        Whether it differs between draws.
    """

    atoms: Shape
    dims: tuple[tuple[int, ...], ...]
    position: int | None
    stride: int
    groups: tuple[Group, ...]
    drawn: bool

    @property
    def local(self) -> bool:
        """Whether it changes in windows."""
        return self.position is not None

    @property
    def shape(self) -> Shape:
        """Shape of the value without its batch axis."""
        return tuple(prod(self.atoms[atom] for atom in dim) for dim in self.dims)

    @property
    def size(self) -> int:
        """Positions of a local value."""
        assert self.position is not None
        return self.atoms[self.position]

    @property
    def rest(self) -> Shape:
        """Atoms of a local value other than the position; the shape of one that is not local."""
        return tuple(size for atom, size in enumerate(self.atoms) if atom != self.position)

    @property
    def positions_changed(self) -> float:
        """Positions that a mutation changes, on average; 1 if the value is not local."""
        if not self.local:
            return 1.0
        return sum(len(g.residues) * g.width for g in self.groups) / self.stride

    @property
    def numbers(self) -> float:
        """Numbers in the delta of one mutation and draw, on average."""
        return self.positions_changed * prod(self.rest)

    @property
    def apart(self) -> Layout:
        """The same with an axis for each atom."""
        return replace(self, dims=tuple((atom,) for atom in range(len(self.atoms))))

    def axis(self) -> int:
        """Return the axis of the position, batch not counted.

        Raises
        ------
        NotLocalError
            If the position is merged with another axis.
        """
        for axis, dim in enumerate(self.dims):
            if dim == (self.position,):
                return axis
        raise NotLocalError("positions are merged with another axis")


class NotLocalError(Exception):
    """An operation that changes more than a window, or that no rule knows; says why."""


def everywhere(shape: Sequence[int], drawn: bool) -> Layout:
    """Return the layout of a value that changes everywhere."""
    return Layout(
        tuple(shape),
        tuple((axis,) for axis in range(len(shape))),
        None,
        1,
        (Group((0,), 0, 0),),
        drawn,
    )


def input_layout(length: int) -> Layout:
    """Return the layout of the one-hot input (4, length): a mutation changes its own position."""
    return Layout((4, length), ((0,), (1,)), 1, 1, (Group((0,), 0, 1),), False)


@dataclass(frozen=True)
class Sliding:
    """An operation that looks at ``kernel`` positions, ``dilation`` apart, every ``stride``."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1

    @property
    def reach(self) -> int:
        """Distance between the first and the last position looked at."""
        return self.dilation * (self.kernel - 1)

    def outputs(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and the number of outputs that see a window [start, stop)."""
        low = -((self.reach - start - self.padding) // self.stride)
        high = (stop - 1 + self.padding) // self.stride
        return low, max(0, high - low + 1)


@dataclass(frozen=True)
class Piece:
    """What becomes of every ``step``-th m, from ``phase`` on, of a group.

    Attributes
    ----------
    source : int
        Index of the group.
    phase, step : int
        Which m.
    start : int
        Start of the group's window for the first of them.
    target : int
        Index of the group of the result.
    first_residue : int
        Where, among the residues of that group, those of this piece are.
    """

    source: int
    phase: int
    step: int
    start: int
    target: int
    first_residue: int


def slide(layout: Layout, window: Sliding) -> tuple[int, tuple[Group, ...], tuple[Piece, ...]]:
    """Return stride and groups after a sliding operation, and the pieces they are made of."""
    stride = layout.stride * window.stride
    found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for index, group in enumerate(layout.groups):
        for phase in range(window.stride):
            start = group.start + phase
            key = window.outputs(start, start + group.width)
            found.setdefault(key, []).append((index, phase, start))
    groups, pieces = [], []
    for target, ((low, width), parts) in enumerate(found.items()):
        residues: list[int] = []
        for index, phase, start in parts:
            pieces.append(Piece(index, phase, window.stride, start, target, len(residues)))
            residues += [r + layout.stride * phase for r in layout.groups[index].residues]
        groups.append(Group(tuple(residues), low, width))
    return stride, tuple(groups), tuple(pieces)


@dataclass(frozen=True)
class Look:
    """The outputs of a piece that look into its window with one element of the kernel.

    Attributes
    ----------
    element : int
        Of the kernel.
    outputs, inputs : slice
        Places in the window of the result, and in that of the source, in the same order.
    """

    element: int
    outputs: slice
    inputs: slice


def looks(window: Sliding, piece: Piece, width: int, group: Group) -> list[Look]:
    """Return which outputs of a piece see which inputs, one entry an element of the kernel.

    Parameters
    ----------
    window : Sliding
        The operation.
    piece : Piece
        The piece.
    width : int
        Width of its source's window.
    group : Group
        The group of the result.
    """
    found = []
    for element in range(window.kernel):
        offset = element * window.dilation - window.padding - piece.start
        # Output o of the window sees input (group.start + o)·stride + offset.
        zero = group.start * window.stride + offset
        low = max(0, -(zero // window.stride))
        high = min(group.width - 1, (width - 1 - zero) // window.stride)
        if high >= low:
            first = zero + low * window.stride
            last = zero + high * window.stride
            found.append(Look(element, slice(low, high + 1), slice(first, last + 1, window.stride)))
        else:
            found.append(Look(element, slice(0, 0), slice(0, 0)))
    return found


@dataclass(frozen=True)
class Share:
    """Part of a group that lies in a group of a common partition: which residues, and where."""

    source: int
    residues: tuple[int, ...]
    offset: int


def common(layouts: Sequence[Layout]) -> tuple[tuple[Group, ...], list[list[Share]]]:
    """Return groups that hold the windows of several values, and the shares of each value.

    Parameters
    ----------
    layouts : sequence of Layout
        Local values with the same stride and size.

    Returns
    -------
    groups : tuple of Group
        The coarsest partition finer than each value's; windows are the hulls.
    shares : list of list of Share
        For each value and group, where its part comes from.

    Raises
    ------
    NotLocalError
        If strides or sizes differ.
    """
    if len({(layout.stride, layout.size) for layout in layouts}) > 1:
        raise NotLocalError("values whose positions are different distances apart")
    owner = [
        {r: index for index, group in enumerate(layout.groups) for r in group.residues}
        for layout in layouts
    ]
    cells: dict[tuple[int, ...], list[int]] = {}
    for group in layouts[0].groups:
        for r in group.residues:
            cells.setdefault(tuple(where[r] for where in owner), []).append(r)
    groups = []
    shares: list[list[Share]] = [[] for _ in layouts]
    for key, residues in cells.items():
        parts = [layout.groups[index] for layout, index in zip(layouts, key, strict=True)]
        start, stop = min(g.start for g in parts), max(g.stop for g in parts)
        groups.append(Group(tuple(residues), start, stop - start))
        for share, part, index in zip(shares, parts, key, strict=True):
            places = tuple(part.residues.index(r) for r in residues)
            share.append(Share(index, places, part.start - start))
    return tuple(groups), shares


def reshape(layout: Layout, shape: Sequence[int]) -> Layout:
    """Return the layout of the same numbers under another shape.

    Raises
    ------
    NotLocalError
        If an axis of the new shape would hold a part of the positions.
    """
    if not layout.local:
        return everywhere(shape, layout.drawn)
    sizes = list(layout.atoms)
    atoms: list[int] = []
    dims: list[tuple[int, ...]] = []
    position = layout.position
    at = 0
    new_position = None
    for wanted in shape:
        dim: list[int] = []
        missing = wanted
        while missing > 1:
            while at < len(sizes) and sizes[at] == 1:
                at += 1
            if at == len(sizes):
                raise NotLocalError(f"a view of {layout.shape} as {tuple(shape)}")
            size = sizes[at]
            if missing % size == 0:
                taken, left = size, 1
            elif size % missing == 0 and at != position:
                taken, left = missing, size // missing
            else:
                raise NotLocalError(f"a view that cuts positions: {layout.shape} as {tuple(shape)}")
            if at == position:
                new_position = len(atoms)
            dim.append(len(atoms))
            atoms.append(taken)
            missing //= taken
            if left == 1:
                at += 1
            else:
                sizes[at] = left
        dims.append(tuple(dim))
    if prod(sizes[at:]) != 1 or new_position is None:
        raise NotLocalError(f"a view of {layout.shape} as {tuple(shape)}")
    return replace(layout, atoms=tuple(atoms), dims=tuple(dims), position=new_position)


def permute(layout: Layout, order: Sequence[int]) -> Layout:
    """Return the layout after a permutation of the axes (batch not counted)."""
    dims = []
    atoms: list[int] = []
    position = None
    for axis in order:
        dim = []
        for atom in layout.dims[axis]:
            if atom == layout.position:
                position = len(atoms)
            dim.append(len(atoms))
            atoms.append(layout.atoms[atom])
        dims.append(tuple(dim))
    return replace(layout, atoms=tuple(atoms), dims=tuple(dims), position=position)


def rest_order(layout: Layout, order: Sequence[int]) -> list[int]:
    """Return where the axes of the rest come from in a permutation of the axes."""
    old = [atom for atom in range(len(layout.atoms)) if atom != layout.position]
    new = [a for axis in order for a in layout.dims[axis] if a != layout.position]
    return [old.index(atom) for atom in new]


def ceil_to(number: int, step: int) -> int:
    """Return the least multiple of `step` that is not below `number`."""
    return -(-number // step) * step
