from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from deepmr.figures import deep_iv as module
from deepmr.figures import style
from deepmr.figures.deep_iv import deep_iv
from deepmr.report.deep_iv_tables import METHODS
from deepmr.schemas import DEEP_IV
from tests import toy_deep_iv, toy_meta, toy_report

EFFECTS = toy_meta.headline(toy_meta.complete(toy_report.meta(local=toy_report.mr())))
TABLE = toy_deep_iv.table()
ARROWS = [
    "GATA1 → open",
    "open → GATA1",
    "NRF1 → open",
    "open → NRF1",
    "JUND → open",
    "open → JUND",
]


def changed(pair, method, **values):
    table = TABLE.copy()
    row = (table["pair"] == pair) & (table["direction"] == "forward") & (table["method"] == method)
    for name, value in values.items():
        table.loc[row, name] = value
    return table


def words(fig):
    found = [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.xaxis.label)]
    found += [ax.get_title(loc="left") for ax in fig.axes]
    return found + [t.get_text() for legend in fig.legends for t in legend.get_texts()]


def points(ax, colour):
    """Return (estimate, hollow) of the markers of a colour, from the top."""
    lines = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
    chosen = [line for line in lines if to_rgb(line.get_color()) == to_rgb(colour)]
    chosen.sort(key=lambda line: line.get_ydata()[0])
    return [(line.get_xdata()[0], line.get_markerfacecolor() == "white") for line in chosen]


def pieces(ax, colour):
    """Return the intervals of a colour, from the top and from the left."""
    found = []
    for collection in ax.collections:
        for (left, y), (right, _) in collection.get_segments():
            if to_rgb(collection.get_colors()[0][:3]) == to_rgb(colour):
                found.append((round(y, 6), left, right))
    return [(left, right) for _, left, right in sorted(found)]


def test_each_panel_has_its_unit_and_all_arrows():
    fig = deep_iv(EFFECTS, TABLE)
    network, labels = fig.axes
    assert [t.get_text() for t in network.get_yticklabels()] == ARROWS
    assert [t.get_text() for t in labels.get_yticklabels()] == ARROWS
    assert network.get_ylim()[0] > network.get_ylim()[1]  # the first is on top
    assert network.get_xlabel() == "effect, 95 % interval (logit per logit)"
    assert labels.get_xlabel() == "effect, 95 % interval (probability per label)"
    only = TABLE[TABLE["source"] == "labels"]
    scaled = deep_iv(EFFECTS, only, effect_scale="probability").axes[0]
    assert scaled.get_xlabel() == "effect, 95 % interval (probability per probability)"


def test_points_and_intervals_are_those_of_the_tables():
    network, labels = deep_iv(EFFECTS, TABLE).axes
    assert [x for x, _ in points(network, style.INK)] == pytest.approx(list(EFFECTS["estimate"]))
    slopes = [values[1] for values in toy_deep_iv.SLOPES.values()]
    assert [x for x, _ in points(network, style.GREEN)] == pytest.approx(slopes)
    expected = EFFECTS[["ci_low", "ci_high"]].to_numpy()
    assert np.array(pieces(network, style.INK)) == pytest.approx(expected)
    assert points(labels, style.BLUE) == [(0.772, False), (0.016, False), (0.31, True)]
    assert points(labels, style.PURPLE)[-1] == (0.5, True)
    assert not any(hollow for _, hollow in points(labels, style.ORANGE))
    assert pieces(labels, style.SKY) == []  # estimates without an interval
    assert len(points(labels, style.SKY)) == 3
    said = words(deep_iv(EFFECTS, TABLE))
    assert said.count("no motif") == 3
    assert not any("nan" in text for text in said)


@pytest.mark.parametrize(
    ("kind", "low", "high", "drawn"),
    [
        ("interval", -0.18, 1.92, [(-0.18, 1.92)]),
        ("interval", 0.2, np.inf, [(0.2, np.inf)]),
        ("outside", -0.5, 0.7, [(-np.inf, -0.5), (0.7, np.inf)]),
        ("everything", -np.inf, np.inf, [(-np.inf, np.inf)]),
        ("empty", np.nan, np.nan, []),
    ],
)
def test_a_weak_instrument_is_drawn_with_its_anderson_rubin_set(kind, low, high, drawn):
    table = changed("JUND_open", "deep_iv", ar_kind=kind, ar_low=low, ar_high=high)
    labels = deep_iv(EFFECTS, table).axes[1]
    left, right = labels.get_xlim()
    assert right < 1.0  # a set of any size does not squeeze the others
    found = pieces(labels, style.BLUE)[2:]
    assert len(found) == len(drawn)
    for piece, ends in zip(found, drawn, strict=True):
        # an end beyond the panel may be drawn anywhere beyond it
        assert np.clip(piece, left, right) == pytest.approx(np.clip(ends, left, right))


def test_the_legend_explains_what_is_drawn():
    said = words(deep_iv(EFFECTS, TABLE))
    for label in ("MR", "one slope", "slope by context", "Deep IV", "naive network", "2SLS"):
        assert said.count(label) == 1
    assert "weak instrument: Anderson-Rubin set" in said
    strong = TABLE.assign(f=50.0)
    assert "weak instrument: Anderson-Rubin set" not in words(deep_iv(EFFECTS, strong))
    only = TABLE[TABLE["method"] == "deep_iv"]
    assert "2SLS" not in words(deep_iv(EFFECTS, only))


def test_labels_in_another_unit_have_their_own_panel():
    table = TABLE.copy()
    table.loc[(table["pair"] == "NRF1_open") & (table["source"] == "labels"), "unit"] = "log count"
    fig = deep_iv(EFFECTS, table)
    assert [ax.get_xlabel().split("(")[1] for ax in fig.axes] == [
        "logit per logit)",
        "probability per label)",
        "log count)",
    ]
    assert [t.get_text() for t in fig.axes[2].get_yticklabels()] == ARROWS[2:4]


def test_without_labels_there_is_the_network_alone():
    fig = deep_iv(EFFECTS, TABLE[TABLE["source"] == "model"])
    assert len(fig.axes) == 1
    alone = deep_iv(EFFECTS, pd.DataFrame(columns=DEEP_IV.names))
    assert [t.get_text() for t in alone.axes[0].get_yticklabels()] == ARROWS


def test_a_panel_in_which_all_is_weak_still_has_limits():
    weak = TABLE[(TABLE["method"] == "deep_iv")].assign(f=2.0, ar_kind="everything")
    left, right = deep_iv(EFFECTS, weak).axes[1].get_xlim()
    assert left < 0
    assert right > 0.772


def test_an_arrow_without_a_number_says_its_status():
    table = TABLE.copy()
    labels = (table["pair"] == "NRF1_open") & (table["source"] == "labels")
    table.loc[labels, ["estimate", "ci_low", "ci_high"]] = np.nan
    table.loc[labels, "status"] = "too_few_windows"
    assert words(deep_iv(EFFECTS, table)).count("too few windows") == 2


def test_the_methods_are_those_of_the_report():
    looks = {**module._ON_THE_NETWORK, **module._ON_LABELS}
    assert {method: look.label for method, look in looks.items() if method != "mr"} == METHODS


def test_slopes_of_several_models_are_an_error():
    other = TABLE[TABLE["source"] == "model"].assign(model="other")
    with pytest.raises(ValueError, match="slopes of the models cnn, other; draw one model at a"):
        deep_iv(EFFECTS, pd.concat([TABLE, other]))


def test_files_are_the_same_bytes_each_time():
    assert style.render(deep_iv(EFFECTS, TABLE), "svg") == style.render(
        deep_iv(EFFECTS, TABLE), "svg"
    )
