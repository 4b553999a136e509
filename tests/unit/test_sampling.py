import numpy as np
import pyarrow as pa
import pytest

from deepmr import schemas
from deepmr.genome import sampling
from deepmr.genome.fasta import SequenceReader

LENGTH = 12


def complement(sequence):
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    sequences = {f"s{i:03}": "".join(rng.choice(list("ACGT"), LENGTH)) for i in range(120)}
    sequences["s050"] = sequences["s010"]
    sequences["s051"] = complement(sequences["s011"])
    sequences["s052"] = complement(sequences["s010"])
    sequences["s060"] = "ACGTNACGTACG"
    (tmp_path / "s.fa").write_text("".join(f">{i}\n{s}\n" for i, s in sequences.items()))
    n = len(sequences)
    table = pa.table(
        {
            "sequence_id": list(sequences),
            "chrom": ["chr1"] * n,
            "start": pa.array(range(n), pa.int64()),
            "end": pa.array(range(LENGTH, n + LENGTH), pa.int64()),
            "strand": ["."] * n,
            "split": ["test"] * 90 + ["train"] * 30,
            "label.A": pa.array([i % 3 == 0 for i in range(n)]).cast(pa.int8()).cast(pa.float32()),
            "label.B": pa.array([None if i % 2 else float(i) for i in range(n)], pa.float32()),
        }
    )
    return tmp_path / "s.fa", table, sequences


def sample(path, table, exposures=("A", "B"), bound=5, unbound=7, seed=1, strand=False):
    with SequenceReader(path, strand, source="sequences") as reader:
        return sampling.sample(table, reader, list(exposures), bound, unbound, seed)


def strata(table, exposure):
    pairs = zip(
        *(table[c].to_pylist() for c in ("sequence_id", f"stratum.{exposure}")), strict=True
    )
    return {name: stratum for name, stratum in pairs if stratum is not None}


def test_sampled_sequences_and_their_strata(data):
    path, table, sequences = data
    sampled, counts = sample(path, table)
    assert sampled.schema.equals(schemas.sequences_schema(["A", "B"]), check_metadata=False)
    ids = sampled["sequence_id"].to_pylist()
    assert ids == sorted(ids)
    assert sampled["sequence"].to_pylist() == [sequences[i] for i in ids]
    label = {c: dict(zip(sequences, table[f"label.{c}"].to_pylist(), strict=True)) for c in "AB"}
    for name, stratum in strata(sampled, "A").items():
        assert stratum == ("bound" if label["A"][name] == 1 else "unbound")
    # Labels 0, 2, ..., 88 of the test split without s050, s052 (equal to s010) and s060 (an N).
    median = np.median([x for x in range(0, 90, 2) if x not in (50, 52, 60)])
    for name, stratum in strata(sampled, "B").items():
        assert stratum == ("bound" if label["B"][name] > median else "unbound")
    for exposure in "AB":
        found = list(strata(sampled, exposure).values())
        assert (found.count("bound"), found.count("unbound")) == (5, 7)
    assert set(ids) <= {f"s{i:03}" for i in range(90)}
    assert (
        counts["sampled"]
        == len(sampled)
        == len(set(strata(sampled, "A")) | set(strata(sampled, "B")))
    )
    assert (counts["windows"], counts["with_n"], counts["duplicates"]) == (90, 1, 3)


def test_fewer_than_asked_are_all_taken_once_and_counted(data, monkeypatch):
    monkeypatch.setattr(sampling, "_ROWS", 7)
    path, table, _ = data
    sampled, counts = sample(path, table, bound=1_000, unbound=1_000)
    expected = {f"s{i:03}" for i in range(90)} - {"s050", "s051", "s052", "s060"}
    assert set(sampled["sequence_id"].to_pylist()) == expected
    eligible = sum(int(name[1:]) % 3 == 0 for name in expected)
    assert counts["exposures"]["A"] == {
        "bound": {"asked": 1_000, "available": eligible, "taken": eligible},
        "unbound": {"asked": 1_000, "available": 86 - eligible, "taken": 86 - eligible},
    }


def test_reverse_complements_differ_when_the_assay_is_stranded(data):
    path, table, _ = data
    sampled, counts = sample(path, table, bound=1_000, unbound=1_000, strand=True)
    assert counts["duplicates"] == 1
    assert {"s051", "s052"} <= set(sampled["sequence_id"].to_pylist())


def test_the_sample_depends_on_the_seed_and_not_on_order_or_other_exposures(data):
    path, table, _ = data
    sampled, _ = sample(path, table)
    shuffled = table.take(np.random.default_rng(5).permutation(len(table)))
    assert sample(path, shuffled)[0].equals(sampled)
    alone, _ = sample(path, table, exposures=("B",))
    assert strata(alone, "B") == strata(sampled, "B")
    assert strata(sample(path, table, seed=2)[0], "A") != strata(sampled, "A")
    more, _ = sample(path, table, bound=6)
    assert strata(more, "A").items() > strata(sampled, "A").items()


def test_canonical_sequence_against_text():
    from deepmr.genome.alphabet import decode, encode

    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 6)) for _ in range(200)] + ["ACGCGT"]
    canonical = sampling._canonical(np.stack([encode(text) for text in texts]))
    assert [decode(row) for row in canonical] == [min(t, complement(t)) for t in texts]


def test_windows_of_a_genome_are_given_as_the_model_reads_them(tmp_path):
    (tmp_path / "g.fa").write_text(">c\nAACCGGTACG\n")
    table = pa.table(
        {"sequence_id": ["c:0-4(-)", "c:4-8(+)"], "chrom": ["c", "c"], "start": [0, 4]}
        | {"end": [4, 8], "strand": ["-", "+"], "split": ["test"] * 2, "label.A": [1.0, 0.0]}
    )
    with SequenceReader(tmp_path / "g.fa", strand=True) as reader:
        sampled, _ = sampling.sample(table, reader, ["A"], 9, 9, 1)
    assert sampled["sequence"].to_pylist() == ["GGTT", "GGTA"]


def test_nothing_to_sample(data):
    path, table, _ = data
    with pytest.raises(ValueError, match=r"no label of \['C'\]; name targets of the run"):
        sample(path, table, exposures=("C",))
    with pytest.raises(ValueError, match="no test sequence can be sampled for A"):
        sample(path, table.slice(90), exposures=("A",))
    nothing = table.set_column(7, "label.B", pa.nulls(len(table), pa.float32()))
    with pytest.raises(ValueError, match="no test sequence can be sampled for B"):
        sample(path, nothing, exposures=("B",))
    sampled, counts = sample(path, nothing)
    assert strata(sampled, "B") == {}
    assert counts["exposures"]["B"]["bound"] == {"asked": 5, "available": 0, "taken": 0}
