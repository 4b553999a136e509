from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from deepmr import config as configuration
from deepmr import motifs
from deepmr.genome.alphabet import encode
from deepmr.shards import __main__, plan, plan_text, trial

ROOT = Path(__file__).parents[2]

TINY = {
    "data": {"fasta": "genome.fa"},
    "windows": {"length": 40, "bin": 20},
    "split": {"validation": ["v"], "test": ["t"]},
    "targets": {
        "GATA1": {"peaks": "g.bed", "motif": "GATA1"},
        "open": {"peaks": "o.bed"},
    },
    "motifs": str(ROOT / "config" / "motifs.jaspar"),
    "pairs": {"GATA1_open": {"exposure": "GATA1", "outcome": "open"}},
    "models": {"cnn": {"options": {"channels": 4, "n_layers": 1}}},
    "uncertainty": {"draws": 5},
    "sampling": {"bound": 60, "unbound": 40},
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(TINY | changes))
    return path


def tiny(folder: Path, **changes: object) -> dict:
    return configuration.load(write(folder, **changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> plan.Plan:
    """One trial, really run."""
    return plan.make(tiny(tmp_path_factory.mktemp("plan")), 3, minutes=1, trial_seconds=0.5)


def test_predictions_are_sane(made):
    (model,) = made.models
    mutagenesis, mr = model.stages
    assert 1e-4 < model.seconds_per_sequence < 1
    assert (mutagenesis.rule, mutagenesis.jobs, mr.rule, mr.jobs) == (
        "mutagenesis",
        3,
        "estimate_mr",
        3,
    )
    for stage in (mutagenesis, mr):
        assert stage.sequences == pytest.approx(100 / 3)
        assert stage.sequences < stage.largest <= 100
        assert 0.2 < stage.seconds <= stage.largest_seconds < 60
        assert 80 < stage.memory_mb < stage.asked_mb
        assert stage.asked_minutes * 60 > stage.largest_seconds
    # 120 mutations, two targets, five draws of two bytes and three floats each, compressed.
    raw = 120 * 2 * (5 * 2 + 12) / 1e6
    assert 0.1 * raw < mutagenesis.table_mb / mutagenesis.sequences < 2 * raw
    assert mutagenesis.scratch_mb > 2 * mutagenesis.table_mb
    assert 0 < mutagenesis.reference_mb < mutagenesis.table_mb
    assert made.disk_mb > 3 * mutagenesis.table_mb
    assert made.suggested_shards == 1
    assert (made.suggested_minutes, made.gather.jobs, made.decoys.jobs) == (10, 1, 1)
    assert made.decoys.sequences == 100
    assert made.decoys.memory_mb < made.decoys.asked_mb
    assert 0 < made.decoys.table_mb < made.gather.table_mb


def test_plan_in_words_says_what_to_write(made):
    text = plan_text.as_text(made)
    seconds = f"{made.seconds_per_sequence:.3g}"
    assert f"sharding:\n  shards: 1\n  seconds_per_sequence: {float(seconds):g}" in text
    for word in (
        "mutagenesis",
        "estimate_mr",
        "estimate_decoys",
        "gather_mr",
        "100 sequences at most, 3 shards",
    ):
        assert word in text
    assert yaml.safe_load(text[text.index("sharding:") : text.index("\n\nA shard")])


def test_given_seconds_are_not_measured_again(tmp_path):
    config = tiny(tmp_path, sampling={"bound": 6000, "unbound": 4000})
    made = plan.make(config, 50, minutes=20, seconds_per_sequence=30.0, trial_seconds=0.2)
    (model,) = made.models
    assert (model.seconds_per_sequence, model.source) == (30, "as given")
    assert model.stages[0].seconds == pytest.approx(200 * 30, rel=0.01)
    assert made.mutagenesis_hours == pytest.approx(10_000 * 30 / 3600, rel=0.01)
    assert made.suggested_shards == 250
    assert model.stages[1].jobs == 50


@pytest.mark.parametrize(
    ("sequences", "seconds", "minutes", "shards"),
    [(450, 0.1, 30, 1), (10_000, 18, 30, 100), (5, 1e6, 30, 5)],
)
def test_suggested_shards_take_the_minutes_asked(sequences, seconds, minutes, shards):
    assert plan.suggest(sequences, seconds, minutes) == shards


def test_trial_sequences_carry_sites_in_the_share_of_bound_ones(tmp_path):
    table = trial.random_sequences(tiny(tmp_path), 50)
    strata = table["stratum.GATA1"].to_pylist()
    assert (strata.count("bound"), strata.count("unbound")) == (30, 20)
    assert strata[:5].count("bound") == 3
    motif = motifs.find(motifs.read_jaspar(TINY["motifs"]), "GATA1")
    codes = np.stack([encode(letters) for letters in table["sequence"].to_pylist()])
    with_site = motifs.hit_positions(codes, motif, 1e-4).any(axis=1)
    bound = np.array(strata) == "bound"
    assert with_site[bound].all()
    assert with_site[~bound].sum() <= 2


def settings(folder: Path, config: dict, **changes: object) -> Path:
    text = {"config": config, "model": "cnn", "threads": 1, "seconds": 0.2, "timed": True}
    text |= {"mr_sequences": 20, "most_sequences": 100}
    (folder / "settings.json").write_text(json.dumps(text | changes))
    return folder


def test_a_network_that_is_too_slow_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_PATIENCE", 0.0)
    assert trial.main(["mutagenesis", str(settings(tmp_path, tiny(tmp_path)))]) == 0
    found = json.loads((tmp_path / "mutagenesis.json").read_text())
    assert not found["timed"]
    assert found["seconds_per_sequence"] > 0
    assert found["effects_bytes"] > 1000
    assert trial.main(["mr", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "mr.json").read_text())
    assert 3 <= found["sequences"] <= 512
    assert found["table_bytes"] > 0


def test_what_a_network_cannot_do_is_said_without_a_traceback(tmp_path, capsys):
    path = write(tmp_path, models={"cnn": {"architecture": "smal"}})
    assert __main__.main(["--plan", "--configfile", str(path)]) == 2
    said = capsys.readouterr().err
    assert "the trial of mutagenesis failed: no architecture is called 'smal'" in said
    assert "Traceback" not in said


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "TRIAL_SECONDS", 0.2)
    arguments = ["--plan", "--configfile", str(write(tmp_path)), "--shards", "5", "--json"]
    assert __main__.main([*arguments, "--seconds-per-sequence", "2"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert "100 sequences at most, 5 shards a model" in text[0]
    assert found["models"][0]["stages"][0]["jobs"] == 5
    assert found["suggestion"] == {"shards": 1, "seconds_per_sequence": 2}


def test_missing_configuration_is_named(tmp_path, capsys):
    assert __main__.main(["--plan", "--configfile", str(tmp_path / "no.yaml")]) == 2
    assert f"there is no configuration file {tmp_path / 'no.yaml'}" in capsys.readouterr().err


def test_broken_schema_is_named_with_its_key(tmp_path, capsys):
    path = write(tmp_path, sharding={"shards": 0})
    assert __main__.main(["--plan", "--configfile", str(path)]) == 2
    assert "sharding.shards: 0 is less than the minimum of 1" in capsys.readouterr().err


@pytest.mark.parametrize("argument", [["--shards", "0"], ["--minutes", "-1"], []])
def test_bad_arguments_are_refused(argument, capsys):
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["--plan", *argument] if argument else [])
    assert stopped.value.code == 2
    capsys.readouterr()
