"""Coverage with invalid instruments: the Bayesian mode against IVW, Egger and the median.

    python -m benchmarks.invalid_instruments --json

50 instruments, true effect .4, gamma_j uniform on .05-.3 of random sign, standard errors about
.02 (exposure) and .03 (outcome), 40 % apart, so that a ratio has a standard error of about .2. An
invalid instrument adds to the outcome, in the orientation of the exposure:

* directional: an effect of its own, N(.15, .05^2), whatever gamma_j;
* cluster: .6 gamma_j: all invalid ones share the second ratio 1.0;
* spread: s_j gamma_j with s_j uniform on .1-2.1: ratios up to 2.5.

Half of the instruments in a second cluster is a tie: no method can tell which group is valid, and
the right answer is two modes. What counts there is whether it is called bimodal and whether the
highest-density set holds the true effect. Errors of the two effects of one instrument correlate by
rho_xy, which is handed to the method that uses it.

For each design and method: coverage of the 95 % interval (of the set, `set_coverage`), mean error,
median width (of the set), and the Monte Carlo error of the coverage. The last line is one JSON
object; it ends with 1 if the Bayesian mode covers less than .93, the Monte Carlo error aside, in a
design other than the tie.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Estimator, Fit, Group, Options
from deepmr.mr.estimators.bayesian_mode import BAYESIAN_MODE
from deepmr.mr.estimators.egger import EGGER
from deepmr.mr.estimators.ivw import IVW
from deepmr.mr.estimators.median import WEIGHTED_MEDIAN

THETA = 0.4
INSTRUMENTS = 50
SEED = 1
REPLICATES = 200
QUICK_REPLICATES = 2
LEAST_COVERAGE = 0.93
TIE = "50 % cluster (tie)"
METHODS = (BAYESIAN_MODE, IVW, EGGER, WEIGHTED_MEDIAN)
CORRELATIONS = (0.0, 0.6)


@dataclass(frozen=True)
class Design:
    """A share of invalid instruments of one kind."""

    name: str
    invalid: float
    kind: str


DESIGNS = (
    Design("0 % invalid", 0.0, "directional"),
    Design("30 % directional", 0.3, "directional"),
    Design("30 % cluster", 0.3, "cluster"),
    Design("50 % directional", 0.5, "directional"),
    Design("50 % spread", 0.5, "spread"),
    Design(TIE, 0.5, "cluster"),
)


def simulate(
    design: Design, rho_xy: float, replicates: int, seed: int, instruments: int = INSTRUMENTS
) -> Group:
    """Draw sequences of a design; the stream depends on the seed and the design."""
    generator = np.random.default_rng([seed, DESIGNS.index(design), round(100 * rho_xy)])
    shape = (replicates, instruments)
    gamma = generator.uniform(0.05, 0.3, shape)
    se_x = 0.02 * np.exp(0.4 * generator.standard_normal(shape))
    se_y = 0.03 * np.exp(0.4 * generator.standard_normal(shape))
    own = {
        "directional": 0.15 + 0.05 * generator.standard_normal(shape),
        "cluster": 0.6 * gamma,
        "spread": generator.uniform(0.1, 2.1, shape) * gamma,
    }[design.kind]
    own[:, round(design.invalid * instruments) :] = 0.0
    first, second = generator.standard_normal((2, *shape))
    error_y = rho_xy * first + np.sqrt(1.0 - rho_xy**2) * second
    sign = generator.choice([-1.0, 1.0], shape)
    return Group(
        sign * (gamma + se_x * first),
        se_x,
        sign * (THETA * gamma + own + se_y * error_y),
        se_y,
        rho_xy=np.full(shape, rho_xy),
    )


def interval_sets(fit: Fit) -> list[NDArray[np.float64]]:
    """Return the 95 % set of every sequence, shape (intervals, 2); Wald's where there is none."""
    if fit.ci_set is not None:
        return fit.ci_set
    half = 1.959963984540054 * fit.se
    return [np.array([[e - h, e + h]]) for e, h in zip(fit.estimate, half, strict=True)]


def score(estimator: Estimator, group: Group) -> dict[str, float]:
    """Fit every sequence and compare with the true effect."""
    start = time.process_time()
    fit = estimator.fit(group, Options(bootstrap_iterations=300))
    seconds = time.process_time() - start
    sets = interval_sets(fit)
    inside = np.array([((s[:, 0] <= THETA) & (s[:, 1] >= THETA)).any() for s in sets])
    hull = np.array([s[0, 0] <= THETA <= s[-1, 1] for s in sets])
    width = np.array([(s[:, 1] - s[:, 0]).sum() for s in sets])
    coverage = float(inside.mean())
    result = {
        "set_coverage": coverage,
        "hull_coverage": float(hull.mean()),
        "mc_error": float(
            np.sqrt(max(coverage * (1 - coverage), 0.25 / inside.size) / inside.size)
        ),
        "bias": float(fit.estimate.mean() - THETA),
        "median_width": float(np.median(width)),
        "ms_per_sequence": 1e3 * seconds / inside.size,
    }
    if fit.n_modes is not None:
        result["share_bimodal"] = float((fit.n_modes >= 2).mean())
    if fit.status is not None:
        result["share_not_estimated"] = float((fit.status != "ok").mean())
    return result


def study(
    replicates: int, seed: int, instruments: int, designs: Sequence[str]
) -> list[dict[str, Any]]:
    """Score every method in the designs of these names."""
    rows = []
    for rho_xy in CORRELATIONS:
        for design in (design for design in DESIGNS if design.name in designs):
            group = simulate(design, rho_xy, replicates, seed, instruments)
            for estimator in METHODS:
                row = {"design": design.name, "rho_xy": rho_xy, "method": estimator.name}
                rows.append(row | score(estimator, group))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study and print a table, then JSON; 1 if the Bayesian mode covers too rarely."""
    parser = argparse.ArgumentParser(
        description=__doc__.replace("%", "%%"), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print only the JSON line")
    parser.add_argument("--quick", action="store_true", help="a few replicates, for a test")
    parser.add_argument("--replicates", type=int, default=REPLICATES)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--instruments", type=int, default=INSTRUMENTS)
    names = [design.name for design in DESIGNS]
    parser.add_argument("--designs", nargs="+", choices=names, default=names, metavar="DESIGN")
    arguments = parser.parse_args(argv)
    replicates = QUICK_REPLICATES if arguments.quick else arguments.replicates
    start = time.process_time()
    rows = study(replicates, arguments.seed, arguments.instruments, arguments.designs)
    seconds = time.process_time() - start
    covers = all(
        row["set_coverage"] >= LEAST_COVERAGE - row["mc_error"]
        for row in rows
        if row["method"] == BAYESIAN_MODE.name and row["design"] != TIE
    )
    if not arguments.json:
        for row in rows:
            print(
                f"{row['design']:20} rho {row['rho_xy']:.1f} {row['method']:16}"
                f" coverage {row['set_coverage']:.3f} +- {row['mc_error']:.3f}"
                f" bias {row['bias']:+.3f} width {row['median_width']:.3f}"
                f" bimodal {row.get('share_bimodal', float('nan')):.2f}"
            )
    result = {"replicates": replicates, "seconds": seconds, "covers": covers, "results": rows}
    print(json.dumps(result))
    return 0 if covers or arguments.quick else 1


if __name__ == "__main__":
    sys.exit(main())
