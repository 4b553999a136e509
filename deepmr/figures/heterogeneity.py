"""Do all sequences say the same? The funnel of a question, and the shares of the mixture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from deepmr.figures import style

SURE = 0.05
"""A local false sign rate below this is drawn strong."""

RASTER_LIMIT = 2000
"""More points than this are drawn as pixels, else the file grows with them."""

_Z = 1.959963984540054
_SHARES = {"negative": style.SIGN_COLOURS["negative"], "zero": style.HAIRLINE} | {
    "positive": style.SIGN_COLOURS["positive"]
}


@style.styled
def funnel(
    effects: pd.DataFrame,
    overall: Mapping[str, Any] | pd.Series,
    diagnostics: Mapping[str, Any] | pd.Series,
    *,
    exposure: str,
    outcome: str,
    effect_scale: str = "logit",
) -> Figure:
    """Draw the estimate of every sequence against its standard error.

    Parameters
    ----------
    effects : DataFrame
        Rows of ``sequence_effects.parquet`` of one model, pair and direction: ``estimate``,
        ``se``, ``lfsr``, ``influential``, ``status``. Rows without an estimate, or without a
        standard error above 0, are counted in the title and not drawn.
    overall : mapping or Series
        ``estimate``, ``se`` and ``tau2`` of the meta-analysis; NaN where there is none.
    diagnostics : mapping or Series
        The row of ``meta_diagnostics.parquet``: ``share_negative``, ``share_zero``,
        ``share_positive``, the same with ``_sd``, ``reason``.
    exposure, outcome : str
        For the labels.
    effect_scale : str
        For the labels.

    Returns
    -------
    Figure
        The pseudo 95 % limits are estimate ± 1.96 SE and, where tau2 is above 0, estimate ±
        1.96 sqrt(SE^2 + tau2), with the SE of the axis: where sequences would lie if they
        differed by their own errors only, and by tau2 as well. Points outside the panel, which
        holds 99 % of them, are counted in its label.
    """
    estimate, se = (effects[name].to_numpy(dtype=np.float64) for name in ("estimate", "se"))
    drawn = np.isfinite(estimate) & np.isfinite(se) & (se > 0)
    drawn &= (effects["status"] == "ok").to_numpy()
    if not drawn.any():
        counts = effects["status"].value_counts()
        reasons = ", ".join(f"{n} {status}" for status, n in counts.items())
        return style.note(
            f"{exposure} → {outcome}: no sequence has an estimate ({reasons or 'none asked'})."
        )
    estimate, se = estimate[drawn], se[drawn]
    lfsr = effects["lfsr"].to_numpy(dtype=np.float64)[drawn]
    influential = effects["influential"].eq(True).to_numpy()[drawn]

    fig = Figure(figsize=(style.WIDTH, 5.3), layout="constrained")
    top, ax = fig.subplots(2, height_ratios=(0.13, 1))
    _shares(top, diagnostics)
    top.set_title(f"{exposure} → {outcome}: {drawn.sum():,} of {len(effects):,} sequences")

    middle, tau2 = float(overall["estimate"]), float(overall["tau2"])
    deepest = 1.06 * float(np.quantile(se, 0.99) if se.size > 50 else se.max())
    depth = np.linspace(0, deepest, 200)
    left, right = _window(estimate, middle, _Z * deepest)
    ax.axvline(0, color=style.MUTED, linewidth=0.8, zorder=1)
    if np.isfinite(middle):
        _limits(ax, middle, depth, tau2)
    size = 15 if estimate.size <= 300 else 4
    for (colour, strong, _), chosen in _classes(estimate, lfsr).items():
        ax.scatter(
            estimate[chosen],
            se[chosen],
            s=size if strong else 0.8 * size,
            color=colour,
            alpha=0.85 if strong else 0.6,
            linewidths=0,
            zorder=3 if strong else 2,
            rasterized=estimate.size > RASTER_LIMIT,
        )
    ax.scatter(
        estimate[influential],
        se[influential],
        s=46,
        facecolors="none",
        edgecolors=style.INK,
        linewidths=0.9,
        zorder=4,
    )
    outside = int(((estimate < left) | (estimate > right) | (se > deepest)).sum())
    label = f"effect on {outcome} per unit of {exposure} ({effect_scale})"
    if outside:
        label += f"; {outside:,} not in the panel"
    ax.set(xlabel=label, ylabel="standard error", xlim=(left, right), ylim=(deepest, 0))
    fig.legend(
        handles=_handles(estimate, lfsr, int(influential.sum()), middle, tau2),
        loc="outside lower center",
        ncols=2,
    )
    return fig


def _classes(
    estimate: NDArray[np.float64], lfsr: NDArray[np.float64]
) -> dict[tuple[str, bool, str], NDArray[np.bool_]]:
    """Return by colour, whether strong, and label which points are drawn so."""
    known = np.isfinite(lfsr)
    sure = known & (lfsr < SURE)
    found = {}
    for sign, of_sign in (("positive", estimate > 0), ("negative", estimate <= 0)):
        colour = style.SIGN_COLOURS[sign]
        found[colour, True, f"{sign}, sure (lfsr < {SURE:g})"] = of_sign & sure
        found[style.pale(colour), False, f"{sign}, not sure"] = of_sign & known & ~sure
    found[style.MUTED, False, "no local false sign rate"] = ~known
    return {key: chosen for key, chosen in found.items() if chosen.any()}


def _limits(ax: Axes, middle: float, depth: NDArray[np.float64], tau2: float) -> None:
    """Draw the global estimate and the pseudo 95 % limits around it."""
    if tau2 > 0:
        spread = _Z * np.sqrt(depth * depth + tau2)
        ax.fill_betweenx(
            depth, middle - spread, middle + spread, color=style.INK, alpha=0.07, linewidth=0
        )
    ax.axvline(middle, color=style.INK, linewidth=1.1, zorder=3.5)
    for side in (-1, 1):
        ax.plot(
            middle + side * _Z * depth,
            depth,
            color=style.INK,
            linewidth=0.9,
            linestyle=(0, (4, 2)),
            zorder=3.5,
        )


def _shares(ax: Axes, diagnostics: Mapping[str, Any] | pd.Series) -> None:
    """Draw the shares of sequences with a negative, no and a positive effect as one bar."""
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(-0.1, 1))
    shares = {sign: float(diagnostics[f"share_{sign}"]) for sign in _SHARES}
    if not np.isfinite(list(shares.values())).all():
        reason = diagnostics["reason"]
        why = f": {reason}" if isinstance(reason, str) and reason else ""
        ax.text(0, 0.5, f"No shares of effects{why}", color=style.MUTED, fontsize=8, va="center")
        return
    start = 0.0
    for sign, share in shares.items():
        ax.barh(0.2, share, left=start, height=0.4, color=_SHARES[sign], linewidth=0)
        start += share
    words = {"negative": "negative", "zero": "no effect", "positive": "positive"}
    for at, side, (sign, share) in zip(
        (0.0, 0.5, 1.0), ("left", "center", "right"), shares.items(), strict=True
    ):
        sd = float(diagnostics[f"share_{sign}_sd"])
        plus = f" ± {100 * sd:.0f}" if np.isfinite(sd) else ""
        ax.text(
            at,
            0.52,
            f"{words[sign]} {100 * share:.0f}{plus} %",
            fontsize=8,
            ha=side,
            va="bottom",
        )


def _handles(
    estimate: NDArray[np.float64],
    lfsr: NDArray[np.float64],
    influential: int,
    middle: float,
    tau2: float,
) -> list[Line2D]:
    """Return what the legend explains: only what is drawn."""
    plain: dict[str, Any] = {"linestyle": "none", "marker": "o", "markeredgewidth": 0}
    handles = [
        Line2D([], [], color=colour, markersize=4.5, label=f"{label}: {chosen.sum():,}", **plain)
        for (colour, _, label), chosen in _classes(estimate, lfsr).items()
    ]
    if influential:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=7,
                markerfacecolor="none",
                markeredgecolor=style.INK,
                label=f"influential: {influential:,}",
            )
        )
    if np.isfinite(middle):
        handles += [
            Line2D([], [], color=style.INK, linewidth=1.1, label=f"global effect  {middle:.2f}"),
            Line2D(
                [],
                [],
                color=style.INK,
                linewidth=0.9,
                linestyle=(0, (4, 2)),
                label="95 % if τ² were 0",
            ),
        ]
    if np.isfinite(middle) and tau2 > 0:
        handles.append(
            Line2D(
                [],
                [],
                color=style.INK,
                alpha=0.12,
                linewidth=7,
                label=f"95 % with τ² = {tau2:.2g}",
            )
        )
    return handles


def _window(estimate: NDArray[np.float64], middle: float, spread: float) -> tuple[float, float]:
    """Return the limits of the effect axis: 99 % of the estimates, 0 and the global effect."""
    ends = np.quantile(estimate, [0.005, 0.995]) if estimate.size > 50 else estimate
    must = [0.0, float(np.min(ends)), float(np.max(ends))]
    if np.isfinite(middle):
        must += [middle - 0.5 * spread, middle + 0.5 * spread]
    low, high = min(must), max(must)
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad
