r"""A weighted line through the slopes of sequences, in every draw, and the combination of draws.

In draw t sequence i has the sums xx_it and xy_it over its instruments
(`deepmr.deepiv.slopes.sequence_slopes`). The weighted least squares of all instruments' by on bx
and f_i bx,

    by = (theta_t + gamma_t f_i) bx,

where f_i is a number of the sequence, is that of the sequences' slopes xy_it/xx_it on (1, f_i) with
weights xx_it; its residuals are clustered by sequence. The columns of a sequence's design are
multiples of one another, so the bias-reduced covariance CR2 (Bell and McCaffrey, Surv Methodol
2002;28:169) has a closed form. With z_i = sqrt(xx_i) (1, f_i), M = (sum z_i z_i')^-1, the leverage
h_i = z_i' M z_i and the residual u_i = xy_i - (theta + gamma f_i) xx_i of a sequence,

    cov = M [sum_i (1, f_i)(1, f_i)' u_i^2/(1 - h_i)] M,

and for a contrast c, with g_i = c' M z_i, a_i = g_i^2/(1 - h_i) and S = sum a_i z_i z_i',
Satterthwaite's degrees of freedom under independent errors are

    (sum g_i^2)^2 / [sum_i a_i^2 (1 - 2 h_i) + tr(M S M S)].

Where f_i was learned across folds from the slopes of other sequences, the residuals of sequences of
different folds are independent but their f are not: each has taught the other. For every learner
that is linear in the slopes the sum over sequences of f_i u_i is, where f tells nothing, a form
sum_ij k_ij u_i u_j of pairs i, j of different folds, in which each pair stands twice. Its variance
is up to twice the sum_i f_i^2 u_i^2 that the covariance above holds (twice, where k is symmetric).
So `CROSSED` times that variance is given to gamma. With ridge regressions of 100 to 400 slopes on
2 to 200 columns of noise in 4 or 10 folds, gamma had p < .05 in .16 to .17 of 1,000 simulations
without the factor and in .04 to .06 with it (one of them in
tests/unit/test_deepiv_draw_wise_line.py). Networks that stop early teach each other less: .09 and
.01 (120 sequences with no dependence; the 94 of 140 simulations in which a network learned
anything). Where f tells much, the interval of gamma is too wide.

Draws are combined as those of a meta-analysis are (`deepmr.meta.drawwise`): the variance within a
draw is the mean over draws, for it tells how far another sample of sequences would move the line.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deepmr.mr.drawwise import Combined, rubin

Array = NDArray[np.float64]

CROSSED = 2.0
"""Factor of the variance of gamma within a draw, where f was learned across folds."""

_LEVERAGE_1 = 1e-9
"""A sequence whose leverage is 1 up to this decides a coefficient alone and leaves no residual."""


def draw_wise_line(
    xx: Array, draws_xx: Array, draws_xy: Array, moderator: Array | None = None
) -> tuple[Combined, ...]:
    """Fit the line in every draw and combine the draws.

    Parameters
    ----------
    xx : ndarray, shape (n,)
        Sums of the mean effects, which decide the degrees of freedom within a draw.
    draws_xx, draws_xy : ndarray, shape (draws, n)
        Sums of each draw; at least two draws and three sequences.
    moderator : ndarray, shape (n,), optional
        f, learned across folds. Without it the line is a constant.

    Returns
    -------
    tuple of Combined
        theta, and gamma where there is a moderator.

    Raises
    ------
    ValueError
        If the moderator is constant or there are fewer than two draws.
    """
    columns = [np.ones(len(xx))]
    # In units of its SD, or rounding would decide gamma where f is small.
    unit = 1.0
    if moderator is not None:
        unit = float(moderator.std())
        if not unit > 0:
            raise ValueError("the moderator is the same in every sequence; fit a constant instead")
        columns.append(moderator / unit)
    z = np.stack(columns, axis=-1)
    inverse, leverage = _inverse(draws_xx, z)
    line = np.einsum("tpq,nq,tn->tp", inverse, z, draws_xy)
    residual = draws_xy - np.einsum("tp,np->tn", line, z) * draws_xx
    free = 1.0 - leverage
    square = np.divide(
        residual * residual, free, out=np.zeros_like(residual), where=free > _LEVERAGE_1
    )
    meat = np.einsum("tn,np,nq->tpq", square, z, z)
    variance = np.einsum("tpq,tqr,trp->p", inverse, meat, inverse) / len(draws_xx)
    df = _satterthwaite(xx, z)
    theta = rubin(line[:, 0], variance[0], df[0])
    if moderator is None:
        return (theta,)
    return theta, rubin(line[:, 1] / unit, CROSSED * variance[1] / unit**2, df[1])


def _inverse(xx: Array, z: Array) -> tuple[Array, Array]:
    """Return M (draws, p, p) and the leverages (draws, n)."""
    inverse = np.linalg.inv(np.einsum("tn,np,nq->tpq", xx, z, z))
    return inverse, xx * np.einsum("np,tpq,nq->tn", z, inverse, z)


def _satterthwaite(xx: Array, z: Array) -> Array:
    """Return the degrees of freedom of each coefficient."""
    (inverse,), (leverage,) = _inverse(xx[None], z)
    rows = np.sqrt(xx)[:, None] * z
    free = np.maximum(1.0 - leverage, _LEVERAGE_1)
    df = np.empty(z.shape[1])
    for p, square in enumerate((rows @ inverse).T ** 2):
        own = square / free
        spread = inverse @ np.einsum("n,np,nq->pq", own, rows, rows)
        noise = (own * own * (1.0 - 2.0 * leverage)).sum() + np.trace(spread @ spread)
        df[p] = square.sum() ** 2 / noise
    return df
