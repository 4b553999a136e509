"""What can be wrong with a genome, its interval files, or ready sequences and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepmr.genome import labelled
from deepmr.genome.annotations import check as check_annotation
from deepmr.genome.annotations import is_regions
from deepmr.genome.fasta import SequenceReader
from deepmr.genome.regions import check_fit, read_regions
from deepmr.genome.windows import tile

Config = Mapping[str, Any]

_ROWS = 20_000
"""Sequences read at a time."""


def problems(
    config: Config, files: Mapping[str, Path], index_dir: Path, *, letters_known: bool = False
) -> list[str]:
    """Open the input files of a run and collect what is wrong.

    A genome is looked at through its index only; ready sequences are read through.

    Parameters
    ----------
    config : mapping
        The configuration, defaults filled in.
    files : mapping of str to Path
        The files by the key that names them; all exist. Without data.fasta (a simulated genome)
        only the interval files are read.
    index_dir : Path
        Folder of the index where that of the FASTA is not writable.
    letters_known : bool
        The letters of the ready sequences have been checked before.

    Returns
    -------
    list of str
        One line for each problem, which begins with the key.
    """
    data = config["data"]
    if "data.fasta" not in files:
        return [
            *_interval_problems(config, files, None),
            *_annotation_problems(config, files, None),
        ]
    try:
        reader = SequenceReader(
            files["data.fasta"],
            data.get("strand", False),
            source=data["source"],
            index_dir=index_dir,
        )
    except ValueError as error:
        return [
            f"data.fasta: {error}",
            *_interval_problems(config, files, None),
            *_annotation_problems(config, files, None),
        ]
    with reader:
        if data["source"] == "genome":
            return [
                *_split_problems(config, reader.contigs),
                *_interval_problems(config, files, reader.contigs),
                *_annotation_problems(config, files, reader.contigs),
            ]
        found = [
            *_label_problems(config, files, reader),
            *_annotation_problems(config, files, reader.contigs),
        ]
        return found if letters_known else [*found, *_letter_problems(reader)]


def _interval_problems(
    config: Config, files: Mapping[str, Path], contigs: Mapping[str, int] | None
) -> list[str]:
    found = []
    strand = config["data"].get("strand", False)
    for key, path in files.items():
        if not key.endswith((".peaks", ".measured", ".blacklist")):
            continue
        settings: dict[str, Any] = {}
        if key.endswith(".peaks"):
            target = config["targets"][key.split(".")[1]]
            settings = {k: target[k] for k in ("extend", "value_column") if target.get(k)}
        try:
            regions = read_regions(path, strand=strand and key != "data.blacklist", **settings)
            if contigs is not None:
                check_fit(regions, contigs, partial=key == "data.blacklist")
        except ValueError as error:
            found.append(f"{key}: {error}")
    return found


def _annotation_problems(
    config: Config, files: Mapping[str, Path], contigs: Mapping[str, int] | None
) -> list[str]:
    found = []
    ready = config["data"]["source"] == "sequences"
    for key, path in files.items():
        name = key.removeprefix("meta.annotations.")
        if name == key:
            continue
        try:
            if not ready:
                check_annotation(path, name, contigs, config["windows"]["length"])
            elif is_regions(path):
                check_annotation(path, name, None, config["windows"]["length"])
                lacking = labelled.missing_columns(files["data.labels"], ("chrom", "start", "end"))
                if lacking:
                    found.append(
                        f"{key}: {path} holds regions, but {files['data.labels']} does not say "
                        f"where the sequences lie: it has no column {', '.join(lacking)}; add it, "
                        "or write a table with sequence_id"
                    )
            else:
                check_annotation(path, name, None, config["windows"]["length"], records=contigs)
        except ValueError as error:
            found.append(f"{key}: {error}")
    return found


def _split_problems(config: Config, contigs: Mapping[str, int]) -> list[str]:
    windows, split = config["windows"], config["split"]
    length = windows["length"]
    longest = max(contigs.values())
    if length > longest:
        return [
            f"windows.length: {length} is longer than every sequence of the FASTA "
            f"(the longest has {longest} bases); write a smaller one"
        ]
    found = []
    named: dict[str, str] = {}
    told: set[str] = set()
    for part in ("validation", "test", "exclude"):
        for chrom in split.get(part, []):
            if chrom not in contigs:
                some = ", ".join(list(contigs)[:5])
                told.add(part)
                found.append(f"split.{part}: the FASTA has no {chrom!r}; it has {some}, ...")
            if chrom in named:
                told |= {part, named[chrom]}
                found.append(f"split.{part}: {chrom} is in split.{named[chrom]} too; name it once")
            named[chrom] = part
    left = dict.fromkeys(("train", "validation", "test", "exclude"), 0)
    for chrom, size in contigs.items():
        left[named.get(chrom, "train")] += len(tile(size, length, windows["stride"]))
    found += [
        f"split{'' if part == 'train' else '.' + part}: no {part} window is left; every "
        f"chromosome of it is shorter than windows.length ({length}), or none is named"
        for part in ("train", "validation", "test")
        if not left[part] and part not in told
    ]
    return found


def _label_problems(config: Config, files: Mapping[str, Path], reader: SequenceReader) -> list[str]:
    split = {part: config["split"].get(part, []) for part in ("validation", "test", "exclude")}
    path = files["data.labels"]
    try:
        table = labelled.match(
            reader, path, config["targets"], any(split.values()), config["windows"]["length"]
        )
    except ValueError as error:
        return [f"data.labels: {error}"]
    try:
        assigned = labelled.assign_splits(table, path, **split)
    except ValueError as error:
        return [f"split: {error}"]
    return [
        f"split: no {part} sequence is left of {len(assigned)}; change split, or the column "
        f"{'chrom' if any(split.values()) else 'split'} of {path}"
        for part in ("train", "validation", "test")
        if not (assigned == part).any()
    ]


def _letter_problems(reader: SequenceReader) -> list[str]:
    names = list(reader.contigs)
    try:
        # Grouped by length: unequal lengths are a matter of the label check, which tells them once.
        for first in range(0, len(names), _ROWS):
            by_length: dict[int, list[str]] = {}
            for name in names[first : first + _ROWS]:
                by_length.setdefault(reader.contigs[name], []).append(name)
            for length, group in by_length.items():
                if length:
                    reader.records(group)
    except ValueError as error:
        return [f"data.fasta: {error}"]
    return []
