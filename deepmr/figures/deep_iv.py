"""What a network and measured labels say of every pair, side by side and each in its own unit."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepmr.deepiv.local_effect import WEAK_F
from deepmr.figures import style

Row = Mapping[Hashable, Any]


class _Look(NamedTuple):
    """How the rows of a method are drawn."""

    label: str
    colour: str
    marker: str


_MR = "mr"
_ON_THE_NETWORK = {
    _MR: _Look("MR", style.INK, "o"),
    "constant_slope": _Look("one slope", style.MUTED, "D"),
    "context_slope": _Look("slope by context", style.GREEN, "s"),
}
_ON_LABELS = {
    "deep_iv": _Look("Deep IV", style.BLUE, "o"),
    "naive": _Look("naive network", style.ORANGE, "D"),
    "2sls": _Look("2SLS", style.PURPLE, "s"),
    "polynomial_2sls": _Look("polynomial 2SLS", style.SKY, "^"),
}

# Inches.
_LINE = 0.135
_GAP = 0.11
_AROUND = 0.75
_LEGEND_LINE = 0.19


@style.styled
def deep_iv(effects: pd.DataFrame, rows: pd.DataFrame, *, effect_scale: str = "logit") -> Figure:
    """Draw MR and slopes by context in one panel, and Deep IV and its peers in another.

    Parameters
    ----------
    effects : DataFrame
        Rows of ``meta.parquet`` of one model, one a pair and direction: ``pair``, ``direction``,
        ``exposure``, ``outcome``, ``estimate``, ``ci_low``, ``ci_high``, ``status``. Their order
        is that of the figure.
    rows : DataFrame
        Rows of ``deep_iv.parquet`` of the labels, of this model, or of both.
    effect_scale : str
        Scale of `effects`; names their unit where the model has no slopes.

    Returns
    -------
    Figure
        A panel for the network and one for the labels, several where units differ. Where the
        instrument is weak (F below 10) the marker is hollow and the line is the Anderson-Rubin
        set, which may run off the panel. A panel is as wide as what is not weak needs.

    Raises
    ------
    ValueError
        If the slopes are those of several models.
    """
    models = sorted({str(name) for name in rows.loc[rows["source"] == "model", "model"]})
    if len(models) > 1:
        raise ValueError(f"slopes of the models {', '.join(models)}; draw one model at a time")
    arrows = {(r["pair"], r["direction"]): _name(r) for r in effects.to_dict("records")}
    slopes, labels = (
        rows[rows["source"] == source].to_dict("records") for source in ("model", "labels")
    )
    units = {(row["pair"], row["direction"]): row["unit"] for row in slopes}
    scale = f"{effect_scale} per {effect_scale}"
    mr: list[Row] = [
        {**row, "method": _MR, "unit": units.get((row["pair"], row["direction"]), scale)}
        for row in effects.to_dict("records")
    ]
    panels = [
        (title, unit, looks, [row for row in listed if row["unit"] == unit])
        for title, looks, listed in (
            ("In the network", _ON_THE_NETWORK, [*mr, *slopes]),
            ("In measured labels", _ON_LABELS, labels),
        )
        for unit in dict.fromkeys(str(row["unit"]) for row in listed)
    ]
    shown = [
        (title, unit, _drawn(looks, listed), _lines(arrows, listed), listed)
        for title, unit, looks, listed in panels
    ]
    heights = [
        _AROUND + sum(max(len(of_arrow), 1) * _LINE + _GAP for of_arrow in lines.values())
        for *_, lines, _ in shown
    ]
    used = {method: look for _, _, looks, _, _ in shown for method, look in looks.items()}
    handles = _handles(used, any(_weak(row) for *_, listed in shown for row in listed))
    legend = _LEGEND_LINE * -(-len(handles) // 2)
    fig = Figure(figsize=(style.WIDTH, sum(heights) + legend + 0.1), layout="constrained")
    axes = fig.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, unit, looks, lines, listed) in zip(axes, shown, strict=True):
        ax.set_xlim(*_window(listed))
        _panel(ax, looks, lines, arrows)
        ax.set(title=title, xlabel=f"effect, 95 % interval ({unit})")
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def _panel(
    ax: Axes,
    looks: Mapping[str, _Look],
    lines: Mapping[tuple[str, str], Sequence[Row]],
    arrows: Mapping[tuple[str, str], str],
) -> None:
    """Draw the rows of every arrow beneath each other; heights in inches from the top."""
    ax.axvline(0, color=style.MUTED, linewidth=0.9)
    y = 0.0
    middles = {}
    order = list(looks)
    for i, (arrow, of_arrow) in enumerate(lines.items()):
        top = y
        known = [row for row in of_arrow if np.isfinite(float(row["estimate"]))]
        for row in sorted(known, key=lambda row: order.index(row["method"])):
            _draw(ax, row, looks[row["method"]], y + _LINE / 2)
            y += _LINE
        if not known:
            why = ", ".join(dict.fromkeys(str(row["status"]) for row in of_arrow)) or "not asked"
            ax.annotate(
                why.replace("_", " "),
                (0, y + _LINE / 2),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=style.MUTED,
                fontsize=7,
            )
            y += _LINE
        middles[arrows[arrow]] = (top + y) / 2
        y += _GAP
        if i % 2 == 0:
            ax.axhspan(top - _GAP / 2, y - _GAP / 2, color=style.HAIRLINE, alpha=0.35, linewidth=0)
    ax.set_yticks(list(middles.values()), list(middles))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_ylim(y - _GAP / 2, -_GAP / 2)


def _draw(ax: Axes, row: Row, look: _Look, y: float) -> None:
    left, right = ax.get_xlim()
    beyond = right - left  # what has no end runs off the panel
    face = "white" if _weak(row) else look.colour
    for low, high in _lengths(row):
        ends = np.clip([low, high], left - beyond, right + beyond)
        ax.hlines(y, ends[0], ends[1], color=look.colour, linewidth=1.6, alpha=0.6)
    ax.plot(
        [row["estimate"]],
        [y],
        look.marker,
        markersize=4,
        color=look.colour,
        markerfacecolor=face,
        markeredgewidth=0.9,
        zorder=3,
    )


def _weak(row: Row) -> bool:
    return bool(float(row.get("f", np.nan)) < WEAK_F)


def _lengths(row: Row) -> list[tuple[float, float]]:
    """Return the pieces of what an estimate leaves possible: the set of a weak instrument."""
    if not (_weak(row) and isinstance(row["ar_kind"], str) and row["ar_kind"]):
        ends = float(row["ci_low"]), float(row["ci_high"])
        return [ends] if np.isfinite(ends).all() else []
    low, high = float(row["ar_low"]), float(row["ar_high"])
    return {
        "interval": [(low, high)],
        "outside": [(-np.inf, low), (high, np.inf)],
        "everything": [(-np.inf, np.inf)],
    }.get(row["ar_kind"], [])


def _window(rows: Sequence[Row]) -> tuple[float, float]:
    """Return the limits of an effect axis: all that is not weak, and 0."""
    ends = [0.0]
    for row in rows:
        if not _weak(row):
            ends += [float(row[key]) for key in ("ci_low", "ci_high", "estimate")]
    finite = [end for end in ends if np.isfinite(end)]
    if finite == [0.0]:
        finite += [float(row["estimate"]) for row in rows if np.isfinite(float(row["estimate"]))]
    low, high = min(finite), max(finite)
    pad = 0.06 * (high - low) or 0.5
    return low - pad, high + pad


def _lines(
    arrows: Mapping[tuple[str, str], str], rows: Sequence[Row]
) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each arrow; arrows that the panel was not asked for are left out."""
    found = {
        arrow: [row for row in rows if (row["pair"], row["direction"]) == arrow] for arrow in arrows
    }
    return {arrow: of_arrow for arrow, of_arrow in found.items() if of_arrow}


def _drawn(looks: Mapping[str, _Look], rows: Sequence[Row]) -> dict[str, _Look]:
    present = {row["method"] for row in rows}
    return {method: look for method, look in looks.items() if method in present}


def _handles(looks: Mapping[str, _Look], weak: bool) -> list[Line2D]:
    """Return what the legend explains: only what is drawn."""
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker, markersize=4, label=look.label, alpha=0.9
        )
        for look in looks.values()
    ]
    if weak:
        handles.append(
            Line2D(
                [],
                [],
                color=style.MUTED,
                marker="o",
                markersize=4,
                markerfacecolor="white",
                label="weak instrument: Anderson-Rubin set",
            )
        )
    return handles


def _name(row: Row) -> str:
    return f"{row['exposure']} → {row['outcome']}"
