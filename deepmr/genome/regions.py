"""Read intervals from BED-like files, and measure how they cover or fall into windows."""

from __future__ import annotations

import gzip
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_HEADERS = (b"track", b"browser")
_STRANDS = {"+": 1, "-": -1, ".": 0}


class RegionsError(ValueError):
    """An interval file cannot be read or does not fit the genome; says where and why."""


@dataclass(frozen=True)
class Regions:
    """Intervals of a file, 0-based and half-open, sorted by chromosome name, start and end.

    Attributes
    ----------
    path : Path
        Where they come from, for messages.
    names : tuple of str
        Chromosome names, sorted.
    chrom : ndarray of int32, (n,)
        Index into `names`.
    start, end : ndarray of int64, (n,)
        Coordinates in bases, widened by `extend` on each side (not below 0).
    strand : ndarray of int8, (n,)
        1 for "+", -1 for "-", 0 for "." or where the strand was not asked for.
    value : ndarray of float64, (n,)
        The value column, or ones.
    extend : int
        By how many bases the intervals were widened on each side.
    """

    path: Path
    names: tuple[str, ...]
    chrom: NDArray[np.int32]
    start: Positions
    end: Positions
    strand: NDArray[np.int8]
    value: NDArray[np.float64]
    extend: int = 0

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self.start)

    def on(self, chrom: str, strand: str = ".") -> Regions:
        """Return the intervals on a chromosome, and of a strand ("+" or "-") or without one.

        With strand "." all are returned. A chromosome without intervals gives none.
        """
        code = bisect_left(self.names, chrom)
        if self.names[code : code + 1] != (chrom,):
            return self._rows(slice(0, 0))
        first, last = np.searchsorted(self.chrom, [code, code + 1])
        rows = self._rows(slice(int(first), int(last)))
        sign = _STRANDS[strand]
        return rows._rows((rows.strand == sign) | (rows.strand == 0)) if sign else rows

    def _rows(self, rows: slice | NDArray[np.bool_]) -> Regions:
        return Regions(
            self.path,
            self.names,
            self.chrom[rows],
            self.start[rows],
            self.end[rows],
            self.strand[rows],
            self.value[rows],
            self.extend,
        )


@dataclass(frozen=True)
class Cover:
    """The bases of one chromosome that a set of intervals covers, as disjoint sorted intervals."""

    start: Positions
    end: Positions
    before: Positions

    @classmethod
    def of(cls, start: Positions, end: Positions) -> Cover:
        """Merge intervals given in order of start; ones that touch or overlap become one."""
        reach = np.maximum.accumulate(end)
        opens = np.ones(len(start), dtype=bool)
        opens[1:] = start[1:] > reach[:-1]
        closes = np.ones(len(start), dtype=bool)
        closes[:-1] = opens[1:]
        merged_start, merged_end = start[opens], reach[closes]
        before = np.concatenate(([0], np.cumsum(merged_end - merged_start)))
        return cls(merged_start, merged_end, before)

    def length_in(self, start: Positions, end: Positions) -> Positions:
        """Return how many bases of each [start, end) are covered, shape (n,)."""
        return self._length_left_of(end) - self._length_left_of(start)

    def _length_left_of(self, position: Positions) -> Positions:
        if not len(self.start):
            return np.zeros(len(position), dtype=np.int64)
        index = np.searchsorted(self.start, position, side="right") - 1
        known = np.maximum(index, 0)
        inside = np.minimum(position, self.end[known]) - self.start[known]
        return np.where(index < 0, 0, self.before[known] + inside)


def value_in(regions: Regions, start: Positions, end: Positions) -> NDArray[np.float64]:
    """Sum the values of the intervals whose midpoint lies in each [start, end).

    Parameters
    ----------
    regions : Regions
        Intervals of one chromosome; the midpoint is floor((start + end) / 2).
    start, end : ndarray of int64, (n,)
        Bins in bases.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    middle = (regions.start + regions.end) // 2
    order = np.argsort(middle, kind="stable")
    middle = middle[order]
    total = np.concatenate(([0.0], np.cumsum(regions.value[order])))
    first, last = np.searchsorted(middle, start), np.searchsorted(middle, end)
    # Differences of running sums leave rounding noise where no interval lies.
    return np.where(first == last, 0.0, total[last] - total[first])


def check_fit(regions: Regions, contigs: Mapping[str, int], *, partial: bool = False) -> None:
    """Refuse intervals that do not fit the genome.

    Parameters
    ----------
    regions : Regions
        As `read_regions` gave them.
    contigs : mapping of str to int
        Length of each sequence of the FASTA.
    partial : bool
        Allow chromosomes that the FASTA lacks as long as it has one of them (a blacklist of the
        whole genome with a FASTA of some chromosomes).

    Raises
    ------
    RegionsError
        Chromosome unknown to the FASTA, or interval beyond the end of its chromosome.
    """
    unknown = [name for name in regions.names if name not in contigs]
    if unknown and not (partial and len(unknown) < len(regions.names)):
        raise RegionsError(
            f"{regions.path}: the FASTA has no chromosome {_some(unknown)}; "
            f"it has {_some(list(contigs))}.{_prefix_hint(unknown, contigs)} "
            "Use the names of the FASTA, or remove these lines"
        )
    limits = np.array([contigs.get(name, np.iinfo(np.int64).max) for name in regions.names])
    beyond = np.flatnonzero(regions.end - regions.extend > limits[regions.chrom])
    if len(beyond):
        row = beyond[0]
        name = regions.names[regions.chrom[row]]
        raise RegionsError(
            f"{regions.path}: the interval ending at {name}:{regions.end[row] - regions.extend} "
            f"({len(beyond)} such) lies beyond the end of {name}, which has {contigs[name]} bases "
            "in the FASTA; are they of the same genome build?"
        )


def read_regions(
    path: str | Path,
    extend: int = 0,
    *,
    strand: bool = False,
    value_column: int | None = None,
) -> Regions:
    """Read a BED, narrowPeak, broadPeak or bedGraph file, plain, gzip or bgzip.

    Blank lines, comments and `track` or `browser` lines are skipped.

    Parameters
    ----------
    path : str or Path
        Tab-separated file with at least chromosome, start and end; 0-based, half-open.
    extend : int
        Bases by which every interval is widened on each side, for 1-bp sites and summits.
    strand : bool
        Read the strand from column 6; a file with fewer columns counts for both strands.
    value_column : int, optional
        Column, counted from 1, of a value of each interval; without it every value is 1.

    Returns
    -------
    Regions

    Raises
    ------
    RegionsError
        No interval; or a line with too few columns, no integers, start >= end or a negative
        start; the message names file and line.
    """
    path = Path(path)
    if extend < 0:
        raise RegionsError(f"{path}: extend is {extend}; write 0 or more bases")
    if value_column is not None and value_column < 4:
        raise RegionsError(f"{path}: value_column is {value_column}; write 4 or more")
    if not path.is_file():
        raise RegionsError(f"{path} does not exist; write the path of a BED or narrowPeak file")
    columns = _read_fast(path, strand, value_column)
    if columns is None:
        columns = _read_line_by_line(path, strand, value_column)
    chrom, start, end, sign, value = columns
    found = np.asarray(chrom.dictionary.to_pylist(), dtype=object)
    names, rank = np.unique(found.astype(str), return_inverse=True)
    code = rank.astype(np.int32)[chrom.indices.to_numpy()]
    order = np.lexsort((end, start, code))
    return Regions(
        path,
        tuple(str(name) for name in names),
        code[order],
        np.maximum(start[order] - extend, 0),
        end[order] + extend,
        sign[order],
        value[order],
        extend,
    )


_Columns = tuple[pa.DictionaryArray, Positions, Positions, NDArray[np.int8], NDArray[np.float64]]


def _read_fast(path: Path, strand: bool, value_column: int | None) -> _Columns | None:
    """Parse with Arrow; None if anything is unusual, which the line-by-line reader settles."""
    skip, width = 0, 0
    with _open(path) as file:
        for line in file:
            if _is_data(line):
                width = line.count(b"\t") + 1
                break
            skip += 1
    if width < max(3, value_column or 0):
        return None
    names = [str(column) for column in range(1, width + 1)]
    types = {"1": pa.dictionary(pa.int32(), pa.string()), "2": pa.int64(), "3": pa.int64()}
    if strand and width >= 6:
        types["6"] = pa.string()
    if value_column is not None:
        types[str(value_column)] = pa.float64()
    try:
        with _open(path) as file:
            table = pa_csv.read_csv(
                pa.PythonFile(file, mode="r"),
                read_options=pa_csv.ReadOptions(
                    column_names=names, skip_rows=skip, use_threads=False
                ),
                parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
                convert_options=pa_csv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=[]
                ),
            )
    except pa.ArrowInvalid:
        return None
    start, end = table["2"].to_numpy(), table["3"].to_numpy()
    chrom = table["1"].unify_dictionaries().combine_chunks()
    if isinstance(chrom, pa.ChunkedArray):
        chrom = chrom.chunk(0)
    labels = [str(name) for name in chrom.dictionary.to_pylist()]
    if not all(_is_data(name.encode()) for name in labels):
        return None
    if not ((start >= 0) & (start < end)).all():
        return None
    sign = np.zeros(len(start), dtype=np.int8)
    if "6" in types and strand:
        text = table["6"].to_numpy()
        sign = (text == "+").astype(np.int8) - (text == "-").astype(np.int8)
        if not ((sign != 0) | (text == ".")).all():
            return None
    value = np.ones(len(start)) if value_column is None else table[str(value_column)].to_numpy()
    if not np.isfinite(value).all():
        return None
    return chrom, start, end, sign, value


def _read_line_by_line(path: Path, strand: bool, value_column: int | None) -> _Columns:
    """Parse as Python does: for ragged files, and to name the line that is wrong."""
    chroms, starts, ends, signs, values = [], [], [], [], []
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not _is_data(line):
                continue
            fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
            start, end = _interval(path, number, fields)
            chroms.append(fields[0])
            starts.append(start)
            ends.append(end)
            signs.append(_sign(path, number, fields) if strand else 0)
            values.append(
                1.0 if value_column is None else _value(path, number, fields, value_column)
            )
    if not starts:
        raise RegionsError(f"{path} holds no interval; write a BED or narrowPeak file")
    return (
        pa.array(chroms).dictionary_encode(),
        np.array(starts, dtype=np.int64),
        np.array(ends, dtype=np.int64),
        np.array(signs, dtype=np.int8),
        np.array(values, dtype=np.float64),
    )


def _interval(path: Path, number: int, fields: list[str]) -> tuple[int, int]:
    if len(fields) < 3 or not fields[0]:
        raise RegionsError(
            f"{path} line {number}: {len(fields)} tab-separated column(s); "
            "write at least chromosome, start and end, separated by tabs"
        )
    try:
        start, end = int(fields[1]), int(fields[2])
    except ValueError:
        raise RegionsError(
            f"{path} line {number}: start {fields[1]!r} and end {fields[2]!r} must be integers"
        ) from None
    if start < 0:
        raise RegionsError(f"{path} line {number}: start {start} is negative; BED counts from 0")
    if start >= end:
        raise RegionsError(
            f"{path} line {number}: start {start} is not below end {end}; "
            "BED is 0-based and half-open, so a single base at 7 is 7 to 8"
        )
    return start, end


def _sign(path: Path, number: int, fields: list[str]) -> int:
    if len(fields) < 6:
        return 0
    if fields[5] not in _STRANDS:
        raise RegionsError(f"{path} line {number}: strand {fields[5]!r}; write +, - or .")
    return _STRANDS[fields[5]]


def _value(path: Path, number: int, fields: list[str], column: int) -> float:
    try:
        value = float(fields[column - 1])
    except (IndexError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise RegionsError(
            f"{path} line {number}: no number in column {column}, which value_column names"
        )
    return value


def _is_data(line: bytes) -> bool:
    words = line.split(maxsplit=1)
    return bool(words) and words[0] not in _HEADERS and not line.startswith(b"#")


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _prefix_hint(unknown: list[str], contigs: Mapping[str, int]) -> str:
    if any(f"chr{name}" in contigs for name in unknown):
        return " The FASTA's names begin with `chr`, the file's do not."
    if any(name.removeprefix("chr") in contigs for name in unknown if name.startswith("chr")):
        return " The file's names begin with `chr`, the FASTA's do not."
    return ""
