import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepmr import preflight
from deepmr.genome import input_checks
from deepmr.preflight import InputError, check_inputs, discard_damaged


def target(**settings):
    return {
        "type": "binary",
        "peaks": None,
        "measured": None,
        "extend": 0,
        "value_column": None,
        "column": None,
    } | settings


@pytest.fixture
def genome(tmp_path):
    """A configuration of form (a), and its files."""
    data = tmp_path / "data"
    data.mkdir()
    letters = "".join(np.random.default_rng(0).choice(list("ACGT"), 300))
    (data / "genome.fa").write_text(
        "".join(f">{name}\n{letters[:size]}\n" for name, size in CHROMOSOMES.items())
    )
    for name in ("A", "B"):
        (data / f"{name}.bed").write_text("chr1\t10\t200\nchr3\t0\t150\n")
    (tmp_path / "motifs.jaspar").write_text(">x\n")
    return {
        "results": "results",
        "data": {"source": "genome", "directory": "data", "fasta": "genome.fa", "strand": False}
        | {"labels": None, "blacklist": None},
        "windows": {"length": 100, "bin": 50, "stride": 50, "negatives_per_positive": 1.0},
        "split": {"validation": ["chr2"], "test": ["chr3"], "exclude": []},
        "targets": {"A": target(peaks="A.bed"), "B": target(peaks="B.bed")},
        "motifs": "motifs.jaspar",
        "models": {"cnn": {"architecture": "small", "code": None, "weights": None}},
    }


CHROMOSOMES = {"chr1": 300, "chr2": 250, "chr3": 200, "short": 60}


@pytest.fixture
def sequences(genome, tmp_path):
    """A configuration of form (b), and its files."""
    data = tmp_path / "data"
    (data / "s.fa").write_text("".join(f">s{i}\nACGTACGTAC\n" for i in range(6)))
    rows = zip(range(6), ["chr1", "chr2", "chr3"] * 2, strict=True)
    (data / "labels.tsv").write_text(
        "sequence_id\tchrom\tA\tB\n" + "".join(f"s{i}\t{c}\t1\t\n" for i, c in rows)
    )
    text = (data / "labels.tsv").read_text().replace("s0\tchr1\t1\t", "s0\tchr1\t1\t0")
    (data / "labels.tsv").write_text(text)
    changed = {"source": "sequences", "fasta": "s.fa", "labels": "labels.tsv"}
    return genome | {
        "data": genome["data"] | changed,
        "windows": genome["windows"] | {"length": 10},
        "targets": {"A": target(), "B": target()},
    }


def refused(config, base):
    with pytest.raises(InputError) as caught:
        check_inputs(config, base)
    message = str(caught.value)
    assert message.startswith("the input cannot be used:\n  ")
    assert all(problem in message for problem in caught.value.problems)
    return caught.value.problems


def test_good_input_of_both_forms_passes(genome, sequences, tmp_path):
    check_inputs(genome, tmp_path)
    check_inputs(sequences, tmp_path)


def test_missing_and_empty_files_are_all_listed(genome, tmp_path):
    (tmp_path / "data" / "A.bed").unlink()
    (tmp_path / "data" / "B.bed").write_text("")
    genome["models"]["own"] = {"code": "net.py:build", "weights": "w.pt"}
    problems = refused(genome, tmp_path)
    assert [p.split(":")[0] for p in problems] == [
        "targets.A.peaks",
        "targets.B.peaks",
        "models.own.code",
        "models.own.weights",
    ]
    assert "A.bed does not exist; write the path" in problems[0]
    assert "B.bed is empty" in problems[1]
    assert "net.py does not exist" in problems[2]


def test_several_problems_are_told_together_with_their_keys(genome, tmp_path):
    (tmp_path / "data" / "A.bed").write_text("1\t5\t9\n")
    (tmp_path / "data" / "B.bed").write_text("chr1\t5\t9\nchr1\t9\t5\n")
    (tmp_path / "data" / "black.bed").write_text("chrM\t5\t9\n")
    genome["data"]["blacklist"] = "black.bed"
    genome["split"] |= {"test": ["chr9"], "exclude": ["chr2"]}
    problems = refused(genome, tmp_path)
    assert len(problems) == 5
    text = "\n".join(problems)
    for part in (
        "targets.A.peaks: ",
        "the FASTA has no chromosome 1; it has chr1, chr2, chr3, short. The FASTA's names begin",
        "targets.B.peaks: ",
        "line 2: start 9 is not below end 5",
        "data.blacklist: ",
        "split.test: the FASTA has no 'chr9'; it has chr1",
        "split.exclude: chr2 is in split.validation too",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": {"length": 400, "stride": 50}}, r"windows\.length: 400 is longer than every"),
        ({"windows": {"length": 400, "stride": 50}}, r"the longest has 300 bases"),
        ({"split": {"validation": ["chr2"], "test": ["short"]}}, r"split\.test: no test window is"),
        ({"split": {"validation": [], "test": ["chr3"]}}, r"split\.validation: no validation win"),
        (
            {"split": {"validation": ["chr2"], "test": ["chr3", "chr1"], "exclude": []}},
            "split: no train window is left",
        ),
    ],
)
def test_geometry_and_split_of_a_genome(genome, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        check_inputs(genome | change, tmp_path)


def test_a_damaged_fasta_does_not_hide_a_damaged_bed(genome, tmp_path):
    (tmp_path / "data" / "genome.fa").write_text(">chr1\nACGT\n>chr1\nACGT\n")
    (tmp_path / "data" / "A.bed").write_text("# none\n")
    problems = refused(genome, tmp_path)
    assert "data.fasta: " in problems[0]
    assert "two records named 'chr1'" in problems[0]
    assert problems[1].startswith("targets.A.peaks: ")
    assert "holds no interval" in problems[1]


def test_settings_of_a_target_are_used(genome, tmp_path):
    genome["targets"]["A"] |= {"type": "count", "value_column": 5}
    assert "no number in column 5" in refused(genome, tmp_path)[0]
    (tmp_path / "data" / "m.bed").write_text("chr7\t1\t9\n")
    genome["targets"]["A"] |= {"value_column": None, "measured": "m.bed"}
    assert refused(genome, tmp_path)[0].startswith("targets.A.measured: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s3\tchr1", "s2\tchr1", r"data\.labels: .* 1 name\(s\) stand in more than one row: s2"),
        ("s3\tchr1\t1\t\n", "", r"data\.labels: 1 sequence\(s\) of .* have no row in .*: s3"),
        (
            "\tB\n",
            "\tb\n",
            r"data\.labels: .* has no column 'B' for targets\.B\.column; it has seq",
        ),
        ("chr3", "chr1", r"split: .* split\.test names 'chr3', which the column chrom lacks"),
        ("chr1", "chr2", r"split: no train sequence is left of 6"),
        ("s4\tchr2\t1", "s4\tchr2\t7", r"data\.labels: .*'A' holds 7 for s4"),
    ],
)
def test_unusable_label_tables(sequences, tmp_path, old, new, message):
    path = tmp_path / "data" / "labels.tsv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        check_inputs(sequences, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (">s3\nACGTAC", ">s3\nACGT?C", r"data\.fasta: .*s3 holds the letter '\?' at position 5"),
        (">s3\n", ">s2\n", r"data\.fasta: .* two records named 's2'"),
        (">s3\nACGT", ">s3\n", r"data\.labels: .*record s3 has 6 bases instead of 10"),
    ],
)
def test_unusable_sequences(sequences, tmp_path, old, new, message):
    path = tmp_path / "data" / "s.fa"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        check_inputs(sequences, tmp_path)


def test_files_that_the_simulation_makes_are_not_looked_at(genome, tmp_path):
    for name in ("genome.fa", "A.bed", "B.bed"):
        (tmp_path / "data" / name).unlink()
    genome["simulation"] = {}
    check_inputs(genome, tmp_path)
    (tmp_path / "data" / "m.bed").write_text("chr7\t9\t1\n")
    genome["targets"]["A"]["measured"] = "m.bed"
    assert "start 9 is not below end 1" in refused(genome, tmp_path)[0]


def annotate(config, base, **texts):
    """Write annotation files, named by their text's kind, and put them into the configuration."""
    named = {}
    for name, text in texts.items():
        kind = "tsv" if text.startswith("sequence_id") else "bed"
        named[name] = f"{name}.{kind}"
        (base / named[name]).write_text(text)
    return config | {"meta": {"annotations": named}}


def test_annotations_of_a_genome_are_opened(genome, tmp_path):
    good = annotate(genome, tmp_path, a="chr1\t0\t9\n", b="sequence_id\tb\nchr3:0-100\tx\n")
    check_inputs(good, tmp_path)
    bad = annotate(
        genome,
        tmp_path,
        a="chr1\t9\t5\n",
        b="sequence_id\tc\nchr3:0-100\tx\n",
        c="sequence_id\tc\nchr3:0-90\tx\n",
        d="chr7\t5\t9\n",
    )
    problems = refused(bad, tmp_path)
    assert [p.split(": ")[0] for p in problems] == [f"meta.annotations.{n}" for n in "abcd"]
    for problem, part in zip(
        problems,
        (
            "a.bed line 1: start 9 is not below end 5",
            "b.tsv has no column 'b'; it has sequence_id, c",
            "1 of 1 sequence ids name no sequence of this run: chr3:0-90; a window of 100 bases",
            "the FASTA has no chromosome chr7; it has chr1",
        ),
        strict=True,
    ):
        assert part in problem
    (tmp_path / "a.bed").unlink()
    assert "meta.annotations.a: " in refused(bad, tmp_path)[0]
    assert "a.bed does not exist" in refused(bad, tmp_path)[0]


def test_annotations_of_a_simulated_or_damaged_genome_are_opened_too(genome, tmp_path):
    bad = annotate(genome, tmp_path, a="chr7\t9\t5\n", b="sequence_id\tb\nany\t1\n")
    bad["simulation"] = {}
    assert [p.split(": ")[0] for p in refused(bad, tmp_path)] == ["meta.annotations.a"]
    del bad["simulation"]
    (tmp_path / "data" / "genome.fa").write_text(">chr1\nACGT\n>chr1\nACGT\n")
    assert [p.split(": ")[0] for p in refused(bad, tmp_path)] == [
        "data.fasta",
        "meta.annotations.a",
    ]


def test_annotations_of_ready_sequences(sequences, tmp_path):
    check_inputs(annotate(sequences, tmp_path, a="sequence_id\ta\ns3\tx\n"), tmp_path)
    bad = annotate(sequences, tmp_path, a="sequence_id\ta\ns3\tx\nt9\ty\n", b="chr1\t0\t9\n")
    problems = refused(bad, tmp_path)
    assert "meta.annotations.a: " in problems[0]
    assert "1 of 2 sequence ids name no sequence of this run: t9; names are" in problems[0]
    assert "meta.annotations.b: " in problems[1]
    assert "it has no column start, end; add it, or write a table" in problems[1]
    path = tmp_path / "data" / "labels.tsv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            f"{line}\t{'start' if i == 0 else 5}\t{'end' if i == 0 else 15}"
            for i, line in enumerate(lines)
        )
        + "\n"
    )
    check_inputs(annotate(sequences, tmp_path, b="chr1\t0\t9\n"), tmp_path)


def count_checks(monkeypatch):
    calls = []
    original = input_checks.problems

    def counting(*arguments, **settings):
        calls.append(settings["letters_known"])
        return original(*arguments, **settings)

    monkeypatch.setattr(input_checks, "problems", counting)
    return calls


def test_the_second_start_checks_nothing_and_a_change_checks_again(genome, tmp_path, monkeypatch):
    calls = count_checks(monkeypatch)
    check_inputs(genome, tmp_path)
    check_inputs(genome, tmp_path)
    assert len(calls) == 1
    check_inputs(genome | {"pairs": "edited"}, tmp_path)
    assert len(calls) == 1
    check_inputs(genome | {"windows": genome["windows"] | {"length": 99}}, tmp_path)
    assert len(calls) == 2
    (tmp_path / "data" / "A.bed").write_text("chr1\t10\t10\n")
    assert "start 10 is not below end 10" in refused(genome, tmp_path)[0]
    refused(genome, tmp_path)
    assert len(calls) == 4
    (tmp_path / "data" / "A.bed").write_text("chr1\t10\t90\n")
    check_inputs(genome, tmp_path)
    path = tmp_path / "results" / preflight.CACHE
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    for damaged in ("", "[]", '{"version": 0}'):
        path.write_text(damaged)
        check_inputs(genome, tmp_path)
    assert len(calls) == 8
    assert json.loads(path.read_text())["version"] == 1


def test_ready_sequences_are_read_again_only_when_they_change(sequences, tmp_path, monkeypatch):
    calls = count_checks(monkeypatch)
    check_inputs(sequences, tmp_path)
    check_inputs(sequences | {"targets": {"A": target()}}, tmp_path)
    path = tmp_path / "data" / "s.fa"
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    check_inputs(sequences, tmp_path)
    assert calls == [False, True, False]


def test_the_module_itself_needs_only_the_standard_library():
    third_party = {"numpy", "pyarrow", "pyfaidx", "torch", "snakemake"}
    imported = {
        getattr(value, "__name__", "").split(".")[0] for value in vars(preflight).values()
    } | {getattr(value, "__module__", "") or "" for value in vars(preflight).values()}
    assert not {name.split(".")[0] for name in imported} & third_party
    assert "deepmr.preflight" in sys.modules


def test_damaged_parquet_files_are_deleted_and_no_others(tmp_path):
    table = pa.table({"a": np.arange(1_000)})
    good = tmp_path / "effects" / "model=cnn" / "1-of-2.parquet"
    good.parent.mkdir(parents=True)
    pq.write_table(table, good)
    empty_table = tmp_path / "empty.parquet"
    pq.write_table(table.slice(0, 0), empty_table)
    content = good.read_bytes()
    impossible = len(content).to_bytes(4, "little")
    damaged = {
        "cut.parquet": content[:-1],
        "half.parquet": content[: len(content) // 2],
        "nothing.parquet": b"",
        "magic.parquet": b"PAR1",
        "headless.parquet": b"XXXX" + content[4:],
        "footer.parquet": content[:-8] + impossible + b"PAR1",
        "zero.parquet": content[:-8] + bytes(4) + b"PAR1",
    }
    for name, data in damaged.items():
        (good.parent / name).write_bytes(data)
    (tmp_path / "note.txt").write_text("cut")
    found = discard_damaged(tmp_path)
    assert found == sorted(good.parent / name for name in damaged)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == sorted(
        ["1-of-2.parquet", "empty.parquet", "note.txt"]
    )
    assert discard_damaged(tmp_path) == []
    assert discard_damaged(tmp_path / "not there yet") == []
