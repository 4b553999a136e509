"""What a meta-regression is made of: complete cases, and a design that can be solved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.meta.combine import usable
from deepmr.meta.result import Array

_DEPENDENT = 1e-7
"""A column of which less than this share of its length is left after the others depends on them
(the tolerance of R's `lm`)."""


@dataclass(frozen=True, eq=False)
class Data:
    """Sequences of which everything is known; without numbers if the status is not ok.

    Attributes
    ----------
    y, v : ndarray, shape (rows, k)
        Estimates and variances.
    q : ndarray, shape (k, p)
        Orthonormal basis of the columns of the design (empty where there is none).
    to_names : ndarray, shape (p, p)
        Coefficients of the design are ``to_names @`` those of the basis.
    names : tuple of str
        Of the columns.
    intercept : int or None
        Column that is constant.
    kept : ndarray of bool, shape (sequences,)
        Sequences used.
    n_dropped : int
        Those left out.
    left_out : str
        Why they were; empty if none were.
    status, reason : str
        ``ok``, ``few_sequences``, ``no_sequences``, ``too_few_sequences``,
        ``constant_covariate`` or ``collinear_covariates``, and in words.
    """

    y: Array
    v: Array
    q: Array
    to_names: Array
    names: tuple[str, ...]
    intercept: int | None
    kept: NDArray[np.bool_]
    n_dropped: int
    left_out: str
    status: str
    reason: str

    @property
    def k(self) -> int:
        """Sequences used."""
        return self.y.shape[1]

    @property
    def solvable(self) -> bool:
        """Whether there is something to fit."""
        return self.status in ("ok", "few_sequences")

    @property
    def tested(self) -> NDArray[np.int64]:
        """Columns other than the intercept."""
        columns = np.arange(len(self.names))
        return columns if self.intercept is None else columns[columns != self.intercept]


def complete_cases(
    estimates: ArrayLike,
    variances: ArrayLike,
    design: ArrayLike,
    names: Sequence[str] | None = None,
    also_known: NDArray[np.bool_] | None = None,
    also: str = "",
) -> Data:
    """Leave out what cannot be used and make the design orthonormal.

    Parameters
    ----------
    estimates, variances : array_like, shape (k,) or (rows, k)
        Estimates and their squared standard errors.
    design : array_like, shape (k, p)
        With its column of ones, if there is to be an intercept.
    names : sequence of str, optional
        Of the columns; by default ``intercept``, ``x1``, ...
    also_known : ndarray of bool, shape (k,), optional
        False for sequences that lack something else.
    also : str
        What they lack, for the reason.

    Returns
    -------
    Data

    Raises
    ------
    ValueError
        If shapes or names disagree.
    """
    y, v = (np.atleast_2d(np.asarray(a, dtype=np.float64)) for a in (estimates, variances))
    x = np.asarray(design, dtype=np.float64)
    if y.ndim != 2 or y.shape != v.shape:
        raise ValueError(
            "estimates and variances must both have shape (k,) or (rows, k); found "
            f"{np.shape(estimates)} and {np.shape(variances)}"
        )
    if x.ndim != 2 or len(x) != y.shape[1] or not x.shape[1]:
        raise ValueError(
            f"design must have shape (k, p) with k = {y.shape[1]} sequences, a column for each "
            f"coefficient and one of ones for an intercept; found shape {x.shape}"
        )
    kept, reason = usable(y, v)
    reasons = [reason] if reason else []
    known = np.isfinite(x).all(axis=1)
    for have, lack in ((known, "a covariate is missing or infinite"), (also_known, also)):
        if have is None:
            continue
        lost = int((kept & ~have).sum())
        if lost:
            reasons.append(f"{lost} of {kept.size} sequences left out: {lack}")
        kept = kept & have
    left_out = "; ".join(reasons)
    intercept = _intercept(x[known])
    labels = _names(names, x.shape[1], intercept)
    # Contiguous, so that sums of a row do not depend on the other rows.
    x, y, v = (np.ascontiguousarray(a) for a in (x[kept], y[:, kept], v[:, kept]))
    k, p = x.shape
    constant = (x == x[:1]).all(axis=0)
    q, to_names, problem = np.empty((k, 0)), np.empty((p, 0)), None
    if not k:
        problem = "no_sequences", "no sequence to combine"
    elif k <= p:
        problem = (
            "too_few_sequences",
            f"{k} sequences do not determine {p} coefficients and their scatter; "
            f"at least {p + 1} are needed",
        )
    else:
        constant[[] if intercept is None else [intercept]] = False
        q, to_names, dependent = _orthonormal(x)
        if constant.any():
            named = ", ".join(labels[j] for j in np.flatnonzero(constant))
            problem = "constant_covariate", f"the same in all {k} sequences: {named}"
        elif dependent:
            named = ", ".join(labels[j] for j in dependent)
            problem = (
                "collinear_covariates",
                f"determined by the columns before it: {named}; leave it out",
            )
    status = problem[0] if problem else "few_sequences" if k == p + 1 else "ok"
    if problem:
        reasons.append(problem[1])
    elif status == "few_sequences":
        reasons.append(f"{k} sequences and {p} coefficients hardly tell the scatter of the effects")
    return Data(
        y, v, q, to_names, labels, intercept, kept,
        int((~kept).sum()), left_out, status, "; ".join(reasons),
    )  # fmt: skip


def _intercept(x: Array) -> int | None:
    """Return the first column of ones, else the first that is constant and not 0."""
    for same in ((x == 1.0).all(axis=0), ((x == x[:1]) & (x != 0.0)).all(axis=0)):
        if same.any():
            return int(np.argmax(same))
    return None


def _names(names: Sequence[str] | None, p: int, intercept: int | None) -> tuple[str, ...]:
    if names is None:
        return tuple("intercept" if j == intercept else f"x{j}" for j in range(p))
    if len(names) != p or len(set(names)) != p:
        raise ValueError(f"names must be {p} different names, one a column; found {list(names)}")
    return tuple(names)


def _orthonormal(x: Array) -> tuple[Array, Array, list[int]]:
    """Return an orthonormal basis, the matrix back to the columns, and the dependent columns.

    Gram and Schmidt's way, each step made twice so that rounding does not matter; its sums do not
    depend on the number of threads.
    """
    k, p = x.shape
    basis: list[Array] = []
    triangle = np.zeros((p, p))
    dependent = []
    for j in range(p):
        size = float(np.abs(x[:, j]).max())
        rest = x[:, j] / size if size else x[:, j].copy()
        length = float(np.sqrt((rest * rest).sum()))
        for _ in range(2):
            for i, column in enumerate(basis):
                share = float((column * rest).sum())
                triangle[i, j] += share * size
                rest = rest - share * column
        left = float(np.sqrt((rest * rest).sum()))
        if left <= _DEPENDENT * length:
            dependent.append(j)
            continue
        triangle[len(basis), j] = left * size
        basis.append(rest / left)
    if dependent:
        return np.empty((k, 0)), np.empty((p, 0)), dependent
    return np.stack(basis, axis=1), np.asarray(np.linalg.inv(triangle), dtype=np.float64), dependent
