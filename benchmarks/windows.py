"""Cost of labelling a 300-Mb genome, and memory of training on it.

    python -m benchmarks.windows --json

Each stage runs in a process of its own, so that its CPU time and peak memory (RSS) are its own:
the genome is written, its windows are extracted, and a network is trained for an epoch on random
windows of it, and of a genome of a tenth of its size. With --json the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deepmr.genome import windows
from deepmr.genome.fasta import SequenceReader

LINE = 60
CONTIGS = 10
LENGTH, BIN, STRIDE = 200, 200, 200
CPU_LIMIT_S, RSS_LIMIT_GB = 90.0, 2.0


def make(folder: Path, megabases: int, n_targets: int, n_peaks: int, seed: int) -> dict[str, Any]:
    """Write a random genome with some gaps of N, and peaks of 100 to 1,000 bases."""
    rng = np.random.default_rng([seed, megabases])
    size = megabases * 1_000_000 // CONTIGS // LINE * LINE
    with (folder / "genome.fa").open("wb") as file:
        for contig in range(CONTIGS):
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, size, dtype=np.uint8)]
            for gap in rng.integers(0, size - 50_000, 20):
                letters[gap : gap + 50_000] = ord("N")
            lines = np.full((size // LINE, LINE + 1), ord("\n"), np.uint8)
            lines[:, :LINE] = letters.reshape(-1, LINE)
            file.write(b">chr%d\n" % (contig + 1))
            file.write(lines.tobytes())
    for target in range(n_targets):
        chrom = rng.integers(1, CONTIGS + 1, n_peaks)
        start = rng.integers(0, size - 1_000, n_peaks)
        end = start + rng.integers(100, 1_000, n_peaks)
        rows = zip(chrom.tolist(), start.tolist(), end.tolist(), strict=True)
        text = "".join(f"chr{c}\t{s}\t{e}\n" for c, s, e in rows)
        (folder / f"T{target}.bed").write_text(text, encoding="ascii")
    with SequenceReader(folder / "genome.fa"):
        return {}


def extract(folder: Path) -> dict[str, Any]:
    """Label all windows of the genome in `folder` for all its targets."""
    targets = {path.stem: {"peaks": path.name} for path in sorted(folder.glob("T*.bed"))}
    with SequenceReader(folder / "genome.fa") as reader:
        table, counts = windows.extract(
            reader,
            targets,
            length=LENGTH,
            bin=BIN,
            stride=STRIDE,
            validation=["chr9"],
            test=["chr10"],
            directory=folder,
            seed=1,
        )
    return {
        "windows": counts["tiled"],
        "kept": counts["kept"],
        "with_n": counts["with_n"],
        "table_bytes_per_window": round(table.nbytes / len(table), 1),
    }


def train(folder: Path, n_windows: int, seed: int) -> dict[str, Any]:
    """Train for an epoch on windows anywhere in the genome, their sequences read as needed."""
    from deepmr.models import training  # torch, needed only in this stage

    rng = np.random.default_rng([seed, 2])
    with SequenceReader(folder / "genome.fa") as reader:
        names = np.array(list(reader.contigs))[rng.integers(0, len(reader.contigs), n_windows)]
        start = (rng.random(n_windows) * (min(reader.contigs.values()) - LENGTH)).astype(int)
        table = pa.table(
            {
                "sequence_id": [f"w{i}" for i in range(n_windows)],
                "chrom": names,
                "start": start,
                "end": start + LENGTH,
                "strand": ["."] * n_windows,
                "split": ["validation" if i % 10 == 0 else "train" for i in range(n_windows)],
                "label.T": rng.integers(0, 2, n_windows).astype(np.float32),
            }
        )
        training.train(
            reader,
            table,
            {"T": "binary"},
            name="benchmark",
            architecture="small",
            options={},
            length=LENGTH,
            seed=seed,
            epochs=1,
            cache_bytes=0,
        )
    return {"windows_trained": n_windows}


def measured(stage: str, folder: Path, **options: int) -> dict[str, Any]:
    """Run a stage in a fresh process; add its CPU and wall seconds and its peak RSS in GB."""
    command = [sys.executable, "-m", "benchmarks.windows", "--stage", stage, str(folder)]
    command += [f"{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path, options: dict[str, int]) -> None:
    """Run one stage here and print what it gave and cost."""
    started = time.perf_counter()
    stages = {"make": make, "extract": extract, "train": train}
    result = stages[stage](folder, **options)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result |= {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.perf_counter() - started, 2),
        # Linux gives kilobytes, macOS bytes.
        "peak_rss_gb": round(usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6), 3),
    }
    print(json.dumps(result))


def main() -> int:
    """Run all stages; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--megabases", type=int, default=300)
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--peaks", type=int, default=50_000)
    parser.add_argument("--stage", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage, folder, *options = arguments.stage
        pairs = (option.split("=") for option in options)
        run_stage(stage, Path(folder), {name: int(value) for name, value in pairs})
        return 0
    sizes = {"small": max(arguments.megabases // 10, 1), "large": arguments.megabases}
    training: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="deepmr-windows-") as temporary:
        for name, megabases in sizes.items():
            folder = Path(temporary) / name
            folder.mkdir()
            measured(
                "make",
                folder,
                megabases=megabases,
                n_targets=arguments.targets,
                n_peaks=arguments.peaks if name == "large" else 1,
                seed=1,
            )
            training[name] = measured("train", folder, n_windows=20_000, seed=1)
        result = measured("extract", Path(temporary) / "large")
    for name, megabases in sizes.items():
        result[f"training_{name}"] = {"megabases": megabases, **training[name]}
    result["training_rss_growth_gb"] = round(
        training["large"]["peak_rss_gb"] - training["small"]["peak_rss_gb"], 3
    )
    result |= {"megabases": sizes["large"], "targets": arguments.targets, "peaks": arguments.peaks}
    held = result["cpu_s"] <= CPU_LIMIT_S and result["peak_rss_gb"] <= RSS_LIMIT_GB
    print(
        f"{result['windows']:,} windows of {sizes['large']} Mb x {arguments.targets} targets: "
        f"{result['cpu_s']} s CPU (limit {CPU_LIMIT_S}), "
        f"{result['peak_rss_gb']} GB RSS (limit {RSS_LIMIT_GB})"
    )
    print(
        f"training: {training['small']['peak_rss_gb']} GB at {sizes['small']} Mb, "
        f"{training['large']['peak_rss_gb']} GB at {sizes['large']} Mb"
    )
    if arguments.json:
        print(json.dumps(result))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
