import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmr.genome import alphabet

LETTERS = st.text(alphabet="ACGTN", min_size=1, max_size=50)


@given(LETTERS)
def test_decode_undoes_encode(sequence):
    assert alphabet.decode(alphabet.encode(sequence)) == sequence


@given(LETTERS)
def test_reverse_complement_against_a_straight_loop(sequence):
    expected = "".join("TGCAN"["ACGTN".index(letter)] for letter in reversed(sequence))
    assert alphabet.decode(alphabet.reverse_complement(alphabet.encode(sequence))) == expected


def test_lower_case_u_and_ambiguity_letters():
    codes = alphabet.encode("acgtuACGTUnRYKMSWBDHV")
    assert codes.tolist() == [0, 1, 2, 3, 3, 0, 1, 2, 3, 3] + [4] * 11
    assert codes.dtype == np.uint8
    assert alphabet.encode(b"ACGU").tolist() == [0, 1, 2, 3]


def test_one_hot_leaves_ambiguous_letters_empty():
    hot = alphabet.one_hot(alphabet.encode("ACGTN")[None])
    assert hot.shape == (1, 4, 5)
    assert hot.dtype == np.float32
    np.testing.assert_array_equal(hot[0, :, :4], np.eye(4))
    np.testing.assert_array_equal(hot[0, :, 4], np.zeros(4))


@pytest.mark.parametrize(("sequence", "letter", "position"), [("ACXT", "X", 2), ("AC-", "-", 2)])
def test_a_letter_that_is_no_nucleotide_is_named(sequence, letter, position):
    with pytest.raises(
        alphabet.InvalidLetterError, match=f"{letter!r} at position {position}"
    ) as e:
        alphabet.encode(sequence)
    assert (e.value.letter, e.value.position) == (letter, position)


def test_a_letter_outside_latin_1_is_refused():
    with pytest.raises(alphabet.InvalidLetterError, match="is not a nucleotide"):
        alphabet.encode("ACGΩ")
