from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, Rectangle

from deepmr.figures import style
from deepmr.figures.network import network
from deepmr.figures.network_graph import WEAK, Graph
from deepmr.figures.network_matrix import number
from deepmr.schemas import NETWORK

TARGETS = ("GATA1", "NRF1", "JUND", "open", "unused")


def edge(exposure, outcome, estimate, *, significant=False, decoy=np.nan, **changes):
    forward = outcome == "open"
    return (
        dict.fromkeys(NETWORK.names)
        | {
            "model": "net",
            "pair": f"{exposure}_{outcome}" if forward else f"{outcome}_{exposure}",
            "direction": "forward" if forward else "reverse",
            "exposure": exposure,
            "outcome": outcome,
            "control": False,
            "estimate": estimate,
            "ci_low": estimate - 0.1,
            "ci_high": estimate + 0.2,
            "decoy_estimate": decoy,
            "significant": significant,
            "flag": "",
            "status": "ok",
        }
        | changes
    )


def table(*rows):
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def edges():
    return table(
        edge("GATA1", "open", 0.9, significant=True, decoy=0.034),
        edge("open", "GATA1", 0.02),
        edge("NRF1", "open", -0.004, decoy=-0.01, control=True),
        edge("open", "NRF1", 0.01, control=True),
        edge("JUND", "open", 0.3, significant=True, decoy=0.0, flag="both_directions"),
        edge("open", "JUND", -0.6, significant=True, flag="both_directions,not_conditional"),
    )


def drawn(edges, targets=TARGETS, **options):
    return network(edges, targets, fdr=0.05, **options)


def words(fig):
    found = [t.get_text() for t in fig.texts]
    found += [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.xaxis.label)]
    return found + [t.get_text() for legend in fig.legends for t in legend.get_texts()]


def arrows(fig):
    patches = [p for p in fig.axes[0].patches if isinstance(p, FancyArrowPatch)]
    return {p.get_gid(): p for p in patches if p.get_gid()}


def cells(fig):
    return [p for p in fig.axes[1].patches if isinstance(p, Rectangle) and p.get_linewidth()]


def test_arrows_tell_sign_size_and_significance(edges):
    fig = drawn(edges)
    found = arrows(fig)
    assert set(found) == {f"edge-{e.exposure}-{e.outcome}" for e in edges.itertuples()}
    colours = {name: patch.get_edgecolor()[:3] for name, patch in found.items()}
    assert colours["edge-GATA1-open"] == to_rgb(style.SIGN_COLOURS["positive"])
    assert colours["edge-open-JUND"] == to_rgb(style.SIGN_COLOURS["negative"])
    weak = [name for name in colours if colours[name] == to_rgb(WEAK)]
    assert sorted(weak) == ["edge-NRF1-open", "edge-open-GATA1", "edge-open-NRF1"]
    widths = {name: patch.get_linewidth() for name, patch in found.items()}
    assert widths["edge-GATA1-open"] > widths["edge-open-JUND"] > widths["edge-JUND-open"]
    assert widths["edge-JUND-open"] > widths["edge-open-GATA1"]


def test_an_arrow_significant_both_ways_is_broken_and_the_legend_says_why(edges):
    fig = drawn(edges)
    gaps = [p for p in fig.axes[0].patches if isinstance(p, FancyArrowPatch) and not p.get_gid()]
    found = arrows(fig)
    both = [found["edge-JUND-open"], found["edge-open-JUND"]]
    assert [p._posA_posB for p in gaps] == [p._posA_posB for p in both]
    assert all(p.get_linestyle() != "-" for p in gaps)
    said = words(fig)
    assert "both significant: direction not identified" in said
    one_way = words(drawn(edges.assign(flag="")))
    assert not any("not identified" in text for text in one_way)


def curve(arrow):
    """Return points along an arrow, in inches."""
    start, control, end = arrow.get_path().vertices[:3]
    t = np.linspace(0, 1, 41)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end


@pytest.mark.parametrize("count", [2, 3, 4, 6, 9, 12])
def test_the_two_arrows_of_a_pair_run_apart_and_behind_no_other_node(count):
    names = [f"mark{i}" for i in range(count)]
    pairs = [
        (a, b) for a, b in itertools.combinations(names, 2) if a in (names[0], names[2 % count])
    ]
    rows = [edge(*ends, 0.1) for a, b in pairs for ends in ((a, b), (b, a))]
    found = arrows(drawn(table(*rows), names))
    graph = Graph.of(names)
    for a, b in pairs:
        there, back = (curve(found[f"edge-{x}-{y}"]) for x, y in ((a, b), (b, a)))
        assert np.hypot(*(there[20] - back[20])) > 0.06
        for name in set(names) - {a, b}:
            x, y = graph.nodes[name]
            for path in (there, back):
                inside = np.abs(path[:, 0] - x) < graph.node_width[name] / 2
                assert not (inside & (np.abs(path[:, 1] - y) < 0.145)).any(), (a, b, name)


@pytest.mark.parametrize("count", range(2, 13))
def test_nodes_do_not_overlap(count):
    names = [f"H3K27ac_{i}" for i in range(count)]
    graph = Graph.of(names)
    for a, b in itertools.combinations(names, 2):
        (x1, y1), (x2, y2) = graph.nodes[a], graph.nodes[b]
        wide = (graph.node_width[a] + graph.node_width[b]) / 2
        assert abs(x1 - x2) > wide or abs(y1 - y2) > 0.3
    for name, (x, y) in graph.nodes.items():
        half = graph.node_width[name] / 2
        assert half <= x <= graph.width - half
        assert 0.15 <= y <= graph.height - 0.15


def test_cells_hold_estimate_interval_and_decoy(edges):
    fig = drawn(edges)
    said = words(fig)
    for text in ("0.90", "0.80 to 1.10", "decoy 0.03", "−0.60", "−0.70 to −0.40", "decoy −0.01"):
        assert text in said
    assert "0.00" in said  # the control, and no −0.00
    assert sum(text.startswith("decoy ") for text in said) == 3
    framed = [p for p in cells(fig) if p.get_edgecolor()[:3] == to_rgb(style.INK)]
    assert len(cells(fig)) == 6
    assert len(framed) == 3
    for name in TARGETS[:4]:
        assert said.count(name) == 3  # node, row, column
    assert "unused" not in said


def test_colours_are_white_at_0_and_full_at_the_largest_significant_effect(edges):
    wild = edges.copy()
    wild.loc[1, "estimate"] = 40.0
    for rows in (edges, wild):
        by_place = {
            (round(p.get_x(), 2), round(p.get_y(), 2)): p.get_facecolor()[:3]
            for p in cells(drawn(rows))
        }
        colours = list(by_place.values())
        assert any(np.allclose(c, to_rgb(style.pale(style.BLUE)), atol=0.01) for c in colours)
        red = [c for c in colours if c[0] > c[2] + 0.1]
        assert len(red) == 1
        assert any(min(c) > 0.97 for c in colours)
    pointed = drawn(wild).axes[2]
    assert "global effect (probability)" in words(drawn(edges, effect_scale="probability"))
    assert len(pointed.patches) > len(drawn(edges).axes[2].patches)


def test_letters_stand_for_what_the_notes_say(edges):
    fig = drawn(edges)
    notes = [t.get_text() for t in fig.texts]
    assert notes[0].startswith(
        "Framed: significant. Width of an arrow: size of the effect, at most"
    )
    assert "at most 0.90" in " ".join(notes)
    assert "a  both directions significant: direction not identified" in notes
    assert any(note.startswith("b  significant alone, but not given") for note in notes)
    assert "c  configured as a negative control" in notes
    letters = [t.get_text() for t in fig.axes[1].texts if t.get_fontstyle() == "italic"]
    assert sorted(filter(None, letters)) == ["a", "ab", "c", "c"]


def test_what_nothing_is_known_of_has_its_status_and_no_arrow(edges):
    rows = edges.copy()
    rows.loc[0, ["estimate", "ci_low", "ci_high", "decoy_estimate"]] = np.nan
    rows.loc[0, ["significant", "status"]] = [False, "no_sequences"]
    fig = drawn(rows)
    assert "edge-GATA1-open" not in arrows(fig)
    assert "no sequences" in words(fig)
    assert not any("nan" in text for text in words(fig))


def test_infinite_intervals_and_large_numbers_are_written():
    assert [number(x) for x in (np.inf, -np.inf, np.nan)] == ["∞", "−∞", "–"]
    assert [number(x) for x in (-0.001, 12.345, -1234.5)] == ["0.00", "12.35", "−1234"]


def test_without_anything_significant_the_largest_effect_has_the_fullest_colour(edges):
    fig = drawn(edges.assign(significant=False, flag=""))
    assert "No effect is significant." in " ".join(words(fig))
    assert "positive effect" not in words(fig)
    assert "not significant (FDR above 5 %)" in words(fig)
    assert "0.90" in [t.get_text() for t in fig.axes[2].get_xticklabels()]


def test_nothing_to_draw_is_said(edges):
    for rows in (edges.assign(estimate=np.nan), edges.head(0)):
        fig = drawn(rows)
        assert not fig.axes
        assert "No pair has a global effect" in fig.texts[0].get_text()


def test_an_arrow_asked_for_by_two_pairs_is_drawn_once(edges):
    again = edge("open", "GATA1", 0.44, direction="forward", pair="open_GATA1", decoy=0.21)
    fig = drawn(table(*edges.to_dict("records"), again))
    assert "0.44" in words(fig)
    assert "0.02" not in words(fig)
    assert "decoy 0.21" in words(fig)
    assert "Asked by two pairs" in " ".join(words(fig))
    assert "open → GATA1" in " ".join(words(fig))
    assert len(arrows(fig)) == 6


@pytest.mark.parametrize("count", [2, 3, 5, 6, 12])
def test_everything_is_inside_the_figure_however_many_targets(count):
    names = [f"H3K4me3_K562_{i}" for i in range(count - 1)]
    everything = "both_directions,decoy_differs_from_zero,not_beyond_decoy,not_conditional"
    rows = [
        edge(*ends, -0.8, significant=True, decoy=-0.44, control=True, flag=everything)
        for name in names
        for ends in ((name, "open"), ("open", name))
    ]
    fig = drawn(table(*rows), [*names, "open"])
    canvas = FigureCanvasAgg(fig)
    with mpl.rc_context(style.RC):
        canvas.draw()
    renderer = canvas.get_renderer()
    for text in [*fig.texts, *(t for ax in fig.axes for t in ax.texts), *fig.legends]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1, text
        assert box.x1 <= fig.bbox.x1 + 1, text
        assert box.y0 >= -1, text
        assert box.y1 <= fig.bbox.y1 + 1, text
    wide, high = fig.get_size_inches()
    assert 5 < wide < 14
    assert 2 + 0.6 * count < high < 8 + 0.6 * count


def test_files_are_the_same_bytes_each_time(edges):
    assert style.render(drawn(edges), "svg") == style.render(drawn(edges), "svg")


def test_what_does_not_belong_together_is_named(edges):
    with pytest.raises(ValueError, match="edges of the models a, net; draw one"):
        drawn(edges.assign(model=["a"] + ["net"] * 5))
    with pytest.raises(ValueError, match=r"no target is called JUND; targets are GATA1, NRF1"):
        drawn(edges, ("GATA1", "NRF1", "open"))
