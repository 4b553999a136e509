"""How well the predicted probabilities are learned and calibrated, target by target.

The metrics judge; no calibrator is fitted here. Every band is a null band: a perfectly calibrated
model lies inside it (`deepmr.calibration.null_band`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args
from zlib import crc32

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from deepmr import schemas
from deepmr.calibration.metrics import metrics
from deepmr.calibration.null_band import chromosome_numbers, null_bands
from deepmr.calibration.predicted import Array, predicted
from deepmr.calibration.reliability import check_binary

Kind = Literal["binary", "count", "continuous"]
Chromosomes = Sequence[str | None] | NDArray[Any] | None


def evaluate(
    labels: ArrayLike,
    draws: ArrayLike,
    kind: str,
    chromosomes: Chromosomes,
    *,
    bins: int,
    simulations: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Judge the predictions of one target.

    Parameters
    ----------
    labels : array_like, shape (n,)
        Labels; NaN where not measured (left out).
    draws : array_like, shape (n, T)
        Draws of the logit, or of the log rate of counts; T = 1 for a network without draws.
    kind : str
        "binary", "count" or "continuous".
    chromosomes : sequence of str, length n, or None
        Chromosome of each window; None in it counts as one chromosome, None for all as well.
    bins : int
        Number of equal-mass bins.
    simulations : int
        Number of data sets drawn for the null bands.
    rng : numpy.random.Generator
        For the null bands.

    Returns
    -------
    dict
        ``n`` and ``n_positive`` (labels above zero) of the measured windows,
        ``n_chromosomes``, every metric of ``schemas.METRICS`` with ``_null_low`` and
        ``_null_high``, and ``status``: "ok", "no_labels", "one_class" (no AUROC, no AUPRC, no Cox
        regression), "count_target" (only ``nll``, Poisson, and ``o_over_e``, without bands) or
        "continuous_target" (no metric).

    Raises
    ------
    ValueError
        On shapes that disagree, on an output of a measured window that is not finite, on a
        binary label other than 0 and 1, on a negative count, on an unknown kind.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind {kind!r}; write one of {', '.join(get_args(Kind))}")
    given = np.asarray(labels, dtype=np.float64)
    outputs = np.asarray(draws)
    if given.ndim != 1 or outputs.ndim != 2 or len(outputs) != given.size:
        raise ValueError(
            f"labels have the shape {given.shape} and draws {outputs.shape}: they must be "
            "(windows,) and (windows, draws)"
        )
    chromosome, _ = chromosome_numbers(chromosomes, given.size)
    measured = np.flatnonzero(~np.isnan(given))
    given, outputs, chromosome = given[measured], outputs[measured], chromosome[measured]
    outputs = outputs.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {given.size} measured windows have an output that is not finite "
            f"(the first is window {measured[bad[0]]})"
        )
    row: dict[str, Any] = {
        "n": int(given.size),
        "n_positive": int((given > 0).sum()),
        "n_chromosomes": int(np.unique(chromosome).size),
    }
    for name in schemas.METRICS:
        row |= {name: np.nan, f"{name}_null_low": np.nan, f"{name}_null_high": np.nan}
    if given.size == 0:
        return row | {"status": "no_labels"}
    if kind == "continuous":
        return row | {"status": "continuous_target"}
    if kind == "count":
        return row | _poisson(given, outputs) | {"status": "count_target"}
    check_binary(given, "labels")
    probability = predicted(outputs)
    row |= metrics(given, probability, bins)
    for name, (low, high) in null_bands(probability, chromosome, bins, simulations, rng).items():
        row |= {f"{name}_null_low": low, f"{name}_null_high": high}
    return row | {"status": "ok" if given.min() < given.max() else "one_class"}


def report(
    labels: ArrayLike,
    logits: ArrayLike,
    draws: ArrayLike | None = None,
    targets: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    *,
    chromosomes: Chromosomes = None,
    seed: int = 0,
    bins: int = 10,
    simulations: int = 200,
    model: str = "",
    split: str = "test",
    calibrator: str = "none",
) -> pd.DataFrame:
    """Return one row of calibration metrics per target.

    Parameters
    ----------
    labels : array_like, shape (n, K)
        Labels; NaN where a target was not measured.
    logits : array_like, shape (n, K)
        Outputs of the eval-mode network on the link scale.
    draws : array_like, shape (n, T, K), optional
        Draws of the same outputs; when given, the prediction is the mean over draws on the
        probability (or rate) scale.
    targets : sequence of str, optional
        K names; "target0", "target1", ... when left out.
    kinds : sequence of str, optional
        K of "binary", "count" (log rates) or "continuous"; all binary when left out.
    chromosomes : sequence of str, length n, optional
        Chromosome of each window, drawn with replacement for the null bands.
    seed : int
        Seed of the null bands. A target's bands depend on the seed and its name only, not on the
        other targets nor on the order of the rows.
    bins : int
        Number of equal-mass bins.
    simulations : int
        Number of data sets drawn for the null bands.
    model, split, calibrator : str
        Written into the columns of these names.

    Returns
    -------
    DataFrame
        Columns as in ``schemas.CALIBRATION``; see `evaluate`.

    Raises
    ------
    ValueError
        As `evaluate`, with the target named.
    """
    labels = np.asarray(labels, dtype=np.float64)
    logits = np.asarray(logits)
    if labels.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"labels have the shape {labels.shape} and logits {logits.shape}: "
            "both must be (windows, targets)"
        )
    n, n_targets = labels.shape
    outputs = logits[:, None, :] if draws is None else np.asarray(draws)
    if outputs.ndim != 3 or (outputs.shape[0], outputs.shape[2]) != labels.shape:
        raise ValueError(
            f"draws have the shape {outputs.shape}: they must be (windows, draws, targets) "
            f"with {n} windows and {n_targets} targets"
        )
    names = [f"target{i}" for i in range(n_targets)] if targets is None else list(targets)
    types = ["binary"] * n_targets if kinds is None else list(kinds)
    for what, entries in (("targets", names), ("kinds", types)):
        if len(entries) != n_targets:
            raise ValueError(f"{what} has {len(entries)} entries for {n_targets} columns of labels")
    rows = []
    for column, (target, kind) in enumerate(zip(names, types, strict=True)):
        try:
            row = evaluate(
                labels[:, column],
                outputs[:, :, column],
                kind,
                chromosomes,
                bins=bins,
                simulations=simulations,
                rng=target_rng(seed, target),
            )
        except ValueError as error:
            raise ValueError(f"target {target}: {error}") from None
        rows.append(
            {"model": model, "target": target, "calibrator": calibrator, "split": split} | row
        )
    return pd.DataFrame(rows, columns=schemas.CALIBRATION.names)


def target_rng(seed: int, target: str) -> np.random.Generator:
    """Return the random numbers of a target: they do not depend on the other targets."""
    return np.random.default_rng([seed, crc32(target.encode())])


def _poisson(counts: Array, log_rates: Array) -> dict[str, float]:
    """Mean negative log-likelihood in nats, and observed over expected, of counts."""
    if counts.min() < 0:
        raise ValueError(f"a count of {counts.min():g}; counts are >= 0")
    rate = np.exp(log_rates).mean(axis=1)
    nll = rate - counts * np.log(rate) + gammaln(counts + 1)
    return {"nll": float(nll.mean()), "o_over_e": float(counts.sum() / rate.sum())}
