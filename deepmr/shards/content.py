"""What the largest shard of a run holds, as far as the configuration says it.

Only the standard library is imported here, because every job parses the Snakefile again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from pathlib import Path
from typing import Any

from deepmr.config import exposures, kept_targets
from deepmr.shards.membership import mr_jobs

Config = Mapping[str, Any]

_ROWS_PER_BATCH = 512
"""`deepmr.mutagenesis.drawn_model.ROWS_PER_BATCH` on a CPU, which cannot be imported here."""

_CHANNELS: dict[str, tuple[int, ...]] = {
    "small": (32,),
    "basset": (300, 200, 200),
    "deepsea": (320, 480, 960),
}
_POOLS: dict[str, tuple[int, ...]] = {"basset": (3, 4, 4), "deepsea": (4, 4, 1)}
_HIDDEN = {"basset": 1000, "deepsea": 925}

_UNKNOWN_CHANNELS = 320
"""Channels, as long as the input, that a user's own network is taken to have at its widest: those
of DeepSEA's first layer."""

_UNKNOWN_MB = 200
"""Weights of a network whose size is not known, in MB: those of DeepSEA."""

_UNKNOWN_FEATURES = 925
"""What the last layer of a network gets that is not known: the hidden units of DeepSEA."""

_SITE_POSITIONS = 60
"""Positions inside motif hits that a sequence is taken to have: three sites of 20 bp."""


@dataclass(frozen=True)
class Content:
    """What the largest shard holds. Shards are a hash of the sequences, so they differ in size.

    Attributes
    ----------
    sequences : int
        Sequences of the largest mutagenesis shard.
    mr_sequences : int
        Sequences of the largest MR job, which takes one or more shards.
    all_sequences : int
        Sequences of the run; fewer if one is sampled for two exposures, or too few are found.
    shards : int
        Mutagenesis shards.
    length : int
        Bases of a sequence.
    draws : int
        Draws T of a model.
    targets : int
        Targets whose effects are kept.
    questions : int
        Pairs, each in two directions.
    questions_a_sequence : float
        Questions asked of a sequence: of the pairs whose exposure it was sampled for.
    methods : tuple of str
        Estimators.
    instruments : float
        Instruments of a sequence at most, on average over the questions.
    conditional_methods : tuple of str
        Multivariable estimators.
    conditional_questions_a_sequence : float
        Questions asked of a sequence whose outcome has several exposures.
    conditional_exposures : int
        Exposures of the outcome that has the most; 0 where none has several.
    conditional_instruments : int
        Instruments of a sequence at most, of all exposures of such an outcome.
    decoy_sequences : int
        Sequences that the decoys of an exposure take.
    decoy_instruments : int
        Instruments of one of them at most.
    exposures : int
        Targets that are the exposure of a pair as configured.
    models : int
        Networks by name, each with shards of its own.
    member_mb : float
        Weights of all members of the largest network, in MB, with the posterior of its last layer
        where draws are samples of it.
    activations : int
        Numbers in the widest layer of the widest network, for one row of a forward pass.
    rows : int
        Rows of a forward pass.
    engine : str
        Of mutagenesis.
    engine_mb : float
        Memory that the local engine may take for sequences in work, in MB.
    """

    sequences: int
    mr_sequences: int
    all_sequences: int
    shards: int
    length: int
    draws: int
    targets: int
    questions: int
    questions_a_sequence: float
    methods: tuple[str, ...]
    instruments: float
    conditional_methods: tuple[str, ...]
    conditional_questions_a_sequence: float
    conditional_exposures: int
    conditional_instruments: int
    decoy_sequences: int
    decoy_instruments: int
    exposures: int
    models: int
    member_mb: float
    activations: int
    rows: int
    engine: str
    engine_mb: float

    @classmethod
    def of(cls, config: Config, shards: int) -> Content:
        """Return what a configuration makes of so many shards.

        Parameters
        ----------
        config : mapping
            A configuration, defaults filled in.
        shards : int
            Number of mutagenesis shards.

        Returns
        -------
        Content
            Of the largest shard.
        """
        length = config["windows"]["length"]
        total = sampled(config)
        questions = 2 * len(config["pairs"])
        models = config["models"].values()
        count = len(exposures(config))
        shared = _shared_outcomes(config)
        sampling = config["sampling"]
        return cls(
            sequences=largest(total, shards),
            mr_sequences=largest(total, mr_jobs(shards)),
            all_sequences=total,
            shards=shards,
            length=length,
            draws=max(draws_of(config, model) for model in models),
            targets=len(kept_targets(config)),
            questions=questions,
            questions_a_sequence=questions / count,
            methods=tuple(config["mr"]["methods"]),
            instruments=_instruments(config),
            conditional_methods=tuple(config["mr"]["conditional"]),
            conditional_questions_a_sequence=sum(
                pair[role] in shared
                for pair in config["pairs"].values()
                for role in ("exposure", "outcome")
            )
            / count,
            conditional_exposures=max(map(len, shared.values()), default=0),
            conditional_instruments=max(
                (
                    min(3 * length, sum(_instruments_of(config, one) for one in several))
                    for several in shared.values()
                ),
                default=0,
            ),
            decoy_sequences=min(
                config["mr"]["decoy_sequences"], sampling["bound"] + sampling["unbound"]
            ),
            decoy_instruments=max(_instruments_of(config, one) for one in exposures(config)),
            exposures=count,
            models=len(models),
            member_mb=max(
                _weights_mb(config, model) + _posterior_mb(config, model) for model in models
            ),
            activations=max(activations(model, length) for model in models),
            rows=config["prediction"]["rows_per_batch"] or _ROWS_PER_BATCH,
            engine=config["mutagenesis"]["engine"],
            engine_mb=1000 * config["mutagenesis"]["memory_gb"],
        )


def sampled(config: Config) -> int:
    """Return how many sequences are sampled at most: those of every exposure, none shared."""
    sampling = config["sampling"]
    return int((sampling["bound"] + sampling["unbound"]) * len(exposures(config)))


def largest(total: int, shards: int) -> int:
    """Return how many of `total` sequences the largest of hash shards holds.

    The numbers of a shard are Poisson, nearly; the largest lies some three standard deviations
    above the mean.
    """
    mean = total / shards
    return total if shards == 1 else min(total, math.ceil(mean + 3 * math.sqrt(mean)))


def draws_of(config: Config, model: Mapping[str, Any]) -> int:
    """Return the draws of a model of the section ``models``."""
    ensemble = config["uncertainty"]["method"] == "ensemble"
    return int(model["members"] if ensemble else config["uncertainty"]["draws"])


def activations(model: Mapping[str, Any], length: int) -> int:
    """Return how many numbers the widest layer of a network has for one sequence.

    Parameters
    ----------
    model : mapping
        An item of the section ``models``.
    length : int
        Bases of a sequence.

    Returns
    -------
    int
        Channels times positions of the widest convolution, before its pooling; an upper bound.
        For a user's own network, a guess.
    """
    layers = _convolutions(model, length)
    if not layers:
        return _UNKNOWN_CHANNELS * length
    return max(channels * positions for channels, positions, _ in layers)


def _convolutions(model: Mapping[str, Any], length: int) -> list[tuple[int, int, int]]:
    """Return channels, and positions before and after pooling, of each layer; none if unknown."""
    name, options = model["architecture"], model["options"]
    if model["code"] is not None or name not in _CHANNELS:
        return []
    count = options.get("n_layers", 3)
    channels = _per_layer(options.get("channels", _CHANNELS[name]), count)
    if name == "small":
        pool = options.get("pool", 4)
        pools = [pool, pool, *[1] * count][:count] if isinstance(pool, int) else list(pool)
    else:
        pools = list(_POOLS[name])
    lengths = [length // step for step in accumulate([1, *pools], mul)]
    return list(zip(channels, lengths, lengths[1:], strict=False))


def _per_layer(value: Any, count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _weights_mb(config: Config, model: Mapping[str, Any]) -> float:
    if model["weights"] is not None:
        file = Path(model["weights"])
        return file.stat().st_size / 1e6 if file.is_file() else _UNKNOWN_MB
    layers = _convolutions(model, config["windows"]["length"])
    if not layers:
        return float(_UNKNOWN_MB * model["members"])
    widths = [4, *(channels for channels, _, _ in layers)]
    # 19 positions is the widest kernel of the architectures by default.
    numbers = sum(19 * below * above for below, above in pairwise(widths))
    flat = layers[-1][0] * layers[-1][2]
    hidden = model["options"].get("hidden", _HIDDEN.get(model["architecture"], 0))
    outputs = len(config["targets"])
    numbers += flat * hidden + hidden * hidden + hidden * outputs if hidden else flat * outputs
    return 4e-6 * float(numbers) * float(model["members"])


def _posterior_mb(config: Config, model: Mapping[str, Any]) -> float:
    """Return the size of the roots of the posteriors: a square of float64 for each target."""
    if config["uncertainty"]["method"] != "laplace":
        return 0.0
    layers = _convolutions(model, config["windows"]["length"])
    features = _UNKNOWN_FEATURES
    if layers:
        flat = layers[-1][0] * layers[-1][2]
        features = model["options"].get("hidden", _HIDDEN.get(model["architecture"], flat))
    return 8e-6 * (features + 1) ** 2 * len(kept_targets(config)) * model["members"]


def _instruments(config: Config) -> float:
    counts = [
        _instruments_of(config, pair[role])
        for pair in config["pairs"].values()
        for role in ("exposure", "outcome")
    ]
    return sum(counts) / len(counts)


def _instruments_of(config: Config, exposure: str) -> int:
    rule, most = config["instruments"]["rule"], config["instruments"]["maximum"]
    count = 3 * config["windows"]["length"]
    has_motif = config["targets"][exposure]["motif"] is not None
    if rule == "motif" or (rule == "auto" and has_motif):
        count = min(count, 3 * _SITE_POSITIONS)
    elif rule == "per_position":
        count = config["windows"]["length"]
    return int(count if most is None else min(count, most))


def _shared_outcomes(config: Config) -> dict[str, set[str]]:
    """Return the exposures of each outcome that has several, as `deepmr.mr.questions` does."""
    found: dict[str, set[str]] = {}
    for pair in config["pairs"].values():
        found.setdefault(pair["outcome"], set()).add(pair["exposure"])
        found.setdefault(pair["exposure"], set()).add(pair["outcome"])
    return {outcome: several for outcome, several in found.items() if len(several) > 1}
