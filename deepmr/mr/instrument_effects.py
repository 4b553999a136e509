"""Effects of one sequence's instruments, and what makes them unusable."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.estimator import Array

_PER_INSTRUMENT = ("bx", "se_x", "by", "se_y", "rho_xy", "positions", "alleles")
_PER_DRAW = ("draws_x", "draws_y")

LARGEST = 1e50
"""No effect above this and no standard error above it or below 1/`LARGEST`: beyond what single
precision holds, and their products overflow."""


@dataclass(frozen=True, eq=False)
class Instruments:
    """Effects of one sequence's instruments.

    Attributes
    ----------
    bx, se_x, by, se_y : ndarray of float64, shape (instruments,)
        Effects on exposure and outcome and their standard errors.
    draws_x, draws_y : ndarray of float64, shape (draws, instruments) or None
        The effects in each draw.
    status : str
        ``ok``, or why there is nothing to estimate; then the arrays only give the count.
    rho_xy : ndarray of float64, shape (instruments,) or None
        Correlation of the errors of exposure and outcome effect.
    correlation : ndarray of float64, shape (instruments, instruments) or None
        Correlation of the errors of different instruments.
    positions : ndarray of int64, shape (instruments,) or None
        Position of each in the sequence.
    alleles : ndarray of object, shape (instruments,) or None
        The base that each puts in.
    n_dropped : int
        Instruments left out by :meth:`usable`.
    """

    bx: Array
    se_x: Array
    by: Array
    se_y: Array
    draws_x: Array | None = None
    draws_y: Array | None = None
    status: str = "ok"
    rho_xy: Array | None = None
    correlation: Array | None = None
    positions: NDArray[np.int64] | None = None
    alleles: NDArray[np.object_] | None = None
    n_dropped: int = 0

    @classmethod
    def none(cls, status: str, count: int = 0) -> Instruments:
        """Return a sequence that cannot be estimated, with the number of instruments found."""
        nothing = np.full(count, np.nan)
        return cls(nothing, nothing, nothing, nothing, status=status)

    def usable(self) -> Instruments:
        """Drop instruments that say nothing, and find what makes the whole sequence unusable.

        Left out are instruments with a missing or infinite value or a standard error of 0 (an
        effect that no draw changes would get infinite weight). A negative standard error, or a
        correlation matrix that none can be, is an error of the input and stops the sequence.

        Returns
        -------
        Instruments
            With `n_dropped`, and the status ``no_variation`` (nothing is left), ``negative_se``,
            ``not_finite`` (numbers whose products overflow), ``rho_xy_out_of_range``,
            ``correlation_not_symmetric`` or ``correlation_not_positive_definite``.
        """
        if bool((self.se_x < 0).any() or (self.se_y < 0).any()):
            return replace(self, status="negative_se")
        keep = np.isfinite(self.bx) & np.isfinite(self.by)
        keep &= np.isfinite(self.se_x) & np.isfinite(self.se_y) & (self.se_x > 0) & (self.se_y > 0)
        if self.rho_xy is not None:
            keep &= np.isfinite(self.rho_xy)
        for draws in (self.draws_x, self.draws_y):
            if draws is not None:
                keep &= np.isfinite(draws).all(axis=0)
        kept = self if keep.all() else self._only(keep)
        if kept._overflows():
            return replace(kept, status="not_finite")
        if kept.rho_xy is not None and bool((np.abs(kept.rho_xy) >= 1).any()):
            return replace(kept, status="rho_xy_out_of_range")
        if kept.correlation is not None:
            return replace(kept, status=correlation_status(kept.correlation))
        return kept

    def _overflows(self) -> bool:
        large = (self.bx, self.by, self.se_x, self.se_y, self.draws_x, self.draws_y)
        if any(v is not None and bool((np.abs(v) > LARGEST).any()) for v in large):
            return True
        return any(bool((se < 1.0 / LARGEST).any()) for se in (self.se_x, self.se_y))

    def _only(self, keep: NDArray[np.bool_]) -> Instruments:
        chosen = {
            name: getattr(self, name)[..., keep]
            for name in _PER_INSTRUMENT + _PER_DRAW
            if getattr(self, name) is not None
        }
        if self.correlation is not None:
            chosen["correlation"] = self.correlation[np.ix_(keep, keep)]
        chosen["n_dropped"] = int((~keep).sum())
        if not keep.any():
            chosen["status"] = "no_variation"
        return replace(self, **chosen)


def correlation_status(correlation: Array) -> str:
    """Return ``ok``, or why an (n, n) matrix is not a correlation matrix of errors.

    The diagonal must be 1 and the matrix symmetric to 1e-8; a Cholesky factor must exist.
    """
    if not np.isfinite(correlation).all():
        return "correlation_not_finite"
    if not np.allclose(correlation, correlation.T, rtol=0, atol=1e-8):
        return "correlation_not_symmetric"
    if not np.allclose(np.diag(correlation), 1.0, rtol=0, atol=1e-8):
        return "correlation_diagonal_not_1"
    try:
        np.linalg.cholesky(correlation)
    except np.linalg.LinAlgError:
        return "correlation_not_positive_definite"
    return "ok"
