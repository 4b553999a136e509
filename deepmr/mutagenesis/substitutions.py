"""Every single-base substitution of a sequence, and what it adds to the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, Codes, alternatives, one_hot

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Effects:
    """Outputs of n sequences and what every substitution adds to them, on the link scale.

    The alternatives of a position are the other three bases in the order ACGT. Where the
    reference is ambiguous there is no effect: NaN.

    Attributes
    ----------
    targets : tuple of str
        The K targets.
    reference : ndarray of float32, shape (n, T, K)
        Output of each draw for the unmutated sequence.
    reference_eval : ndarray of float32, shape (n, K)
        The same without dropout (mean over members).
    delta : ndarray of float32, shape (n, length, 3, T, K)
        Mutant minus reference, of each draw.
    delta_eval : ndarray of float32, shape (n, length, 3, K)
        The same without dropout.
    """

    targets: tuple[str, ...]
    reference: Float
    reference_eval: Float
    delta: Float
    delta_eval: Float


def as_codes(sequences: NDArray[Any]) -> Codes:
    """Return codes (n, length) from codes or from one-hot (n, 4, length).

    Raises
    ------
    ValueError
        If an array of three axes is not one-hot, or one of two axes holds no codes.
    """
    if sequences.ndim == 3 and sequences.shape[1] == 4:
        codes = np.where(sequences.any(1), sequences.argmax(1), AMBIGUOUS).astype(np.uint8)
        if not np.array_equal(one_hot(codes), sequences):
            raise ValueError(
                "the sequences are not one-hot: a position must be one 1 and three 0, or all 0 "
                "where the base is ambiguous"
            )
        return codes
    if sequences.ndim != 2 or sequences.dtype != np.uint8 or (sequences > AMBIGUOUS).any():
        raise ValueError(
            f"the sequences are {sequences.dtype} of shape {sequences.shape}; give uint8 codes "
            "(n, length) from 0 to 4 or a one-hot array (n, 4, length)"
        )
    return sequences


def mutants(codes: Codes, start: int, stop: int) -> Codes:
    """Return rows start to stop of the 1 + 3·length rows of a sequence's saturation.

    Row 0 is the sequence, row 1 + 3·i + j has alternative j at position i.
    """
    rows = np.tile(codes, (stop - start, 1))
    index = np.arange(max(start, 1), stop)
    position, alternative = np.divmod(index - 1, 3)
    rows[index - start, position] = alternatives(codes)[position, alternative]
    return rows
