r"""Weights of the instruments in the regressions.

First order: w = 1/sy^2. Second order, the delta method for by/bx (Thomas, Lawlor and Thompson,
Ann Epidemiol 2007;17:511; ``weights = "delta"`` of the R package MendelianRandomization):

    w = 1 / (sy^2 + by^2 sx^2/bx^2 - 2 rho by sx sy/bx),

rho being the correlation of the two errors of the instrument. Penalised (Burgess, Bowden,
Dudbridge and Thompson, arXiv:1606.03729): w min(1, c p), p the upper tail of chi-squared with 1
degree of freedom at w r^2, r the residual from a first line: that of the median ratio for IVW,
MR-Egger's own for MR-Egger. c = 100; as in the R package 20 with second-order weights.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

from deepmr.mr.estimator import Array, Group

PENALTY_FIRST_ORDER = 100.0
PENALTY_SECOND_ORDER = 20.0


@np.errstate(divide="ignore", invalid="ignore", over="ignore")
def second_order(group: Group) -> Array:
    """Second-order weights, shape (sequences, instruments); 0 where bx is 0.

    They come from the anchors, so that they are the same in every draw.
    """
    x, y = group.anchor_x, group.anchor_y
    error_x, error_y = y * group.se_x, x * group.se_y
    variance = error_x * error_x + error_y * error_y
    variance -= 2.0 * group.error_correlation * error_x * error_y
    return np.divide(x * x, variance, out=np.zeros_like(x), where=variance > 0)


def penalised(weights: Array, residual: Array, factor: float) -> Array:
    """Weigh down instruments with a large residual.

    Parameters
    ----------
    weights, residual : ndarray, shape (sequences, instruments)
        Weights and the residuals from a first line.
    factor : float
        An instrument is weighed down where its p-value is below 1/factor.

    Returns
    -------
    ndarray, shape (sequences, instruments)
    """
    p_value = erfc(np.sqrt(0.5 * weights) * np.abs(residual))
    return np.asarray(weights * np.minimum(1.0, factor * p_value))


def median_ratio(bx: Array, by: Array) -> Array:
    """Return the median of by/bx over the instruments with bx != 0, shape (sequences,)."""
    result = np.full(len(bx), np.nan)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = by / bx
    for i, given in enumerate(bx != 0):
        if given.any():
            result[i] = np.median(ratio[i, given])
    return result
