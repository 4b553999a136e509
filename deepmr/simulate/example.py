"""The causal model of the shipped example: a cause, a decoy, a reversed pair and a confounder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmr.genome.alphabet import encode
from deepmr.motifs import Motif
from deepmr.simulate.structure import Mark, Structure
from deepmr.simulate.true_effects import saturation

CONFOUNDER = "SPI1"

OPENER = "TAL1::TCF3"
"""Motif that opens chromatin directly. It shares no core with the other motifs; CTCF, which shares
GCGC with NRF1, would let mutations and networks mix them up."""

SITE_PROBABILITY = 0.4
CHROMOSOMES = ("chr1", "chr2", "chr3", "chr4", "chr5", "chr6", "chr7", "chr8")


def example_structure(
    motifs: Mapping[str, Motif],
    *,
    scenario: str = "sequence",
    theta: float = 1.0,
    theta_reversed: float = 0.8,
) -> Structure:
    """Return the model: GATA1 opens chromatin, NRF1 does not, and open chromatin lets JUND bind.

    The confounder motif SPI1 drives GATA1, NRF1 and open, so all of them correlate. TAL1::TCF3
    sites open chromatin directly. Intercepts and effects keep most logits within about +-4: labels
    say nothing about how far beyond that a logit lies, so no network could learn it.

    Parameters
    ----------
    motifs : mapping of str to Motif
        Library with GATA1, NRF1, JUND, TAL1::TCF3 and SPI1.
    scenario : str
        See `deepmr.simulate.structure.SCENARIOS`.
    theta : float
        Effect of GATA1 on open, logit per logit.
    theta_reversed : float
        Effect of open on JUND, logit per logit.

    Returns
    -------
    Structure
        With the marks GATA1, NRF1, open and JUND.

    Raises
    ------
    deepmr.simulate.structure.StructureError
        If the scenario is unknown.
    deepmr.motifs.MotifError
        If a motif is not in the library.
    """
    marks = [
        Mark("GATA1", "GATA1", intercept=-2.2, effect=4.5, confounder=1.2),
        Mark("NRF1", "NRF1", intercept=-2.3, effect=4.5, confounder=1.2),
        Mark("open", OPENER, intercept=-0.9, effect=2.5, confounder=0.8, causes={"GATA1": theta}),
        Mark("JUND", "JUND", intercept=-1.3, effect=3.0, causes={"open": theta_reversed}),
    ]
    return Structure(marks, motifs, CONFOUNDER, scenario=scenario)


def true_effects(
    motifs: Mapping[str, Motif], sequences: Sequence[str], simulation: Mapping[str, Any]
) -> dict[str, NDArray[np.float64]]:
    """Return by mark the true effects of all substitutions of sequences of the shipped example.

    Parameters
    ----------
    motifs : mapping of str to Motif
        As for `example_structure`.
    sequences : sequence of str
        Sequences of the same length.
    simulation : mapping
        Section ``simulation`` of the configuration.

    Returns
    -------
    dict of str to ndarray, shape (n, length, 3)
        See `deepmr.simulate.true_effects.saturation`.
    """
    causal = {key: simulation[key] for key in ("scenario", "theta", "theta_reversed")}
    codes = np.stack([encode(letters) for letters in sequences])
    return saturation(example_structure(motifs, **causal), codes)
