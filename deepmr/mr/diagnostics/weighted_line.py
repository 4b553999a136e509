r"""The two weighted lines of MR, with what every instrument has to do with them.

IVW is the line through the origin, Egger the line with an intercept after orienting every
instrument to bx > 0; both have the weights w = 1/se_y^2. Leverage, removal of instruments and
their share of Q need the residuals of the line and its design, centred for Egger, in which the
normal equations are diagonal:

    slope = sum(w x y)/I,  I = sum(w x^2),  h_j = w_j x_j^2/I  (+ w_j/sum(w) for Egger).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepmr.mr.estimator import Array, Group
from deepmr.mr.estimators.regression_line import orientation

Method = Literal["ivw", "egger"]


@dataclass(frozen=True, eq=False)
class WeightedLine:
    """A fitted line; arrays are (sequences,) or (sequences, instruments).

    Attributes
    ----------
    slope, intercept, information, q : ndarray, shape (sequences,)
        Slope, intercept (0 for IVW), I = sum(w x^2), and Q, the weighted sum of squared residuals.
    total : ndarray, shape (sequences,)
        Sum of the weights.
    mean_x : ndarray, shape (sequences,)
        Weighted mean of the oriented bx (0 for IVW).
    weights, x, residual, leverage : ndarray, shape (sequences, instruments)
        Weights, (centred) design, residuals and diagonal of the hat matrix.
    df : int
        Instruments minus coefficients.
    """

    slope: Array
    intercept: Array
    information: Array
    q: Array
    total: Array
    mean_x: Array
    weights: Array
    x: Array
    residual: Array
    leverage: Array
    df: int


def weighted_line(group: Group, method: Method) -> WeightedLine:
    """Fit ``ivw`` or ``egger`` to every sequence of a group.

    Returns
    -------
    WeightedLine
        NaN where the instruments do not identify a slope.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    if method not in ("ivw", "egger"):
        raise ValueError(f"method {method!r} is unknown; write ivw or egger")
    weights = group.weights
    total = weights.sum(axis=-1)
    x, y = group.bx, group.by
    mean_x = mean_y = np.zeros_like(total)
    leverage = np.zeros_like(weights)
    if method == "egger":
        sign = orientation(group.anchor_x)
        x, y = sign * x, sign * y
        mean_x = (weights * x).sum(axis=-1) / total
        mean_y = (weights * y).sum(axis=-1) / total
        x, y = x - mean_x[:, None], y - mean_y[:, None]
        leverage = weights / total[:, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        information = (weights * x * x).sum(axis=-1)
        slope = (weights * x * y).sum(axis=-1) / information
        residual = y - slope[:, None] * x
        leverage = leverage + weights * x * x / information[:, None]
        q = (weights * residual * residual).sum(axis=-1)
    df = x.shape[1] - (2 if method == "egger" else 1)
    intercept = mean_y - slope * mean_x
    return WeightedLine(
        slope, intercept, information, q, total, mean_x, weights, x, residual, leverage, df
    )
