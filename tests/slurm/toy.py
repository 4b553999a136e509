"""A little workflow whose network does harm on order: a lab's own network on ready sequences.

A test leaves an order for a shard in the folder `faults`: what to do, and before which sequence of
the job. The network finds it where it is evaluated, in the middle of mutagenesis, so that nothing
of the product is changed for the tests. It also writes down each sequence that it sees.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from deepmr import tables
from deepmr.shards.membership import members

LENGTH, SHARDS, SEQUENCES = 40, 4, 28

NETWORK = '''
"""One convolution and one dropout site; `obey` is what the tests need."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

FAULTS = Path("faults")
seen = []


class Network(nn.Sequential):
    def forward(self, x):
        script = getattr(sys.modules["__main__"], "snakemake", None)
        if script is not None and script.rule == "mutagenesis":
            letters = "".join("ACGT"[i] for i in x[0].argmax(0).tolist())
            if letters in json.loads((FAULTS / "sequences.json").read_text()):
                obey(script.wildcards.scatteritem, letters)
        return super().forward(x)


def obey(shard, letters):
    if letters in seen:
        return
    order = FAULTS / f"{shard}.order"
    if order.exists():
        what, before, name = order.read_text().split()
        if len(seen) == int(before):
            # Renamed, so that it is carried out once, whoever comes.
            os.rename(order, FAULTS / f"{shard}.done")
            HARM[what](FAULTS / f"{shard}.{name}")
    seen.append(letters)
    job = [os.environ.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")]
    job += [os.environ.get("SLURMD_NODENAME", ""), str(os.getpid())]
    with (FAULTS / "seen").open("a") as file:
        file.write(json.dumps([shard, letters, *job]) + "\\\\n")


def fail(name):
    raise RuntimeError("ordered to fail")


def wait(name):
    Path(f"{name}.waiting").touch()
    while not Path(f"{name}.go").exists():
        time.sleep(0.05)


def eat(name):
    eaten = []
    while True:
        eaten.append(np.ones(25_000_000))  # 200 MB
        time.sleep(0.2)


HARM = {"fail": fail, "wait": wait, "eat": eat}


def build():
    return Network(
        nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(32, 2),
    )
'''.replace("\\\\n", "\\n")

CONFIG = {
    "data": {"source": "sequences", "fasta": "ready.fa", "labels": "labels.tsv", "strand": True},
    "windows": {"length": LENGTH},
    "targets": {"TF": {}, "open": {}},
    "pairs": {"TF_open": {"exposure": "TF", "outcome": "open"}},
    "models": {"mine": {"code": "network.py:build", "weights": "weights.pt"}},
    "uncertainty": {"draws": 5},
    "prediction": {"draws": 3},
    "sampling": {"bound": SEQUENCES // 2, "unbound": SEQUENCES // 2},
    "sharding": {"shards": SHARDS, "save_every": 0.001},
    "instruments": {"rule": "strength", "strength": 0.5},
}


def write_inputs(folder: Path) -> None:
    """Write data, network and config/config.yaml of the little workflow into a checkout."""
    rng = np.random.default_rng(1)
    records, rows = [], ["sequence_id\tsplit\tTF\topen"]
    for i in range(6 * SEQUENCES):
        letters = "".join(rng.choice(list("ACGT"), LENGTH))
        records.append(f">r{i}\n{letters}\n")
        rows.append(f"r{i}\t{('validation', 'test', 'train')[i % 3]}\t{i // 3 % 2}\t{i % 2}")
    (folder / "ready.fa").write_text("".join(records))
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n")
    (folder / "network.py").write_text(NETWORK)
    (folder / "faults").mkdir()
    names: dict = {}
    exec(NETWORK, names)
    torch.manual_seed(3)
    torch.save(names["build"]().state_dict(), folder / "weights.pt")
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(CONFIG))


def note_sequences(folder: Path) -> dict[str, int]:
    """Tell the network which sequences are whole; return how many each shard has."""
    table = tables.read_table(folder / "results" / "sequences.parquet")
    (folder / "faults" / "sequences.json").write_text(json.dumps(table["sequence"].to_pylist()))
    ids = table["sequence_id"].to_pylist()
    shards = [f"{i}-of-{SHARDS}" for i in range(1, SHARDS + 1)]
    return {shard: len(members(ids, shard)) for shard in shards}


@dataclass(frozen=True)
class Order:
    """What a shard's job was told to do."""

    folder: Path
    shard: str
    name: str

    @property
    def waits(self) -> bool:
        """Whether the job waits for `let_go`."""
        return (self.folder / "faults" / f"{self.shard}.{self.name}.waiting").exists()

    def let_go(self) -> None:
        """Let the job go on."""
        (self.folder / "faults" / f"{self.shard}.{self.name}.go").touch()


def order(folder: Path, shard: int, what: str, before: int, name: str = "first") -> Order:
    """Have a shard's next job do harm before its sequence of that number (from 0), once.

    To `fail` is to raise, to `wait` is to wait until it is let go, to `eat` is to take memory.
    """
    given = Order(folder, f"{shard}-of-{SHARDS}", name)
    (folder / "faults" / f"{given.shard}.order").write_text(f"{what} {before} {name}")
    return given


def seen(folder: Path) -> list[dict[str, str]]:
    """Return what the network has seen: shard, sequence, SLURM job, restart, node, process."""
    path = folder / "faults" / "seen"
    keys = ("shard", "sequence", "job", "restart", "node", "pid")
    lines = path.read_text().splitlines() if path.exists() else []
    return [dict(zip(keys, json.loads(line), strict=True)) for line in lines]


def computed(folder: Path) -> Counter[str]:
    """Return by shard how many sequences were computed, those computed twice counted twice."""
    return Counter(event["shard"] for event in seen(folder))
