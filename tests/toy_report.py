"""A simulated run as the report sees it: one causal, one null and one reversed pair.

``python -m tests.toy_report FOLDER`` writes its figures and its report, to be looked at.
"""

import sys
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy.special import expit

from deepmr import calibration
from deepmr.calibration.predicted import probabilities
from deepmr.figures import calibration as calibration_figures
from deepmr.figures import causal, deep_iv, heterogeneity, prediction, style
from deepmr.figures import network as networks
from deepmr.figures import uncertainty as uncertainty_figures
from deepmr.meta.tables.network import network
from deepmr.report.answers import Settings
from deepmr.report.pictures import Picture, read_captions
from deepmr.report.render import write
from deepmr.schemas import (
    CALIBRATORS,
    META,
    META_DIAGNOSTICS,
    META_REGRESSION,
    NETWORK,
    SEQUENCE_EFFECTS,
    UNCERTAINTY,
    replicates_schema,
)
from deepmr.uncertainty.replicates import Replicates, read_replicates
from deepmr.uncertainty.report import report as judged
from tests import toy_deep_iv, toy_meta

PAIRS = {
    "GATA1_open": {"exposure": "GATA1", "outcome": "open"},
    "NRF1_open": {"exposure": "NRF1", "outcome": "open"},
    "JUND_open": {"exposure": "JUND", "outcome": "open"},
}
TARGETS = ("GATA1", "NRF1", "JUND", "open")
# (pair, direction): effect the toy model learned, theta, marginal slope
EFFECTS = {
    ("GATA1_open", "forward"): (0.93, 1.0, 0.95),
    ("GATA1_open", "reverse"): (0.02, 0.0, 0.0),
    ("NRF1_open", "forward"): (-0.02, 0.0, 0.0),
    ("NRF1_open", "reverse"): (0.01, 0.0, 0.0),
    ("JUND_open", "forward"): (0.03, 0.0, 0.0),
    ("JUND_open", "reverse"): (0.69, 0.8, 0.74),
}
METHODS = ("egger", "ivw", "ivw_fixed", "weighted_median")
CAPTIONS = read_captions(Path(__file__).parents[1] / "workflow" / "report")
SETTINGS = Settings(n_draws=40)


def ends(pair: str, direction: str) -> tuple[str, str]:
    x, y = PAIRS[pair]["exposure"], PAIRS[pair]["outcome"]
    return (x, y) if direction == "forward" else (y, x)


def truth() -> pd.DataFrame:
    rows = []
    for key, (_, theta, slope) in EFFECTS.items():
        x, y = ends(*key)
        rows.append((x, y, theta, slope, 0.004, 900))
    columns = ("exposure", "outcome", "theta", "marginal_slope", "marginal_slope_se", "n_mutations")
    return pd.DataFrame(rows, columns=list(columns))


def mr(n: int = 50, effects: dict = EFFECTS) -> pd.DataFrame:
    return _mr(n, tuple(effects.items())).copy()


@cache
def _mr(n: int, effects: tuple) -> pd.DataFrame:
    rows = []
    rng = np.random.default_rng(5)
    for (pair, direction), (effect, *_) in effects:
        x, y = ends(pair, direction)
        for stratum, i, method in product(("bound", "unbound"), range(n), METHODS):
            hit = rng.random() < (0.96 if stratum == "bound" else 0.4)
            se = float(rng.gamma(6, 0.03))
            if method == METHODS[0]:  # the methods of a sequence differ by little
                middle = effect + rng.normal(0, 0.1) + rng.normal(0, se)
            estimate = middle + rng.normal(0, 0.04)
            number = int(rng.integers(24, 70))
            row = {
                "sequence_id": f"chr5:{1000 * i + (500 if stratum == 'bound' else 0)}-{1000 * i}",
                "model": "cnn",
                "pair": pair,
                "direction": direction,
                "exposure": x,
                "outcome": y,
                "stratum": stratum,
                "method": method,
                "instrument_rule": "motif",
                "estimate": estimate if hit else np.nan,
                "se": se,
                "ci_low": estimate - 1.96 * se if hit else np.nan,
                "ci_high": estimate + 1.96 * se if hit else np.nan,
                "n_instruments": number if hit else 0,
                "mean_f": rng.gamma(5, 9) if hit else np.nan,
                "i2_gx": 1 - rng.gamma(2, 0.02) if hit else np.nan,
                "q_p": rng.random() if hit else np.nan,
                "intercept": rng.normal(0, 0.03) if hit and method == "egger" else np.nan,
                "intercept_p": rng.random() if hit and method == "egger" else np.nan,
                "status": "ok" if hit else "no_motif_hit",
            }
            rows.append(row)
    return pd.DataFrame(rows)


def meta(effects: dict = EFFECTS, local: pd.DataFrame | None = None) -> pd.DataFrame:
    local = mr(effects=effects) if local is None else local
    by = ["pair", "direction", "method", "stratum"]
    asked = local.groupby(by).size().to_dict()
    ok = local[local["status"] == "ok"].groupby(by).size().to_dict()
    rows = []
    for (pair, direction), (effect, *_) in effects.items():
        x, y = ends(pair, direction)
        for method, stratum, combination, inference in product(
            METHODS, ("all", "bound", "unbound"), ("REML", "median"), ("draw_wise", "diagonal")
        ):
            strata = ("bound", "unbound") if stratum == "all" else (stratum,)
            keys = [(pair, direction, method, name) for name in strata]
            k = sum(ok.get(key, 0) for key in keys)
            within = 0.15 / np.sqrt(max(k, 1))
            draws = 0.055 if inference == "draw_wise" else 0.0
            se = float(np.hypot(within, draws))
            point = effect + 0.01 * METHODS.index(method)
            z = abs(point) / se
            rows.append(
                {
                    "model": "cnn",
                    "pair": pair,
                    "direction": direction,
                    "exposure": x,
                    "outcome": y,
                    "method": method,
                    "instrument_rule": "motif",
                    "stratum": stratum,
                    "combination": combination,
                    "inference": inference,
                    "k": k,
                    "n_sequences": sum(asked.get(key, 0) for key in keys),
                    "estimate": point,
                    "se": se,
                    "se_within": within,
                    "se_draws": draws or np.nan,
                    "ci_low": point - 1.96 * se,
                    "ci_high": point + 1.96 * se,
                    "p_value": float(2 * np.exp(-0.717 * z - 0.416 * z**2) / 2),
                    "tau2": 0.01,
                    "i2": 31.0,
                    "h2": 1.4,
                    "q": 80.0,
                    "q_p": 0.2,
                    "pi_low": point - 1.96 * np.hypot(se, 0.1),
                    "pi_high": point + 1.96 * np.hypot(se, 0.1),
                    "fdr": float(min(1.0, 6 * np.exp(-0.717 * z - 0.416 * z**2))),
                    "status": "ok",
                }
            )
    return pd.DataFrame(rows)


def predictions(n: int = 1500, draws: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (n, 4), logits (n, 4) and logit draws (n, 40, 4)."""
    rng = np.random.default_rng(3)
    z = rng.normal(-0.8, 2.2, (n, len(TARGETS)))
    labels = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(float)
    labels[:40, 1] = np.nan
    noise = rng.normal(0, 0.25, (1, draws, len(TARGETS))) + rng.normal(0, 0.3, (n, draws, 4))
    return labels, z, z[:, None, :] + noise


# what the toy network says of the logit: a x + b of the truth; the others say the truth
DISTORTED = {"open": (1.35, 0.5)}
MAPS = ("temperature", "platt", "isotonic")


def calibrated() -> pd.DataFrame:
    """Return calibration.parquet: open is overconfident, and Platt calibration mends it."""
    return _calibrated().copy()


@cache
def _calibrated() -> pd.DataFrame:
    labels, logits, draws = predictions()
    slope, shift = np.array([DISTORTED.get(t, (1.0, 0.0)) for t in TARGETS]).T
    after = {
        "none": (slope, shift),
        "temperature": (1.0, shift / slope),
        "platt": (1.0, 0.0),
        "isotonic": (1.0, 0.02),
    }
    chromosomes = {
        "validation": np.repeat(["chr4"], len(labels)),
        "test": np.repeat(["chr5", "chr6", "chr7"], len(labels) // 3),
    }
    rows = []
    asked = [*product(["test"], after), ("validation", "none"), ("validation", "platt")]
    for split, name in asked:
        a, b = after[name]
        rows.append(
            calibration.report(
                labels,
                a * logits + b,
                a * draws + b,
                TARGETS,
                chromosomes=chromosomes[split],
                model="cnn",
                split=split,
                calibrator=name,
                simulations=40,
            )
        )
    return pd.concat(rows, ignore_index=True)


def calibrators() -> pd.DataFrame:
    """Return calibrators.parquet as it belongs to :func:`calibrated`."""
    labels, _, _ = predictions()
    rows = []
    for k, target in enumerate(TARGETS):
        slope, shift = DISTORTED.get(target, (1.0, 0.0))
        maps = {"temperature": (1 / slope, 0.0), "platt": (1 / slope, -shift / slope)}
        for name in MAPS:
            a, b = maps.get(name, (np.nan, np.nan))
            rows.append(
                dict.fromkeys(CALIBRATORS.names, np.nan)
                | {"model": "cnn", "target": target, "calibrator": name, "a": a, "b": b}
                | {"n": int(np.isfinite(labels[:, k]).sum())}
                | {"n_positive": int((labels[:, k] == 1).sum()), "shrinkage": 0.0}
                | {"strictly_increasing": name in maps, "status": "ok", "knots": None}
                | {"values": None, "zero_effects": 0.0 if name in maps else 0.55 + 0.02 * k}
            )
    return pd.DataFrame(rows)


# SE of every mutation; members differ by an SD of SPREAD, so s is SPREAD / SE
SES = {"GATA1": 0.1, "NRF1": 0.16, "JUND": 0.1, "open": 0.075}
SPREAD, WRONG = 0.1, 0.12


def replicates(ses: Mapping[str, float] = SES, members: int = 6, truth: bool = True) -> Replicates:
    """Return effects of networks that share an error of SD WRONG and differ by SPREAD."""
    rng = np.random.default_rng(3)
    rows = []
    for j in range(1200):
        row: dict = {"sequence_id": f"s{j // 60}", "position": j % 60, "ref": "A", "alt": "C"}
        for target, se in ses.items():
            effect = 0.2 * rng.standard_t(3)
            learned = effect + rng.normal(0, WRONG) + rng.normal(0, SPREAD, members)
            row[target] = {
                "reference": rng.normal(-1, 1, members).tolist(),
                "effect": learned.tolist(),
                "se": [se] * members,
                "truth": effect if truth else None,
            }
        rows.append(row)
    return read_replicates(pa.Table.from_pylist(rows, schema=replicates_schema(list(ses))))


def uncertainty(found: Replicates | None = None, method: str = "mc_dropout") -> pd.DataFrame:
    """Return uncertainty.parquet: the SEs of open are too small, those of NRF1 too wide."""
    found = replicates() if found is None else found
    table = judged(found, model="cnn", method=method, draws=40, seed=1)
    # through the schema, as the report gets it
    return pa.Table.from_pandas(table, schema=UNCERTAINTY, preserve_index=False).to_pandas()


def instruments(slope: float = 0.93) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    bx = -rng.gamma(1.4, 0.7, 42) * rng.choice([1, 1, 1, -1], 42)
    by = slope * bx + rng.normal(0, 0.12, 42)
    return bx, by, 0.05 + 0.12 * np.abs(bx), 0.05 + 0.12 * np.abs(by)


def history() -> pd.DataFrame:
    rows = []
    for member, epoch in product(range(2), range(1, 13)):
        row = {"member": member, "epoch": epoch, "train_loss": 0.3 + 0.4 * np.exp(-epoch / 3)}
        row["validation_loss"] = 0.34 + 0.36 * np.exp(-epoch / 2.5) + 0.0009 * epoch**1.6
        row["validation_loss"] += 0.004 * member
        for i, target in enumerate(TARGETS):
            row[f"auroc.{target}"] = 0.95 - 0.02 * i - 0.3 * np.exp(-epoch / (2 + i))
        rows.append(row)
    return pd.DataFrame(rows)


def figures(folder: Path) -> list[Picture]:
    labels, logits, draws = predictions()
    p = probabilities(logits, draws)
    local = mr()
    whole = meta(local=local)
    main = whole[
        (whole["method"] == "egger")
        & (whole["stratum"] == "all")
        & (whole["combination"] == "REML")
        & (whole["inference"] == "draw_wise")
    ].merge(truth()[["exposure", "outcome", "marginal_slope"]])
    made = [("global_effects", "cnn", causal.global_effects(main))]
    for row in main.to_dict("records"):
        here = local[
            (local["pair"] == row["pair"])
            & (local["direction"] == row["direction"])
            & (local["method"] == "egger")
        ]
        x, y = row["exposure"], row["outcome"]
        known = {
            "marginal slope": row["marginal_slope"],
            "structural θ": EFFECTS[(row["pair"], row["direction"])][1],
        }
        forest = causal.forest(here, row, exposure=x, outcome=y, truth=known)
        made.append(("forest", f"{x} → {y}", forest))
        if row["direction"] == "forward":
            sequence = causal.representative(here)
            lines = local[
                (local["pair"] == row["pair"])
                & (local["direction"] == "forward")
                & (local["sequence_id"] == sequence)
            ]
            scatter = causal.mr_scatter(
                *instruments(EFFECTS[(row["pair"], "forward")][0]),
                lines,
                exposure=x,
                outcome=y,
                sequence_id=sequence,
                references={"true marginal slope": row["marginal_slope"]},
            )
            made.append(("mr_scatter", f"{x} → {y}", scatter))
            both = [TARGETS.index(x), TARGETS.index(y)]
            unsure = uncertainty_figures.predictions((x, y), draws[:, :, both], labels[:, both])
            made.append(("uncertainty", f"{x} and {y}", unsure))
    combined = toy_meta.complete(whole)
    tables = tables_of(combined, local)
    drawn = networks.network(tables["network"], TARGETS, fdr=SETTINGS.fdr)
    made.append(("network", "cnn", drawn))
    beside = deep_iv.deep_iv(toy_meta.headline(combined), toy_deep_iv.table())
    made.append(("deep_iv", "cnn", beside))
    for row in toy_meta.headline(combined).to_dict("records"):
        of_row = (
            (tables[name]["pair"] == row["pair"]) & (tables[name]["direction"] == row["direction"])
            for name in ("sequence_effects", "meta_diagnostics")
        )
        effects, diagnosed = (
            tables[name][chosen]
            for name, chosen in zip(("sequence_effects", "meta_diagnostics"), of_row, strict=True)
        )
        x, y = row["exposure"], row["outcome"]
        drawn = heterogeneity.funnel(effects, row, diagnosed.iloc[0], exposure=x, outcome=y)
        made.append(("funnel", f"{x} → {y}", drawn))
    made.append(("roc", "cnn", prediction.roc(labels, p, TARGETS)))
    metrics = calibrated()
    retrained = replicates()
    for k, target in enumerate(TARGETS):
        slope, shift = DISTORTED.get(target, (1.0, 0.0))
        said = {
            "none": slope * draws[:, :, k] + shift,
            "temperature": draws[:, :, k] + shift / slope,
            "platt": draws[:, :, k],
        }
        p = {name: expit(logits).mean(axis=1) for name, logits in said.items()}
        rows = metrics[(metrics["target"] == target) & (metrics["split"] == "test")]
        here = labels[:, k]
        errors = uncertainty_figures.standard_errors(retrained, target, uncertainty())
        made += [
            ("reliability", target, calibration_figures.reliability(here, p["none"], target)),
            ("calibrators", target, calibration_figures.calibrators(here, p, rows, target)),
            ("histogram", target, prediction.histogram(here, p["none"], target)),
            ("standard_errors", target, errors),
        ]
    made.append(("learning_curves", "cnn", prediction.learning_curves(history())))
    return [
        Picture(kind, title, style.save(fig, folder / f"{kind}-{i}.svg"))
        for i, (kind, title, fig) in enumerate(made)
    ]


COUNTS = {
    "Windows": {"tiled": 16000, "with N": 12, "kept": 14988, "test": 2400},
    "GATA1": {"bound": 50, "unbound": 50, "duplicates removed": 0},
}
PROVENANCE = {
    "Run": {"seed": 1, "configuration": "sha256 4f0c19a2", "started": "2026-11-23 02:14"},
    "Versions": {"deepmr": "0.1.0", "torch": "2.13.0", "numpy": "2.4.1", "pandas": "3.0.0"},
    "Code": {"deepmr.mr": "9a21c0de55aa", "deepmr.mutagenesis": "01fe4410c3d2"},
}


def tables_of(combined: pd.DataFrame, local: pd.DataFrame, pairs: dict = PAIRS) -> dict:
    """Return the tables of the meta-analysis, by name, as the report gets them."""
    arrows = network(combined, pairs, method="egger", combination="REML", fdr=SETTINGS.fdr)
    sequences = toy_meta.sequence_effects(local)
    made = {
        "meta": (combined, META),
        "network": (arrows, NETWORK),
        "sequence_effects": (sequences, SEQUENCE_EFFECTS),
        "meta_regression": (toy_meta.regression(combined), META_REGRESSION),
        "meta_diagnostics": (toy_meta.diagnostics(combined, sequences), META_DIAGNOSTICS),
    }
    return {name: toy_meta.through_schema(*both) for name, both in made.items()}


def context() -> dict:
    local = mr()
    return {
        "mr": local,
        **tables_of(toy_meta.complete(meta(local=local)), local),
        "calibration": calibrated(),
        "calibrators": calibrators(),
        "uncertainty": uncertainty(),
        "pairs": PAIRS,
        "captions": CAPTIONS,
        "truth": truth(),
        "deep_iv": toy_deep_iv.table(),
        "settings": SETTINGS,
        "counts": COUNTS,
        "provenance": PROVENANCE,
    }


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    write(directory / "report.html", **context(), pictures=figures(directory / "figures"))
