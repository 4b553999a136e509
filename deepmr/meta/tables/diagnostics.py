"""``meta_diagnostics.parquet``: what stands against reading the effects of sequences as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepmr.meta.small_study import egger_test, rank_test, trim_and_fill
from deepmr.meta.tables.estimated import Estimated
from deepmr.meta.tables.sequence_effects import Evidence

SURE = 0.05
"""A sequence has a sign where its local false sign rate is below."""


def diagnostics(estimated: Estimated, judged: Evidence, method: str) -> dict[str, Any]:
    """Judge the meta-analysis of one question.

    Tests of small-study effects take the estimates with their total standard errors; the range
    without one sequence and the shares are means over draws (see
    `deepmr.meta.tables.sequence_effects`).

    Parameters
    ----------
    estimated : Estimated
        The sequences.
    judged : Evidence
        What they say of each other.
    method : str
        Estimator of tau2, one of `deepmr.meta.combine.METHODS`.

    Returns
    -------
    dict
        The columns of `deepmr.schemas.META_DIAGNOSTICS` from `k` on.
    """
    reasons = [estimated.reason]
    row: dict[str, Any] = {"k": estimated.k, "status": estimated.status}
    if estimated.k:
        y, v = estimated.estimates, estimated.se**2
        egger, rank = egger_test(y, v, "rma", method), rank_test(y, v)
        filled = trim_and_fill(y, v, method)
        row |= {
            "egger_z": egger.statistic,
            "egger_p": egger.p_value,
            "rank_tau": rank.tau,
            "rank_p": rank.p_value,
            "trim_fill_k0": filled.k0,
            "trim_fill_estimate": None if filled.k0 is None else filled.result.estimate,
        }
        for what, found, missing in (
            ("regression test", egger, np.isnan(egger.p_value)),
            ("rank test", rank, np.isnan(rank.p_value)),
            ("trim and fill", filled, filled.k0 is None),
        ):
            if missing:
                reasons.append(f"no {what}: {found.reason or found.status}")
        row |= _influence(estimated, judged)
    if judged.shares is not None:
        for name in ("share_zero", "share_negative", "share_positive"):
            row[name] = getattr(judged.shares, name)
            row[f"{name}_sd"] = getattr(judged.shares, f"{name}_sd")
        row["n_sure"] = int((judged.shares.lfsr < SURE).sum())
        if judged.shares.status != "ok":
            reasons.append(f"shares: {judged.shares.reason or judged.shares.status}")
    row["reason"] = "; ".join(reason for reason in reasons if reason) or None
    return row


def _influence(estimated: Estimated, judged: Evidence) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if np.isfinite(judged.without).any():
        found["without_one_low"] = float(np.nanmin(judged.without))
        found["without_one_high"] = float(np.nanmax(judged.without))
    if np.isfinite(judged.cooks_distance).any():
        found["most_influential"] = estimated.ids[int(np.nanargmax(judged.cooks_distance))]
        found["n_influential"] = int(judged.influential.sum())
    return found
