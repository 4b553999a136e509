"""Null bands: where the metrics of a perfectly calibrated model lie.

A data set under the null is made in two steps. Whole chromosomes are drawn with replacement, as
many as there are (a cluster bootstrap: windows of a chromosome stay together). Then the label of
every window is drawn from its own predicted probability, independently also where a window is
there twice. A band runs between two quantiles of the metric over such data sets, so a perfectly
calibrated model lies inside as often as its level says.

It is assumed that labels are independent given the prediction. Labels of overlapping or
neighbouring windows are not, and then the bands are too narrow. With a single chromosome only the
labels are drawn anew.

Where a metric hardly depends on which windows are judged, the band holds a perfect model about as
often as its level says. NLL, Brier score and its uncertainty follow the base rate; for them the
drawing of chromosomes adds a scatter that the metric of the given windows does not have around the
middle of the band, and the band is on the wide side. In 400 simulated perfect models (2,000
windows, 3.9 % positives, 4 chromosomes) bands of 95 % held .95 (ECE, Cox slope), .96 (AUROC,
AUPRC, Cox intercept), .97 (KS, O/E, debiased ECE) and .98 (NLL, Brier score).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepmr import schemas
from deepmr.calibration.metrics import Tally, distinct_predictions, tally_metrics
from deepmr.calibration.predicted import Array, Predicted


def null_bands(
    predicted: Predicted,
    chromosomes: Sequence[str | None] | NDArray[Any] | None,
    bins: int,
    simulations: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return the band of every metric of a model that is perfectly calibrated.

    Parameters
    ----------
    predicted : Predicted
        Of n windows, n >= 1.
    chromosomes : sequence of str, length n, or None
        Chromosome of each window. Those without one (None, NaN) count as one chromosome; None
        for all of them.
    bins : int
        Number of equal-mass bins.
    simulations : int
        Number of data sets drawn.
    rng : numpy.random.Generator
        The result depends on its state, not on the order of the windows.
    level : float
        Probability inside a band; the rest is split evenly.

    Returns
    -------
    dict of (float, float)
        Keys as in ``schemas.METRICS``. Over the data sets in which the metric exists; NaN where
        there is none.

    Raises
    ------
    ValueError
        If there is another number of chromosomes than of windows, fewer than one bin or
        data set, or no window.
    """
    if simulations < 1:
        raise ValueError(f"{simulations} simulations: a null band takes at least 1")
    if predicted.log_p.size == 0:
        raise ValueError("there is no window to draw labels for")
    chromosome, count = chromosome_numbers(chromosomes, predicted.log_p.size)
    distinct, which = distinct_predictions(predicted)
    by_prediction = np.argsort(which, kind="stable")
    chromosome = chromosome[by_prediction]
    starts = np.searchsorted(which[by_prediction], np.arange(distinct.log_p.size))
    drawn = [
        _metrics_of_one(distinct, chromosome, count, starts, bins, rng) for _ in range(simulations)
    ]
    tail = (1 - level) / 2
    return {
        name: _band(np.array([values[name] for values in drawn]), tail) for name in schemas.METRICS
    }


def chromosome_numbers(
    chromosomes: Sequence[str | None] | NDArray[Any] | None, n: int
) -> tuple[NDArray[np.intp], int]:
    """Return the number of each window's chromosome, counted from 0, and how many there are.

    Numbers follow the alphabet; windows without a chromosome come last.

    Raises
    ------
    ValueError
        If `chromosomes` has another length than `n`.
    """
    if chromosomes is None:
        return np.zeros(n, dtype=np.intp), min(n, 1)
    if len(chromosomes) != n:
        raise ValueError(
            f"{len(chromosomes)} chromosomes for {n} windows: give one a window, or None"
        )
    given = pd.Series(np.asarray(chromosomes, dtype=object))
    number, names = pd.factorize(given, sort=True)
    missing = number < 0
    number[missing] = len(names)
    return number.astype(np.intp), len(names) + bool(missing.any())


def _metrics_of_one(
    distinct: Predicted,
    chromosome: NDArray[np.intp],
    count: int,
    starts: NDArray[np.intp],
    bins: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return the metrics of one data set under the null.

    `chromosome` (n,) is in ascending order of the prediction, and each of the `distinct`
    predictions starts at one of `starts`. What drawn windows of equal prediction contribute is
    the number of them that are positive, which is binomial; nothing needs to be sorted again.
    """
    if count == 1:
        times = np.ones(chromosome.size, dtype=np.int64)
    else:
        times = np.bincount(rng.integers(count, size=count), minlength=count)[chromosome]
    windows = np.add.reduceat(times, starts)
    there = np.flatnonzero(windows)
    kept, windows = distinct.take(there), windows[there]
    return tally_metrics(Tally(kept, windows, rng.binomial(windows, kept.p)), bins)


def _band(values: Array, tail: float) -> tuple[float, float]:
    exists = values[~np.isnan(values)]
    if not exists.size:
        return np.nan, np.nan
    # Weibull's positions k/(simulations + 1): another data set under the null lies outside with
    # exactly that probability, however few were drawn.
    low, high = np.quantile(exists, [tail, 1 - tail], method="weibull")
    return float(low), float(high)
