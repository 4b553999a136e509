"""What Deep IV says of the shipped example's labels, where the true probabilities are known.

    python -m benchmarks.deepiv_labels --json

Windows and labels are drawn as the shipped example draws them (its size, its seed), without
confounding beyond the sequence (scenario `sequence`: the example's three pairs) and with noise that
the labels of a window share besides (`both`: a pair with an effect and one without). Pairs are
asked in both directions; what is known is printed to stderr as it comes.

`truth` is the same formula with the true probabilities of exposure and outcome in place of their
labels: what Deep IV would say without any sampling error of labels. `theta` is the structural
effect, logit per logit: its sign and whether it is 0 is what the estimates must agree with.

The last line is one JSON object; it ends with 1 if one of its `claims` is false:

* `near_truth`: every estimate of Deep IV lies within 3 standard errors of `truth`;
* `signs`: pairs with an effect are positive with p below .001, and every other is smaller than
  any of them by a factor of 5 or more;
* `naive_is_confounded`: with shared noise, the naive network finds an effect (p below .001) where
  there is none (GATA1 and NRF1), and Deep IV does not (p above .05).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit

from deepmr import config as configuration
from deepmr import motifs as motif_library
from deepmr.deepiv.labels.fits import Settings
from deepmr.deepiv.labels.measured import deep_iv
from deepmr.genome.alphabet import Codes
from deepmr.mr.questions import Pair
from deepmr.simulate.example import CHROMOSOMES, SITE_PROBABILITY, example_structure
from deepmr.simulate.genome_files import simulate_genome
from deepmr.simulate.structure import Structure

CONFIG = Path(__file__).parents[1] / "config" / "config.yaml"
TASKS = (
    ("sequence", ("GATA1", "open")),
    ("sequence", ("NRF1", "open")),
    ("sequence", ("JUND", "open")),
    ("both", ("GATA1", "NRF1")),
    ("both", ("GATA1", "open")),
)
Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Simulated windows.

    Attributes
    ----------
    table : pyarrow.Table
        Schema of ``windows.parquet``.
    codes : ndarray of uint8, shape (n, length)
        The windows.
    probability : dict of str to ndarray of float64, shape (n,)
        By target, of label 1 given the sequence.
    """

    table: pa.Table
    codes: Codes
    probability: dict[str, Array]

    def windows(self, table: pa.Table) -> Codes:
        """Return the codes of the windows of a table."""
        return self.codes[[int(name) for name in table["sequence_id"].to_pylist()]]


def labelled(structure: Structure, config: Mapping[str, Any], windows: int) -> Labelled:
    """Return the windows of the shipped example; `windows` in each chromosome."""
    length = config["windows"]["length"]
    genome = simulate_genome(
        structure,
        dict.fromkeys(CHROMOSOMES, windows),
        length,
        SITE_PROBABILITY,
        config["seed"],
    )
    codes = np.concatenate([genome.chromosomes[name] for name in CHROMOSOMES])
    columns: dict[str, Any] = {
        "sequence_id": [str(row) for row in range(len(codes))],
        "chrom": np.repeat(CHROMOSOMES, windows),
        "start": np.tile(np.arange(windows) * length, len(CHROMOSOMES)),
    }
    for target in structure.names:
        labels = [genome.labels[name][target] for name in CHROMOSOMES]
        columns[f"label.{target}"] = np.concatenate(labels).astype(np.float32)
    probability = {name: expit(v) for name, v in structure.marginal_logits(codes).items()}
    return Labelled(pa.table(columns), codes, probability)


def ask(
    scenario: str, ends: tuple[str, str], windows: int, epochs: int | None
) -> list[dict[str, Any]]:
    """Return what every method says of a pair, in both directions, beside the truth."""
    config = configuration.load(CONFIG)
    library = motif_library.read_jaspar(CONFIG.parent / "motifs.jaspar")
    structure = example_structure(library, scenario=scenario)
    data = labelled(structure, config, windows)
    section = dict(config["deep_iv"])
    if epochs is not None:
        section["epochs"] = epochs
    pair = Pair("_".join(ends), *ends)
    rows, counterfactuals = deep_iv(
        data.table,
        data,
        pair,
        dict.fromkeys(structure.names, "binary"),
        motif_library.of_targets(library, config["targets"]),
        Settings.of(section, length=config["windows"]["length"], threads=1, device="cpu"),
        at_most=None,
        both_strands=True,
        seed=config["seed"],
    )
    theta = structure.total_effects()
    kept = ("exposure", "outcome", "method", "estimate", "se", "p_value", "network", "n_windows")
    told = []
    for row in rows.to_pylist():
        answer = {"scenario": scenario, **{key: row[key] for key in kept}}
        if answer["estimate"] is None:
            raise ValueError(
                f"{row['exposure']} -> {row['outcome']}, {row['method']}: {row['status']} "
                f"({row['reason']}); ask for more windows or epochs"
            )
        answer["theta"] = theta[row["exposure"], row["outcome"]]
        if row["method"] == "deep_iv":
            answer |= {key: row[key] for key in ("q_variance", "q_variance_share", "f")}
            direction = counterfactuals.filter(
                pc.equal(counterfactuals["direction"], row["direction"])
            )
            answer["truth"] = true_effect(direction, data, row["exposure"], row["outcome"])
        told.append(answer)
    return told


def true_effect(found: pa.Table, data: Labelled, exposure: str, outcome: str) -> float:
    """Return the estimate with true probabilities in place of labels."""
    rows = np.array(found["sequence_id"].to_pylist(), dtype=np.int64)
    q, r, h0, h1 = (found[name].to_numpy() for name in ("q", "r", "h0", "h1"))
    x, y = data.probability[exposure][rows], data.probability[outcome][rows]
    return float(((q - r) @ (y - h0 - r * (h1 - h0))) / ((q - r) @ (x - r)))


def in_words(answer: Mapping[str, Any]) -> str:
    """Return an answer as a line."""
    se = f" ± {answer['se']:.3f}" if answer["se"] is not None else ""
    truth = f"   truth {answer['truth']:+.3f}, F {answer['f']:.0f}" if "truth" in answer else ""
    return (
        f"{answer['scenario']:9} {answer['exposure']:>5} -> {answer['outcome']:5} "
        f"(theta {answer['theta']:.1f}) {answer['method']:16} {answer['estimate']:+.3f}{se}{truth}"
    )


def claims(answers: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Return what must hold; see the module's text."""
    ours = [a for a in answers if a["method"] == "deep_iv"]
    real = [a for a in ours if a["theta"] > 0]
    absent = [a for a in ours if a["theta"] == 0]
    confounded = {
        a["method"]: a
        for a in answers
        if (a["scenario"], a["exposure"], a["outcome"]) == ("both", "GATA1", "NRF1")
    }
    return {
        "near_truth": all(abs(a["estimate"] - a["truth"]) < 3 * a["se"] for a in ours),
        "signs": all(a["estimate"] > 0 and a["p_value"] < 1e-3 for a in real)
        and max(abs(a["estimate"]) for a in absent) * 5 < min(a["estimate"] for a in real),
        "naive_is_confounded": confounded["naive"]["p_value"] < 1e-3
        and confounded["deep_iv"]["p_value"] > 0.05,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the last line printed is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="the last line is JSON, as always")
    parser.add_argument("--windows", type=int, default=2500, help="in each of 8 chromosomes")
    parser.add_argument("--epochs", type=int, help="most epochs; that of the schema by default")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    asked = parser.parse_args(arguments)
    begin = time.perf_counter()
    answers: list[dict[str, Any]] = []
    with ProcessPoolExecutor(asked.workers) as pool:
        for future in [pool.submit(ask, *task, asked.windows, asked.epochs) for task in TASKS]:
            for answer in future.result():
                answers.append(answer)
                print(in_words(answer), file=sys.stderr, flush=True)
    found = claims(answers)
    seconds = round(time.perf_counter() - begin)
    print(json.dumps({"claims": found, "seconds": seconds, "answers": answers}))
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
