"""Coverage of the 95 % intervals of MR estimators where the truth is known.

    python -m benchmarks.coverage --json

A design draws the effects of the mutations of one sequence: five motifs whose substitutions lower
the exposure, errors of X and Y that correlate (.6), pleiotropy, and errors that mutations have in
common: either of the reference alone (every two mutations .5), or also of the neighbourhood (.2,
and .7 more between alleles of a position, falling by a factor of .8 with each position).
A method is an estimator of the registry and what it is told of the errors: ``diagonal``, the
standard errors; ``known``, also the covariance; ``draws``, draws with that covariance; ``rubin``,
the same draws, with the estimator run in each. Standard errors are known in all. Bias is that of
the mean, and width the median (sets may be unbounded: their share stands beside it). `mc_error` is
the standard error of the coverage. The last line is one JSON object; it ends with 1 if `profile`,
told the covariance, covers less than .93 or more than .97, the Monte Carlo error aside.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.drawwise import rubin
from deepmr.mr.estimator import Estimator, Fit, Group, Options
from deepmr.mr.registry import estimators

Array = NDArray[np.float64]

SEED = 1
REPLICATES = {False: 1000, True: 8}
MUTATIONS = {False: 450, True: 150}
DRAWS = {False: 100, True: 40}
LEAST, MOST = 0.93, 0.97
SHARED, X_Y = 0.5, 0.6
LOCAL_SHARED, LOCAL, DECAY = 0.2, 0.7, 0.8
MOTIFS, MOTIF_POSITIONS, ALLELES = 5, 8, 3


@dataclass(frozen=True, eq=False)
class Data:
    """Effects of one sequence, how their errors came about, and the true slope.

    Attributes
    ----------
    bx, se_x, by, se_y : ndarray, shape (mutations,)
        Effects and standard errors.
    rho : float
        Correlation of the two errors of a mutation.
    correlation : ndarray, shape (mutations, mutations)
        Correlation of the errors of different mutations.
    factor : ndarray, shape (mutations, mutations)
        Its Cholesky factor.
    truth : float
        Causal effect.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    rho: float
    correlation: Array
    factor: Array
    truth: float


Design = Callable[[np.random.Generator, int], Data]


@lru_cache(maxsize=4)
def correlation_of(kind: str, mutations: int) -> tuple[Array, Array]:
    """Return the correlation of the errors of different mutations, and its Cholesky factor."""
    same = np.eye(mutations, dtype=bool)
    if kind == "reference":
        matrix = np.where(same, 1.0, SHARED)
    else:
        position = np.arange(mutations) // ALLELES
        near = LOCAL * DECAY ** np.abs(np.subtract.outer(position, position))
        matrix = np.where(same, 1.0, LOCAL_SHARED + near)
    return matrix, np.linalg.cholesky(matrix)


def errors(
    rng: np.random.Generator, count: int, se_x: Array, se_y: Array, factor: Array
) -> tuple[Array, Array]:
    """Draw errors of X and Y, shape (count, mutations)."""
    u, v = (rng.standard_normal((count, len(se_x))) @ factor.T for _ in range(2))
    return se_x * u, se_y * (X_Y * u + np.sqrt(1.0 - X_Y**2) * v)


def motif_effects(rng: np.random.Generator, mutations: int) -> Array:
    """Draw true effects on the exposure: in motifs each position matters more or less."""
    positions = mutations // ALLELES
    importance = np.zeros(positions)
    for start in rng.choice(positions - MOTIF_POSITIONS, MOTIFS, replace=False):
        importance[start : start + MOTIF_POSITIONS] = rng.uniform(0.0, 0.12, MOTIF_POSITIONS)
    return -np.repeat(importance, ALLELES) * rng.uniform(0.5, 1.5, mutations)


def balanced(slope: float, pleiotropy: float, kind: str = "reference") -> Design:
    """Return a design in which mutations act on Y beside X, on average by nothing."""

    def design(rng: np.random.Generator, mutations: int) -> Data:
        effect = motif_effects(rng, mutations)
        se_x = 0.02 * np.exp(0.1 * rng.standard_normal(mutations))
        se_y = 0.03 * np.exp(0.1 * rng.standard_normal(mutations))
        correlation, factor = correlation_of(kind, mutations)
        error_x, error_y = errors(rng, 1, se_x, se_y, factor)
        by = slope * effect + pleiotropy * rng.standard_normal(mutations) + error_y[0]
        return Data(effect + error_x[0], se_x, by, se_y, X_Y, correlation, factor, slope)

    return design


DESIGNS: dict[str, Design] = {
    "slope .5": balanced(0.5, 0.0),
    "slope .5, pleiotropy .02": balanced(0.5, 0.02),
    "slope 0, pleiotropy .05": balanced(0.0, 0.05),
    "local errors, slope .5": balanced(0.5, 0.0, "local"),
    "local errors, slope .5, pleiotropy .02": balanced(0.5, 0.02, "local"),
    "local errors, slope 0, pleiotropy .05": balanced(0.0, 0.05, "local"),
}


TOLD = ("diagonal", "known", "draws", "rubin")


@dataclass(frozen=True)
class Method:
    """An estimator, and what it is told of the errors: one of `TOLD`."""

    estimator: str
    told: str


METHODS: dict[str, Method] = {
    "ivw": Method("ivw", "diagonal"),
    "egger": Method("egger", "diagonal"),
    "max_likelihood": Method("max_likelihood", "known"),
    "profile": Method("profile", "known"),
    "profile, draws": Method("profile", "draws"),
    "profile, in each draw": Method("profile", "rubin"),
    "ivw, in each draw": Method("ivw", "rubin"),
    "egger, in each draw": Method("egger", "rubin"),
    "egger_profile": Method("egger_profile", "known"),
}


def groups_of(data: Data, rng: np.random.Generator, draws: int) -> dict[str, Group]:
    """Return the input of an estimator by what it is told."""
    alone = Group(data.bx[None], data.se_x[None], data.by[None], data.se_y[None])
    known = replace(
        alone, rho_xy=np.full_like(alone.bx, data.rho), correlation=data.correlation[None]
    )
    error_x, error_y = errors(rng, draws, data.se_x, data.se_y, data.factor)
    # The mean over draws is the effect, as it is in the tables.
    draws_x = (data.bx + error_x - error_x.mean(axis=0))[None]
    draws_y = (data.by + error_y - error_y.mean(axis=0))[None]
    drawn = replace(alone, draws_x=draws_x, draws_y=draws_y)
    return {"diagonal": alone, "known": known, "draws": drawn, "rubin": drawn}


def fitted(method: Method, estimator: Estimator, group: Group) -> Fit:
    """Return the fit of the one sequence of a group; of its draws combined, if so told."""
    options = Options(bootstrap_iterations=0, draw_covariance=method.told == "draws")
    if method.told != "rubin":
        return estimator.fit(group, options)
    drawn = estimator.fit_draws(group, options)
    all_draws = rubin(drawn.estimates, drawn.se_within * drawn.se_within)
    return Fit(
        all_draws.estimate,
        all_draws.se,
        ci_low=all_draws.ci_low,
        ci_high=all_draws.ci_high,
        p_value=all_draws.p_value,
    )


def interval(fit: Fit) -> Array:
    """Return the 95 % set of the one sequence of a fit, shape (intervals, 2)."""
    if fit.ci_set is not None:
        return fit.ci_set[0]
    if fit.ci_low is not None and fit.ci_high is not None:
        return np.array([[fit.ci_low[0], fit.ci_high[0]]])
    half = 1.959963984540054 * fit.se[0]
    return np.array([[fit.estimate[0] - half, fit.estimate[0] + half]])


def measure(
    design: Design, methods: dict[str, Method], replicates: int, mutations: int, draws: int
) -> dict[str, dict[str, float]]:
    """Return the figures of every method on the same data sets of a design."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
    by_name = {e.name: e for e in estimators(sorted({m.estimator for m in methods.values()}))}
    seconds = dict.fromkeys(methods, 0.0)
    for replicate in range(replicates):
        rng = np.random.default_rng([SEED, replicate])
        data = design(rng, mutations)
        groups = groups_of(data, rng, draws)
        for name, method in methods.items():
            start = time.process_time()
            fit = fitted(method, by_name[method.estimator], groups[method.told])
            seconds[name] += time.process_time() - start
            parts = interval(fit)
            covered = ((parts[:, 0] <= data.truth) & (data.truth <= parts[:, 1])).any()
            robust = fit.ci_kind is not None and fit.ci_kind[0] != "wald"
            found[name].append(
                (
                    float(fit.estimate[0]) - data.truth,
                    float(fit.se[0]),
                    float(covered),
                    float((parts[:, 1] - parts[:, 0]).sum()),
                    float(robust),
                )
            )
    return {
        name: summary(np.array(rows)) | {"ms": 1e3 * seconds[name] / replicates}
        for name, rows in found.items()
    }


def summary(rows: Array) -> dict[str, float]:
    """Return the figures of a method; `rows` are error, SE, covered, width, robust."""
    estimated = np.isfinite(rows[:, 0])
    error, se, covered, width, robust = rows[estimated].T
    count = max(len(error), 1)
    coverage = float(covered.mean())
    return {
        "coverage": coverage,
        "mc_error": float(np.sqrt(max(coverage * (1.0 - coverage), 0.25 / count) / count)),
        "bias": float(error.mean()),
        "rmse": float(np.sqrt((error * error).mean())),
        "sd": float(error.std()),
        "mean_se": float(se.mean()),
        "width": float(np.median(width)),
        "unbounded": float(np.isinf(width).mean()),
        "robust": float(robust.mean()),
        "failed": float(1.0 - estimated.mean()),
    }


def covers(figures: dict[str, dict[str, float]]) -> bool:
    """Tell whether the covariance-aware estimator covers as it says, as far as one can see."""
    profile = figures.get("profile")
    if profile is None:
        return True
    error = profile["mc_error"]
    return LEAST - error <= profile["coverage"] <= MOST + error


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    columns = ("coverage", "mc_error", "bias", "rmse", "mean_se", "width", "unbounded", "ms")
    lines = []
    for design, methods in result["designs"].items():
        lines.append(f"{design:<40}" + "".join(f"{name:>11}" for name in columns))
        for name, figures in methods.items():
            lines.append(f"  {name:<38}" + "".join(f"{figures[c]:>11.4f}" for c in columns))
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smaller problem, for tests")
    parser.add_argument(
        "--replicates", type=int, help="data sets of a design; a third with local errors"
    )
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=list(DESIGNS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    arguments = parser.parse_args(argv)
    quick = arguments.quick
    replicates = arguments.replicates or REPLICATES[quick]
    begun = time.process_time()
    methods = {name: METHODS[name] for name in arguments.methods}
    result: dict[str, Any] = {
        "replicates": replicates,
        "seconds": 0.0,
        "mutations": MUTATIONS[quick],
        "draws": DRAWS[quick],
        "designs": {},
    }
    for name in arguments.designs:
        # Dense matrices cost n^3.
        count = max(1, replicates // 3) if name.startswith("local") else replicates
        figures = measure(DESIGNS[name], methods, count, MUTATIONS[quick], DRAWS[quick])
        result["designs"][name] = figures
    result["seconds"] = time.process_time() - begun
    result["covers"] = all(covers(figures) for figures in result["designs"].values())
    print(json.dumps(result) if arguments.json else table(result))
    return 0 if result["covers"] else 1


if __name__ == "__main__":
    sys.exit(main())
