"""Predicted probabilities: the mean over draws of the sigmoid, exact in both tails.

    p = mean_t sigmoid(l_t)

The sigmoid is applied within a draw, before the mean, because the mean of a nonlinear function
is not the function of the mean. Logarithms of p and of 1 - p are kept, computed from the logits
themselves: a float cannot tell 1 - 1e-20 from 1, its logit can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predicted probabilities of n windows.

    Attributes
    ----------
    log_p, log_q : ndarray of float64, shape (n,)
        Natural logarithms of the probability of label 1 and of label 0.
    """

    log_p: Array
    log_q: Array

    @property
    def p(self) -> Array:
        """Probability of label 1, shape (n,)."""
        return np.exp(self.log_p)

    @property
    def logit(self) -> Array:
        """Logit of the probability, shape (n,)."""
        return self.log_p - self.log_q

    def take(self, windows: NDArray[Any]) -> Predicted:
        """Return the windows that an index or a mask names, in its order."""
        return Predicted(self.log_p[windows], self.log_q[windows])


def predicted(draws: ArrayLike) -> Predicted:
    """Return the probabilities that logit draws predict.

    Parameters
    ----------
    draws : array_like, shape (n, T)
        Logit draws; T = 1 for a network without draws.

    Returns
    -------
    Predicted
        Does not depend on the order of the draws beyond rounding.

    Raises
    ------
    ValueError
        On another shape, or on a logit that is not finite.
    """
    logits = np.ascontiguousarray(draws, dtype=np.float64)  # means round by memory order
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ValueError(
            f"draws have the shape {logits.shape}: they must be (windows, draws); "
            "give a single logit a window as (windows, 1)"
        )
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(logits)} windows have a logit that is not finite "
            f"(the first is window {bad[0]})"
        )
    return Predicted(_log_mean_sigmoid(logits), _log_mean_sigmoid(-logits))


def probabilities(logits: ArrayLike, draws: ArrayLike | None = None) -> Array:
    """Return the predicted probabilities of any number of targets.

    Parameters
    ----------
    logits : array_like, shape (n, ...)
        Logits of the deterministic (eval-mode) network; used when there are no draws.
    draws : array_like, shape (n, T, ...), optional
        Logit draws.

    Returns
    -------
    ndarray of float64, shape (n, ...)
        Probabilities.
    """
    if draws is None:
        return expit(np.asarray(logits, dtype=np.float64))
    return expit(np.asarray(draws, dtype=np.float64)).mean(axis=1)


def _log_mean_sigmoid(logits: Array) -> Array:
    """Logarithm of the mean over the last axis of sigmoid(logits), for logits of any size."""
    log_sigmoid = -np.logaddexp(0.0, -logits)
    top = log_sigmoid.max(axis=1)
    return top + np.log(np.exp(log_sigmoid - top[:, None]).mean(axis=1))
