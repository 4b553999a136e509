"""Bins of predicted probabilities, and the points of a reliability diagram.

The band of a bin is a consistency band (Bröcker & Smith, Weather Forecast 2007;22:651): where the
observed frequency lies when every label is drawn from its own predicted probability.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from deepmr.calibration.predicted import Array

Binning = Literal["equal_mass", "equal_width"]


def reliability(
    labels: ArrayLike,
    probabilities: ArrayLike,
    bins: int = 10,
    binning: Binning = "equal_mass",
    seed: int = 0,
    simulations: int = 500,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return the points of a reliability diagram with a consistency band per bin.

    Parameters
    ----------
    labels : array_like, shape (n,)
        0, 1, or NaN where not measured (left out).
    probabilities : array_like, shape (n,)
        Predicted probabilities.
    bins : int
        Number of bins. Equal predictions always share a bin, so there may be fewer.
    binning : {"equal_mass", "equal_width"}
        Bins of equally many windows, or of equal width on the probability scale.
    seed, simulations, level
        Seed, number of label sets and probability of the consistency band. The labels are
        independent given the prediction; with overlapping windows the band is too narrow.

    Returns
    -------
    DataFrame
        One row per bin with a window in it: ``n``, ``predicted`` (mean probability),
        ``observed`` (frequency of label 1), ``band_low``, ``band_high``.

    Raises
    ------
    ValueError
        On an unknown binning, fewer than one bin, labels other than 0 and 1, or probabilities
        outside [0, 1].
    """
    given = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if given.ndim != 1 or given.shape != p.shape:
        raise ValueError(
            f"labels have the shape {given.shape} and probabilities {p.shape}: "
            "both must be (windows,)"
        )
    if binning not in get_args(Binning):
        raise ValueError(
            f"unknown binning {binning!r}; write one of {', '.join(get_args(Binning))}"
        )
    check_bins(bins)
    measured = ~np.isnan(given)
    given, p = given[measured], p[measured]
    check_binary(given, "labels")
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError("probabilities must lie in [0, 1]; were logits given?")
    columns = ("n", "predicted", "observed", "band_low", "band_high")
    if p.size == 0:
        return pd.DataFrame({name: np.empty(0) for name in columns}).astype({"n": np.int64})
    values, which, counts = np.unique(p, return_inverse=True, return_counts=True)
    if binning == "equal_mass":
        starts = equal_mass_starts(counts, bins)
    else:
        starts = _equal_width_starts(values, bins)
    n = np.add.reduceat(counts, starts)
    ascending, first_window = np.repeat(values, counts), np.cumsum(n) - n
    rng = np.random.default_rng([seed])
    drawn = np.empty((simulations, starts.size))
    for row in drawn:  # one label set at a time: n may be millions of windows
        positive = (rng.random(p.size) < ascending).astype(np.float64)
        row[:] = np.add.reduceat(positive, first_window) / n
    tail = (1 - level) / 2
    # Weibull's positions k/(simulations + 1): a bin of another label set lies outside that often
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0, method="weibull")
    positives = np.bincount(which, weights=given, minlength=values.size)
    return pd.DataFrame(
        {
            "n": n,
            "predicted": np.add.reduceat(counts * values, starts) / n,
            "observed": np.add.reduceat(positives, starts) / n,
            "band_low": low,
            "band_high": high,
        }
    )


def equal_mass_starts(counts: NDArray[np.int64], bins: int) -> NDArray[np.intp]:
    """Return the distinct predictions at which bins of about equally many windows start.

    Parameters
    ----------
    counts : ndarray of int, shape (m,)
        Windows of each distinct prediction, in ascending order of the prediction, at least 1.
    bins : int
        Number of bins.

    Returns
    -------
    ndarray of int, shape (bins or fewer,)
        Ascending, the first is 0. Bin b holds the predictions from ``starts[b]`` up to
        ``starts[b + 1]``. Window number ``b n // bins`` opens bin b; if it shares its
        prediction with earlier windows, so do they, and bins that open at the same prediction
        are one bin.
    """
    first_window = np.cumsum(counts) - counts
    n = int(counts.sum())
    opens = np.arange(bins) * n // bins
    return np.unique(np.searchsorted(first_window, opens, side="right") - 1)


def check_bins(bins: int) -> None:
    """Raise a ValueError unless there is at least one bin."""
    if bins < 1:
        raise ValueError(f"{bins} bins: there must be at least 1")


def check_binary(labels: Array, what: str) -> None:
    """Raise a ValueError that begins with `what` unless every label is 0 or 1."""
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise ValueError(f"{what} must be 0 or 1 (or NaN, not measured); found {wrong[0]:g}")


def _equal_width_starts(values: Array, bins: int) -> NDArray[np.intp]:
    starts = np.searchsorted(values, np.arange(bins) / bins, side="left")
    return np.unique(starts[starts < values.size])
