"""A run of Snakemake on the test cluster, and the tables that it makes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from deepmr import tables
from tests.checkout import Checkout, Outcome
from tests.slurm.cluster import Cluster

# Polls are seconds apart, not tens of seconds; one sequence is computed at a time.
FOR_TESTS = (
    *("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"),
    *("--set-threads", "mutagenesis=1"),
)
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--profile", "slurm")
TARGET = "results/mr.parquet"


@dataclass(frozen=True)
class Run:
    """A checkout in which Snakemake runs on the cluster."""

    checkout: Checkout
    cluster: Cluster

    @property
    def folder(self) -> Path:
        return self.checkout.folder

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Snakemake; what it prints goes to a file (`said`)."""
        with (self.folder / "said").open("a") as said:
            return subprocess.Popen(
                [*SNAKEMAKE, *arguments, *FOR_TESTS],
                cwd=self.folder,
                env={**self.cluster.environment(), "NO_COLOR": "1", "COLUMNS": "200"},
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> Outcome:
        """Wait for Snakemake's end, which must be with that status."""
        found = process.wait(timeout=600)
        assert found == status, self.said()
        return Outcome(found, self.said())

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = 600) -> None:
        try:
            self.cluster.wait_until(condition, seconds, f"{what} in {self.folder}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.said()}") from error

    def jobs(self, rule: str = "mutagenesis", shard: int | None = None) -> list[dict]:
        """Jobs of this run, in the order of submission."""
        wanted = f"rule_{rule}" + ("" if shard is None else f"_wildcards_mine_{shard}-of-")
        return [
            job
            for job in self.cluster.jobs()
            if job["folder"] == str(self.folder) and job["comment"].startswith(wanted)
        ]

    def unfinished_files(self) -> list[Path]:
        """What a run that succeeded must not leave."""
        results = self.folder / "results"
        left = [*results.rglob(".*.tmp"), *results.rglob("*.running")]
        return [*left, *results.rglob(".resume"), *results.glob("failed_shards.tsv")]


def final_tables(folder: Path) -> dict[str, pa.Table]:
    results = folder / "results"
    paths = [results / "mr.parquet", *sorted(results.glob("*/model=*/*.parquet"))]
    return {str(path.relative_to(results)): tables.read_table(path) for path in paths}
