from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from snakemake.utils import validate

from deepmr import config as configuration
from deepmr import config_reference

ROOT = Path(__file__).parents[2]


def load(path: Path) -> dict:
    config = yaml.safe_load(path.read_text())
    validate(config, str(config_reference.SCHEMA))
    return config


@pytest.fixture
def config() -> dict:
    return copy.deepcopy(load(ROOT / "config" / "config.yaml"))


@pytest.mark.parametrize("name", ["config.yaml", "examples/k562.yaml", "examples/yeast.yaml"])
def test_shipped_configurations_are_sound(name):
    configuration.check(load(ROOT / "config" / name))


def set_key(config: dict, key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "pairs.GATA1_open.outcome",
            "opne",
            "pairs.GATA1_open.outcome: no target is called 'opne'",
        ),
        ("pairs.GATA1_open.outcome", "GATA1", "exposure and outcome are both 'GATA1'"),
        ("mutagenesis.targets", ["GATA1", "x"], "mutagenesis.targets: no target is called 'x'"),
        ("mutagenesis.targets", ["GATA1"], "'open' is missing, but a pair names it"),
        ("targets.GATA1.peaks", None, "targets.GATA1.peaks: missing"),
        ("targets.GATA1.column", "c", "targets.GATA1.column: only for data.source sequences"),
        ("targets.GATA1.type", "continuous", "continuous labels need data.source sequences"),
        ("targets.GATA1.value_column", 5, "value_column: only for type count"),
        ("data.source", "sequences", "data.labels: missing"),
        ("data.labels", "x.tsv", "data.labels: only for data.source sequences"),
        ("models.cnn.code", "net.py", "code and weights go together"),
        ("models.cnn.code", "net.py", "names no function; write file.py:function"),
        ("calibration.apply", "isotonic", "write centred_isotonic or platt"),
        ("calibration.calibrators", ["beta"], "'platt' is not in calibration.calibrators ['beta']"),
        ("uncertainty.apply_scale", True, "needs 2 members or more, models.cnn.members is 1"),
        ("windows.bin", 100000, "is longer than windows.length"),
        ("split.test", [], "split.test: empty"),
        ("split.exclude", ["chr5"], "chr5 is in both test and exclude"),
        ("mr.primary", "ivw_fixed", "mr.primary: 'ivw_fixed' is not in mr.methods"),
        ("meta.primary", "median", "meta.primary: 'median' is not in meta.combinations"),
        ("sampling", {"bound": 0, "unbound": 0}, "bound and unbound are both 0"),
    ],
)
def test_contradiction_is_named_with_its_key(config, key, value, message):
    config["mr"]["methods"] = ["egger"]
    config["meta"]["combinations"] = ["REML"]
    config["calibration"]["apply"] = "platt"
    configuration.check(config)
    set_key(config, key, value)
    with pytest.raises(configuration.ConfigError) as error:
        configuration.check(config)
    assert message in str(error.value)


def test_annotations_have_names_that_a_table_can_hold(config):
    config["meta"]["annotations"] = {"enhancer": "a.bed", "chrom_state2": "b.tsv"}
    configuration.check(config)
    config["meta"]["annotations"] = dict.fromkeys(
        ("gc", "intercept", "a=b", "sequence_id"), "a.bed"
    )
    with pytest.raises(configuration.ConfigError) as caught:
        configuration.check(config)
    for part in (
        "meta.annotations.gc: every regression has a term of this name; rename it",
        "meta.annotations.intercept: every regression has",
        "meta.annotations: 'a=b' is a stratum's name",
        "meta.annotations.sequence_id: the column that names sequences; rename it",
    ):
        assert part in str(caught.value)


def test_motif_rule_needs_motifs(config):
    config["instruments"]["rule"] = "motif"
    config["targets"]["open"]["motif"] = None
    with pytest.raises(configuration.ConfigError, match=r"targets\.open\.motif: missing"):
        configuration.check(config)


def test_all_problems_are_listed_at_once(config):
    config["targets"]["GATA1"]["peaks"] = None
    config["split"]["validation"] = []
    with pytest.raises(configuration.ConfigError) as error:
        configuration.check(config)
    assert str(error.value).count("\n  ") == 2


def test_data_files_lie_below_the_directory():
    config = load(ROOT / "config" / "examples" / "yeast.yaml")
    config["data"]["directory"] = "/somewhere"
    files = configuration.data_files(config)
    assert files["fasta"] == "/somewhere/genome.fa"
    assert files["blacklist"] == "/somewhere/blacklist.bed"
    assert all(str(path).startswith("/somewhere/") for path in files["peaks"])
    assert "measured" not in files


def test_derived_lists(config):
    assert configuration.kept_targets(config) == ["GATA1", "NRF1", "JUND", "open"]
    assert configuration.exposures(config) == ["GATA1", "NRF1", "JUND"]
    config["mutagenesis"]["targets"] = ["open", "GATA1"]
    assert configuration.kept_targets(config) == ["open", "GATA1"]
    assert configuration.imported_models(config) == []
    config["models"]["mine"] = {"code": "a.py:f", "weights": "w.pt", "members": 1}
    assert configuration.imported_models(config) == ["mine"]


def test_reference_is_up_to_date(capsys):
    assert config_reference.main(["--check"]) == 0


def test_reference_check_fails_when_out_of_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config_reference, "REFERENCE", tmp_path / "README.md")
    assert config_reference.main(["--check"]) == 1
    assert "run `make docs`" in capsys.readouterr().err
    assert config_reference.main([]) == 0
    assert config_reference.main(["--check"]) == 0


def test_key_without_description_is_refused():
    schema = {"description": "x", "properties": {"a": {"type": "string"}}}
    with pytest.raises(ValueError, match="a has no description"):
        config_reference.render(schema)


def test_every_key_of_the_schema_is_in_the_reference():
    text = config_reference.REFERENCE.read_text()
    for key in ("targets.<name>.motif", "instruments.motif_p_value", "uncertainty.draws"):
        assert f"| `{key}` |" in text


@pytest.mark.parametrize("name", ["config.yaml", "examples/k562.yaml", "examples/yeast.yaml"])
def test_load_gives_what_snakemake_gives(name):
    path = ROOT / "config" / name
    assert configuration.load(path) == load(path)


def test_load_fills_in_defaults_anew_each_time(tmp_path):
    first = configuration.load(ROOT / "config" / "config.yaml")
    first["mr"]["methods"].clear()
    assert configuration.load(ROOT / "config" / "config.yaml")["mr"]["methods"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is no YAML"),
        ("- a", "holds no keys"),
        ("data: {fasta: x}", "top level: 'windows' is a required property"),
        ("data: {fasta: x, fsta: y}", "data: Additional properties are not allowed ('fsta' was"),
        ("sharding: {shards: 1.5}", "sharding.shards: 1.5 is not of type 'integer'"),
        ("deep_iv: {folds: 2}", "deep_iv.folds: 2 is less than the minimum of 3"),
        ("deep_iv: {gradient: both}", "deep_iv.gradient: 'both' is not one of ['two_sample'"),
    ],
)
def test_load_says_what_is_wrong_with_a_file(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(configuration.ConfigError) as error:
        configuration.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_load_checks_what_a_schema_cannot_say(tmp_path, config):
    config["pairs"]["GATA1_open"]["outcome"] = "opne"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(configuration.ConfigError, match="no target is called 'opne'"):
        configuration.load(tmp_path / "c.yaml")


def test_laplace_is_for_binary_targets(config):
    config["uncertainty"]["method"] = "laplace"
    configuration.check(config)
    config["targets"]["open"]["type"] = "count"
    with pytest.raises(
        configuration.ConfigError, match=r"targets\.open\.type: count, but .*laplace"
    ):
        configuration.check(config)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("ensemble", "no effect gets a standard error"),
        ("ensemble_mc_dropout", "same as mc_dropout"),
    ],
)
def test_an_ensemble_of_one_is_named_and_goes_on(config, method, says):
    assert configuration.warnings(config) == []
    config["uncertainty"]["method"] = method
    configuration.check(config)
    (told,) = configuration.warnings(config)
    assert told.startswith("models.cnn.members: 1, but uncertainty.method is ensemble")
    assert says in told
    config["models"]["cnn"]["members"] = 2
    assert configuration.warnings(config) == []


def test_deep_iv_needs_a_motif_somewhere(config):
    for target in config["targets"].values():
        target["motif"] = None
    configuration.check(config)
    config["deep_iv"]["run"] = True
    with pytest.raises(
        configuration.ConfigError, match=r"deep_iv\.run: true, but no target that a pair names has"
    ):
        configuration.check(config)
    config["targets"]["open"]["motif"] = "TAL1::TCF3"
    configuration.check(config)


def test_a_direction_without_an_instrument_is_told_where_deep_iv_runs(config):
    config["targets"]["JUND"]["motif"] = None
    assert configuration.warnings(config) == []
    config["deep_iv"]["run"] = True
    (told,) = configuration.warnings(config)
    assert "targets.JUND.motif: missing" in told
    assert "pairs.JUND_open" in told
    assert "no_motif" in told


def test_a_motif_of_two_targets_is_told_where_deep_iv_runs(config):
    config["targets"]["JUND"]["motif"] = config["targets"]["GATA1"]["motif"]
    assert configuration.warnings(config) == []
    config["deep_iv"]["run"] = True
    (told,) = configuration.warnings(config)
    assert told.startswith("targets GATA1, JUND: the same motif GATA1")
