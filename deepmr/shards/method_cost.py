"""What each estimator costs for one question: a sequence, a pair, a direction, with its draws.

CPU seconds are a + b * instruments * draws, from 271 and 90 instruments with 40 and 20 draws and
200 bootstrap replicates, `deepmr.mr.estimate` with one thread on a shared core; they are within a
factor of 2.5 of each of the three. Only the standard library is imported here.
"""

from __future__ import annotations

SECONDS: dict[str, tuple[float, float]] = {
    "ivw": (0.9e-3, 0.07e-6),
    "ivw_fixed": (0.9e-3, 0.07e-6),
    "ivw_delta": (0.9e-3, 0.08e-6),
    "egger": (0.9e-3, 0.07e-6),
    "egger_simex": (4e-3, 0.8e-6),
    "simple_median": (3e-3, 0.16e-6),
    "weighted_median": (3e-3, 0.15e-6),
    "penalized_weighted_median": (3e-3, 0.16e-6),
    "simple_mode": (4e-3, 1.0e-6),
    "weighted_mode": (4e-3, 1.0e-6),
    "max_likelihood": (2.3e-3, 0.08e-6),
    "profile": (14e-3, 0.2e-6),
    "egger_profile": (16e-3, 0.25e-6),
    "contamination_mixture": (1.5e-3, 0.7e-6),
    "divw": (0.8e-3, 0.17e-6),
    "raps": (4e-3, 1.6e-6),
    "mr_presso": (3e-3, 0.9e-6),
    "bayesian_mode": (0.1, 50e-6),
}
"""By estimator: seconds of a question, and of each of its instruments and draws."""

CONDITIONAL_SECONDS: dict[str, tuple[float, float]] = {
    "mv_ivw": (0.2e-3, 0.05e-6),
    "mv_egger": (0.2e-3, 0.05e-6),
}
"""The same of multivariable estimators, and of each instrument, draw and exposure: from 60 to 3000
instruments, 20 to 100 draws and 2 to 6 exposures, `deepmr.mr.conditional.estimate_conditional` with
one thread on a shared core; within a factor of 2 of each."""

JUDGING = ("contamination_mixture", "mr_presso", "bayesian_mode")
"""Estimators whose rows hold a number for each instrument."""


def method_seconds(method: str, instrument_draws: float) -> float:
    """Return the CPU seconds of a question with so many instruments times draws."""
    fixed, each = SECONDS[method]
    return fixed + each * instrument_draws


def conditional_seconds(method: str, values: float) -> float:
    """Return the CPU seconds of a question with so many instruments times draws times exposures."""
    fixed, each = CONDITIONAL_SECONDS[method]
    return fixed + each * values


def judged_instruments(methods: tuple[str, ...], instruments: float) -> float:
    """Return the instruments that a row holds a number for, on average over the methods."""
    return instruments * sum(method in JUDGING for method in methods) / len(methods)
