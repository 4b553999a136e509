"""Blocks of neighbouring windows, folds of blocks, and the pairs of folds that are left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.deepiv.cross_fitting import blocks, folds, pairs_of_folds

seeds = st.integers(0, 10_000)


def genome(seed: int, n: int, chromosomes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = np.array([f"chr{i}" for i in range(chromosomes)])
    return names[rng.integers(0, chromosomes, n)], rng.integers(0, 5 * n, n)


def test_a_small_genome_cut_by_hand() -> None:
    chrom = ["chr2", "chr1", "chr1", "chr1", "chr1", "chr2", "chr1", "chr1"]
    start = [900, 300, 100, 400, 200, 100, 600, 500]
    # chr1 has 6 of 8 windows and gets 3 of 4 blocks; chr2 the fourth.
    assert blocks(chrom, start, 4).tolist() == [3, 1, 0, 1, 0, 3, 2, 2]
    # More chromosomes than blocks: one each. More blocks than windows: a window each.
    assert blocks(chrom, start, 1).tolist() == [1, 0, 0, 0, 0, 1, 0, 0]
    assert sorted(blocks(chrom, start, 100).tolist()) == list(range(8))


def test_windows_that_start_together_stay_together() -> None:
    assert blocks(["c"] * 6, [5, 5, 5, 5, 9, 9], 6).tolist() == [0, 0, 0, 0, 1, 1]


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(1, 300), st.integers(1, 8), st.integers(1, 60))
def test_blocks_are_runs_of_one_chromosome(
    seed: int, n: int, chromosomes: int, number: int
) -> None:
    chrom, start = genome(seed, n, chromosomes)
    label = blocks(chrom, start, number)
    assert np.unique(label).tolist() == list(range(label.max() + 1))
    assert label.max() + 1 <= max(number, np.unique(chrom).size)
    for name in np.unique(chrom):
        inside = chrom == name
        assert not set(label[inside]) & set(label[~inside])
        along = label[inside][np.argsort(start[inside], kind="stable")]
        assert (np.diff(along) >= 0).all()
    order = np.random.default_rng(seed).permutation(n)
    assert blocks(chrom[order], start[order], number).tolist() == label[order].tolist()


def test_distinct_windows_make_as_many_equal_blocks_as_asked() -> None:
    chrom = np.repeat(["a", "b", "c"], [500, 300, 200])
    label = blocks(chrom, np.arange(1000) * 100, 40)
    assert np.bincount(label).tolist() == [25] * 40
    # 10 blocks for 3 equal chromosomes: a third of a block left over goes to one of them.
    thirds = blocks(np.repeat(["a", "b", "c"], 12), np.arange(36), 10)
    assert np.bincount(thirds).tolist() == [3, 3, 3, 3, 4, 4, 4, 4, 4, 4]


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(2, 8), st.lists(st.integers(1, 50), min_size=8, max_size=60))
def test_folds_hold_whole_blocks_and_are_balanced(seed: int, k: int, sizes: list[int]) -> None:
    block = np.repeat(np.arange(len(sizes)), sizes)
    fold = folds(block, k, seed)
    windows = np.bincount(fold, minlength=k)
    assert windows.min() > 0
    assert windows.max() - windows.min() <= max(sizes)
    assert all(np.unique(fold[block == b]).size == 1 for b in range(len(sizes)))
    assert folds(block, k, seed).tolist() == fold.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_large_block_is_dealt_first(seed: int) -> None:
    block = np.repeat(np.arange(21), [1] * 20 + [20])
    assert np.bincount(folds(block, 2, seed)).tolist() == [20, 20]


def test_the_seed_decides_which_blocks_come_together() -> None:
    block = np.repeat(np.arange(40), 25)
    one, other = folds(block, 4, 0), folds(block, 4, 1)
    assert np.bincount(one).tolist() == np.bincount(other).tolist() == [250] * 4
    assert one.tolist() != other.tolist()


def test_every_two_folds_are_left_out_once() -> None:
    assert pairs_of_folds(4) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    with pytest.raises(ValueError, match="at least 3 folds, got 2"):
        pairs_of_folds(2)


def test_what_cannot_be_cut_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="3 blocks of windows cannot make 4 folds"):
        folds(np.array([0, 1, 2, 2]), 4, 0)
    with pytest.raises(ValueError, match="at least 2 folds, got 1"):
        folds(np.array([0, 1]), 1, 0)
    with pytest.raises(ValueError, match=r"shape \(n,\).* found \(2,\) and \(3,\)"):
        blocks(["a", "a"], [1, 2, 3])
    with pytest.raises(ValueError, match=r"window 1 has no chromosome \(None\)"):
        blocks(np.array(["a", None], dtype=object), [1, 2])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        blocks(["a"], [1], 0)
