"""Sums over the instruments of sequences, and which windows belong together."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.deepiv.slopes.sequence_slopes import LARGEST_SHARE, Slopes, collect, overlapping
from deepmr.genome.alphabet import decode
from deepmr.mr.decoy_partners import overlap
from deepmr.mr.instrument_effects import Instruments
from deepmr.mr.questions import Pair, Question
from deepmr.mr.shard import SequenceInstruments

PAIR = Pair("TF_open", "TF", "open")
FORWARD = Question(PAIR, "forward", "TF", "open", "motif")
REVERSE = Question(PAIR, "reverse", "open", "TF", "all")


def instruments(seed, n=7, n_draws=3):
    rng = np.random.default_rng(seed)
    draws_x, draws_y = rng.normal(size=(2, n_draws, n))
    return Instruments(
        draws_x.mean(axis=0),
        rng.uniform(0.1, 1.0, n),
        draws_y.mean(axis=0),
        rng.uniform(0.1, 1.0, n),
        draws_x,
        draws_y,
        positions=np.repeat([2, 3, 7], 3)[:n],
        alleles=np.array(["A"] * n, dtype=object),
    )


def sequence(name, own, question=FORWARD):
    return SequenceInstruments(name, 0, "bound", question, own)


LETTERS = {"a": "ACGTACGTAC", "b": "TTTTTTTTTT", "c": "GGGGGNGGGG"}


def test_sums_of_all_instruments_and_masked_letters():
    a, b = instruments(1), instruments(2, n=4)
    found = collect([sequence("a", a), sequence("b", b)], LETTERS, {"b": "a"})[FORWARD]
    assert found.sequence_ids == ("a", "b")
    assert found.groups.tolist() == ["a", "a"]
    assert [decode(codes) for codes in found.codes] == ["ACNNACGNAC", "TTNNTTTTTT"]
    assert found.n_instruments.tolist() == [7, 4]
    for i, own in enumerate((a, b)):
        w = own.se_y**-2
        assert found.xx[i] == pytest.approx((w * own.bx**2).sum())
        assert found.xy[i] == pytest.approx((w * own.bx * own.by).sum())
        assert found.yy[i] == pytest.approx((w * own.by**2).sum())
        for t in range(3):
            assert found.draws_xx[t, i] == pytest.approx((w * own.draws_x[t] ** 2).sum())
            assert found.draws_xy[t, i] == pytest.approx(
                (w * own.draws_x[t] * own.draws_y[t]).sum()
            )


def test_what_is_left_out_is_counted_and_every_question_answered():
    still = instruments(3)
    still = SimpleNamespace(**{**vars(still), "bx": np.zeros(7)})
    found = collect(
        [
            sequence("a", instruments(1)),
            sequence("b", Instruments.none("no_motif_hit")),
            sequence("c", still),
            sequence("a", Instruments.none("too_few_instruments", 3), REVERSE),
        ],
        LETTERS,
    )
    assert found[FORWARD].left_out == {"no_motif_hit": 1, "exposure_unchanged": 1}
    assert found[FORWARD].groups.tolist() == ["a"]
    assert len(found[REVERSE]) == 0
    assert found[REVERSE].left_out == {"too_few_instruments": 1}


def test_effects_that_are_not_stored_are_refused():
    bare = Instruments(*np.ones((4, 5)))
    with pytest.raises(ValueError, match="'a': its instruments have no positions"):
        collect([sequence("a", bare)], LETTERS)


def test_no_sequence_has_more_than_its_share():
    many = [sequence(name, instruments(i)) for i, name in enumerate("abc")]
    found = collect(many, LETTERS)[FORWARD]
    heavy = Slopes(
        **{
            **vars(found),
            "xx": np.array([1.0, 2.0, 1e6]),
            "xy": np.array([0.5, 1.0, 7e5]),
        }
    ).capped()
    assert heavy.xx.tolist() == pytest.approx([1.0, 2.0, 2.0 * LARGEST_SHARE])
    assert (heavy.xy / heavy.xx).tolist() == pytest.approx([0.5, 0.5, 0.7])
    scale = 2.0 * LARGEST_SHARE / 1e6
    assert heavy.draws_xy[:, 2] == pytest.approx(scale * found.draws_xy[:, 2])
    assert (heavy.draws_xx[:, :2] == found.draws_xx[:, :2]).all()
    assert len(Slopes.none().capped()) == 0


WINDOW = st.tuples(st.sampled_from(["chr1", "chr2", None]), st.integers(0, 60), st.integers(1, 20))


@given(st.lists(WINDOW, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_overlapping_windows_are_one_group(windows, random):
    rows = [
        {"sequence_id": f"s{i}", "chrom": c, "start": c and a, "end": c and a + n}
        for i, (c, a, n) in enumerate(windows)
    ]
    kinds = [("sequence_id", pa.string()), ("chrom", pa.string())]
    schema = pa.schema([*kinds, ("start", pa.int64()), ("end", pa.int64())])
    found = overlapping(pa.Table.from_pylist(rows, schema=schema))
    places = {row["sequence_id"]: (row["chrom"], row["start"], row["end"]) for row in rows}
    # Spread each name over what it overlaps until nothing changes: the least is the group's.
    expected = {name: name for name in places}
    for _ in rows:
        expected = {
            name: min([own, *(expected[o] for o in places if overlap(places[name], places[o]))])
            for name, own in expected.items()
        }
    assert found == expected
    random.shuffle(rows)
    assert overlapping(pa.Table.from_pylist(rows, schema=schema)) == found
