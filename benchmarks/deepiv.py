"""Error of Deep IV, and of what it is an alternative to, on the demand design.

    python -m benchmarks.deepiv --json

The design, in standardised units throughout, is in `benchmarks.demand_design`; `rho` says how much
the price is confounded.

Every error is the mean squared difference to the true structural function on 5,000 new contexts,
with prices on an even grid between the 2.5 and 97.5 percentiles of theirs. The methods see the same
rows: `deep_iv` (the same two draws of the price in both factors of the gradient),
`deep_iv_two_sample` (different draws), `naive` (the network of stage 2 on the observed price, with
its settings, epochs and early stopping), `two_stage` (linear 2SLS) and `polynomial` (two ridge
regressions on polynomials, degree and penalty chosen by cross-validation).

`claims` are about means over seeds. The last line is one JSON object; it ends with 1 if a claim is
false (not with --quick). Seconds of a method are of the processor, those of all of the clock, with
--workers processes of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.demand_design import Array, Demand, Predict, demand, standardised_error
from benchmarks.timing import cpu_seconds
from deepmr.deepiv.stages.fitting import Settings, split_held_out
from deepmr.deepiv.stages.naive import fit_naive
from deepmr.deepiv.stages.networks import Design
from deepmr.deepiv.stages.response import Response, fit_response
from deepmr.deepiv.stages.treatment import MixtureDensity, fit_treatment
from deepmr.deepiv.two_stage import polynomial_two_stage, two_stage_least_squares

Figures = dict[str, dict[str, float]]
Drawer = Callable[[torch.Tensor, int], torch.Tensor]
Gradient = Literal["one_sample", "two_sample"]

RHOS = (0.1, 0.5, 0.9)
BOTH_GRADIENTS = 0.5
"""The rho at which Deep IV is also fitted with two-sample gradients."""

COMPONENTS = 10
HIDDEN = (128, 64, 32)
LEARNING_RATE = 3e-3
DECAY_TREATMENT, DECAY_RESPONSE = 1e-4, 1e-3
HELD_OUT = 0.2
DRAWS = 2
"""Draws of the price a row and step of stage 2."""

DEEP_IV: dict[Gradient, str] = {
    "one_sample": "deep_iv",
    "two_sample": "deep_iv_two_sample",
}
"""What Deep IV with each gradient is called; the claims are about the first."""

MOST_ERROR = 0.27
MOST_ERROR_LARGE = 0.15
MOST_SPREAD = 1.25
LEAST_RATIO = {0.1: 1.5, 0.5: 2.0, 0.9: 3.0}
"""Error of the naive network over that of Deep IV, by rho."""


@dataclass(frozen=True)
class Budget:
    """Most epochs of each stage, the rows of a step, and the degrees of polynomials tried."""

    treatment: int
    response: int
    batch_size: int
    degrees: tuple[int, ...] = (1, 2, 3)


@dataclass(frozen=True)
class Sizes:
    """How many customers there are in a small and in a large sample, and what networks get."""

    small: int
    large: int
    seeds: tuple[int, ...]
    budget: Budget
    budget_large: Budget


@dataclass(frozen=True)
class Case:
    """One sample, and the gradients with which Deep IV is fitted to it."""

    n: int
    rho: float
    seed: int
    budget: Budget
    gradients: tuple[Gradient, ...] = ("one_sample",)


FULL = Sizes(1_000, 5_000, (1, 2, 3), Budget(400, 800, 100), Budget(150, 300, 200))
QUICK = Sizes(60, 120, (1,), Budget(2, 3, 20, (1,)), Budget(2, 2, 40, (1,)))


@dataclass(frozen=True, eq=False)
class Networks:
    """What every network is fitted with: a sample, its contexts and split, and how much work.

    Attributes
    ----------
    case : Case
        Which sample.
    data : Demand
        The sample.
    contexts : Tensor, shape (n, 8)
        Columns with mean 0 and SD 1.
    rows, held_out : ndarray of int
        Rows that are fitted, and those that say when to stop.
    """

    case: Case
    data: Demand
    contexts: torch.Tensor
    rows: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @classmethod
    def of(cls, case: Case, data: Demand) -> Networks:
        """Split the sample by its seed."""
        rows, held_out = split_held_out(case.n, HELD_OUT, case.seed)
        return cls(case, data, scaled(data.context, data.context), rows, held_out)

    def options(self, epochs: int, weight_decay: float) -> dict[str, Any]:
        """Return what the fits have in common; the dropout is that of the released code."""
        settings = Settings(
            epochs=epochs,
            batch_size=self.case.budget.batch_size,
            learning_rate=LEARNING_RATE,
            weight_decay=weight_decay,
        )
        dropout = min(1000 / (1000 + self.case.n), 0.5)
        return {
            "design": Design(self.contexts.shape[1], HIDDEN, dropout),
            "settings": settings,
            "rows": self.rows,
            "held_out": self.held_out,
            "seed": self.case.seed,
        }

    def drawer(self) -> Drawer:
        """Fit stage 1, and return what draws prices of rows from it."""
        treatment = fit_treatment(
            self.contexts,
            self.data.instrument,
            self.data.price,
            density=MixtureDensity(COMPONENTS),
            **self.options(self.case.budget.treatment, DECAY_TREATMENT),
        )
        return treatment.drawer(self.contexts, self.data.instrument)

    def deep_iv(self, drawer: Drawer, gradient: Gradient) -> Predict:
        """Fit stage 2."""
        response = fit_response(
            self.contexts,
            self.data.outcome,
            drawer,
            gradient=gradient,
            n_samples=DRAWS,
            **self.options(self.case.budget.response, DECAY_RESPONSE),
        )
        return self.predicted_by(response)

    def naive(self) -> Predict:
        """Fit the network of stage 2 on the observed price."""
        response = fit_naive(
            self.contexts,
            self.data.price,
            self.data.outcome,
            **self.options(self.case.budget.response, DECAY_RESPONSE),
        )
        return self.predicted_by(response)

    def predicted_by(self, response: Response) -> Predict:
        """Return the response as a function of prices and contexts as they are."""

        def predict(price: Array, context: Array) -> Array:
            contexts = scaled(context, self.data.context)
            return response.predict(price, contexts, np.arange(len(price)))

        return predict


def scaled(context: Array, training: Array) -> torch.Tensor:
    """Return contexts on the scale on which those of the training set have mean 0 and SD 1."""
    values = (context - training.mean(axis=0)) / training.std(axis=0)
    return torch.as_tensor(values, dtype=torch.float32)


def measured(case: Case) -> Figures:
    """Return every method's error on a sample, and its CPU seconds; Deep IV's of both stages."""
    data = demand(case.n, case.rho, case.seed)
    networks = Networks.of(case, data)
    columns = (data.outcome, data.price, data.instrument, data.context)
    with threadpool_limits(1):
        first_stage, drawer = cpu_seconds(networks.drawer)
        fits: dict[str, Callable[[], Predict]] = {
            DEEP_IV[gradient]: partial(networks.deep_iv, drawer, gradient)
            for gradient in case.gradients
        } | {
            "naive": networks.naive,
            "two_stage": lambda: two_stage_least_squares(*columns).predict,
            "polynomial": lambda: (
                polynomial_two_stage(*columns, degrees=case.budget.degrees, seed=case.seed).predict
            ),
        }
        errors, seconds = {}, {}
        for name, fit in fits.items():
            seconds[name], predict = cpu_seconds(fit)
            errors[name] = standardised_error(predict, case.rho, case.seed)
    for gradient in case.gradients:
        seconds[DEEP_IV[gradient]] += first_stage
    return {"errors": errors, "seconds": seconds}


def cases(sizes: Sizes) -> Iterator[Case]:
    """Yield every sample, the longest work first."""
    for rho in RHOS:
        for seed in sizes.seeds:
            yield Case(sizes.large, rho, seed, sizes.budget_large)
    for rho in RHOS:
        for seed in sizes.seeds:
            if rho == BOTH_GRADIENTS:
                yield Case(sizes.small, rho, seed, sizes.budget, ("one_sample", "two_sample"))
            else:
                yield Case(sizes.small, rho, seed, sizes.budget)


def everything(work: Sequence[Case], workers: int) -> Iterator[Figures]:
    """Measure one sample after the other; in this process if there is one worker."""
    if workers == 1:
        yield from map(measured, work)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield from pool.map(measured, work)


def designs(work: Sequence[Case], results: Sequence[Figures]) -> list[dict[str, Any]]:
    """Return the figures of each size and rho: errors by seed, their mean, mean seconds."""
    figures = []
    for n, rho in dict.fromkeys((case.n, case.rho) for case in work):
        found = [
            result
            for case, result in zip(work, results, strict=True)
            if (case.n, case.rho) == (n, rho)
        ]
        methods = {
            name: {
                "errors": [result["errors"][name] for result in found],
                "error": float(np.mean([result["errors"][name] for result in found])),
                "seconds": float(np.mean([result["seconds"][name] for result in found])),
            }
            for name in found[0]["errors"]
        }
        ratio = methods["naive"]["error"] / methods["deep_iv"]["error"]
        figures.append({"n": n, "rho": rho, "methods": methods, "naive_over_deep_iv": ratio})
    return figures


def claims(figures: Sequence[dict[str, Any]], small: int) -> dict[str, bool]:
    """Return what is claimed, and whether it is so."""
    held = {}
    errors = []
    for design in figures:
        n, rho, error = design["n"], design["rho"], design["methods"]["deep_iv"]["error"]
        most = MOST_ERROR if n == small else MOST_ERROR_LARGE
        held[f"n={n}, rho={rho}: error at most {most}"] = error <= most
        if n == small:
            errors.append(error)
            least = LEAST_RATIO[rho]
            held[f"n={n}, rho={rho}: naive at least {least} times worse"] = (
                design["naive_over_deep_iv"] >= least
            )
    spread = max(errors) / min(errors)
    held[f"n={small}: errors over rho within a factor of {MOST_SPREAD}"] = spread <= MOST_SPREAD
    return held


def text(result: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [f"{'n':>6}{'rho':>6}  {'method':<20}{'error':>9}{'seconds':>9}  by seed"]
    for design in result["designs"]:
        for name, figures in design["methods"].items():
            by_seed = " ".join(f"{error:.3f}" for error in figures["errors"])
            lines.append(
                f"{design['n']:>6}{design['rho']:>6}  {name:<20}"
                f"{figures['error']:>9.3f}{figures['seconds']:>9.1f}  {by_seed}"
            )
    lines += [f"{'holds' if so else 'FALSE':<7}{claim}" for claim, so in result["claims"].items()]
    return "\n".join([*lines, f"{result['seconds']:.0f} s, {result['workers']} workers"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a claim is false (not with --quick)."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="tiny data, for tests; no claims")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    arguments = parser.parse_args(argv)
    sizes = QUICK if arguments.quick else FULL
    work = list(cases(sizes))
    begun = time.perf_counter()
    results = []
    for case, result in zip(work, everything(work, arguments.workers), strict=True):
        results.append(result)
        errors = ", ".join(f"{name} {error:.3f}" for name, error in result["errors"].items())
        print(f"n={case.n}, rho={case.rho}, seed {case.seed}: {errors}", file=sys.stderr)
    figures = designs(work, results)
    summary = {
        "seconds": time.perf_counter() - begun,
        "workers": arguments.workers,
        "torch": torch.__version__,
        "sizes": asdict(sizes),
        "designs": figures,
        "claims": {} if arguments.quick else claims(figures, sizes.small),
        "load_average": os.getloadavg()[0],
    }
    print(text(summary))
    if arguments.json:
        print(json.dumps(summary))
    return 0 if all(summary["claims"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
