"""Figures that show whether a predicted probability means what it says.

Axes of probability are logit axes: at rare labels nearly every window is predicted near 0, where
a linear axis shows nothing. Grey is the consistency band of Bröcker and Smith (2007, Weather and
Forecasting 22:651): where the points fall when labels are drawn from the predictions themselves.
"""

from collections.abc import Mapping
from textwrap import fill
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from scipy.special import expit, logit

from deepmr.calibration.reliability import reliability as reliability_table
from deepmr.figures import style

_SMALLEST = 1e-6
"""A probability nearer to 0 or 1 is drawn, and counted, here: a logit axis has no end."""

_TICKS = tuple(
    np.array([*low, 0.5, *(1 - share for share in reversed(low))])
    for low in (
        (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
        (1e-6, 1e-5, 1e-4, 0.001, 0.01, 0.1),
        (1e-6, 1e-4, 0.01),
        (1e-6, 1e-3),
    )
)
"""Probabilities to write at a logit axis, from many to few."""
_POWERS = {1e-6: "10⁻⁶", 1e-5: "10⁻⁵", 1e-4: "10⁻⁴"}
_DENSITY_BINS = 48
_FLOOR = 0.6
"""Bottom of the logarithmic count axis: under one window."""
_COLUMNS = ("predicted", "observed", "band_low", "band_high")
_MIDDLE = {"ha": "center", "va": "center", "color": style.INK}


@style.styled
def reliability(
    labels: np.ndarray,
    probabilities: np.ndarray,
    target: str,
    *,
    bins: int = 10,
    seed: int = 0,
) -> Figure:
    """Draw how often label 1 comes true, against how often it was predicted.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        0, 1, NaN = not measured.
    probabilities : ndarray, shape (n,)
        Predicted probabilities.
    target : str
        Name, for the title.
    bins, seed
        As in :func:`deepmr.calibration.reliability.reliability`, which makes the grey band.

    Returns
    -------
    Figure
        Equal-mass bins on logit axes; below them, on the same horizontal axis, how many windows
        of each label are predicted there; below that, ten equally wide bins on linear axes.
        Points inside the band are what a perfectly calibrated model would show. On logit axes a
        bin with one label only is hollow, drawn half a window from 0 or 1.
    """
    labels, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    mass = reliability_table(labels, p, bins, "equal_mass", seed)
    width = reliability_table(labels, p, 10, "equal_width", seed)
    fig = Figure(figsize=(style.WIDTH, 8.6), layout="constrained")
    upper, middle, lower = fig.subplots(3, 1, height_ratios=(3.1, 1.5, 2.3))
    middle.sharex(upper)
    measured = np.isfinite(labels)
    predicted = _drawable_logit(p[measured])
    _logit_panel(upper, mass)
    _limits(upper, "y", _span(mass, *_COLUMNS[1:]), 0.08)
    ends = predicted if predicted.size else np.array([-5.0, 5.0])
    _limits(upper, "x", (float(ends.min()), float(ends.max())), 0.11)
    upper.tick_params(labelbottom=False)
    n_positive = int(np.count_nonzero(labels == 1))
    upper.set(
        title=f"{target}: {n_positive:,} of {int(measured.sum()):,} test windows positive",
        ylabel="observed frequency",
    )
    upper.legend(loc="upper left", title="equally many windows per bin", title_fontsize=8)
    upper.get_legend().set_alignment("left")
    _density(middle, predicted, labels[measured], upper.get_xlim())
    _panel(lower, *(width[name].to_numpy() for name in _COLUMNS))
    for row in width.itertuples():
        lower.annotate(
            f"{row.n:,}",
            (row.predicted, row.observed),
            xytext=(4, -9),
            textcoords="offset points",
            fontsize=6.5,
            color=style.MUTED,
        )
    lower.set(
        xlim=(-0.03, 1.08),
        ylim=(-0.03, 1.03),
        title="equally wide bins, with their windows",
        xlabel="predicted probability",
        ylabel="observed frequency",
    )
    return fig


@style.styled
def calibrators(
    labels: np.ndarray,
    predictions: Mapping[str, np.ndarray | str],
    metrics: pd.DataFrame,
    target: str,
    *,
    bins: int = 10,
    seed: int = 0,
) -> Figure:
    """Draw the reliability of the same windows before and after each calibrator.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        0, 1, NaN = not measured.
    predictions : mapping of str to ndarray of shape (n,), or str
        By calibrator, in the order of the panels, ``none`` first: the probabilities that it
        makes; or, where it was not fitted, the sentence that says why.
    metrics : DataFrame
        Rows of ``calibration.parquet`` of the target and these windows, by ``calibrator``.
    target : str
        Name, for the title.
    bins, seed
        As in :func:`deepmr.calibration.reliability.reliability`.

    Returns
    -------
    Figure
        A panel a calibrator, all with the same axes. An asterisk follows a number outside the
        range that a perfectly calibrated model would show.

    Raises
    ------
    ValueError
        If a calibrator that was fitted has not one row in `metrics`.
    """
    tables = {
        name: reliability_table(labels, p, bins, "equal_mass", seed)
        for name, p in predictions.items()
        if not isinstance(p, str)
    }
    rows = -(-len(predictions) // 2)
    fig = Figure(figsize=(style.WIDTH, 0.95 + 2.5 * rows), layout="constrained")
    axes = fig.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    whole = _span(pd.concat(tables.values()), *_COLUMNS)
    for i, (ax, (name, p)) in enumerate(zip(axes.flat, predictions.items(), strict=False)):
        ax.set_title("as predicted (none)" if name == "none" else name.replace("_", " "), pad=23)
        if isinstance(p, str):
            ax.text(0.5, 0.5, fill(p, 24), transform=ax.transAxes, fontsize=7.5, **_MIDDLE)
        else:
            _logit_panel(ax, tables[name])
            ax.text(0, 1.03, _numbers(metrics, name), transform=ax.transAxes, fontsize=7)
        ax.set_aspect("equal")
        _limits(ax, "x", whole, 0.2)
        _limits(ax, "y", whole, 0.12)
        if i % 2 == 0:
            ax.set_ylabel("observed")
        if i >= len(predictions) - 2:
            ax.set_xlabel("predicted")
            ax.tick_params(labelbottom=True)
    for ax in axes.flat[len(predictions) :]:
        ax.set_visible(False)
    fig.suptitle(
        f"{target}: test windows, before and after calibrators\nfitted on validation windows",
        x=0.02,
        ha="left",
        fontsize=9.5,
        fontweight="bold",
    )
    fig.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        title="in brackets 95 % of perfectly calibrated models; * outside",
        title_fontsize=7.5,
    )
    return fig


def _panel(
    ax: Axes, x: np.ndarray, observed: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Draw the band, the diagonal and the observed points of one reliability diagram."""
    ax.fill_between(x, low, high, color=style.HAIRLINE, label="95 % band if calibrated")
    ends = [-50, 50]
    ax.plot(ends, ends, color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    ax.plot(x, observed, color=style.BLUE, marker="o", markersize=4, linewidth=1, label="observed")


def _logit_panel(ax: Axes, table: pd.DataFrame) -> None:
    x = _drawable_logit(table["predicted"].to_numpy())
    low, high = _logit_of_share(table, "band_low"), _logit_of_share(table, "band_high")
    observed = _logit_of_share(table, "observed")
    _panel(ax, x, observed, low, high)
    alike = table["observed"].isin([0, 1]).to_numpy()
    ax.plot(
        x[alike],
        observed[alike],
        linestyle="none",
        marker="o",
        markersize=4,
        markerfacecolor="white",
        markeredgecolor=style.BLUE,
        label="one label only",
    )


def _drawable_logit(p: np.ndarray) -> np.ndarray:
    return np.asarray(logit(np.clip(p, _SMALLEST, 1 - _SMALLEST)))


def _logit_of_share(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return the logits of a bin's shares; a share of none or all is drawn at half a window."""
    half = 0.5 / table["n"].to_numpy()
    return np.asarray(logit(np.clip(table[column].to_numpy(), half, 1 - half)))


def _span(table: pd.DataFrame, *columns: str) -> tuple[float, float]:
    """Return the range of what is drawn of these columns, on the logit scale."""
    if table.empty:
        return -5.0, 5.0
    drawn = [
        _drawable_logit(table[name].to_numpy())
        if name == "predicted"
        else _logit_of_share(table, name)
        for name in columns
    ]
    return float(np.min(drawn)), float(np.max(drawn))


def _limits(ax: Axes, which: Literal["x", "y"], span: tuple[float, float], gap: float) -> None:
    """Set the limits of a logit axis, with ticks at least `gap` (of its length) apart."""
    low, high = span[0] - 0.4, span[1] + 0.4
    axis, limit = (ax.xaxis, ax.set_xlim) if which == "x" else (ax.yaxis, ax.set_ylim)
    limit(low, high)
    inside = [at[(at >= low) & (at <= high)] for at in map(logit, _TICKS)]
    apart = (at for at in inside if not (np.diff(at) < gap * (high - low)).any())
    axis.set_major_locator(FixedLocator(list(next(apart, inside[-1]))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_written))
    axis.set_minor_formatter(NullFormatter())


def _written(position: float, _: int | None = None) -> str:
    """Return the probability at a position of a logit axis, as briefly as it can be written."""
    for small, power in _POWERS.items():
        if np.isclose(position, logit(small)):
            return power
        if np.isclose(position, -logit(small)):
            return f"1−{power}"
    return f"{expit(position):.4g}"


def _density(
    ax: Axes, predicted: np.ndarray, labels: np.ndarray, limits: tuple[float, float]
) -> None:
    """Draw how many windows of each label are predicted where, counted on a log axis.

    The height of one label over the other is the observed logit, whatever the base rate.
    """
    edges = np.linspace(*limits, _DENSITY_BINS + 1)
    most = 1
    for name in ("0", "1"):
        counts = np.histogram(predicted[labels == float(name)], edges)[0]
        most = max(most, int(counts.max()))
        ax.stairs(
            np.maximum(counts, _FLOOR),
            edges,
            baseline=_FLOOR,
            fill=True,
            facecolor=(style.LABEL_COLOURS[name], 0.25),
            edgecolor=style.LABEL_COLOURS[name],
            linewidth=1.1,
            label=f"label {name}",
        )
    ax.set_yscale("log")
    ax.set(ylim=(_FLOOR, 2.5 * most), xlabel="predicted probability", ylabel="windows")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.legend(loc="upper right", ncols=2)


def _numbers(metrics: pd.DataFrame, calibrator: str) -> str:
    """Return ECE and Cox slope of a calibrator with their null bands, in two lines."""
    rows = metrics[metrics["calibrator"] == calibrator]
    if len(rows) != 1:
        raise ValueError(
            f"calibration.parquet has {len(rows)} rows of the calibrator {calibrator!r} for the "
            "windows drawn, not 1; run the rule calibrate_probabilities again"
        )
    row = rows.iloc[0]
    lines = []
    for name, column, digits in (("ECE", "ece", 4), ("Cox slope", "cox_slope", 2)):
        value, low, high = row[[column, f"{column}_null_low", f"{column}_null_high"]].astype(float)
        mark = "" if not np.isfinite(low) or low <= value <= high else "*"
        lines.append(f"{name} {value:.{digits}f}{mark} ({low:.{digits}f}–{high:.{digits}f})")
    return "\n".join(lines)
