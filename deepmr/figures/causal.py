"""Figures that show what Mendelian randomization says: one sequence, all of them, all pairs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepmr.figures import style

CATERPILLAR_LIMIT = 1000
"""More local effects than this are thinned to evenly spaced ranks: a pixel shows only one."""

_REFERENCE_DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))


def representative(local: pd.DataFrame) -> str:
    """Return the sequence whose estimate is the median of those with status "ok".

    Parameters
    ----------
    local : DataFrame
        Rows of ``mr.parquet`` of one model, pair, direction and method.

    Returns
    -------
    str
        Its sequence_id: neither the best nor the worst picture to show.

    Raises
    ------
    ValueError
        When no row has an estimate.
    """
    estimated = local[(local["status"] == "ok") & local["estimate"].notna()]
    if estimated.empty:
        raise ValueError(f"none of {len(local)} sequences has an estimate with the status 'ok'")
    ranked = estimated.sort_values(["estimate", "sequence_id"], kind="stable")
    return str(ranked["sequence_id"].iloc[(len(ranked) - 1) // 2])


@style.styled
def mr_scatter(
    bx: np.ndarray,
    by: np.ndarray,
    se_x: np.ndarray,
    se_y: np.ndarray,
    lines: pd.DataFrame,
    *,
    exposure: str,
    outcome: str,
    sequence_id: str,
    references: Mapping[str, float] | None = None,
    effect_scale: str = "logit",
) -> Figure:
    """Draw the effects of the instruments of one sequence with the estimates as lines.

    Parameters
    ----------
    bx, by : ndarray, shape (n,)
        Effects of the n instruments on exposure and outcome; NaN is left out.
    se_x, se_y : ndarray, shape (n,)
        Their SEs (SD over draws), drawn as bars.
    lines : DataFrame
        Rows of ``mr.parquet`` of this sequence, one per method: ``method``, ``estimate``,
        ``intercept`` (NaN = through the origin). Rows without an estimate are left out.
    exposure, outcome, sequence_id : str
        For the labels.
    references : mapping of str to float, optional
        Name -> slope of further lines through the origin, for example the true slope.
    effect_scale : str
        For the labels.

    Returns
    -------
    Figure
        Every instrument is oriented to a positive effect on the exposure, as Egger needs it.
    """
    bx, by, se_x, se_y = (np.asarray(a, dtype=np.float64) for a in (bx, by, se_x, se_y))
    known = np.isfinite(bx) & np.isfinite(by)
    bx, by, se_x, se_y = bx[known], by[known], se_x[known], se_y[known]
    sign = np.where(bx < 0, -1.0, 1.0)
    bx, by = sign * bx, sign * by
    drawn = lines[lines["estimate"].notna()]
    references = dict(references or {})
    rows = -(-(len(drawn) + len(references)) // 2)
    fig = Figure(figsize=(style.WIDTH, 3.9 + 0.19 * rows), layout="constrained")
    ax = fig.subplots()
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.axvline(0, color=style.MUTED, linewidth=0.7)
    ax.errorbar(
        bx,
        by,
        xerr=se_x,
        yerr=se_y,
        fmt="o",
        markersize=3.5,
        color=style.MUTED,
        ecolor=style.MUTED,
        elinewidth=0.6,
        alpha=0.65,
        markeredgewidth=0,
    )
    right = 1.06 * float(np.max(bx + np.nan_to_num(se_x), initial=0.1))
    x = np.array([0.0, right])
    intercepts = drawn["intercept"].fillna(0.0)
    for method, slope, intercept in zip(
        drawn["method"], drawn["estimate"], intercepts, strict=True
    ):
        ax.plot(
            x,
            intercept + slope * x,
            color=style.method_colour(method),
            linewidth=1.6,
            label=f"{method}  {slope:.2f}",
        )
    for i, (name, slope) in enumerate(references.items()):
        dashes = _REFERENCE_DASHES[i % len(_REFERENCE_DASHES)]
        ax.plot(x, slope * x, color=style.INK, linestyle=dashes, label=f"{name}  {slope:.2f}")
    ax.set(
        title=f"{sequence_id}  ({bx.size} instruments)",
        xlabel=f"effect on {exposure} ({effect_scale}), oriented to be positive",
        ylabel=f"effect on {outcome} ({effect_scale})",
        xlim=(-0.03 * right, right),
    )
    if len(drawn) + len(references):
        fig.legend(loc="outside lower center", ncols=2)
    return fig


@style.styled
def forest(
    local: pd.DataFrame,
    overall: Mapping[str, float] | pd.Series,
    *,
    exposure: str,
    outcome: str,
    truth: Mapping[str, float] | None = None,
    limit: int = 60,
    effect_scale: str = "logit",
) -> Figure:
    """Draw the local effects, sorted, above the global one.

    Parameters
    ----------
    local : DataFrame
        Rows of ``mr.parquet`` of one model, pair, direction and method: ``sequence_id``,
        ``stratum``, ``estimate``, ``ci_low``, ``ci_high``, ``status``. Rows without an estimate
        are counted in the title and not drawn.
    overall : mapping or Series
        ``estimate``, ``ci_low``, ``ci_high``, ``pi_low``, ``pi_high`` of the meta-analysis; NaN
        where there is none.
    exposure, outcome : str
        For the labels.
    truth : mapping of str to float, optional
        Name -> known value, drawn as vertical lines.
    limit : int
        Up to so many effects are drawn with their names; more become a caterpillar of thin
        lines (thinned to every so-many-th rank above ``CATERPILLAR_LIMIT``).
    effect_scale : str
        For the label.

    Returns
    -------
    Figure
        The horizontal axis holds 90 % of the interval ends; a longer interval runs off it.
    """
    has = (local["status"] == "ok") & local["estimate"].notna()
    ranked = local[has].sort_values(["estimate", "sequence_id"], kind="stable")
    named = len(ranked) <= limit
    title = f"{exposure} → {outcome}: {len(ranked):,} of {len(local):,} sequences"
    if len(ranked) > CATERPILLAR_LIMIT:
        kept = np.unique(np.linspace(0, len(ranked) - 1, CATERPILLAR_LIMIT).round().astype(int))
        ranked = ranked.iloc[kept]
        title += f" ({len(ranked):,} drawn)"
    height = max(2.6, 1.5 + 0.15 * len(ranked)) if named else 5.4
    fig = Figure(figsize=(style.WIDTH, height), layout="constrained")
    ax = fig.subplots()
    y = np.arange(len(ranked), dtype=np.float64)
    strata = ranked["stratum"].fillna("").astype(str).to_numpy()
    for stratum in dict.fromkeys(sorted(strata)):
        rows = strata == stratum
        colour = style.STRATUM_COLOURS.get(stratum, style.MUTED)
        part = ranked[rows]
        ax.hlines(
            y[rows],
            part["ci_low"],
            part["ci_high"],
            color=colour,
            linewidth=1.2 if named else 0.7,
            alpha=0.55,
        )
        ax.scatter(part["estimate"], y[rows], s=11 if named else 4, color=colour, linewidths=0)
    gap = max(1.5, 0.05 * len(ranked))
    _overall_row(ax, overall, -gap, gap)
    ax.axvline(0, color=style.MUTED, linewidth=0.8)
    truth = dict(truth or {})
    for i, value in enumerate(truth.values()):
        ax.axvline(value, color=style.INK, linestyle=_REFERENCE_DASHES[i % 3], linewidth=1)
    ax.set_xlim(*_window(ranked, overall, list(truth.values())))
    ax.set_ylim(-2 * gap, max(len(ranked) - 0.3, 0.7))
    names = list(ranked["sequence_id"]) if named else []
    ax.set_yticks([-gap, *y[: len(names)]], ["all", *names], fontsize=6.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set(title=title, xlabel=f"effect on {outcome} per unit of {exposure} ({effect_scale})")
    handles = [
        Line2D(
            [],
            [],
            color=style.STRATUM_COLOURS.get(stratum, style.MUTED),
            marker="o",
            markersize=3,
            label=stratum or "no stratum",
        )
        for stratum in dict.fromkeys(sorted(strata))
    ]
    handles.append(Line2D([], [], color=style.INK, marker="D", markersize=4, label="global"))
    for i, (name, value) in enumerate(truth.items()):
        dashes = _REFERENCE_DASHES[i % 3]
        label = f"{name}  {value:.2f}"
        handles.append(Line2D([], [], color=style.INK, linestyle=dashes, linewidth=1, label=label))
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


@style.styled
def global_effects(effects: pd.DataFrame, *, effect_scale: str = "logit") -> Figure:
    """Draw the global effect of every pair in both directions, with the truth where known.

    Parameters
    ----------
    effects : DataFrame
        Rows of ``meta.parquet``, one per pair and direction: ``exposure``, ``outcome``,
        ``direction``, ``estimate``, ``ci_low``, ``ci_high``, ``pi_low``, ``pi_high``; and, where
        the truth is known, ``marginal_slope``. With decoys also ``pair``, ``decoy_estimate``,
        ``decoy_ci_low``, ``decoy_ci_high``, NaN where a row has none.
    effect_scale : str
        For the label.

    Returns
    -------
    Figure
        Rows in the order given, the decoy of a pair beneath its last one; thin bars are
        prediction intervals.
    """
    effects = effects.reset_index(drop=True)
    y, decoys = _places(effects)
    n_rows = len(effects) + len(decoys)
    fig = Figure(figsize=(style.WIDTH, 1.3 + 0.3 * n_rows), layout="constrained")
    ax = fig.subplots()
    ax.axvline(0, color=style.MUTED, linewidth=0.9)
    colours = np.where(effects["direction"] == "forward", style.BLUE, style.ORANGE)
    ax.hlines(y, effects["pi_low"], effects["pi_high"], color=style.MUTED, linewidth=0.8)
    ax.hlines(y, effects["ci_low"], effects["ci_high"], color=list(colours), linewidth=4, alpha=0.4)
    ax.scatter(effects["estimate"], y, s=34, color=list(colours), linewidths=0, zorder=3)
    if "marginal_slope" in effects:
        ax.scatter(
            effects["marginal_slope"],
            y,
            marker="D",
            s=28,
            facecolors="none",
            edgecolors=style.INK,
            zorder=4,
        )
    if len(decoys):
        at = decoys["y"]
        bounds = decoys["decoy_ci_low"], decoys["decoy_ci_high"]
        ax.hlines(at, *bounds, color=style.MUTED, linewidth=2.5, alpha=0.3)
        ax.scatter(
            decoys["decoy_estimate"],
            at,
            s=26,
            facecolors="white",
            edgecolors=style.MUTED,
            linewidths=1.1,
            zorder=3,
        )
    labels = [f"{r.exposure} → {r.outcome}" for r in effects.itertuples()]
    labels += [f"decoy: {r.exposure} of other sequences" for r in decoys.itertuples()]
    ax.set_yticks([*y, *decoys["y"]], labels)
    for tick in ax.get_yticklabels()[len(effects) :]:
        tick.set(color=style.MUTED, fontsize=6.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-n_rows + 0.4, 0.6)
    ax.set_xlabel(f"global effect ({effect_scale}), 95 % interval")
    # A single sequence has an estimate, and may have no interval that would keep it in the panel.
    bare = effects.loc[~np.isfinite(effects["ci_high"] - effects["ci_low"]), "estimate"]
    ends = [*decoys["decoy_ci_low"], *decoys["decoy_ci_high"], *decoys["decoy_estimate"]]
    ax.set_xlim(*_window(effects, {}, [0.0, *bare, *ends]))
    handles = [
        Line2D([], [], color=style.BLUE, marker="o", label="forward"),
        Line2D([], [], color=style.ORANGE, marker="o", label="reverse"),
        Line2D([], [], color=style.MUTED, linewidth=0.8, label="prediction interval"),
    ]
    if len(decoys):
        handles.append(
            Line2D(
                [],
                [],
                color=style.MUTED,
                marker="o",
                markersize=5,
                markerfacecolor="white",
                label="decoy (negative control)",
            )
        )
    if "marginal_slope" in effects:
        handles.append(
            Line2D(
                [],
                [],
                color="none",
                marker="D",
                markerfacecolor="none",
                markeredgecolor=style.INK,
                markersize=5,
                label="simulated truth",
            )
        )
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _places(effects: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """Return the height of each row, and of the decoys beneath the pairs as a column ``y``."""
    y = -np.arange(len(effects), dtype=np.float64)
    if "decoy_estimate" not in effects:
        return y, pd.DataFrame(columns=["y", "decoy_estimate", "decoy_ci_low", "decoy_ci_high"])
    decoys = effects[effects["decoy_estimate"].notna()]
    last = effects.reset_index().groupby("pair")["index"].max()
    beneath = decoys["pair"].map(last).to_numpy(dtype=np.int64)
    y -= (beneath[None, :] < np.arange(len(effects))[:, None]).sum(axis=1)
    return y, decoys.assign(y=y[beneath] - 1)


def _overall_row(ax: Axes, overall: Mapping[str, float] | pd.Series, y: float, gap: float) -> None:
    """Draw the global effect: band through the panel, prediction interval and diamond at `y`."""
    estimate = float(overall["estimate"])
    if not np.isfinite(estimate):
        return
    low, high = float(overall["ci_low"]), float(overall["ci_high"])
    ax.axvspan(low, high, color=style.INK, alpha=0.08, linewidth=0)
    ax.hlines(y, overall["pi_low"], overall["pi_high"], color=style.INK, linewidth=0.9)
    corners_y = [y, y + 0.45 * gap, y, y - 0.45 * gap]
    ax.fill([low, estimate, high, estimate], corners_y, color=style.INK, linewidth=0.8)


def _window(
    rows: pd.DataFrame, overall: Mapping[str, float] | pd.Series, values: list[float]
) -> tuple[float, float]:
    """Return the limits of the effect axis: 90 % of the interval ends and all that must show."""
    must = [0.0, *values]
    must += [
        float(overall[key])
        for key in ("ci_low", "ci_high", "pi_low", "pi_high", "estimate")
        if key in overall
    ]
    lows, highs = rows["ci_low"].dropna(), rows["ci_high"].dropna()
    if len(rows) > 20:
        must += [float(lows.quantile(0.05)), float(highs.quantile(0.95))]
    else:
        must += [*lows, *highs]
    finite = np.array([value for value in must if np.isfinite(value)])
    low, high = float(finite.min()), float(finite.max())
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad
