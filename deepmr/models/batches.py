"""Batches of windows: codes and labels, in a seeded order, read as they are needed."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from deepmr.genome import alphabet
from deepmr.genome.alphabet import Codes

Labels = NDArray[np.float32]

_WINDOW_COLUMNS = ("sequence_id", "chrom", "start", "end", "strand")
_READ_ROWS = 16_384
_READ_AHEAD = 4
_ORDER, _STRAND = 0, 1


class Reader(Protocol):
    """What gives the codes (n, length) of a windows table: `deepmr.genome.fasta.SequenceReader`."""

    def windows(self, table: pa.Table) -> Codes:
        """Return the codes of the windows, shape (n, length)."""


class WindowBatches:
    """Batches of the rows of a windows table.

    The order and the strands depend on (seed, epoch) and the row only. The rows are spread evenly
    over the batches, so that no batch is much smaller than the others (a batch of one window would
    break batch normalisation).

    Parameters
    ----------
    reader : Reader
        Gives the codes; used by one thread at a time.
    windows : pyarrow.Table
        Rows to go through, schema of `windows.parquet`.
    targets : sequence of str
        Targets whose ``label.<target>`` columns are the labels.
    batch_size : int
        Most windows in a batch.
    seed, epoch : int
        Decide the order and the strands.
    reverse_complement : bool
        Show each window as its reverse complement with probability one half.
    cache_bytes : int
        The codes (one byte a base) are held in memory when they fit in this; otherwise they are
        read from the file batch by batch, ahead of use, in a thread.
    shuffle : bool
        Permute the rows; False keeps the table's order.

    Raises
    ------
    ValueError
        If the table has no rows or lacks a label column, or the batch size is below 1.
    """

    def __init__(
        self,
        reader: Reader,
        windows: pa.Table,
        targets: Sequence[str],
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        reverse_complement: bool = True,
        cache_bytes: int = 2**28,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: found {batch_size}; write a whole number from 1 up")
        if windows.num_rows == 0:
            raise ValueError("the windows table has no rows to make batches of")
        self._reader = reader
        self._windows = windows.select(
            [name for name in _WINDOW_COLUMNS if name in windows.column_names]
        ).combine_chunks()
        self.labels = read_labels(windows, targets)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = epoch
        self._reverse_complement = reverse_complement
        self._shuffle = shuffle
        self._cached: Codes | None = None
        length = reader.windows(self._windows.slice(0, 1)).shape[1]
        if windows.num_rows * length <= cache_bytes:
            self._cached = self._read_all(length)

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-self._windows.num_rows // self._batch_size)

    def for_epoch(self, epoch: int, seed: int | None = None) -> WindowBatches:
        """Return the batches of another epoch (and seed), over the same rows held in memory."""
        other = copy.copy(self)
        other._epoch = epoch
        other._seed = self._seed if seed is None else seed
        return other

    def __iter__(self) -> Iterator[tuple[Codes, Labels]]:
        """Yield codes (b, length) uint8 and labels (b, targets) float32, NaN = not measured."""
        n = self._windows.num_rows
        order = self._random(_ORDER).permutation(n) if self._shuffle else np.arange(n)
        reverse = (
            self._random(_STRAND).random(n) < 0.5
            if self._reverse_complement
            else np.zeros(n, dtype=bool)
        )
        rows_of_batches = np.array_split(order, len(self))
        for rows, codes in self._codes(rows_of_batches):
            turned = reverse[rows]
            if turned.any():
                codes[turned] = alphabet.reverse_complement(codes[turned])
            yield codes, self.labels[rows]

    def _random(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._epoch, purpose])

    def _codes(
        self, rows_of_batches: list[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Codes]]:
        if self._cached is not None:
            for rows in rows_of_batches:
                yield rows, self._cached[rows]
            return
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read windows")
        waiting: deque[tuple[NDArray[np.int64], Future[Codes]]] = deque()
        try:
            for rows in rows_of_batches:
                waiting.append((rows, pool.submit(self._read, rows)))
                if len(waiting) > _READ_AHEAD:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, rows: NDArray[np.int64]) -> Codes:
        # In the order of the table, hence of the file: neighbours share disk blocks.
        sorted_at = np.argsort(rows)
        codes = np.empty_like(found := self._reader.windows(self._windows.take(rows[sorted_at])))
        codes[sorted_at] = found
        return codes

    def _read_all(self, length: int) -> Codes:
        codes = np.empty((self._windows.num_rows, length), dtype=np.uint8)
        for start in range(0, len(codes), _READ_ROWS):
            part = self._windows.slice(start, _READ_ROWS)
            codes[start : start + part.num_rows] = self._reader.windows(part)
        return codes


def read_labels(windows: pa.Table, targets: Sequence[str]) -> Labels:
    """Return the labels of a windows table, shape (n, targets); NaN where null (not measured).

    Raises
    ------
    ValueError
        If the table has no column ``label.<target>``.
    """
    missing = [target for target in targets if f"label.{target}" not in windows.column_names]
    if missing:
        present = [name[6:] for name in windows.column_names if name.startswith("label.")]
        raise ValueError(
            f"the windows table has no label of {', '.join(missing)}; it has {', '.join(present)}"
        )
    labels = np.empty((windows.num_rows, len(targets)), dtype=np.float32)
    for k, target in enumerate(targets):
        column = windows.column(f"label.{target}").cast(pa.float32())
        labels[:, k] = column.to_numpy()
    return labels


def one_hot(codes: Codes, device: str | torch.device = "cpu") -> torch.Tensor:
    """Return codes (n, length) as a one-hot float32 tensor (n, 4, length) on a device.

    Only the codes travel to the device. Ambiguous bases are all zero.
    """
    on_device = torch.from_numpy(codes).to(device)
    bases = torch.arange(4, dtype=torch.uint8, device=device)
    return (on_device[:, None, :] == bases[None, :, None]).float()
