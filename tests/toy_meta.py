"""The tables of the meta-analysis that the toy run of `tests.toy_report` would have.

Every function takes tables and returns one with the columns of its schema.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from deepmr.schemas import META, META_DIAGNOSTICS, META_REGRESSION, SEQUENCE_EFFECTS

KEY = ["model", "pair", "direction", "exposure", "outcome", "method"]
INTERVAL = ["estimate", "se", "ci_low", "ci_high", "p_value"]
ENHANCER = "enhancer=yes"
# pair: the estimate of its decoy
DECOYS = {"GATA1_open": 0.03, "NRF1_open": -0.01, "JUND_open": 0.02}
# pair: effects given the other exposures of open
CONDITIONAL = {"GATA1_open": 0.9, "NRF1_open": 0.0, "JUND_open": 0.01}
# term: (unit, change of GATA1 -> open alone and together, of all other effects, SE)
TERMS = {
    "gc": ("per 0.1", 0.01, 0.0, 0.0, 0.02),
    "predicted_exposure": ("per logit", 0.08, 0.07, 0.004, 0.03),
    "motif_distance": ("per 10 bp", -0.004, -0.002, 0.001, 0.01),
    "bound": ("bound against unbound", 0.12, 0.02, 0.02, 0.07),
    ENHANCER: ("yes against no", -0.05, -0.04, 0.01, 0.06),
}


def complete(meta: pd.DataFrame) -> pd.DataFrame:
    """Add what toy_report.meta leaves out: decoys, conditional effects, CR2, one more stratum."""
    real = meta.assign(reason="", test="adhoc", n_dropped=0, n_clusters=np.nan, pi_kind="metafor")
    real["fmi"] = (real["se_draws"] / real["se"]) ** 2
    real["df"] = 60.0
    real["q_value"] = real["fdr"]
    for name, low, high in (("tau2", 0.004, 0.02), ("i2", 15.0, 48.0), ("h2", 1.18, 1.92)):
        real[f"{name}_low"], real[f"{name}_high"] = low, high
    median = real["combination"] == "median"
    spread = ["tau2", "i2", "h2", "q", "q_p", "pi_low", "pi_high"]
    spread += [f"{name}_{end}" for name in ("tau2", "i2", "h2") for end in ("low", "high")]
    real.loc[median, spread] = np.nan
    real.loc[median, "pi_kind"] = None
    part = real[real["stratum"] == "bound"].assign(stratum=ENHANCER)
    part["k"] //= 2
    part["n_sequences"] //= 2
    real = pd.concat([real, part])
    draw_wise = real["inference"] == "draw_wise"
    by_chromosome = real[draw_wise & ~real["combination"].eq("median")].assign(
        inference="chromosome", test="CR2", n_clusters=4.0, df=2.6, se_draws=np.nan, fmi=np.nan
    )
    by_chromosome = moved(by_chromosome, by_chromosome["estimate"], 0.7)
    forward = real["direction"] == "forward"
    decoys = real[forward].assign(
        direction="decoy", instrument_rule="motif", fdr=np.nan, q_value=np.nan
    )
    decoys["k"] = decoys["n_sequences"] = 44
    decoys = moved(decoys, decoys["pair"].map(DECOYS), 0.6)
    egger = draw_wise & forward & (real["method"] == "egger")
    given = real[egger].assign(method="mv_ivw", instrument_rule="union", conditional_f=24.0)
    given = moved(given, given["pair"].map(CONDITIONAL), 1.2)
    return pd.concat([real, by_chromosome, decoys, given], ignore_index=True)[META.names]


def moved(rows: pd.DataFrame, estimate: pd.Series, widen: float) -> pd.DataFrame:
    """Return rows with other estimates and their intervals, the SE times a factor."""
    rows = rows.assign(estimate=estimate, se=widen * rows["se"])
    rows["ci_low"] = rows["estimate"] - 1.96 * rows["se"]
    rows["ci_high"] = rows["estimate"] + 1.96 * rows["se"]
    rows["pi_low"], rows["pi_high"] = rows["ci_low"] - 0.1, rows["ci_high"] + 0.1
    z = rows["estimate"].abs() / rows["se"]
    rows["p_value"] = np.exp(-0.717 * z - 0.416 * z**2)
    return rows


def sequence_effects(mr: pd.DataFrame) -> pd.DataFrame:
    """Return sequence_effects.parquet of the rows of one method."""
    rows = mr[mr["method"] == "egger"][[*KEY, "sequence_id", "stratum", "estimate", "se", "status"]]
    rows = rows.reset_index(drop=True)
    ok = rows["status"] == "ok"
    n = len(rows)
    rng = np.random.default_rng(11)
    made = rows.assign(
        gc=rng.uniform(0.35, 0.6, n),
        predicted_exposure=rng.normal(0, 2, n),
        motif_distance=rng.integers(0, 80, n).astype(float),
        blup=0.5 * rows["estimate"],
        blup_se=0.8 * rows["se"],
        shrunk=0.5 * rows["estimate"],
        shrunk_sd=0.8 * rows["se"],
        p_zero=0.1,
        p_negative=0.05,
        p_positive=0.85,
        lfsr=np.where(rows["estimate"].abs() > 2 * rows["se"], 0.01, 0.4),
        s_value=0.05,
        weight=1.4,
        rstudent=rng.normal(0, 1, n),
        cooks_distance=rng.gamma(1, 0.01, n),
        without=rows.groupby(KEY)["estimate"].transform("mean") + rng.normal(0, 0.002, n),
        influential=False,
    )
    computed = [name for name in SEQUENCE_EFFECTS.names if name not in rows and name[:3] != "inf"]
    made.loc[~ok, computed] = np.nan
    return made[SEQUENCE_EFFECTS.names]


def headline(meta: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both directions that the report speaks of."""
    return meta[
        (meta["method"] == "egger")
        & (meta["combination"] == "REML")
        & (meta["stratum"] == "all")
        & (meta["inference"] == "draw_wise")
        & (meta["direction"] != "decoy")
    ]


def regression(meta: pd.DataFrame) -> pd.DataFrame:
    """Return meta_regression.parquet: GATA1 -> open is larger where more GATA1 is predicted."""
    rows = []
    for row in headline(meta).to_dict("records"):
        if np.isnan(row["estimate"]):
            rows += [_empty(row) | {"covariates": "alone", "term": term} for term in TERMS]
            continue
        causal = (row["pair"], row["direction"]) == ("GATA1_open", "forward")
        for how in ("alone", "together"):
            for term, (unit, alone, together, otherwise, se) in TERMS.items():
                at = (alone if how == "alone" else together) if causal else otherwise
                rows.append(_slope(row, how, term, unit, at, se))
            rows.append(_slope(row, how, "intercept", "", row["estimate"], row["se"]))
    return pd.DataFrame(rows).reindex(columns=META_REGRESSION.names)


def _empty(row: dict) -> dict:
    why = {"status": "no_sequences", "reason": "no sequence to combine"}
    return {name: row[name] for name in (*KEY, "combination", "k")} | why


def _slope(row: dict, how: str, term: str, unit: str, at: float, se: float) -> dict:
    z = abs(at) / se
    return {name: row[name] for name in (*KEY, "combination", "k")} | {
        "covariates": how,
        "term": term,
        "unit": unit,
        "n_dropped": 0,
        "estimate": at,
        "se": se,
        "ci_low": at - 2 * se,
        "ci_high": at + 2 * se,
        "p_value": float(np.exp(-0.717 * z - 0.416 * z**2)),
        "se_within": 0.8 * se,
        "se_draws": 0.6 * se,
        "df": 50.0,
        "tau2": 0.009,
        "r2": 12.0 if how == "alone" else 15.0,
        "status": "ok",
        "reason": "",
    }


def diagnostics(meta: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    """Return meta_diagnostics.parquet: GATA1 -> open is diluted in unsure sequences."""
    rows = []
    ok = sequences[sequences["status"] == "ok"]
    for row in headline(meta).to_dict("records"):
        if np.isnan(row["estimate"]):
            rows.append(_empty(row))
            continue
        found = row["estimate"] > 0.5
        causal = (row["pair"], row["direction"]) == ("GATA1_open", "forward")
        of_pair = ok[(ok["pair"] == row["pair"]) & (ok["direction"] == row["direction"])]
        shares = {"zero": 0.07, "negative": 0.01, "positive": 0.92} if found else {}
        for name, absent in (("zero", 0.88), ("negative", 0.05), ("positive", 0.07)):
            shares.setdefault(name, absent)
        rows.append(
            {name: row[name] for name in (*KEY, "combination", "k")}
            | {
                "egger_z": -2.6 if causal else 0.4,
                "egger_p": 0.009 if causal else 0.69,
                "rank_tau": -0.18 if causal else 0.03,
                "rank_p": 0.03 if causal else 0.7,
                "trim_fill_k0": 5 if causal else 0,
                "trim_fill_estimate": row["estimate"] + (0.03 if causal else 0.0),
                "without_one_low": row["estimate"] - 0.012,
                "without_one_high": row["estimate"] + 0.009,
                "most_influential": of_pair["sequence_id"].iloc[3],
                "n_influential": 2,
                "n_sure": 61 if found else 2,
                "status": "ok",
                "reason": "",
            }
            | {f"share_{name}": share for name, share in shares.items()}
            | {f"share_{name}_sd": 0.03 for name in shares}
        )
    return pd.DataFrame(rows).reindex(columns=META_DIAGNOSTICS.names)


def through_schema(table: pd.DataFrame, schema: pa.Schema) -> pd.DataFrame:
    """Return a table as the report gets it: written with its schema and read again."""
    return pa.Table.from_pandas(table, schema=schema, preserve_index=False).to_pandas()


def emptied(table: pd.DataFrame, columns: Sequence[str], **where: str) -> pd.DataFrame:
    """Return a copy in which rows have no numbers in some columns."""
    chosen = pd.Series(True, index=table.index)
    for name, value in where.items():
        chosen &= table[name] == value
    changed = table.copy()
    changed.loc[chosen, list(columns)] = np.nan
    return changed
