"""The matrix of a network figure: every effect in numbers, exposures in rows."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deepmr.figures import style

# Pale enough at both ends for dark text.
DIVERGING: Colormap = LinearSegmentedColormap.from_list(
    "effect",
    [
        style.pale(style.SIGN_COLOURS["negative"]),
        "#ffffff",
        style.pale(style.SIGN_COLOURS["positive"]),
    ],
)

# Inches.
_CELL = (0.84, 0.6)
_HEADER = 0.34
_COLOUR_BAR = 0.52

_NAME_TEXT = 8  # points
_FAINT = "#f4f5f7"
_NUMBER_INK = "#3d4853"


@dataclass(frozen=True)
class Matrix:
    """Rows, columns and lengths of a matrix, in inches from the upper left corner of its panel.

    Attributes
    ----------
    rows, columns : sequence of str
        Exposures and outcomes.
    label_width : float
        Of the names of the rows.
    name_widths : sequence of float
        Of the name of each column.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    label_width: float
    name_widths: Sequence[float]

    @classmethod
    def of(cls, edges: pd.DataFrame, names: Sequence[str]) -> "Matrix":
        """Take the names that are exposure (outcome) of an edge for rows (columns)."""
        causes, effects = set(edges["exposure"]), set(edges["outcome"])
        widths = {name: style.text_width(name, _NAME_TEXT) for name in names}
        rows = [name for name in names if name in causes]
        columns = [name for name in names if name in effects]
        widest = max(widths[name] for name in rows)
        return cls(rows, columns, max(widest, 0.55) + 0.12, [widths[name] for name in columns])

    @property
    def width(self) -> float:
        """Width of the panel, with column names that are turned and longer than what is left."""
        wide, count = _CELL[0], len(self.columns)
        ends = [wide * count]
        if self._turned:
            ends += [wide * (i + 0.4) + 0.87 * text for i, text in enumerate(self.name_widths)]
        return self.label_width + max(ends)

    @property
    def height(self) -> float:
        """Height of the panel, with the colour bar."""
        return self._top + _CELL[1] * len(self.rows) + _COLOUR_BAR

    @property
    def _top(self) -> float:
        """Height of the column names, which are turned where they are wider than a cell."""
        return _HEADER + (max(self.name_widths) * 0.5 if self._turned else 0.0)

    @property
    def _turned(self) -> bool:
        return max(self.name_widths) > _CELL[0] - 0.08

    def draw(
        self,
        ax: Axes,
        edges: pd.DataFrame,
        marks: Mapping[str, str],
        limit: float,
    ) -> None:
        """Draw names and cells.

        Parameters
        ----------
        ax : Axes
            Of the size of the panel, its data in inches, y downwards.
        edges : DataFrame
            Rows of ``network.parquet``, one a cell.
        marks : mapping of str to str
            Remark (see :func:`remarks`) -> letter that stands for it.
        limit : float
            The size of effect that has the fullest colour.
        """
        left, top = self.label_width, self._top
        wide, high = _CELL
        for text, y in (("outcome →", top - 0.22), ("exposure ↓", top - 0.07)):
            ax.text(left - 0.08, y, text, ha="right", fontsize=6.5, color=style.MUTED)
        for i, name in enumerate(self.columns):
            ax.text(
                left + wide * (i + (0.25 if self._turned else 0.5)),
                top - 0.09,
                name,
                ha="left" if self._turned else "center",
                rotation=30 if self._turned else 0,
                rotation_mode="anchor",
                fontsize=_NAME_TEXT,
                fontweight="bold",
            )
        for i, name in enumerate(self.rows):
            ax.text(
                left - 0.08,
                top + high * (i + 0.5),
                name,
                ha="right",
                va="center",
                fontsize=_NAME_TEXT,
                fontweight="bold",
            )
        found = {(e["exposure"], e["outcome"]): e for e in edges.to_dict("records")}
        for i, cause in enumerate(self.rows):
            for j, effect in enumerate(self.columns):
                place = left + wide * j, top + high * i
                edge = found.get((cause, effect))
                if edge is None:
                    colour = _FAINT if cause == effect else "#ffffff"
                    ax.add_patch(Rectangle(place, wide, high, facecolor=colour, linewidth=0))
                    ax.text(
                        place[0] + wide / 2,
                        place[1] + high / 2,
                        "" if cause == effect else "·",
                        color=style.MUTED,
                        ha="center",
                        va="center",
                    )
                else:
                    _cell(ax, place, edge, marks, limit)

    def colour_bar_place(self) -> tuple[float, float, float, float]:
        """Return left, top, width and height of the colour bar in the panel."""
        length = min(2.4, _CELL[0] * len(self.columns) - 0.2)
        return self.label_width + 0.1, self.height - _COLOUR_BAR + 0.12, length, 0.09

    def draw_colour_bar(
        self, fig: Figure, ax: Axes, edges: pd.DataFrame, limit: float, effect_scale: str
    ) -> None:
        """Draw the colour bar into `ax`; pointed where effects are beyond `limit`."""
        ax.set_axis_on()
        known = edges["estimate"].dropna()
        beyond = bool((known > limit).any()), bool((known < -limit).any())
        kind = {(True, True): "both", (True, False): "max", (False, True): "min"}
        bar = fig.colorbar(
            ScalarMappable(Normalize(-limit, limit), DIVERGING),
            cax=ax,
            orientation="horizontal",
            extend=kind.get(beyond, "neither"),
        )
        bar.set_ticks([-limit, 0, limit], labels=[number(-limit), "0", number(limit)])
        bar.outline.set_visible(False)
        ax.tick_params(length=0, labelsize=6.5)
        ax.set_xlabel(f"global effect ({effect_scale})", fontsize=6.5, labelpad=1)


def _cell(
    ax: Axes,
    place: tuple[float, float],
    edge: Mapping[Hashable, Any],
    marks: Mapping[str, str],
    limit: float,
) -> None:
    """Write an effect, its interval and its decoy into a cell of the matrix."""
    (x, y), (wide, high) = place, _CELL
    known = bool(np.isfinite(edge["estimate"]))
    strong = bool(edge["significant"])
    colour = DIVERGING(0.5 + 0.5 * np.clip(edge["estimate"] / limit, -1, 1)) if known else "white"
    inset = 0.012
    ax.add_patch(
        Rectangle(
            (x + inset, y + inset),
            wide - 2 * inset,
            high - 2 * inset,
            facecolor=colour,
            edgecolor=style.INK if strong else style.HAIRLINE,
            linewidth=1.3 if strong else 0.6,
        )
    )
    lines = [(edge["status"].replace("_", " "), 6.5, "normal", style.MUTED)]
    if known:
        interval = f"{number(edge['ci_low'])} to {number(edge['ci_high'])}"
        ink = style.INK if strong else _NUMBER_INK
        lines = [
            (number(edge["estimate"]), 9, "bold" if strong else "normal", ink),
            (interval, 6.3, "normal", ink),
        ]
    if np.isfinite(edge["decoy_estimate"]):
        lines.append((f"decoy {number(edge['decoy_estimate'])}", 6.3, "normal", _NUMBER_INK))
    steps = np.array([0.0, 0.15, 0.125])[: len(lines)]
    middles = y + high / 2 + 0.03 + np.cumsum(steps) - steps.sum() / 2
    for (text, size, weight, ink), at in zip(lines, middles, strict=True):
        ax.text(
            x + wide / 2,
            at,
            text,
            fontsize=size,
            fontweight=weight,
            color=ink,
            ha="center",
            va="center",
        )
    letters = "".join(marks[remark] for remark in remarks(edge))
    ax.text(
        x + wide - 0.05,
        y + 0.04,
        letters,
        fontsize=6,
        fontstyle="italic",
        ha="right",
        va="top",
    )


def remarks(edge: Mapping[Hashable, Any]) -> list[str]:
    """Return what is to be said of an edge: its flags, and ``control`` for a negative control."""
    flags = [flag for flag in edge["flag"].split(",") if flag]
    return [*flags, "control"] if edge["control"] else flags


def number(value: float) -> str:
    """Return a number with two decimals and a true minus sign; −0.00 is 0.00."""
    if not np.isfinite(value):
        return "–" if np.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")
