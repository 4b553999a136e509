"""Figures that show what the network predicts, and how well."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sklearn.metrics import roc_auc_score, roc_curve

from deepmr.figures import style

_AUROC_COLUMN = "auroc"


@style.styled
def roc(labels: np.ndarray, probabilities: np.ndarray, targets: Sequence[str]) -> Figure:
    """Draw one ROC curve per target, with its AUROC in the legend.

    Parameters
    ----------
    labels : ndarray, shape (n, K)
        0, 1, NaN = not measured.
    probabilities : ndarray, shape (n, K)
        Any score that rises with the probability.
    targets : sequence of str
        K names. A target with one class only is named in the legend without a curve.

    Returns
    -------
    Figure
        Curves from the best AUROC to the worst.
    """
    labels, scores = np.asarray(labels, dtype=np.float64), np.asarray(probabilities)
    curves = []
    for k, target in enumerate(targets):
        measured = ~np.isnan(labels[:, k])
        y, score = labels[measured, k], scores[measured, k]
        area = float(roc_auc_score(y, score)) if np.unique(y).size == 2 else np.nan
        curves.append((area, target, y, score))
    curves.sort(key=lambda curve: (-np.nan_to_num(curve[0], nan=-1.0), curve[1]))
    rows = -(-len(curves) // 2)
    fig = Figure(figsize=(style.WIDTH, 4.1 + 0.19 * rows), layout="constrained")
    ax = fig.subplots()
    ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    for i, (area, target, y, score) in enumerate(curves):
        look: dict[str, Any] = {
            "color": style.CYCLE[i % len(style.CYCLE)],
            "linestyle": style.DASHES[i // len(style.CYCLE) % len(style.DASHES)],
        }
        if np.isnan(area):
            ax.plot([], [], label=f"{target}: one class only", **look)
        else:
            false_positive, true_positive, _ = roc_curve(y, score)
            ax.plot(false_positive, true_positive, label=f"{target}  {area:.3f}", **look)
    ax.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    fig.legend(loc="outside lower center", ncols=2, title="AUROC", title_fontsize=8)
    return fig


@style.styled
def histogram(
    labels: np.ndarray, probabilities: np.ndarray, target: str, *, bins: int = 40
) -> Figure:
    """Draw the histogram of predicted probabilities by label: label 1 up, label 0 down.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        0, 1, NaN = not measured (left out).
    probabilities : ndarray, shape (n,)
        Predicted probabilities.
    target : str
        Name, for the title.
    bins : int
        Number of equally wide bins of [0, 1].

    Returns
    -------
    Figure
        Heights are shares of the windows of a label, so that rare labels can be seen.
    """
    labels, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities)
    edges = np.linspace(0, 1, bins + 1)
    fig = Figure(figsize=(style.WIDTH, 3.1), layout="constrained")
    ax = fig.subplots()
    for name, direction in (("1", 1), ("0", -1)):
        of_label = p[labels == float(name)]
        share = np.histogram(of_label, edges)[0] / max(of_label.size, 1)
        ax.bar(
            edges[:-1],
            direction * share,
            width=1 / bins,
            align="edge",
            color=style.LABEL_COLOURS[name],
            edgecolor="white",
            linewidth=0.4,
            label=f"label {name} ({of_label.size:,} windows)",
        )
    ax.axhline(0, color=style.MUTED, linewidth=0.8)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0%}"))
    ax.margins(y=0.12)
    ax.set(
        title=target,
        xlabel="predicted probability",
        ylabel="share of the label's windows",
        xlim=(-0.01, 1.01),
    )
    fig.legend(loc="outside lower center", ncols=2)
    return fig


@style.styled
def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw training and validation loss and the validation AUROC over the epochs.

    Parameters
    ----------
    history : DataFrame
        Columns ``member``, ``epoch``, ``train_loss``, ``validation_loss`` and, per binary
        target, ``auroc.<target>``. One line per member.

    Returns
    -------
    Figure
        The AUROC panel is left out when no target has one. The dot marks the epoch with the
        lowest validation loss, whose weights were kept.

    Raises
    ------
    ValueError
        On a missing column.
    """
    missing = {"member", "epoch", "train_loss", "validation_loss"} - set(history.columns)
    if missing:
        raise ValueError(f"the history lacks the columns {', '.join(sorted(missing))}")
    auroc = _auroc_columns(history)
    panels = 2 if auroc else 1
    fig = Figure(figsize=(style.WIDTH, 0.5 + 2.3 * panels), layout="constrained")
    axes = fig.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    for i, (_, rows) in enumerate(history.sort_values("epoch").groupby("member")):
        named = i == 0
        for column, colour in (("train_loss", style.MUTED), ("validation_loss", style.BLUE)):
            axes[0].plot(
                rows["epoch"],
                rows[column],
                color=colour,
                linewidth=1.3,
                label=column.replace("_", " ") if named else None,
            )
        if rows["validation_loss"].notna().any():
            best = int(np.nanargmin(rows["validation_loss"]))
            axes[0].scatter(
                rows["epoch"].iloc[best],
                rows["validation_loss"].iloc[best],
                s=26,
                color=style.BLUE,
                zorder=3,
                label="weights kept" if named else None,
            )
        for j, (target, column) in enumerate(auroc.items()):
            axes[1].plot(
                rows["epoch"],
                rows[column],
                color=style.CYCLE[j % len(style.CYCLE)],
                linestyle=style.DASHES[j // len(style.CYCLE) % len(style.DASHES)],
                linewidth=1.3,
                label=target if named else None,
            )
    axes[0].set(ylabel="loss")
    axes[0].legend(loc="upper right")
    if auroc:
        axes[1].set(ylabel="validation AUROC")
        axes[1].legend(loc="lower right", ncols=2)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return fig


def _auroc_columns(history: pd.DataFrame) -> Mapping[str, str]:
    """Return target -> column of the validation AUROCs that hold at least one number."""
    columns = [str(column) for column in history.columns]
    return {
        column.removeprefix(f"{_AUROC_COLUMN}."): column
        for column in columns
        if column.startswith(f"{_AUROC_COLUMN}.") and history[column].notna().any()
    }
