"""``meta.parquet``: every pair, direction, method and stratum, combined in every way asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from deepmr.meta.combine import METHODS, random_effects
from deepmr.meta.drawwise import draw_wise, median
from deepmr.meta.multiplicity import benjamini_hochberg, storey_q
from deepmr.meta.regression.cluster_robust import cluster_robust
from deepmr.meta.result import Result
from deepmr.meta.tables.estimated import stacked, why_none
from deepmr.schemas import DIRECTIONS, META

COMBINATIONS = (*METHODS, "median")
STRATA = ("all", "bound", "unbound")
INFERENCES = ("draw_wise", "chromosome", "diagonal")

_KEY = ["model", "pair", "direction", "exposure", "outcome", "method", "instrument_rule"]
_FAMILY = ["model", "method", "stratum", "combination", "inference"]
_NUMBERS = ("estimate", "se", "se_within", "estimate_diagonal", "se_diagonal", "conditional_f")


def summarise(
    mr: pd.DataFrame,
    combinations: Sequence[str] = ("REML", "DL", "median"),
    *,
    test: str = "adhoc",
    prediction: str = "metafor",
    chromosome_of: Mapping[str, str | None] | None = None,
    strata: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """Combine the sequences of an MR table.

    Parameters
    ----------
    mr : pandas.DataFrame
        Columns of `deepmr.schemas.MR`; decoys have the direction ``decoy``.
    combinations : sequence of str
        `deepmr.meta.combine.METHODS`, or ``median`` (over sequences).
    test, prediction : str
        As in `deepmr.meta.random_effects`.
    chromosome_of : mapping of str to str, optional
        Chromosome or contig of each sequence; without it there are no rows with the inference
        ``chromosome``.
    strata : mapping of str to collection of str, optional
        Further strata: label -> ids of its sequences.

    Returns
    -------
    pandas.DataFrame
        Columns of `deepmr.schemas.META`: a row for each model, pair, direction, method, stratum
        (all, bound, unbound, and the further ones), combination and inference: ``draw_wise``;
        ``chromosome``, which takes the total standard errors for working weights and lets errors
        be shared within a chromosome (CR2; not for the median); ``diagonal``, which ignores that
        errors are shared. Only rows with the status ``ok`` are combined; `k` counts them and
        `n_sequences` all. `fdr` is Benjamini and Hochberg's and `q_value` Storey's over pairs and
        directions within the same model, method, stratum, combination and inference; decoys are
        no part of it.

    Raises
    ------
    ValueError
        If a combination is unknown or a column is missing.
    """
    for combination in combinations:
        if combination not in COMBINATIONS:
            raise ValueError(
                f"combination {combination!r} is unknown; write one of {', '.join(COMBINATIONS)}"
            )
    needed = [*_KEY, "sequence_id", "stratum", "status", *_NUMBERS, "draws", "draws_se"]
    missing = [name for name in needed if name not in mr.columns]
    if missing:
        raise ValueError(f"the MR table lacks the columns {', '.join(missing)}")
    rows: list[dict[str, Any]] = []
    for key, group in mr.groupby(_KEY, sort=True):
        group = group.reset_index(drop=True)
        ids = group["sequence_id"]
        member = {"all": np.ones(len(group), dtype=np.bool_)}
        member |= {name: (group["stratum"] == name).to_numpy() for name in STRATA[1:]}
        member |= {name: ids.isin(list(of)).to_numpy() for name, of in (strata or {}).items()}
        ok = (group["status"] == "ok").to_numpy()
        estimated = _Estimated.of(group[ok], chromosome_of)
        for stratum, inside in member.items():
            labels = dict(zip(_KEY, key, strict=True)) | {
                "stratum": stratum,
                "n_sequences": int(inside.sum()),
            }
            why = why_none(group.loc[inside, "status"])
            for row in _combined(estimated.among(inside[ok]), combinations, test, prediction):
                if not row["k"] and not row["n_dropped"]:
                    row["reason"] = why
                rows.append(labels | row)
    corrected = ("fdr", "q_value")
    table = pd.DataFrame(rows, columns=[name for name in META.names if name not in corrected])
    for name in corrected:
        table[name] = np.nan
    asked = table[table["direction"].isin(DIRECTIONS)]
    for _, members in asked.groupby(_FAMILY, sort=False).groups.items():
        p_values = table.loc[members, "p_value"].to_numpy(dtype=np.float64)
        table.loc[members, "fdr"] = benjamini_hochberg(p_values)
        table.loc[members, "q_value"] = storey_q(p_values).q
    return table[META.names]


def headline(meta: pd.DataFrame, method: str, combination: str) -> pd.DataFrame:
    """Return the rows a report speaks of: all strata, draw-wise, one a pair and direction.

    Parameters
    ----------
    meta : pandas.DataFrame
        Columns of `deepmr.schemas.META`; decoys are left out.
    method, combination : str
        Estimator and combination.
    """
    return meta[
        (meta["method"] == method)
        & (meta["combination"] == combination)
        & (meta["stratum"] == "all")
        & (meta["inference"] == "draw_wise")
        & meta["direction"].isin(DIRECTIONS)
    ]


class _Estimated:
    """What is known of the sequences with an estimate; the last axis is theirs."""

    def __init__(
        self,
        draws: NDArray[np.float64],
        draws_se: NDArray[np.float64],
        numbers: Mapping[str, NDArray[np.float64]],
        chromosomes: NDArray[np.object_] | None,
    ) -> None:
        self.draws, self.draws_se = draws, draws_se
        self.numbers, self.chromosomes = numbers, chromosomes

    @classmethod
    def of(cls, rows: pd.DataFrame, chromosome_of: Mapping[str, str | None] | None) -> _Estimated:
        """Gather them from rows of an MR table."""
        chromosomes = None
        if chromosome_of is not None:
            chromosomes = np.array(
                [chromosome_of[one] for one in rows["sequence_id"]], dtype=object
            )
        return cls(
            stacked(rows["draws"]),
            stacked(rows["draws_se"]),
            {name: rows[name].to_numpy(dtype=np.float64) for name in _NUMBERS},
            chromosomes,
        )

    def among(self, inside: NDArray[np.bool_]) -> _Estimated:
        """Return those of a stratum."""
        return _Estimated(
            self.draws[:, inside],
            self.draws_se[:, inside],
            {name: values[inside] for name, values in self.numbers.items()},
            None if self.chromosomes is None else self.chromosomes[inside],
        )


def _combined(
    found: _Estimated, combinations: Sequence[str], test: str, prediction: str
) -> Iterator[dict[str, Any]]:
    """Yield the row of every combination and inference."""
    variances = found.draws_se * found.draws_se
    total, scatter, plain = (
        found.numbers[name] * found.numbers[name] for name in ("se", "se_within", "se_diagonal")
    )
    estimates, strength = (
        found.numbers["estimate_diagonal"],
        _median(found.numbers["conditional_f"]),
    )
    for combination in combinations:
        for inference in INFERENCES:
            result: Result
            clusters = None
            if combination == "median":
                if inference == "chromosome":
                    continue
                result = median(found.draws if inference == "draw_wise" else estimates[None])
            elif inference == "draw_wise":
                result = draw_wise(found.draws, variances, combination, test, prediction, scatter)
            elif inference == "diagonal":
                result = random_effects(estimates, plain, combination, test, prediction=prediction)
            elif found.chromosomes is not None:
                robust = cluster_robust(
                    found.numbers["estimate"],
                    total,
                    found.chromosomes,
                    method=combination,
                    prediction=prediction,
                )
                result, clusters = robust.result, robust.n_clusters
            else:
                continue
            yield {
                "combination": combination,
                "inference": inference,
                "n_clusters": clusters,
                "conditional_f": strength,
                "pi_kind": prediction if np.isfinite(result.pi_low) else None,
                **asdict(result),
            }


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan
