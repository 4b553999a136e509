r"""Power of IVW before anything is concluded from a non-significant estimate.

Burgess (Int J Epidemiol 2014;43:922) gives the power of a test of theta as
Phi(|theta| sqrt(N R^2_GX/Var) - z). For summary data the expression under the root, the
information about theta, is I = sum(bx^2/se_y^2), which needs no sample size (in-silico effects
have none):

    power = Phi(|theta| sqrt(I)/s - z),   z = Phi^-1(1 - alpha/2),

s = 1 with a fixed effect and s = max(1, sqrt(Q/df)), the residual SE, with multiplicative random
effects. The smallest effect detected with power p is (z + Phi^-1(p)) s/sqrt(I). The tail of the
wrong sign is left out, as in the paper, so that no effect gives alpha/2; beside a power above .2
it is below .001.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from deepmr.mr.diagnostics.weighted_line import weighted_line
from deepmr.mr.estimator import Array, Group


def ivw_power(
    group: Group, effect: ArrayLike, *, significance: float = 0.05, random: bool = False
) -> Array:
    """Power of IVW to find a causal effect of a given size.

    Parameters
    ----------
    group : Group
        Effects and their standard errors; only bx and se_y matter with a fixed effect.
    effect : array_like, scalar or shape (sequences,)
        Causal effect, outcome per exposure.
    significance : float
        Two-sided level of the test.
    random : bool
        Take the scatter of the instruments into account (multiplicative random effects).

    Returns
    -------
    ndarray, shape (sequences,)
        NaN without instruments of any effect.

    Raises
    ------
    ValueError
        If the level does not lie between 0 and 1.
    """
    return np.asarray(ndtr(np.abs(effect) / _ivw_se(group, random) - _critical(significance)))


def smallest_detectable_effect(
    group: Group, *, power: float = 0.8, significance: float = 0.05, random: bool = False
) -> Array:
    """Size of the causal effect that IVW finds with the given power, shape (sequences,).

    Parameters are those of `ivw_power`; ValueError if power or level do not lie between 0 and 1.
    """
    if not 0 < power < 1:
        raise ValueError(f"power must lie between 0 and 1; found {power}")
    return np.asarray((_critical(significance) + ndtri(power)) * _ivw_se(group, random))


def _critical(significance: float) -> float:
    if not 0 < significance < 1:
        raise ValueError(f"significance must lie between 0 and 1; found {significance}")
    return float(ndtri(1.0 - significance / 2.0))


def _ivw_se(group: Group, random: bool) -> Array:
    line = weighted_line(group, "ivw")
    with np.errstate(divide="ignore"):
        se = 1.0 / np.sqrt(line.information)
    if random:
        se = se * np.sqrt(np.maximum(line.q / max(line.df, 1), 1.0))
    return np.where(line.information > 0, se, np.nan)
