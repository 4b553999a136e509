"""What a run hands to the report: its settings, figures, counts and provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deepmr import tables
from deepmr.config import Config, kept_targets
from deepmr.report.answers import Settings
from deepmr.report.pictures import Picture
from deepmr.schemas import DIRECTIONS

_Section = dict[str, dict[str, object]]


def settings(config: Config) -> Settings:
    """Return what the report's headline rests on, from the configuration."""
    uncertainty = config["uncertainty"]
    # an ensemble has as many draws as members, whatever the key says
    members = min(model["members"] for model in config["models"].values())
    return Settings(
        method=config["mr"]["primary"],
        combination=config["meta"]["primary"],
        effect_scale=config["mr"]["effect_scale"],
        draw_method=uncertainty["method"],
        n_draws=members if uncertainty["method"] == "ensemble" else uncertainty["draws"],
        calibrator=config["calibration"]["apply"],
        apply_scale=uncertainty["apply_scale"],
        minimum_positives=config["calibration"]["minimum_positives"],
        minimum_auroc=config["report"]["auroc_warning"],
        fdr=config["meta"]["fdr"],
    )


def pictures(folder: str | Path, config: Config) -> list[Picture]:
    """List the figures of a run, as the rules that draw them name them.

    Parameters
    ----------
    folder : path
        The run's folder of figures.
    config : mapping
        The configuration.
    """
    listed = []
    several = len(config["models"]) > 1
    for model in config["models"]:
        here = Path(folder) / model
        mark = f" ({model})" if several else ""
        listed.append(Picture("global_effects", model, here / "global_effects.svg"))
        listed.append(Picture("network", model, here / "network.svg"))
        if config["deep_iv"]["run"]:
            listed.append(Picture("deep_iv", model, here / "deep_iv.svg"))
        for pair, ends in config["pairs"].items():
            both = ends["exposure"], ends["outcome"]
            for kind in ("forest", "mr_scatter", "funnel"):
                for direction, (cause, effect) in zip(DIRECTIONS, (both, both[::-1]), strict=True):
                    path = here / pair / f"{kind}_{direction}.svg"
                    listed.append(Picture(kind, f"{cause} → {effect}{mark}", path))
            title = f"{both[0]} and {both[1]}{mark}"
            listed.append(Picture("uncertainty", title, here / pair / "uncertainty.svg"))
        for kind in ("roc", "learning_curves"):
            listed.append(Picture(kind, model, here / f"{kind}.svg"))
        for kind in ("reliability", "calibrators", "histogram", "standard_errors"):
            listed += [
                Picture(kind, f"{target}{mark}", here / kind / f"{target}.svg")
                for target in kept_targets(config)
            ]
    return listed


def counts(windows: str | Path, sequences: str | Path) -> _Section:
    """Return what was counted when windows were cut and sequences sampled, by heading."""
    found: _Section = {}
    for name, path in (("Windows", windows), ("Sequences", sequences)):
        for heading, values in _flat(tables.read_metadata(path)["counts"]):
            found[f"{name}, {heading}" if heading else name] = values
    return found


def _flat(values: Mapping[str, Any], heading: str = "") -> Iterable[tuple[str, dict[str, object]]]:
    """Split nested counts into headings with plain values."""
    plain = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
    if plain:
        yield heading, plain
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{heading}, {key}" if heading else key)


def provenance(metadata: Mapping[str, Any], inputs: Mapping[str, Any]) -> _Section:
    """Return seed, configuration, versions, and the code that made each table, by heading.

    Parameters
    ----------
    metadata : mapping
        What :func:`deepmr.job.begin` returned.
    inputs : mapping
        The report's input files by name; those that are tables say what made them.
    """
    made = {
        Path(path).name: tables.read_metadata(path)["code"]
        for path in inputs.values()
        if isinstance(path, str) and path.endswith(".parquet")
    }
    return {
        "Run": {"seed": metadata["seed"], "configuration": metadata["config"]},
        "Versions": dict(metadata["versions"]),
        "Code (fingerprints)": {**made, "report.html": metadata["code"]},
    }
