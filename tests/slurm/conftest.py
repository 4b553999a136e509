"""One SLURM cluster for all tests of this folder, and little runs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pytest

from tests.checkout import Checkout, copy_of_the_checkout
from tests.slurm import scenarios, toy
from tests.slurm.cluster import Cluster, available
from tests.slurm.runs import TARGET, Run, final_tables


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if reason := available():
        # Where SLURM is meant to be there, a skipped test would hide that it is not.
        if os.environ.get("DEEPMR_REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with Cluster(account_cpu=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory) -> tuple[Checkout, dict[str, int]]:
    """The little workflow, made as far as mutagenesis; and how many sequences each shard has."""
    checkout = copy_of_the_checkout(tmp_path_factory.mktemp("slurm") / "base")
    toy.write_inputs(checkout.folder)
    checkout.run("results/sequences.parquet", "results/models/mine.pt")
    return checkout, toy.note_sequences(checkout.folder)


@pytest.fixture(scope="session")
def undisturbed(toy_base, tmp_path_factory) -> dict[str, pa.Table]:
    """Tables of a run on this machine that nothing disturbed."""
    checkout = toy_base[0].copy(tmp_path_factory.mktemp("undisturbed") / "copy")
    checkout.run(TARGET)
    return final_tables(checkout.folder)


@pytest.fixture(scope="session")
def new_run(cluster, toy_base, tmp_path_factory) -> Callable[[str], Run]:
    """Return a fresh little run of a name."""

    def new(name: str) -> Run:
        return Run(toy_base[0].copy(tmp_path_factory.mktemp("slurm") / name), cluster)

    return new


@pytest.fixture(scope="session")
def side_by_side(cluster, new_run, tmp_path_factory) -> Iterator[dict[str, tuple[Run, Future]]]:
    """The scenarios by name: the run of each, and what it will return."""
    little = [scenarios.four_faults, scenarios.delayed_file, scenarios.snakemake_killed]
    if os.geteuid() == 0:
        little.append(scenarios.full_disk)
    runs = {scenario: new_run(scenario.__name__) for scenario in little}
    checkout = copy_of_the_checkout(tmp_path_factory.mktemp("slurm") / "example")
    runs[scenarios.shipped_example] = Run(checkout, cluster)
    with ThreadPoolExecutor(len(runs)) as pool:
        yield {
            scenario.__name__: (run, pool.submit(scenario, run)) for scenario, run in runs.items()
        }
