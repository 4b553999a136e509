"""``sequence_effects.parquet``: what the sequences together say of each single one.

*The global effect* is the mean over draws of a meta-analysis in each draw. What a sequence weighs
in it, and what it would be without that sequence, are means over draws too; tau2 of a draw is kept
when a sequence is left out, so that this costs O(k) a draw. So is the best linear unbiased
prediction, combined over draws by Rubin's rules: it holds the model's error.

*Outliers.* Studentised residuals and Cook's distances compare a sequence's estimate and total
standard error with those of the others (`deepmr.meta.influence`). An error of the model that all
sequences share moves them alike; it makes none stand out.

*Which sign.* Probabilities of no effect, of a positive and of a negative one are means over draws
(`deepmr.meta.shrinkage.draw_wise_shares`). The shrunken effect is the posterior mean under the
mixture of the estimates with their total standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepmr.meta.combine import pool
from deepmr.meta.influence import influence
from deepmr.meta.result import Array
from deepmr.meta.shrinkage.mixture import DrawWiseShares, draw_wise_shares, fit_mixture, posterior
from deepmr.meta.tables.estimated import Estimated
from deepmr.mr.drawwise import rubin

NO_STANDARD_ERROR = "no_standard_error"
"""Status of a sequence whose MR is ok, but which no meta-analysis can weigh."""

_GIVEN = ("gc", "predicted_exposure", "motif_distance")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the k sequences say of each; shape (k,) each, NaN where too few say nothing.

    Attributes
    ----------
    blup, blup_se : ndarray
        Best linear unbiased prediction.
    weight : ndarray
        Percent of the global estimate, mean over draws.
    without : ndarray
        Global estimate without the sequence.
    rstudent, cooks_distance : ndarray
        Studentised residual and Cook's distance.
    influential : ndarray of bool
        By the rule of `deepmr.meta.influence`; False where too few say nothing.
    shrunk, shrunk_sd : ndarray
        Posterior mean and standard deviation.
    shares : DrawWiseShares or None
        None without sequences.
    """

    blup: Array
    blup_se: Array
    weight: Array
    without: Array
    rstudent: Array
    cooks_distance: Array
    influential: NDArray[np.bool_]
    shrunk: Array
    shrunk_sd: Array
    shares: DrawWiseShares | None


def evidence(estimated: Estimated, method: str) -> Evidence:
    """Judge every sequence by what all say.

    Parameters
    ----------
    estimated : Estimated
        The sequences.
    method : str
        Estimator of tau2, one of `deepmr.meta.combine.METHODS`.

    Returns
    -------
    Evidence
        In the order of `estimated`.
    """
    k, variances = estimated.k, estimated.se**2
    deleted = influence(estimated.estimates, variances, method)
    mixture = fit_mixture(estimated.estimates, estimated.se)
    shrunk = posterior(mixture, estimated.estimates, estimated.se)
    blup, blup_se, weight, without = _draw_wise(estimated.draws, estimated.variances, method)
    return Evidence(
        blup=blup,
        blup_se=blup_se,
        weight=weight,
        without=without,
        rstudent=deleted.rstudent,
        cooks_distance=deleted.cooks_distance,
        influential=deleted.influential,
        shrunk=shrunk.mean,
        shrunk_sd=shrunk.sd,
        shares=draw_wise_shares(estimated.draws, estimated.variances) if k else None,
    )


def _draw_wise(y: Array, v: Array, method: str) -> tuple[Array, Array, Array, Array]:
    """Return prediction, its SE, percent weight, and the global effect without each sequence."""
    k = y.shape[1]
    if k < 2:
        unknown = np.full(k, np.nan)
        return unknown, unknown, np.full(k, 100.0), unknown
    pooled = pool(y, v, method)
    mean, tau2 = pooled.estimate[:, None], pooled.tau2[:, None]
    share = pooled.se[:, None] ** 2 / (v + tau2)
    deviation = y - mean
    weights = 1.0 / (v + tau2)
    without = (_others(weights * y) / _others(weights)).mean(axis=0)
    own = tau2 / (tau2 + v)
    within = own * v + ((1.0 - own) * pooled.se[:, None]) ** 2
    total = rubin((mean + own * deviation).T, within.mean(axis=0))
    return total.estimate, total.se, 100.0 * share.mean(axis=0), without


def _others(values: Array) -> Array:
    """Return the sum of the other entries of a row, not by a difference: one may be nearly all."""
    nothing = np.zeros((len(values), 1))
    before = np.cumsum(values[:, :-1], axis=1)
    after = np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return np.asarray(np.hstack([nothing, before]) + np.hstack([after, nothing]))


def sequence_effects(
    rows: pd.DataFrame, covariates: pd.DataFrame, estimated: Estimated, judged: Evidence
) -> list[dict[str, Any]]:
    """Return a row for every sequence that was asked.

    Parameters
    ----------
    rows : pandas.DataFrame
        MR of one model, pair, direction and method, whatever its status.
    covariates : pandas.DataFrame
        Of the same sequences, in the same order; gc, predicted_exposure and motif_distance.
    estimated : Estimated
        Those of `rows` that can be combined.
    judged : Evidence
        Of them.

    Returns
    -------
    list of dict
        The columns of `deepmr.schemas.SEQUENCE_EFFECTS` from `sequence_id` on, in the order of
        `rows`. The status is that of the MR, or ``no_standard_error``.
    """
    place = estimated.place
    status = rows["status"].to_numpy(dtype=object).copy()
    unusable = status == "ok"
    unusable[place] = False
    status[unusable] = NO_STANDARD_ERROR
    table = rows[["sequence_id", "stratum", "estimate", "se"]].reset_index(drop=True)
    table.loc[rows["status"].to_numpy() != "ok", ["estimate", "se"]] = np.nan
    for name in _GIVEN:
        table[name] = covariates[name].to_numpy()
    found: dict[str, Array | NDArray[np.bool_]] = {
        name: getattr(judged, name)
        for name in ("blup", "blup_se", "weight", "without", "rstudent", "cooks_distance")
    }
    found |= {"shrunk": judged.shrunk, "shrunk_sd": judged.shrunk_sd}
    if judged.shares is not None:
        for name in ("p_zero", "p_negative", "p_positive", "lfsr", "s_value"):
            found[name] = getattr(judged.shares, name)
    for name, values in found.items():
        column = np.full(len(table), np.nan)
        column[place] = values
        table[name] = column
    influential = np.full(len(table), None, dtype=object)
    known = np.isfinite(judged.cooks_distance)
    influential[place[known]] = judged.influential[known]
    table["influential"] = influential
    table["status"] = status
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
