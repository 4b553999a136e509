"""Effects of mutations on a scale, with the draws that carry their uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]
Calibrator = Callable[[Array], Array]
"""Maps logits to calibrated logits, element by element, strictly increasing."""

SCALES = ("logit", "probability")
SE_KIND = "posterior_sd"
"""An effect's SE is its standard deviation over draws, not the Monte Carlo error of the mean."""

_RESPONSE: dict[str, Callable[[Array], Array]] = {
    "binary": lambda logit: np.asarray(expit(logit)),
    "count": np.exp,
    "continuous": lambda value: value,
}


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of the mutations of one sequence on one target.

    Attributes
    ----------
    draws : ndarray of float64, shape (draws, mutations)
        Effect of each mutation in each draw.
    point : ndarray of float64, shape (mutations,)
        Mean over draws.
    se : ndarray of float64, shape (mutations,)
        Standard deviation over draws (``posterior_sd``, ddof 1); NaN for a single draw.
    evaluated : ndarray of float64, shape (mutations,) or None
        Effect with the network in evaluation mode, where its logits were given.
    """

    draws: Array
    point: Array
    se: Array
    evaluated: Array | None = None


def summarise_draws(draws: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation (ddof 1) over the first axis of (draws, mutations)."""
    n_draws = draws.shape[0]
    draws = np.ascontiguousarray(draws)  # sums round by memory order
    point = draws.sum(axis=0) / n_draws
    if n_draws < 2:
        return point, np.full_like(point, np.nan)
    deviation = draws - point
    return point, np.sqrt((deviation * deviation).sum(axis=0) / (n_draws - 1))


def on_scale(
    reference_draws: ArrayLike,
    delta_draws: ArrayLike,
    scale: str = "logit",
    calibrator: Calibrator | None = None,
    *,
    kind: str = "binary",
    reference_eval: float | None = None,
    delta_eval: ArrayLike | None = None,
) -> Effects:
    """Turn stored logit draws into effects on a scale: d_t = g(ref_t + delta_t) - g(ref_t).

    Parameters
    ----------
    reference_draws : array_like, shape (draws,)
        Logit of the reference sequence in each draw.
    delta_draws : array_like, shape (mutations, draws)
        Mutant logit minus reference logit, as stored (float16 or wider).
    scale : str
        ``logit`` (the link scale, no ceiling) or ``probability`` (the response: probability of a
        binary target, rate of a count target, value of a continuous one).
    calibrator : callable, optional
        Applied to every logit before the scale.
    kind : str
        ``binary``, ``count`` or ``continuous``: what the target's response is.
    reference_eval : float, optional
        Logit of the reference in evaluation mode.
    delta_eval : array_like, shape (mutations,), optional
        Evaluation-mode logit differences; needs `reference_eval`.

    Returns
    -------
    Effects
        Computed in float64.

    Raises
    ------
    ValueError
        If scale or kind is unknown, shapes disagree or only one of the eval logits is given.
    """
    if scale not in SCALES:
        raise ValueError(f"effect scale {scale!r} is unknown; write one of {', '.join(SCALES)}")
    if kind not in _RESPONSE:
        raise ValueError(f"target type {kind!r} is unknown; write one of {', '.join(_RESPONSE)}")
    reference = np.asarray(reference_draws, dtype=np.float64)
    delta = np.asarray(delta_draws, dtype=np.float64)
    if reference.ndim != 1 or delta.ndim != 2 or delta.shape[1] != reference.size:
        raise ValueError(
            "reference_draws must have shape (draws,) and delta_draws (mutations, draws); "
            f"found {reference.shape} and {delta.shape}"
        )
    if (reference_eval is None) != (delta_eval is None):
        raise ValueError("give both reference_eval and delta_eval, or neither")

    def difference(ref: Array, change: Array) -> Array:
        if scale == "logit" and calibrator is None:
            return change
        response = _RESPONSE[kind] if scale == "probability" else _RESPONSE["continuous"]
        calibrated = calibrator if calibrator is not None else _RESPONSE["continuous"]
        return response(calibrated(ref + change)) - response(calibrated(ref))

    draws = np.ascontiguousarray(difference(reference, delta).T)
    point, se = summarise_draws(draws)
    evaluated = None
    if reference_eval is not None:
        ref = np.array(reference_eval, dtype=np.float64)
        evaluated = difference(ref, np.asarray(delta_eval, dtype=np.float64))
    return Effects(draws, point, se, evaluated)


def error_correlation(
    draws_x: NDArray[np.floating[Any]], draws_y: NDArray[np.floating[Any]]
) -> Array:
    """Correlation over draws of the errors of X and Y effects of each mutation.

    Parameters
    ----------
    draws_x, draws_y : ndarray, shape (draws, mutations)
        Effects in each draw.

    Returns
    -------
    ndarray of float64, shape (mutations,)
        NaN where an effect does not vary.
    """
    x = np.asarray(draws_x, dtype=np.float64)
    y = np.asarray(draws_y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(
            f"draws_x and draws_y must both be (draws, mutations); found {x.shape} and {y.shape}"
        )
    x = x - x.mean(axis=0)
    y = y - y.mean(axis=0)
    norm = np.sqrt((x * x).sum(axis=0) * (y * y).sum(axis=0))
    rho = np.full(x.shape[1], np.nan)
    np.divide((x * y).sum(axis=0), norm, out=rho, where=norm > 0)
    return np.clip(rho, -1.0, 1.0)
