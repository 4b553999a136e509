r"""MM-regression: high breakdown point and 95 % efficiency (Yohai, Ann Stat 1987;15:642).

1. An S-estimate (Rousseeuw and Yohai 1984) minimises the scale s that solves
   sum rho(r_i/(c0 s)) = (n - p)/2, rho(u) = 1 - (1 - min(u^2, 1))^3 being Tukey's bisquare and
   c0 = 1.54764, so that half of the instruments may be arbitrary.
2. With that scale fixed an M-estimate with c1 = 4.685061 starts from the S-estimate.

The covariance treats scale and both estimates as one system of estimating equations (Croux,
Dhaene and Hoorelbeke, Robust standard errors for robust estimators, KU Leuven 2003), which stays
right under heteroscedastic errors. These are the defaults of ``lmrob`` in R's robustbase, which
starts from random elemental fits. Here the starts are deterministic and do not depend on the
order of the instruments: every line through one instrument (through two, with an intercept), or a
fixed choice of them by rank where there are many (after Salibian-Barrera and Yohai, J Comput
Graph Stat 2006;15:414).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array

BREAKDOWN_TUNING = 1.54764
EFFICIENCY_TUNING = 4.685061
# Starts through one instrument, and through two.
MOST_RATIOS = 50
MOST_PAIRS = 200
# Starts are screened on this many instruments, and so many go on to all instruments.
SCREENED_INSTRUMENTS = 250
FINALISTS = 4
MOST_ITERATIONS = 500
TOLERANCE = 1e-10
# Residuals below this share of the largest outcome are zero.
ZERO = 1e-12


@dataclass(frozen=True, eq=False)
class RobustLine:
    """An MM-regression.

    Attributes
    ----------
    coefficients : ndarray, shape (p,)
    scale : float
        Residual scale of the S-estimate; 0 where more than half of the instruments lie exactly
        on the line.
    unit_covariance : ndarray, shape (p, p)
        Covariance of the coefficients divided by scale^2.
    """

    coefficients: Array
    scale: float
    unit_covariance: Array


def mm_regression(design: Array, outcome: Array, seed: int) -> RobustLine:
    """Fit an MM-regression with one or two columns.

    Parameters
    ----------
    design : ndarray, shape (p, n)
        One or two linearly independent columns, laid out as rows; observations are weighted by
        multiplying design and outcome with the square roots of the weights.
    outcome : ndarray, shape (n,)
        Outcome.
    seed : int
        Chooses the starts where there are too many to try them all.

    Returns
    -------
    RobustLine
        NaN where n <= p, something is not finite, or no start gives a line.
    """
    p, n = design.shape
    nothing = RobustLine(np.full(p, np.nan), np.nan, np.full((p, p), np.nan))
    if n <= p or not (np.isfinite(design).all() and np.isfinite(outcome).all()):
        return nothing
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        start, scale = _s_estimate(design, outcome, seed)
        if not np.isfinite(scale):
            return nothing
        if scale == 0.0:
            residual = outcome - start @ design
            on_line = np.abs(residual) <= ZERO * np.abs(outcome).max()
            return RobustLine(start, 0.0, _inverse((design * on_line) @ design.T))
        end = _reweighted(design, outcome, start, scale, EFFICIENCY_TUNING)
        first = (outcome - start @ design) / scale
        last = (outcome - end @ design) / scale
        return RobustLine(end, scale, _covariance(design, first, last))


def m_scale(residual: Array, df: int, start: Array | None = None) -> Array:
    """Solve sum rho(r/(c0 s)) = df/2 for the scale s.

    Parameters
    ----------
    residual : ndarray, shape (lines, n)
        Residuals.
    df : int
        Number of residuals less that of coefficients.
    start : ndarray, shape (lines,), optional
        First guess, > 0.

    Returns
    -------
    ndarray, shape (lines,)
        0 where at most df/2 of the residuals differ from 0.
    """
    squares = residual * residual
    zero = np.count_nonzero(squares, axis=-1) <= 0.5 * df
    if start is None:
        # The median is the scale of another rho with the same breakdown point.
        middle = squares.shape[-1] // 2
        guess = np.partition(squares, middle, axis=-1)[:, middle] / 0.6745**2
        guess = np.where(guess > 0, guess, squares.max(axis=-1))
    else:
        guess = start * start
    square = np.where(zero, 1.0, guess) * BREAKDOWN_TUNING**2
    for _ in range(100):
        # Newton's method in log s^2
        u = 1.0 - np.minimum(squares / square[:, None], 1.0)
        uu = u * u
        excess = (1.0 - uu * u).sum(axis=-1) - 0.5 * df
        gain = 3.0 * (uu - uu * u).sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(zero, 0.0, np.clip(excess / gain, -1.0, 1.0))
        square = square * np.exp(step)
        # Convergence is quadratic: the error after this step is far below rounding.
        if not (np.abs(step) > 1e-8).any():
            break
    return np.where(zero, 0.0, np.sqrt(square) / BREAKDOWN_TUNING)


def _s_estimate(design: Array, outcome: Array, seed: int) -> tuple[Array, float]:
    """Return the coefficients of the smallest scale, and that scale."""
    p, n = design.shape
    order = _rank(design, outcome)
    candidates = _starts(design[:, order], outcome[order], seed)
    candidates = candidates[np.isfinite(candidates).all(axis=-1)]
    if not len(candidates):
        return np.full(p, np.nan), np.nan
    if n > SCREENED_INSTRUMENTS:
        chosen = order[np.linspace(0, n - 1, SCREENED_INSTRUMENTS).round().astype(np.intp)]
        candidates = _best(design[:, chosen], outcome[chosen], candidates, 2 * FINALISTS)
    candidates = _best(design, outcome, candidates, FINALISTS)
    # A few steps tell the basins apart; only the two lowest are followed to the ground.
    candidates, scales = _minimised(design, outcome, candidates, 3)
    lowest = np.argsort(scales, kind="stable")[:2]
    candidates, scales = _minimised(design, outcome, candidates[lowest], MOST_ITERATIONS)
    best = int(np.argmin(scales))
    return candidates[best], float(scales[best])


def _rank(design: Array, outcome: Array) -> NDArray[np.intp]:
    """Order of the instruments by exposure effect per unit of the intercept (or by ratio)."""
    if len(design) == 1:
        return np.lexsort((design[0], outcome / design[0]))
    return np.lexsort((outcome / design[0], design[1] / design[0]))


def _starts(design: Array, outcome: Array, seed: int) -> Array:
    """Return lines through one instrument or through two of the ordered ones, (starts, p)."""
    p, n = design.shape
    if p == 1:
        ratio, weight = outcome / design[0], np.abs(design[0])
        kept = np.isfinite(ratio)
        ratio, weight = ratio[kept], weight[kept]
        if len(ratio) > MOST_RATIOS:
            cumulated = np.cumsum(weight) - 0.5 * weight
            levels = (np.arange(MOST_RATIOS) + 0.5) / MOST_RATIOS * weight.sum()
            ratio = ratio[np.searchsorted(cumulated, levels).clip(0, len(ratio) - 1)]
        return np.asarray(ratio[:, None])
    first, second = _pairs(n, seed).T
    (a, b), (c, d) = design[:, first], design[:, second]
    determinant = a * d - b * c
    return np.stack(
        [
            (outcome[first] * d - outcome[second] * b) / determinant,
            (outcome[second] * a - outcome[first] * c) / determinant,
        ],
        axis=-1,
    )


@lru_cache(maxsize=64)
def _pairs(n: int, seed: int) -> NDArray[np.intp]:
    """Return pairs of ranks, all of them where they are few."""
    if n * (n - 1) // 2 <= MOST_PAIRS:
        return np.array(list(combinations(range(n), 2)))
    generator = np.random.default_rng([seed, n])
    first = generator.integers(n, size=MOST_PAIRS)
    return np.stack([first, (first + generator.integers(1, n, size=MOST_PAIRS)) % n], axis=-1)


def _best(design: Array, outcome: Array, candidates: Array, number: int) -> Array:
    """Improve lines by two reweighted fits and return the best by their scales."""
    for _ in range(2):
        residual = np.abs(outcome - candidates @ design)
        middle = residual.shape[-1] // 2
        scale = np.partition(residual, middle, axis=-1)[:, middle] / 0.6745
        improved = _fit(design, outcome, _weights(residual, scale[:, None], BREAKDOWN_TUNING))
        usable = np.isfinite(improved).all(axis=-1) & (scale > 0)
        candidates = np.where(usable[:, None], improved, candidates)
    residual = _cleared(outcome - candidates @ design, outcome)
    scales = m_scale(residual, residual.shape[-1] - len(design))
    # Only lines that differ: where nearly half of the instruments lie about another line, it may
    # have the smaller scale among the screened instruments, and would take every place.
    gram = design @ design.T / design.shape[-1]
    chosen: list[int] = []
    left = np.argsort(scales, kind="stable")
    while len(left) and len(chosen) < number:
        chosen.append(int(left[0]))
        apart = candidates[left] - candidates[chosen[-1]]
        distance = np.sqrt(np.einsum("lp,pq,lq->l", apart, gram, apart))
        left = left[distance > 0.5 * scales[chosen[-1]]]
    return candidates[chosen]


def _cleared(residual: Array, outcome: Array) -> Array:
    """Residuals with those at rounding level set to 0."""
    return np.where(np.abs(residual) <= ZERO * np.abs(outcome).max(), 0.0, residual)


def _weights(residual: Array, scale: Array | float, tuning: float) -> Array:
    u = residual / (scale * tuning)
    v = np.maximum(1.0 - u * u, 0.0)
    return np.asarray(v * v)


def _fit(design: Array, outcome: Array, weights: Array) -> Array:
    """Weighted least squares, shape (lines, p), for weights of shape (lines, n)."""
    if len(design) == 1:
        x = design[0]
        return np.asarray((weights @ (x * outcome)) / (weights @ (x * x)))[:, None]
    a, b = design
    moments = weights @ np.stack([a * a, a * b, b * b, a * outcome, b * outcome], axis=-1)
    aa, ab, bb, ay, by = moments.T
    determinant = aa * bb - ab * ab
    return np.stack([bb * ay - ab * by, aa * by - ab * ay], axis=-1) / determinant[:, None]


def _minimised(design: Array, outcome: Array, lines: Array, iterations: int) -> tuple[Array, Array]:
    """Iterate lines, (lines, p), towards the local minima of the scale near them.

    Newton's steps for sum psi(r/s) x = 0, with s solved for anew at each, converge quadratically,
    since s is stationary there. Where the sum of psi' is not clearly positive, or the scale would
    grow, a step of reweighted least squares is taken, which never raises it.
    """
    p, n = design.shape
    products = (design[:, None] * design[None]).reshape(p * p, n).T
    residual = _cleared(outcome - lines @ design, outcome)
    scales = m_scale(residual, n - p)
    moving = scales > 0
    for _ in range(iterations):
        if not moving.any():
            break
        u = residual / (BREAKDOWN_TUNING * scales[:, None])
        v = np.minimum(u * u, 1.0)
        inside = 1.0 - v
        weights = inside * inside
        gradient = (weights * residual) @ design.T
        safe = (weights @ products).reshape(-1, p, p)
        newton = ((inside * (1.0 - 5.0 * v)) @ products).reshape(-1, p, p)
        step = np.where(
            _is_positive(newton - 0.05 * safe)[:, None],
            _solved(newton, gradient),
            _solved(safe, gradient),
        )
        tried, tried_scales = _tried(design, outcome, lines + step, scales)
        worse = moving & ~(tried_scales <= scales * (1.0 + 1e-13))
        if worse.any():
            step[worse] = _solved(safe, gradient)[worse]
            tried[worse], tried_scales[worse] = _tried(
                design, outcome, lines[worse] + step[worse], scales[worse]
            )
        moving &= tried_scales <= scales * (1.0 + 1e-13)
        lines[moving] += step[moving]
        residual[moving], scales[moving] = tried[moving], tried_scales[moving]
        moving &= (np.abs(step @ design).max(axis=-1) > TOLERANCE * scales) & (scales > 0)
    return lines, scales


def _tried(design: Array, outcome: Array, lines: Array, scales: Array) -> tuple[Array, Array]:
    residual = _cleared(outcome - lines @ design, outcome)
    return residual, m_scale(residual, residual.shape[-1] - len(design), scales)


def _is_positive(matrices: Array) -> NDArray[np.bool_]:
    """Whether symmetric 1 x 1 or 2 x 2 matrices are positive definite."""
    if matrices.shape[-1] == 1:
        return np.asarray(matrices[:, 0, 0] > 0)
    determinant = matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] ** 2
    return np.asarray((determinant > 0) & (matrices[:, 0, 0] > 0))


def _solved(matrices: Array, vectors: Array) -> Array:
    """Solve symmetric 1 x 1 or 2 x 2 systems; not finite where they are singular."""
    if matrices.shape[-1] == 1:
        return np.asarray(vectors / matrices[:, 0])
    (aa, ab), (_, bb) = np.moveaxis(matrices, 0, -1)
    a, b = vectors.T
    determinant = (aa * bb - ab * ab)[:, None]
    return np.asarray(np.stack([bb * a - ab * b, aa * b - ab * a], axis=-1) / determinant)


def _reweighted(
    design: Array, outcome: Array, coefficients: Array, scale: float, tuning: float
) -> Array:
    """Iterate reweighted least squares at a fixed scale."""
    for _ in range(MOST_ITERATIONS):
        weights = _weights(outcome - coefficients @ design, scale, tuning)
        fitted = _fit(design, outcome, weights[None])[0]
        if not np.isfinite(fitted).all():
            break
        moved = np.abs((fitted - coefficients) @ design).max()
        coefficients = fitted
        if moved <= TOLERANCE * scale:
            break
    return coefficients


def _covariance(design: Array, first: Array, last: Array) -> Array:
    """Covariance at scale 1 from the scaled residuals of the S-estimate and the M-estimate.

    With psi = rho' the influence of instrument i on the coefficients is A x_i psi(r_i) - a
    (chi_i - 1/2), A = (sum psi' x x')^-1, a = A (sum psi' r x)/mean(chi' r0). Where the estimated
    scale would make a variance negative, its part is left out.
    """
    n = len(last)
    u = np.square(last / EFFICIENCY_TUNING)
    inside = np.maximum(1.0 - u, 0.0)
    psi = last * inside * inside
    slope_of_psi = inside * (1.0 - 5.0 * u)
    v = np.minimum(np.square(first / BREAKDOWN_TUNING), 1.0)
    chi = 1.0 - (1.0 - v) ** 3
    # chi'(r) r, chi being scaled to a maximum of 1
    chi_gain = (6.0 * v * (1.0 - v) ** 2).mean()
    bread = _inverse((design * slope_of_psi) @ design.T)
    shift = bread @ (design @ (slope_of_psi * last)) / chi_gain
    meat = bread @ ((design * (psi * psi)) @ design.T) @ bread
    cross = np.outer(shift, bread @ (design @ (psi * chi))) / n
    whole = meat - cross - cross.T + (np.mean(chi * chi) - 0.25) / n * np.outer(shift, shift)
    whole = 0.5 * (whole + whole.T)
    positive = np.isfinite(whole).all() and np.linalg.eigvalsh(whole)[0] > 0
    return np.asarray(whole if positive else meat)


def _inverse(matrix: Array) -> Array:
    """Inverse of a symmetric matrix; NaN where it is singular."""
    try:
        return np.asarray(np.linalg.inv(matrix))
    except np.linalg.LinAlgError:
        return np.full_like(matrix, np.nan)
