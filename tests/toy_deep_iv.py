"""deep_iv.parquet of the run of `tests.toy_report`: JUND's instrument is weak, open has none."""

from __future__ import annotations

import numpy as np
import pandas as pd

from deepmr.schemas import DEEP_IV
from tests.toy_meta import through_schema

PROBABILITY = "probability per label"
# pair: method: (estimate, SE) with the instrument of the forward direction
LABELS = {
    "GATA1_open": {
        "deep_iv": (0.772, 0.009),
        "naive": (0.801, 0.008),
        "2sls": (0.748, 0.012),
        "polynomial_2sls": (0.731, np.nan),
    },
    "NRF1_open": {
        "deep_iv": (0.016, 0.015),
        "naive": (0.091, 0.009),
        "2sls": (-0.04, 0.018),
        "polynomial_2sls": (-0.022, np.nan),
    },
    "JUND_open": {
        "deep_iv": (0.31, 0.22),
        "naive": (0.42, 0.012),
        "2sls": (0.5, 0.4),
        "polynomial_2sls": (0.6, np.nan),
    },
}
F = {"GATA1_open": 4120.0, "NRF1_open": 1480.3, "JUND_open": 3.1}
AR = {
    "GATA1_open": (0.7537, 0.7903, "interval"),
    "NRF1_open": (-0.0144, 0.0464, "interval"),
    "JUND_open": (-0.18, 1.92, "interval"),
}
# (pair, direction): one slope, slope by context, factor, its SE and p, r2, SD of slopes
SLOPES = {
    ("GATA1_open", "forward"): (0.9, 0.92, 0.94, 0.11, 3e-9, 0.18, 0.21),
    ("GATA1_open", "reverse"): (0.03, 0.02, 0.1, 0.4, 0.8, -0.01, 0.02),
    ("NRF1_open", "forward"): (-0.02, -0.02, -0.9, 0.3, 0.004, -0.03, 0.04),
    ("NRF1_open", "reverse"): (0.01, 0.01, 0.2, 0.3, 0.5, 0.0, 0.02),
    ("JUND_open", "forward"): (0.04, 0.03, 0.3, 0.3, 0.31, 0.0, 0.03),
    ("JUND_open", "reverse"): (0.7, 0.69, 0.81, 0.2, 2e-4, 0.002, 0.1),
}


def table() -> pd.DataFrame:
    rows = [
        row
        for pair in LABELS
        for direction in ("forward", "reverse")
        for row in on(pair, direction)
    ]
    rows += [row for key in SLOPES for row in slopes(*key)]
    return through_schema(pd.DataFrame(rows), DEEP_IV)


def row(pair: str, direction: str, **values: object) -> dict:
    ends = pair.split("_") if direction == "forward" else pair.split("_")[::-1]
    known = {"pair": pair, "direction": direction, "exposure": ends[0], "outcome": ends[1]}
    return dict.fromkeys(DEEP_IV.names) | known | values


def estimated(estimate: float, se: float) -> dict:
    return {
        "estimate": estimate,
        "se": se,
        "df": 39.0,
        "ci_low": estimate - 2.0227 * se,
        "ci_high": estimate + 2.0227 * se,
        "p_value": float(np.exp(-0.717 * abs(estimate) / se - 0.416 * (estimate / se) ** 2)),
        "status": "ok",
    }


def on(pair: str, direction: str) -> list[dict]:
    """Return the rows of measured labels."""
    rows = []
    for method, (estimate, se) in LABELS[pair].items():
        here = {"source": "labels", "method": method, "unit": PROBABILITY}
        if direction == "reverse":
            here |= {"status": "no_motif", "reason": "open has no motif to make an instrument of"}
            rows.append(row(pair, direction, **here, n_windows=0, n_left_out=10000))
            continue
        here |= estimated(estimate, se) | {"n_windows": 9800, "n_left_out": 200, "n_clusters": 40}
        if method in ("deep_iv", "2sls"):
            here["f"] = F[pair]
        if method in ("deep_iv", "naive"):
            here["network"] = estimate - 0.004
        if method == "deep_iv":
            share = 0.31 if F[pair] > 10 else 0.0007
            here |= {"q_variance": 0.2 * share, "q_variance_share": share}
            here["reason"] = "weak_instrument" if F[pair] < 10 else None
            here |= dict(zip(("ar_low", "ar_high", "ar_kind"), AR[pair], strict=True))
        if method == "naive":
            here |= {"q_variance": 0.2, "q_variance_share": 1.0}
        if method == "polynomial_2sls":
            here["reason"] = "no standard error"
        rows.append(row(pair, direction, **here))
    return rows


def slopes(pair: str, direction: str) -> list[dict]:
    """Return the rows of a model's own draws."""
    one, by_context, factor, se, p, r2, sd = SLOPES[pair, direction]
    shared = {"source": "model", "model": "cnn", "unit": "logit per logit"}
    shared |= {"n_windows": 71, "n_left_out": 29, "n_instruments": 3012, "n_clusters": 71}
    moderated = {"moderation": factor, "moderation_se": se, "moderation_p": p}
    moderated |= {"r2": r2, "slope_sd": sd}
    return [
        row(pair, direction, **shared, **estimated(one, 0.05), method="constant_slope"),
        row(
            pair,
            direction,
            **shared,
            **estimated(by_context, 0.05),
            **moderated,
            method="context_slope",
        ),
    ]
