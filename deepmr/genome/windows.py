"""Tile a genome into windows and label them from interval files, as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deepmr.genome.fasta import SequenceReader
from deepmr.genome.regions import Cover, Positions, Regions, check_fit, read_regions, value_in
from deepmr.progress import track

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class GenomeTarget:
    """A target whose labels come from intervals.

    Attributes
    ----------
    name : str
        Name of the target.
    kind : str
        "binary": 1 where peaks cover at least half of the bin; "count": values of the intervals
        centred in the bin, summed.
    peaks : Regions
        Its intervals.
    measured : Regions or None
        Where it was measured; None = everywhere.
    """

    name: str
    kind: str
    peaks: Regions
    measured: Regions | None

    def labels(
        self, chrom: str, strand: str, start: Positions, end: Positions
    ) -> NDArray[np.float32]:
        """Label the bins [start, end) of a chromosome and strand, shape (n,); NaN = not measured.

        The bin counts as measured when the measured regions cover at least half of it.
        """
        peaks = self.peaks.on(chrom, strand)
        if self.kind == "binary":
            labels = _half_covered(peaks, start, end).astype(np.float32)
        else:
            labels = value_in(peaks, start, end).astype(np.float32)
        if self.measured is not None:
            labels[~_half_covered(self.measured.on(chrom, strand), start, end)] = np.nan
        return labels


@dataclass(frozen=True)
class _Tiles:
    """Windows of one chromosome and strand that may be kept, and the key that ranks negatives."""

    chrom: str
    strand: str
    split: str
    start: Positions
    positive: NDArray[np.bool_]
    key: NDArray[np.uint64]


def tile(contig_length: int, length: int, stride: int) -> Positions:
    """Return the starts of the windows that lie wholly inside a contig, shape (n,), in bases."""
    return np.arange(0, max(contig_length - length + 1, 0), stride, dtype=np.int64)


def read_targets(
    targets: Mapping[str, Mapping[str, Any]],
    contigs: Mapping[str, int],
    directory: str | Path = ".",
    strand: bool = False,
) -> list[GenomeTarget]:
    """Read the interval files of the targets.

    Parameters
    ----------
    targets : mapping
        By name: type ("binary" or "count"), peaks, and optionally measured, extend and
        value_column, as in the configuration.
    contigs : mapping of str to int
        Lengths of the sequences of the FASTA, which the intervals must fit.
    directory : str or Path
        Folder of relative paths.
    strand : bool
        Read the strands of the intervals.

    Raises
    ------
    ValueError
        Unknown type; file missing, empty or damaged; chromosome that the FASTA lacks.
    """
    read = []
    for name, target in targets.items():
        kind = target.get("type", "binary")
        if kind not in ("binary", "count"):
            raise ValueError(
                f"targets.{name}.type: intervals give binary or count labels, not {kind!r}; "
                "use data.source sequences and a label table"
            )
        peaks = read_regions(
            Path(directory) / target["peaks"],
            target.get("extend", 0),
            strand=strand,
            value_column=target.get("value_column"),
        )
        check_fit(peaks, contigs)
        measured = None
        if target.get("measured") is not None:
            measured = read_regions(Path(directory) / target["measured"], strand=strand)
            check_fit(measured, contigs)
        read.append(GenomeTarget(name, kind, peaks, measured))
    return read


def extract(
    reader: SequenceReader,
    targets: Mapping[str, Mapping[str, Any]],
    *,
    length: int,
    bin: int,
    stride: int,
    negatives_per_positive: float | None = 1.0,
    validation: Sequence[str],
    test: Sequence[str],
    exclude: Sequence[str] = (),
    blacklist: str | Path | None = None,
    directory: str | Path = ".",
    seed: int = 0,
) -> tuple[pa.Table, dict[str, Any]]:
    """Tile windows over the chromosomes and label their centre bins.

    A window is positive for a binary target when its peaks cover at least half of the centre bin
    (Zhou & Troyanskaya 2015, DeepSEA). Windows that hold an ambiguous letter, touch the blacklist
    or are measured for no target are left out. Of the windows positive for no target, a random
    part is kept, separately in each split.

    Parameters
    ----------
    reader : SequenceReader
        The genome; with `reader.strand` both strands are tiled, and intervals count on their own
        strand (on both when it is ".").
    targets : mapping
        As for `read_targets`.
    length, bin, stride : int
        Window, centre bin and distance between windows, in bases.
    negatives_per_positive : float, optional
        All-negative windows kept for each other window; None keeps all.
    validation, test, exclude : sequence of str
        Chromosomes held out or not used; all others train.
    blacklist : str or Path, optional
        BED file; a window that overlaps it is left out.
    directory : str or Path
        Folder of the relative paths in `targets`.
    seed : int
        Which negatives are kept; the choice does not depend on the order of anything.

    Returns
    -------
    windows : pyarrow.Table
        In the order of the FASTA: sequence_id, chrom, start, end, strand, split and
        label.<target> (float32, null = not measured).
    counts : dict
        tiled, with_n, blacklisted, not_measured, negatives_left_out, kept, and splits: for each
        split windows, and by target positives and measured.

    Raises
    ------
    ValueError
        Impossible geometry, unknown chromosome, unusable interval file, a split or a binary
        target left without a window.
    """
    _check_geometry(length, bin, stride)
    contigs = reader.contigs
    split_of = _splits(contigs, validation, test, exclude)
    known = read_targets(targets, contigs, directory, reader.strand)
    black = None
    if blacklist is not None:
        black = read_regions(blacklist)
        check_fit(black, contigs, partial=True)
    counts: dict[str, Any] = dict.fromkeys(("tiled", "with_n", "blacklisted", "not_measured"), 0)
    offset = (length - bin) // 2
    tiles: list[_Tiles] = []
    usable = [c for c in contigs if c in split_of and contigs[c] >= length]
    for chrom in track(usable, len(usable), "labelling windows", "contig"):
        start = tile(contigs[chrom], length, stride)
        strands = ("+", "-") if reader.strand else (".",)
        counts["tiled"] += len(start) * len(strands)
        with_n = Cover.of(*reader.ambiguous_runs(chrom)).length_in(start, start + length) > 0
        start = start[~with_n]
        counts["with_n"] += int(with_n.sum()) * len(strands)
        if black is not None:
            rows = black.on(chrom)
            hit = Cover.of(rows.start, rows.end).length_in(start, start + length) > 0
            start = start[~hit]
            counts["blacklisted"] += int(hit.sum()) * len(strands)
        for strand in strands:
            positive, measured = _any(known, chrom, strand, start + offset, bin)
            counts["not_measured"] += int((~measured).sum())
            kept, key = start[measured], _keys(seed, chrom, strand, start[measured])
            tiles.append(_Tiles(chrom, strand, split_of[chrom], kept, positive[measured], key))
    chosen = _subsample(tiles, negatives_per_positive)
    tables = [_table(part, known, length, bin, offset) for part in chosen]
    table = pa.concat_tables(_by_start(tables)) if tables else None
    counts["kept"] = sum(len(part.start) for part in chosen)
    counts["negatives_left_out"] = sum(len(part.start) for part in tiles) - counts["kept"]
    if table is None or not counts["kept"]:
        raise ValueError(
            f"no window of {length} bases is left ({counts}); the contigs may be too short, or "
            "all negative, blacklisted or without a measured target"
        )
    counts["splits"] = count_labels(table, list(targets))
    _check_left(counts["splits"], known, bin)
    return table, counts


def count_labels(table: pa.Table, targets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count, for each split of a windows table, windows and measured and positive labels."""
    counts: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        rows = table.filter(pc.equal(table["split"], split))
        counts[split] = {
            "windows": len(rows),
            "positives": {
                t: pc.sum(pc.greater(rows[f"label.{t}"], 0)).as_py() or 0 for t in targets
            },
            "measured": {t: len(rows) - rows[f"label.{t}"].null_count for t in targets},
        }
    return counts


def label_column(values: NDArray[np.floating[Any]]) -> pa.Array:
    """Return labels (n,) as a float32 column in which NaN has become null."""
    return pa.array(values.astype(np.float32), from_pandas=True)


def _check_geometry(length: int, bin: int, stride: int) -> None:
    if not 0 < bin <= length:
        raise ValueError(f"windows.bin is {bin}; write 1 to windows.length, which is {length}")
    if stride < 1:
        raise ValueError(f"windows.stride is {stride}; write 1 or more bases")


def _splits(
    contigs: Mapping[str, int],
    validation: Sequence[str],
    test: Sequence[str],
    exclude: Sequence[str],
) -> dict[str, str]:
    named = {"validation": validation, "test": test, "exclude": exclude}
    split_of = dict.fromkeys(contigs, "train")
    for split, chromosomes in named.items():
        for chrom in chromosomes:
            if chrom not in contigs:
                some = ", ".join(list(contigs)[:5])
                raise ValueError(f"split.{split}: the FASTA has no {chrom!r}; it has {some}, ...")
            if split_of[chrom] != "train":
                raise ValueError(
                    f"split.{split}: {chrom} is in {split_of[chrom]} too; name it once"
                )
            split_of[chrom] = split
    return {chrom: split for chrom, split in split_of.items() if split != "exclude"}


def _half_covered(regions: Regions, start: Positions, end: Positions) -> NDArray[np.bool_]:
    return 2 * Cover.of(regions.start, regions.end).length_in(start, end) >= end - start


def _any(
    targets: Sequence[GenomeTarget], chrom: str, strand: str, start: Positions, bin: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each bin is positive for a target, and whether it is measured for one."""
    positive = np.zeros(len(start), dtype=bool)
    measured = np.zeros(len(start), dtype=bool)
    for target in targets:
        labels = target.labels(chrom, strand, start, start + bin)
        positive |= labels > 0
        measured |= ~np.isnan(labels)
    return positive, measured


def _keys(seed: int, chrom: str, strand: str, start: Positions) -> NDArray[np.uint64]:
    """Return a random number for each window that depends on the window and the seed alone."""
    digest = hashlib.blake2b(f"{seed}\t{chrom}\t{strand}".encode(), digest_size=8).digest()
    # SplitMix64 (Steele, Lea & Flood 2014): consecutive counters to independent-looking bits.
    x = start.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.frombuffer(digest, dtype="<u8")[0]
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _subsample(tiles: Sequence[_Tiles], ratio: float | None) -> list[_Tiles]:
    """Keep the positives and, in each split, the `ratio` negatives a positive of smallest key."""
    if ratio is None:
        return list(tiles)
    limit: dict[str, np.uint64 | None] = {}
    for split in SPLITS:
        parts = [part for part in tiles if part.split == split]
        wanted = round(ratio * sum(int(part.positive.sum()) for part in parts))
        keys = np.concatenate(
            [np.empty(0, np.uint64), *(part.key[~part.positive] for part in parts)]
        )
        wanted = min(wanted, len(keys))
        limit[split] = np.partition(keys, wanted - 1)[wanted - 1] if wanted else None
    chosen = []
    for part in tiles:
        bound = limit[part.split]
        keep = part.positive if bound is None else part.positive | (part.key <= bound)
        chosen.append(
            _Tiles(
                part.chrom,
                part.strand,
                part.split,
                part.start[keep],
                part.positive[keep],
                part.key[keep],
            )
        )
    return chosen


def _table(
    part: _Tiles, targets: Sequence[GenomeTarget], length: int, bin: int, offset: int
) -> pa.Table:
    n = len(part.start)
    start, end = pa.array(part.start), pa.array(part.start + length)
    name, strand, split = (
        pa.repeat(pa.scalar(text), n) for text in (part.chrom, part.strand, part.split)
    )
    span = pc.binary_join_element_wise(start.cast(pa.string()), end.cast(pa.string()), "-")
    suffix = "" if part.strand == "." else f"({part.strand})"
    sequence_id = pc.binary_join_element_wise(f"{part.chrom}:", span, suffix, "")
    columns = {
        "sequence_id": sequence_id,
        "chrom": name,
        "start": start,
        "end": end,
        "strand": strand,
        "split": split,
    }
    for target in targets:
        first = part.start + offset
        labels = target.labels(part.chrom, part.strand, first, first + bin)
        columns[f"label.{target.name}"] = label_column(labels)
    return pa.table(columns)


def _by_start(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Put the two strands of a chromosome, which follow each other, into one order of start."""
    ordered: list[pa.Table] = []
    for table in tables:
        if len(table) and table["strand"][0].as_py() == "-":
            both = pa.concat_tables([ordered.pop(), table])
            table = both.take(
                pc.sort_indices(both, [("start", "ascending"), ("strand", "ascending")])
            )
        ordered.append(table)
    return ordered


def _check_left(
    splits: Mapping[str, Mapping[str, Any]], targets: Sequence[GenomeTarget], bin: int
) -> None:
    for split, counted in splits.items():
        if not counted["windows"]:
            raise ValueError(
                f"no {split} window is left; name other or longer chromosomes under split"
            )
    for target in targets:
        if target.kind == "binary" and not any(
            counted["positives"][target.name] for counted in splits.values()
        ):
            raise ValueError(
                f"targets.{target.name}: none of its {len(target.peaks)} intervals covers half of "
                f"a centre bin of {bin} bases; widen them with extend, or use a smaller bin"
            )
