r"""Cluster-robust standard errors: sequences of a chromosome may depend on each other in any way.

The working model is that of `deepmr.meta.regression.meta_regression`, independent errors with
variances phi = v + tau2 and weights W = 1/phi; what it says of the scatter is not believed. With
residuals r and M = (X'WX)^-1,

    cov = M [sum_c X_c'W_c A_c r_c r_c'A_c'W_c X_c] M.

CR1 (Hedges, Tipton and Johnson, Res Synth Methods 2010;1:39): A_c = sqrt(m/(m - p)) for m clusters
and p coefficients, t with m - p degrees of freedom (metafor's `robust`).

CR2 (Bell and McCaffrey, Surv Methodol 2002;28:169; Pustejovsky and Tipton, J Bus Econ Stat
2018;36:672): A_c makes the covariance right if the working model is,

    A_c (Phi_c - X_c M X_c') A_c' = Phi_c,    A_c = Phi^1/2 T^-1/2 Phi^1/2,
    T = Phi (I - Z M Z') Phi,                 Z = Phi^-1/2 X_c,

with Satterthwaite's degrees of freedom under that model, 2 E[var]^2/Var[var], which few or unequal
clusters make small. Below 4 a p-value is not to be trusted (Tipton, Psychol Methods 2015;20:375).

A chromosome holds thousands of sequences, so T is neither built nor decomposed. It is diagonal
minus rank p, and what is needed is T^-1/2 B for p columns B:

    T^-1/2 = (2/pi) int_0^oo (T + s^2 I)^-1 ds,

by the trapezoidal rule after the substitution s = sqrt(l) sc(u), with Jacobi's elliptic functions,
whose error falls exponentially (Hale, Higham and Trefethen, SIAM J Numer Anal 2008;46:2505). Each
node is a diagonal and a p x p system, O(k p^2) for all clusters together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ellipj, ellipkm1

from deepmr.meta.combine import random_effects
from deepmr.meta.heterogeneity import check_method
from deepmr.meta.intervals import check_prediction, prediction_df
from deepmr.meta.regression.design import Data, complete_cases
from deepmr.meta.regression.residual_heterogeneity import (
    INSEPARABLE,
    SEPARATE,
    WeightedFit,
    residual_tau2,
    weighted_fit,
)
from deepmr.meta.result import Array, Result
from deepmr.mr.drawwise import student_interval

KINDS = ("CR1", "CR2")
_FEW_DF = 4.0
_LEVERAGE_1 = 1e-9
"""A cluster whose leverage in some direction is 1 up to this determines a coefficient alone."""
_RIDGE = 1e-14
"""Relative to 1, the weighted squares of all clusters together."""
_PRECISION = 36.0
"""The rule stops where its error is exp(-36)."""


@dataclass(frozen=True, eq=False)
class Robust:
    """A meta-analysis or meta-regression with a cluster-robust covariance.

    Attributes
    ----------
    names : tuple of str
        Of the p coefficients.
    coefficients, se, ci_low, ci_high, p_value, df : ndarray, shape (p,)
        With the 95 % interval and p-value of Student's t with `df` degrees of freedom. NaN where
        the status leaves no number.
    cov : ndarray, shape (p, p)
    tau2 : float
        Variance between sequences in the working model.
    k, n_clusters, n_dropped : int
        Sequences and clusters used, sequences left out.
    kind : str
        ``CR1`` or ``CR2``.
    status : str
        ``ok``; ``few_clusters`` (fewer than 4 degrees of freedom); ``few_sequences``; without
        numbers ``no_sequences``, ``single_sequence``, ``single_cluster``, ``too_few_clusters``
        (not more than coefficients), ``too_few_sequences``, ``constant_covariate`` and
        ``collinear_covariates``.
    reason : str
        In words; empty where there is nothing to say.
    """

    names: tuple[str, ...]
    coefficients: Array
    se: Array
    ci_low: Array
    ci_high: Array
    p_value: Array
    df: Array
    cov: Array
    tau2: float
    k: int
    n_clusters: int
    n_dropped: int
    kind: str
    status: str
    reason: str
    pooled: Result | None

    @property
    def result(self) -> Result:
        """The global effect, where there are no covariates.

        Heterogeneity is that of the working model; `test` is `kind`.

        Raises
        ------
        ValueError
            If there was a design.
        """
        if self.pooled is None:
            raise ValueError("a regression on a design has coefficients, not one global effect")
        return self.pooled


def cluster_robust(
    estimates: ArrayLike,
    variances: ArrayLike,
    clusters: ArrayLike,
    design: ArrayLike | None = None,
    method: str = "REML",
    kind: str = "CR2",
    names: Sequence[str] | None = None,
    prediction: str = "metafor",
) -> Robust:
    """Combine estimates that may depend on each other within clusters.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,)
        Estimates and their squared standard errors. Those that cannot be used are left out and
        counted (see `deepmr.meta.combine.usable`).
    clusters : array_like, shape (k,)
        Label of each sequence's cluster, such as its chromosome; None or NaN is unknown, and the
        sequence is left out. Clusters are taken as independent of each other.
    design : array_like, shape (k, p), optional
        With its column of ones; by default an intercept only.
    method : str
        Estimator of tau2 in the working model (see `deepmr.meta.heterogeneity`).
    kind : str
        ``CR1`` or ``CR2``.
    names : sequence of str, optional
        Of the columns of the design.
    prediction : str
        Convention of the prediction interval of `Robust.result` (see `deepmr.meta.intervals`).

    Returns
    -------
    Robust

    Raises
    ------
    ValueError
        If kind, method or prediction is unknown or shapes disagree.
    """
    check_method(method)
    check_prediction(prediction)
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; write one of {', '.join(KINDS)}")
    y = np.asarray(estimates, dtype=np.float64)
    labels = np.asarray(clusters, dtype=object)
    if y.ndim != 1 or labels.shape != y.shape:
        raise ValueError(
            "estimates and clusters must both have shape (k,), a label for each estimate; found "
            f"{y.shape} and {labels.shape}"
        )
    codes, _ = pd.factorize(labels)
    x = np.ones((y.size, 1)) if design is None else design
    data = complete_cases(y, variances, x, names, codes >= 0, "the cluster is unknown")
    codes, found = pd.factorize(codes[data.kept])
    n_clusters, p = len(found), len(data.names)
    status, reason = _shortage(data, n_clusters, plain=design is None)
    numbers = {name: np.full(p, np.nan) for name in ("coefficients", "se", "df")}
    cov, tau2 = np.full((p, p), np.nan), np.nan
    if not status:
        tau2 = float(residual_tau2(data.y, data.v, data.q, method)[0])
        fit = weighted_fit(data.y, 1.0 / (data.v + tau2), data.q)
        if fit.separation[0] < SEPARATE:
            status, tau2, reason = "collinear_covariates", np.nan, _joined(reason, INSEPARABLE)
    if not status:
        status = data.status
        numbers["coefficients"], cov, numbers["df"] = _sandwich(
            data, fit, _Clusters(codes.astype(np.int64), n_clusters), kind
        )
        numbers["se"] = np.sqrt(np.diagonal(cov))
        if not numbers["se"].all():
            reason = _joined(reason, "a standard error is 0: there are no residuals")
        if (numbers["df"] < _FEW_DF).any():
            status = "few_clusters"
            least = float(numbers["df"].min())
            reason = _joined(
                reason,
                f"{n_clusters} clusters leave {least:.1f} degrees of freedom; p-values and "
                f"intervals are not to be trusted below {_FEW_DF:.0f}",
            )
    low, high, p_value = student_interval(numbers["coefficients"], numbers["se"], numbers["df"])
    robust = Robust(
        names=data.names,
        **numbers,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        cov=cov,
        tau2=tau2,
        k=data.k,
        n_clusters=n_clusters,
        n_dropped=data.n_dropped,
        kind=kind,
        status=status,
        reason=reason,
        pooled=None,
    )
    if design is not None:
        return robust
    return replace(robust, pooled=_pooled(robust, data, method, prediction))


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)


def _shortage(data: Data, n_clusters: int, plain: bool) -> tuple[str, str]:
    """Return the status, empty if there is enough of everything, and the reason."""
    if plain and data.k == 1:
        one = "a single sequence tells nothing of the scatter of clusters"
        return "single_sequence", _joined(data.left_out, one)
    if not data.solvable:
        return data.status, data.reason
    if n_clusters == 1:
        only = "all sequences are of one cluster; the scatter between clusters is unknown"
        return "single_cluster", _joined(data.reason, only)
    p = len(data.names)
    if n_clusters <= p:
        few = f"{n_clusters} clusters do not determine {p} coefficients and their scatter"
        return "too_few_clusters", _joined(data.reason, few)
    return "", data.reason


def _pooled(robust: Robust, data: Data, method: str, prediction: str) -> Result:
    """Return the global effect with the heterogeneity of the working model."""
    labels: dict[str, Any] = {
        "k": robust.k,
        "n_dropped": robust.n_dropped,
        "status": robust.status,
        "reason": robust.reason,
        "test": robust.kind,
    }
    if np.isnan(robust.tau2):
        return Result(**labels)
    working = random_effects(data.y[0], data.v[0], method, prediction=prediction)
    names = {"estimate": "coefficients"} | {
        name: name for name in ("se", "ci_low", "ci_high", "p_value", "df")
    }
    values: dict[str, Any] = {name: float(getattr(robust, of)[0]) for name, of in names.items()}
    if method != "FE":
        df = prediction_df(prediction, robust.k, values["df"])
        spread = np.sqrt(robust.tau2 + values["se"] ** 2)
        low, high, _ = student_interval(np.asarray(values["estimate"]), spread, df)
        values |= {"pi_low": float(low), "pi_high": float(high)}
    return replace(working, **values, **labels)


class _Clusters:
    """Sums over the members of clusters."""

    def __init__(self, codes: NDArray[np.int64], count: int) -> None:
        self.codes, self.count = codes, count
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.searchsorted(codes[self._order], np.arange(count))

    def sum(self, values: Array) -> Array:
        """Sum (k, ...) to (clusters, ...)."""
        return np.asarray(np.add.reduceat(values[self._order], self._starts, axis=0))

    def least(self, values: Array) -> Array:
        """Minimum of (k,) in each cluster."""
        return np.asarray(np.minimum.reduceat(values[self._order], self._starts))

    def products(self, left: Array, right: Array) -> Array:
        """Sum the outer products of (k, p) and (k, m) to (clusters, p, m)."""
        return self.sum(left[:, :, None] * right[:, None, :])


def _sandwich(
    data: Data, fit: WeightedFit, clusters: _Clusters, kind: str
) -> tuple[Array, Array, Array]:
    """Return the coefficients of the design, their covariance and degrees of freedom."""
    phi, m, p = 1.0 / fit.weights[0], clusters.count, len(data.names)
    inverse = np.linalg.inv(fit.triangle[0])
    # In these columns X'WX is 1, and M too.
    x = np.einsum("ki,ij->kj", data.q, inverse)
    to_names = np.einsum("ij,jk->ik", data.to_names, inverse)
    if kind == "CR1":
        weighted = np.sqrt(m / (m - p)) * x / phi[:, None]
        df = np.full(p, float(m - p))
    else:
        weighted = _adjusted(x, phi, clusters)
        df = np.array([_satterthwaite(weighted, row, x, phi, clusters) for row in to_names])
    scores = clusters.sum(weighted * fit.residuals[0][:, None])
    pushes = np.einsum("ij,cj->ci", to_names, scores)
    cov = np.einsum("ci,cj->ij", pushes, pushes)
    return np.einsum("ij,j->i", data.to_names, fit.coefficients[0]), cov, df


def _satterthwaite(weighted: Array, row: Array, x: Array, phi: Array, clusters: _Clusters) -> float:
    """Return 2 E^2/Var of the variance of one coefficient under the working model.

    The pushes of the clusters on it have the covariance diag(d) - B B', with d and B as below.
    """
    s = np.einsum("kj,j->k", weighted, row)
    d = clusters.sum(phi * s * s)
    b = clusters.sum(x * s[:, None])
    own, inner = (b * b).sum(axis=1), np.einsum("ci,cj->ij", b, b)
    expected = (d - own).sum()
    if not expected > _LEVERAGE_1 * d.sum():
        # Rounding is all that is left where every cluster determines a coefficient alone.
        return 0.0
    squares = (d * d).sum() - 2.0 * (d * own).sum() + (inner * inner).sum()
    # Not below the sum of the squared diagonal, whatever the rounding.
    return float(expected**2 / max(squares, expected**2 / clusters.count))


def _adjusted(x: Array, phi: Array, clusters: _Clusters) -> Array:
    """Return A_c W_c X_c of all clusters, shape (k, p), where X'WX is 1."""
    root = np.sqrt(phi)[:, None]
    right, update, one = x / root, x * root, np.eye(x.shape[1])
    leverage, without = _leverage(right, clusters)
    # Eigenvalues of T lie between these; T is 0 in the directions that `without` takes away.
    least = clusters.least(phi) ** 2 * (1.0 - leverage)
    most = clusters.least(-phi) ** 2
    if without is not None:
        flat = np.einsum("ki,kij->kj", right / phi[:, None], without[clusters.codes])
        inside = np.linalg.pinv(clusters.products(flat, flat), hermitian=True)

        def project(values: Array) -> Array:
            share = inside @ clusters.products(flat, values)
            return np.asarray(values - np.einsum("ki,kij->kj", flat, share[clusters.codes]))

    else:

        def project(values: Array) -> Array:
            return values

    right = project(right)
    nodes, weights = _quadrature(least, most)
    result = np.zeros_like(x)
    for node, weight in zip(nodes, weights, strict=True):
        diagonal = (phi * phi + (node * node)[clusters.codes])[:, None]
        part = right / diagonal
        # Above 0, so that a direction which is projected away can be solved too.
        inner = (1.0 + _RIDGE) * one - clusters.products(update / diagonal, update)
        solved = np.linalg.solve(inner, clusters.products(update, part))
        part += np.einsum("ki,kij->kj", update / diagonal, solved[clusters.codes])
        result += weight[clusters.codes][:, None] * part
    return root * project(result)


def _leverage(z: Array, clusters: _Clusters) -> tuple[Array, Array | None]:
    """Return each cluster's largest leverage below 1, and its directions of leverage 1.

    Directions are columns d (clusters, p, p), 0 where there are none, with Z d the eigenvectors
    of Z Z' that have the eigenvalue 1.
    """
    shares, vectors = np.linalg.eigh(clusters.products(z, z))
    alone = shares > 1.0 - _LEVERAGE_1
    largest = np.clip(np.where(alone, 0.0, shares).max(axis=1), 0.0, None)
    if not alone.any():
        return largest, None
    return largest, np.asarray(vectors * alone[:, None, :])


def _quadrature(least: Array, most: Array) -> tuple[Array, Array]:
    """Return nodes s and weights of the integral, shape (nodes, clusters).

    Parameters
    ----------
    least, most : ndarray, shape (clusters,)
        Bounds of the eigenvalues.
    """
    ratio = least / most
    count = int(np.ceil(_PRECISION * (3.0 - np.log(ratio.min())) / (2.0 * np.pi**2)))
    period = ellipkm1(ratio)
    u = (np.arange(count)[:, None] + 0.5) * period / count
    # cn(u) is small near the end of the period; from there it is taken from the other end.
    late = u > period / 2.0
    sn, cn, dn, _ = ellipj(np.where(late, period - u, u), 1.0 - ratio)
    nodes = np.where(late, cn / (np.sqrt(ratio) * sn), sn / cn)
    slope = np.where(late, dn / (np.sqrt(ratio) * sn * sn), dn / (cn * cn))
    return np.sqrt(least) * nodes, 2.0 * period * np.sqrt(least) / (np.pi * count) * slope
