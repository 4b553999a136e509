"""What is wrong with the input is said before any job starts: where, and what to write instead."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from deepmr import tables

CONFIG = {
    "data": {"fasta": "genome.fa"},
    "windows": {"length": 100, "bin": 50, "stride": 50},
    "split": {"validation": ["chr2"], "test": ["chr3"]},
    "targets": {"TF": {"peaks": "TF.bed"}, "open": {"peaks": "open.bed"}},
    "pairs": {"TF_open": {"exposure": "TF", "outcome": "open"}},
    "models": {"cnn": {}},
}
READY = {
    "data": {"source": "sequences", "fasta": "ready.fa", "labels": "labels.tsv"},
    "windows": {"length": 40},
    "split": {"validation": ["chr2"], "test": ["chr3"]},
    "targets": {"TF": {}, "open": {}},
}


def dna(seed: int, length: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), length))


@pytest.fixture
def ask(checkout, tmp_path) -> Callable[..., str]:
    """Return what a dry run on a little data set says, after one thing was changed."""
    chromosomes = "".join(f">chr{i}\n{dna(i, 2000)}\n" for i in (1, 2, 3))
    (tmp_path / "genome.fa").write_text(chromosomes)
    for target, shift in (("TF", 100), ("open", 125)):
        lines = (
            f"chr{i}\t{shift + 300 * j}\t{shift + 300 * j + 60}\n"
            for i in (1, 2, 3)
            for j in range(4)
        )
        (tmp_path / f"{target}.bed").write_text("".join(lines))
    (tmp_path / "ready.fa").write_text("".join(f">s{i}\n{dna(i, 40)}\n" for i in range(12)))
    rows = (f"s{i}\tchr{1 + i % 3}\t{i % 2}\t{i // 2 % 2}\n" for i in range(12))
    (tmp_path / "labels.tsv").write_text("sequence_id\tchrom\tTF\topen\n" + "".join(rows))

    def dry_run(change: Callable[[dict, Path], None], ready: bool = False) -> str:
        config = copy.deepcopy(CONFIG | READY if ready else CONFIG)
        config["data"]["directory"] = str(tmp_path)
        config["results"] = str(tmp_path / "results")
        change(config, tmp_path)
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        outcome = checkout.run("--dry-run", "--configfile", str(path), check=False)
        return outcome.text if outcome.status else f"ACCEPTED\n{outcome.text}"

    return dry_run


def set_key(key: str, value: object) -> Callable[[dict, Path], None]:
    def change(config: dict, folder: Path) -> None:
        *parents, last = key.split(".")
        for parent in parents:
            config = config[parent]
        config[last] = value

    return change


def write(name: str, text: str) -> Callable[[dict, Path], None]:
    return lambda config, folder: (folder / name).write_text(text)


def append(name: str, text: str) -> Callable[[dict, Path], None]:
    return lambda config, folder: (folder / name).write_text((folder / name).read_text() + text)


@pytest.mark.parametrize("ready", [False, True])
def test_the_data_set_itself_is_accepted(ask, ready):
    text = ask(lambda config, folder: None, ready)
    assert text.startswith("ACCEPTED")
    assert "train_model" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(set_key("windows.lenght", 3), ["windows", "lenght"], id="unknown key"),
        pytest.param(set_key("windows.length", "x"), ["windows", "length"], id="wrong type"),
        pytest.param(
            set_key("pairs.TF_open.outcome", "opne"),
            ["pairs.TF_open.outcome: no target is called 'opne'; targets are TF, open"],
            id="unknown target",
        ),
        pytest.param(
            write("TF.bed", ""), ["targets.TF.peaks", "TF.bed is empty"], id="empty peaks"
        ),
        pytest.param(
            write("TF.bed", "# nothing\n"), ["targets.TF.peaks", "TF.bed"], id="no interval"
        ),
        pytest.param(
            append("TF.bed", "X\t1\t9\n"),
            ["targets.TF.peaks", "no chromosome X", "it has chr1, chr2, chr3"],
            id="unknown chromosome",
        ),
        pytest.param(
            append("TF.bed", "chr1\t9\t5\n"), ["TF.bed", "line 13", "9", "5"], id="end before start"
        ),
        pytest.param(
            set_key("split.test", ["chr9"]), ["split.test", "chr9", "chr1"], id="unknown split"
        ),
        pytest.param(
            append("genome.fa", ">tiny\nACGT\n"), ["ACCEPTED"], id="short contig is no error"
        ),
        pytest.param(set_key("windows.length", 3000), ["windows.length", "3000"], id="long window"),
        pytest.param(
            append("genome.fa", f">chr1\n{dna(9, 200)}\n"),
            ["genome.fa", "chr1"],
            id="duplicate name",
        ),
        pytest.param(
            set_key("targets.TF.peaks", "no.bed"), ["targets.TF.peaks", "no.bed"], id="no file"
        ),
    ],
)
def test_genome_input(ask, change, said):
    text = ask(change)
    for part in said:
        assert part in text, text
    assert text.startswith("ACCEPTED") == (said == ["ACCEPTED"])


def test_split_that_leaves_no_test_window(ask):
    def change(config: dict, folder: Path) -> None:
        append("genome.fa", f">tiny\n{dna(5, 60)}\n")(config, folder)
        config["split"]["test"] = ["tiny"]

    text = ask(change)
    assert "split.test: no test window is left" in text, text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            append("ready.fa", f">s3\n{dna(3, 40)}\n"), ["ready.fa", "s3"], id="duplicate id"
        ),
        pytest.param(
            append("ready.fa", f">more\n{dna(3, 40)}\n"), ["labels.tsv", "more"], id="unlabelled"
        ),
        pytest.param(
            append("labels.tsv", "more\tchr1\t1\t1\n"), ["labels.tsv", "more"], id="no sequence"
        ),
        pytest.param(
            append("ready.fa", f">odd\n{dna(3, 20)}Z{dna(3, 19)}\n"),
            ["record odd", "'Z'", "position 21"],
            id="letter",
        ),
        pytest.param(
            set_key("targets.TF", {"column": "nix"}), ["targets.TF", "nix", "open"], id="column"
        ),
        pytest.param(append("labels.tsv", "s0\tchr1\t1\t1\n"), ["labels.tsv", "s0"], id="twice"),
    ],
)
def test_ready_sequences(ask, change, said):
    text = ask(change, ready=True)
    for part in said:
        assert part in text, text
    assert not text.startswith("ACCEPTED")


def test_lower_case_and_ambiguity_letters_are_read(ask):
    text = ask(append("ready.fa", ""), ready=True)
    assert text.startswith("ACCEPTED")
    soft = dna(3, 40).lower()[:39] + "N"
    both = ask(
        lambda config, folder: (
            append("ready.fa", f">soft\n{soft}\n")(config, folder),
            append("labels.tsv", "soft\tchr1\t1\t1\n")(config, folder),
        ),
        ready=True,
    )
    assert both.startswith("ACCEPTED")


def test_half_written_table_is_never_read(ask, tmp_path):
    path = tmp_path / "results" / "windows.parquet"
    tables.write_table(pa.table({"a": list(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    text = ask(lambda config, folder: None)
    assert "windows.parquet was cut short; it is made again" in text
    assert not path.exists()
