"""The schema of every Parquet table of a run, with the unit or meaning of its columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa


def _field(name: str, kind: pa.DataType, unit: str | None = None) -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


def _schema(columns: Iterable[tuple[Any, ...]]) -> pa.Schema:
    return pa.schema([_field(*column) for column in columns])


_WINDOW: list[tuple[Any, ...]] = [
    ("sequence_id", pa.string()),
    ("chrom", pa.string()),
    ("start", pa.int64(), "bp, 0-based, first base"),
    ("end", pa.int64(), "bp, 0-based, one past the last base"),
    ("strand", pa.string(), "+, - or . (not stranded)"),
]


def windows_schema(targets: Sequence[str]) -> pa.Schema:
    """Return the schema of ``windows.parquet``: a genomic window and its label for each target."""
    labels = [
        (f"label.{t}", pa.float32(), "0/1, count or value; null = not measured") for t in targets
    ]
    return _schema([*_WINDOW, ("split", pa.string(), "train, validation or test"), *labels])


def sequences_schema(exposures: Sequence[str]) -> pa.Schema:
    """Return the schema of ``sequences.parquet``: a sampled held-out sequence and its strata."""
    strata = [
        (f"stratum.{e}", pa.string(), "bound, unbound; null = not sampled for it")
        for e in exposures
    ]
    return _schema([*_WINDOW, ("sequence", pa.string(), "ACGT as the model reads it"), *strata])


def predictions_schema(targets: Sequence[str], n_draws: int) -> pa.Schema:
    """Return the schema of the predictions: a held-out window, its eval logit and logit draws."""
    draws = pa.list_(pa.float32(), n_draws)
    target = pa.struct([("eval", pa.float32()), ("draws", draws)])
    return _schema(
        [
            ("sequence_id", pa.string()),
            ("split", pa.string()),
            *((t, target, "logit (link scale)") for t in targets),
        ]
    )


def effects_schema(targets: Sequence[str], n_draws: int) -> pa.Schema:
    """Return the schema of a shard of mutation effects: mutant logit minus reference logit."""
    draws = pa.list_(pa.float16(), n_draws)
    target = pa.struct(
        [("eval", pa.float32()), ("mean", pa.float32()), ("sd", pa.float32()), ("draws", draws)]
    )
    return _schema(
        [
            ("sequence_id", pa.string()),
            ("position", pa.int32(), "bp, 0-based in the sequence"),
            ("ref", pa.string()),
            ("alt", pa.string()),
            *((t, target, "logit difference (link scale)") for t in targets),
        ]
    )


def references_schema(targets: Sequence[str], n_draws: int) -> pa.Schema:
    """Return the schema of a shard of reference predictions: a sequence, its logits."""
    draws = pa.list_(pa.float32(), n_draws)
    target = pa.struct([("eval", pa.float32()), ("draws", draws)])
    return _schema(
        [("sequence_id", pa.string()), *((t, target, "logit (link scale)") for t in targets)]
    )


def replicates_schema(targets: Sequence[str]) -> pa.Schema:
    """Return the schema of mutation effects as each member of a model predicts them."""
    numbers = pa.list_(pa.float32())
    target = pa.struct(
        [("reference", numbers), ("effect", numbers), ("se", numbers), ("truth", pa.float32())]
    )
    return _schema(
        [
            ("sequence_id", pa.string()),
            ("position", pa.int32(), "bp, 0-based in the sequence"),
            ("ref", pa.string()),
            ("alt", pa.string()),
            *(
                (t, target, "logit (link scale), a number a member; se: SD over draws")
                for t in targets
            ),
        ]
    )


HISTORY = _schema(
    [
        ("member", pa.int32()),
        ("epoch", pa.int32()),
        ("train_loss", pa.float64()),
        ("validation_loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("seconds", pa.float64(), "s"),
    ]
)
"""Learning curves: a row is an epoch of a member; ``auroc.<target>`` columns follow."""

TRUTH = _schema(
    [
        ("exposure", pa.string()),
        ("outcome", pa.string()),
        ("theta", pa.float64(), "structural effect, logit per logit"),
        ("marginal_slope", pa.float64(), "slope of the true marginal logits"),
        ("marginal_slope_se", pa.float64(), "Monte Carlo standard error"),
        ("n_mutations", pa.int64()),
    ]
)

VALIDITY = pa.struct([("position", pa.int32()), ("alt", pa.string()), ("p", pa.float32())])
"""Probability that a mutation is a valid instrument."""

MR = _schema(
    [
        ("sequence_id", pa.string()),
        ("model", pa.string()),
        ("pair", pa.string()),
        ("direction", pa.string(), "forward, reverse or decoy (a negative control)"),
        ("exposure", pa.string()),
        ("outcome", pa.string()),
        ("stratum", pa.string(), "bound or unbound, by the pair's exposure"),
        ("partner", pa.string(), "decoy: the sequence whose effects on the exposure are used"),
        ("method", pa.string(), "mv_ivw and mv_egger: direct effect, other exposures held fixed"),
        ("instrument_rule", pa.string(), "union: of all exposures of the outcome"),
        ("estimate", pa.float64(), "outcome per exposure on the effect scale"),
        ("se", pa.float64(), "Rubin total of se_within and se_draws; profile: its own"),
        ("se_kind", pa.string()),
        ("ci_low", pa.float64(), "95 %; may be infinite"),
        ("ci_high", pa.float64(), "95 %; may be infinite"),
        ("ci_kind", pa.string(), "rubin, wald, clr, likelihood or hpd"),
        ("ci_set", pa.list_(pa.list_(pa.float64())), "intervals of the method's own 95 % set"),
        ("p_value", pa.float64()),
        ("se_within", pa.float64(), "within a draw: scatter of the instruments"),
        ("se_draws", pa.float64(), "SD of the estimate over draws"),
        ("estimate_diagonal", pa.float64(), "from mean effects, instruments independent"),
        ("se_diagonal", pa.float64(), "instruments independent"),
        ("p_value_diagonal", pa.float64()),
        ("se_unfloored", pa.float64(), "se_diagonal without the floor of its scale at 1"),
        ("n_instruments", pa.int32()),
        ("n_dropped", pa.int32(), "instruments left out: a missing value or an SE of 0"),
        ("mean_f", pa.float64()),
        ("conditional_f", pa.float64(), "of mv_ivw and mv_egger: 1 without conditional strength"),
        ("i2_gx", pa.float64()),
        ("i2_gx_weighted", pa.float64()),
        ("stronger_on_exposure", pa.float64(), "share of instruments with |z| larger on exposure"),
        ("detectable_effect", pa.float64(), "found by fixed-effect IVW with power .8"),
        ("rucker", pa.string(), "Rucker's choice among IVW and Egger, fixed and random"),
        ("q", pa.float64()),
        ("q_p", pa.float64()),
        ("i2", pa.float64(), "fraction"),
        ("tau2", pa.float64(), "variance of the instruments' own effects on the outcome"),
        ("intercept", pa.float64()),
        ("intercept_se", pa.float64()),
        ("intercept_p", pa.float64()),
        ("without_position_low", pa.float64(), "least estimate without one position"),
        ("without_position_high", pa.float64(), "largest estimate without one position"),
        ("influential_position", pa.int32(), "the position that matters most"),
        ("n_valid", pa.float64(), "instruments taken for valid, or expected to be"),
        ("n_modes", pa.float64(), "of the posterior (bayesian_mode) or density (modes)"),
        ("p_global", pa.float64(), "global test of mr_presso"),
        ("p_distortion", pa.float64(), "distortion test of mr_presso"),
        ("p_valid", pa.list_(VALIDITY), "of each instrument"),
        ("status", pa.string()),
        ("draws", pa.list_(pa.float32()), "estimate of each draw"),
        ("draws_se", pa.list_(pa.float32()), "standard error within each draw"),
    ]
)
"""``mr.parquet`` and ``decoys``: a row is sequence × pair × direction × method."""

DIRECTIONS = ("forward", "reverse")
"""Those of a pair; the column ``direction`` of its decoy says ``decoy``."""

_GLOBAL_KEY: list[tuple[Any, ...]] = [
    ("model", pa.string()),
    ("pair", pa.string()),
    ("direction", pa.string(), "forward or reverse; decoy: forward, exposure of other sequences"),
    ("exposure", pa.string()),
    ("outcome", pa.string()),
    ("method", pa.string()),
]
_INTERVAL: list[tuple[Any, ...]] = [
    ("estimate", pa.float64(), "outcome per exposure on the effect scale"),
    ("se", pa.float64()),
    ("ci_low", pa.float64(), "95 %"),
    ("ci_high", pa.float64(), "95 %"),
    ("p_value", pa.float64()),
]

META = _schema(
    [
        *_GLOBAL_KEY,
        ("instrument_rule", pa.string()),
        ("stratum", pa.string(), "all, bound, unbound, or <annotation>=<value>"),
        ("combination", pa.string(), "estimator of tau2, or median over sequences"),
        (
            "inference",
            pa.string(),
            "draw_wise (model error kept), chromosome (CR2) or diagonal (sequences independent)",
        ),
        ("test", pa.string(), "z, t, knha (Hartung-Knapp), adhoc (its factor at least 1), CR2"),
        ("k", pa.int32(), "sequences combined"),
        ("n_sequences", pa.int32(), "sequences asked, whatever their status"),
        ("n_dropped", pa.int32(), "estimated, but without a usable standard error"),
        ("n_clusters", pa.int32(), "chromosomes or contigs among the k"),
        *_INTERVAL,
        ("se_within", pa.float64()),
        ("se_draws", pa.float64()),
        ("df", pa.float64(), "of the t distribution; infinite for a normal one"),
        ("fmi", pa.float64(), "fraction of missing information: of the model's error"),
        ("tau2", pa.float64()),
        ("tau2_low", pa.float64(), "95 %, Q-profile"),
        ("tau2_high", pa.float64(), "95 %, Q-profile"),
        ("i2", pa.float64(), "percent"),
        ("i2_low", pa.float64(), "percent"),
        ("i2_high", pa.float64(), "percent"),
        ("h2", pa.float64()),
        ("h2_low", pa.float64()),
        ("h2_high", pa.float64()),
        ("q", pa.float64()),
        ("q_p", pa.float64()),
        ("pi_low", pa.float64(), "95 % prediction interval"),
        ("pi_high", pa.float64(), "95 % prediction interval"),
        ("pi_kind", pa.string(), "convention of the prediction interval"),
        ("conditional_f", pa.float64(), "median over sequences; conditional effects only"),
        ("fdr", pa.float64(), "Benjamini-Hochberg over pairs and directions"),
        ("q_value", pa.float64(), "Storey, over the same"),
        ("status", pa.string()),
        ("reason", pa.string(), "why there is no number, or fewer sequences"),
    ]
)
"""``meta.parquet``: a row is pair × direction × method × stratum × combination × inference."""

SEQUENCE_EFFECTS = _schema(
    [
        *_GLOBAL_KEY,
        ("sequence_id", pa.string()),
        ("stratum", pa.string(), "bound or unbound, by the pair's exposure"),
        ("gc", pa.float64(), "fraction"),
        ("predicted_exposure", pa.float64(), "mean logit over draws, as the network predicts it"),
        ("motif_distance", pa.float64(), "bp between best sites of exposure and outcome"),
        ("estimate", pa.float64(), "outcome per exposure on the effect scale"),
        ("se", pa.float64(), "Rubin total"),
        ("blup", pa.float64(), "best linear unbiased prediction"),
        ("blup_se", pa.float64()),
        ("shrunk", pa.float64(), "posterior mean of the mixture"),
        ("shrunk_sd", pa.float64()),
        ("p_zero", pa.float64(), "posterior probability of no effect"),
        ("p_negative", pa.float64()),
        ("p_positive", pa.float64()),
        ("lfsr", pa.float64(), "local false sign rate"),
        ("s_value", pa.float64(), "mean lfsr of the sequences at least as sure"),
        ("weight", pa.float64(), "percent of the global estimate"),
        ("rstudent", pa.float64()),
        ("cooks_distance", pa.float64()),
        ("without", pa.float64(), "global estimate without this sequence"),
        ("influential", pa.bool_()),
        ("status", pa.string()),
    ]
)
"""``sequence_effects.parquet``: a row is pair × direction × sequence, by the primary method."""

META_REGRESSION = _schema(
    [
        *_GLOBAL_KEY,
        ("combination", pa.string()),
        ("covariates", pa.string(), "alone (with an intercept) or together"),
        ("term", pa.string()),
        (
            "unit",
            pa.string(),
            "of the covariate: the estimate is the change of the effect per unit",
        ),
        ("k", pa.int32(), "sequences"),
        ("n_dropped", pa.int32()),
        *_INTERVAL,
        ("se_within", pa.float64()),
        ("se_draws", pa.float64()),
        ("df", pa.float64()),
        ("tau2", pa.float64(), "left between sequences"),
        ("r2", pa.float64(), "percent of tau2 explained"),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""``meta_regression.parquet``: a row is pair × direction × regression × term."""

META_DIAGNOSTICS = _schema(
    [
        *_GLOBAL_KEY,
        ("combination", pa.string()),
        ("k", pa.int32(), "sequences"),
        ("egger_z", pa.float64(), "regression test: effect against its standard error"),
        ("egger_p", pa.float64()),
        ("rank_tau", pa.float64(), "Kendall, rank test of the same"),
        ("rank_p", pa.float64()),
        ("trim_fill_k0", pa.float64(), "sequences that trim and fill would add"),
        ("trim_fill_estimate", pa.float64()),
        ("without_one_low", pa.float64(), "least global estimate without one sequence"),
        ("without_one_high", pa.float64(), "largest global estimate without one sequence"),
        ("most_influential", pa.string(), "sequence with the largest Cook's distance"),
        ("n_influential", pa.int32()),
        ("share_zero", pa.float64(), "share of sequences without an effect (mixture)"),
        ("share_negative", pa.float64()),
        ("share_positive", pa.float64()),
        ("share_zero_sd", pa.float64(), "SD over draws"),
        ("share_negative_sd", pa.float64(), "SD over draws"),
        ("share_positive_sd", pa.float64(), "SD over draws"),
        ("n_sure", pa.int32(), "sequences with a local false sign rate below .05"),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""``meta_diagnostics.parquet``: a row is pair × direction, by the primary method."""

NETWORK = _schema(
    [
        *_GLOBAL_KEY,
        ("control", pa.bool_(), "configured as a negative control"),
        ("combination", pa.string()),
        ("k", pa.int32(), "sequences combined"),
        *_INTERVAL,
        ("fdr", pa.float64(), "Benjamini-Hochberg over pairs and directions"),
        ("q_value", pa.float64(), "Storey, over the same"),
        ("decoy_estimate", pa.float64(), "exposure of other sequences"),
        ("decoy_ci_low", pa.float64(), "95 %"),
        ("decoy_ci_high", pa.float64(), "95 %"),
        ("decoy_p_value", pa.float64()),
        ("back_estimate", pa.float64(), "the other direction, outcome on exposure"),
        ("back_ci_low", pa.float64(), "95 %"),
        ("back_ci_high", pa.float64(), "95 %"),
        ("back_fdr", pa.float64()),
        ("conditional_on", pa.string(), "other exposures of the same outcome, comma-separated"),
        ("conditional_method", pa.string()),
        ("conditional_estimate", pa.float64(), "direct effect given the other exposures"),
        ("conditional_ci_low", pa.float64(), "95 %"),
        ("conditional_ci_high", pa.float64(), "95 %"),
        ("conditional_p_value", pa.float64()),
        ("conditional_k", pa.int32()),
        ("conditional_f", pa.float64(), "strength of the instruments; median over sequences"),
        ("significant", pa.bool_(), "fdr at most the level of the config"),
        ("flag", pa.string(), "what stands against reading it as a cause; see docs/method.md"),
        ("status", pa.string()),
    ]
)
"""``network.parquet``: a row is exposure × outcome, both directions of every pair."""

DEEP_IV = _schema(
    [
        ("source", pa.string(), "labels: measured labels; model: a model's own draws"),
        ("model", pa.string(), "null for labels"),
        ("pair", pa.string()),
        ("direction", pa.string(), "forward or reverse"),
        ("exposure", pa.string()),
        ("outcome", pa.string()),
        (
            "method",
            pa.string(),
            "labels: deep_iv, naive, 2sls, polynomial_2sls; model: constant_slope, context_slope",
        ),
        ("unit", pa.string(), "of the estimate"),
        ("estimate", pa.float64(), "in its unit; deep_iv: average weighted by Var(q given c)"),
        ("se", pa.float64(), "clustered by block of windows, or Rubin total over draws"),
        ("df", pa.float64(), "of the t distribution"),
        ("ci_low", pa.float64(), "95 %"),
        ("ci_high", pa.float64(), "95 %"),
        ("p_value", pa.float64()),
        ("network", pa.float64(), "the network's own effects, weighted as the estimate is"),
        ("moderation", pa.float64(), "share of the predicted dependence on context that holds"),
        ("moderation_se", pa.float64()),
        ("moderation_p", pa.float64()),
        ("r2", pa.float64(), "explained by the context, out of fold; may be negative"),
        ("slope_sd", pa.float64(), "SD of the predicted slope over sequences"),
        ("n_windows", pa.int64(), "windows or sequences used"),
        (
            "n_left_out",
            pa.int64(),
            "windows without either label or a word, or sequences without instruments",
        ),
        ("n_instruments", pa.int64()),
        ("n_clusters", pa.int64(), "blocks of windows, or sequences"),
        ("q_variance", pa.float64(), "Var(q given c): of the exposure, decided by the instrument"),
        ("q_variance_share", pa.float64(), "of Var(exposure given c): partial R2"),
        ("f", pa.float64(), "first stage, robust to clusters"),
        ("ar_low", pa.float64(), "95 % Anderson-Rubin set; outside: the ends of the gap"),
        ("ar_high", pa.float64()),
        ("ar_kind", pa.string(), "interval, outside (of the gap), everything or empty"),
        ("status", pa.string()),
        ("reason", pa.string(), "why there is no number, or what weakens it"),
    ]
)
"""``deep_iv.parquet``: a row is source × model × pair × direction × method."""


def counterfactuals_schema(n_draws: int) -> pa.Schema:
    """Return the schema of the counterfactuals: a window, its outcome at two exposures."""
    return _schema(
        [
            ("sequence_id", pa.string()),
            ("pair", pa.string()),
            ("direction", pa.string(), "forward or reverse"),
            ("score", pa.float64(), "bits: the best word of the exposure's motif"),
            ("q", pa.float64(), "E[exposure given score and context], unit of the exposure"),
            ("r", pa.float64(), "E[exposure given context], unit of the exposure"),
            ("p0", pa.float64(), "lower exposure: 0, or the 25 % quantile"),
            ("p1", pa.float64(), "higher exposure: 1, or the 75 % quantile"),
            ("h0", pa.float64(), "outcome at p0, unit of the outcome"),
            ("h1", pa.float64(), "outcome at p1, unit of the outcome"),
            ("draws", pa.list_(pa.float32(), n_draws), "h1 - h0 of each draw of the network"),
        ]
    )


METRICS: dict[str, str | None] = {
    "auroc": None,
    "auprc": None,
    "nll": "nats a window",
    "brier": None,
    "brier_miscalibration": "CORP: what isotonic recalibration would gain",
    "brier_discrimination": "CORP: what the order of the predictions gains",
    "brier_uncertainty": "CORP: Brier score of the base rate",
    "ece": "mean distance, equal-mass bins",
    "ece_debiased": "root mean squared distance without its bias, equal-mass bins",
    "ks": "largest cumulative distance",
    "cox_intercept": "logit",
    "cox_slope": "logit per logit; below 1 is overconfident",
    "o_over_e": "observed over expected positives",
}
"""Metrics of predicted probabilities, with their units or meaning."""

CALIBRATION = _schema(
    [
        ("model", pa.string()),
        ("target", pa.string()),
        ("calibrator", pa.string(), "none: as predicted; fitted on validation windows"),
        ("split", pa.string()),
        ("n", pa.int64()),
        ("n_positive", pa.int64()),
        ("n_chromosomes", pa.int64(), "drawn with replacement for the null bands"),
        *(
            column
            for name, meaning in METRICS.items()
            for column in (
                (name, pa.float64(), meaning),
                (f"{name}_null_low", pa.float64(), "2.5 % of a perfectly calibrated model"),
                (f"{name}_null_high", pa.float64(), "97.5 % of a perfectly calibrated model"),
            )
        ),
        ("status", pa.string()),
    ]
)
"""``calibration.parquet``: a row is target × calibrator × split."""

CALIBRATORS = _schema(
    [
        ("model", pa.string()),
        ("target", pa.string()),
        ("calibrator", pa.string()),
        ("a", pa.float64(), "factor of the logit; beta: of log p"),
        ("b", pa.float64(), "added to the logit; beta: factor of -log(1 - p)"),
        ("c", pa.float64(), "beta: added to the logit"),
        ("knots", pa.list_(pa.float64()), "isotonic maps: logits in"),
        ("values", pa.list_(pa.float64()), "isotonic maps: logits out"),
        ("n", pa.int64(), "validation windows"),
        ("n_positive", pa.int64()),
        ("shrinkage", pa.float64(), "weight of the other targets, 0 to 1"),
        ("strictly_increasing", pa.bool_(), "else it may not be applied to effects"),
        ("zero_effects", pa.float64(), "share of mutation effects that it makes exactly 0"),
        ("status", pa.string(), "ok, or why the target stays as it is"),
    ]
)
"""``calibrators.parquet``: a row is a map of one target, fitted on validation windows."""

UNCERTAINTY = _schema(
    [
        ("model", pa.string()),
        ("target", pa.string()),
        ("reference", pa.string(), "retrained networks, or the simulated truth"),
        ("method", pa.string(), "where the draws come from"),
        ("members", pa.int32(), "networks"),
        ("draws", pa.int32(), "draws behind a standard error"),
        ("draw_error", pa.float64(), "relative error of an SD of so many draws"),
        ("n_sequences", pa.int32()),
        ("n_mutations", pa.int64()),
        ("n_without_se", pa.int64(), "left out: a standard error of 0"),
        ("rmse", pa.float64(), "root mean squared error, logit"),
        ("sharpness", pa.float64(), "root mean squared SE, logit"),
        ("slope", pa.float64(), "of the effects on the reference, through 0"),
        ("zms", pa.float64(), "mean squared z; 1 when calibrated"),
        ("zms_low", pa.float64(), "95 %, sequences drawn with replacement"),
        ("zms_high", pa.float64()),
        ("ence", pa.float64(), "expected normalised calibration error over bins of the SE"),
        ("se_scale", pa.float64(), "s, fitted on half of the sequences"),
        ("se_scale_low", pa.float64(), "95 %, sequences drawn with replacement"),
        ("se_scale_high", pa.float64()),
        ("se_ratio", pa.float64(), "RMS error over RMS SE, on half of the sequences"),
        ("se_ratio_low", pa.float64(), "95 %, sequences drawn with replacement"),
        ("se_ratio_high", pa.float64()),
        ("se_factor", pa.float64(), "s of s^2 SE^2 + c^2"),
        ("se_offset", pa.float64(), "c of s^2 SE^2 + c^2, logit"),
        ("zms_scaled", pa.float64(), "with SE times s, on the other half of the sequences"),
        ("zms_scaled_low", pa.float64()),
        ("zms_scaled_high", pa.float64()),
        ("se_ratio_scaled", pa.float64(), "with SE times se_ratio, on the other half"),
        ("se_ratio_scaled_low", pa.float64()),
        ("se_ratio_scaled_high", pa.float64()),
        ("ence_scaled", pa.float64(), "with SE times s, on the other half"),
        ("recommended_scale", pa.float64(), "max(1, s); s is se_ratio if few_errors_decide"),
        ("prior_df", pa.float64(), "of the moderated variances of an ensemble"),
        ("levels", pa.list_(pa.float64()), "central probabilities"),
        ("coverage", pa.list_(pa.float64()), "share of errors within, by level"),
        ("coverage_scaled", pa.list_(pa.float64()), "with SE times s, on the other half"),
        ("status", pa.string()),
    ]
)
"""``uncertainty.parquet``: a row is target × reference."""
