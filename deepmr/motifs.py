"""Sequence motifs: JASPAR count matrices, their scores, and where a sequence holds a site."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, BASES, Codes

Scores = NDArray[np.float64]

BACKGROUND = 0.25
"""Probability of every base outside sites."""

PSEUDOCOUNT = 0.8
"""Counts added to a column in all (a quarter to each base), so that no score is infinite."""

SCORE_STEPS_PER_BIT = 1024
"""Scores are multiples of 1/1024 bit: sums of them are exact in float64, whatever their order,
which makes the score distribution of `threshold` exact and the two strands comparable."""


class MotifError(ValueError):
    """A motif file cannot be read, a motif is not in it, or it cannot be used as asked."""


@dataclass(frozen=True, eq=False)
class Motif:
    """A count matrix.

    Attributes
    ----------
    id : str
        Matrix ID with its version, such as ``MA0035.4``.
    name : str
        Name of the factor.
    counts : ndarray of float64, shape (4, width)
        Sites with A, C, G, T at every position.
    """

    id: str
    name: str
    counts: Scores

    @property
    def width(self) -> int:
        """Number of positions."""
        return int(self.counts.shape[1])

    def probabilities(self, pseudocount: float = 0.0) -> Scores:
        """Return the (4, width) base probabilities; every column sums to 1."""
        padded = self.counts + pseudocount * BACKGROUND
        return np.asarray(padded / padded.sum(axis=0), dtype=np.float64)

    def log_odds(self, pseudocount: float = PSEUDOCOUNT) -> Scores:
        """Return the scoring matrix.

        Parameters
        ----------
        pseudocount : float
            Counts added to every column in all; above 0.

        Returns
        -------
        ndarray of float64, shape (4, width)
            log2 of probability over background, in bits, rounded to 1/1024 bit.
        """
        bits = np.log2(self.probabilities(pseudocount) / BACKGROUND)
        return np.asarray(np.rint(bits * SCORE_STEPS_PER_BIT) / SCORE_STEPS_PER_BIT)


def read_jaspar(path: Path | str) -> dict[str, Motif]:
    """Read count matrices in JASPAR format.

    A record is a line ``>ID name`` and four lines ``A [ 1 2 3 ]`` for A, C, G, T in any order
    (the brackets may be missing). Empty lines and lines starting with ``#`` are skipped.

    Parameters
    ----------
    path : path
        Text file.

    Returns
    -------
    dict of str to Motif
        By matrix ID, in the order of the file.

    Raises
    ------
    MotifError
        With file and line, if a record is incomplete or not numeric, if a column has no counts,
        or if an ID stands twice.
    """
    path = Path(path)
    motifs: dict[str, Motif] = {}
    header: tuple[int, str, str] | None = None
    rows: dict[str, list[float]] = {}

    def close() -> None:
        if header is not None:
            motif = _motif(path, header, rows)
            if motif.id in motifs:
                raise MotifError(
                    f"{path}, line {header[0]}: motif {motif.id} stands twice; keep one of them"
                )
            motifs[motif.id] = motif

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith(">"):
            close()
            words = text[1:].split(maxsplit=1)
            if not words:
                raise MotifError(f"{path}, line {number}: '>' without an ID; write '>ID name'")
            header, rows = (number, words[0], words[-1]), {}
            continue
        if header is None:
            raise MotifError(
                f"{path}, line {number}: {text[:40]!r} comes before any '>ID name' line; "
                "is this a JASPAR file?"
            )
        base, values = _row(path, number, text)
        if base in rows:
            raise MotifError(f"{path}, line {number}: {header[1]} has a second row for {base}")
        rows[base] = values
    close()
    if not motifs:
        raise MotifError(f"{path}: no motif in it; a record starts with a line '>ID name'")
    return motifs


def _row(path: Path, number: int, text: str) -> tuple[str, list[float]]:
    match = re.fullmatch(r"([ACGTacgt])\s*\[?([^\[\]]*)\]?", text)
    try:
        if match is None:
            raise ValueError(text)
        values = [float(word) for word in match[2].split()]
        if not values or not np.isfinite(values).all() or min(values) < 0:
            raise ValueError(text)
    except ValueError:
        raise MotifError(
            f"{path}, line {number}: {text[:40]!r} is no row of counts; "
            "write a base and its counts, such as 'A [ 4 0 12 ]'"
        ) from None
    return match[1].upper(), values


def _motif(path: Path, header: tuple[int, str, str], rows: Mapping[str, list[float]]) -> Motif:
    number, matrix_id, name = header
    where = f"{path}, line {number}: motif {matrix_id}"
    missing = [base for base in BASES if base not in rows]
    if missing:
        raise MotifError(f"{where} has no row for {', '.join(missing)}; it needs A, C, G and T")
    widths = {base: len(rows[base]) for base in BASES}
    if len(set(widths.values())) > 1:
        raise MotifError(f"{where} has rows of unequal length: {widths}")
    counts = np.array([rows[base] for base in BASES], dtype=np.float64)
    empty = np.flatnonzero(counts.sum(axis=0) == 0)
    if empty.size:
        raise MotifError(f"{where} has no counts at position {empty[0] + 1}")
    return Motif(matrix_id, name, counts)


def find(motifs: Mapping[str, Motif], key: str) -> Motif:
    """Return the motif with this ID, or with this name when only one has it.

    Parameters
    ----------
    motifs : mapping of str to Motif
        By ID, from `read_jaspar`.
    key : str
        An ID, or a name (in upper or lower case).

    Raises
    ------
    MotifError
        If there is none, or several have the name; lists what is there.
    """
    if key in motifs:
        return motifs[key]
    named = [motif for motif in motifs.values() if motif.name.casefold() == key.casefold()]
    if len(named) == 1:
        return named[0]
    if named:
        listed = ", ".join(motif.id for motif in named)
        raise MotifError(f"{len(named)} motifs are called {key!r}; write the ID of one: {listed}")
    listed = ", ".join(f"{motif.id} ({motif.name})" for motif in motifs.values())
    raise MotifError(f"no motif with ID or name {key!r}; there are: {listed}")


def of_targets(
    motifs: Mapping[str, Motif], targets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Motif | None]:
    """Return the motif of each target of the configuration's section ``targets``, if it has one.

    Raises
    ------
    MotifError
        If the library has no such motif, or several.
    """
    return {
        name: None if target["motif"] is None else find(motifs, target["motif"])
        for name, target in targets.items()
    }


def score_distribution(log_odds: Scores) -> tuple[Scores, Scores]:
    """Return all scores a random word can have and their upper tail probabilities.

    Exact, by convolution over the positions (Staden 1989, CABIOS 5:89), because scores are
    multiples of 1/1024 bit.

    Parameters
    ----------
    log_odds : ndarray, shape (4, width)
        Scoring matrix in bits, from `Motif.log_odds`.

    Returns
    -------
    scores : ndarray of float64, shape (n_scores,)
        Ascending, in bits; only scores that some word has.
    tail : ndarray of float64, shape (n_scores,)
        Probability that a word of background bases scores at least that much.
    """
    steps = np.rint(log_odds * SCORE_STEPS_PER_BIT).astype(np.int64)
    lowest = steps.min(axis=0)
    distribution = np.ones(1)
    for column in (steps - lowest).T:
        wider = np.zeros(distribution.size + int(column.max()))
        for shift in column:
            wider[shift : shift + distribution.size] += BACKGROUND * distribution
        distribution = wider
    reached = np.flatnonzero(distribution)
    scores = (reached + lowest.sum()) / SCORE_STEPS_PER_BIT
    tail = np.cumsum(distribution[reached][::-1])[::-1]
    return np.asarray(scores, dtype=np.float64), np.asarray(tail, dtype=np.float64)


def threshold(motif: Motif, p_value: float, pseudocount: float = PSEUDOCOUNT) -> float:
    """Return the lowest score that a random word reaches with at most this probability.

    Parameters
    ----------
    motif : Motif
        The motif.
    p_value : float
        For one word on one strand; in (0, 1).
    pseudocount : float
        As in `Motif.log_odds`.

    Returns
    -------
    float
        Score in bits; a site is a word with this score or more.

    Raises
    ------
    MotifError
        If `p_value` is outside (0, 1), or the motif is too short or too vague for any of its
        words to be so rare.
    """
    if not 0 < p_value < 1:
        raise MotifError(f"the p-value of a motif hit must be in (0, 1), got {p_value}")
    scores, tail = score_distribution(motif.log_odds(pseudocount))
    # A tail probability is a sum of many terms: 1e-9 forgives its rounding.
    rare = tail <= p_value * (1 + 1e-9)
    if not rare.any():
        raise MotifError(
            f"motif {motif.id} ({motif.name}): even its best word has p = {tail[-1]:.2g}, above "
            f"{p_value:g}; raise the p-value or take a longer motif"
        )
    return float(scores[int(rare.argmax())])


def scan(codes: Codes, log_odds: Scores) -> Scores:
    """Score every word of sequences on both strands.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, length)
        Sequences.
    log_odds : ndarray, shape (4, width)
        Scoring matrix in bits.

    Returns
    -------
    ndarray of float64, shape (n, 2, length - width + 1)
        Scores in bits by the word's first position on the forward strand; [:, 0] of the word as
        read forward, [:, 1] of its reverse complement. A word that holds an ambiguous base has
        -inf. The last axis is empty when the sequences are shorter than the motif. A sequence's
        scores do not depend on its neighbours in the array.
    """
    n, length = codes.shape
    width = log_odds.shape[1]
    words = max(length - width + 1, 0)
    padded = np.full((2, AMBIGUOUS + 1, width), -np.inf)
    padded[0, :AMBIGUOUS] = log_odds
    padded[1, :AMBIGUOUS] = log_odds[::-1, ::-1]
    scores = np.zeros((n, 2, words))
    for position in range(width if words else 0):
        letters = codes[:, position : position + words]
        for strand in range(2):
            scores[:, strand] += padded[strand, :, position][letters]
    return scores


def word_scores(
    codes: Codes,
    motif: Motif,
    both_strands: bool = True,
    pseudocount: float = PSEUDOCOUNT,
) -> Scores:
    """Score every word of sequences on whichever strand suits it better.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, length)
        Sequences.
    motif : Motif
        The motif.
    both_strands : bool
        Also look at the reverse complement (False for RNA).
    pseudocount : float
        As in `Motif.log_odds`.

    Returns
    -------
    ndarray of float64, shape (n, length - width + 1)
        Scores in bits by the word's first position; as those of `scan`.
    """
    scores = scan(codes, motif.log_odds(pseudocount))
    return scores.max(axis=1) if both_strands else scores[:, 0]


def hit_positions(
    codes: Codes,
    motif: Motif,
    p_value: float,
    both_strands: bool = True,
    pseudocount: float = PSEUDOCOUNT,
) -> NDArray[np.bool_]:
    """Mark the positions that lie inside a hit of a motif.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, length)
        Sequences.
    motif : Motif
        The motif.
    p_value : float
        A hit is a word whose score a random word reaches with at most this probability.
    both_strands : bool
        Also look for the reverse complement (False for RNA).
    pseudocount : float
        As in `Motif.log_odds`.

    Returns
    -------
    ndarray of bool, shape (n, length)
        True at every position of every hit.

    Raises
    ------
    MotifError
        As `threshold`.
    """
    lowest = threshold(motif, p_value, pseudocount)
    starts = word_scores(codes, motif, both_strands, pseudocount) >= lowest
    inside = np.zeros(codes.shape, dtype=np.bool_)
    for position in range(motif.width if starts.shape[1] else 0):
        inside[:, position : position + starts.shape[1]] |= starts
    return inside
