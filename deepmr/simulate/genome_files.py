"""The files of a simulated genome: sequence, peaks and the truth, as a user's own data would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deepmr.genome.alphabet import Codes, decode, reverse_complement
from deepmr.motifs import Motif
from deepmr.outputs import replacing
from deepmr.schemas import TRUTH
from deepmr.simulate.example import CHROMOSOMES, SITE_PROBABILITY, example_structure
from deepmr.simulate.structure import Structure
from deepmr.simulate.true_effects import marginal_slopes
from deepmr.tables import Metadata, write_table

_LETTERS_PER_LINE = 100


class GenomeError(ValueError):
    """A genome cannot be simulated with these numbers."""


@dataclass(frozen=True)
class Genome:
    """A simulated genome that consists of windows standing side by side.

    Attributes
    ----------
    chromosomes : dict of str to ndarray of uint8, shape (n_windows, length)
        The windows of each chromosome.
    labels : dict of str to dict of str to ndarray of bool, shape (n_windows,)
        By chromosome and mark.
    """

    chromosomes: dict[str, Codes]
    labels: dict[str, dict[str, NDArray[np.bool_]]]


def plant_sites(
    codes: Codes, motifs: Sequence[Motif], probability: float, rng: np.random.Generator
) -> None:
    """Write motif sites into sequences, in place.

    Every sequence gets one site of each motif with the given probability. Sites are drawn base by
    base from the motif's probabilities, stand on either strand, lie wholly in the sequence and do
    not overlap; every arrangement of their order and gaps is equally likely.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, length)
        Sequences; changed.
    motifs : sequence of Motif
        What to plant.
    probability : float
        Of a site of each motif in a sequence.
    rng : numpy.random.Generator
        Source of all randomness.

    Raises
    ------
    GenomeError
        If the probability is outside [0, 1], or the sequences are too short to hold a site of
        every motif.
    """
    if not 0 <= probability <= 1:
        raise GenomeError(f"site_probability must be in [0, 1], got {probability}")
    n, length = codes.shape
    widths = np.array([motif.width for motif in motifs], dtype=np.int64)
    if widths.sum() > length:
        raise GenomeError(
            f"windows of {length} bp cannot hold one site of each motif ({widths.sum()} bp "
            f"together); make them at least that long"
        )
    present = rng.random((n, widths.size)) < probability
    # In a random order along the sequence: the sites' widths, and sorted gaps before them.
    order = np.argsort(rng.random((n, widths.size)), axis=1)
    taken = np.take_along_axis(widths * present, order, axis=1)
    free = length - taken.sum(axis=1, keepdims=True)
    gaps = np.sort((rng.random((n, widths.size)) * (free + 1)).astype(np.int64), axis=1)
    starts = np.empty_like(gaps)
    np.put_along_axis(starts, order, gaps + np.cumsum(taken, axis=1) - taken, axis=1)
    for index, motif in enumerate(motifs):
        rows = np.flatnonzero(present[:, index])
        cumulative = np.cumsum(motif.probabilities(), axis=0)[:3]
        uniform = rng.random((rows.size, 1, motif.width))
        sites = (uniform >= cumulative).sum(axis=1).astype(np.uint8)
        turned = rng.random(rows.size) < 0.5
        sites[turned] = reverse_complement(sites[turned])
        columns = starts[rows, index][:, None] + np.arange(motif.width)
        codes[rows[:, None], columns] = sites


def simulate_genome(
    structure: Structure,
    chromosomes: Mapping[str, int],
    length: int,
    site_probability: float,
    seed: int,
) -> Genome:
    """Draw random windows with planted sites, and their labels.

    Parameters
    ----------
    structure : Structure
        The causal model; its motifs are planted.
    chromosomes : mapping of str to int
        Number of windows of each chromosome.
    length : int
        Length of a window in bp.
    site_probability : float
        Of a site of each motif in a window.
    seed : int
        A chromosome depends on the seed and on its place in `chromosomes`, not on the others.

    Returns
    -------
    Genome
        Windows and labels.

    Raises
    ------
    GenomeError
        If there is no chromosome or one has no window, and as `plant_sites`.
    """
    if not chromosomes or min(chromosomes.values()) < 1:
        raise GenomeError(
            f"every chromosome needs at least one window, got {dict(chromosomes)}; "
            "write such as {chr1: 4000}"
        )
    windows: dict[str, Codes] = {}
    labels: dict[str, dict[str, NDArray[np.bool_]]] = {}
    for index, (name, number) in enumerate(chromosomes.items()):
        rng = np.random.default_rng([seed, index])
        codes = rng.integers(0, 4, size=(number, length), dtype=np.uint8)
        plant_sites(codes, list(structure.sites.values()), site_probability, rng)
        windows[name] = codes
        labels[name] = structure.sample_labels(codes, rng)
    return Genome(windows, labels)


def truth_table(structure: Structure, codes: Codes, p_value: float) -> pa.Table:
    """Return the true effect of every mark on every other one.

    Parameters
    ----------
    structure : Structure
        The causal model.
    codes : ndarray of uint8, shape (n, length)
        Sequences whose mutations tell the marginal slopes.
    p_value : float
        Of a hit of the exposure's motif, in which the mutations lie.

    Returns
    -------
    pyarrow.Table
        Schema `deepmr.schemas.TRUTH`; `theta` is the structural effect over all causal paths.
    """
    thetas = structure.total_effects()
    rows = []
    for exposure in structure.names:
        for outcome, slope in marginal_slopes(structure, codes, exposure, p_value).items():
            rows.append(
                {
                    "exposure": exposure,
                    "outcome": outcome,
                    "theta": thetas[exposure, outcome],
                    "marginal_slope": slope.slope,
                    "marginal_slope_se": slope.se,
                    "n_mutations": slope.n_mutations,
                }
            )
    return pa.Table.from_pylist(rows, schema=TRUTH)


def write_genome(
    structure: Structure,
    *,
    fasta: Path | str,
    peaks: Mapping[str, Path | str],
    truth: Path | str,
    chromosomes: Mapping[str, int],
    length: int,
    bin_size: int,
    site_probability: float,
    seed: int,
    truth_windows: int = 400,
    motif_p_value: float = 1e-4,
    metadata: Metadata | None = None,
) -> Genome:
    """Simulate a genome and write its FASTA, one BED file per mark, and the truth.

    A BED interval is exactly the centre bin of a positive window, so windows tiled with this
    length as their stride get the simulated labels back.

    Parameters
    ----------
    structure : Structure
        The causal model.
    fasta, truth : path
        Files to write.
    peaks : mapping of str to path
        BED file of each mark.
    chromosomes : mapping of str to int
        Number of windows of each chromosome.
    length, bin_size : int
        Length of a window and of its centre bin in bp.
    site_probability : float
        Of a site of each motif in a window.
    seed : int
        Decides every byte.
    truth_windows : int
        Windows (the first of the genome) whose mutations tell the marginal slopes.
    motif_p_value : float
        Of a motif hit, as the instruments of the analysis use it.
    metadata : mapping, optional
        Provenance for the truth table.

    Returns
    -------
    Genome
        What was written.

    Raises
    ------
    GenomeError
        If `peaks` does not name exactly the marks, the bin does not fit the window, and as
        `simulate_genome`.
    """
    if set(peaks) != set(structure.names):
        raise GenomeError(
            f"peak files are given for {', '.join(sorted(peaks))}, but the simulated marks are "
            f"{', '.join(sorted(structure.names))}; name one file for each"
        )
    if not 0 < bin_size <= length:
        raise GenomeError(f"the bin must be 1 to {length} bp, the window's length, got {bin_size}")
    genome = simulate_genome(structure, chromosomes, length, site_probability, seed)
    with replacing(fasta) as path:
        _write_fasta(path, genome.chromosomes)
    for mark in structure.names:
        with replacing(peaks[mark]) as path:
            _write_bed(
                path, {c: labels[mark] for c, labels in genome.labels.items()}, length, bin_size
            )
    codes = np.concatenate(list(genome.chromosomes.values()))[:truth_windows]
    write_table(truth_table(structure, codes, motif_p_value), truth, TRUTH, metadata)
    return genome


def write_example(
    motifs: Mapping[str, Motif],
    *,
    fasta: Path | str,
    peaks: Mapping[str, Path | str],
    truth: Path | str,
    length: int,
    bin_size: int,
    seed: int,
    scenario: str = "sequence",
    theta: float = 1.0,
    theta_reversed: float = 0.8,
    windows_per_chromosome: int = 2500,
    motif_p_value: float = 1e-4,
    metadata: Metadata | None = None,
) -> Genome:
    """Write the shipped example: GATA1, NRF1, open and JUND on chr1 to chr8.

    Parameters
    ----------
    motifs : mapping of str to Motif
        Library, from `deepmr.motifs.read_jaspar`.
    fasta, peaks, truth, length, bin_size, seed, motif_p_value, metadata
        As in `write_genome`.
    scenario, theta, theta_reversed
        As in `deepmr.simulate.example.example_structure`.
    windows_per_chromosome : int
        Windows of each chromosome.

    Returns
    -------
    Genome
        What was written.

    Raises
    ------
    ValueError
        As `write_genome` and `example_structure`.
    """
    structure = example_structure(
        motifs, scenario=scenario, theta=theta, theta_reversed=theta_reversed
    )
    return write_genome(
        structure,
        fasta=fasta,
        peaks=peaks,
        truth=truth,
        chromosomes=dict.fromkeys(CHROMOSOMES, windows_per_chromosome),
        length=length,
        bin_size=bin_size,
        site_probability=SITE_PROBABILITY,
        seed=seed,
        motif_p_value=motif_p_value,
        metadata=metadata,
    )


def _write_fasta(path: Path, chromosomes: Mapping[str, Codes]) -> None:
    with path.open("w", encoding="ascii", newline="\n") as out:
        for name, windows in chromosomes.items():
            letters = decode(windows.reshape(-1))
            out.write(f">{name}\n")
            for start in range(0, len(letters), _LETTERS_PER_LINE):
                out.write(letters[start : start + _LETTERS_PER_LINE] + "\n")


def _write_bed(
    path: Path, labels: Mapping[str, NDArray[np.bool_]], length: int, bin_size: int
) -> None:
    with path.open("w", encoding="ascii", newline="\n") as out:
        for chromosome, positive in labels.items():
            for start in np.flatnonzero(positive) * length + (length - bin_size) // 2:
                out.write(f"{chromosome}\t{start}\t{start + bin_size}\n")
