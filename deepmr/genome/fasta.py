"""Read windows of a genome, or ready sequences, from an indexed FASTA file."""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyfaidx import BgzfBlock, Faidx, FastaIndexingError, UnsupportedCompressionFormat

from deepmr.genome.alphabet import AMBIGUOUS, Codes, InvalidLetterError, encode, reverse_complement

SOURCES = ("genome", "sequences")
_CHUNK = 4_194_304
"""Bases of a contig read at a time when the whole contig is gone through."""

_BGZF_MAGIC = b"\x1f\x8b\x08\x04"
_GZIP_MAGIC = b"\x1f\x8b"
_BGZIP_SUFFIXES = (".gz", ".bgz")


class FastaError(ValueError):
    """A FASTA file cannot be read as asked; the message says where and what to write instead."""


class _Block(BgzfBlock):
    """A block of a bgzip file that a search for its own first byte finds.

    pyfaidx 0.9.2 finds the block before, and then fails where blocks have the full 65,536 bytes
    that Biopython writes (samtools writes 65,280).
    """

    __slots__ = ()

    def __lt__(self, position: int) -> bool:
        """Tell whether the block begins at or before a position of the uncompressed file."""
        return bool(self.ustart <= position)


class SequenceReader:
    """Random access to a FASTA file (plain or bgzip), as codes.

    Nothing of the genome is held in memory. The index is built once, atomically, beside the FASTA;
    where that folder is not writable, in `index_dir`. Reads may come from several threads.

    Parameters
    ----------
    path : str or Path
        FASTA file. Lower case reads as upper case, U as T, IUPAC ambiguity letters as ambiguous.
    strand : bool
        Whether the assay is strand-specific: windows are then tiled on both strands, and a
        sequence differs from its reverse complement.
    source : {"genome", "sequences"}
        What `windows` goes by: coordinates in a genome, or names of ready sequences.
    index_dir : str or Path, optional
        Folder of the index if the folder of the FASTA is not writable.

    Raises
    ------
    FastaError
        File missing, empty, in ordinary gzip, with uneven lines or duplicate record names.
    """

    def __init__(
        self,
        path: str | Path,
        strand: bool = False,
        *,
        source: str = "genome",
        index_dir: str | Path | None = None,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"source {source!r} is unknown; write one of {', '.join(SOURCES)}")
        self.path = Path(path)
        self.strand = strand
        self.source = source
        self._faidx = _open_indexed(self.path, None if index_dir is None else Path(index_dir))
        self.contigs: dict[str, int] = {
            name: int(record.rlen) for name, record in self._faidx.index.items()
        }

    def __enter__(self) -> SequenceReader:
        """Return the reader."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._faidx.close()

    def codes(
        self,
        chrom: Sequence[str],
        start: Sequence[int] | NDArray[np.int64],
        end: Sequence[int] | NDArray[np.int64],
        strand: Sequence[str] | None = None,
    ) -> Codes:
        """Return windows of one length as codes.

        Parameters
        ----------
        chrom : sequence of str, (n,)
            Contig of each window.
        start, end : sequence of int, (n,)
            0-based, half-open coordinates in bases.
        strand : sequence of str, (n,), optional
            Windows on "-" are returned as their reverse complement.

        Returns
        -------
        ndarray of uint8, shape (n, length)
            0-3 for A, C, G, T and 4 for ambiguous.

        Raises
        ------
        FastaError
            Unknown contig, window outside its contig, unequal lengths, letter that is none.
        """
        starts = np.asarray(start, dtype=np.int64).tolist()
        ends = np.asarray(end, dtype=np.int64).tolist()
        names = list(chrom)
        if not names:
            return np.empty((0, 0), dtype=np.uint8)
        length = ends[0] - starts[0]
        for name, first, last in zip(names, starts, ends, strict=True):
            if last - first != length or length < 1:
                raise FastaError(
                    f"window {name}:{first}-{last} has length {last - first} and the first one "
                    f"{length}; windows read together must have one positive length"
                )
            if first < 0 or last > self._length_of(name):
                raise FastaError(
                    f"window {name}:{first}-{last} lies outside {name}, which has "
                    f"{self.contigs[name]} bases in {self.path}"
                )
        codes = self._read(names, starts, ends, length)
        if strand is not None:
            minus = np.array([value == "-" for value in strand], dtype=bool)
            codes[minus] = reverse_complement(codes[minus])
        return codes

    def records(self, ids: Sequence[str]) -> Codes:
        """Return whole records of one length as codes of shape (n, length).

        Parameters
        ----------
        ids : sequence of str, (n,)
            Names of records.

        Raises
        ------
        FastaError
            Unknown record, unequal lengths, letter that is no nucleotide.
        """
        names = list(ids)
        lengths = [self._length_of(name) for name in names]
        for name, length in zip(names, lengths, strict=True):
            if length != lengths[0]:
                raise FastaError(
                    f"record {name} of {self.path} has {length} bases and {names[0]} has "
                    f"{lengths[0]}; ready sequences must have one length"
                )
        return self.codes(names, [0] * len(names), lengths)

    def windows(self, table: pa.Table) -> Codes:
        """Return the sequences of rows of a windows table, as the model reads them.

        Parameters
        ----------
        table : pyarrow.Table or RecordBatch
            With sequence_id (source "sequences") or chrom, start, end, strand (source "genome").

        Returns
        -------
        ndarray of uint8, shape (n, length)
        """
        if self.source == "sequences":
            return self.records(table["sequence_id"].to_pylist())
        return self.codes(
            table["chrom"].to_pylist(),
            table["start"].to_numpy(),
            table["end"].to_numpy(),
            table["strand"].to_pylist(),
        )

    def ambiguous_runs(self, chrom: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return starts and ends of the runs of ambiguous letters of a contig.

        The contig is read in chunks; memory grows with the number of runs only. A run that spans
        two chunks is returned as two that touch.
        """
        starts, ends = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for offset, codes in self._chunks(chrom):
            ambiguous = np.concatenate(([False], codes == AMBIGUOUS, [False]))
            edges = np.flatnonzero(ambiguous[1:] != ambiguous[:-1]) + offset
            starts.append(edges[::2])
            ends.append(edges[1::2])
        return np.concatenate(starts), np.concatenate(ends)

    def _chunks(self, chrom: str) -> Iterator[tuple[int, Codes]]:
        length = self._length_of(chrom)
        for offset in range(0, length, _CHUNK):
            last = min(offset + _CHUNK, length)
            yield offset, self._read([chrom], [offset], [last], last - offset)[0]

    def _read(self, names: list[str], starts: list[int], ends: list[int], length: int) -> Codes:
        fetch = self._faidx.from_file
        parts = [fetch(n, s + 1, e) for n, s, e in zip(names, starts, ends, strict=True)]
        for row, part in enumerate(parts):
            if len(part) != length:
                raise FastaError(
                    f"{self.path}: {names[row]}:{starts[row]}-{ends[row]} gave {len(part)} letters "
                    f"instead of {length}; the index {self._faidx.indexname} does not fit the "
                    "file, or the file is cut off: delete the index"
                )
        try:
            return encode("".join(parts)).reshape(len(parts), length)
        except InvalidLetterError as error:
            row, offset = divmod(error.position, length)
            raise FastaError(
                f"{self.path}: record {names[row]} holds the letter {error.letter!r} at position "
                f"{starts[row] + offset + 1} (counted from 1); write A, C, G, T (or U), or an "
                "IUPAC ambiguity letter such as N"
            ) from None

    def _length_of(self, name: str) -> int:
        try:
            return self.contigs[name]
        except KeyError:
            some = ", ".join(list(self.contigs)[:5])
            raise FastaError(f"{self.path} has no record {name!r}; it has {some}, ...") from None


def _open_indexed(path: Path, index_dir: Path | None) -> Faidx:
    """Open a FASTA through its index, which is built first if missing or older than the FASTA."""
    if not path.is_file():
        raise FastaError(f"{path} does not exist; write the path of a FASTA file")
    if path.stat().st_size == 0:
        raise FastaError(f"{path} is empty; write the path of a FASTA file")
    compressed = _is_bgzip(path)
    beside = path.parent / path.name
    places = [beside]
    if index_dir is not None:
        digest = hashlib.blake2b(str(path.absolute()).encode(), digest_size=4).hexdigest()
        places.append(index_dir / f"{path.name}.{digest}")
    for place in places:
        if _fresh(path, place, compressed):
            return _faidx(path, place)
    place = beside
    if not _writable(path.parent):
        if index_dir is None:
            raise FastaError(
                f"{path} has no index that fits and its folder is not writable; "
                "give an index_dir, or run `samtools faidx` there"
            )
        place = places[-1]
    place.parent.mkdir(parents=True, exist_ok=True)
    # Built under another name and renamed: a job that starts meanwhile never reads half an index.
    with TemporaryDirectory(dir=place.parent, prefix=".index-") as folder:
        unfinished = Path(folder) / place.name
        _faidx(path, unfinished).close()
        # Not older than the FASTA even where its file server's clock is ahead of this machine's.
        modified = max(time.time_ns(), path.stat().st_mtime_ns)
        for suffix in (".gzi", ".fai") if compressed else (".fai",):
            index = Path(f"{unfinished}{suffix}")
            os.utime(index, ns=(modified, modified))
            index.replace(f"{place}{suffix}")
    return _faidx(path, place)


def _writable(folder: Path) -> bool:
    """Tell whether to write into a folder; one marked read-only is left alone by root, too."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _fresh(path: Path, place: Path, compressed: bool) -> bool:
    modified = path.stat().st_mtime_ns
    indices = [
        Path(f"{place}{suffix}") for suffix in ((".fai", ".gzi") if compressed else (".fai",))
    ]
    return all(index.is_file() and index.stat().st_mtime_ns >= modified for index in indices)


def _faidx(path: Path, place: Path) -> Faidx:
    try:
        faidx = Faidx(
            str(path),
            indexname=f"{place}.fai",
            gzi_indexname=f"{place}.gzi",
            as_raw=True,
            rebuild=False,
        )
        if path.suffix.lower() in _BGZIP_SUFFIXES:
            faidx.gzi_index = [_Block(*block) for block in faidx.gzi_index]
        return faidx
    except FastaIndexingError as error:
        raise FastaError(
            f"{path} is no well-formed FASTA: {error} Every line of a record but its last must "
            "have the same length"
        ) from error
    except (UnsupportedCompressionFormat, OSError, struct.error, zlib.error) as error:
        raise FastaError(
            f"{path} cannot be read to its end ({error}); is it cut off? Copy or compress it again"
        ) from error
    except ValueError as error:
        name = str(error).removeprefix('Duplicate key "').removesuffix('"')
        if name == str(error):
            raise FastaError(f"{path} or its index {place}.fai cannot be read: {error}") from error
        raise FastaError(
            f"{path} holds two records named {name!r}; the name ends at the first blank and must "
            "be unique"
        ) from error


def _is_bgzip(path: Path) -> bool:
    with path.open("rb") as file:
        magic = file.read(4)
    suffixed = path.suffix.lower() in _BGZIP_SUFFIXES
    if magic.startswith(_GZIP_MAGIC) and magic != _BGZF_MAGIC:
        raise FastaError(
            f"{path} is compressed by gzip, which cannot be read at random places; "
            f"write it with bgzip: gunzip -c {path.name} | bgzip > genome.fa.gz"
        )
    if suffixed != (magic == _BGZF_MAGIC):
        raise FastaError(
            f"{path} {'is not' if suffixed else 'is'} compressed, against its name; "
            "name a bgzip file .gz and a plain one .fa"
        )
    return suffixed
