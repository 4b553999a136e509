from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmr import shards


def test_shard_of_a_sequence_is_the_same_on_every_machine():
    # `printf ID | b2sum -l 64`, read as a number, modulo 7, plus 1.
    assert [shards.shard_of(name, 7) for name in ("chr1:0-200", "chr1:200-400", "s")] == [2, 1, 1]


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 12))
def test_every_sequence_is_in_exactly_one_shard(names, n):
    rows = [row for i in range(1, n + 1) for row in shards.members(names, f"{i}-of-{n}")]
    assert sorted(rows) == list(range(len(names)))


@given(st.lists(st.text(min_size=1), min_size=2, unique=True), st.integers(1, 5))
def test_shard_does_not_depend_on_order_or_company(names, n):
    assert [shards.shard_of(x, n) for x in names] == [
        shards.shard_of(x, n) for x in reversed(names)
    ][::-1]
    first = shards.shard_of(names[0], n)
    assert shards.members(names[:1], f"{first}-of-{n}") == [0]


def test_bad_shard_name():
    with pytest.raises(ValueError, match="write it like '3-of-7'"):
        shards.members(["a"], "3/7")
