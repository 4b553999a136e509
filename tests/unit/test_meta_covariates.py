"""Covariates and annotations of sequences, against what can be counted by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import tables
from deepmr.genome.annotations import AnnotationError, check, read_values
from deepmr.genome.regions import RegionsError
from deepmr.meta.tables.covariates import (
    annotate,
    annotation_strata,
    best_sites,
    coded,
    covariates,
    predicted_logits,
)
from deepmr.motifs import Motif, scan, threshold
from deepmr.schemas import predictions_schema, sequences_schema


def motif(word: str, name: str = "m") -> Motif:
    counts = np.full((4, len(word)), 0.0)
    counts[["ACGT".index(base) for base in word], np.arange(len(word))] = 100
    return Motif(name, name, counts)


def sequences(
    letters: list[str],
    strata: list[str | None] | None = None,
    places: list[tuple[str | None, int | None, int | None]] | None = None,
    strands: list[str] | None = None,
) -> pa.Table:
    n = len(letters)
    places = places or [("chr1", 100 * i, 100 * i + len(s)) for i, s in enumerate(letters)]
    columns = {
        "sequence_id": [f"s{i}" for i in range(n)],
        "chrom": [p[0] for p in places],
        "start": [p[1] for p in places],
        "end": [p[2] for p in places],
        "strand": strands or ["."] * n,
        "sequence": letters,
        "stratum.X": strata or ["bound"] * n,
    }
    return pa.table(columns, schema=sequences_schema(["X"]))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_bed_file_says_yes_from_half_of_the_bases_on(tmp_path: Path) -> None:
    bed = write(tmp_path / "a.bed", "chr1\t5\t10\nchr1\t107\t109\nchr1\t108\t112\nchr1\t206\t300\n")
    found = annotate(sequences(["ACGTACGTAC"] * 4), {"open": bed})
    # s0: 5 of 10 bases; s1: 3, though two regions of 2 and 6 touch it; s2: 4; s3: none.
    assert found["open"].tolist() == ["yes", "no", "no", "no"]
    assert found.index.tolist() == ["s0", "s1", "s2", "s3"]
    bed = write(tmp_path / "b.bed", "chr1\t100\t103\nchr1\t107\t109\nchr1\t306\t309\n")
    found = annotate(sequences(["ACGTACGTAC"] * 4), {"open": bed})
    assert found["open"].tolist() == ["no", "yes", "no", "no"]


def test_a_region_counts_on_its_own_strand_for_stranded_sequences(tmp_path: Path) -> None:
    bed = write(tmp_path / "a.bed", "chr1\t0\t10\tx\t0\t+\nchr1\t100\t110\tx\t0\t.\n")
    places = [("chr1", 0, 10), ("chr1", 0, 10), ("chr1", 100, 110)]
    stranded = sequences(["ACGTACGTAC"] * 3, places=places, strands=["+", "-", "-"])
    assert annotate(stranded, {"a": bed})["a"].tolist() == ["yes", "no", "yes"]
    plain = sequences(["ACGTACGTAC"] * 3, places=places)
    assert annotate(plain, {"a": bed})["a"].tolist() == ["yes", "yes", "yes"]


def test_sequences_without_a_place_are_neither_inside_nor_outside(tmp_path: Path) -> None:
    bed = write(tmp_path / "a.bed", "chr1\t0\t10\n")
    some = sequences(["ACGT"] * 2, places=[("chr1", 0, 4), (None, None, None)])
    assert annotate(some, {"a": bed})["a"].tolist() == ["yes", None]
    none = sequences(["ACGT"] * 2, places=[(None, None, None)] * 2)
    with pytest.raises(AnnotationError, match=r"a\.bed: regions say nothing of sequences without"):
        annotate(none, {"a": bed})


@pytest.mark.parametrize("kind", ["tsv", "csv", "tsv.gz", "parquet"])
def test_tables_give_texts_and_numbers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    content = {"sequence_id": ["s2", "s0", "other"], "a": ["hot", "", "hot"], "b": [1, 2.5, None]}
    frame = pd.DataFrame(content)
    if kind == "parquet":
        frame["a"] = frame["a"].replace("", None)
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    found = annotate(sequences(["ACGT"] * 3), {"a": path, "b": path})
    assert found["a"].tolist() == [None, None, "hot"]
    assert found["b"].dtype == np.float64
    np.testing.assert_array_equal(found["b"], [2.5, np.nan, 1.0])
    strata = annotation_strata(sequences(["ACGT"] * 3), {"a": path, "b": path})
    assert {label: list(ids) for label, ids in strata.items()} == {"a=hot": ["s2"]}


def test_integers_are_numbers_and_truth_values_are_texts(tmp_path: Path) -> None:
    columns = {"sequence_id": ["s0", "s1"], "n": [3, 4], "t": [True, None]}
    dictionary = pa.array(["x", "y"]).dictionary_encode()
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(columns | {"d": dictionary}), path)
    assert read_values(path, "n").tolist() == [3.0, 4.0]
    assert read_values(path, "t").tolist() == ["yes", None]
    assert read_values(path, "d").tolist() == ["x", "y"]
    mixed = write(tmp_path / "m.tsv", "sequence_id\tn\ns0\t3\ns1\tmany\n")
    assert read_values(mixed, "n").tolist() == ["3", "many"]


def test_missing_values_of_parquet_are_those_of_text(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    texts = ["x", "", "NA"]
    columns = {
        "sequence_id": ["s0", "s1", "s2"],
        "text": texts,
        "category": pa.array(texts).dictionary_encode(),
        "number": ["1.5", "NaN", ""],
        "none": pa.array([np.nan] * 3),
        "empty": ["", "", "nan"],
    }
    pq.write_table(pa.table(columns), path)
    for name in ("text", "category"):
        assert read_values(path, name).tolist() == ["x", None, None]
        strata = annotation_strata(sequences(["ACGT"] * 3), {name: path})
        assert {label: list(ids) for label, ids in strata.items()} == {f"{name}=x": ["s0"]}
    np.testing.assert_array_equal(read_values(path, "number"), [1.5, np.nan, np.nan])
    for name in ("none", "empty"):
        with pytest.raises(AnnotationError, match=f"column '{name}' holds no value at all"):
            read_values(path, name)


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.tsv", "sequence_id\ta\ta\ns0\t1\t2\n")
    with pytest.raises(AnnotationError, match=r"t\.tsv has two columns 'a'; keep one"):
        read_values(path, "a")


def test_a_sequence_without_a_strand_is_on_both(tmp_path: Path) -> None:
    bed = write(tmp_path / "a.bed", "chr1\t0\t4\tr\t0\t-\n")
    some = sequences(["ACGT"] * 3, places=[("chr1", 0, 4)] * 3)
    at = some.column_names.index("strand")
    stranded = some.set_column(at, "strand", pa.array([None, "+", "-"]))
    assert annotate(stranded, {"a": bed})["a"].tolist() == ["yes", "no", "yes"]
    odd = some.set_column(at, "strand", pa.array([None, "+", "?"]))
    with pytest.raises(AnnotationError, match=r"the strand of a sequence is '\?'; write \+, -, \."):
        annotate(odd, {"a": bed})


def test_strata_are_ordered_and_hold_their_sequences(tmp_path: Path) -> None:
    table = write(tmp_path / "t.tsv", "sequence_id\tb\ns0\tz\ns1\ta\ns2\tz\n")
    bed = write(tmp_path / "a.bed", "chr1\t100\t104\n")
    strata = annotation_strata(sequences(["ACGT"] * 4), {"b": table, "a": bed})
    assert {label: list(ids) for label, ids in strata.items()} == {
        "b=a": ["s1"],
        "b=z": ["s0", "s2"],
        "a=no": ["s0", "s2", "s3"],
        "a=yes": ["s1"],
    }
    assert list(strata) == ["b=a", "b=z", "a=no", "a=yes"]
    assert annotation_strata(sequences(["ACGT"]), {}) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\ta\ns0\t1\n", r"t\.tsv has no column 'sequence_id'; it has name, a"),
        ("sequence_id\tb\ns0\t1\n", r"t\.tsv has no column 'a'; it has sequence_id, b"),
        ("sequence_id\ta\ns0\t\n", r"column 'a' holds no value at all"),
        ("sequence_id\ta\n", r"column 'a' holds no value at all"),
        ("sequence_id\ta\ns0\t1\ns0\t2\n", r"1 name\(s\) stand in more than one row: s0"),
        ("sequence_id\ta\n\t1\n", r"1 row\(s\) without a sequence_id"),
        ("sequence_id\ta\ns0\tinf\n", r"column 'a' holds an infinite number for s0"),
        ("sequence_id\ta\ns0\t1\t7\n", r"t\.tsv cannot be read as a table"),
        ("", r"t\.tsv cannot be read as a table"),
    ],
)
def test_unusable_tables(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "t.tsv", text)
    with pytest.raises(AnnotationError, match=message):
        annotate(sequences(["ACGT"]), {"a": path})


def test_unusable_files(tmp_path: Path) -> None:
    many = "sequence_id\ta\n" + "".join(f"s{i}\ttext{i}\n" for i in range(21))
    with pytest.raises(AnnotationError, match=r"holds 21 different texts; .* write 20 at most"):
        read_values(write(tmp_path / "t.tsv", many), "a")
    with pytest.raises(AnnotationError, match=r"a\.xlsx: an annotation is a file of regions"):
        annotate(sequences(["ACGT"]), {"a": tmp_path / "a.xlsx"})
    with pytest.raises(AnnotationError, match=r"gone\.tsv cannot be read"):
        annotate(sequences(["ACGT"]), {"a": tmp_path / "gone.tsv"})
    with pytest.raises(RegionsError, match=r"line 1: start 9 is not below end 5"):
        annotate(sequences(["ACGT"]), {"a": write(tmp_path / "a.bed", "chr1\t9\t5\n")})
    pq.write_table(pa.table({"sequence_id": ["s0"], "a": [[1]]}), tmp_path / "l.parquet")
    with pytest.raises(AnnotationError, match=r"column 'a' holds list<.*>; write texts or numbers"):
        annotate(sequences(["ACGT"]), {"a": tmp_path / "l.parquet"})
    broken = tmp_path / "b.tsv.gz"
    broken.write_bytes(gzip.compress(b"sequence_id\ta\ns0\t1\n")[:-12])
    with pytest.raises(AnnotationError, match=r"b\.tsv\.gz cannot be read"):
        annotate(sequences(["ACGT"]), {"a": broken})


def test_names_that_no_sequence_can_have_are_refused_before_the_run(tmp_path: Path) -> None:
    contigs = {"chr1": 300}
    good = write(tmp_path / "g.tsv", "sequence_id\ta\nchr1:0-100\t1\nchr1:200-300(-)\t2\n")
    check(good, "a", contigs, 100)
    check(good, "a", None, 100)
    for wrong in ("chr1:0-99", "chr1:250-350", "chr2:0-100", "s1"):
        path = write(tmp_path / "w.tsv", f"sequence_id\ta\nchr1:0-100\t1\n{wrong}\t2\n")
        with pytest.raises(AnnotationError, match=r"1 of 2 sequence ids name no sequence .*0-100"):
            check(path, "a", contigs, 100)
    ready = write(tmp_path / "r.tsv", "sequence_id\ta\nr1\t1\nr2\t2\n")
    check(ready, "a", None, 100, records=["r1", "r2", "r3"])
    with pytest.raises(AnnotationError, match=r"1 of 2 sequence ids .*: r2; names are those of"):
        check(ready, "a", None, 100, records=["r1"])
    bed = write(tmp_path / "a.bed", "chr1\t250\t301\n")
    with pytest.raises(RegionsError, match=r"lies beyond the end of chr1"):
        check(bed, "a", contigs, 100)


def test_sites_lie_where_the_word_was_planted_on_either_strand() -> None:
    word, reverse = "GATTACAGG", "CCTGTAATC"
    filler = "T" * 6
    table = sequences([filler + word + filler, filler + reverse + filler, "T" * 21])
    found = best_sites(table, {"X": motif(word), "Y": None}, 1e-4, both_strands=True)
    np.testing.assert_array_equal(found["X"], [6 + 4, 6 + 4, np.nan])
    assert found["Y"].isna().all()
    one = best_sites(table, {"X": motif(word)}, 1e-4, both_strands=False)
    np.testing.assert_array_equal(one["X"], [10, np.nan, np.nan])
    short = best_sites(sequences(["ACGT"]), {"X": motif(word)}, 1e-4, both_strands=True)
    assert short["X"].isna().all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), both=st.booleans())
def test_the_site_is_the_first_of_the_highest_score(seed: int, both: bool) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (20, 60)).astype(np.uint8)
    table = sequences(["".join("ACGT"[c] for c in row) for row in codes])
    m = Motif("r", "r", rng.integers(1, 30, (4, 5)).astype(float))
    lowest = threshold(m, 0.01)
    found = best_sites(table, {"X": m}, 0.01, both)["X"].to_numpy()
    for row in range(20):
        scores = scan(codes[row : row + 1], m.log_odds())[0, : 2 if both else 1]
        words = [(-scores[:, i].max(), i) for i in range(scores.shape[1])]
        best = min(words)
        expected = best[1] + 2 if -best[0] >= lowest else np.nan
        np.testing.assert_equal(found[row], expected)


def test_blocks_of_sequences_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    table = sequences(["".join(rng.choice(list("ACGT"), 40)) for _ in range(30)])
    motifs = {"X": Motif("r", "r", rng.integers(1, 30, (4, 6)).astype(float))}
    whole = best_sites(table, motifs, 0.01, both_strands=True)
    monkeypatch.setattr("deepmr.meta.tables.covariates._ROWS", 7)
    pd.testing.assert_frame_equal(best_sites(table, motifs, 0.01, both_strands=True), whole)


def predictions(path: Path, draws: np.ndarray, ids: list[str]) -> Path:
    """Write predictions, draws (n, T), of X, and of Y ten above."""
    n, size = draws.shape
    columns: dict[str, object] = {"sequence_id": ids, "split": ["test"] * n}
    for target, shift in (("X", 0.0), ("Y", 10.0)):
        values = tables.draws_column((draws + shift).astype(np.float32))
        evaluated = pa.array(np.zeros(n, dtype=np.float32))
        columns[target] = pa.StructArray.from_arrays([evaluated, values], ["eval", "draws"])
    tables.write_table(pa.table(columns), path, predictions_schema(["X", "Y"], size))
    return path


def test_predicted_logits_are_means_over_draws_in_the_order_asked(tmp_path: Path) -> None:
    draws = np.arange(12.0).reshape(4, 3)
    path = predictions(tmp_path / "p.parquet", draws, ["s0", "s1", "s2", "s3"])
    found = predicted_logits(path, ["Y", "X"], ["s3", "s1"])
    assert found.index.tolist() == ["s3", "s1"]
    np.testing.assert_array_equal(found["X"], [10, 4])
    np.testing.assert_array_equal(found["Y"], [20, 14])
    with pytest.raises(ValueError, match=r"no prediction of 1 sampled sequences, first s9"):
        predicted_logits(path, ["X"], ["s1", "s9"])
    assert predicted_logits(path, ["X"], []).shape == (0, 1)


def test_covariates_of_both_directions(tmp_path: Path) -> None:
    letters = ["GGCCAATT" + "GATTACA" + "A" * 9 + "CCCTTTC", "A" * 31, "A" * 24 + "GATTACA"]
    table = sequences(letters, ["bound", "unbound", None])
    path = predictions(tmp_path / "p.parquet", np.array([[1.0, 3], [4, 6], [0, 0]]), list("abc"))
    logits = predicted_logits(path, ["X", "Y"], list("abc"))
    logits.index = pd.Index(["s0", "s1", "s2"])
    sites = best_sites(table, {"X": motif("GATTACA"), "Y": motif("CCCTTTC")}, 1e-3, True)
    forward = covariates(table, logits, sites, "X", "Y", "X")
    assert list(forward.columns) == ["gc", "predicted_exposure", "motif_distance", "bound"]
    np.testing.assert_allclose(forward["gc"], [10 / 31, 0, 2 / 31])
    np.testing.assert_array_equal(forward["predicted_exposure"], [2, 5, 0])
    np.testing.assert_array_equal(forward["motif_distance"], [16, np.nan, np.nan])
    np.testing.assert_array_equal(forward["bound"], [1, 0, np.nan])
    more = pd.DataFrame({"state": ["on", None, "off"]}, index=forward.index)
    reverse = covariates(table, logits, sites, "Y", "X", "X", more)
    np.testing.assert_array_equal(reverse["predicted_exposure"], [12, 15, 10])
    np.testing.assert_array_equal(reverse["motif_distance"], forward["motif_distance"])
    np.testing.assert_array_equal(reverse["bound"], forward["bound"])
    assert reverse["state"].dropna().to_dict() == {"s0": "on", "s2": "off"}


def test_numbers_are_coded_in_their_units() -> None:
    values = pd.Series([0.4, np.nan, 0.6])
    for name, unit, factor in (
        ("gc", "per 0.1", 10),
        ("motif_distance", "per 10 bp", 0.1),
        ("predicted_exposure", "per logit", 1),
        ("bound", "bound against unbound", 1),
        ("age", "per unit", 1),
    ):
        found = coded(values, name)
        assert (found.terms, found.units) == ((name,), (unit,))
        np.testing.assert_allclose(found.values[:, 0], values.to_numpy() * factor)
        assert found.known.tolist() == [True, False, True]


def test_the_commonest_text_is_the_reference_whatever_the_order() -> None:
    texts = pd.Series(["b", "a", "b", None, "c"], dtype=object)
    found = coded(texts, "t")
    assert found.terms == ("t=a", "t=c")
    assert found.units == ("a against b", "c against b")
    expected = [[0, 0], [1, 0], [0, 0], [np.nan, np.nan], [0, 1]]
    np.testing.assert_array_equal(found.values, expected)
    back = coded(texts[::-1], "t")
    assert back.terms == found.terms
    np.testing.assert_array_equal(back.values[::-1], found.values)
    tie = coded(pd.Series(["yes", "no"], dtype=object), "t")
    assert tie.units == ("yes against no",)
    same = coded(pd.Series(["yes", None], dtype=object), "t")
    assert same.values.shape == (2, 0)
    assert same.known.tolist() == [True, False]
