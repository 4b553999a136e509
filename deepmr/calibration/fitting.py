r"""Calibrators, fitted on validation windows, target by target.

Temperature, Platt and beta calibration maximise the likelihood of the mean over draws of the
calibrated probabilities (:mod:`deepmr.calibration.affine`). Their coefficients are kept positive,
as a map that is to be applied to effects must increase: where the labels want a slope of 0 or
less, the slope is held at :data:`SMALLEST_SLOPE` and the rest is fitted again, which leaves
little more than the base rate. Isotonic maps are fitted to the logit of the pooled probability.

With a label that occurs in few windows the slope and intercept of Platt's map are noisy; it then
leans on what the other targets need (:mod:`deepmr.calibration.shrinkage`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from sklearn.isotonic import IsotonicRegression

from deepmr.calibration.affine import (
    AffineFit,
    Array,
    Maximum,
    checked,
    fit_affine,
    maximise,
    pooled_likelihood,
)
from deepmr.calibration.maps import (
    NAMES,
    Affine,
    Beta,
    Calibrator,
    Centred,
    Fitted,
    Identity,
    Steps,
    beta_features,
)
from deepmr.calibration.predicted import predicted
from deepmr.calibration.shrinkage import prior_from, weight_of_prior

KINDS = ("binary", "count", "continuous")
SMALLEST_SLOPE = 1e-3
"""Slope of a map whose labels do not rise with the logit."""


def fit(name: str, labels: ArrayLike, draws: ArrayLike) -> Calibrator:
    """Fit one calibrator to one target, without regard to other targets.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    labels : array_like, shape (n,)
        0 or 1.
    draws : array_like, shape (n, T)
        Logit draws of each window.

    Raises
    ------
    ValueError
        On an unknown name, and as :func:`deepmr.calibration.affine.fit_affine`.
    """
    if name not in NAMES:
        raise ValueError(f"calibrator {name!r} is unknown; write one of {', '.join(NAMES)}")
    if name == "temperature":
        found = fit_affine(labels, draws, intercept=0.0)
        return Affine(max(found.a, SMALLEST_SLOPE))
    if name == "platt":
        return _increasing(fit_affine(labels, draws), labels, draws)
    positive, logits = checked(labels, draws)
    if name == "beta":
        return _beta(positive, logits)
    x = predicted(logits.T).logit
    return _steps(positive, x) if name == "isotonic" else _centred(positive, x)


def fit_targets(
    name: str,
    labels: ArrayLike,
    draws: ArrayLike,
    targets: Sequence[str],
    kinds: Sequence[str],
    *,
    minimum_positives: int = 10,
    shrink_below: int = 100,
) -> list[Fitted]:
    """Fit one calibrator to every target.

    Parameters
    ----------
    name : str
        One of :data:`NAMES`.
    labels : array_like, shape (n, K)
        Labels of the validation windows; NaN where a target was not measured.
    draws : array_like, shape (n, T, K)
        Logit draws.
    targets, kinds : sequence of str
        K names, and K of ``binary``, ``count`` and ``continuous``.
    minimum_positives : int
        A target with fewer windows of either label keeps its logits as they are.
    shrink_below : int
        With fewer windows of either label, ``platt`` leans on the other targets.

    Returns
    -------
    list of Fitted
        In the order of `targets`. Only a shrunk target depends on the other targets, and not on
        their order.

    Raises
    ------
    ValueError
        On an unknown name or kind, shapes that disagree, labels other than 0 and 1 of a binary
        target, or a logit that is not finite.
    """
    if name not in NAMES:
        raise ValueError(f"calibrator {name!r} is unknown; write one of {', '.join(NAMES)}")
    y, logits = np.asarray(labels, dtype=np.float64), np.asarray(draws)
    if y.ndim != 2 or logits.ndim != 3 or (logits.shape[0], logits.shape[2]) != y.shape:
        raise ValueError(
            f"labels have the shape {y.shape} and draws {logits.shape}: "
            "they must be (windows, targets) and (windows, draws, targets)"
        )
    if not len(targets) == len(kinds) == y.shape[1]:
        raise ValueError(
            f"{len(targets)} targets and {len(kinds)} kinds for {y.shape[1]} columns of labels"
        )
    measured = ~np.isnan(y)
    fitted: list[Fitted] = []
    own: dict[str, AffineFit] = {}
    for column, (target, kind) in enumerate(zip(targets, kinds, strict=True)):
        if kind not in KINDS:
            raise ValueError(
                f"target {target}: unknown kind {kind!r}; write one of {', '.join(KINDS)}"
            )
        labelled = y[measured[:, column], column]
        wrong = labelled[(labelled != 0) & (labelled != 1)]
        if kind == "binary" and wrong.size:
            raise ValueError(
                f"target {target}: labels must be 0 or 1 (or NaN, not measured); "
                f"found {wrong[0]:g}; for other labels write type: count or continuous"
            )
        status = _status(kind, labelled, minimum_positives)
        calibrator: Calibrator = Identity()
        if status == "ok":
            one = logits[measured[:, column], :, column]
            try:
                if name == "platt":
                    own[target] = fit_affine(labelled, one)
                    calibrator = _increasing(own[target], labelled, one)
                else:
                    calibrator = fit(name, labelled, one)
            except ValueError as error:
                raise ValueError(f"target {target}: {error}") from error
        n_positive = int((labelled > 0).sum())
        fitted.append(Fitted(target, name, calibrator, labelled.size, n_positive, 0.0, status))
    if name != "platt":
        return fitted
    return [
        _shrunk(f, own, y[measured[:, i], i], logits[measured[:, i], :, i])
        if f.status == "ok" and min(f.n_positive, f.n - f.n_positive) < shrink_below
        else f
        for i, f in enumerate(fitted)
    ]


def _status(kind: str, labels: Array, minimum: int) -> str:
    n_positive = int((labels > 0).sum())
    n_negative = labels.size - n_positive
    if not labels.size:
        return "no_labels"
    if kind != "binary":
        return f"{kind}_target"
    if not n_positive or not n_negative:
        return "one_class"
    if n_positive < minimum:
        return "too_few_positives"
    return "too_few_negatives" if n_negative < minimum else "ok"


def _shrunk(alone: Fitted, own: Mapping[str, AffineFit], labels: Array, draws: Array) -> Fitted:
    prior = prior_from([own[other] for other in own if other != alone.target])
    found = fit_affine(labels, draws, prior=prior)
    return Fitted(
        alone.target,
        alone.name,
        Affine(max(found.a, SMALLEST_SLOPE), found.b),
        alone.n,
        alone.n_positive,
        weight_of_prior(found, prior),
        alone.status,
    )


def _increasing(found: AffineFit, labels: ArrayLike, draws: ArrayLike) -> Affine:
    if found.a < SMALLEST_SLOPE:
        found = fit_affine(labels, draws, slope=SMALLEST_SLOPE)
    return Affine(found.a, found.b)


def _beta(positive: NDArray[np.bool_], logits: Array) -> Beta:
    """Fit a, b and c; where a or b would be negative, the better of the fits with one at 0."""
    likelihood = pooled_likelihood(positive, beta_features(logits))

    def climb(a: float, b: float, free: tuple[bool, bool]) -> Maximum:
        n, n_positive = positive.size, np.count_nonzero(positive)
        log_odds = float(np.log((n_positive + 0.5) / (n - n_positive + 0.5)))
        return maximise(likelihood, np.array([a, b, log_odds]), np.array([*free, True]))

    found = climb(0.0, 0.0, (True, True))
    if found.parameters[:2].min() < 0:
        edges = [climb(0.0, 0.0, (True, False)), climb(0.0, 0.0, (False, True))]
        allowed = [edge for edge in edges if edge.parameters[:2].max() >= SMALLEST_SLOPE]
        found = max(allowed, key=lambda edge: edge.value) if allowed else found
    a, b, c = found.parameters
    if min(a, b) < 0 or max(a, b) < SMALLEST_SLOPE:
        a, b, c = climb(SMALLEST_SLOPE, SMALLEST_SLOPE, (False, False)).parameters
    return Beta(float(a), float(b), float(c))


def _steps(positive: NDArray[np.bool_], x: Array) -> Steps:
    """Isotonic regression; frequencies 0 and 1 are pulled in by half a window of their step.

    A step pulled in that far may meet its neighbour and then takes the neighbour's frequency.
    """
    model = IsotonicRegression(out_of_bounds="clip").fit(x, positive.astype(np.float64))
    knots, frequencies = model.X_thresholds_, np.array(model.y_thresholds_)
    low, high = frequencies == 0.0, frequencies == 1.0
    inside = frequencies[~low & ~high]
    n_low = np.count_nonzero(x <= knots[low].max()) if low.any() else 1
    n_high = np.count_nonzero(x >= knots[high].min()) if high.any() else 1
    least, most = inside.min(initial=1.0), inside.max(initial=0.0)
    if not inside.size and low.any() and high.any():
        least = most = float(np.mean(positive))  # nothing between 0 and 1 keeps them apart
    frequencies[low] = min(0.5 / n_low, least)
    frequencies[high] = max(1.0 - 0.5 / n_high, most)
    return Steps(knots, logit(frequencies))


def _centred(positive: NDArray[np.bool_], x: Array) -> Centred:
    """Collapse each step of the isotonic regression to its mean logit and its frequency.

    Steps of frequency 0 or 1 are pulled in by half a window, and merged with their neighbour as
    long as they would not lie beyond it.
    """
    y = positive.astype(np.float64)
    order = np.lexsort((y, x))  # sums round by order
    x, y = x[order], y[order]
    _, step = np.unique(IsotonicRegression().fit_transform(x, y), return_inverse=True)
    sizes, ones, sums = np.bincount(step), np.bincount(step, y), np.bincount(step, x)
    blocks: list[tuple[float, float, float]] = []
    for block in zip(sizes.astype(np.float64), ones, sums, strict=True):
        while blocks and _frequency(blocks[-1]) >= _frequency(block):
            n, k, total = blocks.pop()
            block = (block[0] + n, block[1] + k, block[2] + total)
        blocks.append(block)
    last = np.cumsum([n for n, _, _ in blocks]).astype(np.intp) - 1
    first = np.append(0, last[:-1] + 1)
    means = np.array([total / n for n, _, total in blocks])
    # A mean of equal numbers may round beyond them.
    means = np.clip(means, x[first], x[last])
    return Centred(means, logit([_frequency(block) for block in blocks]))


def _frequency(block: tuple[float, float, float]) -> float:
    n, k, _ = block
    return min(max(k, 0.5), n - 0.5) / n
