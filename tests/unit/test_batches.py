import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.genome import alphabet
from deepmr.models import batches

LENGTH = 12


class FakeReader:
    """Codes by row number; notes how many rows each read asked for and in which thread."""

    def __init__(self, codes: np.ndarray, fails_at: str | None = None) -> None:
        self.codes = codes
        self.fails_at = fails_at
        self.asked: list[int] = []
        self.threads: set[str] = set()

    def windows(self, table: pa.Table) -> np.ndarray:
        names = table.column("sequence_id").to_pylist()
        self.asked.append(len(names))
        self.threads.add(threading.current_thread().name)
        if self.fails_at in names:
            raise OSError(f"cannot read {self.fails_at}")
        return self.codes[[int(name[1:]) for name in names]]


def make(n: int, seed: int = 0) -> tuple[FakeReader, pa.Table]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 5, (n, LENGTH), dtype=np.uint8)
    codes[:, 0] = 4  # so that a reversed window is told from a forward one
    codes[:, -1] = 0
    labels = rng.integers(0, 2, n).astype(np.float32)
    table = pa.table(
        {
            "sequence_id": [f"w{i}" for i in range(n)],
            "label.A": pa.array(labels),
            "label.B": pa.array(np.arange(n, dtype=np.float32), mask=labels == 0),
        }
    )
    return FakeReader(codes), table


def collect(found: batches.WindowBatches) -> tuple[np.ndarray, np.ndarray]:
    parts = list(found)
    return np.concatenate([c for c, _ in parts]), np.concatenate([y for _, y in parts])


@given(n=st.integers(1, 40), size=st.integers(1, 11), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_each_window_comes_once_in_even_batches(n: int, size: int, seed: int) -> None:
    reader, table = make(n)
    found = batches.WindowBatches(reader, table, ["B", "A"], size, seed=seed)
    parts = list(found)
    sizes = [len(c) for c, _ in parts]
    assert len(parts) == len(found)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    codes, labels = collect(found)
    reverse = codes[:, -1] == 4
    codes[reverse] = alphabet.reverse_complement(codes[reverse])
    expected = {
        (c.tobytes(), np.float32(y).tobytes())
        for c, y in zip(reader.codes, table["label.A"].to_numpy(), strict=True)
    }
    assert len(codes) == n
    assert {
        (c.tobytes(), y.tobytes()) for c, y in zip(codes, labels[:, 1], strict=True)
    } == expected


def test_reading_as_needed_gives_what_the_cache_gives() -> None:
    reader, table = make(50)
    cached = batches.WindowBatches(reader, table, ["A"], 8, seed=3, cache_bytes=50 * LENGTH)
    lazy = batches.WindowBatches(reader, table, ["A"], 8, seed=3, cache_bytes=50 * LENGTH - 1)
    for left, right in zip(collect(cached), collect(lazy), strict=True):
        np.testing.assert_array_equal(left, right)


def test_cache_reads_once_and_otherwise_batches_are_read_in_a_thread() -> None:
    reader, table = make(50)
    cached = batches.WindowBatches(reader, table, ["A"], 8)
    collect(cached)
    collect(cached.for_epoch(1))
    assert reader.asked == [1, 50]
    reader, table = make(50)
    collect(batches.WindowBatches(reader, table, ["A"], 8, cache_bytes=0))
    assert max(reader.asked) == 8
    assert any(name.startswith("read windows") for name in reader.threads)


def test_cached_codes_are_not_turned_in_place() -> None:
    reader, table = make(30)
    found = batches.WindowBatches(reader, table, ["A"], 30, reverse_complement=True)
    first, _ = collect(found)
    second, _ = collect(found)
    np.testing.assert_array_equal(first, second)


def test_order_and_strands_follow_seed_and_epoch() -> None:
    reader, table = make(60)
    found = batches.WindowBatches(reader, table, ["B"], 60, seed=1, epoch=2)
    runs = [
        collect(found.for_epoch(2))[0],
        collect(found.for_epoch(3))[0],
        collect(found.for_epoch(2, seed=4))[0],
    ]
    np.testing.assert_array_equal(runs[0], collect(found)[0])
    assert not np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert 15 < (runs[0][:, -1] == 4).sum() < 45


def test_without_shuffling_and_turning_rows_keep_their_order() -> None:
    reader, table = make(20)
    found = batches.WindowBatches(
        reader, table, ["A"], 7, reverse_complement=False, shuffle=False, cache_bytes=0
    )
    np.testing.assert_array_equal(collect(found)[0], reader.codes)


def test_an_error_in_the_reading_thread_is_raised() -> None:
    reader, table = make(20)
    reader.fails_at = "w13"
    found = batches.WindowBatches(reader, table, ["A"], 3, cache_bytes=0)
    with pytest.raises(OSError, match="cannot read w13"):
        list(found)


def test_leaving_early_stops_the_reading_thread() -> None:
    reader, table = make(200)
    iterator = iter(batches.WindowBatches(reader, table, ["A"], 2, cache_bytes=0))
    next(iterator)
    iterator.close()
    assert not any(t.name.startswith("read windows") for t in threading.enumerate())
    assert len(reader.asked) < 20


def test_null_labels_are_nan() -> None:
    _, table = make(30)
    labels = batches.read_labels(table, ["B"])[:, 0]
    np.testing.assert_array_equal(np.isnan(labels), table["label.B"].is_null().to_numpy())
    assert labels.dtype == np.float32


def test_one_hot_agrees_with_the_alphabet() -> None:
    codes = make(9)[0].codes
    found = batches.one_hot(codes)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), alphabet.one_hot(codes))


def test_bad_arguments_are_named() -> None:
    reader, table = make(5)
    with pytest.raises(ValueError, match="no label of C; it has A, B"):
        batches.WindowBatches(reader, table, ["A", "C"], 2)
    with pytest.raises(ValueError, match="batch_size: found 0"):
        batches.WindowBatches(reader, table, ["A"], 0)
    with pytest.raises(ValueError, match="no rows"):
        batches.WindowBatches(reader, table.slice(0, 0), ["A"], 2)
