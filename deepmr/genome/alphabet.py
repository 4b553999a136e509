"""Nucleotide letters as small integers: A 0, C 1, G 2, T (or U) 3, anything ambiguous 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]

BASES = "ACGT"
AMBIGUOUS = 4
"""Code of N and of every other IUPAC ambiguity letter."""

_INVALID = 255
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
_COMPLEMENT = np.array([3, 2, 1, 0, AMBIGUOUS], dtype=np.uint8)
_ALTERNATIVES = np.array(
    [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [AMBIGUOUS] * 3], dtype=np.uint8
)
_ONE_HOT = np.vstack([np.eye(4, dtype=np.float32), np.zeros((1, 4), dtype=np.float32)])


def _letter_table() -> Codes:
    table = np.full(256, _INVALID, dtype=np.uint8)
    for code, letters in enumerate(("A", "C", "G", "TU", "NRYSWKMBDHV")):
        for letter in letters + letters.lower():
            table[ord(letter)] = code
    return table


_TABLE = _letter_table()


class InvalidLetterError(ValueError):
    """A sequence holds a letter that is no nucleotide code.

    Attributes
    ----------
    position : int
        0-based position of the first such letter.
    letter : str
        The letter.
    """

    def __init__(self, position: int, letter: str) -> None:
        self.position = position
        self.letter = letter
        super().__init__(
            f"letter {letter!r} at position {position} is not a nucleotide; "
            "write A, C, G, T (or U), or an IUPAC ambiguity letter such as N"
        )


def encode(sequence: str | bytes) -> Codes:
    """Turn letters into codes; lower case (soft-masked) letters count as upper case.

    Parameters
    ----------
    sequence : str or bytes
        Nucleotides; U is read as T, IUPAC ambiguity letters as ambiguous.

    Returns
    -------
    ndarray of uint8, shape (length,)
        0-3 for A, C, G, T and 4 for ambiguous.

    Raises
    ------
    InvalidLetterError
        If a letter is no IUPAC nucleotide code.
    """
    raw = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    codes: Codes = _TABLE[np.frombuffer(raw, dtype=np.uint8)]
    invalid = codes == _INVALID
    if invalid.any():
        position = int(invalid.argmax())
        raise InvalidLetterError(position, chr(raw[position]))
    return codes


def decode(codes: Codes) -> str:
    """Turn codes of shape (length,) back into the letters ACGTN."""
    return _LETTERS[codes].tobytes().decode("ascii")


def one_hot(codes: Codes) -> NDArray[np.float32]:
    """Return the (..., 4, length) one-hot array of (..., length) codes; ambiguous is all zero."""
    return np.ascontiguousarray(np.moveaxis(_ONE_HOT[codes], -1, -2))


def reverse_complement(codes: Codes) -> Codes:
    """Return the reverse complement of codes of shape (..., length)."""
    return np.ascontiguousarray(_COMPLEMENT[codes][..., ::-1])


def alternatives(codes: Codes) -> Codes:
    """Return the other three bases, (…, 3), in the order ACGT; all ambiguous for ambiguous."""
    return _ALTERNATIVES[codes]
