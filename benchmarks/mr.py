"""Cost of the estimators of Mendelian randomization, and of the same with genal.

    python -m benchmarks.mr --json

Effects are those of an in-silico mutagenesis: most mutations do nearly nothing, stretches of some
dozen positions do much, every effect has an error, and draws scatter about the means. One thread;
seconds are those of the processor, and making the data is not counted. Each time is that of the
public function, `mr.estimate`, diagnostics included.

genal (a peer from the package index) is called in the same process with the same number of
bootstrap replicates, on a few sequences, and its seconds are scaled to all of them. It takes
second-order weights in the median, so here ours does too. Its weighted median and IVW, Egger and
mode must agree with ours (`largest_difference`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.timing import cpu_seconds, fitted
from deepmr import mr

SEED = 1
FOUR = ("ivw", "egger", "weighted_median", "weighted_mode")
GOALS = {
    "estimates_s": 3.0,
    "draws_regressions_s": 30.0,
    "draws_medians_modes_s": 300.0,
    "profile_s": 60.0,
    "bayesian_mode_s_a_sequence": 0.3,
}


@dataclass(frozen=True)
class Sizes:
    """How much of each is measured; results are scaled to `sequences`."""

    sequences: int
    mutations: int
    draws: int
    profile_draws: int
    replicates: int
    ours_with_bootstrap: int
    peer_sequences: int
    bayesian_sequences: int
    bayesian_instruments: int


FULL = Sizes(1000, 3000, 100, 50, 1000, 20, 3, 20, 300)
QUICK = Sizes(8, 200, 6, 6, 20, 3, 2, 2, 60)


def effects(count: int, n: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return bx, se_x, by, se_y of `count` sequences with `n` mutations, slope .5."""
    rng = np.random.default_rng([SEED, seed])
    inside = np.zeros((count, n), dtype=np.bool_)
    for start in rng.integers(0, max(1, n - 36), size=(4, count)):
        inside |= np.abs(np.arange(n) - start[:, None] - 18) < 18
    true = np.where(inside, 0.3, 0.02) * rng.standard_normal((count, n))
    se_x, se_y = rng.uniform(0.01, 0.03, (count, n)), rng.uniform(0.02, 0.04, (count, n))
    bx = true + se_x * rng.standard_normal((count, n))
    by = (
        0.5 * true + 0.02 * rng.standard_normal((count, n)) + se_y * rng.standard_normal((count, n))
    )
    return {"bx": bx, "se_x": se_x, "by": by, "se_y": se_y}


def drawn(data: dict[str, NDArray[np.float64]], draws: int) -> dict[str, NDArray[np.float64]]:
    """Add draws whose errors X and Y, and neighbouring mutations, share."""
    count, n = data["bx"].shape
    rng = np.random.default_rng([SEED, count, n, draws])
    shared = rng.standard_normal((count, draws, 1))
    own = rng.standard_normal((2, count, draws, n))
    x = np.sqrt(0.5) * (shared + own[0])
    y = 0.6 * x + 0.8 * np.sqrt(0.5) * (rng.standard_normal((count, draws, 1)) + own[1])
    return {
        "draws_x": data["bx"][:, None] + data["se_x"][:, None] * x,
        "draws_y": data["by"][:, None] + data["se_y"][:, None] * y,
    }


def with_draws(methods: Sequence[str], count: int, n: int, draws: int, **options: Any) -> float:
    """Return the seconds of draw-wise estimation, a few sequences at a time."""
    total = 0.0
    step = max(1, 8_000_000 // (n * draws))
    for start in range(0, count, step):
        data = effects(min(step, count - start), n, start)
        data |= drawn(data, draws)
        seconds, table = cpu_seconds(
            lambda data=data: mr.estimate(
                **data, methods=methods, bootstrap_iterations=0, **options
            )
        )
        if (table["status"] != "ok").any():
            raise RuntimeError(f"a sequence was not estimated: {set(table['status'])}")
        total += seconds
    return total


def estimates(count: int, n: int) -> float:
    """Return the seconds of the four point estimates with their closed-form standard errors."""
    data = effects(count, n, 0)
    return cpu_seconds(lambda: mr.estimate(**data, methods=FOUR, bootstrap_iterations=0))[0]


def against_genal(sizes: Sizes) -> dict[str, Any]:
    """Time both with bootstrap standard errors and compare what they estimate."""
    genal = _genal()
    data = effects(sizes.ours_with_bootstrap, sizes.mutations, 0)
    options = {"median_order": "second", "bootstrap_iterations": sizes.replicates}
    together_s, table = cpu_seconds(lambda: mr.estimate(**data, methods=FOUR, **options))
    estimate = table.pivot(index="sequence", columns="method", values="estimate")
    ours = {
        method: cpu_seconds(
            lambda method=method: mr.estimate(**data, methods=(method,), **options)
        )[0]
        / sizes.ours_with_bootstrap
        for method in FOUR
    }
    calls = {
        "ivw": lambda one: genal.mr_ivw(*one),
        "egger": lambda one: genal.mr_egger_regression(*one),
        "weighted_median": lambda one: genal.mr_weighted_median(*one, sizes.replicates, seed=1),
        "weighted_mode": lambda one: genal.mr_weighted_mode(
            *one, 1, sizes.replicates, 1, show_progress=False, seed=1
        ),
    }
    peer, differences = dict.fromkeys(FOUR, 0.0), []
    for i in range(sizes.peer_sequences):
        one = [data[name][i] for name in ("bx", "se_x", "by", "se_y")]
        for method, call in calls.items():
            seconds, result = cpu_seconds(lambda call=call, one=one: call(one))
            peer[method] += seconds / sizes.peer_sequences
            differences.append(abs(float(result[0]["b"]) / estimate.loc[i, method] - 1))
    together = together_s / sizes.ours_with_bootstrap
    return {
        "replicates": sizes.replicates,
        "ours_s": together * sizes.sequences,
        "ours_sequences_timed": sizes.ours_with_bootstrap,
        "genal_s": sum(peer.values()) * sizes.sequences,
        "genal_sequences_timed": sizes.peer_sequences,
        "ours_s_a_sequence_alone": ours,
        "genal_s_a_sequence": peer,
        "ratio_genal": sum(peer.values()) / together,
        "ratio_genal_by_method": {method: peer[method] / ours[method] for method in FOUR},
        "largest_difference": max(differences),
    }


def _genal() -> Any:
    """Import genal's functions; the package writes a configuration into the home folder."""
    home = os.environ.get("HOME")
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        os.environ["HOME"] = folder
        try:
            return importlib.import_module("genal.MR")
        finally:
            if home is None:
                del os.environ["HOME"]
            else:
                os.environ["HOME"] = home


def measured(sizes: Sizes) -> dict[str, Any]:
    """Measure everything."""
    mr.estimate(**effects(2, 50, 0), methods=FOUR, bootstrap_iterations=0)  # imports, caches
    result: dict[str, Any] = {
        "threads": 1,
        "clock": "processor",
        "numpy": np.__version__,
        "sizes": vars(sizes),
        "goals": GOALS,
        "estimates_s": estimates(sizes.sequences, sizes.mutations),
        "draws_regressions_s": with_draws(
            ("ivw", "egger"), sizes.sequences, sizes.mutations, sizes.draws
        ),
        "draws_medians_modes_s": with_draws(
            ("weighted_median", "weighted_mode"), sizes.sequences, sizes.mutations, sizes.draws
        ),
        "profile_s": with_draws(
            ("profile",),
            sizes.sequences,
            sizes.mutations,
            sizes.profile_draws,
            draw_covariance=True,
        ),
        "bootstrap": against_genal(sizes),
    }
    data = effects(sizes.bayesian_sequences, sizes.bayesian_instruments, 0)
    seconds, _ = cpu_seconds(lambda: mr.estimate(**data, methods=("bayesian_mode",)))
    result["bayesian_mode_s_a_sequence"] = seconds / sizes.bayesian_sequences
    shares = (1, 2, 3, 4)
    counts = [sizes.sequences * share // 4 for share in shares]
    numbers = [sizes.mutations * share // 4 for share in shares]
    result["linearity"] = {
        "by_sequences": fitted(counts, [estimates(count, sizes.mutations) for count in counts]),
        "by_mutations": fitted(numbers, [estimates(sizes.sequences, n) for n in numbers]),
    }
    result["load_average"] = os.getloadavg()[0]
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 if genal and we disagree on what is estimated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny data, for a test")
    arguments = parser.parse_args(argv)
    with threadpool_limits(1):
        result = measured(QUICK if arguments.quick else FULL)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>28}  {json.dumps(value)}")
    return 0 if result["bootstrap"]["largest_difference"] < 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
