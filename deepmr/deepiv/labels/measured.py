"""Deep IV on measured labels: a pair in, rows of ``deep_iv.parquet`` and counterfactuals out.

Four methods answer each direction from the same windows: Deep IV; the same network on the observed
exposure, which takes confounding for an effect (``naive``); and the linear and the polynomial
two-stage least squares that Deep IV is held against (Hartford, Lewis, Leyton-Brown and Taddy, ICML
2017), with the same instrument and a few numbers of the context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from deepmr import schemas, tables
from deepmr.deepiv.labels.data import LabelData, NotEstimableError, Side, label_data
from deepmr.deepiv.labels.fits import LabelFits, Settings, fit_labels
from deepmr.deepiv.local_effect import WEAK_F, LocalEffect, local_effect, naive_effect
from deepmr.deepiv.seeds import derived_seed
from deepmr.deepiv.two_stage import polynomial_two_stage, two_stage_least_squares
from deepmr.models.batches import Reader
from deepmr.motifs import Motif
from deepmr.mr.questions import Pair

METHODS = ("deep_iv", "naive", "2sls", "polynomial_2sls")
"""What answers each direction of a pair."""

_POLYNOMIAL_TERMS = 500
"""Most terms of a polynomial peer: degrees with more are left out where there are many motifs."""


def deep_iv(
    windows: pa.Table,
    reader: Reader,
    pair: Pair,
    kinds: Mapping[str, str],
    motifs: Mapping[str, Motif | None],
    settings: Settings,
    *,
    at_most: int | None,
    both_strands: bool,
    seed: int,
) -> tuple[pa.Table, pa.Table]:
    """Ask measured labels for the effect of a pair, in both directions.

    Parameters
    ----------
    windows : pyarrow.Table
        Schema of ``windows.parquet``; the windows of all splits are used, for every window is
        judged by networks that have not seen it.
    reader : Reader
        Gives the codes of the windows.
    pair : Pair
        Exposure and outcome.
    kinds : mapping of str to str
        Type of each target: binary, count or continuous.
    motifs : mapping of str to Motif or None
        Motif of each target.
    settings : Settings
        How the networks are made and fitted.
    at_most : int or None
        Windows used, at most.
    both_strands : bool
        Look for motifs on both strands (False for RNA).
    seed : int
        The run's seed; every random number derives from it, the pair and the direction.

    Returns
    -------
    rows : pyarrow.Table
        Schema `deepmr.schemas.DEEP_IV`: a row for each direction and method. A direction that
        cannot be estimated has rows with a status and a reason.
    counterfactuals : pyarrow.Table
        Schema `deepmr.schemas.counterfactuals_schema`: a row for each direction and window used.

    Raises
    ------
    ValueError
        If the table has no label of a target, or a window is shorter than the exposure's motif.
    deepmr.deepiv.stages.fitting.FittingError
        If a loss is no longer finite.
    """
    for target in (pair.exposure, pair.outcome):
        if f"label.{target}" not in windows.column_names:
            raise ValueError(
                f"the windows have no column label.{target}, which pair {pair.name} names; they "
                f"have {', '.join(windows.column_names)}"
            )
    sides = tuple(Side(target, kinds[target]) for target in (pair.exposure, pair.outcome))
    rows: list[dict[str, Any]] = []
    schema = schemas.counterfactuals_schema(settings.draws)
    counterfactuals = [schema.empty_table()]
    for direction, (exposure, outcome) in zip(
        schemas.DIRECTIONS, (sides, sides[::-1]), strict=True
    ):
        asked = {
            "source": "labels",
            "pair": pair.name,
            "direction": direction,
            "exposure": exposure.target,
            "outcome": outcome.target,
            "unit": f"{outcome.unit('probability')} per {exposure.unit('label')}",
        }
        own = derived_seed(seed, pair.name, direction)
        try:
            data = label_data(
                windows,
                reader,
                exposure,
                outcome,
                motifs,
                at_most=at_most,
                both_strands=both_strands,
                seed=seed,
            )
        except NotEstimableError as why:
            rows += [{**asked, "method": method, **_of_refusal(why)} for method in METHODS]
            continue
        fits = fit_labels(data, settings, seed=own, name=f"{pair.name} {direction}")
        found = {
            **_of_networks(data, fits),
            **_of_peers(data, fits.exposures, derived_seed(own, "2sls")),
        }
        common = {**asked, "n_left_out": data.n_left_out}
        rows += [{**common, "method": method, **_known(found[method])} for method in METHODS]
        counterfactuals.append(_counterfactuals(data, fits, pair.name, direction, schema))
    return (
        pa.Table.from_pylist(rows, schema=schemas.DEEP_IV),
        pa.concat_tables(counterfactuals),
    )


def _of_refusal(why: NotEstimableError) -> dict[str, Any]:
    return {
        "n_windows": why.n_windows,
        "n_left_out": why.n_left_out,
        "status": why.status,
        "reason": why.reason,
    }


def _of_networks(data: LabelData, fits: LabelFits) -> dict[str, dict[str, Any]]:
    """Return the columns of Deep IV and of the naive network."""
    y, x, q, r = data.outcome, data.exposure, fits.q, fits.r
    causal, naive = fits.response, fits.naive
    return {
        "deep_iv": _columns(
            local_effect(y, x, q, r, causal.mean, data.blocks, tau=fits.slope(causal))
        ),
        "naive": _columns(naive_effect(y, x, r, naive.mean, data.blocks, tau=fits.slope(naive))),
    }


def _columns(effect: LocalEffect) -> dict[str, Any]:
    return {
        "estimate": effect.estimate,
        "se": effect.se,
        "df": effect.df,
        "ci_low": effect.ci_low,
        "ci_high": effect.ci_high,
        "p_value": effect.p_value,
        "network": effect.network,
        "n_windows": effect.n,
        "n_clusters": effect.n_clusters,
        "q_variance": effect.variance,
        "q_variance_share": effect.variance_share,
        "f": effect.f,
        "ar_low": effect.ar_low,
        "ar_high": effect.ar_high,
        "ar_kind": effect.ar_kind,
        "status": effect.status,
        "reason": effect.reason,
    }


def _known(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not there: NaN and empty text become null."""
    return {name: value for name, value in columns.items() if value == value and value != ""}


def _of_peers(
    data: LabelData, exposures: tuple[float, float], seed: int
) -> dict[str, dict[str, Any]]:
    """Return the columns of two-stage least squares, linear and polynomial."""
    y, x, z, covariates = data.outcome, data.exposure, data.score[:, None], data.covariates
    counted = {"n_windows": len(data), "n_clusters": len(np.unique(data.blocks))}
    linear = two_stage_least_squares(y, x, z, covariates, data.blocks)
    if not math.isfinite(linear.estimate):
        unmoved = {**counted, "f": linear.f, "status": "no_variation", "reason": "no_first_stage"}
        return {"2sls": unmoved, "polynomial_2sls": unmoved}
    names = ("estimate", "se", "df", "ci_low", "ci_high", "p_value", "f")
    degrees = _degrees(1 + covariates.shape[1])
    polynomial = polynomial_two_stage(y, x, z, covariates, degrees=degrees, seed=seed)
    change = float(np.mean(polynomial.effect(*exposures, covariates)))
    return {
        "2sls": {
            **counted,
            **{name: getattr(linear, name) for name in names},
            "status": "ok",
            "reason": "weak_instrument" if linear.f < WEAK_F else "",
        },
        "polynomial_2sls": {
            **counted,
            "estimate": change / (exposures[1] - exposures[0]),
            "status": "ok",
            "reason": "ridge regression with cross-validation has no standard error",
        },
    }


def _degrees(columns: int) -> tuple[int, ...]:
    """Return the degrees, of 1 to 3, whose polynomials have not too many terms."""
    return tuple(d for d in (1, 2, 3) if d == 1 or math.comb(columns + d, d) <= _POLYNOMIAL_TERMS)


def _counterfactuals(
    data: LabelData, fits: LabelFits, pair: str, direction: str, schema: pa.Schema
) -> pa.Table:
    n, (low, high) = len(data), fits.exposures
    columns = {
        "sequence_id": data.sequence_ids,
        "pair": [pair] * n,
        "direction": [direction] * n,
        "score": data.score,
        "q": fits.q,
        "r": fits.r,
        "p0": np.full(n, low),
        "p1": np.full(n, high),
        "h0": fits.response.low,
        "h1": fits.response.high,
        "draws": tables.draws_column(fits.draws.astype(np.float32)),
    }
    return pa.table(columns, schema=schema)
