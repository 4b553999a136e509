"""A trial of the two rules that run once a shard, in a process of its own.

``python -m deepmr.shards.trial mutagenesis|mr FOLDER`` reads ``settings.json`` of the folder and
writes what it measured to ``mutagenesis.json`` or ``mr.json`` there. The two run one after the
other, as jobs do, because the highest memory of a process is all that the system remembers of it.
The networks are not trained and the sequences are random, but with sites of the exposures' motifs,
so that as many have instruments as in a run. Nor is there a Laplace posterior: for the method
``laplace`` one of the right size stands in, with independent weights of a small variance.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deepmr import motifs, schemas, tables
from deepmr.config import exposures, kept_targets
from deepmr.genome.alphabet import Codes, decode
from deepmr.job import peak_memory

FAILED = 2
"""Exit status when the configuration asks what cannot be; standard error says what."""

_PATIENCE = 6.0
"""A sequence that takes longer than this many times the trial is not waited for."""

_MOST_SEQUENCES = 512
_STAND_IN: dict[str, Any] = {"n_layers": 1, "channels": 4, "pool": 8}
_STAND_IN_SD = 0.01
_SEQUENCES = "sequences.parquet"


def mutagenesis(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Mutate as many sequences as take some seconds, and leave their tables for :func:`mr`.

    Parameters
    ----------
    folder : Path
        Where the tables go.
    settings : mapping
        ``config``; the ``model``'s name; ``threads``; ``seconds`` that the trial may take;
        ``timed``: with False a small stand-in for the network makes the tables;
        ``most_sequences``, those of a shard, beyond which there is nothing to try; and
        ``mr_sequences``, which :func:`mr` shall have, copies of the others if they are too few.

    Returns
    -------
    dict
        ``device``, ``gpu``, ``threads``; ``sequences`` of the larger turn;
        ``seconds_per_sequence``, and ``timed``: whether whole sequences gave it, else one forward
        pass and the operations that the engine saves did (0 if none was asked); ``cores``: how
        many it had, on average; bytes of the tables by sequence; ``work_seconds``, which are not
        start-up; ``peak_mb``.
    """
    import torch

    from deepmr.draws import DrawSet
    from deepmr.mutagenesis.drawn_model import DrawnModel
    from deepmr.mutagenesis.effects_table import Counts, write_shard
    from deepmr.mutagenesis.saturation import choose_engine

    config, threads = settings["config"], settings["threads"]
    kept = kept_targets(config)
    model = _network(config, settings["model"], folder / "model.pt", stand_in=False)
    given, prediction = config["uncertainty"], config["prediction"]
    draws = DrawSet(given["method"], given["draws"], config["seed"], len(model.members))
    options = {
        "average_strands": prediction["average_strands"] and not config["data"]["strand"],
        "rows_per_batch": prediction["rows_per_batch"],
    }
    engine = {key: config["mutagenesis"][key] for key in ("engine", "memory_gb", "precision")}
    drawn = DrawnModel(model, kept, draws, **options)
    device, workers = drawn.device, drawn.threads(threads)
    timed, one_sequence = settings["timed"], 0.0
    start = time.perf_counter()
    if timed:
        one_sequence = _one_sequence(drawn) / choose_engine(drawn, **engine).gain
        timed = one_sequence <= _PATIENCE * settings["seconds"]
    looking = time.perf_counter() - start
    del drawn
    if not timed:
        model = _network(config, settings["model"], folder / "model.pt", stand_in=True)

    def write(count: int, name: str) -> tuple[Counts, float]:
        """Write a shard of so many sequences; return also its whole time."""
        sequences = random_sequences(config, count)
        tables.write_table(sequences, folder / _SEQUENCES)
        start = time.perf_counter()
        counts = write_shard(
            model,
            sequences,
            kept,
            draws,
            folder / f"{name}.effects.parquet",
            folder / f"{name}.references.parquet",
            workers=threads,
            save_every=config["sharding"]["save_every"],
            **options,
            **engine,
        )
        return counts, time.perf_counter() - start

    few = workers
    write(few, "few")
    # The first time is slower than any other; that belongs to the start of a job, as the start of
    # the engine does.
    warm, warm_turn = write(few, "few")
    # A stand-in only makes tables, whose size needs no long trial.
    seconds = settings["seconds"] if timed else settings["seconds"] / 5
    most = min(_MOST_SEQUENCES, settings["most_sequences"])
    many = _as_many_as(seconds, warm.seconds / few, 3 * few, most)
    took, turn = write(many, "many")
    cores = took.cpu_seconds / took.seconds
    measured, peak = took.seconds / many, peak_memory() / 1e6
    copying = _copy(folder, settings["mr_sequences"] - many)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "gpu": device.type == "cuda",
        "threads": workers,
        "sequences": many,
        "timed": timed,
        "cores": cores,
        "seconds_per_sequence": measured if timed else one_sequence / workers,
        "effects_bytes": _by_sequence(folder, "effects", few, many),
        "references_bytes": _by_sequence(folder, "references", few, many),
        "work_seconds": looking + warm_turn + turn + few * measured + copying,
        "peak_mb": peak,
    }


def mr(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Estimate the sequences that :func:`mutagenesis` left, again and again for a while.

    Returns
    -------
    dict
        ``sequences`` of the larger turn; ``seconds_per_sequence``; ``table_bytes`` by sequence;
        ``work_seconds``, which are not start-up; ``peak_mb``.
    """
    from deepmr.mr.shard import Pair, Settings, estimate_shard
    from deepmr.responses import responses

    config = settings["config"]
    # As predicted: the tables of calibrators and of scales are not made yet.
    applied = {"calibrator": "none", "method": config["uncertainty"]["method"]}
    given = responses(settings["model"], config["targets"], applied, None, None)
    sequences = tables.read_table(folder / _SEQUENCES)

    def estimate(*names: str) -> float:
        start = time.perf_counter()
        found = estimate_shard(
            settings["model"],
            sequences,
            [folder / f"{name}.effects.parquet" for name in names],
            [folder / f"{name}.references.parquet" for name in names],
            [Pair(n, pair["exposure"], pair["outcome"]) for n, pair in config["pairs"].items()],
            motifs.of_targets(motifs.read_jaspar(config["motifs"]), config["targets"]),
            Settings.of(
                config["mr"],
                config["instruments"],
                both_strands=not config["data"]["strand"],
                seed=config["seed"],
            ),
            given,
        )
        tables.write_table(found, folder / f"{names[-1]}.mr.parquet", schemas.MR)
        return time.perf_counter() - start

    # Copies compress too well: the size of the table is that of the sequences without them.
    few, many = _count(folder, ["few"]), _count(folder, ["many"])
    estimate("few")
    estimate("many")
    copies = sorted(path.name.split(".")[0] for path in folder.glob("copy-*.references.parquet"))
    whole = ["many", *copies]
    bytes_by_sequence = _by_sequence(folder, "mr", few, many)
    took: dict[str, list[float]] = {"few": [], "whole": []}
    while sum(map(sum, took.values())) < settings["seconds"] / 4 or not took["whole"]:
        took["few"].append(estimate("few"))
        took["whole"].append(estimate(*whole))
    means = {name: sum(turns) / len(turns) for name, turns in took.items()}
    measured = max(means["whole"] - means["few"], 0.0) / (_count(folder, whole) - few)
    # The first two turns warm up, and that belongs to the start of a job; their sequences do not.
    return {
        "sequences": _count(folder, whole),
        "seconds_per_sequence": measured,
        "table_bytes": bytes_by_sequence,
        "work_seconds": sum(map(sum, took.values())) + (few + many) * measured,
        "peak_mb": peak_memory() / 1e6,
    }


def _count(folder: Path, names: Sequence[str]) -> int:
    paths = [folder / f"{name}.references.parquet" for name in names]
    return sum(pq.read_metadata(path).num_rows for path in paths)


def _copy(folder: Path, wanted: int) -> float:
    """Copy the sequences under other names, `wanted` at most and whole tables; return the time."""
    start = time.perf_counter()
    sequences = tables.read_table(folder / _SEQUENCES)
    many = sequences.num_rows
    named = [sequences]
    for number in range(wanted // many):
        for kind in ("effects", "references"):
            table = tables.read_table(folder / f"many.{kind}.parquet")
            tables.write_table(
                _renamed(table, number), folder / f"copy-{number:03d}.{kind}.parquet"
            )
        named.append(_renamed(sequences, number))
    tables.write_table(pa.concat_tables(named), folder / _SEQUENCES)
    return time.perf_counter() - start


def _renamed(table: pa.Table, number: int) -> pa.Table:
    column = table.column_names.index("sequence_id")
    names = pc.binary_join_element_wise(table["sequence_id"], pa.scalar(f"copy {number}"), " ")
    return table.set_column(column, "sequence_id", names)


def random_sequences(config: Mapping[str, Any], count: int) -> pa.Table:
    """Return random sequences, the bound share of which carries a site of their exposure's motif.

    Parameters
    ----------
    config : mapping
        A configuration, defaults filled in.
    count : int
        Sequences; they take the exposures in turn.

    Returns
    -------
    pyarrow.Table
        Columns ``sequence_id``, ``sequence`` and, for each exposure, its stratum.
    """
    rng = np.random.default_rng(config["seed"])
    length, asked = config["windows"]["length"], exposures(config)
    library = motifs.of_targets(motifs.read_jaspar(config["motifs"]), config["targets"])
    share = config["sampling"]["bound"] / sum(config["sampling"].values())
    codes = rng.integers(4, size=(count, length), dtype=np.uint8)
    strata: dict[str, list[str | None]] = {name: [None] * count for name in asked}
    for row in range(count):
        turn, exposure = row // len(asked), asked[row % len(asked)]
        # Spread evenly, so that few sequences have the share as well as many.
        bound = math.floor((turn + 1) * share) > math.floor(turn * share)
        strata[exposure][row] = "bound" if bound else "unbound"
        if bound:
            _plant(codes[row], library[exposure], rng)
    return pa.table(
        {
            "sequence_id": [f"trial:{row}" for row in range(count)],
            "sequence": [decode(row) for row in codes],
            **{f"stratum.{name}": pa.array(values, pa.string()) for name, values in strata.items()},
        }
    )


def _plant(codes: Codes, motif: motifs.Motif | None, rng: np.random.Generator) -> None:
    if motif is not None and motif.width <= len(codes):
        start = int(rng.integers(len(codes) - motif.width + 1))
        codes[start : start + motif.width] = motif.counts.argmax(axis=0)


def _network(config: Mapping[str, Any], name: str, path: Path, *, stand_in: bool) -> Any:
    """Build, store and load a network, as a shard's job loads it; or a small one in its place."""
    import torch

    from deepmr.models import architectures, checkpoint, imported

    model, length = config["models"][name], config["windows"]["length"]
    kinds = {target: settings["type"] for target, settings in config["targets"].items()}
    targets = list(kinds)
    if model["code"] is not None and not stand_in:
        loaded = imported.load_model(
            model["code"], model["weights"], targets, length, list(kinds.values()), name
        )
    else:
        torch.manual_seed(config["seed"])
        architecture, options = model["architecture"], model["options"]
        if stand_in:
            architecture, options = "small", _STAND_IN
        loaded = checkpoint.TrainedModel(
            name,
            architecture,
            dict(options),
            length,
            tuple(targets),
            tuple(kinds.values()),
            [
                architectures.build(architecture, len(targets), length, **options)
                for _ in range(model["members"])
            ],
        )
    loaded.save(path)
    loaded = checkpoint.load(path)
    if config["uncertainty"]["method"] != "laplace":
        return loaded
    return replace(loaded, laplace=_stand_in_posterior(loaded, kept_targets(config)))


def _stand_in_posterior(model: Any, targets: Sequence[str]) -> Any:
    from deepmr.models.laplace import LastLayerPosterior, Posterior
    from deepmr.models.last_layer import find

    # Only the first member's is sampled.
    weights = find(model.members[0], model.length).weights[model.columns(targets)].numpy()
    sd = _STAND_IN_SD
    each = [Posterior(mean, sd * np.eye(len(mean)), 1 / sd**2) for mean in weights]
    return LastLayerPosterior(tuple(targets), {0: each})


def _one_sequence(drawn: Any) -> float:
    """Return the time of a sequence in a straight loop on one thread, from one forward pass."""
    import torch

    from deepmr.genome.alphabet import one_hot

    codes = np.zeros((drawn.sequences_per_pass, drawn.length), dtype=np.uint8)
    inputs = torch.from_numpy(one_hot(codes)).to(drawn.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        drawn.evaluate(inputs[:1])[1].cpu()
        start = time.perf_counter()
        drawn.evaluate(inputs)[1].cpu()
        seconds = time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)
    return seconds * math.ceil((1 + 3 * drawn.length) / drawn.sequences_per_pass)


def _as_many_as(seconds: float, each: float, least: int, most: int) -> int:
    """Return how many items fit into a time, in multiples of a third of `least`."""
    step = least // 3
    return max(least, min(most, int(seconds / max(each, 1e-6))) // step * step)


def _by_sequence(folder: Path, kind: str, few: int, many: int) -> float:
    """Return the bytes that a sequence adds to a table, what every table has left out."""
    small, large = ((folder / f"{name}.{kind}.parquet").stat().st_size for name in ("few", "many"))
    return max(large - small, 0) / (many - few)


TRIALS: dict[str, Callable[[Path, Mapping[str, Any]], dict[str, Any]]] = {
    "mutagenesis": mutagenesis,
    "mr": mr,
}
"""Trials by name."""


def main(arguments: list[str]) -> int:
    """Run the trial named first, in the folder named second; return the exit status."""
    name, folder = arguments[0], Path(arguments[1])
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    try:
        measured = TRIALS[name](folder, settings)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return FAILED
    (folder / f"{name}.json").write_text(json.dumps(measured), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
