"""Windows from ready sequences and a table of their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS
from deepmr.genome.fasta import SequenceReader
from deepmr.genome.windows import SPLITS, count_labels, label_column
from deepmr.progress import track

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_ROWS = 20_000
"""Sequences read at a time."""


class LabelTableError(ValueError):
    """A label table cannot be used with the sequences; says what is wrong and where."""


def read_labels(
    path: str | Path, targets: Mapping[str, Mapping[str, Any]], by_chromosome: bool
) -> pa.Table:
    """Read the columns of a label table that are needed.

    Parameters
    ----------
    path : str or Path
        Parquet, or TSV or CSV (plain or gzip) with a header. The sequence's name is in the column
        sequence_id, or else in the first column.
    targets : mapping
        By name: type, and column (the target's own name when null).
    by_chromosome : bool
        Whether the split goes by a column chrom, or stands in a column split.

    Returns
    -------
    pyarrow.Table
        sequence_id (str), chrom or split (str), label.<target> (float32, null = not measured)
        and, where the table has them, chrom (str), start, end (int64) and strand (str).

    Raises
    ------
    LabelTableError
        File missing or unreadable, column unknown, name that is twice there, label that is no
        number or does not suit the target's type.
    """
    path = Path(path)
    if not path.is_file():
        raise LabelTableError(f"{path} does not exist; write the path of a label table")
    present = _columns(path)
    id_column = "sequence_id" if "sequence_id" in present else present[0]
    label_of = {name: target.get("column") or name for name, target in targets.items()}
    split_column = "chrom" if by_chromosome else "split"
    for wanted, purpose in [
        *((column, f"targets.{name}.column") for name, column in label_of.items()),
        (split_column, "the split (split.validation and split.test)"),
    ]:
        if wanted not in present:
            raise LabelTableError(
                f"{path} has no column {wanted!r} for {purpose}; it has {', '.join(present)}"
            )
    types = {id_column: pa.string(), split_column: pa.string()}
    types |= {c: pa.string() for c in ("chrom", "strand") if c in present}
    types |= {c: pa.int64() for c in ("start", "end") if c in present}
    types |= dict.fromkeys(label_of.values(), pa.float64())
    table = _read(path, types)
    ids = table[id_column]
    counted = pc.value_counts(ids.combine_chunks())
    twice = counted.filter(pc.greater(counted.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise LabelTableError(
            f"{path}: {len(twice)} name(s) stand in more than one row: {_some(twice)}; "
            "keep one row for each sequence"
        )
    columns = {"sequence_id": ids}
    columns |= {c: table[c] for c in ("chrom", "start", "end", "strand", "split") if c in types}
    for name, target in targets.items():
        values = table[label_of[name]].to_numpy().astype(np.float64)
        _check_values(path, label_of[name], target.get("type", "binary"), values, ids)
        columns[f"label.{name}"] = label_column(values)
    return pa.table(columns)


def extract(
    reader: SequenceReader,
    labels: str | Path,
    targets: Mapping[str, Mapping[str, Any]],
    *,
    length: int | None = None,
    validation: Sequence[str] = (),
    test: Sequence[str] = (),
    exclude: Sequence[str] = (),
    negatives_per_positive: float | None = None,
    seed: int = 0,
) -> tuple[pa.Table, dict[str, Any]]:
    """Join ready sequences with their labels.

    Parameters
    ----------
    reader : SequenceReader
        The sequences (source "sequences"), all of one length.
    labels : str or Path
        Label table, as for `read_labels`.
    targets : mapping
        By name: type and column, as in the configuration.
    length : int, optional
        The length that the sequences must have, in bases.
    validation, test, exclude : sequence of str
        Values of the column chrom that are held out or not used; all others train. If all three
        are empty, the column split says train, validation or test.
    negatives_per_positive : float, optional
        Sequences without a positive label that are kept in each split for each one with; all when
        left out.
    seed : int
        Seed of that choice, which depends on each sequence's id and on nothing else.

    Returns
    -------
    windows : pyarrow.Table
        In the order of the FASTA, as `deepmr.genome.windows.extract` gives it; chrom, start, end
        are null and strand is "." where the label table does not say. Sequences that hold an
        ambiguous letter, or have no label, are left out.
    counts : dict
        sequences, excluded, with_n, not_measured, negatives_left_out, kept, and splits.

    Raises
    ------
    FastaError, LabelTableError
        Sequences without a row, rows without a sequence, unequal lengths, a split without a
        sequence, or what `read_labels` refuses.
    """
    by_chromosome = bool([*validation, *test, *exclude])
    table = match(reader, labels, targets, by_chromosome, length)
    counts: dict[str, Any] = {"sequences": len(table)}
    split = assign_splits(table, Path(labels), validation, test, exclude)
    used = split != "exclude"
    counts["excluded"] = int((~used).sum())
    measured = np.zeros(len(table), dtype=bool)
    for name in targets:
        measured |= table[f"label.{name}"].is_valid().to_numpy()
    counts["not_measured"] = int((used & ~measured).sum())
    keep = used & measured
    clean = _without_ambiguity(reader, table["sequence_id"].to_pylist(), keep)
    counts["with_n"] = int((keep & ~clean).sum())
    keep &= clean
    if negatives_per_positive is not None:
        before = int(keep.sum())
        keep = _subsample(table, list(targets), split, keep, negatives_per_positive, seed)
        counts["negatives_left_out"] = before - int(keep.sum())
    counts["kept"] = int(keep.sum())
    kept = table.filter(pa.array(keep))
    columns = {name: kept[name] for name in ("sequence_id", "chrom", "start", "end", "strand")}
    columns["split"] = pa.array(split[keep], pa.string())
    columns |= {f"label.{name}": kept[f"label.{name}"] for name in targets}
    windows = pa.table(columns)
    counts["splits"] = count_labels(windows, list(targets))
    for name, counted in counts["splits"].items():
        if not counted["windows"]:
            raise LabelTableError(
                f"{labels}: no {name} sequence is left of {len(table)}; "
                "change split, or the labels' chrom or split column"
            )
    return windows, counts


def _subsample(
    table: pa.Table,
    targets: Sequence[str],
    split: NDArray[np.object_],
    keep: NDArray[np.bool_],
    ratio: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Of the kept rows keep the positives and, in each split, `ratio` negatives for each."""
    positive = np.zeros(len(table), dtype=bool)
    for name in targets:
        positive |= np.nan_to_num(table[f"label.{name}"].to_numpy()) > 0
    ids = table["sequence_id"].to_pylist()
    chosen = keep & positive
    for name in SPLITS:
        negatives = np.flatnonzero(keep & ~positive & (split == name))
        wanted = round(ratio * int((chosen & positive & (split == name)).sum()))
        digests = [
            hashlib.blake2b(f"{seed}\t{ids[row]}".encode(), digest_size=8).digest()
            for row in negatives
        ]
        order = np.argsort(np.frombuffer(b"".join(digests), dtype="<u8"), kind="stable")
        chosen[negatives[order[:wanted]]] = True
    return chosen


def match(
    reader: SequenceReader,
    labels: str | Path,
    targets: Mapping[str, Mapping[str, Any]],
    by_chromosome: bool,
    length: int | None = None,
) -> pa.Table:
    """Return the label table in the order of the FASTA, whose records it must name exactly.

    Parameters
    ----------
    reader, labels, targets, length
        As for `extract`.
    by_chromosome : bool
        As for `read_labels`.

    Raises
    ------
    LabelTableError
        Records without a row, rows without a record, records of another length.
    """
    lengths = np.fromiter(reader.contigs.values(), dtype=np.int64, count=len(reader.contigs))
    records = pa.array(list(reader.contigs), pa.string())
    asked = int(lengths[0]) if length is None else length
    other = np.flatnonzero(lengths != asked)
    if len(other):
        raise LabelTableError(
            f"{reader.path}: record {records[other[0]]} has {lengths[other[0]]} bases instead of "
            f"{asked} ({len(other)} such records); all must have the length "
            f"{'of the first' if length is None else 'in windows.length'}"
        )
    table = read_labels(labels, targets, by_chromosome)
    ids = table["sequence_id"].combine_chunks()
    row = pc.index_in(records, ids)
    for missing, what in (
        (records.filter(row.is_null()), f"of {reader.path} have no row in {labels}"),
        (
            ids.filter(pc.invert(pc.is_in(ids, records))),
            f"named in {labels} are not in {reader.path}",
        ),
    ):
        if len(missing):
            raise LabelTableError(
                f"{len(missing)} sequence(s) {what}: {_some(missing.to_pylist())}; "
                "names must agree up to the first blank of the FASTA header"
            )
    table = table.take(row)
    for name, kind in (("chrom", pa.string()), ("start", pa.int64()), ("end", pa.int64())):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), kind))
    if "strand" not in table.column_names:
        table = table.append_column("strand", pa.repeat(pa.scalar("."), len(table)))
    return table


def assign_splits(
    table: pa.Table,
    path: Path,
    validation: Sequence[str],
    test: Sequence[str],
    exclude: Sequence[str],
) -> NDArray[np.object_]:
    """Return train, validation, test or exclude for each row of a matched label table, (n,)."""
    named = {"validation": validation, "test": test, "exclude": exclude}
    if not any(named.values()):
        split = table["split"].to_numpy(zero_copy_only=False).astype(object)
        unknown = sorted({str(value) for value in split} - set(SPLITS))
        if unknown:
            raise LabelTableError(
                f"{path}: the column split holds {_some(unknown)}; write {', '.join(SPLITS)}"
            )
        return split
    chrom = table["chrom"].to_numpy(zero_copy_only=False).astype(object)
    present = set(chrom)
    split = np.full(len(chrom), "train", dtype=object)
    for name, chromosomes in named.items():
        for value in chromosomes:
            if value not in present:
                raise LabelTableError(
                    f"{path}: split.{name} names {value!r}, which the column chrom lacks; "
                    f"it has {_some(sorted(str(c) for c in present))}"
                )
            split[chrom == value] = name
    return split


def missing_columns(path: str | Path, names: Sequence[str]) -> list[str]:
    """Return which of these columns a label table lacks.

    Raises
    ------
    LabelTableError
        If it cannot be read.
    """
    present = _columns(Path(path))
    return [name for name in names if name not in present]


def _columns(path: Path) -> list[str]:
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        with pa_csv.open_csv(path, parse_options=_parsing(path)) as stream:
            return list(stream.schema.names)
    except pa.ArrowInvalid as error:
        raise LabelTableError(f"{path} cannot be read as a table: {error}") from error


def _read(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=list(types), partitioning=None)
            return table.cast(pa.schema([(name, types[name]) for name in table.column_names]))
        return pa_csv.read_csv(
            path,
            parse_options=_parsing(path),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict(types), include_columns=list(types)
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LabelTableError(
            f"{path}: {error}; labels must be numbers, empty where not measured"
        ) from error


def _parsing(path: Path) -> pa_csv.ParseOptions:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in _DELIMITERS:
        raise LabelTableError(
            f"{path}: a label table is named .parquet, .tsv, .txt or .csv (the last three may "
            "be followed by .gz)"
        )
    return pa_csv.ParseOptions(delimiter=_DELIMITERS[suffix])


def _check_values(
    path: Path, column: str, kind: str, values: NDArray[np.float64], ids: pa.ChunkedArray
) -> None:
    known = ~np.isnan(values)
    good = {
        "binary": np.isin(values, (0.0, 1.0)),
        "count": (values >= 0) & np.isfinite(values),
        "continuous": np.isfinite(values),
    }[kind]
    wrong = np.flatnonzero(known & ~good)
    allowed = {"binary": "0 or 1", "count": "0 or more", "continuous": "a finite number"}[kind]
    if len(wrong):
        row = int(wrong[0])
        raise LabelTableError(
            f"{path}: column {column!r} holds {values[row]:g} for {ids[row]} ({len(wrong)} such); "
            f"a {kind} label is {allowed}, or empty where not measured"
        )
    if not known.any():
        raise LabelTableError(f"{path}: column {column!r} holds no label at all")


def _without_ambiguity(
    reader: SequenceReader, ids: Sequence[str], wanted: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    clean = np.zeros(len(ids), dtype=bool)
    rows = np.flatnonzero(wanted)
    parts = [rows[first : first + _ROWS] for first in range(0, len(rows), _ROWS)]
    for part in track(parts, len(parts), "reading sequences", "part"):
        codes = reader.records([ids[row] for row in part])
        clean[part] = ~(codes == AMBIGUOUS).any(axis=1)
    return clean


def _some(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
