"""True effects of mutations in the simulator, and the slopes that they make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, Codes, alternatives
from deepmr.motifs import hit_positions
from deepmr.simulate.structure import Floats, Structure, StructureError

_MUTANTS_PER_CHUNK = 20_000


@dataclass(frozen=True)
class Slope:
    """Slope of the true effects on an outcome against those on an exposure.

    Attributes
    ----------
    slope, se : float
        Through the origin; SE robust to mutations of one window not being independent. NaN
        without a mutation (the SE also with mutations of a single window).
    n_mutations : int
        Number of mutations.
    """

    slope: float
    se: float
    n_mutations: int


def marginal_effects(
    structure: Structure,
    codes: Codes,
    rows: NDArray[np.integer],
    positions: NDArray[np.integer],
    bases: Codes,
) -> dict[str, Floats]:
    """Return what single mutations change in the marginal logits.

    Parameters
    ----------
    structure : Structure
        The causal model.
    codes : ndarray of uint8, shape (n, length)
        Sequences.
    rows, positions : ndarray of int, shape (m,)
        Sequence and position of each mutation.
    bases : ndarray of uint8, shape (m,)
        Codes that are put in.

    Returns
    -------
    dict of str to ndarray of float64, shape (m,)
        By mark, on the logit scale.
    """
    used, place = np.unique(rows, return_inverse=True)
    reference = structure.marginal_logits(codes[used])
    effects: dict[str, Floats] = {name: np.zeros(rows.size) for name in structure.names}
    for first in range(0, rows.size, _MUTANTS_PER_CHUNK):
        chunk = slice(first, first + _MUTANTS_PER_CHUNK)
        mutants = codes[rows[chunk]]
        mutants[np.arange(len(mutants)), positions[chunk]] = bases[chunk]
        for name, values in structure.marginal_logits(mutants).items():
            effects[name][chunk] = values - reference[name][place[chunk]]
    return effects


def saturation(structure: Structure, codes: Codes) -> dict[str, Floats]:
    """Return the true effects of all substitutions, as a perfect network would have them.

    Parameters
    ----------
    structure : Structure
        The causal model.
    codes : ndarray of uint8, shape (n, length)
        Sequences.

    Returns
    -------
    dict of str to ndarray of float64, shape (n, length, 3)
        By mark; the alternatives are the other three bases in the order ACGT. NaN where the
        reference is ambiguous.
    """
    n, length = codes.shape
    rows = np.repeat(np.arange(n), 3 * length)
    positions = np.tile(np.repeat(np.arange(length), 3), n)
    found = marginal_effects(structure, codes, rows, positions, alternatives(codes).ravel())
    unknown = np.repeat(codes == AMBIGUOUS, 3, axis=1).reshape(n, length, 3)
    return {
        name: np.where(unknown, np.nan, effects.reshape(n, length, 3))
        for name, effects in found.items()
    }


def marginal_slopes(
    structure: Structure, codes: Codes, exposure: str, p_value: float = 1e-4
) -> dict[str, Slope]:
    """Return the slopes that Mendelian randomization should find in a perfect network.

    All substitutions inside hits of the exposure's own motif are applied one at a time to the
    sequences; the true changes of the marginal logit of every other mark are regressed through the
    origin on those of the exposure (inverse-variance weighting with equal weights).

    Parameters
    ----------
    structure : Structure
        The causal model.
    codes : ndarray of uint8, shape (n, length)
        Sequences; those without a hit add nothing.
    exposure : str
        Name of a mark.
    p_value : float
        Of a motif hit, as in `deepmr.motifs.hit_positions`.

    Returns
    -------
    dict of str to Slope
        By outcome: every other mark.

    Raises
    ------
    StructureError
        If there is no mark of that name.
    """
    if exposure not in structure.names:
        raise StructureError(f"no mark {exposure!r}; there are: {', '.join(structure.names)}")
    rows, positions = np.nonzero(hit_positions(codes, structure.motif(exposure), p_value))
    rows, positions = np.repeat(rows, 3), np.repeat(positions, 3)
    bases = alternatives(codes[rows[::3], positions[::3]]).ravel()
    effects = marginal_effects(structure, codes, rows, positions, bases)
    return {
        outcome: _through_origin(effects[exposure], effects[outcome], rows)
        for outcome in structure.names
        if outcome != exposure
    }


def _through_origin(x: Floats, y: Floats, windows: NDArray[np.int64]) -> Slope:
    squares = float(x @ x)
    if squares == 0:
        return Slope(np.nan, np.nan, x.size)
    slope = float(x @ y) / squares
    scores = np.bincount(windows, weights=x * (y - slope * x))
    n = scores.size
    se = float(np.sqrt(scores @ scores * n / (n - 1))) / squares if n > 1 else np.nan
    return Slope(slope, se, x.size)
