from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmr.shards import membership


def test_shard_of_a_sequence_is_the_same_on_every_machine():
    # `printf ID | b2sum -l 64`, read as a number, modulo 7, plus 1.
    names = ("chr1:0-200", "chr1:200-400", "s")
    assert [membership.shard_of(name, 7) for name in names] == [2, 1, 1]


@given(st.lists(st.text(min_size=1), unique=True), st.integers(1, 12))
def test_every_sequence_is_in_exactly_one_shard(names, n):
    rows = [row for i in range(1, n + 1) for row in membership.members(names, f"{i}-of-{n}")]
    assert sorted(rows) == list(range(len(names)))


@given(st.lists(st.text(min_size=1), min_size=2, unique=True), st.integers(1, 5))
def test_shard_does_not_depend_on_order_or_company(names, n):
    assert [membership.shard_of(x, n) for x in names] == [
        membership.shard_of(x, n) for x in reversed(names)
    ][::-1]
    first = membership.shard_of(names[0], n)
    assert membership.members(names[:1], f"{first}-of-{n}") == [0]


@given(st.integers(1, 1500))
def test_every_shard_is_in_exactly_one_mr_job(shards):
    jobs = membership.mr_jobs(shards)
    assert jobs == min(shards, 200)
    taken = [membership.shards_of_mr_job(f"{i}-of-{jobs}", shards) for i in range(1, jobs + 1)]
    each = [shard for job in taken for shard in job]
    assert sorted(each) == sorted(f"{i}-of-{shards}" for i in range(1, shards + 1))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1
    if shards <= 200:
        assert taken == [[f"{i}-of-{shards}"] for i in range(1, shards + 1)]


def test_mr_job_takes_every_200th_shard():
    assert membership.shards_of_mr_job("3-of-200", 410) == ["3-of-410", "203-of-410", "403-of-410"]


def test_bad_shard_name():
    with pytest.raises(ValueError, match="write it like '3-of-7'"):
        membership.members(["a"], "3/7")


@pytest.mark.parametrize("name", ["3-of-7", "0-of-200", "201-of-200"])
def test_no_mr_job_of_this_run(name):
    with pytest.raises(ValueError, match="'1-of-200' to '200-of-200'"):
        membership.shards_of_mr_job(name, 5000)


def test_tables_of_all_shards_in_order():
    assert membership.shard_tables("r/effects", 3)[1] == "r/effects/2-of-3.parquet"
    assert len(membership.shard_tables("r/effects", 3)) == 3


def test_the_choice_of_sequences_depends_on_their_names_alone():
    names = [f"chr1:{i}-{i + 100}" for i in range(50)]
    chosen = {names[row] for row in membership.choose(names, 8)}
    assert len(chosen) == 8
    shuffled = names[::-1]
    assert {shuffled[row] for row in membership.choose(shuffled, 8)} == chosen
    # Taking more keeps those that were taken.
    assert chosen < {names[row] for row in membership.choose(names, 20)}
    assert membership.choose(names, 500) == list(range(50))
