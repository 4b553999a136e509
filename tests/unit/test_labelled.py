import numpy as np
import pandas as pd
import pytest

from deepmr import schemas
from deepmr.genome import labelled
from deepmr.genome.fasta import FastaError, SequenceReader
from deepmr.genome.labelled import LabelTableError

TARGETS = {
    "GATA1": {"type": "binary", "column": "K562.GATA1"},
    "signal": {"type": "continuous", "column": None},
    "reads": {"type": "count"},
}
SPLIT = {"validation": ["chr20"], "test": ["chr21"], "exclude": ["chrY"]}


def names(n=12):
    chroms = ["1", "1", "20", "21", "Y", "1"]
    return [f"chr{chroms[i % 6]}:{10 * i}-{10 * i + 8}(-)" for i in range(n)]


def frame(n=12):
    rng = np.random.default_rng(0)
    ids = names(n)
    return pd.DataFrame(
        {
            "sequence_id": ids,
            "chrom": [name.split(":")[0] for name in ids],
            "K562.GATA1": pd.array([1, 0, None] * (n // 3), dtype="Int8"),
            "signal": np.where(np.arange(n) == 2, np.nan, rng.normal(size=n)),
            "reads": [7, 0, None, 2] * (n // 4),
            "other": "text",
        }
    )


def write(folder, table, name="labels.tsv", sequences=None):
    rng = np.random.default_rng(1)
    if sequences is None:
        sequences = {i: "".join(rng.choice(list("ACGT"), 8)) for i in names()}
    (folder / "s.fa").write_text("".join(f">{i} extra\n{s}\n" for i, s in sequences.items()))
    path = folder / name
    if name.endswith(".parquet"):
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="," if ".csv" in name else "\t", index=False)
    return path


def extract(folder, labels, targets=TARGETS, **changes):
    with SequenceReader(folder / "s.fa", source="sequences") as reader:
        return labelled.extract(reader, labels, targets, **({"length": 8} | SPLIT | changes))


@pytest.mark.parametrize(
    "name", ["labels.tsv", "labels.csv", "labels.txt.gz", "labels.csv.gz", "labels.parquet"]
)
def test_labels_join_the_sequences_whatever_the_order_and_the_format(tmp_path, name):
    source = frame()
    path = write(tmp_path, source.sample(frac=1, random_state=1), name)
    table, counts = extract(tmp_path, path)
    assert table.schema.equals(schemas.windows_schema(list(TARGETS)), check_metadata=False)
    kept = source.loc[(source["chrom"] != "chrY") & (source.index != 2)]
    assert table["sequence_id"].to_pylist() == kept["sequence_id"].tolist()
    for target, column in (("GATA1", "K562.GATA1"), ("signal", "signal"), ("reads", "reads")):
        expected = kept[column].astype("Float64").to_numpy(float, na_value=np.nan)
        np.testing.assert_array_equal(table[f"label.{target}"], expected.astype(np.float32))
    split = {"chr1": "train", "chr20": "validation", "chr21": "test"}
    assert table["split"].to_pylist() == [split[c] for c in kept["chrom"]]
    assert table["strand"].to_pylist() == ["."] * len(table)
    assert table["start"].null_count == len(table)
    assert counts["sequences"] == 12
    assert (counts["excluded"], counts["not_measured"], counts["with_n"]) == (2, 1, 0)
    assert counts["kept"] == len(table) == 9
    assert (
        counts["splits"]["train"]["positives"]["reads"]
        == ((kept["reads"] > 0) & (kept["chrom"] == "chr1")).sum()
    )


def test_split_column_and_coordinates(tmp_path):
    source = frame().drop(columns="chrom").rename(columns={"sequence_id": "name"})
    source["split"] = ["train", "validation", "test"] * 4
    source["start"] = np.arange(12)
    source["end"] = np.arange(12) + 8
    source["strand"] = "-"
    path = write(tmp_path, source)
    empty = {"validation": [], "test": [], "exclude": []}
    table, counts = extract(tmp_path, path, **empty)
    assert table["split"].to_pylist() == [s for i, s in enumerate(source["split"]) if i != 2]
    assert table["start"].to_pylist() == [i for i in range(12) if i != 2]
    assert set(table["strand"].to_pylist()) == {"-"}
    assert table["chrom"].null_count == len(table)
    assert counts["splits"]["test"]["windows"] == 3
    source.loc[3, "split"] = "tset"
    with pytest.raises(LabelTableError, match="column split holds tset; write train, validation"):
        extract(tmp_path, write(tmp_path, source), **empty)


def test_sequences_with_ambiguous_letters_are_left_out_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled, "_ROWS", 5)
    sequences = dict.fromkeys(names(), "ACGTACGT") | {
        names()[1]: "ACGNACGT",
        names()[7]: "ACGrACGT",
    }
    table, counts = extract(tmp_path, write(tmp_path, frame(), sequences=sequences))
    assert counts["with_n"] == 2
    assert not {names()[1], names()[7]} & set(table["sequence_id"].to_pylist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.iloc[4:],
            r"4 sequence\(s\) of .*s\.fa have no row in .*: chr1:0-8\(-\), chr1:10",
        ),
        (
            lambda t: pd.concat([t, t.head(1).assign(sequence_id="x")]),
            r"1 sequence\(s\) named in .*labels\.tsv are not in .*s\.fa: x;",
        ),
        (lambda t: pd.concat([t, t.head(2)]), r"2 name\(s\) stand in more than one row: chr1:0-8"),
        (
            lambda t: t.drop(columns="signal"),
            r"no column 'signal' for targets\.signal\.column; it has sequence_id, chrom, K562",
        ),
        (lambda t: t.drop(columns="chrom"), r"no column 'chrom' for the split"),
        (
            lambda t: t.assign(**{"K562.GATA1": [2, 0.5, *[0] * 10]}),
            r"column 'K562\.GATA1' holds 2 for chr1:0-8\(-\) \(2 such\); a binary label is 0 or 1",
        ),
        (lambda t: t.assign(reads=-1), r"'reads' holds -1 .* a count label is 0 or more"),
        (lambda t: t.assign(signal=np.inf), r"'signal' holds inf .* is a finite number"),
        (lambda t: t.assign(signal="high"), r"labels\.tsv: .*'high'.*; labels must be numbers"),
        (lambda t: t.assign(signal=np.nan), r"column 'signal' holds no label at all"),
        (
            lambda t: t.assign(chrom=t["chrom"].replace("chr21", "chr1")),
            r"split\.test names 'chr21', which the column chrom lacks; it has chr1, chr20, chrY",
        ),
        (
            lambda t: t.assign(
                chrom=t["chrom"],
                reads=np.nan,
                signal=np.where(t["chrom"] == "chr21", np.nan, 1),
                **{"K562.GATA1": np.where(t["chrom"] == "chr21", np.nan, 1)},
            ).assign(reads=t["reads"].where(t["chrom"] != "chr21")),
            r"no test sequence is left of 12",
        ),
    ],
)
def test_unusable_label_tables(tmp_path, change, message):
    path = write(tmp_path, change(frame()))
    with pytest.raises(LabelTableError, match=message):
        extract(tmp_path, path)


def test_unusable_files(tmp_path):
    path = write(tmp_path, frame())
    with pytest.raises(LabelTableError, match=r"none\.tsv does not exist"):
        extract(tmp_path, tmp_path / "none.tsv")
    renamed = tmp_path / "labels.xlsx"
    renamed.write_bytes(path.read_bytes())
    with pytest.raises(LabelTableError, match=r"a label table is named \.parquet, \.tsv"):
        extract(tmp_path, renamed)
    damaged = tmp_path / "labels.parquet"
    damaged.write_bytes(path.read_bytes())
    with pytest.raises(LabelTableError, match=r"labels\.parquet cannot be read as a table"):
        extract(tmp_path, damaged)
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    with pytest.raises(LabelTableError, match=r"empty\.tsv cannot be read as a table"):
        extract(tmp_path, empty)


def test_lengths_must_agree(tmp_path):
    sequences = dict.fromkeys(names(), "ACGTACGT") | {names()[3]: "ACGT"}
    path = write(tmp_path, frame(), sequences=sequences)
    with pytest.raises(LabelTableError, match=r"record chr21:30-38\(-\) has 4 bases instead of 8 "):
        extract(tmp_path, path, length=None)
    path = write(tmp_path, frame())
    with pytest.raises(
        LabelTableError, match=r"has 8 bases instead of 9 \(12 such.*windows\.length"
    ):
        extract(tmp_path, path, length=9)


def test_a_wrong_letter_is_named(tmp_path):
    sequences = dict.fromkeys(names(), "ACGTACGT") | {names()[3]: "ACGTXCGT"}
    path = write(tmp_path, frame(), sequences=sequences)
    with pytest.raises(FastaError, match=r"record chr21:30-38\(-\) holds the letter 'X' at positi"):
        extract(tmp_path, path)


def test_negatives_are_thinned_by_their_ids_alone(tmp_path):
    n = 90
    ids = [f"s{i}" for i in range(n)]
    source = pd.DataFrame(
        {
            "sequence_id": ids,
            "chrom": [("chr1", "chr20", "chr21")[i % 3] for i in range(n)],
            "a": [int(i < 15) for i in range(n)],
        }
    )
    rng = np.random.default_rng(2)
    sequences = {i: "".join(rng.choice(list("ACGT"), 8)) for i in ids}
    target = {"a": {"type": "binary", "column": "a"}}
    options = {"negatives_per_positive": 2.0, "seed": 3, "exclude": []}
    path = write(tmp_path, source, sequences=sequences)
    table, counts = extract(tmp_path, path, target, **options)
    labels = table["label.a"].to_numpy()
    for split in ("train", "validation", "test"):
        here = table["split"].to_numpy() == split
        assert (labels[here] == 1).sum() == 5
        assert (labels[here] == 0).sum() == 10
    assert counts["negatives_left_out"] == 90 - 45
    backwards = dict(reversed(sequences.items()))
    other, _ = extract(tmp_path, write(tmp_path, source, sequences=backwards), target, **options)
    assert set(other["sequence_id"].to_pylist()) == set(table["sequence_id"].to_pylist())
    reseeded, _ = extract(tmp_path, path, target, **(options | {"seed": 4}))
    assert set(reseeded["sequence_id"].to_pylist()) != set(table["sequence_id"].to_pylist())
