r"""MR-Egger corrected for the noise of bx by simulation extrapolation (SIMEX).

Noise in bx dilutes the slope of MR-Egger by about I2_GX (Bowden et al., Int J Epidemiol
2016;45:1961). SIMEX (Cook and Stefanski, J Am Stat Assoc 1994;89:1314) adds more of it,
bx + sqrt(lambda) sx e, fits every simulated data set, averages over e for each lambda, and
extrapolates a parabola in lambda to lambda = -1, where no noise is left. Its variance
(Stefanski and Cook, J Am Stat Assoc 1995;90:1247) is the same extrapolation of

    mean over simulations of the fit's own variance - variance of the slope over simulations.

A simulated fit needs only the products of e with three columns, so nothing is refitted: with E
the added noise less its projection on the intercept's column, x'x becomes
x'x + 2 sqrt(lambda) x'E + lambda E'E and x'y becomes x'y + sqrt(lambda) E'y.

A parabola does not bend enough: at I2_GX .8, slope .5 and 100 or 1,000 instruments the bias goes
from -.10 to -.014, and the SE is 11 to 13 % too small. SIMEX cannot know of instruments whose
orientation was decided by noise; with many of them, effects near 0, it corrects too far.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from deepmr.mr.drawwise import refit
from deepmr.mr.estimator import Array, Estimator, Fit, Group, Options, two_sided_p
from deepmr.mr.estimators.egger import with_interval
from deepmr.mr.estimators.regression_line import SPREAD, orientation

LAMBDAS = np.array([0.0, 0.5, 1.0, 1.5, 2.0])
PAIRS = 100  # of simulations, e and -e


def _to_minus_one() -> Array:
    """Weights of the values at `LAMBDAS` in the least-squares parabola's value at -1."""
    powers = np.vander(LAMBDAS, 3, increasing=True)
    return np.asarray(np.array([1.0, -1.0, 1.0]) @ np.linalg.pinv(powers))


EXTRAPOLATION = _to_minus_one()


def fit(group: Group, options: Options) -> Fit:
    """Slope and intercept of MR-Egger at no noise in bx.

    Parameters
    ----------
    group : Group
        Effects of S sequences with n >= 3 instruments.
    options : Options
        Uses ``seed`` and ``distribution``. There are always 200 simulations; they depend on the
        seed and the number of instruments only.

    Returns
    -------
    Fit
        The standard errors are never below those of MR-Egger without the correction, which an
        extrapolated variance may be. NaN and a status where a sequence has no estimate.
    """
    n_sequences, n = group.bx.shape
    noise = _noise(options.seed, n)
    sign = orientation(group.anchor_x)
    values = np.full((n_sequences, 6), np.nan)
    status = np.full(n_sequences, "ok", dtype=object)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for i in range(n_sequences):
            root = 1.0 / group.se_y[i]
            one = root * sign[i]
            found = _extrapolated(
                one, root * group.bx[i], root * group.by[i], one * group.se_x[i], noise
            )
            if found is None:
                status[i] = "no_spread_in_exposure"
            elif not np.isfinite(found).all():
                status[i] = "not_finite"
            else:
                values[i] = found
    slope, se, se_model, se_unfloored, intercept, intercept_se = values.T
    fitted = Fit(
        slope,
        se,
        se_unfloored=se_unfloored,
        se_model=se_model,
        intercept=intercept,
        intercept_se=intercept_se,
        intercept_p=two_sided_p(intercept / intercept_se),
        status=status,
    )
    return with_interval(fitted, n - 2, options)


@lru_cache(maxsize=4)
def _noise(seed: int, n: int) -> tuple[Array, Array]:
    """Return the standard normals of half of the simulations, (pairs, n), and their squares."""
    noise = np.random.default_rng([seed, n]).standard_normal((PAIRS, n))
    return noise, noise * noise


def _extrapolated(
    one: Array, x: Array, y: Array, spread: Array, noise: tuple[Array, Array]
) -> Array | None:
    """Return the six numbers of one sequence at lambda = -1; None without spread in x.

    Parameters
    ----------
    one, x, y : ndarray, shape (instruments,)
        Column of the intercept and the effects, divided by the SE of the outcome.
    spread : ndarray, shape (instruments,)
        SD of the noise to add to `x`, oriented.
    noise : tuple of ndarray
        What `_noise` returns.

    Returns
    -------
    ndarray, shape (6,) or None
        Slope, its SE, its SE at scale 1, its SE not floored; intercept and its SE.
    """
    df = len(x) - 2
    size = one @ one
    mean_x, mean_y = one @ x / size, one @ y / size
    x, y = x - mean_x * one, y - mean_y * one
    xx, xy, yy = x @ x, x @ y, y @ y
    if not xx > SPREAD * SPREAD * (xx + size * mean_x * mean_x):
        return None
    errors, squares = noise
    along = errors @ np.stack([spread * x, spread * y, spread * one], axis=-1)
    own = squares @ (spread * spread) - along[:, 2] ** 2 / size
    # Axes: lambda, the two signs of the noise, pairs of simulations.
    level = LAMBDAS[:, None, None]
    amount = np.sqrt(level) * np.array([1.0, -1.0])[:, None]
    information = xx + 2.0 * amount * along[:, 0] + level * own
    cross = xy + amount * along[:, 1]
    means = mean_x + amount * along[:, 2] / size
    slope = cross / information
    scale = np.maximum(yy - cross * slope, 0.0) / df
    intercept = mean_y - slope * means
    variance = 1.0 / information
    intercept_variance = 1.0 / size + means * means * variance

    def at_no_noise(values: Array, subtract: Array | None = None) -> float:
        by_level = values.mean(axis=(1, 2))
        if subtract is None:
            return float(EXTRAPOLATION @ by_level)
        variances = by_level - subtract.var(axis=(1, 2), ddof=1)
        return float(max(EXTRAPOLATION @ variances, by_level[0]))

    model = at_no_noise(variance, slope)
    unfloored = at_no_noise(scale * variance, slope)
    intercept_square = max(
        at_no_noise(intercept_variance, intercept),
        at_no_noise(scale * intercept_variance, intercept),
    )
    return np.array(
        [
            at_no_noise(slope),
            np.sqrt(max(model, unfloored)),
            np.sqrt(model),
            np.sqrt(unfloored),
            at_no_noise(intercept),
            np.sqrt(intercept_square),
        ]
    )


EGGER_SIMEX = Estimator("egger_simex", 3, fit, refit(fit))
