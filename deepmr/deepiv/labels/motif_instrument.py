"""The instrument of measured labels: the best word of the exposure's motif in each window.

The instrument z is the score of that word, the context c is the window with the word masked. Every
window is masked, with or without a real site: masking sites alone would tell from the context
whether there was one, which is z. The context is turned so that the word reads forward, so that
what surrounds a site stands on the side where the site expects it.

Masking hides what other factors see in the word, and a word that is no real site overlaps sites
of theirs more often than a real one does: with these sites out of the context, the score would tell
of them, and exclusion (the word acts on the outcome through the exposure only) would break. So how
well other motifs fit onto the word is part of the context (`MotifInstrument.overlapping`). Where
two motifs are alike, it leaves little for the score to decide: the instrument is weak, as it must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deepmr.genome.alphabet import AMBIGUOUS, Codes, reverse_complement
from deepmr.motifs import Motif, MotifError, scan, word_scores

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BATCH = 4096
"""Windows scanned at once: the scores of all words of many windows would fill the memory."""


@dataclass(frozen=True, eq=False)
class MotifInstrument:
    """The best word of a motif in n windows, and what is left of them.

    Attributes
    ----------
    score : ndarray of float64, shape (n,)
        Log odds of the best word, in bits; -inf where every word holds an ambiguous base.
    position : ndarray of int64, shape (n,)
        First base of the word on the forward strand; -1 where there is none.
    reverse : ndarray of bool, shape (n,)
        The word reads forward on the reverse strand.
    context : ndarray of uint8, shape (n, length)
        Codes with the word ambiguous, as the word's strand reads. A window without a word is left
        as it is.
    overlapping : ndarray of float64, shape (n, other motifs)
        Log odds of each other motif's best word that overlaps the word, in bits; the lowest that a
        word can have where there is none.
    """

    score: Array
    position: NDArray[np.int64]
    reverse: Flags
    context: Codes
    overlapping: Array

    @property
    def usable(self) -> Flags:
        """Windows (n,) that have a word, and so a finite score; leave the others out."""
        return np.isfinite(self.score)


def motif_instrument(
    codes: Codes,
    motif: Motif,
    *,
    both_strands: bool = True,
    others: Sequence[Motif] = (),
) -> MotifInstrument:
    """Split windows into the best word of a motif and its context.

    Of words with the same score the first in scan order is taken: forward strand, then leftmost.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, length)
        Windows.
    motif : Motif
        Of the exposure.
    both_strands : bool
        Also look at the reverse complement (False for RNA); if so, a window and its reverse
        complement have the same score and, unless words tie, the same context.
    others : sequence of Motif
        Motifs of other factors, looked for on the same strands.

    Returns
    -------
    MotifInstrument

    Raises
    ------
    MotifError
        If the windows are shorter than the motif.
    """
    n, length = codes.shape
    if length < motif.width:
        raise MotifError(
            f"windows of {length} bases are shorter than motif {motif.id} ({motif.name}) of "
            f"{motif.width}; take longer windows or a shorter motif"
        )
    score = np.empty(n)
    position = np.empty(n, dtype=np.int64)
    reverse = np.empty(n, dtype=np.bool_)
    overlapping = np.empty((n, len(others)))
    log_odds = motif.log_odds()
    for begin in range(0, n, _BATCH):
        rows = slice(begin, begin + _BATCH)
        batch = codes[rows]
        score[rows], position[rows], reverse[rows] = _best_word(batch, log_odds, both_strands)
        for column, other in enumerate(others):
            overlapping[rows, column] = _best_overlapping(
                batch, other, position[rows], motif.width, both_strands
            )
    context = np.where(_covered(position, motif.width, length), np.uint8(AMBIGUOUS), codes)
    context[reverse] = reverse_complement(context[reverse])
    return MotifInstrument(score, position, reverse, context, overlapping)


def _best_word(
    codes: Codes, log_odds: Array, both_strands: bool
) -> tuple[Array, NDArray[np.int64], Flags]:
    """Return score, position and strand of the best word of every window."""
    scores = scan(codes, log_odds)[:, : 2 if both_strands else 1]
    words = scores.shape[2]
    flat = scores.reshape(len(codes), -1)
    best = flat.argmax(axis=1)
    score = np.take_along_axis(flat, best[:, None], axis=1)[:, 0]
    found = np.isfinite(score)
    return score, np.where(found, best % words, -1), found & (best >= words)


def _best_overlapping(
    codes: Codes, other: Motif, position: NDArray[np.int64], width: int, both_strands: bool
) -> Array:
    """Return the best score of another motif's words that overlap the word at `position`."""
    scores = word_scores(codes, other, both_strands)
    offset = np.arange(scores.shape[1]) - position[:, None]
    overlaps = (position[:, None] >= 0) & (offset > -other.width) & (offset < width)
    lowest = float(other.log_odds().min(axis=0).sum())
    best: Array = np.where(overlaps, scores, -np.inf).max(axis=1, initial=lowest)
    return best


def _covered(position: NDArray[np.int64], width: int, length: int) -> Flags:
    """Mark the bases (n, length) of the words that start at `position`; none for -1."""
    offset = np.arange(length) - position[:, None]
    return (position[:, None] >= 0) & (offset >= 0) & (offset < width)
