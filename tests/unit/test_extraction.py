from __future__ import annotations

import numpy as np
import pytest

from deepmr.genome.extraction import extract, open_reader

SPLIT = {"validation": ["chr2"], "test": ["chr3"], "exclude": []}
GEOMETRY = {"length": 20, "bin": 10, "stride": 20, "negatives_per_positive": None}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    letters = {f"chr{i}": "".join(rng.choice(list("ACGT"), 100)) for i in (1, 2, 3)}
    (tmp_path / "genome.fa").write_text("".join(f">{n}\n{s}\n" for n, s in letters.items()))
    (tmp_path / "a.bed").write_text("".join(f"{name}\t5\t15\n" for name in letters))
    (tmp_path / "black.bed").write_text("chr1\t90\t95\n")
    (tmp_path / "ready.fa").write_text("".join(f">{n}\n{s[:20]}\n" for n, s in letters.items()))
    rows = "".join(f"{name}\t{name}\t1\n" for name in letters)
    (tmp_path / "labels.tsv").write_text("sequence_id\tchrom\ta\n" + rows)
    return tmp_path


def test_genome_and_ready_sequences_come_through_one_door(folder, caplog):
    caplog.set_level("INFO")
    genome = {
        "source": "genome",
        "directory": str(folder),
        "fasta": "genome.fa",
        "labels": None,
        "blacklist": "black.bed",
        "strand": False,
    }
    target = {"a": {"type": "binary", "peaks": "a.bed", "measured": None, "extend": 0}}
    table, counts = extract(genome, target, GEOMETRY, SPLIT, seed=1)
    assert table.num_rows == 14
    assert counts["splits"]["test"]["positives"]["a"] == 1
    assert '"kept": 14' in caplog.text

    ready = genome | {"source": "sequences", "fasta": "ready.fa", "labels": "labels.tsv"}
    other, _ = extract(ready, {"a": {"type": "binary"}}, GEOMETRY, SPLIT, seed=1)
    assert other["sequence_id"].to_pylist() == ["chr1", "chr2", "chr3"]
    with open_reader(genome) as from_genome, open_reader(ready) as from_ready:
        positive = table.filter(table["label.a"].to_numpy() == 1)
        assert np.array_equal(from_genome.windows(positive), from_ready.windows(other))
