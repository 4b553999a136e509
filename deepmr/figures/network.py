"""The network of all pairs of a model: a directed graph beside the matrix of its numbers."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deepmr.figures import style
from deepmr.figures.network_graph import BESIDE_LIMIT, DASHES, WEAK, Graph
from deepmr.figures.network_matrix import Matrix, number, remarks
from deepmr.meta.tables.network import FLAGS

_REMARKS = FLAGS | {"control": "configured as a negative control"}
_LETTERS = "abcdef"

# Lengths in inches; they decide the size of the figure.
_MARGIN = 0.18
_LEGEND_COLUMN = 2.6
_LEGEND_LINE = 0.19
_NOTE_LINE = 0.15
_NOTE_LETTER = 0.054


@style.styled
def network(
    edges: pd.DataFrame, targets: Sequence[str], *, fdr: float, effect_scale: str = "logit"
) -> Figure:
    """Draw the effects of all pairs in both directions as a graph and as a matrix.

    Parameters
    ----------
    edges : DataFrame
        Rows of ``network.parquet`` of one model.
    targets : sequence of str
        The order of nodes, rows and columns. Those that no edge has are left out.
    fdr : float
        The level behind ``significant``, for the legend.
    effect_scale : str
        For the label.

    Returns
    -------
    Figure
        Its size grows with the number of targets. Where an arrow was asked for by two pairs, as
        forward of one and reverse of the other, the forward one is drawn and a note says so.

    Raises
    ------
    ValueError
        If there are edges of several models, or a target of theirs is not among `targets`.
    """
    models = sorted(set(edges["model"]))
    if len(models) > 1:
        raise ValueError(f"edges of the models {', '.join(models)}; draw one model at a time")
    used = {*edges["exposure"], *edges["outcome"]}
    if unknown := sorted(used - set(targets)):
        raise ValueError(
            f"no target is called {', '.join(unknown)}; targets are {', '.join(targets)}"
        )
    if not edges["estimate"].notna().any():
        return style.note("No pair has a global effect: there is no network to draw.")
    names = [name for name in targets if name in used]
    forward_first = edges.sort_values("direction", kind="stable")
    drawn = forward_first.drop_duplicates(["exposure", "outcome"]).sort_index()
    limit = _limit(drawn)
    marks = _marks(drawn)
    twice = forward_first[forward_first.duplicated(["exposure", "outcome"])]
    arrows = [
        f"{cause} → {effect}"
        for cause, effect in zip(twice["exposure"], twice["outcome"], strict=True)
    ]
    handles = _handles(drawn, fdr)

    graph = Graph.of(names)
    matrix = Matrix.of(drawn, names)
    beside = len(names) <= BESIDE_LIMIT
    width = graph.width + matrix.width + 3 * _MARGIN
    if not beside:
        width = max(graph.width, matrix.width) + 2 * _MARGIN
    notes = _notes(drawn, marks, arrows, limit, width)
    columns = max(1, int(width // _LEGEND_COLUMN))
    legend = _LEGEND_LINE * -(-len(handles) // columns) + 0.08
    foot = _NOTE_LINE * len(notes) + legend + _MARGIN
    body = max(graph.height, matrix.height)
    if not beside:
        body = graph.height + matrix.height + _MARGIN
    height = foot + body + _MARGIN
    fig = Figure(figsize=(width, height))

    def panel(left: float, top: float, wide: float, high: float) -> Axes:
        """Return axes of a place in inches, from the left and from the top, with data in inches."""
        ax = fig.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        ax.set(xlim=(0, wide), ylim=(high, 0))
        ax.set_axis_off()
        return ax

    if beside:
        graph_at = _MARGIN, _MARGIN + (body - graph.height) / 2
        matrix_at = graph.width + 2 * _MARGIN, _MARGIN + (body - matrix.height) / 2
    else:
        graph_at = (width - graph.width) / 2, _MARGIN
        matrix_at = (width - matrix.width) / 2, graph.height + 2 * _MARGIN
    graph.draw(panel(*graph_at, graph.width, graph.height), drawn, limit)
    matrix.draw(panel(*matrix_at, matrix.width, matrix.height), drawn, marks, limit)
    x, y, *size = matrix.colour_bar_place()
    bar = panel(matrix_at[0] + x, matrix_at[1] + y, *size)
    matrix.draw_colour_bar(fig, bar, drawn, limit, effect_scale)
    fig.legend(
        handles=handles,
        loc="lower center",
        ncols=columns,
        bbox_to_anchor=(0.5, (_NOTE_LINE * len(notes) + 0.6 * _MARGIN) / height),
        borderaxespad=0,
        handlelength=2.6,
        fontsize=7.5,
    )
    for i, line in enumerate(notes):
        fig.text(
            _MARGIN / width,
            (0.5 * _MARGIN + _NOTE_LINE * (len(notes) - 1 - i)) / height,
            line,
            fontsize=7,
            color=style.MUTED,
            va="bottom",
        )
    return fig


def _handles(edges: pd.DataFrame, fdr: float) -> list[Line2D]:
    """Return what the legend explains: only what is drawn."""
    known = edges[edges["estimate"].notna()]
    strong = known[known["significant"]]
    both = [flag for flag in strong["flag"] if "both_directions" in flag.split(",")]
    handles = [
        Line2D([], [], color=style.SIGN_COLOURS[sign], linewidth=3, label=f"{sign} effect")
        for sign, of_sign in (
            ("positive", strong["estimate"] > 0),
            ("negative", strong["estimate"] <= 0),
        )
        if of_sign.any()
    ]
    if len(strong) < len(known):
        label = f"not significant (FDR above {100 * fdr:g} %)"
        handles.append(Line2D([], [], color=WEAK, linewidth=0.8, label=label))
    if both:
        label = "both significant: direction not identified"
        handles.append(
            Line2D([], [], color=style.INK, linewidth=2.2, linestyle=DASHES, label=label)
        )
    return handles


def _limit(edges: pd.DataFrame) -> float:
    """Return the effect with the fullest colour: the largest of those that are significant.

    A wide interval often has a large estimate, which would leave the others without colour.
    """
    sizes = edges["estimate"].abs()
    strong = sizes[edges["significant"]].max()
    largest = float(strong if np.isfinite(strong) else sizes.max())
    return largest or 1.0


def _marks(edges: pd.DataFrame) -> dict[str, str]:
    """Return a letter for each remark that a cell has."""
    made = {remark for edge in edges.to_dict("records") for remark in remarks(edge)}
    return dict(zip((one for one in _REMARKS if one in made), _LETTERS, strict=False))


def _notes(
    edges: pd.DataFrame, marks: Mapping[str, str], twice: Sequence[str], limit: float, width: float
) -> list[str]:
    """Return the lines beneath the figure, none wider than it."""
    says = "No effect is significant."
    if edges["significant"].any():
        says = (
            f"Framed: significant. Width of an arrow: size of the effect, at most {number(limit)}."
        )
    if edges["decoy_estimate"].notna().any():
        says += " Decoy: the exposure's effects are those of other sequences."
    notes = [says, *(f"{letter}  {_REMARKS[remark]}" for remark, letter in marks.items())]
    if twice:
        notes.append(
            f"Asked by two pairs, drawn as the one says that asks it forward: {', '.join(twice)}"
        )
    letters = int((width - 2 * _MARGIN) / _NOTE_LETTER)
    return [line for text in notes for line in textwrap.wrap(text, letters)]
