"""What `estimate_multivariable` is given: checked, freed of unusable instruments, and grouped.

What is wrong for all sequences (shapes, a shared correlation matrix) raises; what is wrong in one
becomes its status, so that a batch never ends because of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepmr.mr.estimator import Array
from deepmr.mr.multivariable.fits import Exposures
from deepmr.mr.multivariable.least_squares import collinear

_CHUNK_ELEMENTS = 500_000
_TOLERANCE = 1e-8
_HUGE = 1e300


@dataclass(frozen=True, eq=False)
class MultivariableInput:
    """Checked effects of all sequences.

    Attributes
    ----------
    bx, se_x : ndarray, shape (sequences, n, exposures)
        Effects on the exposures and standard errors, NaN where missing.
    by, se_y : ndarray, shape (sequences, n)
        The same for the outcome.
    correlation : ndarray, shape (n, n) or (sequences, n, n), or None
        Correlation of instruments; a matrix for each sequence may still be defective.
    error_correlation : ndarray, shape (exposures + 1, exposures + 1), or None
        Correlation of traits, the outcome last; or (sequences, n, exposures + 1, exposures + 1).
    usable : ndarray of bool, shape (sequences, n)
        Instruments with every value and standard errors > 0.
    status : ndarray of object, shape (sequences,)
        ``ok``, ``too_few_instruments``, ``no_variation`` or ``negative_se``.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    correlation: Array | None
    error_correlation: Array | None
    usable: NDArray[np.bool_]
    status: NDArray[np.object_]

    def groups(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.object_], Exposures]]:
        """Yield sequences that have equally many instruments.

        Yields
        ------
        indices : ndarray of int64
            Sequences of the group.
        reason : ndarray of object
            ``ok``, or why a sequence of the group cannot be estimated.
        data : Exposures
            Effects of those that can, in the order of `indices`.
        """
        width = self.bx.shape[-1] + 2
        ready = np.flatnonzero(self.status == "ok")
        sizes = self.usable.sum(axis=1)
        for size in np.unique(sizes[ready]):
            members = ready[sizes[ready] == size]
            step = max(1, _CHUNK_ELEMENTS // int(size * max(width, self._matrix_width(size))))
            for start in range(0, len(members), step):
                yield self._group(members[start : start + step])

    def _matrix_width(self, size: int) -> int:
        return 0 if self.correlation is None else size

    def _group(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.object_], Exposures]:
        rows = [np.flatnonzero(self.usable[i]) for i in indices]

        def taken(values: Array) -> Array:
            return np.stack([values[i][r] for i, r in zip(indices, rows, strict=True)])

        bx = taken(self.bx)
        reason = np.where(collinear(bx), "collinear_exposures", "ok").astype(object)
        correlation = None
        if self.correlation is not None:
            shared = self.correlation.ndim == 2
            correlation = np.stack(
                [
                    (self.correlation if shared else self.correlation[i])[np.ix_(r, r)]
                    for i, r in zip(indices, rows, strict=True)
                ]
            )
            for j in np.flatnonzero(reason == "ok"):
                defect = _defect(correlation[j])
                reason[j] = f"correlation_{defect}" if defect else "ok"
        good = reason == "ok"
        errors = self.error_correlation
        if errors is not None and errors.ndim == 4:
            errors = taken(errors)[good]
        data = Exposures(
            bx[good],
            taken(self.se_x)[good],
            taken(self.by)[good],
            taken(self.se_y)[good],
            None if correlation is None else correlation[good],
            errors,
        )
        return indices, reason, data


def checked_input(
    bx: ArrayLike,
    se_x: ArrayLike,
    by: ArrayLike,
    se_y: ArrayLike,
    correlation: ArrayLike | None,
    error_correlation: ArrayLike | None,
) -> MultivariableInput:
    """Check the arguments of `estimate_multivariable`, and tell which instruments are usable.

    Raises
    ------
    ValueError
        If shapes disagree, there are too many exposures for any sequence, or a correlation that
        is the same for all sequences is none.
    """
    x = np.asarray(bx, dtype=np.float64)
    if x.ndim not in (2, 3):
        raise ValueError(f"bx must be (n, exposures) or (sequences, n, exposures); found {x.shape}")
    single = x.ndim == 2
    effects = [
        _shaped(name, values, shape, single)
        for name, values, shape in (
            ("bx", bx, x.shape),
            ("se_x", se_x, x.shape),
            ("by", by, x.shape[:-1]),
            ("se_y", se_y, x.shape[:-1]),
        )
    ]
    count, n, k = effects[0].shape
    if k == 0:
        raise ValueError(f"bx holds no exposure; its shape is {x.shape}")
    if k >= n:
        raise ValueError(
            f"too many exposures: {k} of them need at least {k + 1} instruments and bx has room "
            f"for {n}; is it transposed?"
        )
    between = _instrument_correlation(correlation, single, count, n)
    within = _error_correlation(error_correlation, single, count, n, k)
    if between is not None and within is not None and within.ndim == 4:
        raise ValueError(
            "error_correlation must be one matrix where correlation is given: the covariance of "
            "two instruments would need the correlation of their effects on different exposures"
        )
    return MultivariableInput(
        effects[0], effects[1], effects[2], effects[3], between, within, *_usable(effects)
    )


def _usable(arrays: list[Array]) -> tuple[NDArray[np.bool_], NDArray[np.object_]]:
    """Return which instruments can be used, (sequences, n), and the status of each sequence."""
    bx, se_x, by, se_y = arrays
    present = ~(np.isnan(bx).all(axis=-1) & np.isnan(by))
    usable = np.isfinite(se_x).all(axis=-1) & np.isfinite(se_y)
    usable &= (se_x > 0).all(axis=-1) & (se_y > 0)
    # Squares of what enters the sums must be numbers too.
    with np.errstate(all="ignore"):
        for scaled in (bx / se_y[..., None], bx / se_x, se_x / se_y[..., None]):
            usable &= (scaled * scaled < _HUGE).all(axis=-1)
        for scaled in (by / se_y, 1.0 / se_y):
            usable &= scaled * scaled < _HUGE
    sizes = usable.sum(axis=1)
    status = np.full(len(bx), "ok", dtype=object)
    status[sizes <= bx.shape[-1]] = "too_few_instruments"
    status[(sizes == 0) & present.any(axis=1)] = "no_variation"
    status[(se_x < 0).any(axis=(1, 2)) | (se_y < 0).any(axis=1)] = "negative_se"
    return usable, status


def _shaped(name: str, values: ArrayLike, shape: tuple[int, ...], single: bool) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, as bx has it; found {array.shape}")
    return np.ascontiguousarray(array[None] if single else array)


def _instrument_correlation(
    correlation: ArrayLike | None, single: bool, count: int, n: int
) -> Array | None:
    """Return the correlation of instruments, (n, n) for all or (sequences, n, n)."""
    if correlation is None:
        return None
    matrix = np.asarray(correlation, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = np.where(np.eye(n) == 1, 1.0, matrix)
    if matrix.shape == (n, n):
        # Instruments that a sequence lacks may be missing in the matrix too.
        known = np.flatnonzero(np.isfinite(np.diagonal(matrix)))
        defect = _defect(matrix[np.ix_(known, known)])
        if defect:
            raise ValueError(f"correlation is {defect.replace('_', ' ')}")
        return matrix
    if single or matrix.shape != (count, n, n):
        expected = f"({n}, {n})" + ("" if single else f" or ({count}, {n}, {n})")
        raise ValueError(f"correlation must be a number or {expected}; found {matrix.shape}")
    return matrix


def _error_correlation(
    error_correlation: ArrayLike | None, single: bool, count: int, n: int, k: int
) -> Array | None:
    """Return the correlation of traits with the outcome last, for all or (sequences, n, ., .)."""
    if error_correlation is None:
        return None
    matrix = np.asarray(error_correlation, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = np.where(np.eye(k) == 1, 1.0, matrix)
    lead = (n,) if single else (count, n)
    if matrix.shape[-2:] not in ((k, k), (k + 1, k + 1)) or matrix.shape[:-2] not in ((), lead):
        raise ValueError(
            f"error_correlation must be a number, ({k}, {k}) or, with the outcome last, "
            f"({k + 1}, {k + 1}), alone or after {lead}; found {matrix.shape}"
        )
    if matrix.shape[-1] == k:
        full = np.zeros((*matrix.shape[:-2], k + 1, k + 1))
        full[..., :k, :k] = matrix
        full[..., k, k] = 1.0
        matrix = full
    if matrix.ndim == 2:
        defect = _defect(matrix)
        if defect:
            raise ValueError(f"error_correlation is {defect.replace('_', ' ')}")
        return matrix
    # Padded instruments may have no correlation; they are left out anyway.
    known = np.asarray(np.isfinite(matrix).all(axis=(-2, -1)))
    given = matrix[known]
    even = np.allclose(given, np.swapaxes(given, -1, -2), rtol=0, atol=_TOLERANCE)
    one = np.allclose(np.diagonal(given, axis1=-2, axis2=-1), 1.0, rtol=0, atol=_TOLERANCE)
    if not even or not one or (np.abs(given) > 1.0 + _TOLERANCE).any():
        raise ValueError(
            "error_correlation must be symmetric, 1 on the diagonal and within -1 and 1 for every "
            "instrument"
        )
    matrix = np.where(known[..., None, None], matrix, np.eye(k + 1))
    return matrix[None] if single else matrix


def _defect(matrix: Array) -> str | None:
    """Say why this is no correlation matrix: ``not_symmetric``, ``not_positive_definite``."""
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T, rtol=0, atol=_TOLERANCE):
        return "not_symmetric"
    if not np.allclose(np.diagonal(matrix), 1.0, rtol=0, atol=_TOLERANCE):
        return "not_positive_definite"
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return "not_positive_definite"
    return None
