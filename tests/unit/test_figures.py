import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from deepmr.figures import causal, prediction, style
from tests import toy_report


def texts(fig):
    found = [t.get_text() for ax in fig.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    found += [ax.get_title(loc="left") for ax in fig.axes]
    legends = [*fig.legends, *[ax.get_legend() for ax in fig.axes if ax.get_legend()]]
    found += [t.get_text() for legend in legends for t in legend.get_texts()]
    return " | ".join(found)


@pytest.fixture(scope="module")
def local():
    rows = toy_report.mr()
    chosen = (rows["pair"] == "GATA1_open") & (rows["direction"] == "forward")
    return rows[chosen & (rows["method"] == "egger")]


OVERALL = {"estimate": 0.93, "ci_low": 0.81, "ci_high": 1.05, "pi_low": 0.6, "pi_high": 1.3}


def forest(rows, **options):
    return causal.forest(rows, OVERALL, exposure="GATA1", outcome="open", **options)


def test_files_are_the_same_bytes_each_time_whatever_the_users_settings(tmp_path, local):
    first = style.save(forest(local), tmp_path / "new" / "a.svg").read_bytes()
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.grid": False}):
        second = style.save(forest(local), tmp_path / "b.svg").read_bytes()
    assert first == second
    assert b"<dc:date>" not in first
    for suffix in ("png", "pdf"):
        one, two = (style.save(forest(local), tmp_path / f"{i}.{suffix}") for i in "12")
        assert one.read_bytes() == two.read_bytes()
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="cannot write a figure as 'tiff'; use one of svg, png"):
        style.save(forest(local), tmp_path / "a.tiff")


def test_a_method_has_one_colour_apart_from_the_named_ones():
    assert style.method_colour("egger") == style.BLUE
    assert style.method_colour("raps") == style.method_colour("raps")
    assert style.method_colour("raps") not in style.METHOD_COLOURS.values()


def test_forest_names_few_sequences_and_draws_many_as_a_caterpillar(local):
    few = local[local["status"] == "ok"].head(5)
    axes = forest(few, truth={"marginal slope": 0.95}).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "all"
    assert names[1:] == list(few.sort_values("estimate")["sequence_id"])
    fig = forest(local)
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["all"]
    n_ok = (local["status"] == "ok").sum()
    assert f"{n_ok} of 100 sequences" in texts(fig)
    assert "bound | unbound | global" in texts(fig)
    assert "marginal slope  0.95" in texts(forest(few, truth={"marginal slope": 0.95}))


def test_forest_keeps_the_global_effect_in_sight_of_a_wild_interval(local):
    wild = local.copy()
    wild.loc[wild.index[0], ["estimate", "ci_low", "ci_high", "status"]] = [0.5, -900, 900, "ok"]
    low, high = forest(wild).axes[0].get_xlim()
    assert -3 < low < 0.0
    assert 1.3 < high < 4


def test_forest_thins_thousands_and_survives_none(local):
    many = pd.concat([local[local["status"] == "ok"]] * 30, ignore_index=True)
    assert len(many) > causal.CATERPILLAR_LIMIT
    assert "(1,000 drawn)" in texts(forest(many))
    nothing = dict.fromkeys(OVERALL, np.nan)
    none = local[local["status"] != "ok"]
    fig = causal.forest(none, nothing, exposure="X", outcome="Y")
    assert f"X → Y: 0 of {len(none)} sequences" in texts(fig)
    assert style.render(fig, "png").startswith(b"\x89PNG")


def test_representative_is_the_median_sequence(local):
    ok = local[local["status"] == "ok"].sort_values("estimate")
    assert causal.representative(local) == ok["sequence_id"].iloc[(len(ok) - 1) // 2]
    with pytest.raises(ValueError, match="none of 3 sequences has an estimate"):
        causal.representative(local.head(3).assign(status="no_motif_hit"))


def test_mr_scatter_orients_instruments_and_draws_every_line():
    lines = pd.DataFrame(
        {
            "method": ["egger", "ivw", "weighted_median"],
            "estimate": [0.9, 0.95, np.nan],
            "intercept": [0.1, np.nan, np.nan],
        }
    )
    bx, by, sx, sy = toy_report.instruments()
    bx[0] = np.nan
    fig = causal.mr_scatter(
        bx,
        by,
        sx,
        sy,
        lines,
        exposure="GATA1",
        outcome="open",
        sequence_id="chr5:1-200",
        references={"true slope": 1.0},
    )
    ax = fig.axes[0]
    drawn = {line.get_label(): line for line in ax.lines}
    points = next(c for c in ax.containers).lines[0]
    assert (points.get_xdata() > 0).all()
    assert len(points.get_xdata()) == 41
    np.testing.assert_allclose(
        np.sort(points.get_ydata() / points.get_xdata()), np.sort((by / bx)[1:])
    )
    assert drawn["egger  0.90"].get_ydata()[0] == pytest.approx(0.1)
    assert drawn["ivw  0.95"].get_ydata()[0] == 0
    assert "true slope  1.00" in drawn
    assert not any("median" in label for label in drawn)
    assert "chr5:1-200  (41 instruments)" in texts(fig)


def test_global_effects_show_both_directions_and_the_truth():
    meta = toy_report.meta()
    rows = meta[
        (meta["method"] == "egger")
        & (meta["stratum"] == "all")
        & (meta["combination"] == "REML")
        & (meta["inference"] == "draw_wise")
    ]
    fig = causal.global_effects(rows)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels[:2] == ["GATA1 → open", "open → GATA1"]
    assert "simulated truth" not in texts(fig)
    known = rows.merge(toy_report.truth()[["exposure", "outcome", "marginal_slope"]])
    assert "simulated truth" in texts(causal.global_effects(known))


def test_uncertainty_draws_the_sd_of_probabilities():
    labels, _, draws = toy_report.predictions(60)
    fig = prediction.uncertainty(["GATA1", "NRF1"], draws[:, :, :2], labels[:, :2], windows=50)
    per_axis = [sum(len(c.get_offsets()) for c in ax.collections) for ax in fig.axes]
    assert per_axis == [50, 50]
    assert "SD over draws" in texts(fig)
    again = prediction.uncertainty(["GATA1", "NRF1"], draws[:, :, :2], labels[:, :2])
    assert style.render(fig, "svg") == style.render(again, "svg")
    shown = np.concatenate([c.get_offsets() for c in fig.axes[0].collections])
    p = 1 / (1 + np.exp(-draws[:, :, 0]))
    wanted = np.column_stack([p.mean(1), p.std(1, ddof=1)])
    distance = np.abs(shown[:, None] - wanted[None]).sum(2).min(1)
    assert distance.max() < 1e-12


def test_roc_lists_targets_by_area_and_names_the_one_without():
    labels, logits, _ = toy_report.predictions(400)
    labels[:, 2] = 0
    fig = prediction.roc(labels, logits, toy_report.TARGETS)
    assert "JUND: one class only" in texts(fig)
    areas = [float(t.get_text().split()[1]) for t in fig.legends[0].get_texts()[:3]]
    assert areas == sorted(areas, reverse=True)
    assert min(areas) > 0.8


def test_reliability_has_both_binnings_and_copes_with_empty_bins():
    labels, logits, _ = toy_report.predictions(2000)
    p = 1 / (1 + np.exp(-logits))
    fig = prediction.reliability(labels[:, 0], p[:, 0], "GATA1")
    assert len(fig.axes) == 2
    assert "equally many windows per bin" in texts(fig)
    assert "equally wide bins" in texts(fig)
    rare = prediction.reliability(np.zeros(300), np.linspace(0, 0.01, 300), "rare")
    x0, x1 = rare.axes[0].get_xlim()
    assert np.isfinite([x0, x1]).all()
    none = prediction.reliability(np.full(3, np.nan), np.full(3, 0.5), "none")
    assert style.render(none, "svg")


def test_histogram_gives_each_label_its_own_share():
    fig = prediction.histogram(np.array([1, 1, 0, np.nan]), np.array([0.9, 0.91, 0.1, 0.5]), "A")
    up, down = fig.axes[0].containers
    assert sum(bar.get_height() for bar in up) == pytest.approx(1)
    assert sum(bar.get_height() for bar in down) == pytest.approx(-1)
    assert "label 1 (2 windows)" in texts(fig)


def test_learning_curves_mark_the_kept_epoch():
    history = toy_report.history()
    fig = prediction.learning_curves(history)
    assert len(fig.axes) == 2
    dots = [c.get_offsets()[0] for c in fig.axes[0].collections]
    for member, dot in enumerate(dots):
        rows = history[history["member"] == member]
        assert dot[0] == rows.loc[rows["validation_loss"].idxmin(), "epoch"]
    plain = history[["member", "epoch", "train_loss", "validation_loss"]]
    assert len(prediction.learning_curves(plain).axes) == 1


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 2"):
        prediction.uncertainty(["A"], np.zeros((5, 1, 1)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match="with 2 targets"):
        prediction.uncertainty(["A", "B"], np.zeros((5, 3, 1)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"labels have the shape \(4, 1\), not \(5, 1\)"):
        prediction.uncertainty(["A"], np.zeros((5, 3, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="lacks the columns train_loss"):
        prediction.learning_curves(toy_report.history().drop(columns="train_loss"))
