"""A lab's own network on ready sequences, through the whole workflow."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
import yaml

from deepmr import tables
from deepmr.mr.registry import ESTIMATORS
from tests.checkout import Checkout, Outcome

NETWORK = '''
"""A network with one convolution and one dropout site."""

from torch import nn


def build():
    return nn.Sequential(
        nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(32, 2),
    )
'''


def write_lab(folder: Path) -> dict:
    """Write sequences, labels and a network, and return the configuration that names them."""
    rng = np.random.default_rng(1)
    records, rows = [], ["sequence_id\tsplit\tTF\topen"]
    for i in range(60):
        letters = "".join(rng.choice(list("ACGT"), 50))
        records.append(f">r{i}\n{letters}\n")
        measured = "" if i % 10 == 0 else str(rng.integers(2))
        split = ("train", "validation", "test")[i % 3]
        rows.append(f"r{i}\t{split}\t{measured}\t{rng.integers(2)}")
    (folder / "ready.fa").write_text("".join(records))
    (folder / "labels.tsv").write_text("\n".join(rows) + "\n")
    kinds = [f"r{i}\t{('promoter', 'enhancer')[i % 2]}\n" for i in range(50)]
    (folder / "kinds.tsv").write_text("sequence_id\tkind\n" + "".join(kinds))
    (folder / "network.py").write_text(NETWORK)
    names: dict = {}
    exec(NETWORK, names)
    torch.manual_seed(3)
    torch.save(names["build"]().state_dict(), folder / "weights.pt")
    return {
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
        "sampling": {"bound": 3, "unbound": 3},
        "sharding": {"shards": 2},
        "instruments": {"rule": "strength", "strength": 0.5},
        "mr": {
            "methods": list(ESTIMATORS),
            "primary": "bayesian_mode",
            "bootstrap_iterations": 20,
            "presso_iterations": 100,
        },
        "meta": {"annotations": {"kind": str(folder / "kinds.tsv")}},
    }


def run(checkout: Checkout, folder: Path, config: dict) -> Outcome:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return checkout.run("--configfile", str(path))


@pytest.fixture(scope="module")
def own_network(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return folder / "results", run(checkout, folder, write_lab(folder))


@pytest.fixture(scope="module")
def ensemble_of_one(checkout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    config = write_lab(folder)
    config["uncertainty"] = {"method": "ensemble"}
    config["calibration"] = {"apply": "platt"}
    config["mr"] = {"methods": ["ivw"], "primary": "ivw"}
    return folder / "results", run(checkout, folder, config)


def test_nothing_is_trained(own_network):
    jobs = own_network[1].jobs
    assert jobs["import_model"] == 1
    assert jobs["train_model"] == jobs["simulate_genome"] == 0


def test_unmeasured_labels_stay_null(own_network):
    windows = tables.read_table(own_network[0] / "windows.parquet")
    assert windows["label.TF"].null_count == 6
    assert windows["label.open"].null_count == 0


def test_every_mutation_is_predicted(own_network):
    shards = sorted((own_network[0] / "effects" / "model=mine").glob("*.parquet"))
    assert len(shards) == 2
    assert sum(tables.read_table(path).num_rows for path in shards) == 6 * 3 * 50


def test_mr_uses_the_rule_that_was_asked_for(own_network):
    mr = tables.read_table(own_network[0] / "mr.parquet")
    assert pc.unique(mr["instrument_rule"]).to_pylist() == ["strength"]
    assert "ok" in mr["status"].to_pylist()


def test_every_estimator_reaches_the_tables_and_the_report(own_network):
    mr = tables.read_table(own_network[0] / "mr.parquet").to_pandas()
    assert set(mr["method"]) == set(ESTIMATORS)
    estimated = mr[mr["status"] == "ok"]
    assert set(estimated["method"]) == set(ESTIMATORS)
    one = estimated[estimated["method"] == "bayesian_mode"].iloc[0]
    assert len(one.p_valid) == one.n_instruments
    meta = tables.read_table(own_network[0] / "meta.parquet").to_pandas()
    assert set(meta["method"]) == set(ESTIMATORS)
    assert "bayesian_mode" in (own_network[0] / "report.html").read_text()


def test_annotations_make_strata_and_covariates(own_network):
    meta = tables.read_table(own_network[0] / "meta.parquet").to_pandas()
    of_one = meta[(meta["method"] == "ivw") & (meta["combination"] == "REML")]
    counts = of_one[
        (of_one["inference"] == "draw_wise") & (of_one["direction"] == "forward")
    ].set_index("stratum")["n_sequences"]
    asked = tables.read_table(own_network[0] / "sequences.parquet")["sequence_id"].to_pylist()
    numbers = [int(name[1:]) for name in asked]
    assert counts["kind=promoter"] == sum(i < 50 and i % 2 == 0 for i in numbers)
    assert counts["kind=enhancer"] == sum(i < 50 and i % 2 == 1 for i in numbers)
    assert counts["kind=promoter"] + counts["kind=enhancer"] <= counts["all"] == 6
    regression = tables.read_table(own_network[0] / "meta_regression.parquet").to_pandas()
    assert regression["term"].str.startswith("kind").any()


def test_report_says_the_heads_are_not_learned(own_network):
    html = (own_network[0] / "report.html").read_text()
    assert "poorly learned" in html.lower() or "badly" in html.lower() or "AUROC" in html


def test_an_ensemble_of_one_is_named_and_the_rest_of_the_run_goes_on(ensemble_of_one):
    results, outcome = ensemble_of_one
    assert "models.mine.members: 1, but uncertainty.method is ensemble" in outcome.text
    mr = tables.read_table(results / "mr.parquet")
    assert pc.unique(mr["status"]).to_pylist() == ["too_few_draws"]
    assert tables.read_table(results / "calibration.parquet").num_rows == 2 * 2 * 6
    (status,) = set(tables.read_table(results / "uncertainty.parquet")["status"].to_pylist())
    assert status == "no_reference"
    assert "An ensemble of one network makes one draw" in (results / "report.html").read_text()


def test_targets_too_rare_to_calibrate_are_named_and_stay_as_they_are(ensemble_of_one):
    results, _ = ensemble_of_one
    log = (results / "logs" / "calibrate_probabilities.log").read_text()
    assert "validation windows are of no known chromosome" in log
    assert re.search(r"mine, TF: stays as predicted, because of 1\d validation windows \d", log)
    calibrators = tables.read_table(results / "calibrators.parquet").to_pylist()
    of_tf = {row["status"] for row in calibrators if row["target"] == "TF"}
    assert of_tf <= {"too_few_positives", "too_few_negatives"}
