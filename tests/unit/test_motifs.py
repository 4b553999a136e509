"""Motif files, scores, their exact distribution, and hits."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.genome.alphabet import encode, reverse_complement
from deepmr.motifs import (
    Motif,
    MotifError,
    find,
    hit_positions,
    read_jaspar,
    scan,
    score_distribution,
    threshold,
    word_scores,
)

SHIPPED = Path(__file__).parents[2] / "config" / "motifs.jaspar"

GATA = ">T1.1\tGata\nA [ 0 9 0 8 ]\nC [ 1 0 0 1 ]\nG [ 8 0 1 0 ]\nT [ 0 0 8 0 ]\n"


def _write(folder: Path, text: str) -> Path:
    path = folder / "m.jaspar"
    path.write_text(text)
    return path


def _word_scores(log_odds: np.ndarray) -> np.ndarray:
    width = log_odds.shape[1]
    words = np.array(list(itertools.product(range(4), repeat=width)))
    return log_odds[words, np.arange(width)].sum(axis=1)


def test_read_jaspar_reads_counts_by_id(tmp_path: Path) -> None:
    text = "# a comment\n" + GATA + "\n>T2.1\nT 4 3\nA 1 2\nC 0 0\nG 0 0\n"
    motifs = read_jaspar(_write(tmp_path, text))
    assert list(motifs) == ["T1.1", "T2.1"]
    assert motifs["T1.1"].name == "Gata"
    assert motifs["T1.1"].counts[:, 1].tolist() == [9, 0, 0, 0]
    assert motifs["T2.1"].name == "T2.1"
    assert motifs["T2.1"].counts.tolist() == [[1, 2], [0, 0], [0, 0], [4, 3]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no motif in it"),
        ("MEME version 4\n", r"line 1: 'MEME version 4' comes before any '>ID name'"),
        (">\n", r"line 1: '>' without an ID"),
        (GATA + "X [ 1 2 3 4 ]\n", r"line 6: 'X \[ 1 2 3 4 \]' is no row of counts"),
        (">M\nA [ 1 b ]\n", r"line 2: 'A \[ 1 b \]' is no row of counts"),
        (">M\nA [ 1 -2 ]\n", r"line 2: .* is no row of counts"),
        (">M\nA [ ]\n", r"line 2: .* is no row of counts"),
        (">M\nA [ 1 nan ]\n", r"line 2: .* is no row of counts"),
        (GATA + "T [ 1 2 3 4 ]\n", r"line 6: T1.1 has a second row for T"),
        (">M\nA 1\nC 1\n", r"line 1: motif M has no row for G, T"),
        (">M\nA 1 2\nC 1\nG 1\nT 1\n", r"motif M has rows of unequal length"),
        (">M\nA 1 0\nC 1 0\nG 1 0\nT 1 0\n", r"motif M has no counts at position 2"),
        (GATA + GATA, r"line 6: motif T1.1 stands twice"),
    ],
)
def test_read_jaspar_names_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MotifError, match=message):
        read_jaspar(_write(tmp_path, text))


def test_find_takes_ids_and_unique_names() -> None:
    counts = np.ones((4, 2))
    library = {i: Motif(i, n, counts) for i, n in [("A.1", "Spi1"), ("B.1", "MAX"), ("B.2", "MAX")]}
    assert find(library, "B.2").id == "B.2"
    assert find(library, "SPI1").id == "A.1"
    with pytest.raises(MotifError, match=r"2 motifs are called 'MAX'; .* B\.1, B\.2"):
        find(library, "MAX")
    with pytest.raises(MotifError, match=r"no motif with ID or name 'JUN'; .* A\.1 \(Spi1\)"):
        find(library, "JUN")


def test_log_odds_by_hand() -> None:
    motif = Motif("M", "M", np.array([[3.0], [1.0], [0.0], [0.0]]))
    # (3 + .2) / 4.8 over .25 and so on, rounded to 1/1024 bit.
    exact = np.log2(np.array([3.2, 1.2, 0.2, 0.2]) / 4.8 / 0.25)
    assert motif.log_odds()[:, 0] == pytest.approx(exact, abs=0.5 / 1024)
    assert (motif.log_odds() * 1024 % 1 == 0).all()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 50)] * 4).filter(any), min_size=1, max_size=5))
def test_score_distribution_is_that_of_all_words(columns: list[tuple[int, ...]]) -> None:
    motif = Motif("M", "M", np.array(columns, dtype=float).T)
    scores, tail = score_distribution(motif.log_odds())
    expected = _word_scores(motif.log_odds())
    assert scores.tolist() == np.unique(expected).tolist()
    assert tail == pytest.approx([(expected >= s).mean() for s in scores], rel=1e-12)


def test_threshold_is_the_lowest_rare_enough_score(tmp_path: Path) -> None:
    motif = read_jaspar(_write(tmp_path, GATA))["T1.1"]
    words = _word_scores(motif.log_odds())
    for p_value in (1 / 256, 0.02, 0.5):
        lowest = threshold(motif, p_value)
        assert (words >= lowest).mean() <= p_value
        next_lower = words[words < lowest].max()
        assert (words >= next_lower).mean() > p_value


def test_threshold_refuses_what_no_word_can_reach(tmp_path: Path) -> None:
    motif = read_jaspar(_write(tmp_path, GATA))["T1.1"]
    with pytest.raises(MotifError, match=r"T1\.1 \(Gata\): even its best word has p = 0\.0039"):
        threshold(motif, 1e-4)
    with pytest.raises(MotifError, match=r"must be in \(0, 1\), got 1"):
        threshold(motif, 1)


def test_scan_scores_words_of_both_strands(tmp_path: Path) -> None:
    log_odds = read_jaspar(_write(tmp_path, GATA))["T1.1"].log_odds()
    codes = np.stack([encode("TTGATACC"), encode("GGTATCNA")])
    scores = scan(codes, log_odds)
    assert scores.shape == (2, 2, 5)
    best = log_odds.max(axis=0).sum()
    assert scores[0, 0, 2] == best
    assert scores[1, 1, 2] == best  # TATC is GATA on the other strand
    assert scores[0, 0, 0] == sum(log_odds[c, i] for i, c in enumerate([3, 3, 2, 0]))
    assert np.isneginf(scores[1, :, 3:]).all()  # words with N
    assert np.isfinite(scores[1, :, :3]).all()


def test_scan_of_the_reverse_complement_is_mirrored() -> None:
    motif = read_jaspar(SHIPPED)["MA0035.4"]
    codes = np.random.default_rng(1).integers(0, 4, (20, 60), dtype=np.uint8)
    forward = scan(codes, motif.log_odds())
    backward = scan(reverse_complement(codes), motif.log_odds())
    assert np.array_equal(forward, backward[:, ::-1, ::-1])


def test_a_word_has_the_score_of_its_better_strand(tmp_path: Path) -> None:
    motif = read_jaspar(_write(tmp_path, GATA))["T1.1"]
    codes = np.stack([encode("TTGATACC"), encode("GGTATCNA")])
    forward, backward = scan(codes, motif.log_odds()).transpose(1, 0, 2)
    assert np.array_equal(word_scores(codes, motif), np.maximum(forward, backward))
    assert np.array_equal(word_scores(codes, motif, both_strands=False), forward)


def test_scan_does_not_depend_on_the_batch() -> None:
    motif = read_jaspar(SHIPPED)["MA0139.2"]
    codes = np.random.default_rng(2).integers(0, 5, (30, 50), dtype=np.uint8)
    together = scan(codes, motif.log_odds())
    alone = np.concatenate([scan(row[None], motif.log_odds()) for row in codes])
    assert np.array_equal(together, alone)


def test_hit_positions_cover_the_whole_hit(tmp_path: Path) -> None:
    motif = read_jaspar(_write(tmp_path, GATA))["T1.1"]
    codes = np.stack([encode("TTGATACCC"), encode("CCCTATCTT"), encode("CCCCCCCCC")])
    both = hit_positions(codes, motif, 1 / 256)
    assert np.flatnonzero(both[0]).tolist() == [2, 3, 4, 5]
    assert np.flatnonzero(both[1]).tolist() == [3, 4, 5, 6]
    assert not both[2].any()
    assert not hit_positions(codes, motif, 1 / 256, both_strands=False)[1].any()


def test_sequences_shorter_than_the_motif_have_no_hit(tmp_path: Path) -> None:
    motif = read_jaspar(_write(tmp_path, GATA))["T1.1"]
    codes = encode("GAT")[None]
    assert scan(codes, motif.log_odds()).shape == (1, 2, 0)
    assert hit_positions(codes, motif, 0.01).tolist() == [[False] * 3]


def test_random_sequences_hit_as_often_as_the_p_value_says() -> None:
    motif = read_jaspar(SHIPPED)["MA0035.4"]
    codes = np.random.default_rng(3).integers(0, 4, (200, 2000), dtype=np.uint8)
    hits = (scan(codes, motif.log_odds()) >= threshold(motif, 1e-3)).mean()
    assert hits == pytest.approx(1e-3, rel=0.1)


def test_the_shipped_file_has_a_usable_motif_of_each_factor() -> None:
    motifs = read_jaspar(SHIPPED)
    human = ["GATA1", "TAL1::TCF3", "SPI1", "JUND", "NRF1", "CTCF", "USF1", "MAX", "NFYA"]
    human += ["GABPA", "YY1", "CEBPB", "SOX2"]
    yeast = ["REB1", "ABF1", "RAP1", "CBF1", "FKH1", "MCM1", "UME6", "TBF1", "HSF1"]
    assert len(motifs) == len(human + yeast)
    for name in human + yeast:
        assert threshold(find(motifs, name), 1e-4) > 0
    # The consensus of GATA1, A/TGATAA, read on the other strand.
    gata = find(motifs, "GATA1")
    assert "".join("ACGT"[i] for i in gata.counts.argmax(axis=0)) == "TTCTAATCTAT"
