"""From the configuration's sections to labelled windows, whichever form the input has."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from deepmr.genome import labelled, windows
from deepmr.genome.fasta import SequenceReader

Section = Mapping[str, Any]


def open_reader(data: Section, index_dir: str | Path | None = None) -> SequenceReader:
    """Open the sequences that the ``data`` section names.

    Parameters
    ----------
    data : mapping
        Section ``data`` of the configuration.
    index_dir : path, optional
        Folder of the FASTA's index when its own folder is not writable.

    Returns
    -------
    SequenceReader
        Reads windows by coordinate or by name, as ``data.source`` says.
    """
    return SequenceReader(
        Path(data["directory"]) / data["fasta"],
        data["strand"],
        source=data["source"],
        index_dir=index_dir,
    )


def extract(
    data: Section,
    targets: Mapping[str, Section],
    geometry: Section,
    split: Section,
    *,
    seed: int,
    index_dir: str | Path | None = None,
) -> tuple[pa.Table, dict[str, Any]]:
    """Return the labelled windows of a run and what was counted on the way.

    Parameters
    ----------
    data, targets, geometry, split : mapping
        Sections ``data``, ``targets``, ``windows`` and ``split`` of the configuration.
    seed : int
        Seed of the choice of all-negative windows.
    index_dir : path, optional
        As in :func:`open_reader`.

    Returns
    -------
    table : pyarrow.Table
        Schema of ``windows.parquet``.
    counts : dict
        Windows tiled, kept and left out, and positives by split and target; also in the log.
    """
    directory = Path(data["directory"])
    parts = {part: split[part] for part in ("validation", "test", "exclude")}
    with open_reader(data, index_dir) as reader:
        if data["source"] == "sequences":
            table, counts = labelled.extract(
                reader,
                directory / data["labels"],
                targets,
                length=geometry["length"],
                negatives_per_positive=geometry["negatives_per_positive"],
                seed=seed,
                **parts,
            )
        else:
            blacklist = data["blacklist"]
            table, counts = windows.extract(
                reader,
                targets,
                length=geometry["length"],
                bin=geometry["bin"],
                stride=geometry["stride"],
                negatives_per_positive=geometry["negatives_per_positive"],
                blacklist=None if blacklist is None else directory / blacklist,
                directory=directory,
                seed=seed,
                **parts,
            )
    logging.info("%s", json.dumps(counts, indent=1))
    return table, counts
