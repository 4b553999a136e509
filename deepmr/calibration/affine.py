r"""Logistic regression of a label on draws of a logit, fitted on the mean over draws.

A prediction is the mean over draws of a probability, so the slope a and the intercept b of a
recalibration (Cox, Biometrika 1958;45:562; Platt, Advances in Large Margin Classifiers 1999)
maximise the likelihood of

    p_i = (1/T) sum_t sigmoid(a l_it + b),

and not of the mean logit: the map is then right for the prediction that is reported, and is
applied to every draw on its own. With z_it = theta . x_it and x_it = (l_it, 1),

    gradient     sum_i (y_i - p_i) p_i' / (p_i (1 - p_i)),
    information  sum_i p_i' p_i'^T / (p_i (1 - p_i)),
    p_i'         (1/T) sum_t s_it (1 - s_it) x_it,    s_it = sigmoid(z_it).

The maximum is found by Fisher scoring (Newton's method where T = 1) from a slope of 0, where the
information is never degenerate, with a step that is halved until the likelihood gains. All
quotients are taken on the log scale, so that nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Prior = tuple[Array, Array]
"""Mean (2,) and covariance (2, 2) of a normal distribution of (log a, b)."""

# Nats over all windows that another step would gain: in a regular fit the parameters are then
# within 2e-6 standard errors of the maximum.
_TOLERANCE = 1e-12
_STEPS = 200
_WINDOWS_AT_ONCE = 1 << 14  # (draws, windows) in the cache of a core


@dataclass(frozen=True, eq=False)
class AffineFit:
    """Slope and intercept of calibrated logits a l + b.

    Attributes
    ----------
    a, b : float
        Slope (logit per logit) and intercept (logit).
    covariance : ndarray, shape (2, 2)
        Of (a, b), the inverse of the expected information (with a prior: of the posterior's);
        rows and columns of fixed parameters are 0. Infinite variances where the logits cannot
        tell the parameters apart.
    nll : float
        Negative log-likelihood, nats a window, without the prior.
    """

    a: float
    b: float
    covariance: Array
    nll: float


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where a likelihood is largest: `parameters`, `information` there, and the `value` in nats."""

    parameters: Array
    information: Array
    value: float


Likelihood = Callable[[Array], tuple[float, Array, Array]]
"""Takes parameters; returns the value (nats), the gradient and the expected information."""


def fit_affine(
    labels: ArrayLike,
    draws: ArrayLike,
    *,
    slope: float | None = None,
    intercept: float | None = None,
    prior: Prior | None = None,
) -> AffineFit:
    """Fit slope and intercept of a recalibration by maximum likelihood.

    Parameters
    ----------
    labels : array_like, shape (n,)
        0 or 1.
    draws : array_like, shape (n, T)
        Logit draws of each window; with T = 1 this is logistic regression.
    slope, intercept : float, optional
        Fixes a or b.
    prior : (mean, covariance), optional
        Normal prior of (log a, b); the result is then the posterior mode, and a is positive.

    Returns
    -------
    AffineFit
        Without a prior a may be negative or 0. Where the labels are separated by the logits, or
        all alike, the likelihood has no maximum at finite parameters: the fit ends where all
        windows together would gain less than 1e-12 nats by another step, so a and b are bounded
        and `nll` is finite and close to 0.

    Raises
    ------
    ValueError
        On shapes that disagree, no windows, labels other than 0 and 1, a logit that is not
        finite, or a prior together with a fixed parameter.
    """
    positive, logits = checked(labels, draws)
    if prior is not None:
        if slope is not None or intercept is not None:
            raise ValueError("a prior is for (log a, b) together; leave slope and intercept out")
        return _posterior_mode(positive, logits, prior)
    fixed = [0.0 if slope is None else slope, 0.0 if intercept is None else intercept]
    start = np.array(fixed, dtype=np.float64)
    if intercept is None:
        start[1] = _log_odds(positive) - start[0] * logits.mean()
    free = np.array([slope is None, intercept is None])
    found = maximise(pooled_likelihood(positive, [logits]), start, free)
    covariance = np.zeros((2, 2))
    covariance[np.ix_(free, free)] = _inverse(found.information[np.ix_(free, free)])
    a, b = found.parameters
    return AffineFit(float(a), float(b), covariance, -found.value / positive.size)


def checked(labels: ArrayLike, draws: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    """Return which windows are positive, (n,), and the draws as contiguous float64, (T, n).

    Raises
    ------
    ValueError
        As :func:`fit_affine`.
    """
    y = np.asarray(labels, dtype=np.float64)
    logits = np.asarray(draws, dtype=np.float64)
    if y.ndim != 1 or logits.ndim != 2 or logits.shape[0] != y.size or logits.shape[1] == 0:
        raise ValueError(
            f"labels have the shape {y.shape} and draws {logits.shape}: "
            "they must be (windows,) and (windows, draws)"
        )
    if y.size == 0:
        raise ValueError("there is no window to fit a calibrator on; give at least one")
    wrong = y[(y != 0) & (y != 1)]
    if wrong.size:
        raise ValueError(f"labels must be 0 or 1; found {wrong[0]:g} (leave windows with NaN out)")
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {y.size} windows have a logit that is not finite "
            f"(the first is window {bad[0]})"
        )
    return y == 1, np.ascontiguousarray(logits.T)


def pooled_likelihood(positive: NDArray[np.bool_], features: Sequence[Array]) -> Likelihood:
    """Return the log-likelihood of the labels as a function of coefficients and intercept.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which windows carry label 1.
    features : sequence of ndarray, each of shape (T, n)
        What the coefficients multiply; the intercept comes last and has no feature.

    Returns
    -------
    callable
        Of parameters (features + 1,).
    """
    sign = np.where(positive, 1.0, -1.0)
    size = len(features) + 1

    def evaluate(parameters: Array) -> tuple[float, Array, Array]:
        value, gradient, information = 0.0, np.zeros(size), np.zeros((size, size))
        for first in range(0, sign.size, _WINDOWS_AT_ONCE):
            part = slice(first, first + _WINDOWS_AT_ONCE)
            x = [feature[:, part] for feature in features]
            z = np.full_like(x[0], parameters[-1])
            for coefficient, column in zip(parameters[:-1], x, strict=True):
                z += coefficient * column
            z *= sign[part]  # sigmoid(z) is now the probability of the label that was measured
            log_p, towards = _log_mean_sigmoid(z)
            _, away = _log_mean_sigmoid(-z)
            value += float(log_p.sum())
            # p' / p and p' / (1 - p), each (size, windows)
            over_p = _summed_over_draws(towards, x)
            over_q = _summed_over_draws(away, x)
            gradient += (over_p * sign[part]).sum(axis=1)
            information += (over_p[:, None] * over_q[None]).sum(axis=2)
        return value, gradient, information

    return evaluate


def maximise(
    likelihood: Likelihood,
    start: Array,
    free: NDArray[np.bool_] | None = None,
    largest_step: Array | float = np.inf,
) -> Maximum:
    """Climb to the maximum of a likelihood by Fisher scoring.

    Parameters
    ----------
    likelihood : callable
        As :func:`pooled_likelihood` returns.
    start : ndarray, shape (d,)
        Where to begin.
    free : ndarray of bool, shape (d,), optional
        Parameters that may move; all when left out.
    largest_step : float or ndarray, shape (d,)
        No parameter moves further in one step.

    Returns
    -------
    Maximum
        The information is that of all parameters, also of fixed ones.
    """
    free = np.ones(start.size, dtype=bool) if free is None else free
    parameters = start.copy()
    value, gradient, information = likelihood(parameters)
    for _ in range(_STEPS):
        step = np.zeros_like(parameters)
        step[free] = _newton_step(information[np.ix_(free, free)], gradient[free])
        step /= max(1.0, float(np.max(np.abs(step) / largest_step)))
        gain = float((gradient * step).sum())
        if gain < _TOLERANCE:
            break
        # What the rounding of a sum over windows may hide.
        rounding = 1e-13 * abs(value)
        for halvings in range(60):
            share = 0.5**halvings
            proposal = parameters + share * step
            new = likelihood(proposal)
            if new[0] >= value + 1e-4 * share * gain - rounding:
                parameters, (value, gradient, information) = proposal, new
                break
        else:
            break
    return Maximum(parameters, information, value)


def _posterior_mode(positive: NDArray[np.bool_], logits: Array, prior: Prior) -> AffineFit:
    mean, covariance = (np.asarray(part, dtype=np.float64) for part in prior)
    if mean.shape != (2,) or covariance.shape != (2, 2):
        raise ValueError(
            f"the prior has a mean of shape {mean.shape} and a covariance of {covariance.shape}: "
            "they must be (2,) and (2, 2), of (log a, b)"
        )
    precision = np.linalg.inv(covariance)
    pooled = pooled_likelihood(positive, [logits])

    def posterior(parameters: Array) -> tuple[float, Array, Array]:
        a = float(np.exp(parameters[0]))
        value, gradient, information = pooled(np.array([a, parameters[1]]))
        change = np.array([a, 1.0])  # d(a, b) / d(log a, b)
        pull = (precision * (parameters - mean)).sum(axis=1)
        return (
            value - 0.5 * float(((parameters - mean) * pull).sum()),
            gradient * change - pull,
            information * change * change[:, None] + precision,
        )

    found = maximise(posterior, mean, largest_step=np.array([1.0, np.inf]))
    a, b = float(np.exp(found.parameters[0])), float(found.parameters[1])
    change = np.array([a, 1.0])
    nll = -pooled(np.array([a, b]))[0] / positive.size
    return AffineFit(a, b, _inverse(found.information) * change * change[:, None], nll)


def _log_mean_sigmoid(z: Array) -> tuple[Array, Array]:
    """Return log mean_t sigmoid(z), (n,), and its derivative by each z, (T, n); `z` is (T, n)."""
    small = np.exp(-np.abs(z))
    below = np.minimum(z, 0.0)
    largest = below.max(axis=0)
    scaled = np.exp(below - largest) / (1.0 + small)  # sigmoid(z) / exp(largest)
    total = scaled.sum(axis=0)
    derivative = scaled / total * np.where(z > 0, small, 1.0) / (1.0 + small)
    return largest + np.log(total / z.shape[0]), derivative


def _summed_over_draws(weights: Array, features: Sequence[Array]) -> Array:
    return np.stack([*((weights * x).sum(axis=0) for x in features), weights.sum(axis=0)])


def _log_odds(positive: NDArray[np.bool_]) -> float:
    n = int(positive.sum())  # half a window on either side keeps it finite
    return float(np.log((n + 0.5) / (positive.size - n + 0.5)))


def _eigen(information: Array) -> tuple[Array, Array, Array]:
    """Return scales and the eigenvalues and -vectors of the information in their units."""
    diagonal = np.diag(information)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(information / (scale * scale[:, None]))
    return scale, values, vectors


def _newton_step(information: Array, gradient: Array) -> Array:
    """Solve information . step = gradient, without directions about which nothing is known."""
    if not gradient.size:
        return gradient
    scale, values, vectors = _eigen(information)
    known = values > 1e-12
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=known)
    along = (vectors * (gradient / scale)[:, None]).sum(axis=0) * inverse
    return (vectors * along).sum(axis=1) / scale


def _inverse(information: Array) -> Array:
    if not information.size:
        return information
    scale, values, vectors = _eigen(information)
    if values.min() <= 1e-12:
        return np.diag(np.full(len(values), np.inf))
    inverse = (vectors[:, None] * vectors[None] / values).sum(axis=2)
    return inverse / (scale * scale[:, None])
