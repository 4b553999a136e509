"""What a configuration means beyond its schema: names that must agree, paths, derived lists.

Only the standard library is imported here, because every job parses the Snakefile again; `load`,
which no job calls, imports what it needs. Checks that open data files are in
:mod:`deepmr.preflight`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

COVARIATES = ("gc", "predicted_exposure", "motif_distance", "bound")
"""What every meta-regression looks at, without annotations."""


class ConfigError(ValueError):
    """The configuration contradicts itself; the message lists every problem with its key."""


def load(path: str | Path) -> dict[str, Any]:
    """Read a configuration file as Snakemake does: check it, and fill in the schema's defaults.

    Parameters
    ----------
    path : path
        A YAML or JSON file.

    Returns
    -------
    dict
        What the workflow works with when it is started with this file.

    Raises
    ------
    ConfigError
        If there is no such file, it cannot be read, or it breaks the schema or a rule of `check`;
        with one line for each problem.
    """
    import yaml

    from deepmr.config_reference import SCHEMA

    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"there is no configuration file {file}")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file} holds no keys; write `key: value` lines as in config/README.md")
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    problems = [
        f"{'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message}"
        for error in _filling_validator()(schema).iter_errors(config)
    ]
    if problems:
        raise ConfigError("\n  ".join([f"{file} breaks the schema:", *problems]))
    check(config)
    return config


def _filling_validator() -> Any:
    """Return a validator that fills in defaults, as jsonschema's documentation writes it."""
    from jsonschema import Draft202012Validator, validators

    validate_properties = Draft202012Validator.VALIDATORS["properties"]

    def fill_in(
        validator: Any, properties: Mapping[str, Any], instance: Any, schema: Any
    ) -> Iterator[Any]:
        if isinstance(instance, dict):
            for key, rule in properties.items():
                if "default" in rule:
                    instance.setdefault(key, copy.deepcopy(rule["default"]))
        yield from validate_properties(validator, properties, instance, schema)

    return validators.extend(Draft202012Validator, {"properties": fill_in})


def check(config: Config) -> None:
    """Check what a schema cannot say.

    Parameters
    ----------
    config : mapping
        A configuration that has passed the schema, defaults filled in.

    Raises
    ------
    ConfigError
        With one line for each problem: the key's path, what was found, what to write instead.
    """
    problems = [
        *_pairs(config),
        *_targets(config),
        *_models(config),
        *_windows(config),
        *_mr(config),
        *_annotations(config),
        *_calibration(config),
        *_deep_iv(config),
    ]
    if problems:
        raise ConfigError("the configuration contradicts itself:\n  " + "\n  ".join(problems))


def _pairs(config: Config) -> list[str]:
    targets = config["targets"]
    problems = [
        f"pairs.{name}.{role}: no target is called {pair[role]!r}; targets are {', '.join(targets)}"
        for name, pair in config["pairs"].items()
        for role in ("exposure", "outcome")
        if pair[role] not in targets
    ]
    problems += [
        f"pairs.{name}: exposure and outcome are both {pair['exposure']!r}; name two targets"
        for name, pair in config["pairs"].items()
        if pair["exposure"] == pair["outcome"]
    ]
    kept = config["mutagenesis"]["targets"]
    if kept is not None:
        problems += [
            f"mutagenesis.targets: no target is called {name!r}; targets are {', '.join(targets)}"
            for name in kept
            if name not in targets
        ]
        problems += [
            f"mutagenesis.targets: {name!r} is missing, but a pair names it; add it or write null"
            for name in _named_by_pairs(config)
            if name not in kept
        ]
    return problems


def _targets(config: Config) -> list[str]:
    problems = []
    genome = config["data"]["source"] == "genome"
    for name, target in config["targets"].items():
        key = f"targets.{name}"
        if genome and target["peaks"] is None:
            problems.append(f"{key}.peaks: missing; with data.source genome, name a BED file")
        if genome and target["column"] is not None:
            problems.append(f"{key}.column: only for data.source sequences; leave it out")
        if genome and target["type"] == "continuous":
            problems.append(f"{key}.type: continuous labels need data.source sequences")
        if not genome and (target["peaks"] is not None or target["measured"] is not None):
            problems.append(f"{key}.peaks: only for data.source genome; name a column instead")
        if target["value_column"] is not None and target["type"] != "count":
            problems.append(f"{key}.value_column: only for type count; leave it out")
    if not genome and config["data"]["labels"] is None:
        problems.append("data.labels: missing; with data.source sequences, name a label table")
    if genome and config["data"]["labels"] is not None:
        problems.append("data.labels: only for data.source sequences; leave it out")
    return problems


def _models(config: Config) -> list[str]:
    problems = []
    for name, model in config["models"].items():
        key = f"models.{name}"
        if (model["code"] is None) != (model["weights"] is None):
            problems.append(f"{key}: code and weights go together; name both, or neither to train")
        if model["code"] is not None and ":" not in model["code"]:
            problems.append(
                f"{key}.code: {model['code']!r} names no function; write file.py:function"
            )
    return problems


def _windows(config: Config) -> list[str]:
    windows, split = config["windows"], config["split"]
    problems = []
    if config["data"]["source"] == "genome":
        if windows["bin"] > windows["length"]:
            problems.append(
                f"windows.bin: {windows['bin']} is longer than windows.length {windows['length']}"
            )
        problems += [
            f"split.{part}: empty; name at least one chromosome"
            for part in ("validation", "test")
            if not split[part]
        ]
    parts = ("validation", "test", "exclude")
    for i, first in enumerate(parts):
        for second in parts[i + 1 :]:
            both = sorted(set(split[first]) & set(split[second]))
            if both:
                problems.append(f"split: {', '.join(both)} is in both {first} and {second}")
    return problems


def _mr(config: Config) -> list[str]:
    problems = []
    for section, listed in (("mr", "methods"), ("meta", "combinations")):
        primary, names = config[section]["primary"], config[section][listed]
        if primary not in names:
            problems.append(f"{section}.primary: {primary!r} is not in {section}.{listed} {names}")
    if config["sampling"]["bound"] + config["sampling"]["unbound"] == 0:
        problems.append("sampling: bound and unbound are both 0; ask for some sequences")
    if config["instruments"]["rule"] == "motif":
        problems += [
            f"targets.{target}.motif: missing, but instruments.rule is motif and pairs.{name} asks "
            "both directions; name a motif, or use instruments.rule auto"
            for name, pair in config["pairs"].items()
            for target in (pair["exposure"], pair["outcome"])
            if target in config["targets"] and config["targets"][target]["motif"] is None
        ]
    return problems


def _annotations(config: Config) -> list[str]:
    problems = []
    for name in config["meta"]["annotations"]:
        if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            problems.append(
                f"meta.annotations: {name!r} is a stratum's name and a term of a regression; write "
                "a letter, then letters, digits and _"
            )
        if name in (*COVARIATES, "intercept"):
            problems.append(
                f"meta.annotations.{name}: every regression has a term of this name; rename it"
            )
        if name == "sequence_id":
            problems.append(f"meta.annotations.{name}: the column that names sequences; rename it")
    return problems


def _calibration(config: Config) -> list[str]:
    calibration, uncertainty = config["calibration"], config["uncertainty"]
    applied, listed = calibration["apply"], calibration["calibrators"]
    problems = []
    if applied == "isotonic":
        problems.append(
            "calibration.apply: isotonic maps ranges of logits to one value, so most effects of "
            "mutations would become exactly zero; write centred_isotonic or platt"
        )
    elif applied not in ("none", *listed):
        problems.append(
            f"calibration.apply: {applied!r} is not in calibration.calibrators {listed}; add it"
        )
    least = 3 if uncertainty["method"].startswith("ensemble") else 2
    if uncertainty["apply_scale"]:
        problems += [
            f"uncertainty.apply_scale: with uncertainty.method {uncertainty['method']} it needs "
            f"{least} members or more, models.{name}.members is {model['members']}; raise it (6 "
            "tell the scale well), or write false"
            for name, model in config["models"].items()
            if model["members"] < least
        ]
    if uncertainty["method"] == "laplace":
        problems += [
            f"targets.{name}.type: {config['targets'][name]['type']}, but uncertainty.method "
            "laplace is for binary targets; use mc_dropout or an ensemble"
            for name in kept_targets(config)
            if name in config["targets"] and config["targets"][name]["type"] != "binary"
        ]
    return problems


def _deep_iv(config: Config) -> list[str]:
    if not config["deep_iv"]["run"] or any(
        config["targets"].get(name, {}).get("motif") for name in _named_by_pairs(config)
    ):
        return []
    return [
        "deep_iv.run: true, but no target that a pair names has a motif, and the instrument is the "
        "best word of the exposure's motif; name one in targets.<name>.motif, or write false"
    ]


def warnings(config: Config) -> list[str]:
    """Return what will not be in the results of a run, one sentence for each; it goes on.

    Parameters
    ----------
    config : mapping
        A checked configuration.
    """
    method = config["uncertainty"]["method"]
    what = {
        "ensemble": "one network makes one draw: no effect gets a standard error, and every MR row "
        "of this model the status too_few_draws",
        "ensemble_mc_dropout": "with one network it is the same as mc_dropout",
    }
    found = [
        f"models.{name}.members: 1, but uncertainty.method is {method}; {what[method]}. Raise it, "
        "or use uncertainty.method mc_dropout"
        for name, model in config["models"].items()
        if method in what and model["members"] < 2
    ]
    if config["deep_iv"]["run"]:
        found += [
            f"targets.{pair['exposure']}.motif: missing, so Deep IV has no instrument for "
            f"pairs.{name}, and its rows of this direction get the status no_motif. Name a motif"
            for name, pair in config["pairs"].items()
            if config["targets"][pair["exposure"]]["motif"] is None
        ]
        found += _shared_motifs(config)
    return found


def _shared_motifs(config: Config) -> list[str]:
    """Return the motifs of exposures, of either direction, that are those of another target too."""
    targets: dict[str, list[str]] = {}
    for name, target in config["targets"].items():
        if target["motif"] is not None:
            targets.setdefault(target["motif"], []).append(name)
    asked = set(_named_by_pairs(config))
    return [
        f"targets {', '.join(names)}: the same motif {motif}, so in Deep IV its word is no "
        "instrument for one of them alone: it acts through all of them. Name a motif for each "
        "that the others do not read, or do not believe Deep IV of these exposures"
        for motif, names in targets.items()
        if len(names) > 1 and not asked.isdisjoint(names)
    ]


def data_path(config: Config, name: str | None) -> str | None:
    """Return a path of the data or targets section, below ``data.directory``; null stays."""
    return None if name is None else str(Path(config["data"]["directory"]) / name)


def data_files(config: Config) -> dict[str, str | list[str]]:
    """Return the input files of the windows, by role, as a rule lists them."""
    files: dict[str, str | list[str]] = {"fasta": str(data_path(config, config["data"]["fasta"]))}
    for role in ("labels", "blacklist"):
        path = data_path(config, config["data"][role])
        if path is not None:
            files[role] = path
    for role in ("peaks", "measured"):
        paths = [data_path(config, target[role]) for target in config["targets"].values()]
        listed = [path for path in paths if path is not None]
        if listed:
            files[role] = listed
    return files


def _named_by_pairs(config: Config) -> list[str]:
    named = {pair[role] for pair in config["pairs"].values() for role in ("exposure", "outcome")}
    return [name for name in config["targets"] if name in named]


def kept_targets(config: Config) -> list[str]:
    """Return the targets whose mutation effects are kept, in the configuration's order."""
    listed = config["mutagenesis"]["targets"]
    return _named_by_pairs(config) if listed is None else list(listed)


def exposures(config: Config) -> list[str]:
    """Return the exposures of the pairs, for each of which sequences are sampled."""
    named = {pair["exposure"] for pair in config["pairs"].values()}
    return [name for name in config["targets"] if name in named]


def imported_models(config: Config) -> list[str]:
    """Return the models that are a user's own network and are not trained."""
    return [name for name, model in config["models"].items() if model["code"] is not None]
