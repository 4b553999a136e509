r"""What each instrument adds to Cochran's Q, and which ones add too much.

Q_j = w_j r_j^2 with the residual r_j about the line of IVW or Egger; the Q_j sum to Q. Under a
valid fixed-effect model Q_j is chi-squared with one degree of freedom (Bowden et al., Int J
Epidemiol 2018;47:1264; with first-order weights the Q_j of RadialMR's `ivw_radial`). Exactly its
mean is 1 - h_j, h_j the leverage: an instrument that holds the line hides its own deviation.
``studentized`` divides by it, which makes the reference exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.diagnostics.weighted_line import Method, weighted_line
from deepmr.mr.estimator import Array, Group, two_sided_p


class Outliers(NamedTuple):
    """Heterogeneity by instrument; every array is (sequences, instruments).

    Attributes
    ----------
    q : ndarray
        Contribution to Q (divided by 1 - leverage if studentized).
    p_value : ndarray
        Upper tail of chi-squared with one degree of freedom.
    outlier : ndarray of bool
        p below the significance level divided by the number of instruments (Bonferroni).
    """

    q: Array
    p_value: Array
    outlier: NDArray[np.bool_]


def outliers(
    group: Group,
    method: Method = "ivw",
    *,
    significance: float = 0.05,
    studentized: bool = False,
) -> Outliers:
    """Split Q into the contributions of the instruments.

    Parameters
    ----------
    group : Group
        Effects and their standard errors.
    method : str
        ``ivw`` or ``egger``: the line the residuals are about.
    significance : float
        Family-wise level of the flags within a sequence.
    studentized : bool
        Divide by 1 - leverage; such contributions no longer sum to Q.

    Returns
    -------
    Outliers
        NaN, and no flag, where the instruments do not identify the line.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    line = weighted_line(group, method)
    q = line.weights * line.residual * line.residual
    if studentized:
        # At leverage 1 the residual is 0 by construction and tells nothing.
        free = 1.0 - line.leverage
        q = np.where(free > 1e-9, q / np.where(free > 1e-9, free, 1.0), np.nan)
    # Chi-squared with one degree of freedom is a squared normal, whose tail is cheaper.
    p_value = two_sided_p(np.sqrt(q))
    return Outliers(q, p_value, p_value < significance / q.shape[1])
