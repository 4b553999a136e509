"""The directed graph of a network figure: targets on an ellipse, effects as curved arrows."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from deepmr.figures import style

BESIDE_LIMIT = 5
"""With more targets than this the graph is larger, and the matrix is drawn beneath it."""

WEAK = "#aab1b9"
"""Colour of an arrow that is not significant."""

DASHES = (0, (2.2, 1.3))
"""Of an arrow whose direction is not identified, for the legend."""

_GAPS = (3.0, 5.0)  # points: gap and dash of such an arrow
_NODE_HEIGHT = 0.29  # inches
_NODE_TEXT = 8.5  # points


@dataclass(frozen=True)
class Graph:
    """Where the nodes of a graph are, in inches from the upper left corner of its panel.

    Attributes
    ----------
    width, height : float
        Size of the panel.
    nodes : mapping of str to tuple of float
        Name -> middle of its box.
    node_width : mapping of str to float
        Name -> width of its box.
    """

    width: float
    height: float
    nodes: Mapping[str, tuple[float, float]]
    node_width: Mapping[str, float]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Graph":
        """Put the names on an ellipse, clockwise from the top, far enough apart for their text."""
        wide = {name: style.text_width(name, _NODE_TEXT) + 0.24 for name in names}
        widest = max(wide.values())
        gap = 2 * np.sin(np.pi / len(names))
        least = (1.15, 1.15) if len(names) <= BESIDE_LIMIT else (2.4, 1.9)
        across = max(least[0], (widest + 0.3) / gap)
        down = max(least[1], 0.75 / gap)
        angles = 2 * np.pi * np.arange(len(names)) / len(names) - np.pi / 2
        if len(names) == 2:  # side by side
            angles, across, down = np.array([np.pi, 0.0]), max(0.95, 0.5 * widest + 0.5), 0.45
        # Room above and below for arrows that bow outwards.
        size = 2 * across + widest + 0.1, 2 * down + _NODE_HEIGHT + 0.3
        nodes = {
            name: (size[0] / 2 + across * np.cos(a), size[1] / 2 + down * np.sin(a))
            for name, a in zip(names, angles, strict=True)
        }
        return cls(*size, nodes, wide)

    def draw(self, ax: Axes, edges: pd.DataFrame, limit: float) -> None:
        """Draw nodes and arrows.

        Parameters
        ----------
        ax : Axes
            Of the size of the panel, its data in inches, y downwards.
        edges : DataFrame
            Rows of ``network.parquet``, one an arrow; those without an estimate are left out.
        limit : float
            The size of effect that has the widest arrow.
        """
        boxes = {}
        for name, (x, y) in self.nodes.items():
            wide = self.node_width[name]
            boxes[name] = FancyBboxPatch(
                (x - wide / 2, y - _NODE_HEIGHT / 2),
                wide,
                _NODE_HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.13",
                facecolor="#f4f5f7",
                edgecolor=style.INK,
                linewidth=0.9,
                zorder=4,
            )
            ax.add_patch(boxes[name])
            ax.text(
                x,
                y,
                name,
                ha="center",
                va="center_baseline",
                fontsize=_NODE_TEXT,
                fontweight="bold",
                zorder=5,
            )
        for edge in edges[edges["estimate"].notna()].to_dict("records"):
            cause, effect = edge["exposure"], edge["outcome"]
            colour, line_width = _stroke(edge, limit)
            head = 7 + 2.2 * line_width
            above = 3 if edge["significant"] else 2
            between: dict[str, Any] = {
                "posA": self.nodes[cause],
                "posB": self.nodes[effect],
                "patchA": boxes[cause],
                "patchB": boxes[effect],
                "connectionstyle": f"arc3,rad={self._bow(cause, effect)}",
                "shrinkA": 1.5,
            }
            ax.add_patch(
                FancyArrowPatch(
                    **between,
                    arrowstyle="-|>",
                    mutation_scale=head,
                    shrinkB=2.5,
                    color=colour,
                    linewidth=line_width,
                    joinstyle="miter",
                    zorder=above,
                    gid=f"edge-{cause}-{effect}",
                )
            )
            if "both_directions" in edge["flag"].split(","):
                # Gaps laid over a solid arrow: a dashed one would have a ragged head.
                ax.add_patch(
                    FancyArrowPatch(
                        **between,
                        arrowstyle="-",
                        shrinkB=3.5 + 0.4 * head + 1.8 * line_width,
                        color="white",
                        linewidth=line_width + 0.6,
                        linestyle=(0, tuple(part / (line_width + 0.6) for part in _GAPS)),
                        capstyle="butt",
                        zorder=above,
                    )
                )

    def _bow(self, cause: str, effect: str) -> float:
        """Return how far an arrow bows to its side; the two of a pair bow to opposite sides.

        With many nodes an arrow that bows outwards would run behind the nodes that it passes.
        """
        if len(self.nodes) == 2:
            return 0.32
        names = list(self.nodes)
        steps = (names.index(effect) - names.index(cause)) % len(names)
        if len(names) <= BESIDE_LIMIT or steps in (1, len(names) - 1):
            return 0.16
        # The side it bows to is the outer one where it runs anticlockwise.
        return 0.26 if steps <= len(names) / 2 else -0.06


def _stroke(edge: Mapping[Hashable, Any], limit: float) -> tuple[str, float]:
    """Return colour and width of an arrow."""
    if not edge["significant"]:
        return WEAK, 0.7
    colour = style.SIGN_COLOURS["positive" if edge["estimate"] > 0 else "negative"]
    return colour, 1.0 + 3.0 * min(1.0, abs(edge["estimate"]) / limit)
