"""The best word of a motif in a window, the context without it, and what the mask hides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.deepiv.labels import motif_instrument as module
from deepmr.deepiv.labels.motif_instrument import motif_instrument
from deepmr.genome.alphabet import AMBIGUOUS, decode, encode, reverse_complement
from deepmr.motifs import Motif, MotifError, find, read_jaspar, scan

SHIPPED = read_jaspar(Path(__file__).parents[2] / "config" / "motifs.jaspar")
seeds = st.integers(0, 10_000)


def strict(word: str, name: str = "T") -> Motif:
    """A motif of one word."""
    counts = np.zeros((4, len(word)))
    counts[encode(word), np.arange(len(word))] = 10
    return Motif(f"{name}.1", name, counts)


def windows(*sequences: str) -> np.ndarray:
    return np.stack([encode(sequence) for sequence in sequences])


def test_the_word_is_masked_and_the_window_turned() -> None:
    motif = strict("GATAC")
    codes = windows("CCGATACTTT", "TTGTATCAAC", "CCCCCCCCCC")
    found = motif_instrument(codes, motif)
    best = motif.log_odds().max(axis=0).sum()
    assert found.score[:2].tolist() == [best, best]
    assert found.score[2] < 0
    assert found.position[:2].tolist() == [2, 2]
    assert found.reverse[:2].tolist() == [False, True]
    # GTATC on the reverse strand is GATAC: the window is read from its other end.
    assert [decode(row) for row in found.context[:2]] == ["CCNNNNNTTT", "GTTNNNNNAA"]
    # A window without a site is masked all the same.
    assert (found.context == AMBIGUOUS).sum(axis=1).tolist() == [5, 5, 5]
    assert found.usable.all()
    assert codes[0].tolist() == encode("CCGATACTTT").tolist()


def test_one_strand_only_is_never_turned() -> None:
    found = motif_instrument(windows("TTGTATCAAC"), strict("GATAC"), both_strands=False)
    assert found.score[0] < strict("GATAC").log_odds().max(axis=0).sum()
    assert not found.reverse.any()


def test_ties_go_to_the_forward_strand_and_then_to_the_left() -> None:
    codes = windows("GATACGATAC", "GTATCGATAC", "GTATCGTATC")
    found = motif_instrument(codes, strict("GATAC"))
    assert found.position.tolist() == [0, 5, 0]
    assert found.reverse.tolist() == [False, False, True]


def test_words_with_ambiguous_bases_do_not_count() -> None:
    codes = windows("GATNCGATAC", "NNNNANNNNC", "GATACNNNNN")
    found = motif_instrument(codes, strict("GATAC"), others=[strict("GT")])
    assert found.usable.tolist() == [True, False, True]
    assert found.score[1] == -np.inf
    assert found.position.tolist() == [5, -1, 0]
    assert not found.reverse[1]
    assert found.overlapping[1] == strict("GT").log_odds().min(axis=0).sum()
    assert decode(found.context[1]) == "NNNNANNNNC"


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(11, 60), st.booleans())
def test_nothing_scores_higher_than_the_word(seed: int, length: int, both: bool) -> None:
    codes = np.random.default_rng(seed).integers(0, 5, (20, length)).astype(np.uint8)
    motif = find(SHIPPED, "GATA1")
    found = motif_instrument(codes, motif, both_strands=both)
    scores = scan(codes, motif.log_odds())[:, : 1 + both]
    assert found.score.tolist() == scores.max(axis=(1, 2)).tolist()
    for row in np.flatnonzero(found.usable):
        at = found.position[row]
        assert scores[row, int(found.reverse[row]), at] == found.score[row]
        forward = found.context[row]
        if found.reverse[row]:
            forward = reverse_complement(forward)
        rest = np.r_[:at, at + motif.width : length]
        assert (forward[rest] == codes[row, rest]).all()
        assert (forward[at : at + motif.width] == AMBIGUOUS).all()


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(20, 80), st.sampled_from(["GATA1", "NRF1", "JUND"]))
def test_either_strand_of_a_window_says_the_same(seed: int, length: int, name: str) -> None:
    codes = np.random.default_rng(seed).integers(0, 4, (20, length)).astype(np.uint8)
    motif = find(SHIPPED, name)
    others = [find(SHIPPED, "GABPA")]
    one = motif_instrument(codes, motif, others=others)
    turned = motif_instrument(reverse_complement(codes), motif, others=others)
    assert one.score.tolist() == turned.score.tolist()
    scores = scan(codes, motif.log_odds())
    alone = (scores == one.score[:, None, None]).sum(axis=(1, 2)) == 1
    assert (one.context[alone] == turned.context[alone]).all()
    assert (one.reverse[alone] != turned.reverse[alone]).all()
    assert (one.overlapping[alone] == turned.overlapping[alone]).all()


def test_a_planted_word_is_found_wherever_it_stands() -> None:
    rng = np.random.default_rng(0)
    motif = find(SHIPPED, "CTCF")
    word = motif.counts.argmax(axis=0).astype(np.uint8)
    codes = rng.integers(0, 4, (60, 100)).astype(np.uint8)
    at = rng.integers(0, 100 - motif.width + 1, 60)
    turn = rng.random(60) < 0.5
    for row, position in enumerate(at):
        planted = reverse_complement(word) if turn[row] else word
        codes[row, position : position + motif.width] = planted
    found = motif_instrument(codes, motif)
    assert found.position.tolist() == at.tolist()
    assert found.reverse.tolist() == turn.tolist()
    assert (found.score == motif.log_odds().max(axis=0).sum()).all()


def test_what_other_motifs_see_in_the_word_is_told_but_not_what_stands_beside_it() -> None:
    motif, other = strict("GATAC"), strict("ACCG", "O")
    best = other.log_odds().max(axis=0).sum()
    codes = windows("TTGATACCGTTT", "TTGATACTACCG", "TTGATACTTTTT", "CGGTATCTTTTT")
    found = motif_instrument(codes, motif, others=[strict("GGGGGGGG"), other])
    # GATACCG holds ACCG over the word's end; CGGTATC is the same on the other strand.
    assert (found.overlapping[:, 1] == best).tolist() == [True, False, False, True]
    forward = motif_instrument(codes, motif, others=[other], both_strands=False)
    assert (forward.overlapping[:3, 0] == best).tolist() == [True, False, False]
    # ATAC, in the word, is GTAT on the other strand.
    for both in (True, False):
        turned = motif_instrument(codes[:1], motif, others=[strict("GTAT")], both_strands=both)
        assert (turned.overlapping[0, 0] == best) == both
    assert motif_instrument(codes, motif).overlapping.shape == (4, 0)


def test_only_words_that_share_a_base_overlap() -> None:
    codes = np.random.default_rng(3).integers(0, 4, (30, 50)).astype(np.uint8)
    motif, other = find(SHIPPED, "GATA1"), find(SHIPPED, "SPI1")
    found = motif_instrument(codes, motif, others=[other])
    scores = scan(codes, other.log_odds()).max(axis=1)
    for row, at in enumerate(found.position):
        own = set(range(at, at + motif.width))
        sharing = [
            score
            for start, score in enumerate(scores[row])
            if own & set(range(start, start + other.width))
        ]
        assert found.overlapping[row, 0] == max(sharing)


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(1).integers(0, 4, (23, 40)).astype(np.uint8)
    codes[7, ::3] = AMBIGUOUS
    motif, others = find(SHIPPED, "GATA1"), [find(SHIPPED, "SPI1")]
    whole = motif_instrument(codes, motif, others=others)
    monkeypatch.setattr(module, "_BATCH", 5)
    parts = motif_instrument(codes, motif, others=others)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(parts, name), values, err_msg=name)
    assert whole.usable.sum() == 22
    assert len(np.unique(whole.overlapping)) > 5
    assert motif_instrument(codes[:0], motif).context.shape == (0, 40)


def test_windows_shorter_than_the_motif_are_refused() -> None:
    with pytest.raises(
        MotifError, match=r"windows of 4 bases are shorter than motif T\.1 \(T\) of 5"
    ):
        motif_instrument(windows("GATA"), strict("GATAC"))
    # The motif itself may fill the window.
    assert motif_instrument(windows("GATAC"), strict("GATAC")).position.tolist() == [0]
