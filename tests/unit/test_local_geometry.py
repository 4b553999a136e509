from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepmr.mutagenesis.local.geometry import (
    Block,
    Group,
    Layout,
    NotLocalError,
    Sliding,
    ceil_to,
    common,
    everywhere,
    input_layout,
    looks,
    permute,
    reshape,
    rest_order,
    slide,
)
from deepmr.mutagenesis.local.windows import Windowed, at_full_length, by_position, inside

slidings = st.builds(
    Sliding,
    kernel=st.integers(1, 6),
    stride=st.integers(1, 4),
    padding=st.integers(0, 5),
    dilation=st.integers(1, 3),
)


@st.composite
def partitions(draw: st.DrawFn, stride: int | None = None) -> tuple[Group, ...]:
    """Residues in any order in groups with any windows."""
    stride = draw(st.integers(1, 6)) if stride is None else stride
    residues = draw(st.permutations(range(stride)))
    cuts = draw(st.sets(st.integers(1, stride - 1))) if stride > 1 else set()
    ends = [0, *sorted(cuts), stride]
    return tuple(
        Group(tuple(residues[low:high]), draw(st.integers(-5, 5)), draw(st.integers(0, 4)))
        for low, high in pairwise(ends)
    )


def of_groups(groups: tuple[Group, ...], size: int = 12) -> Layout:
    stride = sum(len(group.residues) for group in groups)
    return Layout((3, size), ((0,), (1,)), 1, stride, groups, False)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    return of_groups(draw(partitions()))


def window(layout: Layout, mutated: int) -> range:
    """Return the window of a mutated position, which may be beyond the ends."""
    m, residue = divmod(mutated, layout.stride)
    (group,) = (group for group in layout.groups if residue in group.residues)
    return range(group.start + m, group.stop + m)


def elements(sliding: Sliding, output: int) -> Iterator[int]:
    """Return the positions that an output looks at."""
    for element in range(sliding.kernel):
        yield output * sliding.stride - sliding.padding + element * sliding.dilation


def seeing(sliding: Sliding, seen: range) -> set[int]:
    """Return the outputs that look at a window, by trying them."""
    return {output for output in range(-40, 80) if set(elements(sliding, output)) & set(seen)}


def slid(layout: Layout, sliding: Sliding) -> Layout:
    stride, groups, _ = slide(layout, sliding)
    return Layout(layout.atoms, layout.dims, layout.position, stride, groups, False)


def test_a_convolution_sees_a_base_from_as_many_places_as_its_kernel_has() -> None:
    stride, groups, pieces = slide(input_layout(20), Sliding(5, 1, 2))
    assert stride == 1
    assert groups == (Group((0,), -2, 5),)
    assert [(piece.source, piece.phase, piece.step, piece.target) for piece in pieces] == [
        (0, 0, 1, 0)
    ]


def test_pooling_without_overlap_groups_residues_by_where_their_windows_fall() -> None:
    convolved = slid(input_layout(20), Sliding(3, 1, 1))
    stride, groups, _ = slide(convolved, Sliding(4, 4, 0))
    assert stride == 4
    # Windows -1…1, 0…2, 1…3 and 2…4: at residue 0 and 3 they reach into a neighbour.
    assert groups == (Group((0,), -1, 2), Group((1, 2), 0, 1), Group((3,), 0, 2))


def test_a_stride_beyond_the_kernel_leaves_residues_without_a_window() -> None:
    _, groups, _ = slide(input_layout(20), Sliding(1, 3, 0))
    assert [(group.residues, group.width) for group in groups] == [((0,), 1), ((1, 2), 0)]


def test_dilation_spreads_a_window() -> None:
    sliding = Sliding(3, 1, 4, dilation=4)
    assert sliding.reach == 8
    assert sliding.outputs(0, 1) == (-4, 9)


@given(layouts(), slidings)
def test_windows_hold_all_outputs_that_see_a_change_and_no_more(
    layout: Layout, sliding: Sliding
) -> None:
    after = slid(layout, sliding)
    assert after.stride == layout.stride * sliding.stride
    assert sorted(r for g in after.groups for r in g.residues) == list(range(after.stride))
    for mutated in range(3 * after.stride):
        before, found = window(layout, mutated), window(after, mutated)
        outputs = seeing(sliding, before)
        assert outputs <= set(found)
        if sliding.dilation == 1 and before:
            assert outputs == set(found)


@given(layouts(), slidings)
def test_pieces_say_where_residues_come_from(layout: Layout, sliding: Sliding) -> None:
    stride, groups, pieces = slide(layout, sliding)
    for target, group in enumerate(groups):
        made = [piece for piece in pieces if piece.target == target]
        assert made
        filled = 0
        for piece in made:
            source = layout.groups[piece.source]
            assert piece.first_residue == filled
            for place, residue in enumerate(source.residues):
                # m-th of the result is phase + step·m of the source: the same mutated position.
                for m in range(3):
                    mutated = residue + layout.stride * (piece.phase + piece.step * m)
                    assert mutated == group.residues[filled + place] + stride * m
                    start = piece.start + piece.step * m
                    assert window(layout, mutated) == range(start, start + source.width)
            filled += len(source.residues)
        assert filled == len(group.residues)


@given(layouts(), slidings)
def test_looks_pair_outputs_with_the_inputs_they_see(layout: Layout, sliding: Sliding) -> None:
    _, groups, pieces = slide(layout, sliding)
    for piece in pieces:
        group, width = groups[piece.target], layout.groups[piece.source].width
        found = looks(sliding, piece, width, group)
        assert [look.element for look in found] == list(range(sliding.kernel))
        for look in found:
            expected = [
                (output, seen - piece.start)
                for output in range(group.width)
                for seen in [list(elements(sliding, group.start + output))[look.element]]
                if 0 <= seen - piece.start < width
            ]
            outputs, inputs = range(group.width)[look.outputs], range(width)[look.inputs]
            assert list(zip(outputs, inputs, strict=True)) == expected


@given(st.integers(1, 6).flatmap(lambda s: st.lists(partitions(s), min_size=2, max_size=3)))
def test_common_windows_are_hulls_and_shares_lead_back(
    parts: list[tuple[Group, ...]],
) -> None:
    values = [of_groups(groups) for groups in parts]
    groups, shares = common(values)
    merged = of_groups(groups)
    assert sorted(r for g in groups for r in g.residues) == list(range(merged.stride))
    for mutated in range(2 * merged.stride):
        windows = [window(value, mutated) for value in values]
        hull = window(merged, mutated)
        assert hull.start == min(w.start for w in windows)
        assert hull.stop == max(w.stop for w in windows)
    for value, of_value in zip(values, shares, strict=True):
        assert len(of_value) == len(groups)
        for group, share in zip(groups, of_value, strict=True):
            source = value.groups[share.source]
            assert tuple(source.residues[place] for place in share.residues) == group.residues
            assert group.start + share.offset == source.start
            assert share.offset + source.width <= group.width


def test_residues_are_grouped_no_finer_than_the_values_need() -> None:
    one = of_groups((Group((0, 1), 0, 1), Group((2, 3), 0, 2)))
    other = of_groups((Group((0, 1, 2), -1, 1), Group((3,), 1, 1)))
    groups, _ = common([one, other])
    assert groups == (Group((0, 1), -1, 2), Group((2,), -1, 3), Group((3,), 0, 2))


def test_values_at_different_distances_have_nothing_in_common() -> None:
    with pytest.raises(NotLocalError, match="different distances apart"):
        common([of_groups((Group((0,), 0, 1),)), of_groups((Group((0, 1), 0, 1),))])
    with pytest.raises(NotLocalError, match="different distances apart"):
        common([of_groups((Group((0,), 0, 1),), size=size) for size in (8, 9)])


def atoms_of(layout: Layout) -> np.ndarray:
    """Return, for each number of a value in order, its coordinate along each atom."""
    return np.stack([axis.ravel() for axis in np.indices(layout.atoms)], 1)


def positions_of(layout: Layout) -> np.ndarray:
    """Return the position of each number of a value, (*shape)."""
    assert layout.position is not None
    return atoms_of(layout)[:, layout.position].reshape(layout.shape)


def placed(atoms: tuple[int, ...], position: int) -> Layout:
    dims = tuple((atom,) for atom in range(len(atoms)))
    return Layout(atoms, dims, position, 1, (Group((0,), 0, 1),), False)


@st.composite
def placed_layouts(draw: st.DrawFn) -> Layout:
    """A value with a few axes, of which one, with more than one place, holds the positions."""
    atoms = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    position = draw(st.integers(0, len(atoms) - 1))
    assume(atoms[position] > 1)
    return placed(tuple(atoms), position)


@st.composite
def shapes(draw: st.DrawFn, numbers: int) -> tuple[int, ...]:
    shape = []
    for _ in range(draw(st.integers(0, 3))):
        size = draw(st.sampled_from([d for d in range(1, numbers + 1) if numbers % d == 0]))
        shape.append(size)
        numbers //= size
    return (*shape, numbers)


@given(placed_layouts(), st.data())
@settings(max_examples=300)
def test_a_view_keeps_track_of_positions(layout: Layout, data: st.DataObject) -> None:
    shape = data.draw(shapes(int(np.prod(layout.shape))))
    if not can_be_cut(layout, shape):
        with pytest.raises(NotLocalError, match="a view"):
            reshape(layout, shape)
        return
    after = reshape(layout, shape)
    assert after.shape == shape
    assert after.size == layout.size
    np.testing.assert_array_equal(positions_of(after), positions_of(layout).reshape(shape))
    # And back, to what it was.
    np.testing.assert_array_equal(positions_of(reshape(after, layout.shape)), positions_of(layout))


def can_be_cut(layout: Layout, shape: tuple[int, ...]) -> bool:
    """Tell whether atoms can be cut to fit a shape, the position left whole."""
    assert layout.position is not None
    cuts = {int(np.prod(layout.atoms[atom:])) for atom in range(len(layout.atoms) + 1)}
    wanted = {int(np.prod(shape[axis:])) for axis in range(len(shape) + 1)}
    inner = int(np.prod(layout.atoms[layout.position + 1 :]))
    if any(inner < cut < inner * layout.size for cut in wanted):
        return False
    return all(outer % inner == 0 for inner, outer in pairwise(sorted(cuts | wanted)))


@pytest.mark.parametrize(
    ("atoms", "position", "shape", "expected"),
    [
        ((6, 20), 1, (120,), ((6, 20), ((0, 1),), 1)),
        ((6, 20), 1, (6, 1, 20), ((6, 20), ((0,), (), (1,)), 1)),
        ((6, 20), 1, (2, 3, 20), ((2, 3, 20), ((0,), (1,), (2,)), 2)),
        ((20, 6), 0, (20, 2, 3), ((20, 2, 3), ((0,), (1,), (2,)), 0)),
        ((1, 20), 1, (20,), ((20,), ((0,),), 0)),
    ],
)
def test_views_of_networks(
    atoms: tuple[int, ...],
    position: int,
    shape: tuple[int, ...],
    expected: tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int],
) -> None:
    after = reshape(placed(atoms, position), shape)
    assert (after.atoms, after.dims, after.position) == expected


def test_a_view_that_cuts_positions_is_not_local() -> None:
    with pytest.raises(NotLocalError, match="cuts positions"):
        reshape(placed((6, 20), 1), (6, 10, 2))
    assert not reshape(everywhere((6, 20), drawn=False), (6, 10, 2)).local


def test_positions_merged_with_channels_are_on_no_axis() -> None:
    with pytest.raises(NotLocalError, match="merged with another axis"):
        reshape(placed((6, 20), 1), (120,)).axis()


@given(placed_layouts(), st.data())
def test_a_permutation_keeps_track_of_positions(layout: Layout, data: st.DataObject) -> None:
    shape = data.draw(shapes(int(np.prod(layout.shape))))
    try:
        layout = reshape(layout, shape)
    except NotLocalError:
        assume(False)
    order = data.draw(st.permutations(range(len(layout.dims))))
    after = permute(layout, order)
    assert after.shape == tuple(layout.shape[axis] for axis in order)
    np.testing.assert_array_equal(positions_of(after), positions_of(layout).transpose(order))
    rest = tuple(layout.rest[axis] for axis in rest_order(layout, order))
    assert rest == after.rest


@given(layouts(), st.integers(0, 8))
def test_inside_is_what_a_layer_has_of_a_window(layout: Layout, m: int) -> None:
    for group in layout.groups:
        low, high = inside(group, layout, m)
        positions = range(group.start + m, group.stop + m)
        assert 0 <= low <= high <= group.width
        assert list(positions[low:high]) == [p for p in positions if 0 <= p < layout.size]


@given(layouts(), st.integers(1, 3), st.integers(0, 2))
def test_windows_show_the_value_and_deltas_go_back_where_they_were(
    layout: Layout, blocks: int, at: int
) -> None:
    span = layout.stride * 6
    block = Block(layout.stride * at, layout.stride * blocks)
    value = torch.arange(2 * 3 * layout.size, dtype=torch.float64).view(2, 3, layout.size) + 1
    windowed = Windowed(value, layout, span)
    delta = [
        windowed(group, block).expand(-1, len(group.residues), -1, 3, -1, -1)
        for group in layout.groups
    ]
    whole = at_full_length(delta, layout, block, span)
    assert whole.shape == (block.size, 1, 2, 3, 3, layout.size)
    names = [
        torch.tensor([[r + layout.stride * m for r in g.residues] for m in range(blocks)])
        for g in layout.groups
    ]
    assert by_position(names, layout, block).flatten().tolist() == list(range(block.size))
    for mutated in range(block.size):
        expected = torch.zeros_like(value)
        for position in window(layout, block.start + mutated):
            if 0 <= position < layout.size:
                expected[:, :, position] = value[:, :, position]
        assert torch.equal(whole[mutated, 0], expected[:, None].expand(-1, 3, -1, -1))


@given(st.integers(0, 50), st.integers(1, 9))
def test_ceil_to_is_the_next_multiple(number: int, step: int) -> None:
    found = ceil_to(number, step)
    assert found % step == 0
    assert number <= found < number + step


def test_blocks_count_positions_in_strides() -> None:
    block = Block(24, 12)
    assert (block.first(4), block.count(4)) == (6, 3)


def test_a_layout_counts_what_a_mutation_changes() -> None:
    layout = of_groups((Group((0, 1, 2), 0, 2), Group((3,), 0, 4)))
    assert layout.positions_changed == 2.5
    assert layout.numbers == 7.5
    assert everywhere((3, 12), drawn=True).numbers == 36
