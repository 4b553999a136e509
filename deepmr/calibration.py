"""How well the predicted probabilities are learned and calibrated, target by target.

The metrics judge; no calibrator is fitted here. Every band is a *null* band: labels are drawn
again from the predicted probabilities themselves, so that a perfectly calibrated model lies
inside it as often as the band says.
"""

from collections.abc import Sequence
from typing import Literal, get_args
from zlib import crc32

import numpy as np
import pandas as pd
from scipy.special import expit, gammaln, logsumexp
from sklearn.metrics import average_precision_score, roc_auc_score

Binning = Literal["equal_mass", "equal_width"]
Kind = Literal["binary", "count", "continuous"]

COLUMNS = (
    "model",
    "target",
    "calibrator",
    "split",
    "n",
    "n_positive",
    "auroc",
    "auprc",
    "nll",
    "brier",
    "ece",
    "o_over_e",
    "ece_null_low",
    "ece_null_high",
    "status",
)


def probabilities(logits: np.ndarray, draws: np.ndarray | None = None) -> np.ndarray:
    """Return the predicted probabilities: the mean over draws of sigmoid(logit).

    Parameters
    ----------
    logits : ndarray, shape (n, ...)
        Logits of the deterministic (eval-mode) network; used when there are no draws.
    draws : ndarray, shape (n, T, ...), optional
        Logit draws. The sigmoid is applied within a draw, before the mean, because the mean of
        a nonlinear function is not the function of the mean.

    Returns
    -------
    ndarray, shape (n, ...)
        Probabilities in float64.
    """
    if draws is None:
        return expit(np.asarray(logits, dtype=np.float64))
    return expit(np.asarray(draws, dtype=np.float64)).mean(axis=1)


def report(
    labels: np.ndarray,
    logits: np.ndarray,
    draws: np.ndarray | None = None,
    targets: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    *,
    seed: int = 0,
    bins: int = 15,
    simulations: int = 200,
    model: str = "",
    split: str = "test",
    calibrator: str = "none",
) -> pd.DataFrame:
    """Return one row of calibration metrics per target.

    Parameters
    ----------
    labels : ndarray, shape (n, K)
        Labels; NaN where a target was not measured.
    logits : ndarray, shape (n, K)
        Outputs of the eval-mode network on the link scale.
    draws : ndarray, shape (n, T, K), optional
        Draws of the same outputs; when given, the prediction is the mean over draws on the
        probability (or rate) scale.
    targets : sequence of str, optional
        K names; "target0", "target1", ... when left out.
    kinds : sequence of str, optional
        K of "binary", "count" (log rates) or "continuous"; all binary when left out.
    seed : int
        Seed of the null band. A target's band depends on the seed and its name only, not on the
        other targets nor on the order of the rows.
    bins : int
        Number of equal-mass bins of the ECE.
    simulations : int
        Number of label sets drawn for the null band.
    model, split, calibrator : str
        Written into the columns of these names.

    Returns
    -------
    DataFrame
        Columns as in ``calibration.parquet``. ``ece`` is the expected calibration error over
        equal-mass bins (Naeini et al. 2015), ``ece_null_low`` and ``ece_null_high`` its central
        95 % band when the model is perfectly calibrated; ``o_over_e`` is the number observed
        over the number expected; ``nll`` in nats per window. ``status`` is "ok", "no_labels",
        "one_class" (no AUROC, no AUPRC), "count_target" (only ``nll``, Poisson, and ``o_over_e``)
        or "continuous_target" (no metric). ``n_positive`` counts the labels above zero.

    Raises
    ------
    ValueError
        On shapes that disagree, on a logit that is not finite, on a binary label other than 0
        and 1, on a negative count, on an unknown kind.
    """
    labels = np.asarray(labels, dtype=np.float64)
    logits = np.asarray(logits, dtype=np.float64)
    if labels.ndim != 2 or labels.shape != logits.shape:
        raise ValueError(
            f"labels have the shape {labels.shape} and logits {logits.shape}: "
            "both must be (windows, targets)"
        )
    n, n_targets = labels.shape
    if draws is not None and (
        np.ndim(draws) != 3 or (draws.shape[0], draws.shape[2]) != labels.shape
    ):
        raise ValueError(
            f"draws have the shape {np.shape(draws)}: they must be (windows, draws, targets) "
            f"with {n} windows and {n_targets} targets"
        )
    names = [f"target{i}" for i in range(n_targets)] if targets is None else list(targets)
    types = ["binary"] * n_targets if kinds is None else list(kinds)
    for what, given in (("targets", names), ("kinds", types)):
        if len(given) != n_targets:
            raise ValueError(f"{what} has {len(given)} entries for {n_targets} columns of labels")
    rows = []
    for column, (target, kind) in enumerate(zip(names, types, strict=True)):
        if kind not in get_args(Kind):
            raise ValueError(
                f"target {target}: unknown kind {kind!r}; write one of {', '.join(get_args(Kind))}"
            )
        measured = ~np.isnan(labels[:, column])
        outputs = logits[:, None, column] if draws is None else np.asarray(draws)[:, :, column]
        row = _metrics(
            target,
            kind,
            labels[measured, column],
            np.asarray(outputs[measured], dtype=np.float64),
            bins,
            simulations,
            np.random.default_rng([seed, crc32(target.encode())]),
        )
        rows.append(
            {"model": model, "target": target, "calibrator": calibrator, "split": split} | row
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def reliability(
    labels: np.ndarray,
    probabilities: np.ndarray,
    bins: int = 15,
    binning: Binning = "equal_mass",
    seed: int = 0,
    simulations: int = 500,
    level: float = 0.95,
) -> pd.DataFrame:
    """Return the points of a reliability diagram with a consistency band per bin.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        0, 1, or NaN where not measured (left out).
    probabilities : ndarray, shape (n,)
        Predicted probabilities.
    bins : int
        Number of bins. Equal predictions always share a bin, so there may be fewer.
    binning : {"equal_mass", "equal_width"}
        Bins of equally many windows, or of equal width on the probability scale.
    seed, simulations, level
        Seed, number of label sets and probability of the consistency band (Bröcker & Smith
        2007): where the observed frequency of a bin lies when labels are drawn from the
        predicted probabilities.

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
    labels = np.asarray(labels, dtype=np.float64)
    p = np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != p.shape:
        raise ValueError(
            f"labels have the shape {labels.shape} and probabilities {p.shape}: "
            "both must be (windows,)"
        )
    measured = ~np.isnan(labels)
    labels, p = labels[measured], p[measured]
    _check_binary(labels, "labels")
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError("probabilities must lie in [0, 1]; were logits given?")
    order = np.argsort(p, kind="stable")
    labels, p = labels[order], p[order]
    starts = _bin_starts(p, bins, binning)
    counts = np.diff(np.append(starts, p.size))
    columns = ("n", "predicted", "observed", "band_low", "band_high")
    if p.size == 0:
        return pd.DataFrame({name: np.empty(0) for name in columns}).astype({"n": np.int64})
    simulated = _simulated_frequencies(p, starts, simulations, np.random.default_rng([seed]))
    tail = (1 - level) / 2
    low, high = np.quantile(simulated, [tail, 1 - tail], axis=0)
    return pd.DataFrame(
        {
            "n": counts,
            "predicted": np.add.reduceat(p, starts) / counts,
            "observed": np.add.reduceat(labels, starts) / counts,
            "band_low": low,
            "band_high": high,
        }
    )


def _metrics(
    target: str,
    kind: str,
    labels: np.ndarray,
    outputs: np.ndarray,
    bins: int,
    simulations: int,
    rng: np.random.Generator,
) -> dict[str, object]:
    """Return the metrics of one target; `outputs` (n, T) on the link scale."""
    row: dict[str, object] = dict.fromkeys(COLUMNS[6:-1], np.nan)
    row |= {"n": int(labels.size), "n_positive": int((labels > 0).sum())}
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if bad.size:
        raise ValueError(
            f"target {target}: {bad.size} of {labels.size} measured windows have an output that "
            f"is not finite (the first is measured window {bad[0]})"
        )
    if labels.size == 0:
        return row | {"status": "no_labels"}
    if kind == "continuous":
        return row | {"status": "continuous_target"}
    if kind == "count":
        if labels.min() < 0:
            raise ValueError(f"target {target}: a count of {labels.min():g}; counts are >= 0")
        rate = np.exp(outputs).mean(axis=1)
        nll = rate - labels * np.log(rate) + gammaln(labels + 1)
        return row | {
            "nll": float(nll.mean()),
            "o_over_e": float(labels.sum() / rate.sum()),
            "status": "count_target",
        }
    _check_binary(labels, f"target {target}: labels")
    # log p and log(1 - p) of the mean over draws, exact where the sigmoid saturates
    log_draws = np.log(outputs.shape[1])
    log_p = logsumexp(-np.logaddexp(0, -outputs), axis=1) - log_draws
    log_q = logsumexp(-np.logaddexp(0, outputs), axis=1) - log_draws
    p = expit(outputs).mean(axis=1)
    order = np.argsort(p, kind="stable")
    starts = _bin_starts(p[order], bins, "equal_mass")
    weights = np.diff(np.append(starts, p.size)) / p.size
    counts = weights * p.size
    predicted = np.add.reduceat(p[order], starts) / counts
    observed = np.add.reduceat(labels[order], starts) / counts
    null = np.abs(_simulated_frequencies(p[order], starts, simulations, rng) - predicted) @ weights
    low, high = np.quantile(null, [0.025, 0.975])
    row |= {
        "nll": float(-np.where(labels == 1, log_p, log_q).mean()),
        "brier": float(np.mean((p - labels) ** 2)),
        "ece": float(np.abs(observed - predicted) @ weights),
        "o_over_e": float(labels.sum() / p.sum()),
        "ece_null_low": float(low),
        "ece_null_high": float(high),
    }
    if labels.min() == labels.max():
        return row | {"status": "one_class"}
    return row | {
        "auroc": float(roc_auc_score(labels, log_p - log_q)),
        "auprc": float(average_precision_score(labels, log_p - log_q)),
        "status": "ok",
    }


def _check_binary(labels: np.ndarray, what: str) -> None:
    wrong = labels[(labels != 0) & (labels != 1)]
    if wrong.size:
        raise ValueError(f"{what} must be 0 or 1 (or NaN, not measured); found {wrong[0]:g}")


def _bin_starts(p: np.ndarray, bins: int, binning: str) -> np.ndarray:
    """Return where each bin with a window in it starts, in the ascending `p` (n,)."""
    if bins < 1:
        raise ValueError(f"{bins} bins: there must be at least 1")
    if binning not in get_args(Binning):
        raise ValueError(
            f"unknown binning {binning!r}; write one of {', '.join(get_args(Binning))}"
        )
    if p.size == 0:
        return np.empty(0, dtype=np.int64)
    inner = np.arange(1, bins)
    edges = p[inner * p.size // bins] if binning == "equal_mass" else inner / bins
    # side="left": equal predictions go to one bin, so the order of the rows cannot matter
    starts = np.concatenate([[0], np.searchsorted(p, edges, side="left")])
    return np.unique(starts[starts < p.size])


def _simulated_frequencies(
    p: np.ndarray, starts: np.ndarray, simulations: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the frequency of label 1 per bin, (simulations, bins), for labels drawn from `p`."""
    counts = np.diff(np.append(starts, p.size))
    frequencies = np.empty((simulations, starts.size))
    for row in frequencies:  # one label set at a time: n may be millions of windows
        row[:] = np.add.reduceat((rng.random(p.size) < p).astype(np.float64), starts) / counts
    return frequencies
