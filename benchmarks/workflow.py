"""Cost of starting the workflow: dry runs of many shards, and what every start imports.

    python -m benchmarks.workflow --json

A dry run is the command that a user types, of the shipped example with another number of shards
and no results yet. Its CPU time is that of Snakemake's process, user and system; the best of
`--repeats` is kept. A job on a cluster starts Snakemake twice, so what our files add to an empty
workflow is told apart. Where SLURM is installed, a little workflow runs on a real cluster, and the
CPU time of its jobs is counted, that of their scripts left out. With --json the last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.checkout import copy_of_the_checkout
from tests.slurm import toy
from tests.slurm.cluster import Cluster, available

ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
PROFILES = ("profiles/local", "slurm")
SHARDS = (100, 1_000, 5_000)
LIMIT_S, LIMIT_SHARDS = 10.0, 5_000
JOB_LIMIT_S = 3.5

EMPTY = "rule all:\n    default_target: True\n"

# What the workflow files import and fingerprint, after what an empty workflow has imported.
PROBE = """
import gc, json, sys, time
folder, imports, fingerprints = json.loads(sys.argv[1])
started = time.process_time()
from snakemake.cli import main
seconds = {"import_snakemake_cpu_s": time.process_time() - started}
try:
    main(["--snakefile", folder + "/Snakefile", "--directory", folder, "--cores", "1", "-n"])
except SystemExit as ended:
    assert not ended.code
before = set(sys.modules)
gc.freeze()  # as workflow/rules/remedies.smk does
started = time.process_time()
for line in imports:
    exec(line)
seconds["imports_cpu_s"] = time.process_time() - started
from deepmr.provenance import fingerprint
started = time.process_time()
for modules in fingerprints:
    fingerprint(*modules)
seconds["fingerprints_cpu_s"] = time.process_time() - started
new = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
result = {name: round(value, 3) for name, value in seconds.items()}
print(json.dumps(result | {"third_party_imports": sorted(new - {"deepmr"})}))
"""


def cpu_seconds(command: list[str], folder: Path) -> float:
    """Run a command and return its user and system time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def configuration(folder: Path, shards: int) -> Path:
    """Write the shipped configuration with this number of shards and empty results in `folder`."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        below = isinstance(value, str) and value.startswith("results/")
        return str(folder / value) if below else value

    config = moved(yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8")))
    config |= {"results": str(folder / "results"), "sharding": {"shards": shards}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def dry_run(profile: str, shards: int, repeats: int) -> float:
    """Return the CPU seconds of a dry run from nothing, the best of some."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="deepmr-workflow-") as temporary:
            config = configuration(Path(temporary), shards)
            command = [str(SNAKEMAKE), "--profile", profile, "--configfile", str(config), "-n"]
            seconds.append(cpu_seconds(command, ROOT))
    return min(seconds)


def dry_runs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure dry runs by profile and number of shards; the limit is for the slower profile."""
    by_profile: dict[str, dict[str, float]] = {profile: {} for profile in PROFILES}
    for shards in arguments.shards:
        for profile in PROFILES:
            seconds = dry_run(profile, shards, arguments.repeats)
            by_profile[profile][str(shards)] = round(seconds, 2)
            print(f"--profile {profile} -n, {shards:,} shards: {seconds:.2f} s CPU", flush=True)
    slower = {
        str(shards): max(seconds[str(shards)] for seconds in by_profile.values())
        for shards in arguments.shards
    }
    ratios = {shards: round(seconds / LIMIT_S, 3) for shards, seconds in slower.items()}
    return {
        "dry_run_cpu_s": slower,
        "dry_run_cpu_s_by_profile": by_profile,
        "limit_s": LIMIT_S,
        "limit_shards": LIMIT_SHARDS,
        "ratio_to_limit": ratios,
    }


def start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what a start costs: Snakemake's own imports, and what our files add to them."""
    with tempfile.TemporaryDirectory(prefix="deepmr-workflow-") as temporary:
        folder = Path(temporary)
        (folder / "Snakefile").write_text(EMPTY, encoding="utf-8")
        command = [str(SNAKEMAKE), "--cores", "1", "-n"]
        empty = min(cpu_seconds(command, folder) for _ in range(arguments.repeats))
        parsed = parse(folder)
    ours = dry_run(PROFILES[0], 1, arguments.repeats) - empty
    result = {"empty_workflow_cpu_s": round(empty, 2), "ours_cpu_s": round(ours, 2), **parsed}
    foreign = ", ".join(result["third_party_imports"]) or "none"
    print(
        f"start: {empty:.2f} s CPU for an empty workflow (import of Snakemake "
        f"{result['import_snakemake_cpu_s']} s), {ours:.2f} s more for ours with 1 shard; "
        f"alone our imports take {result['imports_cpu_s']} s and our fingerprints "
        f"{result['fingerprints_cpu_s']} s"
    )
    print(f"third-party modules that our files import and Snakemake does not: {foreign}")
    return result


def parse(empty: Path) -> dict[str, Any]:
    """Measure the imports and fingerprints of our files, after an empty workflow has run."""
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [ROOT / "Snakefile", *sorted((ROOT / "workflow" / "rules").glob("*.smk"))]
    )
    imports = re.findall(r"^ *((?:from [\w.]+ )?import .+)$", text, re.MULTILINE)
    calls = re.findall(r"fingerprint\(([^)]*)\)", text)
    fingerprints = [re.findall(r'"([\w.]+)"', call) for call in calls]
    command = [sys.executable, "-c", PROBE, json.dumps([str(empty), imports, fingerprints])]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def end_of_script(rule: str) -> float:
    """Return the CPU time of a script's process after its last line in the log: torch's, mostly."""
    text = (ROOT / "workflow" / "scripts" / f"{rule}.py").read_text(encoding="utf-8")
    imports = "\n".join(re.findall(r"^(?:from|import) .+$", text, re.MULTILINE))
    last = "import atexit, time\natexit.register(lambda: print(time.process_time()))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{last}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return whole - float(done.stdout)


def jobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what Snakemake costs in a SLURM job: all CPU time of the job less its script's."""
    if reason := available():
        print(f"jobs on a cluster: not measured, {reason}")
        return {"job_overhead_cpu_s": None}
    with tempfile.TemporaryDirectory(prefix="deepmr-workflow-") as temporary:
        checkout = copy_of_the_checkout(Path(temporary) / "checkout")
        toy.write_inputs(checkout.folder)
        checkout.run("results/sequences.parquet", "results/models/mine.pt")
        toy.note_sequences(checkout.folder)
        command = [str(SNAKEMAKE), "--profile", "slurm", "results/mr.parquet"]
        with Cluster(account_cpu=True) as cluster:
            done = subprocess.run(
                command,
                cwd=checkout.folder,
                env=cluster.environment(),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            seconds = cluster.cpu_seconds()
        overhead: dict[str, list[float]] = {}
        for log in (checkout.folder / "results" / "logs").rglob("*.log"):
            text = log.read_text(encoding="utf-8")
            job = re.search(r"SLURM job (\d+)", text)
            script = re.search(r"ended: .*? ([\d.]+) CPU s", text)
            if job and script:
                parts = log.relative_to(checkout.folder / "results" / "logs").parts
                rule = parts[0].removesuffix(".log")
                rest = seconds[job[1]] - float(script[1]) - end_of_script(rule)
                overhead.setdefault(rule, []).append(rest)
    mean = {rule: round(sum(each) / len(each), 2) for rule, each in sorted(overhead.items())}
    every = [one for each in overhead.values() for one in each]
    result = round(sum(every) / len(every), 2)
    print(f"Snakemake in a SLURM job: {result} s CPU (mean of {len(every)} jobs; by rule {mean})")
    return {
        "job_overhead_cpu_s": result,
        "job_overhead_cpu_s_by_rule": mean,
        "job_limit_s": JOB_LIMIT_S,
        "job_ratio_to_limit": round(result / JOB_LIMIT_S, 3),
    }


# One function a subject; each prints its lines and returns its figures.
SUBJECTS: tuple[Callable[[argparse.Namespace], dict[str, Any]], ...] = (start, jobs, dry_runs)


def main() -> int:
    """Measure all subjects; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--repeats", type=int, default=2, help="runs, of which the best counts")
    parser.add_argument("--shards", type=int, nargs="+", default=SHARDS)
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    for subject in SUBJECTS:
        result |= subject(arguments)
    held = result["dry_run_cpu_s"].get(str(LIMIT_SHARDS), 0.0) <= LIMIT_S
    held &= (result["job_overhead_cpu_s"] or 0.0) <= JOB_LIMIT_S
    print(
        f"limits: {LIMIT_S} s CPU for {LIMIT_SHARDS:,} shards, {JOB_LIMIT_S} s a job: "
        f"{'held' if held else 'exceeded'}"
    )
    if arguments.json:
        print(json.dumps(result))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
