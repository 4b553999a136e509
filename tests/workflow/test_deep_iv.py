"""Deep IV through the whole workflow: off unless asked for, then tables, figure and report."""

from __future__ import annotations

import copy

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from deepmr import schemas, tables
from deepmr.deepiv.labels.measured import METHODS
from tests.checkout import ROOT

RULES = ("deep_iv", "regress_slopes", "gather_deep_iv", "plot_deep_iv")
SMALL = {
    "training": {"epochs": 2},
    "uncertainty": {"draws": 5, "sequences": 4},
    "prediction": {"draws": 2},
    "sampling": {"bound": 20, "unbound": 6},
    "sharding": {"shards": 1},
    "mr": {"methods": ["ivw"], "primary": "ivw", "conditional": [], "decoy_sequences": 6},
    "meta": {"combinations": ["REML"]},
    "calibration": {"calibrators": ["platt"], "simulations": 20},
    "deep_iv": {
        "run": True,
        "folds": 3,
        "windows": 700,
        "options": {"n_layers": 1, "channels": 8, "dropout": 0.2},
        "features": 4,
        "hidden": [8],
        "epochs": 8,
        "batch_size": 16,
        "learning_rate": 0.01,
        "draws": 4,
    },
}


@pytest.fixture(scope="module")
def small():
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    config |= copy.deepcopy(SMALL)
    config["simulation"]["windows_per_chromosome"] = 120
    config["targets"]["open"]["motif"] = None
    config["pairs"] = {"GATA1_open": config["pairs"]["GATA1_open"]}
    # In a folder of its own: the shipped example of the other tests is in `results`.
    text = yaml.safe_dump(config).replace("results/simulated", "small/simulated")
    return yaml.safe_load(text) | {"results": "small"}


@pytest.fixture(scope="module")
def run(checkout, small):
    path = checkout.folder / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    return checkout.run("--configfile", str(path))


@pytest.fixture(scope="module")
def results(checkout, run):
    return checkout.folder / "small"


def test_it_is_off_unless_it_is_asked_for(checkout):
    jobs = checkout.dry_run("--forceall").jobs
    assert jobs["write_report"] == 1
    assert not any(jobs[rule] for rule in RULES)


def test_each_pair_and_each_model_is_a_job(run):
    assert [run.jobs[rule] for rule in RULES] == [1, 1, 1, 1]
    assert "targets.open.motif" not in run.text


def test_labels_and_model_stand_in_one_table(results):
    path = results / "deep_iv.parquet"
    assert pq.read_schema(path).equals(schemas.DEEP_IV)
    rows = tables.read_table(path).to_pylist()
    labels = [row for row in rows if row["source"] == "labels"]
    assert [row["method"] for row in labels] == 2 * list(METHODS)
    assert {row["n_windows"] for row in labels if row["direction"] == "forward"} == {700}
    forward = {row["method"]: row for row in labels if row["direction"] == "forward"}
    assert forward["deep_iv"]["status"] == "ok"
    assert forward["deep_iv"]["estimate"] is not None
    assert {row["status"] for row in labels if row["direction"] == "reverse"} == {"no_motif"}
    model = [row for row in rows if row["source"] == "model"]
    assert {row["model"] for row in model} == {"cnn"}
    assert {row["method"] for row in model} == {"constant_slope", "context_slope"}
    assert {row["direction"] for row in model} == set(schemas.DIRECTIONS)


def test_every_window_used_has_a_counterfactual(results):
    path = results / "counterfactuals" / "GATA1_open.parquet"
    assert pq.read_schema(path).equals(schemas.counterfactuals_schema(4))
    found = tables.read_table(path)
    assert found.num_rows == 700
    windows = tables.read_table(results / "windows.parquet")
    assert pc.all(pc.is_in(found["sequence_id"], windows["sequence_id"])).as_py()


def test_tables_say_what_made_them(results):
    for path in (results / "deep_iv" / "GATA1_open.parquet", results / "deep_iv.parquet"):
        made_by = tables.read_metadata(path)
        assert made_by["seed"] == 1
        assert made_by["code"].startswith("deepmr.")


def test_the_report_has_its_section(results):
    assert "Deep IV" in (results / "report.html").read_text()


def test_only_what_a_setting_concerns_is_made_again(checkout, small, run):
    path = checkout.folder / "other.yaml"

    def jobs(**changed):
        config = copy.deepcopy(small)
        config["deep_iv"] |= changed
        path.write_text(yaml.safe_dump(config))
        return checkout.dry_run("--configfile", str(path)).jobs

    assert not jobs()
    of_labels = jobs(draws=5)
    assert of_labels["deep_iv"] == of_labels["gather_deep_iv"] == of_labels["write_report"] == 1
    assert of_labels["regress_slopes"] == of_labels["train_model"] == of_labels["estimate_mr"] == 0
    of_both = jobs(epochs=9)
    assert of_both["deep_iv"] == of_both["regress_slopes"] == 1
    assert of_both["estimate_mr"] == 0
