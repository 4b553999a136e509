r"""Metrics of predicted probabilities of one target.

All of them are functions of the distinct predictions, ascending, and of how many windows n_g and
how many positives k_g each has. So equal predictions count as one, and the order of the windows
cannot matter. The same functions serve the labels that were measured and the hundreds of label
sets of a null band (`deepmr.calibration.null_band`), for which a call of scikit-learn's AUROC and
average precision on every set would take most of the time.

- ``auroc``, ``auprc``: area under the ROC curve, ties counting one half; average precision.
- ``nll``: mean negative log-likelihood in nats. ``brier``: mean (p - y)^2.
- ``brier_miscalibration``, ``_discrimination``, ``_uncertainty``: CORP decomposition (Dimitriadis,
  Gneiting & Jordan, PNAS 2021;118:e2016191118). With S the Brier score, r the isotonic regression
  of the labels on the prediction and m the base rate: S(p) - S(r), S(m) - S(r) and S(m); so
  brier = miscalibration - discrimination + uncertainty.
- ``ece``: sum_b w_b |o_b - p_b| over equal-mass bins, where w_b is the share of the windows, o_b
  the frequency of positives and p_b the mean prediction (Naeini et al., AAAI 2015).
- ``ece_debiased``: sqrt(max(0, sum_b w_b [(o_b - p_b)^2 - o_b (1 - o_b)/(n_b - 1)])) over the same
  bins (Kumar, Liang & Ma, NeurIPS 2019). A bin of one window adds nothing: its error cannot be
  told from the scatter of its label.
- ``ks``: max_k |sum_{i <= k} (y_i - p_i)|/n in ascending order of p (Gupta et al., ICLR 2021),
  only where the prediction changes.
- ``cox_intercept``, ``cox_slope``: logistic regression of the label on the predicted logit (Cox,
  Biometrika 1958;45:562), both at once. None when a threshold separates the classes or all
  predictions are equal.
- ``o_over_e``: positives over the sum of p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from deepmr.calibration.affine import Likelihood, maximise
from deepmr.calibration.predicted import Array, Predicted
from deepmr.calibration.reliability import check_binary, check_bins, equal_mass_starts
from deepmr.schemas import METRICS


@dataclass(frozen=True, eq=False)
class Tally:
    """Windows and positives of each of m distinct predictions.

    Attributes
    ----------
    predicted : Predicted
        The m predictions, ascending by logit.
    windows, positives : ndarray of int64, shape (m,)
        Number of windows, at least 1, and of those with label 1.
    """

    predicted: Predicted
    windows: NDArray[np.int64]
    positives: NDArray[np.int64]


def metrics(labels: ArrayLike, predicted: Predicted, bins: int) -> dict[str, float]:
    """Return every metric of the predicted probabilities of one target.

    Parameters
    ----------
    labels : array_like, shape (n,)
        0 or 1, n >= 1.
    predicted : Predicted
        Of the same n windows.
    bins : int
        Number of equal-mass bins; equal predictions always share one.

    Returns
    -------
    dict
        The keys of ``schemas.METRICS``. NaN where a metric does not exist: with one class
        ``auroc``, ``auprc``, ``cox_intercept`` and ``cox_slope``.

    Raises
    ------
    ValueError
        On no window, on shapes that disagree, on labels other than 0 and 1, on fewer than one
        bin.
    """
    given = np.asarray(labels, dtype=np.float64)
    if given.ndim != 1 or given.shape != predicted.log_p.shape or given.size == 0:
        raise ValueError(
            f"labels have the shape {given.shape} and predictions {predicted.log_p.shape}: both "
            "must be (windows,), with one window at least"
        )
    check_binary(given, "labels")
    distinct, which = distinct_predictions(predicted)
    windows = np.bincount(which)
    positives = np.bincount(which, weights=given).astype(np.int64)
    return tally_metrics(Tally(distinct, windows, positives), bins)


def distinct_predictions(predicted: Predicted) -> tuple[Predicted, NDArray[np.intp]]:
    """Return the m distinct predictions, ascending, and which of them each window has."""
    logit, which = np.unique(predicted.logit, return_inverse=True)
    return Predicted(-np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)), which


def tally_metrics(tally: Tally, bins: int) -> dict[str, float]:
    """Return what `metrics` does, from the windows and positives of each distinct prediction."""
    check_bins(bins)
    log_p, log_q = tally.predicted.log_p, tally.predicted.log_q
    p, q = np.exp(log_p), np.exp(log_q)
    windows, positives = tally.windows, tally.positives
    negatives = windows - positives
    n, n_positive = int(windows.sum()), int(positives.sum())
    expected = windows * p
    total = float(expected.sum())
    brier = float((positives * q**2 + negatives * p**2).sum()) / n
    excess = positives - expected
    values = {
        "auroc": _auroc(positives, negatives),
        "auprc": _average_precision(positives, windows),
        "nll": -float((positives * log_p + negatives * log_q).sum()) / n,
        "brier": brier,
        **_corp(brier, positives, windows),
        **_binned(excess, positives, windows, bins),
        "ks": float(np.abs(np.cumsum(excess)).max()) / n,
        **_cox(tally.predicted.logit, positives, negatives),
        "o_over_e": n_positive / total if total > 0 else np.nan,
    }
    return {name: float(values[name]) for name in METRICS}


def _auroc(positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> float:
    pairs = float(positives.sum()) * float(negatives.sum())
    below = np.cumsum(negatives) - 0.5 * negatives
    return float((positives * below).sum()) / pairs if pairs else np.nan


def _average_precision(positives: NDArray[np.int64], windows: NDArray[np.int64]) -> float:
    """Mean over positives of the precision at a threshold that just includes them."""
    n_positive = positives.sum()
    if n_positive in (0, windows.sum()):
        return np.nan
    precision = np.cumsum(positives[::-1]) / np.cumsum(windows[::-1])
    return float((positives[::-1] * precision).sum()) / float(n_positive)


def _corp(
    brier: float, positives: NDArray[np.int64], windows: NDArray[np.int64]
) -> dict[str, float]:
    n = windows.sum()
    isotonic = isotonic_regression(positives / windows, weights=windows).x
    wrong = positives * (1 - isotonic) ** 2 + (windows - positives) * isotonic**2
    calibrated = float(wrong.sum()) / n
    rate = positives.sum() / n
    base = float(rate * (1 - rate))
    return {
        "brier_miscalibration": brier - calibrated,
        "brier_discrimination": base - calibrated,
        "brier_uncertainty": base,
    }


def _binned(
    excess: NDArray[Any], positives: NDArray[np.int64], windows: NDArray[np.int64], bins: int
) -> dict[str, float]:
    starts = equal_mass_starts(windows, bins)
    n = np.add.reduceat(windows, starts)
    distance = np.add.reduceat(excess, starts) / n
    observed = np.add.reduceat(positives, starts) / n
    weight = n / n.sum()
    variance = observed * (1 - observed) / np.maximum(n - 1, 1)
    squared = np.where(n > 1, distance**2 - variance, 0.0)
    return {
        "ece": float((weight * np.abs(distance)).sum()),
        "ece_debiased": float(np.sqrt(max(0.0, (weight * squared).sum()))),
    }


def _cox(
    logit: Array, positives: NDArray[np.int64], negatives: NDArray[np.int64]
) -> dict[str, float]:
    up, down = np.flatnonzero(positives), np.flatnonzero(negatives)
    # A threshold that separates the classes, up to ties at itself, drives the slope to infinity.
    if not (up.size and down.size and up[0] < down[-1] and down[0] < up[-1]):
        return {"cox_intercept": np.nan, "cox_slope": np.nan}
    log_odds = np.log(positives.sum() / negatives.sum())
    likelihood = _cox_likelihood(logit, positives, negatives)
    slope, intercept = maximise(likelihood, np.array([0.0, log_odds])).parameters
    return {"cox_intercept": intercept, "cox_slope": slope}


def _cox_likelihood(
    logit: Array, positives: NDArray[np.int64], negatives: NDArray[np.int64]
) -> Likelihood:
    """Return the likelihood of sigmoid(slope logit + intercept), for labels that are tallied.

    `deepmr.calibration.affine.fit_affine` takes the windows one by one, which is several times
    slower where hundreds of label sets are fitted.
    """
    windows = positives + negatives

    def evaluate(parameters: Array) -> tuple[float, Array, Array]:
        slope, intercept = parameters
        z = slope * logit + intercept
        small = np.exp(-np.abs(z))
        value = positives * z - windows * (np.maximum(z, 0.0) + np.log1p(small))
        excess = positives - windows * np.where(z > 0, 1.0, small) / (1.0 + small)
        weight = windows * small / (1.0 + small) ** 2
        cross = (weight * logit).sum()
        information = np.array([[(weight * logit**2).sum(), cross], [cross, weight.sum()]])
        return float(value.sum()), np.array([(excess * logit).sum(), excess.sum()]), information

    return evaluate
