"""From the tables of a run to an answer per pair, and to what speaks for and against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from deepmr.report.table import as_float, records
from deepmr.schemas import DIRECTIONS

DECOY = "decoy"
DRAW_WISE, CHROMOSOME, DIAGONAL = "draw_wise", "chromosome", "diagonal"
INFERENCES = (DRAW_WISE, CHROMOSOME, DIAGONAL)

Verdict = Literal["forward", "reverse", "both", "none", "unknown"]


@dataclass(frozen=True)
class Settings:
    """What the headline rests on, and when the report warns.

    Attributes
    ----------
    method, combination, stratum : str
        Rows of ``meta.parquet`` that make the headline (with the inference ``draw_wise``).
    effect_scale : str
        "logit" or "probability"; a simulated truth is compared on the logit scale only.
    draw_method, n_draws
        As configured; for the text on uncertainty.
    calibrator : str
        The map that every draw went through before effects were taken; "none" for none.
    apply_scale : bool
        Whether the standard errors of effects were widened by the scale found against retrained
        networks.
    minimum_positives : int
        A target with fewer validation windows of either label was not calibrated.
    minimum_auroc : float
        A head below it on test windows is called poorly learned.
    minimum_sequences : int
        Fewer estimated sequences than this make a warning.
    fdr : float
        False discovery rate at which an effect counts as found in the network.
    """

    method: str = "egger"
    combination: str = "REML"
    stratum: str = "all"
    effect_scale: str = "logit"
    draw_method: str = "mc_dropout"
    n_draws: int = 0
    calibrator: str = "none"
    apply_scale: bool = False
    minimum_positives: int = 10
    minimum_auroc: float = 0.75
    minimum_sequences: int = 10
    fdr: float = 0.05


@dataclass(frozen=True)
class Truth:
    """What the simulator knows of one direction."""

    theta: float
    marginal_slope: float

    @property
    def value(self) -> float:
        """The marginal slope; the structural effect where no mutation could show a slope."""
        return self.marginal_slope if np.isfinite(self.marginal_slope) else self.theta


@dataclass(frozen=True)
class Estimate:
    """A global effect, real or of a decoy, with its 95 % interval."""

    model: str
    pair: str
    direction: str
    exposure: str
    outcome: str
    estimate: float
    ci_low: float
    ci_high: float
    row: Mapping[str, object]
    """The whole draw-wise row of ``meta.parquet``."""

    @property
    def name(self) -> str:
        """The direction in words: "GATA1 → open"."""
        return f"{self.exposure} → {self.outcome}"

    @property
    def known(self) -> bool:
        """Whether there is an estimate with an interval."""
        return bool(np.isfinite([self.estimate, self.ci_low, self.ci_high]).all())

    @property
    def sign(self) -> int:
        """1 or -1 when the interval excludes 0, else 0."""
        if not self.known or self.holds(0.0):
            return 0
        return 1 if self.estimate > 0 else -1

    def holds(self, value: float) -> bool:
        """Return whether the 95 % interval holds a value."""
        return self.known and self.ci_low <= value <= self.ci_high


@dataclass(frozen=True)
class Effect(Estimate):
    """The global effect of one pair in one direction, with the sequences behind it."""

    chromosome: Mapping[str, object] | None
    """Its row with errors shared within a chromosome only (CR2)."""
    diagonal: Mapping[str, object] | None
    """Its diagonal twin: what others would print."""
    estimated: int
    """Sequences with a local estimate."""
    asked: int
    """Sequences sampled for the exposure."""
    agreeing: int
    """Sequences whose own interval excludes 0 on the side of the global estimate."""
    by_stratum: Mapping[str, tuple[int, int]]
    """stratum -> (estimated, asked)."""
    reasons: Mapping[str, int]
    """Status -> number of sequences without an estimate."""
    truth: Truth | None


@dataclass(frozen=True)
class Answer:
    """Both directions of a pair and what they say together."""

    model: str
    pair: str
    control: bool
    """A control pair: without an effect in either direction, as far as anybody knows."""
    forward: Effect
    reverse: Effect
    decoy: Estimate | None = None
    """The forward pair with the exposure's effects of other sequences; None if never asked."""
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        """Set the verdict from the two intervals."""
        signs = (self.forward.sign != 0, self.reverse.sign != 0)
        verdict: Verdict = "none"
        if not (self.forward.known or self.reverse.known):
            verdict = "unknown"
        elif all(signs):
            verdict = "both"
        elif signs[0]:
            verdict = "forward"
        elif signs[1]:
            verdict = "reverse"
        elif not self.forward.known:
            verdict = "unknown"
        object.__setattr__(self, "verdict", verdict)


@dataclass(frozen=True)
class Head:
    """How well the model learned one target, on test windows."""

    model: str
    target: str
    auroc: float
    status: str
    poor: bool


def answers(
    meta: pd.DataFrame,
    mr: pd.DataFrame,
    pairs: Mapping[str, Mapping[str, object]],
    truth: pd.DataFrame | None,
    settings: Settings,
) -> list[Answer]:
    """Return the answer of every model and pair, models and pairs in their order.

    Parameters
    ----------
    meta, mr : DataFrame
        ``meta.parquet`` and ``mr.parquet``.
    pairs : mapping
        Name -> ``exposure``, ``outcome`` and, optionally, ``control``: true for a pair without an
        effect in either direction. A pair whose simulated effect is 0 both ways is a control too.
    truth : DataFrame or None
        ``truth.parquet`` of a simulated genome.
    settings : Settings
        Which rows make the headline.

    Returns
    -------
    list of Answer

    Raises
    ------
    ValueError
        When ``meta`` lacks the row of a pair and direction, or has it twice.
    """
    found = []
    for model in dict.fromkeys(meta["model"]):
        for pair, ends in pairs.items():
            forward, reverse = (
                _effect(meta, mr, model, pair, direction, truth, settings)
                for direction in DIRECTIONS
            )
            null_in_truth = (
                forward.truth is not None
                and reverse.truth is not None
                and forward.truth.theta == 0 == reverse.truth.theta
            )
            control = bool(ends.get("control", False)) or null_in_truth
            decoy = _decoy(meta, str(model), pair, settings)
            found.append(Answer(str(model), pair, control, forward, reverse, decoy))
    return found


def controls_for(answer: Answer, everything: Sequence[Answer]) -> list[Answer]:
    """Return the controls to hold against a pair: those of its outcome, else all of its model."""
    controls = [a for a in everything if a.control and a.model == answer.model and a != answer]
    same = [a for a in controls if a.forward.outcome == answer.forward.outcome]
    return same or controls


def heads(
    calibration: pd.DataFrame, found: Sequence[Answer], settings: Settings
) -> dict[tuple[str, str], Head]:
    """Return how well each target of a pair was learned, by (model, target).

    Parameters
    ----------
    calibration : DataFrame
        ``calibration.parquet``; the rows of the test split and the calibrator "none" count.
    found : sequence of Answer
        Names the models and targets asked for.
    settings : Settings
        ``minimum_auroc``.

    Returns
    -------
    dict
        Targets without a row are left out; a count or continuous target is never called poor,
        since it has no AUROC.
    """
    rows = calibration[(calibration["split"] == "test") & (calibration["calibrator"] == "none")]
    by_key = {(str(r["model"]), str(r["target"])): r for r in rows.to_dict("records")}
    asked = dict.fromkeys(
        (a.model, target) for a in found for target in (a.forward.exposure, a.forward.outcome)
    )
    result = {}
    for key in asked:
        if key not in by_key:
            continue
        row = by_key[key]
        auroc, status = float(row["auroc"]), str(row["status"])
        binary = status not in ("count_target", "continuous_target")
        poor = binary and not auroc >= settings.minimum_auroc
        result[key] = Head(*key, auroc, status, poor)
    return result


def _effect(
    meta: pd.DataFrame,
    mr: pd.DataFrame,
    model: str,
    pair: str,
    direction: str,
    truth: pd.DataFrame | None,
    settings: Settings,
) -> Effect:
    of_inference = _rows(meta, model, pair, direction, settings)
    if len(of_inference[DRAW_WISE]) != 1:
        raise ValueError(
            f"meta table: {len(of_inference[DRAW_WISE])} rows instead of 1 for the model {model}, "
            f"pair {pair}, direction {direction}, method {settings.method}, combination "
            f"{settings.combination}, stratum {settings.stratum}, inference {DRAW_WISE}; the "
            f"table has the methods {sorted(set(meta['method']))}, the combinations "
            f"{sorted(set(meta['combination']))} and the pairs {sorted(set(meta['pair']))}"
        )
    row = of_inference[DRAW_WISE][0]
    local = mr[
        (mr["model"] == model)
        & (mr["pair"] == pair)
        & (mr["direction"] == direction)
        & (mr["method"] == settings.method)
    ]
    if settings.stratum != "all":
        local = local[local["stratum"] == settings.stratum]
    ok = (local["status"] == "ok") & local["estimate"].notna()
    estimate = as_float(row["estimate"])
    agrees = (local["ci_low"] > 0) if estimate > 0 else (local["ci_high"] < 0)
    strata = local["stratum"].fillna("")
    return Effect(
        model=model,
        pair=pair,
        direction=direction,
        exposure=str(row["exposure"]),
        outcome=str(row["outcome"]),
        estimate=estimate,
        ci_low=as_float(row["ci_low"]),
        ci_high=as_float(row["ci_high"]),
        row=row,
        chromosome=next(iter(of_inference[CHROMOSOME]), None),
        diagonal=next(iter(of_inference[DIAGONAL]), None),
        estimated=int(ok.sum()),
        asked=len(local),
        agreeing=int((ok & agrees).sum()),
        by_stratum={
            str(name): (int(ok[strata == name].sum()), int((strata == name).sum()))
            for name in sorted(set(strata))
            if name
        },
        reasons={str(k): int(v) for k, v in local.loc[~ok, "status"].value_counts().items()},
        truth=_truth(truth, str(row["exposure"]), str(row["outcome"])),
    )


def _decoy(meta: pd.DataFrame, model: str, pair: str, settings: Settings) -> Estimate | None:
    found = _rows(meta, model, pair, DECOY, settings)[DRAW_WISE]
    if len(found) > 1:
        raise ValueError(
            f"meta table: {len(found)} rows instead of 1 for the decoy of the model {model}, pair "
            f"{pair}, method {settings.method}, combination {settings.combination}, stratum "
            f"{settings.stratum}, inference {DRAW_WISE}"
        )
    if not found:
        return None
    row = found[0]
    return Estimate(
        model=model,
        pair=pair,
        direction=DECOY,
        exposure=str(row["exposure"]),
        outcome=str(row["outcome"]),
        estimate=as_float(row["estimate"]),
        ci_low=as_float(row["ci_low"]),
        ci_high=as_float(row["ci_high"]),
        row=row,
    )


def _rows(
    meta: pd.DataFrame, model: str, pair: str, direction: str, settings: Settings
) -> dict[str, list[dict[str, object]]]:
    """Return the headline's rows of a pair and direction, by inference."""
    rows = meta[
        (meta["model"] == model)
        & (meta["pair"] == pair)
        & (meta["direction"] == direction)
        & (meta["method"] == settings.method)
        & (meta["combination"] == settings.combination)
        & (meta["stratum"] == settings.stratum)
    ]
    return {kind: records(rows[rows["inference"] == kind]) for kind in INFERENCES}


def _truth(truth: pd.DataFrame | None, exposure: str, outcome: str) -> Truth | None:
    if truth is None:
        return None
    rows = truth[(truth["exposure"] == exposure) & (truth["outcome"] == outcome)]
    if rows.empty:
        return None
    return Truth(as_float(rows["theta"].iloc[0]), as_float(rows["marginal_slope"].iloc[0]))
