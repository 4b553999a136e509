"""What calibration, its null bands and the intervals of uncertainty do where the truth is known.

    python -m benchmarks.calibration --json

*Calibrators.* True logits l come from a normal mixture, few of them high; a network says
1.6 l + 1.2, in draws that each add a constant of their own and noise (.5 a window). A map is fitted
on validation windows and judged on as many unseen windows by its expected NLL, over that of the
true probabilities (`excess`). Maps are fitted as in a run, a target alone: with fewer than 100
positives `platt` leans on the weak prior; `platt, no prior` does not. `known map` undoes
1.6 l + 1.2 exactly; what is left is the noise of the draws. `ece` is that of labels drawn for the
unseen windows, also with 1.6 l + 3, a shift that no temperature can mend; `truth` is that of the
true probabilities. `zero_effects` is the share of effects (Student's t with 2 degrees of freedom,
times .05 logit) that a map makes exactly 0, in any windows and in those of the high component.

*Null bands.* How often the 95 % band of each metric holds a perfectly calibrated model.

*Uncertainty.* Standard errors too small by 2, half of the variance of the errors in common to the
mutations of a sequence: how often 95 % intervals hold the truth, of the mean squared z (`zms`), of
the ratio of root mean squares (`ratio`), and of the mean squared z by the chi-squared distribution,
as if mutations were independent (`chi2`). `width` is that on the log scale, median.

The last line is one JSON object; it ends with 1 if one of its `claims` is false:

* `platt_reaches_the_oracle`: within 1 %, at 3.9 % positives in every data set, at .2 % and 100,000
  windows in the median;
* `temperature_cannot_mend_a_shift`: with 1.6 l + 3 its ECE is above that of doing nothing, and more
  than ten times Platt's;
* `only_isotonic_makes_effects_zero`, and it is refused for effects;
* `ece_band_holds`: its coverage is .95 within 2.6 Monte Carlo errors;
* `bootstrap_holds_and_chi2_does_not`: both bootstrap intervals .90-.98, chi-squared below .6.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from deepmr import schemas
from deepmr.calibration.fitting import fit, fit_targets
from deepmr.calibration.maps import (
    NAMES,
    Affine,
    Calibrator,
    Fitted,
    Identity,
    NotStrictlyIncreasingError,
    calibrated_draws,
    zero_effects,
)
from deepmr.calibration.metrics import metrics
from deepmr.calibration.null_band import null_bands
from deepmr.calibration.parameters import effect_calibrators, to_table
from deepmr.calibration.predicted import predicted
from deepmr.uncertainty.errors import Errors
from deepmr.uncertainty.scale import ratio_interval, zms_interval

Array = NDArray[np.float64]

SEED = 1
SLOPE, INTERCEPT, LARGE_INTERCEPT = 1.6, 1.2, 3.0
COMMON, RARE = 0.039, 0.002
BASE_LOGIT = {COMMON: -3.06, RARE: -7.21}
DRAWS, NOISE, OFFSET = 10, 0.5, 0.4
HIGH = 0.08
FEW, MANY = 20_000, 100_000
EFFECT, EFFECT_DF, REFERENCES, MUTATIONS = 0.05, 2, 200, 150
BINS = 10
NULL_WINDOWS, CHROMOSOMES = 2_000, 4
SCALE, SHARED, MUTATIONS_OF_A_SEQUENCE = 2.0, 0.5, 150
NEAR_ORACLE = 0.01
LEVEL, MC_ERRORS = 0.95, 2.6
LEAST, MOST, CHI2_MOST = 0.90, 0.98, 0.6


@dataclass(frozen=True)
class Size:
    """How much is simulated.

    Attributes
    ----------
    windows : tuple of int
        Validation windows.
    replicates : int
        Data sets for each number of windows and rate of positives.
    models, simulations : int
        Perfect models, and data sets behind the null band of each.
    sequences : tuple of int
        Sequences whose errors are known.
    intervals, bootstrap : int
        Data sets for each number of sequences, and bootstrap samples of each.
    """

    windows: tuple[int, ...]
    replicates: int
    models: int
    simulations: int
    sequences: tuple[int, ...]
    intervals: int
    bootstrap: int


SIZES = {
    False: Size((FEW, MANY), 20, 400, 200, (20, 100), 500, 1000),
    True: Size((FEW,), 2, 20, 39, (20,), 60, 300),
}


@dataclass(frozen=True, eq=False)
class Windows:
    """True logits (n,), which are of the high component (n,), labels (n,), logit draws (n, T)."""

    truth: Array
    high: NDArray[np.bool_]
    labels: Array
    draws: Array


def mixture(rng: np.random.Generator, n: int, rate: float) -> tuple[Array, NDArray[np.bool_]]:
    """Draw true logits, and tell which are of the high component."""
    high = rng.random(n) < HIGH
    truth = np.where(high, rng.normal(2.5, 1.5, n), rng.normal(-2.5, 1.2, n))
    return truth + BASE_LOGIT[rate], high


def simulate(
    rng: np.random.Generator, n: int, rate: float, intercept: float = INTERCEPT
) -> Windows:
    """Draw windows, their labels, and what a miscalibrated network says of them."""
    truth, high = mixture(rng, n, rate)
    labels = (rng.random(n) < expit(truth)).astype(np.float64)
    own = np.linspace(-OFFSET, OFFSET, DRAWS)  # a draw is one function, in all windows the same
    noise = rng.normal(0.0, NOISE, (n, DRAWS))
    return Windows(truth, high, labels, SLOPE * truth[:, None] + intercept + own + noise)


def expected_nll(truth: Array, draws: Array) -> float:
    """Return the mean NLL over all labels that the true probabilities may give."""
    p = predicted(draws)
    return -float(np.mean(expit(truth) * p.log_p + expit(-truth) * p.log_q))


def ece(labels: Array, draws: Array) -> float:
    """Return the calibration error of the pooled probabilities."""
    return metrics(labels, predicted(draws), BINS)["ece"]


def fitted_as_in_a_run(name: str, data: Windows) -> Fitted:
    """Return the map of the only target of a network, with the defaults of a run."""
    labels, draws = data.labels[:, None], data.draws[:, :, None]
    return fit_targets(name, labels, draws, ["A"], ["binary"])[0]


def share_of_zeros(
    rng: np.random.Generator, calibrator: Calibrator, data: Windows, among: NDArray[np.intp]
) -> float:
    """Return the share of effects made exactly 0 in windows drawn from some."""
    reference = data.draws[rng.choice(among, REFERENCES)].mean(axis=1)
    delta = EFFECT * rng.standard_t(EFFECT_DF, (REFERENCES, MUTATIONS))
    return zero_effects(calibrator, reference, delta)


def refused(fitted: Fitted, zeroed: float) -> bool:
    """Tell whether a run would refuse to apply the map to effects."""
    table = to_table([fitted], "network", {(fitted.target, fitted.name): zeroed})
    try:
        effect_calibrators(table, "network", fitted.name)
    except NotStrictlyIncreasingError:
        return True
    return False


def one_data_set(rate: float, n: int, replicate: int) -> dict[str, dict[str, float]]:
    """Return the figures of every map on one data set."""
    rng = np.random.default_rng([SEED, round(1000 * rate), n, replicate])
    seen, unseen = simulate(rng, n, rate), simulate(rng, n, rate)
    by_name = {name: fitted_as_in_a_run(name, seen) for name in NAMES}
    maps: dict[str, Calibrator] = {"none": Identity()}
    maps |= {name: fitted.calibrator for name, fitted in by_name.items()}
    maps["platt, no prior"] = (
        fit("platt", seen.labels, seen.draws) if by_name["platt"].shrinkage else maps["platt"]
    )
    maps["known map"] = Affine(1.0 / SLOPE, -INTERCEPT / SLOPE)
    oracle = expected_nll(unseen.truth, unseen.truth[:, None])
    zeros_seed = int(rng.integers(2**32))  # the same mutations for every map
    figures: dict[str, dict[str, float]] = {
        "truth": {"nll": oracle, "ece": ece(unseen.labels, unseen.truth[:, None])}
    }
    for name, calibrator in maps.items():
        draws = calibrated_draws(calibrator, unseen.draws)
        figures[name] = {
            "excess": expected_nll(unseen.truth, draws) / oracle - 1.0,
            "ece": ece(unseen.labels, draws),
        }
    for name, fitted in by_name.items():
        for column, among in (
            ("zero_effects", np.arange(n)),
            ("zero_effects_high", np.flatnonzero(unseen.high)),
        ):
            zeros = np.random.default_rng(zeros_seed)
            figures[name][column] = share_of_zeros(zeros, fitted.calibrator, unseen, among)
        figures[name]["refused"] = float(refused(fitted, figures[name]["zero_effects"]))
    return figures


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of every figure over data sets, and the worst excess."""
    figures = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    if "excess" in figures:
        figures["excess_worst"] = max(row["excess"] for row in rows)
    if "zero_effects" in figures:
        figures["zero_effects_most"] = max(
            max(row["zero_effects"], row["zero_effects_high"]) for row in rows
        )
        figures["refused"] = float(np.mean([row["refused"] for row in rows]))
    return figures


def calibrators(size: Size) -> list[dict[str, Any]]:
    """Judge every map at every rate of positives and number of windows."""
    settings = []
    for rate in BASE_LOGIT:
        for n in size.windows:
            rows = [one_data_set(rate, n, replicate) for replicate in range(size.replicates)]
            maps = {name: summary([row[name] for row in rows]) for name in rows[0]}
            settings.append({"rate": rate, "windows": n, "maps": maps})
    return settings


def shift(size: Size) -> dict[str, float]:
    """Return the median calibration error of maps after a shift that temperature cannot mend."""
    rows = []
    for replicate in range(size.replicates):
        rng = np.random.default_rng([SEED, 7, replicate])
        seen, unseen = (simulate(rng, FEW, COMMON, LARGE_INTERCEPT) for _ in range(2))
        maps: dict[str, Calibrator] = {"none": Identity()}
        maps |= {n: fit(n, seen.labels, seen.draws) for n in ("temperature", "platt")}
        row = {name: ece(unseen.labels, m(unseen.draws)) for name, m in maps.items()}
        rows.append(row | {"truth": ece(unseen.labels, unseen.truth[:, None])})
    return summary(rows)


def bands(size: Size) -> dict[str, float]:
    """Return how often the band of each metric holds a perfect model."""
    chromosomes = np.repeat([f"chr{i}" for i in range(CHROMOSOMES)], NULL_WINDOWS // CHROMOSOMES)
    held = dict.fromkeys(schemas.METRICS, 0)
    for model in range(size.models):
        rng = np.random.default_rng([SEED, 8, model])
        truth, _ = mixture(rng, NULL_WINDOWS, COMMON)
        labels = (rng.random(NULL_WINDOWS) < expit(truth)).astype(np.float64)
        prediction = predicted(truth[:, None])
        found = metrics(labels, prediction, BINS)
        limits = null_bands(prediction, chromosomes, BINS, size.simulations, rng, LEVEL)
        for name, (low, high) in limits.items():
            held[name] += low - 1e-12 <= found[name] <= high + 1e-12
    return {name: count / size.models for name, count in held.items()}


def shared_errors(rng: np.random.Generator, sequences: int) -> Errors:
    """Draw errors whose variance is half in common to the mutations of a sequence."""
    codes = np.repeat(np.arange(sequences), MUTATIONS_OF_A_SEQUENCE)
    se = np.exp(rng.standard_normal(codes.size))
    z = np.sqrt(SHARED) * rng.standard_normal(sequences)[codes]
    z += np.sqrt(1.0 - SHARED) * rng.standard_normal(codes.size)
    return Errors(SCALE * z * se, se, codes)


def intervals(size: Size) -> list[dict[str, Any]]:
    """Return how often each interval holds the truth, and how wide it is."""
    settings = []
    for sequences in size.sequences:
        covered: dict[str, list[bool]] = {"zms": [], "ratio": [], "chi2": []}
        width: dict[str, list[float]] = {name: [] for name in covered}
        for replicate in range(size.intervals):
            errors = shared_errors(
                np.random.default_rng([SEED, 9, sequences, replicate]), sequences
            )
            n = errors.error.size
            zms = zms_interval(errors, replicate, replicates=size.bootstrap)
            chi2 = n * zms[0] / stats.chi2.ppf([0.975, 0.025], n)
            ratio = ratio_interval(errors, replicate, replicates=size.bootstrap)
            for name, (low, high), true in (
                ("zms", zms[1:], SCALE**2),
                ("ratio", ratio[1:], SCALE),
                ("chi2", chi2, SCALE**2),
            ):
                covered[name].append(bool(low <= true <= high))
                width[name].append(float(np.log(high / low)))
        settings.append(
            {
                "sequences": sequences,
                "coverage": {name: float(np.mean(held)) for name, held in covered.items()},
                "width": {name: float(np.median(w)) for name, w in width.items()},
            }
        )
    return settings


def mc_error(coverage: float, count: int) -> float:
    """Return the Monte Carlo error of a coverage in so many data sets."""
    return float(np.sqrt(coverage * (1.0 - coverage) / count))


def claims(result: Mapping[str, Any], size: Size) -> dict[str, bool]:
    """Tell which claims hold."""
    near, only_isotonic = [], []
    for setting in result["calibrators"]:
        maps = setting["maps"]
        platt = maps["platt"]
        if setting["rate"] == COMMON:
            near.append(platt["excess_worst"] <= NEAR_ORACLE)
        elif setting["windows"] == MANY:
            near.append(platt["excess"] <= NEAR_ORACLE)
        for name in NAMES:
            steps = name == "isotonic"
            zero = maps[name]["zero_effects_most"] > 0
            only_isotonic.append(zero == steps and maps[name]["refused"] == float(steps))
    error = result["shift"]
    ece_coverage = result["null_bands"]["ece"]
    return {
        "platt_reaches_the_oracle": all(near),
        "temperature_cannot_mend_a_shift": (
            error["temperature"] > max(error["none"], 10 * error["platt"])
        ),
        "only_isotonic_makes_effects_zero": all(only_isotonic),
        "ece_band_holds": abs(ece_coverage - LEVEL) <= MC_ERRORS * mc_error(LEVEL, size.models),
        "bootstrap_holds_and_chi2_does_not": all(
            min(s["coverage"]["zms"], s["coverage"]["ratio"]) >= LEAST
            and max(s["coverage"]["zms"], s["coverage"]["ratio"]) <= MOST
            and s["coverage"]["chi2"] < CHI2_MOST
            for s in result["uncertainty"]
        ),
    }


def text(result: Mapping[str, Any]) -> str:
    """Return the figures as text."""
    lines = []
    columns = ("excess", "excess_worst", "ece", "zero_effects", "zero_effects_high")
    for setting in result["calibrators"]:
        title = f"{100 * setting['rate']:g} % positives, {setting['windows']:,} windows"
        lines.append(f"{title:<36}" + "".join(f"{name:>19}" for name in columns))
        for name, figures in setting["maps"].items():
            cells = (f"{figures[c]:.4f}" if c in figures else "" for c in columns)
            lines.append(f"  {name:<34}" + "".join(f"{cell:>19}" for cell in cells))
    for title, figures in (
        (f"ECE, {SLOPE} l + {LARGE_INTERCEPT:g}", result["shift"]),
        ("coverage of null bands", result["null_bands"]),
        *((f"coverage, {s['sequences']} sequences", s["coverage"]) for s in result["uncertainty"]),
        *((f"log width, {s['sequences']} sequences", s["width"]) for s in result["uncertainty"]),
        ("claims", result["claims"]),
    ):
        lines.append(title)
        lines += [f"  {name:<34}{value:>19.4g}" for name, value in figures.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a claim is false."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smaller problem, for tests")
    arguments = parser.parse_args(argv)
    size = SIZES[arguments.quick]
    begun = time.process_time()
    result: dict[str, Any] = {
        "replicates": size.replicates,
        "models": size.models,
        "intervals": size.intervals,
        "calibrators": calibrators(size),
        "shift": shift(size),
        "null_bands": bands(size),
        "uncertainty": intervals(size),
    }
    result["claims"] = claims(result, size)
    result["seconds"] = time.process_time() - begun
    print(json.dumps(result) if arguments.json else text(result))
    return 0 if all(result["claims"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
