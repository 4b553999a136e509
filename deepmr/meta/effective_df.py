r"""How many independent deviations from the global effect a model's sequences amount to.

Q(tau2), the weighted squares about the weighted mean, is chi^2 with k - 1 degrees of freedom where
the errors of estimates are independent. Draws tell that they are not: an error along GC content
moves many sequences together, and Q then scatters more. With z = sqrt(w) times the deviations of a
draw from its weighted mean, S their covariance over draws (times 1 + 1/T), delta = w (s^2 + tau2)
what is independent (s^2: the scatter of `deepmr.meta.drawwise`), and P the projection onto what
sums to 0 with weights sqrt(w),

    E(Q) = tr(P delta P) + tr S,    Var(Q) = 2 tr[(P delta P + S)^2],

and Q/g is taken for chi^2 with h = 2 E^2/Var degrees of freedom, g = E/h (Satterthwaite, Biometrics
Bull 1946;2:110). tr S^2 of a covariance from T draws is too large by about (tr S)^2/(T - 1), which
is taken off (Srivastava, J Japan Stat Soc 2005;35:251).
"""

from __future__ import annotations

import numpy as np
from scipy.special import chdtri

from deepmr.meta.heterogeneity import invert_q
from deepmr.meta.result import Array

_TAIL = 0.025
_STEPS = 4
"""The degrees of freedom depend on tau2 and the bounds on them: so often one follows the other."""


def effective_df(deviations: Array, variances: Array, tau2: float) -> float:
    """Return h.

    Parameters
    ----------
    deviations : ndarray, shape (draws, k)
        Estimates of each draw less the global effect of that draw; 2 draws and sequences or more.
    variances : ndarray, shape (k,)
        Of the errors of the mean deviations, above 0: `deepmr.meta.combine.deviation_errors`. What
        they hold above the variance over draws is independent between sequences.
    tau2 : float
        Variance between sequences, at least 0.

    Returns
    -------
    float
        From 1 to k - 1, which it is where all draws agree.
    """
    n_draws, k = deviations.shape
    n, inflation = n_draws - 1, 1.0 + 1.0 / n_draws
    centred = deviations - deviations.mean(axis=0)
    w = 1.0 / (variances + tau2)
    share = w / w.sum()
    between = inflation * np.einsum("tk,tk->k", centred, centred) / n
    delta = w * (np.maximum(variances - between, 0.0) + tau2)
    z = np.sqrt(w) * (centred - np.einsum("tk,k->t", centred, share)[:, None])
    own = inflation * np.einsum("tk,tk->k", z, z) / n
    expected = float((delta * (1.0 - share)).sum() + own.sum())
    gram = np.einsum("sk,tk->st", z, z)
    squared = inflation**2 * float((gram * gram).sum()) / n**2
    if n > 1:
        scale = n * n / ((n - 1.0) * (n + 2.0))
        squared = scale * (squared - float(own.sum()) ** 2 / n)
    squared = max(squared, float((own * own).sum()) * n / (n + 2.0))
    half = float((delta**2 * (1.0 - 2.0 * share)).sum()) + float((share * delta).sum()) ** 2
    half += 2.0 * float((delta * own).sum()) + squared
    return float(np.clip(expected**2 / half, 1.0, k - 1.0))


def tau2_bounds(
    estimates: Array, deviations: Array, variances: Array, tau2: float
) -> tuple[float, float]:
    """Return the 95 % interval of tau2: the Q-profile with the effective degrees of freedom.

    Parameters
    ----------
    estimates : ndarray, shape (k,)
        Mean effects.
    deviations, variances
        As for :func:`effective_df`.
    tau2 : float
        The estimate, where the search begins.

    Returns
    -------
    low, high : float
        At least 0. Where all draws agree they are those of `deepmr.meta.intervals.q_profile`.
    """
    df = estimates.size - 1
    bounds = []
    for level in (_TAIL, 1.0 - _TAIL):
        bound = tau2
        for _ in range(_STEPS):
            h = effective_df(deviations, variances, bound)
            target = float(chdtri(h, level)) * df / h
            bound = float(invert_q(estimates[None], variances[None], target)[0])
        bounds.append(bound)
    return bounds[0], bounds[1]
