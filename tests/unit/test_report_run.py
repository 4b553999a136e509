from __future__ import annotations

import copy
from pathlib import Path

import pyarrow as pa

from deepmr import tables
from deepmr.report import run
from tests.unit.test_config import ROOT, load

CONFIG = load(ROOT / "config" / "config.yaml")


def test_settings_are_those_of_the_configuration():
    found = run.settings(CONFIG)
    assert (found.method, found.combination, found.n_draws) == ("egger", "REML", 40)
    assert (found.calibrator, found.apply_scale) == ("none", False)
    config = copy.deepcopy(CONFIG)
    config["uncertainty"] |= {"method": "ensemble", "apply_scale": True}
    config["calibration"] |= {"apply": "platt", "minimum_positives": 7}
    config["models"]["cnn"]["members"] = 5
    config["meta"]["fdr"] = 0.01
    found = run.settings(config)
    assert (found.n_draws, found.draw_method) == (5, "ensemble")
    assert (found.calibrator, found.apply_scale, found.minimum_positives) == ("platt", True, 7)
    assert found.fdr == 0.01


def test_pictures_are_named_as_the_rules_name_them():
    rules = (ROOT / "workflow" / "rules" / "figures.smk").read_text()
    listed = run.pictures("results/figures", CONFIG)
    kinds = {picture.kind for picture in listed}
    for kind in kinds:
        assert f'caption="../report/{kind}.rst"' in rules
        assert (ROOT / "workflow" / "report" / f"{kind}.rst").exists()
    paths = {picture.path for picture in listed}
    assert len(paths) == len(listed) == 2 + 3 * 7 + 2 + 4 * 4
    assert Path("results/figures/cnn/JUND_open/forest_reverse.svg") in paths
    assert Path("results/figures/cnn/JUND_open/funnel_reverse.svg") in paths
    assert Path("results/figures/cnn/network.svg") in paths
    assert Path("results/figures/cnn/calibrators/open.svg") in paths
    assert Path("results/figures/cnn/standard_errors/open.svg") in paths
    titles = {picture.title for picture in listed}
    assert "open → JUND" in titles


def test_counts_and_provenance_come_from_the_tables(tmp_path):
    windows, sequences = tmp_path / "windows.parquet", tmp_path / "sequences.parquet"
    made = {"code": "deepmr.x=1", "counts": {"kept": 5, "splits": {"test": {"windows": 2}}}}
    tables.write_table(pa.table({"a": [1]}), windows, metadata=made)
    tables.write_table(pa.table({"a": [1]}), sequences, metadata={"code": "c", "counts": {"n": 1}})
    assert run.counts(windows, sequences) == {
        "Windows": {"kept": 5},
        "Windows, splits, test": {"windows": 2},
        "Sequences": {"n": 1},
    }
    metadata = {"code": "deepmr.report=2", "config": "abc", "seed": 1, "versions": {"numpy": "2"}}
    found = run.provenance(metadata, {"windows": str(windows), "figures": ["x.svg"]})
    assert found["Run"] == {"seed": 1, "configuration": "abc"}
    assert found["Code (fingerprints)"]["windows.parquet"] == "deepmr.x=1"
    assert found["Versions"] == {"numpy": "2"}
