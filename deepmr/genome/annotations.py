"""Annotations of sequences: a BED file of regions, or a table with a value for each sequence."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from deepmr.genome.regions import Cover, check_fit, read_regions

MOST_VALUES = 20
"""Different texts that an annotation may hold: each is a stratum and a term of a regression."""

INSIDE, OUTSIDE = "yes", "no"
"""What a BED file says of a sequence."""

_REGIONS = (".bed", ".narrowpeak", ".broadpeak", ".bedgraph")
_DELIMITERS = {".tsv": "\t", ".txt": "\t", ".csv": ","}
_MISSING = ["", "NA", "NaN", "nan"]
_STRANDS = ("+", "-", ".")
_WINDOW_ID = re.compile(r"(?P<chrom>.+):(?P<start>\d+)-(?P<end>\d+)(\([+-]\))?")


class AnnotationError(ValueError):
    """An annotation cannot be read or does not fit the sequences; says where and why."""


def is_regions(path: str | Path) -> bool:
    """Tell by its name whether a file holds regions (BED and its relatives, or those gzipped).

    Raises
    ------
    AnnotationError
        If it is neither that nor a table.
    """
    suffix = _suffix(Path(path))
    if suffix not in (*_REGIONS, *_DELIMITERS, ".parquet"):
        raise AnnotationError(
            f"{path}: an annotation is a file of regions (.bed, .narrowPeak, .broadPeak, "
            ".bedGraph) or a table (.tsv, .txt, .csv, .parquet); all but .parquet may be "
            "followed by .gz"
        )
    return suffix in _REGIONS


def inside_regions(path: str | Path, sequences: pa.Table) -> pd.Series:
    """Tell of each sequence whether regions cover at least half of its bases.

    Parameters
    ----------
    path : path
        As `deepmr.genome.regions.read_regions` takes it.
    sequences : pyarrow.Table
        sequence_id, chrom, start, end, strand. A region counts on its own strand (``.`` on both)
        for sequences that have one.

    Returns
    -------
    pandas.Series of str
        By sequence_id: ``yes`` or ``no``; None for a sequence whose place is not known.

    Raises
    ------
    AnnotationError
        If the place of no sequence is known.
    deepmr.genome.regions.RegionsError
        If the file cannot be read.
    """
    placed = np.ones(len(sequences), dtype=np.bool_)
    for name in ("chrom", "start", "end"):
        placed &= sequences[name].is_valid().to_numpy()
    if len(sequences) and not placed.any():
        raise AnnotationError(
            f"{path}: regions say nothing of sequences without chrom, start and end; give the "
            "label table these columns, or write a table with sequence_id"
        )
    strands = np.array(pc.fill_null(sequences["strand"], ".").to_pylist(), dtype=object)
    unknown = sorted(set(strands) - set(_STRANDS))
    if unknown:
        raise AnnotationError(
            f"{path}: the strand of a sequence is {unknown[0]!r}; write {', '.join(_STRANDS)} in "
            "the label table"
        )
    regions = read_regions(path, strand=bool(np.isin(strands, ["+", "-"]).any()))
    chroms = np.array(sequences["chrom"].to_pylist(), dtype=object)
    start, end = (
        pc.fill_null(sequences[name], 0).to_numpy().astype(np.int64) for name in ("start", "end")
    )
    values = np.full(len(sequences), None, dtype=object)
    for chrom, strand in sorted(set(zip(chroms[placed], strands[placed], strict=True))):
        own = regions.on(chrom, strand)
        at = np.flatnonzero(placed & (chroms == chrom) & (strands == strand))
        covered = Cover.of(own.start, own.end).length_in(start[at], end[at])
        values[at] = np.where(2 * covered >= end[at] - start[at], INSIDE, OUTSIDE)
    return pd.Series(values, index=pd.Index(sequences["sequence_id"].to_pylist()), dtype=object)


def read_values(path: str | Path, name: str) -> pd.Series:
    """Read a value for each sequence from a table.

    Parameters
    ----------
    path : path
        Parquet, or TSV or CSV (plain or gzip) with a header: a column sequence_id, and one called
        as the annotation.
    name : str
        The annotation.

    Returns
    -------
    pandas.Series
        By sequence_id: float64 with NaN where the value is missing, if all values are numbers;
        otherwise str with None where it is missing. True and false of Parquet become ``yes`` and
        ``no``. A value is missing that is null, NaN, or one of the texts "", NA, NaN and nan.

    Raises
    ------
    AnnotationError
        File unreadable, column unknown or there twice, no value at all, sequence without a name or
        named twice, infinite number, or more than `MOST_VALUES` different texts.
    """
    path = Path(path)
    ids, values = _columns(path, ["sequence_id", name])
    if ids.null_count:
        raise AnnotationError(f"{path}: {ids.null_count} row(s) without a sequence_id; fill it in")
    index = pd.Index(ids.to_pylist(), dtype=object)
    twice = index[index.duplicated()].unique()
    if len(twice):
        raise AnnotationError(
            f"{path}: {len(twice)} name(s) stand in more than one row: {_some(list(twice))}; "
            "keep one row for each sequence"
        )
    categorical = pa.types.is_dictionary(values.type)
    values = _missing_as_null(values.dictionary_decode() if categorical else values)
    if values.null_count == len(values):
        raise AnnotationError(f"{path}: column {name!r} holds no value at all")
    numbers = None if categorical else _numbers(values)
    if numbers is None:
        return _texts(path, name, values, index)
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise AnnotationError(
            f"{path}: column {name!r} holds an infinite number for {index[infinite[0]]}; "
            "write a finite one, or leave it empty"
        )
    return pd.Series(numbers, index=index)


def check(
    path: str | Path,
    name: str,
    contigs: Mapping[str, int] | None,
    length: int,
    records: Collection[str] | None = None,
) -> None:
    """Refuse an annotation that cannot be used, before any sequence is sampled.

    Parameters
    ----------
    path, name
        As in `read_values`.
    contigs : mapping of str to int, optional
        Length of each sequence of the genome; None where it is not known yet, or there is none.
    length : int
        Bases of a window.
    records : collection of str, optional
        Names of ready sequences, where there is no genome.

    Raises
    ------
    AnnotationError, deepmr.genome.regions.RegionsError
        What `read_values` and `read_regions` refuse; regions that do not fit the genome; a
        sequence_id that no sequence of the run can have.
    """
    if is_regions(path):
        regions = read_regions(path)
        if contigs is not None:
            check_fit(regions, contigs, partial=True)
        return
    ids = [str(one) for one in read_values(path, name).index]
    if records is not None:
        known = set(records)
        unknown = [one for one in ids if one not in known]
        hint = "names are those of the FASTA, up to the first blank"
    elif contigs is not None:
        unknown = [one for one in ids if not _is_window(one, contigs, length)]
        chrom = next(iter(contigs))
        hint = f"a window of {length} bases is called like {chrom}:0-{length}"
    else:
        return
    if unknown:
        raise AnnotationError(
            f"{path}: {len(unknown)} of {len(ids)} sequence ids name no sequence of this run: "
            f"{_some(unknown)}; {hint}"
        )


def _is_window(sequence_id: str, contigs: Mapping[str, int], length: int) -> bool:
    match = _WINDOW_ID.fullmatch(sequence_id)
    if match is None:
        return False
    start, end = int(match["start"]), int(match["end"])
    return end - start == length and end <= contigs.get(match["chrom"], 0)


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix == ".gz" else path).suffix.lower()


def _columns(path: Path, names: Sequence[str]) -> list[pa.Array]:
    """Read columns: of Parquet as they are, of text as strings."""
    try:
        if _suffix(path) == ".parquet":
            present = list(pq.read_schema(path).names)
        else:
            parsing = pa_csv.ParseOptions(delimiter=_DELIMITERS[_suffix(path)])
            with pa_csv.open_csv(path, parse_options=parsing) as stream:
                present = list(stream.schema.names)
        lacking = [name for name in names if name not in present]
        if lacking:
            raise AnnotationError(
                f"{path} has no column {' and none '.join(map(repr, lacking))}; "
                f"it has {', '.join(present)}"
            )
        twice = [name for name in names if present.count(name) > 1]
        if twice:
            raise AnnotationError(f"{path} has two columns {twice[0]!r}; keep one")
        if _suffix(path) == ".parquet":
            table = pq.read_table(path, columns=list(names), partitioning=None)
        else:
            table = pa_csv.read_csv(
                path,
                parse_options=parsing,
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    include_columns=list(names),
                    strings_can_be_null=True,
                    null_values=_MISSING,
                ),
            )
        ids = table[names[0]].cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise AnnotationError(f"{path} cannot be read as a table: {error}") from error
    return [_whole(ids), *(_whole(table[name]) for name in names[1:])]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _missing_as_null(values: pa.Array) -> pa.Array:
    """Make null of what Parquet, unlike the reader of texts, may hold for a missing value."""
    kind = values.type
    if pa.types.is_floating(kind):
        missing = pc.is_nan(values)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        missing = pc.is_in(values, value_set=pa.array(_MISSING, kind))
    else:
        return values
    return pc.if_else(missing, pa.scalar(None, kind), values)


def _numbers(values: pa.Array) -> np.ndarray | None:
    """Return the values as float64 if they are numbers, or texts that all are."""
    kind = values.type
    if pa.types.is_boolean(kind):
        return None
    try:
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    return np.asarray(numbers, dtype=np.float64)


def _texts(path: Path, name: str, values: pa.Array, index: pd.Index) -> pd.Series:
    if pa.types.is_boolean(values.type):
        values = pc.if_else(values, INSIDE, OUTSIDE)
    try:
        texts = values.cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise AnnotationError(
            f"{path}: column {name!r} holds {values.type}; write texts or numbers"
        ) from None
    different = {text for text in texts if text is not None}
    if len(different) > MOST_VALUES:
        raise AnnotationError(
            f"{path}: column {name!r} holds {len(different)} different texts; each becomes a "
            f"stratum, so write {MOST_VALUES} at most, or numbers"
        )
    return pd.Series(texts, index=index, dtype=object)


def _some(names: Sequence[str]) -> str:
    return ", ".join(str(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
