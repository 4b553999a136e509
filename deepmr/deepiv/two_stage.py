r"""Two-stage least squares, what Deep IV is compared with: linear, and with polynomials.

Linear: y = theta x + b'[1, c] + e with instruments [z, 1, c]. The covariates are projected out of
all three first (Frisch and Waugh 1933, Econometrica 1:387; Lovell 1963, J Am Stat Assoc 58:993), so

    theta = sum x^ y / sum x^ x,   x^ = the projection of x on z,

with textbook standard errors, s^2/sum x^^2 and n - p degrees of freedom, or cluster-robust ones,

    sqrt(G/(G - 1) (n - 1)/(n - p) sum_g (sum_{i in g} x^_i e_i)^2) / sum x^^2,   G - 1 degrees

of freedom (Cameron and Miller 2015, J Hum Resour 50:317, section VII). One slope for all contexts:
where the effect depends on the context this is a weighted average, of weights that are Var(x^|c)
only if E[z|c] is linear in c (Angrist and Imbens 1995, J Am Stat Assoc 90:431).

Polynomial: ridge regression on polynomials in each stage, degree and penalty by cross-validation,
as in the experiments of Hartford et al. (ICML 2017). Its second stage reads the *predicted*
exposure, and (E[x|z,c])^2 is not E[x^2|z,c]: a baseline that is consistent only where stage 2 is
linear in x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

Array = NDArray[np.float64]

_UNMOVED = 1e-12
"""An exposure of whose squares, given the covariates, z explains no larger share is not moved."""
_SPANNED = 1e-8
"""What other columns leave of a column, up to this share of its length, is rounding."""
_PENALTIES = np.logspace(-5, 5, 11)
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class TwoStage:
    """A linear effect of the exposure, in units of the outcome per unit of the exposure.

    Attributes
    ----------
    estimate, se, df : float
        The effect, its standard error and degrees of freedom.
    ci_low, ci_high, p_value : float
        95 % interval of Student's t and the two-sided p-value that agrees with it.
    f : float
        First-stage F of the instruments given the covariates; with clusters their cluster-robust
        Wald statistic over their number.
    covariate_slopes : ndarray, shape (p,)
        Of the covariates, and with `intercept` the rest of the outcome's equation.
    intercept : float

    Notes
    -----
    All but `f` is NaN where the instruments do not move the exposure given the covariates; there
    `f` is 0, or NaN if the exposure does not vary given the covariates.
    """

    estimate: float
    se: float
    df: float
    ci_low: float
    ci_high: float
    p_value: float
    f: float
    covariate_slopes: Array
    intercept: float

    def predict(self, p: ArrayLike, covariates: ArrayLike) -> Array:
        """Return the outcome (m,) at exposures `p` (m,) and covariates (m, p)."""
        rest = _matrix("covariates", covariates) @ self.covariate_slopes
        return np.asarray(self.intercept + self.estimate * np.asarray(p, dtype=np.float64) + rest)


@dataclass(frozen=True, eq=False)
class PolynomialTwoStage:
    """Two ridge regressions on polynomials.

    Attributes
    ----------
    treatment, response : GridSearchCV
        Fitted searches of stage 1, on [z, c], and of stage 2, on [predicted x, c]; `best_params_`
        tells the degree (``polynomial__degree``) and penalty (``ridge__alpha``) chosen.
    """

    treatment: GridSearchCV
    response: GridSearchCV

    def predict(self, p: ArrayLike, covariates: ArrayLike) -> Array:
        """Return the outcome (m,) at exposures `p` (m,) and covariates (m, p)."""
        inputs = np.column_stack(
            [np.asarray(p, dtype=np.float64), _matrix("covariates", covariates)]
        )
        return np.asarray(self.response.predict(inputs), dtype=np.float64)

    def effect(self, p0: ArrayLike, p1: ArrayLike, covariates: ArrayLike) -> Array:
        """Return the change (m,) of the outcome as the exposure goes from `p0` to `p1`.

        Parameters
        ----------
        p0, p1 : array_like, shape (m,) or one number
            Exposures.
        covariates : array_like, shape (m, p)
        """
        c = _matrix("covariates", covariates)
        high, low = (np.broadcast_to(np.asarray(p, dtype=np.float64), len(c)) for p in (p1, p0))
        return self.predict(high, c) - self.predict(low, c)


def two_stage_least_squares(
    y: ArrayLike,
    x: ArrayLike,
    z: ArrayLike,
    covariates: ArrayLike,
    clusters: ArrayLike | None = None,
) -> TwoStage:
    """Estimate a linear effect by two-stage least squares.

    Parameters
    ----------
    y, x : array_like, shape (n,)
        Outcome and exposure.
    z : array_like, shape (n, k)
        Instruments. Columns that the others or the covariates make up count for nothing.
    covariates : array_like, shape (n, p)
        Without a column of ones, which is added; p may be 0, and columns may be collinear.
    clusters : array_like, shape (n,), optional
        Label of each row's cluster; without them errors are taken as independent with one
        variance.

    Returns
    -------
    TwoStage

    Raises
    ------
    ValueError
        If shapes disagree, a number is not finite, there are not more rows than coefficients, or
        not more clusters than instruments.
    """
    outcome, exposure, instruments, c = _data(y, x, z, covariates)
    centre, scale = c.mean(axis=0), _spread(c)
    known = _basis(np.column_stack([np.ones(len(c)), (c - centre) / scale]))
    free = _basis(_without(known, instruments), _SPANNED * np.linalg.norm(instruments, axis=0))
    n, n_known, k = outcome.size, known.shape[1], free.shape[1]
    if n <= n_known + max(k, 1):
        raise ValueError(
            f"{n} rows do not determine {n_known + k} coefficients of stage 1; leave covariates "
            "out or give more rows"
        )
    label = None if clusters is None else _labels(clusters, n, k)
    x_rest, y_rest = _without(known, exposure), _without(known, outcome)
    x_hat = free @ (free.T @ x_rest)
    moved = float(x_hat @ x_hat)
    df = float(n - n_known - 1 if label is None else label.max())
    varies = np.ptp(exposure) > 0.0 and np.linalg.norm(x_rest) > _SPANNED * exposure.std() * n**0.5
    f = _first_stage_f(x_rest, free, n_known, label) if varies else np.nan
    if not (varies and moved > _UNMOVED * float(x_rest @ x_rest)):
        nan = np.nan
        return TwoStage(nan, nan, df, nan, nan, nan, f, np.full(c.shape[1], nan), nan)
    estimate = float(x_hat @ y_rest) / moved
    residual = y_rest - estimate * x_rest
    if label is None:
        se = float(np.sqrt(residual @ residual / df / moved))
    else:
        scores = np.bincount(label, x_hat * residual)
        se = float(np.sqrt(_small_sample(n, n_known + 1, label) * (scores @ scores))) / moved
    half = float(stdtrit(df, 0.975)) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = float(2.0 * stdtr(df, -np.abs(np.divide(estimate, se))))
    rest = outcome - estimate * exposure
    slopes = np.linalg.lstsq((c - centre) / scale, rest - rest.mean(), rcond=_SPANNED)[0] / scale
    return TwoStage(
        estimate=estimate,
        se=se,
        df=df,
        ci_low=estimate - half,
        ci_high=estimate + half,
        p_value=p_value,
        f=f,
        covariate_slopes=np.asarray(slopes),
        intercept=float(rest.mean() - centre @ slopes),
    )


def polynomial_two_stage(
    y: ArrayLike,
    x: ArrayLike,
    z: ArrayLike,
    covariates: ArrayLike,
    *,
    degrees: Sequence[int] = (1, 2, 3),
    seed: int,
) -> PolynomialTwoStage:
    """Fit ridge regressions on polynomials in two stages.

    Degree and penalty (1e-5 to 1e5) of each stage have the least mean squared error of 5-fold
    cross-validation. Inputs are standardised, so that one penalty suits all of them.

    Parameters
    ----------
    y, x, z, covariates : array_like
        As `two_stage_least_squares`.
    degrees : sequence of int
        Degrees to choose from.
    seed : int
        Decides the folds.

    Returns
    -------
    PolynomialTwoStage

    Raises
    ------
    ValueError
        If shapes disagree, a number is not finite, or there are fewer rows than folds.
    """
    outcome, exposure, instruments, c = _data(y, x, z, covariates)
    if outcome.size < _FOLDS:
        raise ValueError(f"{_FOLDS}-fold cross-validation needs {_FOLDS} rows, got {outcome.size}")
    inputs = np.column_stack([instruments, c])
    treatment = _search(degrees, seed).fit(inputs, exposure)
    predicted = np.column_stack([treatment.predict(inputs), c])
    return PolynomialTwoStage(treatment, _search(degrees, seed).fit(predicted, outcome))


def _search(degrees: Sequence[int], seed: int) -> GridSearchCV:
    model = Pipeline(
        [
            ("scale", StandardScaler()),
            ("polynomial", PolynomialFeatures(include_bias=False)),
            ("ridge", Ridge()),
        ]
    )
    return GridSearchCV(
        model,
        {"polynomial__degree": list(degrees), "ridge__alpha": _PENALTIES},
        scoring="neg_mean_squared_error",
        cv=KFold(_FOLDS, shuffle=True, random_state=seed),
    )


def _matrix(name: str, values: ArrayLike) -> Array:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"{name} must have shape (rows, columns); found {matrix.shape}")
    return matrix


def _data(
    y: ArrayLike, x: ArrayLike, z: ArrayLike, covariates: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    outcome, exposure = (np.asarray(values, dtype=np.float64) for values in (y, x))
    instruments, c = _matrix("z", z), _matrix("covariates", covariates)
    n = outcome.size
    found = {"y": outcome, "x": exposure, "z": instruments, "covariates": c}
    for name, values in found.items():
        if len(values) != n or (values.ndim == 1) != (name in ("y", "x")):
            raise ValueError(
                f"{name} must have a row for each of the {n} of y; found {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds a number that is not finite; leave its row out")
    return outcome, exposure, instruments, c


def _labels(clusters: ArrayLike, n: int, k: int) -> NDArray[np.int64]:
    given = np.asarray(clusters)
    if given.shape != (n,):
        raise ValueError(f"clusters must be a label for each of {n} rows; found {given.shape}")
    label = np.unique(given, return_inverse=True)[1].astype(np.int64)
    if label.max() < max(k, 1):
        raise ValueError(
            f"{label.max() + 1} clusters do not tell the scatter of {k} instruments; leave "
            "instruments out or make smaller clusters"
        )
    return label


def _spread(columns: Array) -> Array:
    """Return standard deviations, 1 where a column is constant up to rounding."""
    spread, size = columns.std(axis=0), np.abs(columns).max(axis=0, initial=0.0)
    return np.where(spread > 1e-12 * size, spread, 1.0)


def _basis(columns: Array, least: ArrayLike = 0.0) -> Array:
    """Return an orthonormal basis (n, rank) of columns, those no longer than `least` left out.

    Every column counts alike, whatever its unit.
    """
    length = np.linalg.norm(columns, axis=0)
    kept = length > np.maximum(least, 0.0)
    left, values, _ = np.linalg.svd(columns[:, kept] / length[kept], full_matrices=False)
    return np.asarray(left[:, values > _SPANNED * values.max(initial=0.0)])


def _without(basis: Array, values: Array) -> Array:
    return np.asarray(values - basis @ (basis.T @ values))


def _small_sample(n: int, n_coefficients: int, label: NDArray[np.int64]) -> float:
    """Return the factor that a cluster-robust variance is corrected by."""
    n_clusters = int(label.max()) + 1
    return n_clusters / (n_clusters - 1) * (n - 1) / (n - n_coefficients)


def _first_stage_f(
    x_rest: Array, free: Array, n_known: int, label: NDArray[np.int64] | None
) -> float:
    """Return F of the instruments; `free` is a basis of what the covariates leave of them."""
    n, k = free.shape
    if k == 0:
        return 0.0
    slopes = free.T @ x_rest
    residual = x_rest - free @ slopes
    if label is None:
        noise = float(residual @ residual) / (n - n_known - k)
        return float(slopes @ slopes) / k / noise if noise > 0.0 else np.inf
    terms = free * residual[:, None]
    scores = np.array([np.bincount(label, column) for column in terms.T])
    scale = _small_sample(n, n_known + k, label)
    return float(slopes @ np.linalg.solve(scale * (scores @ scores.T), slopes)) / k
