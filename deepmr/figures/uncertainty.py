"""Figures that show how sure the network is, and whether it is as sure as it should be."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogFormatterSciNotation
from scipy import stats
from scipy.special import expit

from deepmr.figures import style
from deepmr.uncertainty.errors import Errors
from deepmr.uncertainty.replicates import RETRAINED, TRUTH, Replicates, errors_of, in_use
from deepmr.uncertainty.scores import LARGEST_TOLD

_Judged = tuple[Errors, Mapping[Any, Any]]
"""Errors from a reference, and the row of ``uncertainty.parquet`` that judges them."""

_LOOKS = {
    RETRAINED: ("retrained networks", style.BLUE, "o"),
    TRUTH: ("simulated truth", style.VERMILLION, "^"),
}
_LARGEST_Z = 5.0
_DECADES = 5
"""Effects smaller than the largest by more than so many powers of ten are not drawn."""
_MEDIANS = 15
_REMARKS = {
    "no_reference": "One network and no simulated truth: nothing to hold these standard errors "
    "against. With two members or more (models.<name>.members) there is.",
    "too_few_members": "Retrained networks: an ensemble of two cannot predict a member from the "
    "others; give the model three members or more.",
    "no_standard_error": "No standard error is above 0, so nothing is judged: no dropout site is "
    "active, or all members are alike.",
    "too_few_degrees_of_freedom": "Too few members for a mean of z²; coverage allows for that.",
    "few_errors_decide": "Some mutations have next to no SE and make the mean of z² alone; the "
    "scale is then the RMS error over the RMS SE.",
    "too_few_sequences": "Too few sequences to fit a scale on half of them and judge it on the "
    "other half (uncertainty.sequences).",
}
_COUNTS = LinearSegmentedColormap.from_list("counts", [style.HAIRLINE, style.INK])


@style.styled
def predictions(
    targets: Sequence[str],
    logit_draws: np.ndarray,
    labels: np.ndarray,
    *,
    windows: int = 50,
    seed: int = 0,
) -> Figure:
    """Draw the SE of the predicted probability against its mean, one panel per target.

    Parameters
    ----------
    targets : sequence of str
        K names, usually an exposure and an outcome.
    logit_draws : ndarray, shape (n, T, K)
        Logit draws of test windows, T >= 2.
    labels : ndarray, shape (n, K)
        0, 1, NaN = not measured.
    windows : int
        So many windows are drawn, chosen at random by `seed`; all of them when n is smaller.
    seed : int
        Seed of the choice.

    Returns
    -------
    Figure
        The SE is the posterior SD: the SD over draws (ddof 1) of the probability.

    Raises
    ------
    ValueError
        On shapes that disagree or fewer than two draws.
    """
    logit_draws, labels = np.asarray(logit_draws, dtype=np.float64), np.asarray(labels)
    if logit_draws.ndim != 3 or logit_draws.shape[2] != len(targets):
        raise ValueError(
            f"logit_draws have the shape {logit_draws.shape}: they must be (windows, draws, "
            f"targets) with {len(targets)} targets"
        )
    n, n_draws, _ = logit_draws.shape
    if labels.shape != (n, len(targets)):
        raise ValueError(f"labels have the shape {labels.shape}, not {(n, len(targets))}")
    if n_draws < 2:
        raise ValueError("one draw has no SD; uncertainty needs at least 2 draws")
    chosen = np.sort(np.random.default_rng([seed]).choice(n, min(windows, n), replace=False))
    p = expit(logit_draws[chosen])
    mean, se = p.mean(axis=1), p.std(axis=1, ddof=1)
    fig = Figure(figsize=(style.WIDTH, 0.7 + 2.2 * len(targets)), layout="constrained")
    axes = fig.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0]
    for k, (ax, target) in enumerate(zip(axes, targets, strict=True)):
        for (name, colour), marker in zip(style.LABEL_COLOURS.items(), "o^s", strict=True):
            value = labels[chosen, k]
            rows = np.isnan(value) if name == "not measured" else value == float(name)
            if name == "not measured" and not rows.any():
                continue
            ax.scatter(
                mean[rows, k],
                se[rows, k],
                s=24,
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
                label=f"label {name}" if name in "01" else name,
            )
        ax.set(title=target, ylabel="SE (SD over draws)", xlim=(-0.03, 1.03))
        ax.set_ylim(0, max(1.1 * float(se[:, k].max(initial=0)), 1e-3))
    axes[0].legend(loc="upper left", bbox_to_anchor=(0.35, 1.17), ncols=3, handletextpad=0.2)
    axes[-1].set_xlabel(f"mean predicted probability ({n_draws} draws)")
    return fig


@style.styled
def standard_errors(replicates: Replicates, target: str, table: pd.DataFrame) -> Figure:
    """Draw whether the standard errors of mutation effects are right, and how large they are.

    Parameters
    ----------
    replicates : Replicates
        Effects of each member of a model.
    target : str
        Which of its targets.
    table : DataFrame
        Rows of ``uncertainty.parquet`` of the model.

    Returns
    -------
    Figure
        Coverage of the intervals of every level, as they are and (broken) with SEs times s on the
        sequences that s was not fitted to; the distribution of z = error/SE beside the one that it
        should have; and SE against size of the effect. Without a reference only the last, and a
        sentence that says why.

    Raises
    ------
    ValueError
        If the target has no row.
    """
    rows = table[table["target"] == target].to_dict("records")
    if not rows:
        raise ValueError(
            f"uncertainty.parquet has no row of {target}; run the rule calibrate_uncertainty again"
        )
    method = rows[0]["method"]
    judged = [
        (errors_of(replicates, target, row["reference"], method), row)
        for row in rows
        if len(row["coverage"])
    ]
    remarks = [fill(_REMARKS[row["status"]], 74) for row in rows if row["status"] != "ok"]
    written = "\n".join(dict.fromkeys(remarks))
    ratios = (2.7, 2.1, 2.9) if judged else (2.9,)
    lines = written.count("\n") + 1 if written else 0
    height = sum(ratios) + 0.65 * len(ratios) + 0.15 * lines
    fig = Figure(figsize=(style.WIDTH, height), layout="constrained")
    axes = fig.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
    if judged:
        _coverage(axes[0], judged)
        _z_scores(axes[1], judged)
        axes[0].set_title(f"{target}: share of intervals that hold")
    _size(axes[-1], *in_use(replicates, target, method)[:2])
    axes[-1].set_title(f"{'' if judged else target + ': '}SE and size of the effect")
    if written:
        fig.supxlabel(written, x=0.02, ha="left", fontsize=8, color=style.INK)
    return fig


def _coverage(ax: Axes, judged: Sequence[_Judged]) -> None:
    ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for _, row in judged:
        name, colour, marker = _LOOKS[row["reference"]]
        levels, scaled = list(row["levels"]), list(row["coverage_scaled"])
        look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4}
        ax.plot(levels, list(row["coverage"]), label=name, **look)
        if scaled:
            label = f"same, SE × {row['se_scale']:.2f}, other half"
            look |= {"linestyle": style.DASHES[1], "markerfacecolor": "white", "linewidth": 1}
            ax.plot(levels, scaled, label=label, **look)
    side: dict[str, Any] = {"transform": ax.transAxes, "fontsize": 7.5, "color": style.MUTED}
    ax.text(0.3, 0.9, "SEs too large", ha="right", **side)
    ax.text(0.66, 0.5, "SEs too small", ha="left", va="top", **side)
    ax.set(
        xlabel="nominal level of the central interval",
        ylabel="observed share",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ax.legend(loc="lower right")


def _z_scores(ax: Axes, judged: Sequence[_Judged]) -> None:
    edges = np.linspace(-_LARGEST_Z, _LARGEST_Z, 61)
    grid = np.linspace(-_LARGEST_Z, _LARGEST_Z, 301)
    wanted, beyond = {}, []
    for errors, row in judged:
        name, colour, _ = _LOOKS[row["reference"]]
        z = errors.error / errors.se
        share = np.histogram(z, edges)[0] / z.size
        beyond.append(f"{np.mean(np.abs(z) > _LARGEST_Z):.1%}")
        ax.stairs(
            share / np.diff(edges),
            edges,
            fill=True,
            facecolor=(colour, 0.15),
            edgecolor=colour,
            linewidth=1.2,
            label=name + _mean_square(row),
        )
        # Satterthwaite's df differ from error to error: their median stands for them.
        df = float(np.median(errors.df))
        wanted["standard normal" if np.isinf(df) else f"Student's t, {df:.0f} df"] = df
    for i, (label, df) in enumerate(wanted.items()):
        density = stats.norm.pdf(grid) if np.isinf(df) else stats.t.pdf(grid, df)
        ax.plot(
            grid,
            density,
            color=style.INK,
            linewidth=1.1,
            linestyle=style.DASHES[i],
            label=f"{label}: what z should follow",
        )
    ax.set(xlim=(-_LARGEST_Z, _LARGEST_Z), ylabel="density")
    ax.set_xlabel(f"z = error / SE; beyond ±{_LARGEST_Z:.0f}: {', '.join(beyond)}")
    # Room for the legend above the curves.
    ax.set_ylim(0, ax.get_ylim()[1] * (1.25 + 0.14 * (len(judged) + len(wanted))))
    legend = ax.legend(
        loc="upper left",
        borderpad=0.1,
        title="ZMS: mean z², over what it should be",
        title_fontsize=8,
    )
    legend.set_alignment("left")


def _mean_square(row: Mapping[Any, Any]) -> str:
    if not np.isfinite(row["zms"]):
        return ""
    if row["zms"] > LARGEST_TOLD:
        return f": ZMS > {LARGEST_TOLD}"
    interval = f" (95 % {row['zms_low']:.2f}–{row['zms_high']:.2f})"
    return f": ZMS {row['zms']:.2f}{interval if np.isfinite(row['zms_low']) else ''}"


def _size(ax: Axes, size: np.ndarray, se: np.ndarray) -> None:
    size = np.abs(size)
    usable = np.isfinite(size) & np.isfinite(se) & (size > 0) & (se > 0)
    floor = size[usable].max(initial=0) * 10.0**-_DECADES
    drawn = usable & (size >= floor)
    x, y = size[drawn], se[drawn]
    if not x.size:
        ax.text(0.5, 0.5, "no mutation has an effect and an SE", ha="center", va="center")
        ax.set_axis_off()
        return
    ax.hexbin(
        x,
        y,
        gridsize=(40, 26),
        xscale="log",
        yscale="log",
        bins="log",
        mincnt=1,
        cmap=_COUNTS,
        linewidths=0.1,
    )
    order = np.argsort(x, kind="stable")
    bins = [part for part in np.array_split(order, _MEDIANS) if part.size]
    ax.plot(
        [np.median(x[part]) for part in bins],
        [np.median(y[part]) for part in bins],
        color=style.ORANGE,
        marker="o",
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.5,
        label="running median",
    )
    left, right = ax.get_xlim()
    ends = np.array([left, right])
    bottom, top = ax.get_ylim()
    ax.plot(
        ends, ends / 2, color=style.INK, linewidth=0.9, linestyle=(0, (2, 2)), label="effect = 2 SE"
    )
    ax.set(xlim=(left, right), ylim=(bottom, 3 * top))
    missing = size.size - x.size
    ax.set(
        xlabel="size of the effect (logit)"
        + (f"; {missing:,} of {size.size:,} mutations not drawn" if missing else ""),
        ylabel="SE (logit)",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(LogFormatterSciNotation())
    ax.legend(loc="upper left", ncols=2, title="darker: more mutations", title_fontsize=8)
