"""Only what must be made again is made again, and the result does not depend on the shards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepmr import tables
from tests.checkout import Checkout


def shard(checkout: Checkout, name: str) -> Path:
    return checkout.folder / "results" / "effects" / "model=cnn" / f"{name}.parquet"


def test_lost_and_truncated_shards_are_made_again_and_nothing_else(example_copy):
    deleted, truncated = shard(example_copy, "2-of-4"), shard(example_copy, "3-of-4")
    results = example_copy.folder / "results"
    before = {p: tables.read_table(p) for p in (deleted, truncated, results / "mr.parquet")}
    deleted.unlink()
    truncated.write_bytes(truncated.read_bytes()[: truncated.stat().st_size // 2])

    outcome = example_copy.run()

    assert "3-of-4.parquet was cut short; it is made again" in outcome.text
    assert dict(outcome.jobs) == {
        "mutagenesis": 2,
        "estimate_mr": 2,
        "gather_mr": 1,
        "estimate_decoys": 1,
        "explain_heterogeneity": 1,
        "meta_analysis": 1,
        "gather_network": 1,
        "plot_effects": 1,
        "plot_pair": 3,
        "write_report": 1,
        "all": 1,
    }
    for path, table in before.items():
        assert tables.read_table(path).equals(table), path
    assert list(results.rglob("*.tmp")) == []


def test_one_shard_and_seven_shards_give_the_same_tables(example_copy):
    config = example_copy.folder / "config" / "config.yaml"
    text = config.read_text()
    assert "bound: 100" in text
    config.write_text(text.replace("bound: 100", "bound: 5").replace("unbound: 50", "unbound: 3"))
    results = example_copy.folder / "results"
    found = {}
    for shards in (1, 7):
        outcome = example_copy.run(
            "results/mr.parquet", "results/meta.parquet", "--set-scatter", f"shard={shards}"
        )
        assert outcome.jobs["mutagenesis"] == shards
        assert outcome.jobs["train_model"] == 0
        found[shards] = [tables.read_table(results / f"{name}.parquet") for name in ("mr", "meta")]
    # Sequences of different exposures may be the same, so there are at most 3 * (5 + 3).
    assert 0 < len(set(found[1][0]["sequence_id"].to_pylist())) <= 24
    assert found[1][0].equals(found[7][0])
    assert found[1][1].equals(found[7][1])


def test_mr_takes_several_of_many_shards_in_a_job(example):
    jobs = example[0].dry_run("--set-scatter", "shard=203").jobs
    assert jobs["mutagenesis"] == 203
    assert jobs["estimate_mr"] == 200


def test_edit_of_an_estimator_reruns_mr_and_later_only(example_copy):
    path = example_copy.folder / "deepmr" / "mr" / "estimators" / "egger.py"
    path.write_text(path.read_text() + "\n\nADDED = 1\n")
    jobs = example_copy.dry_run().jobs
    assert jobs["estimate_mr"] == 4
    assert jobs["estimate_decoys"] == jobs["meta_analysis"] == 1
    assert jobs["write_report"] == 1
    assert jobs["mutagenesis"] == jobs["train_model"] == jobs["extract_windows"] == 0


def test_edit_of_a_docstring_reruns_nothing(example_copy):
    path = example_copy.folder / "deepmr" / "mr" / "estimators" / "egger.py"
    text = path.read_text()
    assert text.count('"""') >= 4
    path.write_text(text.replace('"""', '"""Say it otherwise. ', 1) + "\n# a comment\n")
    assert example_copy.dry_run().nothing_to_do


@pytest.mark.parametrize(
    ("addition", "rerun", "kept"),
    [
        ("mr:\n  effect_scale: probability\n", "estimate_mr", "mutagenesis"),
        ("meta:\n  combinations: [REML]\n", "meta_analysis", "estimate_mr"),
        ("meta:\n  fdr: 0.1\n", "gather_network", "meta_analysis"),
        ("mr:\n  decoy_sequences: 20\n", "estimate_decoys", "estimate_mr"),
        ("calibration:\n  bins: 5\n", "calibrate_probabilities", "predict_windows"),
        ("calibration:\n  apply: platt\n", "estimate_mr", "mutate_replicates"),
    ],
)
def test_change_of_a_setting_reruns_what_it_concerns(example_copy, addition, rerun, kept):
    path = example_copy.folder / "config" / "config.yaml"
    path.write_text(f"{path.read_text()}\n{addition}")
    jobs = example_copy.dry_run().jobs
    assert jobs[rerun] > 0
    assert jobs[kept] == jobs["train_model"] == 0


def test_slurm_profile_is_found_and_names_executor_and_partitions(example):
    text = example[0].snakemake("--profile", "slurm", "--dry-run", "--forceall").text
    assert "Using profile slurm" in text
    asked = dict(
        re.findall(r"^rule (\w+):.*?^    resources: (.*?)$", text, re.DOTALL | re.MULTILINE)
    )
    for rule, resources in asked.items():
        on_gpu = rule in ("train_model", "predict_windows", "mutagenesis", "mutate_replicates")
        assert f"slurm_partition={'gpu' if on_gpu else 'cpu'}" in resources, rule
        assert ("gpu=1" in resources) == on_gpu, rule
    assert {"mutagenesis", "estimate_mr", "write_report"} <= set(asked)
