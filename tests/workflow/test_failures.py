"""Shards that fail, in a real run: what is told, what goes on, and what the next run makes."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import yaml

from deepmr import failures

# A network that fails in two shards as long as a file exists, so that it is mended without an edit.
NETWORK = """
import os
import signal
from pathlib import Path

from torch import nn

FLAG = Path("{flag}")


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(32, 2),
        )

    def forward(self, x):
        import __main__

        job = getattr(__main__, "snakemake", None)
        if FLAG.exists() and job is not None and job.rule == "mutagenesis":
            if job.wildcards.scatteritem == "2-of-3":
                raise ValueError("no network for this shard")
            if job.wildcards.scatteritem == "3-of-3":
                os.kill(os.getpid(), signal.SIGKILL)
        return self.body(x)


def build():
    return Picky()
"""


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    """Return a folder with ready sequences, a network that fails, and a configuration."""
    folder = tmp_path_factory.mktemp("failing")
    rng = np.random.default_rng(1)
    records, rows = [], ["sequence_id\tsplit\tTF\topen"]
    for i in range(60):
        records.append(f">r{i}\n{''.join(rng.choice(list('ACGT'), 50))}\n")
        split = ("train", "validation", "test")[i % 3]
        rows.append(f"r{i}\t{split}\t{rng.integers(2)}\t{rng.integers(2)}")
    (folder / "ready.fa").write_text("".join(records))
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n")
    code = NETWORK.format(flag=folder / "broken")
    (folder / "network.py").write_text(code)
    names: dict = {}
    exec(code, names)
    torch.save(names["build"]().state_dict(), folder / "weights.pt")
    config = {
        "results": str(folder / "results"),
        "data": {
            "source": "sequences",
            "directory": str(folder),
            "fasta": "ready.fa",
            "labels": "labels.tsv",
            "strand": True,
        },
        "windows": {"length": 50},
        "targets": {"TF": {}, "open": {}},
        "pairs": {"TF_open": {"exposure": "TF", "outcome": "open"}},
        "models": {
            "mine": {
                "code": str(folder / "network.py:build"),
                "weights": str(folder / "weights.pt"),
            }
        },
        "uncertainty": {"draws": 5},
        "prediction": {"draws": 3},
        "sampling": {"bound": 5, "unbound": 5},
        "sharding": {"shards": 3},
        "instruments": {"rule": "strength", "strength": 0.5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def command(setup):
    """Return the arguments that are typed; the target leaves out figures and report."""
    return (
        str(setup / "results" / "mr.parquet"),
        "--configfile",
        str(setup / "config.yaml"),
        "--retries",
        "1",
    )


@pytest.fixture(scope="module")
def failed(checkout, setup, command):
    """Return what the failing run told, and its table by shard."""
    (setup / "broken").touch()
    outcome = checkout.run(*command, check=False)
    assert outcome.status == 1
    with (setup / "results" / failures.TABLE).open() as file:
        return outcome, {row["shard"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_table_has_the_failed_shards(failed, setup, command):
    rows = failed[1]
    assert set(rows) == {"2-of-3", "3-of-3"}
    assert {row["rule"] for row in rows.values()} == {"mutagenesis"}
    assert {row["model"] for row in rows.values()} == {"mine"}
    assert {row["attempts"] for row in rows.values()} == {"2"}
    assert rows["2-of-3"]["reason"] == "ValueError: no network for this shard"
    assert rows["3-of-3"]["reason"] == "killed by SIGKILL (out of memory?)"
    output = setup / "results" / "effects" / "model=mine" / "2-of-3.parquet"
    assert rows["2-of-3"]["rerun"] == (
        f"snakemake {output} --profile profiles/local {' '.join(command)}"
    )


def test_the_end_of_the_run_tells_what_failed(failed, command):
    text = failed[0].text
    block = text[text.index("Failed: 2 of mutagenesis.") :]
    assert "mutagenesis model=mine scatteritem=2-of-3 (2 attempts): ValueError" in block
    assert "2-of-3.log ends with:" in block
    assert "more not done: they need these" in block
    assert f"again: snakemake --profile profiles/local {' '.join(command)}" in block


def test_other_shards_went_on(failed, setup):
    made = (setup / "results" / "effects" / "model=mine").glob("*.parquet")
    assert [path.name for path in made] == ["1-of-3.parquet"]


def test_mended_the_same_command_makes_only_the_failed_shards(failed, checkout, setup, command):
    (setup / "broken").unlink()
    outcome = checkout.run(*command)
    assert outcome.jobs["mutagenesis"] == 2
    assert set(outcome.jobs) == {"mutagenesis", "estimate_mr", "gather_mr"}
    assert not (setup / "results" / failures.TABLE).exists()
