"""``network.parquet``: every arrow among the targets, beside what could stand against it.

An arrow is the global effect of a pair in one direction. Beside it stand the pair's decoy (the
exposure's effects of other sequences, a negative control), the effect in the other direction, and
the direct effect given the other exposures of the same outcome. Where one of them stands against
reading the arrow as a cause, a flag says so; see :func:`network`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from deepmr.schemas import DIRECTIONS, NETWORK

OTHER = {"forward": "reverse", "reverse": "forward"}
STRONG = 10.0
"""Conditional F from which a conditional effect can be read (Sanderson, Spiller and Bowden, Stat
Med 2021;40:5434)."""
EGGER_KINDS = ("egger", "egger_profile", "egger_simex")
"""Methods with an intercept: their conditional counterpart is ``mv_egger``."""

FLAGS = {
    "both_directions": "both directions significant: direction not identified",
    "decoy_differs_from_zero": "the decoy's interval excludes 0",
    "not_beyond_decoy": "significant, but the decoy's interval overlaps the effect's",
    "not_conditional": "significant alone, but not given the other exposures of the outcome: "
    "another exposure may explain it",
    "sign_changes": "the effect given the other exposures has the other sign",
}
"""Every flag and what it says, in the order in which they are written."""

_INTERVAL = ("estimate", "ci_low", "ci_high")
_KEY = ["model", "pair", "direction"]
_READ = (
    *_KEY,
    "stratum",
    "inference",
    "exposure",
    "outcome",
    "method",
    "combination",
    "k",
    *_INTERVAL,
    "se",
    "p_value",
    "fdr",
    "q_value",
    "conditional_f",
    "status",
)

_PANDAS = {
    pa.string(): "str",
    pa.bool_(): "bool",
    pa.int32(): "Int64",
    pa.float64(): "float64",
}

Row = Mapping[Hashable, Any]
Pairs = Mapping[str, Mapping[str, Any]]


def network(
    meta: pd.DataFrame,
    pairs: Pairs,
    *,
    method: str,
    combination: str,
    fdr: float,
) -> pd.DataFrame:
    """Gather the effects of all pairs, in both directions, as the edges of a network.

    Parameters
    ----------
    meta : pandas.DataFrame
        Columns of `deepmr.schemas.META`. Of the stratum ``all`` and the inference ``draw_wise``
        only; other rows are not looked at.
    pairs : mapping of str to mapping
        As in the configuration: name -> ``exposure``, ``outcome`` and, optionally, ``control``.
    method, combination : str
        The estimator and the combination of the edges. The conditional effect of an edge is the
        row with the method ``mv_egger`` if `method` is a kind of Egger regression and there is
        one, else the row with ``mv_ivw``.
    fdr : float
        False discovery rate at which an edge is significant.

    Returns
    -------
    pandas.DataFrame
        Columns of `deepmr.schemas.NETWORK`: by model, then pair in the order of `pairs`, a row
        for ``forward`` (exposure on outcome) and one for ``reverse`` (outcome on exposure).
        Decoys are made of forward pairs, so a reverse edge has none. A question without rows in
        `meta` has the status ``no_sequences``. ``flag`` holds, comma-separated, none or more of

        * ``both_directions``: edge and other direction are significant, so that the direction is
          not identified;
        * ``decoy_differs_from_zero``: the decoy's 95 % interval excludes 0;
        * ``not_beyond_decoy``: the edge is significant, but its 95 % interval and the decoy's
          overlap;
        * ``not_conditional``: the edge is significant, but the 95 % interval of its conditional
          effect holds 0: another exposure of the outcome may explain it;
        * ``sign_changes``: the conditional effect has the other sign, and both intervals
          exclude 0.

        The last two are raised only where ``conditional_f`` is at least `STRONG`; below, the
        exposures can hardly be told apart and the conditional effect stands against nothing.

    Raises
    ------
    ValueError
        If `meta` knows a pair that `pairs` does not, or other ends of it; has no row of the
        method and combination; or has two rows for one question.
    """
    missing = [name for name in _READ if name not in meta]
    if missing:
        raise ValueError(f"the table of global effects lacks the columns {', '.join(missing)}")
    chosen = meta[
        (meta["combination"] == combination)
        & (meta["stratum"] == "all")
        & (meta["inference"] == "draw_wise")
    ]
    if len(meta) and not (chosen["method"] == method).any():
        raise ValueError(
            f"no row of the method {method!r} and the combination {combination!r}; there are "
            f"{', '.join(sorted(set(meta['method'] + ' with ' + meta['combination'])))}"
        )
    _check_ends(chosen, pairs)
    effects = _by_question(chosen[chosen["method"] == method])
    conditional = _by_question(chosen[chosen["method"] == "mv_ivw"])
    if method in EGGER_KINDS:
        conditional |= _by_question(chosen[chosen["method"] == "mv_egger"])
    rows = [
        _edge(model, name, direction, pairs, effects, conditional, fdr)
        | {"method": method, "combination": combination}
        for model in sorted(set(chosen["model"]))
        for name in pairs
        for direction in DIRECTIONS
    ]
    table = pd.DataFrame(rows, columns=NETWORK.names)
    # Else a column in which all is missing has no type, and one with gaps mixes None and numbers.
    return table.astype({field.name: _PANDAS[field.type] for field in NETWORK})


def ends(pair: Mapping[str, Any], direction: str) -> tuple[str, str]:
    """Return exposure and outcome of a configured pair in a direction."""
    forward = str(pair["exposure"]), str(pair["outcome"])
    return forward if direction == "forward" else forward[::-1]


def _check_ends(rows: pd.DataFrame, pairs: Pairs) -> None:
    for name, direction, exposure, outcome in (
        rows[["pair", "direction", "exposure", "outcome"]]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    ):
        if name not in pairs:
            raise ValueError(f"no pair is called {name!r}; pairs are {', '.join(pairs)}")
        asked = ends(pairs[name], "reverse" if direction == "reverse" else "forward")
        if (exposure, outcome) != asked:
            raise ValueError(
                f"pair {name!r}, {direction}: the table has {exposure} on {outcome}, "
                f"the configuration {asked[0]} on {asked[1]}"
            )


def _by_question(rows: pd.DataFrame) -> dict[tuple[str, str, str], Row]:
    """Return rows by model, pair and direction."""
    twice = rows[rows.duplicated(_KEY, keep=False)]
    if len(twice):
        model, pair, direction = twice.iloc[0][_KEY]
        raise ValueError(
            f"{len(twice)} rows of one method for one question, the first of model {model!r}, "
            f"pair {pair!r}, {direction}; keep one"
        )
    return {
        (row["model"], row["pair"], row["direction"]): row
        for row in rows[list(_READ)].to_dict("records")
    }


def _edge(
    model: str,
    name: str,
    direction: str,
    pairs: Pairs,
    effects: Mapping[tuple[str, str, str], Row],
    conditional: Mapping[tuple[str, str, str], Row],
    fdr: float,
) -> dict[str, Any]:
    exposure, outcome = ends(pairs[name], direction)
    edge = dict.fromkeys(NETWORK.names) | {
        "model": model,
        "pair": name,
        "direction": direction,
        "exposure": exposure,
        "outcome": outcome,
        "control": bool(pairs[name].get("control", False)),
        "k": 0,
        "status": "no_sequences",
    }
    found = effects.get((model, name, direction))
    if found is not None:
        of_edge = (*_INTERVAL, "se", "p_value", "fdr", "q_value", "k", "status")
        edge |= {column: found[column] for column in of_edge}
    if direction == "forward":
        edge |= _beside("decoy", (*_INTERVAL, "p_value"), effects.get((model, name, "decoy")))
    edge |= _beside("back", (*_INTERVAL, "fdr"), effects.get((model, name, OTHER[direction])))
    direct = conditional.get((model, name, direction))
    edge |= _beside("conditional", (*_INTERVAL, "p_value", "k", "method"), direct)
    if direct is not None:
        edge["conditional_f"] = direct["conditional_f"]
        edge["conditional_on"] = ",".join(_other_exposures(pairs, exposure, outcome))
    edge["significant"] = _at_most(edge["fdr"], fdr)
    edge["flag"] = ",".join(_flags(edge, fdr))
    return edge


def _beside(prefix: str, columns: tuple[str, ...], row: Row | None) -> dict[str, Any]:
    return {} if row is None else {f"{prefix}_{column}": row[column] for column in columns}


def _other_exposures(pairs: Pairs, exposure: str, outcome: str) -> list[str]:
    """Return what else is asked to act on `outcome`, in the order of the questions."""
    asked = (ends(pair, direction) for pair in pairs.values() for direction in DIRECTIONS)
    return list(dict.fromkeys(x for x, y in asked if y == outcome and x != exposure))


def _flags(edge: Mapping[str, Any], fdr: float) -> list[str]:
    low, high = _bounds(edge, "")
    decoy_low, decoy_high = _bounds(edge, "decoy_")
    direct_low, direct_high = np.nan, np.nan
    if edge["conditional_f"] is not None and edge["conditional_f"] >= STRONG:
        direct_low, direct_high = _bounds(edge, "conditional_")
    raised = {
        "both_directions": edge["significant"] and _at_most(edge["back_fdr"], fdr),
        "decoy_differs_from_zero": decoy_low > 0 or decoy_high < 0,
        "not_beyond_decoy": edge["significant"] and low <= decoy_high and decoy_low <= high,
        "not_conditional": edge["significant"] and direct_low <= 0 <= direct_high,
        "sign_changes": (low > 0 and direct_high < 0) or (high < 0 and direct_low > 0),
    }
    return [flag for flag in FLAGS if raised[flag]]


def _bounds(edge: Mapping[str, Any], prefix: str) -> tuple[float, float]:
    """Return an interval; that of nothing is NaN, which compares with nothing."""
    low, high = edge[f"{prefix}ci_low"], edge[f"{prefix}ci_high"]
    return (np.nan if low is None else low, np.nan if high is None else high)


def _at_most(value: float | None, level: float) -> bool:
    return value is not None and bool(value <= level)
