"""Effects of mutations on a scale, with the draws that carry their uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from deepmr.uncertainty.moderation import moderate

Array = NDArray[np.float64]
Calibrator = Callable[[Array], Array]
"""Maps logits to calibrated logits, element by element, strictly increasing."""

SCALES = ("logit", "probability")
SE_KIND = "posterior_sd"
"""An effect's SE is its standard deviation over draws, not the Monte Carlo error of the mean."""


def _as_it_is(value: Array) -> Array:
    return value


_RESPONSE: dict[str, Callable[[Array], Array]] = {
    "binary": lambda logit: np.asarray(expit(logit)),
    "count": np.exp,
    "continuous": _as_it_is,
}


@dataclass(frozen=True)
class Response:
    """How the logits of a target become effects, and what is known of their errors.

    Attributes
    ----------
    kind : str
        ``binary``, ``count`` or ``continuous``: what the target's response is.
    calibrator : callable, optional
        Applied to every logit of every draw, before the scale.
    se_scale : float
        The draws are spread about their mean by this factor, and with them every standard error
        and covariance; at least 1 (see `deepmr.uncertainty`).
    moderated : bool
        Whether the variances of a sequence's mutations are moderated (few members, no masks).

    Raises
    ------
    ValueError
        If the kind is unknown or the factor below 1.
    """

    kind: str = "binary"
    calibrator: Calibrator | None = None
    se_scale: float = 1.0
    moderated: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.kind not in _RESPONSE:
            raise ValueError(
                f"target type {self.kind!r} is unknown; write one of {', '.join(_RESPONSE)}"
            )
        if not self.se_scale >= 1:
            raise ValueError(
                f"the scale of standard errors is {self.se_scale}; they are never narrowed, "
                "give 1 or more"
            )


PLAIN = Response()
"""A binary target, as its network predicts it."""


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
        Standard deviation over draws (``posterior_sd``, ddof 1), moderated where that is asked;
        NaN for a single draw.
    evaluated : ndarray of float64, shape (mutations,) or None
        Effect with the network in evaluation mode, where its logits were given.
    moderated : bool
        Whether `se` is moderated.
    """

    draws: Array
    point: Array
    se: Array
    evaluated: Array | None = None
    moderated: bool = False

    def using(self, draws: slice) -> Effects:
        """Return the effects as some of the draws alone tell them."""
        some = self.draws[draws]
        if len(some) == len(self.draws):
            return self
        return Effects(some, *summarise_draws(some, self.moderated), self.evaluated, self.moderated)


def summarise_draws(draws: Array, moderated: bool = False) -> tuple[Array, Array]:
    """Return mean and standard deviation (ddof 1) over the first axis of (draws, mutations).

    With `moderated`, the variances borrow from each other (`deepmr.uncertainty.moderation`).
    """
    n_draws = draws.shape[0]
    draws = np.ascontiguousarray(draws)  # sums round by memory order
    point = draws.sum(axis=0) / n_draws
    if n_draws < 2:
        return point, np.full_like(point, np.nan)
    deviation = draws - point
    variance = (deviation * deviation).sum(axis=0) / (n_draws - 1)
    known = np.isfinite(variance)
    if moderated and known.any():
        variance[known] = moderate(variance[known], n_draws - 1).variance
    return point, np.sqrt(variance)


def on_scale(
    reference_draws: ArrayLike,
    delta_draws: ArrayLike,
    scale: str = "logit",
    response: Response = PLAIN,
    *,
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
    response : Response
        Kind of the target, its calibrator and the scale of its standard errors.
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
        If the scale is unknown, shapes disagree, there is no draw or only one of the eval logits
        is given.
    """
    if scale not in SCALES:
        raise ValueError(f"effect scale {scale!r} is unknown; write one of {', '.join(SCALES)}")
    reference = np.asarray(reference_draws, dtype=np.float64)
    delta = np.asarray(delta_draws, dtype=np.float64)
    if reference.ndim != 1 or delta.ndim != 2 or delta.shape[1] != reference.size:
        raise ValueError(
            "reference_draws must have shape (draws,) and delta_draws (mutations, draws); "
            f"found {reference.shape} and {delta.shape}"
        )
    if reference.size == 0:
        raise ValueError("there is no draw to take effects from; give one or more")
    if (reference_eval is None) != (delta_eval is None):
        raise ValueError("give both reference_eval and delta_eval, or neither")
    respond = _RESPONSE[response.kind] if scale == "probability" else _as_it_is
    calibrated = response.calibrator or _as_it_is

    def difference(ref: Array, change: Array) -> Array:
        if scale == "logit" and response.calibrator is None:
            return change
        return respond(calibrated(ref + change)) - respond(calibrated(ref))

    draws = np.ascontiguousarray(difference(reference, delta).T)
    if response.se_scale != 1:
        mean = draws.sum(axis=0) / len(draws)
        draws = mean + response.se_scale * (draws - mean)
    point, se = summarise_draws(draws, response.moderated)
    evaluated = None
    if reference_eval is not None:
        ref = np.array(reference_eval, dtype=np.float64)
        evaluated = difference(ref, np.asarray(delta_eval, dtype=np.float64))
    return Effects(draws, point, se, evaluated, response.moderated)


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
