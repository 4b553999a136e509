"""Meta-analysis of sequences that share the error of one model, where the truth is known.

    python -m benchmarks.shared_error --json

A model has estimated k sequences: y_i = theta_i + e_i, theta_i ~ N(.5, .1^2), and e_i is made of

* a scatter of variance w_i that every draw of the model shows alike (pleiotropy, curvature);
* an error that the model makes in this sequence only, of variance o_i;
* errors that it makes in all: one with loadings about .12, one along GC content (loadings .08 times
  a standardised covariate).

In the design ``follows effects`` the common error scales every effect, as it does when a network
takes a whole motif for stronger than it is: its loading is .25 theta_i. The draws of the model vary
about its estimate with the same covariance. Methods:

* ``independent``: random effects with the variances of y, z or Hartung-Knapp, or cluster-robust
  (CR2) with chromosomes for clusters, to which sequences belong at random;
* ``known V``: told V, by generalised least squares or by working weights;
* ``draw-wise``: a meta-analysis in each of T draws, by Rubin's rules;
* ``V of 40 draws``: told the covariance of the draws instead of V.

Bias is that of the mean, width the median, `mc_error` the standard error of the coverage, `tau2`
the mean (.01 is true), `tau2_held` the coverage of its interval (where there is one), `predicted`
the probability that the prediction interval holds the true effect of one more sequence. The last
line is one JSON object. It ends with 1 unless, two standard errors of Monte Carlo aside,
`independent` covers less than .6 in each design, the methods named in `CLAIMED` .93-.97 (.88 where
errors follow effects), and known V, GLS too, but less than .6 where errors follow effects.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from deepmr.meta.combine import random_effects
from deepmr.meta.dependence.dependent import combine_dependent, working_weights
from deepmr.meta.dependence.error_covariance import LowRank
from deepmr.meta.drawwise import draw_wise
from deepmr.meta.regression.cluster_robust import cluster_robust
from deepmr.meta.result import Result

Array = NDArray[np.float64]

SEED = 1
REPLICATES = {False: 1000, True: 12}
DRAWS = 100
MEAN, TAU = 0.5, 0.1
COMMON, COMMON_SPREAD, ALONG_GC, SCALING = 0.12, 0.3, 0.08, 0.25
LEAST, MOST, INDEPENDENT_MOST = 0.93, 0.97, 0.6
LEAST_FOLLOWING = 0.88
"""An error that scales the effects by 1 + .25 f, f ~ N(0, 1), makes the interval short where it
makes the estimate small: estimate +- 1.96 * .25 * estimate holds the truth for -1.32 < f < 3.84,
which is .91."""
CLAIMED = (
    "known V, working weights",
    "draw-wise, T=40",
    "draw-wise, T=100",
    "V of 40 draws, working weights",
)
"""`known V, GLS` is claimed too where the common error does not follow the effects."""


@dataclass(frozen=True, eq=False)
class Data:
    """Estimates of one model.

    Attributes
    ----------
    estimates, scatter, own : ndarray, shape (k,)
        y, w and o.
    factors : ndarray, shape (k, 2)
        Loadings of the errors that all sequences share.
    draws : ndarray, shape (DRAWS, k)
        Their mean over draws is y.
    chromosome : ndarray of int, shape (k,)
    """

    estimates: Array
    scatter: Array
    own: Array
    factors: Array
    draws: Array
    chromosome: NDArray[np.int64]

    @property
    def covariance(self) -> LowRank:
        return LowRank(self.scatter + self.own, self.factors)

    def drawn(self, count: int) -> tuple[Array, Array]:
        """Return the first draws, centred on y, and their variances within."""
        part = self.draws[:count]
        centred = part - part.mean(axis=0) + self.estimates
        return centred, np.broadcast_to(self.scatter, centred.shape)


@dataclass(frozen=True)
class Design:
    """k sequences, and whether the common error follows their effects."""

    k: int
    follows: bool


DESIGNS = {
    "30 sequences": Design(30, False),
    "100 sequences": Design(100, False),
    "300 sequences": Design(300, False),
    "100 sequences, follows effects": Design(100, True),
}


def simulate(rng: np.random.Generator, design: Design) -> Data:
    """Draw one model."""
    k = design.k
    effects = MEAN + TAU * rng.standard_normal(k)
    gc = rng.standard_normal(k)
    scatter, own = rng.uniform(0.004, 0.02, (2, k))
    loading = COMMON * (1.0 + COMMON_SPREAD * rng.standard_normal(k))
    if design.follows:
        loading = SCALING * effects

    def errors(common: Array, count: int) -> Array:
        factors = np.column_stack([common, ALONG_GC * gc])
        shared = rng.standard_normal((count, 2)) @ factors.T
        return shared + np.sqrt(own) * rng.standard_normal((count, k))

    y = effects + errors(loading, 1)[0] + np.sqrt(scatter) * rng.standard_normal(k)
    # What a model knows of its errors it knows of its estimates, not of the truth.
    seen = SCALING * y if design.follows else loading
    chromosome = rng.integers(0, 22, k)
    factors = np.column_stack([seen, ALONG_GC * gc])
    return Data(y, scatter, own, factors, y + errors(seen, DRAWS), chromosome)


def independent(data: Data, test: str) -> Result:
    return random_effects(data.estimates, data.covariance.variances, "REML", test)


def by_chromosome(data: Data) -> Result:
    found = cluster_robust(data.estimates, data.covariance.variances, data.chromosome).pooled
    if found is None:
        raise ValueError("the model has no clusters to combine")
    return found


def known_gls(data: Data) -> Result:
    return combine_dependent(data.estimates, data.covariance)


def known_weights(data: Data) -> Result:
    return working_weights(data.estimates, data.covariance)


def draw_by_draw(data: Data, count: int) -> Result:
    return draw_wise(*data.drawn(count), "REML")


def drawn_gls(data: Data, count: int) -> Result:
    return combine_dependent(data.estimates, LowRank.from_draws(*data.drawn(count)))


def drawn_weights(data: Data, count: int) -> Result:
    return working_weights(data.estimates, LowRank.from_draws(*data.drawn(count)), test="t")


METHODS: dict[str, Callable[[Data], Result]] = {
    "independent, z": partial(independent, test="z"),
    "independent, Hartung-Knapp": partial(independent, test="knha"),
    "independent, CR2": by_chromosome,
    "known V, GLS": known_gls,
    "known V, working weights": known_weights,
    "draw-wise, T=40": partial(draw_by_draw, count=40),
    "draw-wise, T=100": partial(draw_by_draw, count=100),
    "V of 40 draws, GLS": partial(drawn_gls, count=40),
    "V of 40 draws, working weights": partial(drawn_weights, count=40),
}


def measure(design: Design, replicates: int) -> dict[str, dict[str, float]]:
    """Return the figures of every method on the same models."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in METHODS}
    seconds = dict.fromkeys(METHODS, 0.0)
    for replicate in range(replicates):
        data = simulate(np.random.default_rng([SEED, design.k, replicate]), design)
        for name, method in METHODS.items():
            start = time.process_time()
            found = method(data)
            seconds[name] += time.process_time() - start
            ends = ndtr((np.array([found.pi_low, found.pi_high]) - MEAN) / TAU)
            rows[name].append(
                (
                    found.estimate,
                    found.se,
                    found.ci_low,
                    found.ci_high,
                    found.tau2,
                    float(ends[1] - ends[0]),
                    # NaN, not False, where a method has no interval.
                    float(found.tau2_low <= TAU**2 <= found.tau2_high)
                    if np.isfinite(found.tau2_low)
                    else np.nan,
                )
            )
    return {
        name: summary(np.array(rows[name])) | {"ms": 1e3 * seconds[name] / replicates}
        for name in METHODS
    }


def summary(rows: Array) -> dict[str, float]:
    """Return the figures of a method; `rows` as in `measure`."""
    estimate, se, low, high, tau2, predicted, held = rows.T
    error = estimate - MEAN
    coverage = float(((low <= MEAN) & (high >= MEAN)).mean())
    count = len(rows)
    return {
        "coverage": coverage,
        "mc_error": float(np.sqrt(max(coverage * (1.0 - coverage), 0.25 / count) / count)),
        "bias": float(error.mean()),
        "rmse": float(np.sqrt((error * error).mean())),
        "sd": float(error.std()),
        "mean_se": float(se.mean()),
        "width": float(np.median(high - low)),
        "tau2": float(tau2.mean()),
        "predicted": float(predicted.mean()),
    } | ({} if np.isnan(held).any() else {"tau2_held": float(held.mean())})


def table(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    columns = (
        "coverage",
        "mc_error",
        "bias",
        "rmse",
        "mean_se",
        "width",
        "tau2",
        "predicted",
        "tau2_held",
        "ms",
    )
    lines = []
    for design, methods in result["designs"].items():
        lines.append(f"{design:<38}" + "".join(f"{name:>10}" for name in columns))
        for name, figures in methods.items():
            lines.append(
                f"  {name:<36}" + "".join(f"{figures.get(c, np.nan):>10.4f}" for c in columns)
            )
    return "\n".join(lines)


def claims(design: Design, figures: dict[str, dict[str, float]]) -> dict[str, bool]:
    """Return what is claimed of a design, and whether it is so, as far as one can see."""
    alone = figures["independent, z"]
    least = LEAST_FOLLOWING if design.follows else LEAST
    held = {"independent covers less than .6": alone["coverage"] < INDEPENDENT_MOST}
    for name in CLAIMED if design.follows else (*CLAIMED, "known V, GLS"):
        coverage, error = figures[name]["coverage"], figures[name]["mc_error"]
        held[f"{name} covers"] = least - 2 * error <= coverage <= MOST + 2 * error
    if design.follows:
        held["GLS does not cover"] = figures["known V, GLS"]["coverage"] < INDEPENDENT_MOST
    return held


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smaller problem, for tests")
    parser.add_argument("--replicates", type=int, help="models of a design")
    parser.add_argument("--designs", nargs="+", choices=list(DESIGNS), default=list(DESIGNS))
    arguments = parser.parse_args(argv)
    replicates = arguments.replicates or REPLICATES[arguments.quick]
    begun = time.process_time()
    result: dict[str, Any] = {"replicates": replicates, "designs": {}, "claims": {}}
    for name in arguments.designs:
        figures = measure(DESIGNS[name], replicates)
        result["designs"][name] = figures
        result["claims"][name] = claims(DESIGNS[name], figures)
    result["seconds"] = time.process_time() - begun
    result["holds"] = all(all(held.values()) for held in result["claims"].values())
    print(table(result))
    if arguments.json:
        print(json.dumps(result))
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
