"""Cost of the meta-analysis, and of the same with metafor, PyMARE and statsmodels.

    python -m benchmarks.meta --json

Estimates scatter about .4 with tau2 .05 and variances between .01 and .2. One thread; seconds are
those of the processor, for a peer too, and making the data is not counted. `ours_s` is the public
function, whose result holds the Q-profile intervals of tau2, I2 and H2 as well; `ours_point_s` is
what it does without them (estimate, standard error, tau2, I2, H2, Q). Peers give no such intervals,
but for ``pymare_intervals``.

* metafor's ``rma`` with its default settings, timed in R without R's own start. It is looked for
  at run time (``Rscript``); without it the figures are null and ``reason`` says why.
* PyMARE's likelihood estimator (REML), and the same with its Q-profile interval.
* statsmodels' ``combine_effects``, which has no REML: its "iterated" is Paule and Mandel, its
  "chi2" DerSimonian and Laird, each compared with ours of that name.

Every peer must find what we find (`largest_difference`, of the estimate, its standard error and
tau2, relative). The status is 1 where one does not, or where a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymare import Dataset
from pymare.estimators import VarianceBasedLikelihoodEstimator
from statsmodels.stats.meta_analysis import combine_effects
from threadpoolctl import threadpool_limits

from benchmarks.timing import cpu_seconds
from deepmr.meta import Result, draw_wise, random_effects
from deepmr.meta.combine import pool
from deepmr.meta.shrinkage.mixture import draw_wise_shares, fit_mixture

Array = NDArray[np.float64]

SEED = 1
GOALS = {
    "reml_s": 0.05,
    "ratio_metafor": 100.0,
    "reml_large_s": 2.0,
    "draw_wise_s": 5.0,
    "mixture_large_s": 10.0,
    "draw_wise_shares_s": 60.0,
}
"""At most so many seconds; at least so many times faster."""

TOLERANCES = {
    "metafor": 1e-4,
    "pymare": 1e-5,
    "pymare_intervals": 1e-5,
    "statsmodels_pm": 1e-5,
    "statsmodels_dl": 1e-9,
}
"""Relative; iterations that end early (metafor: a change of tau2 below 1e-5) differ by so much."""

RMA = """
suppressMessages(library(metafor))
data <- read.csv(commandArgs(TRUE)[1])
took <- system.time(fit <- rma(yi, vi, data = data, method = "REML"))
seconds <- took[["user.self"]] + took[["sys.self"]]
version <- as.character(packageVersion("metafor"))
cat(sprintf("%s %.6f %.17g %.17g %.17g\\n", version, seconds, fit$beta[1], fit$se, fit$tau2))
"""


@dataclass(frozen=True)
class Sizes:
    """How much of each is measured."""

    k: int
    large: int
    draws: int
    k_drawn: int
    repeats: int


FULL = Sizes(2_000, 100_000, 100, 5_000, 20)
QUICK = Sizes(60, 200, 4, 30, 2)


def estimates(k: int, seed: int) -> tuple[Array, Array]:
    """Return estimates of k sequences and their variances."""
    rng = np.random.default_rng([SEED, seed])
    variances = rng.uniform(0.01, 0.2, k)
    return rng.normal(0.4, np.sqrt(variances + 0.05)), variances


def drawn(draws: int, k: int) -> tuple[Array, Array]:
    """Return estimates and variances of every draw, whose errors all sequences share in part."""
    rng = np.random.default_rng([SEED, draws, k])
    middle, variances = estimates(k, 1)
    shared, own = rng.standard_normal((draws, 1)), rng.standard_normal((draws, k))
    spread = np.sqrt(variances) * (0.6 * shared + 0.8 * own)
    return middle + spread, variances * rng.uniform(0.8, 1.2, (draws, k))


def repeated(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the mean seconds of the work, after one run that is not counted, and its result."""
    result = work()
    seconds, _ = cpu_seconds(lambda: [work() for _ in range(repeats)])
    return seconds / repeats, result


def metafor(y: Array, v: Array) -> dict[str, Any]:
    """Time metafor's REML where R and the package are there."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        return {"seconds": None, "reason": "no Rscript on this machine"}
    with tempfile.TemporaryDirectory() as folder:
        table, script = Path(folder, "data.csv"), Path(folder, "rma.R")
        np.savetxt(
            table, np.column_stack([y, v]), "%.17g", delimiter=",", header="yi,vi", comments=""
        )
        script.write_text(RMA, encoding="utf-8")
        run = subprocess.run(
            [rscript, "--vanilla", str(script), str(table)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    if run.returncode:
        return {"seconds": None, "reason": f"Rscript failed: {run.stderr.strip()[-300:]}"}
    version, seconds, estimate, se, tau2 = run.stdout.split()
    return {
        "version": version,
        "seconds": float(seconds),
        "numbers": [float(estimate), float(se), float(tau2)],
    }


def pymare(y: Array, v: Array, intervals: bool, repeats: int) -> dict[str, Any]:
    """Time PyMARE's REML."""
    dataset = Dataset(y, v, add_intercept=True)

    def fit() -> dict[str, Array]:
        estimator = VarianceBasedLikelihoodEstimator("reml", small_sample_correction="wald")
        estimator.fit_dataset(dataset)
        if intervals:
            estimator.summary().get_re_stats()
        return estimator.params_

    seconds, fitted = repeated(fit, repeats)
    values = fitted["fe_params"], np.sqrt(fitted["inv_cov"]), fitted["tau2"]
    return {"seconds": seconds, "numbers": [float(np.ravel(value)[0]) for value in values]}


def statsmodels(y: Array, v: Array, method: str, repeats: int) -> dict[str, Any]:
    """Time statsmodels' random-effects analysis."""
    seconds, fitted = repeated(lambda: combine_effects(y, v, method_re=method), repeats)
    numbers = [fitted.mean_effect_re, fitted.sd_eff_w_re, fitted.tau2]
    return {"seconds": seconds, "numbers": [float(number) for number in numbers]}


@dataclass(frozen=True)
class Ours:
    """Seconds of the public function and of its part without intervals, and the result."""

    seconds: float
    point_s: float
    result: Result


def ours_by(y: Array, v: Array, method: str, repeats: int) -> Ours:
    """Time our function."""
    seconds, result = repeated(lambda: random_effects(y, v, method), repeats)
    point_s, _ = repeated(lambda: pool(y[None], v[None], method), repeats)
    return Ours(seconds, point_s, result)


def compared(ours: Ours, peer: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """Add the ratios of seconds, and how far the numbers are apart."""
    if peer["seconds"] is None:
        return peer | {"ratio": None, "largest_difference": None, "agrees": None}
    numbers = np.array([ours.result.estimate, ours.result.se, ours.result.tau2])
    difference = float(np.max(np.abs(np.array(peer["numbers"]) / numbers - 1)))
    return peer | {
        "ours_s": ours.seconds,
        "ratio": peer["seconds"] / ours.seconds,
        "ours_point_s": ours.point_s,
        "ratio_point": peer["seconds"] / ours.point_s,
        "largest_difference": difference,
        "agrees": difference < tolerance,
    }


def measured(sizes: Sizes) -> dict[str, Any]:
    """Measure everything."""
    y, v = estimates(sizes.k, 0)
    repeats = sizes.repeats
    ours = {method: ours_by(y, v, method, repeats) for method in ("REML", "PM", "DL")}
    peers = {
        "metafor": ("REML", metafor(y, v)),
        "pymare": ("REML", pymare(y, v, False, repeats)),
        "pymare_intervals": ("REML", pymare(y, v, True, repeats)),
        "statsmodels_pm": ("PM", statsmodels(y, v, "iterated", repeats)),
        "statsmodels_dl": ("DL", statsmodels(y, v, "chi2", repeats)),
    }
    comparisons = {
        name: compared(ours[method], peer, TOLERANCES[name])
        for name, (method, peer) in peers.items()
    }
    large = estimates(sizes.large, 2)
    se = np.sqrt(large[1])
    draws = drawn(sizes.draws, sizes.k_drawn)
    result: dict[str, Any] = {
        "threads": 1,
        "clock": "processor",
        "numpy": np.__version__,
        "sizes": vars(sizes),
        "goals": GOALS,
        "reml_s": ours["REML"].seconds,
        "peers": comparisons,
        "ratio_metafor": comparisons["metafor"]["ratio"],
        "reml_large_s": cpu_seconds(lambda: random_effects(*large))[0],
        "draw_wise_s": cpu_seconds(lambda: draw_wise(*draws))[0],
    }
    result["mixture_large_s"], mixture = cpu_seconds(lambda: fit_mixture(large[0], se))
    result["draw_wise_shares_s"], shares = cpu_seconds(lambda: draw_wise_shares(*draws))
    result["mixture_status"] = [mixture.status, shares.status]
    result["agree"] = all(peer["agrees"] is not False for peer in comparisons.values())
    result["missed"] = missed(result)
    result["load_average"] = os.getloadavg()[0]
    return result


def missed(result: dict[str, Any]) -> list[str]:
    """Return the goals that were not met; one that could not be measured is not among them."""
    names = []
    for name, goal in GOALS.items():
        value = result[name]
        if value is not None and (value < goal if name.startswith("ratio") else value > goal):
            names.append(name)
    return names


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 if a peer and we disagree, or a goal is missed (not with --quick)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print nothing but one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny data, for a test; no goals")
    arguments = parser.parse_args(argv)
    with threadpool_limits(1):
        result = measured(QUICK if arguments.quick else FULL)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:>20}  {json.dumps(value)}")
    return 0 if result["agree"] and (arguments.quick or not result["missed"]) else 1


if __name__ == "__main__":
    sys.exit(main())
