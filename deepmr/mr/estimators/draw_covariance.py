r"""Joint error covariance of one sequence from the draws of its effects.

T draws say little about the 2n x 2n covariance of n mutations when n is above T: their sample
covariance has rank T - 1, and most of what it shows beside the largest eigenvalues is noise. So

    S = common factors + noise-reduced remainder,

in units in which every error has the variance 1, rescaled by the standard errors.

*Common factors* (the shared reference, large regulatory contexts) are the principal components of
the draws whose eigenvalue stands above the edge that the remainder would reach without any
correlation between mutations. For ν degrees of freedom and a population with eigenvalues l (those
of the 2 x 2 blocks of the mutations) the edge is the minimum over 0 < g < 1/max(l) of

    1/g + (1/ν) Σ l/(1 - g l)

(Marchenko and Pastur 1967; Silverstein and Choi, J Multivar Anal 1995;54:295), raised by one
Tracy-Widom scale. A factor's variance is lowered by Σl/ν, the noise that any direction collects.

*The remainder* keeps the variances and the x-y covariance of every mutation as they are over the
draws. Its correlations between mutations are dropped where n > T; with T >= n they are shrunk by
λ = Σ Var(r_ij)/Σ r_ij² over pairs of different mutations (Schäfer and Strimmer, Stat Appl Genet
Mol Biol 2005;4:32), see `shrinkage_intensity`; not below 1/T, lest S be singular.

Shrinking all correlations by that λ (no factors), which minimises the error of S in squares,
suits the inverse of S badly: with 450 mutations, a shared reference of correlation .5 and T = 100
it is λ = .07, and the 350 directions that no draw reached got the variance .07 in place of .5.
The slope was .59 in place of .50 and its 95 % interval covered .2-.3; with factors, two are
found, as there are, and slope and interval are those of the known covariance.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from deepmr.mr.estimator import Array
from deepmr.mr.estimators.covariance import DenseErrors, DiagonalErrors, FactorErrors

_LEAST_VARIANCE = 1e-3
"""Least share of an error's variance that factors leave to it alone."""
_MOST_CORRELATED = 0.999


def shrinkage_intensity(z_x: Array, z_y: Array) -> float:
    r"""Schäfer and Strimmer's λ for the correlations between different mutations.

    With w_kij = z_ki z_kj the correlations are r_ij = Σ_k w_kij/(T - 1) and

        λ = Σ Var(r_ij)/Σ r_ij²,  Var(r_ij) = T/(T - 1)³ Σ_k (w_kij - mean_k w_kij)²,

    summed over the x and y errors of all pairs of different mutations. By G = ZZ' (T x T)
    Σ_ij Σ_k w² = Σ_k G_kk² and Σ_ij (Σ_k w)² = ‖G‖² = ‖Z'Z‖², less the pairs within a mutation, so
    it takes O(n T min(n, T)) and no array of all pairs and draws.

    Parameters
    ----------
    z_x, z_y : ndarray, shape (draws, mutations)
        Draws of mean 0 and variance 1 for each mutation.

    Returns
    -------
    float
        Between 0 and 1; 1 without any correlation.
    """
    n_draws = len(z_x)
    z = np.hstack([z_x, z_y])
    gram = z @ z.T if n_draws <= z.shape[1] else z.T @ z
    squares = float((gram * gram).sum())
    fourths = float(((z * z).sum(axis=1) ** 2).sum())
    for left, right, times in ((z_x, z_x, 1.0), (z_y, z_y, 1.0), (z_x, z_y, 2.0)):
        product = left * right
        total = product.sum(axis=0)
        fourths -= times * float((product * product).sum())
        squares -= times * float((total * total).sum())
    if squares <= 0.0:
        return 1.0
    ratio = n_draws / (n_draws - 1) * (fourths - squares / n_draws) / squares
    return float(np.clip(ratio, 0.0, 1.0))


def errors_from_draws(
    draws_x: Array, draws_y: Array, se_x: Array, se_y: Array
) -> FactorErrors | DenseErrors | DiagonalErrors:
    """Estimate the covariance of one sequence from its draws.

    Parameters
    ----------
    draws_x, draws_y : ndarray, shape (draws, mutations)
        At least two draws. What does not vary over them counts as independent of all else.
    se_x, se_y : ndarray, shape (mutations,)
        Standard errors; the variances on the diagonal of S are their squares.

    Returns
    -------
    FactorErrors, DenseErrors or DiagonalErrors
        Diagonal where no factor stands out and mutations outnumber draws, dense where they do not.
    """
    n_draws, n = draws_x.shape
    z = np.empty((n_draws, 2 * n))
    for draws, part in ((draws_x, z[:, :n]), (draws_y, z[:, n:])):
        np.subtract(draws, draws.sum(axis=0) / n_draws, out=part)
        sd = np.sqrt((part * part).sum(axis=0) / (n_draws - 1))
        part *= np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    rho = (z[:, :n] * z[:, n:]).sum(axis=0) / (n_draws - 1)
    basis, factors = common_factors(z, rho)
    common_x, common_y = factors[:, :n], factors[:, n:]
    own_x = np.maximum(1.0 - (common_x * common_x).sum(axis=0), _LEAST_VARIANCE)
    own_y = np.maximum(1.0 - (common_y * common_y).sum(axis=0), _LEAST_VARIANCE)
    bound = _MOST_CORRELATED * np.sqrt(own_x * own_y)
    own_xy = np.clip(rho - (common_x * common_y).sum(axis=0), -bound, bound)
    diagonal = DiagonalErrors(
        (own_x * se_x * se_x)[None], (own_y * se_y * se_y)[None], (own_xy * se_x * se_y)[None]
    )
    if n > n_draws:
        if not len(factors):
            return diagonal
        return FactorErrors(diagonal, common_x * se_x, common_y * se_y)
    rest_x, rest_y = _with_blocks(z - basis @ (basis.T @ z), own_x, own_y, own_xy)
    kept = (1.0 - max(shrinkage_intensity(rest_x, rest_y), 1.0 / n_draws)) / (n_draws - 1)
    xx = common_x.T @ common_x + kept * (rest_x.T @ rest_x)
    yy = common_y.T @ common_y + kept * (rest_y.T @ rest_y)
    xy = common_x.T @ common_y + kept * (rest_x.T @ rest_y)
    np.fill_diagonal(xx, (common_x * common_x).sum(axis=0) + own_x)
    np.fill_diagonal(yy, (common_y * common_y).sum(axis=0) + own_y)
    np.fill_diagonal(xy, (common_x * common_y).sum(axis=0) + own_xy)
    return DenseErrors(
        xx * se_x[:, None] * se_x, yy * se_y[:, None] * se_y, xy * se_x[:, None] * se_y
    )


def _with_blocks(
    rest: Array, variance_x: Array, variance_y: Array, covariance: Array
) -> tuple[Array, Array]:
    """Transform the two errors of each mutation to the variances and covariance given.

    Mixed with the blocks themselves, such draws give a positive definite matrix.
    """
    df, n = len(rest) - 1, rest.shape[1] // 2
    x, y = _unit(rest[:, :n], df), _unit(rest[:, n:], df)
    y = _unit(y - (x * y).sum(axis=0) / df * x, df)
    sd_x = np.sqrt(variance_x)
    slope = covariance / sd_x
    return sd_x * x, slope * x + np.sqrt(variance_y - slope * slope) * y


def _unit(draws: Array, df: int) -> Array:
    """Scale to variance 1; what hardly varies becomes 0."""
    sd = np.sqrt((draws * draws).sum(axis=0) / df)
    return np.asarray(draws * np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 1e-6))


def common_factors(z: Array, rho: Array) -> tuple[Array, Array]:
    """Principal components of standardised draws that stand above noise.

    Parameters
    ----------
    z : ndarray, shape (draws, 2 mutations)
        Mean 0 and variance 1; the x errors, then the y errors.
    rho : ndarray, shape (mutations,)
        Correlation of the two errors of each mutation.

    Returns
    -------
    basis : ndarray, shape (draws, factors)
        Orthonormal.
    factors : ndarray, shape (factors, 2 mutations)
        Their loadings, lowered by the noise.
    """
    n_draws, n = len(z), len(rho)
    df = n_draws - 1
    most = min(df // 2, n)
    if n_draws <= 2 * n:
        values, vectors = np.linalg.eigh(z @ z.T / df)
        values, vectors = values[::-1], vectors[:, ::-1][:, :most]
    else:
        values, loadings = np.linalg.eigh(z.T @ z / df)
        values, loadings = values[::-1], loadings[:, ::-1][:, :most]
        size = np.sqrt(np.maximum(df * values[:most], np.finfo(float).tiny))
        vectors = z @ loadings / size
    own = (np.ones(n), np.ones(n), rho)
    factors = np.zeros((0, 2 * n))
    # Factors taken out lower the edge for those that remain, so more may come into sight.
    while len(factors) < most:
        k = len(factors)
        edge, noise = noise_edge(*own, df - k)
        found = min(int((values > edge).sum()), most)
        if found <= k:
            break
        share = np.maximum(1.0 - noise / values[:found], 0.0)
        factors = np.sqrt(share / df)[:, None] * (vectors[:, :found].T @ z)
        x, y = factors[:, :n], factors[:, n:]
        own = (
            np.maximum(1.0 - (x * x).sum(axis=0), _LEAST_VARIANCE),
            np.maximum(1.0 - (y * y).sum(axis=0), _LEAST_VARIANCE),
            rho - (x * y).sum(axis=0),
        )
    return vectors[:, : len(factors)], factors


def noise_edge(
    variance_x: Array, variance_y: Array, covariance: Array, df: int
) -> tuple[float, float]:
    """Largest eigenvalue of a sample covariance, were the mutations independent.

    Parameters
    ----------
    variance_x, variance_y, covariance : ndarray, shape (mutations,)
        Of the two errors of each mutation.
    df : int
        Degrees of freedom of the sample covariance.

    Returns
    -------
    edge, noise : float
        The edge raised by one Tracy-Widom scale, and what any direction collects on average.
    """
    middle = 0.5 * (variance_x + variance_y)
    radius = np.hypot(0.5 * (variance_x - variance_y), covariance)
    population = np.maximum(np.concatenate([middle + radius, middle - radius]), 0.0)
    noise = float(population.sum()) / df
    spread = float((population * population).sum()) / df

    def slope(g: float) -> float:
        term = population / (1.0 - g * population)
        return float((term * term).sum()) / df - 1.0 / (g * g)

    largest = float(population.max())
    # Below the lower end 1/g^2 outweighs even a population of `largest` alone.
    low = (1.0 - 1e-9) / (largest + np.sqrt(spread))
    g = brentq(slope, low, (1.0 - 1e-9) / largest, xtol=1e-12)
    edge = 1.0 / g + float((population / (1.0 - g * population)).sum()) / df
    return edge + np.sqrt(spread) * df ** (-2.0 / 3.0), noise
