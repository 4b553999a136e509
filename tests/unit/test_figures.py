import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.collections import PathCollection
from scipy.special import expit, logit

from deepmr.figures import calibration, causal, prediction, style, uncertainty
from deepmr.schemas import UNCERTAINTY, replicates_schema
from deepmr.uncertainty import scores
from deepmr.uncertainty.replicates import errors_of, read_replicates
from deepmr.uncertainty.report import report
from tests import toy_report


def texts(fig):
    found = [t.get_text() for ax in fig.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    found += [ax.get_title(loc="left") for ax in fig.axes]
    found += [t.get_text() for ax in fig.axes for t in ax.texts]
    found += [fig.get_suptitle(), fig.get_supxlabel()]
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


@pytest.fixture(scope="module")
def global_rows():
    meta = toy_report.meta()
    return meta[
        (meta["method"] == "egger")
        & (meta["stratum"] == "all")
        & (meta["combination"] == "REML")
        & (meta["inference"] == "draw_wise")
        & meta["direction"].isin(["forward", "reverse"])
    ].reset_index(drop=True)


def test_global_effects_show_both_directions_and_the_truth(global_rows):
    rows = global_rows
    fig = causal.global_effects(rows)
    labels = [label.get_text() for label in fig.axes[0].get_yticklabels()]
    assert labels[:2] == ["GATA1 → open", "open → GATA1"]
    assert "simulated truth" not in texts(fig)
    known = rows.merge(toy_report.truth()[["exposure", "outcome", "marginal_slope"]])
    assert "simulated truth" in texts(causal.global_effects(known))


def test_an_estimate_without_an_interval_is_in_the_panel(global_rows):
    # The median of a single sequence.
    ends = ["ci_low", "ci_high", "pi_low", "pi_high"]
    rows = global_rows.assign(**dict.fromkeys(ends, np.nan), estimate=[3.0, -2.0] * 3)
    decoys = dict.fromkeys(("decoy_ci_low", "decoy_ci_high"), np.nan)
    rows = rows.assign(decoy_estimate=[5.0, np.nan] * 3, **decoys)
    low, high = causal.global_effects(rows).axes[0].get_xlim()
    assert low < -2
    assert high > 5


def test_a_decoy_stands_beneath_its_pair(global_rows):
    decoys = {f"decoy_{name}": np.nan for name in ("estimate", "ci_low", "ci_high")}
    rows = global_rows.assign(**decoys)
    for name, value in zip(decoys, (0.03, -2.5, 0.1), strict=True):
        rows.loc[(rows["direction"] == "forward") & (rows["pair"] != "NRF1_open"), name] = value
    fig = causal.global_effects(rows)
    ax = fig.axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    heights = dict(zip(labels, ax.get_yticks(), strict=True))
    assert sorted(labels, key=heights.get, reverse=True) == [
        "GATA1 → open",
        "open → GATA1",
        "decoy: GATA1 of other sequences",
        "NRF1 → open",
        "open → NRF1",
        "JUND → open",
        "open → JUND",
        "decoy: JUND of other sequences",
    ]
    assert sorted(heights.values()) == [-7, -6, -5, -4, -3, -2, -1, 0]
    points = np.concatenate(
        [c.get_offsets() for c in ax.collections if isinstance(c, PathCollection)]
    )
    assert [0.03, -2] in points.tolist()
    assert [rows["estimate"][5], heights["open → JUND"]] in points.tolist()
    assert ax.get_xlim()[0] < -2.5
    assert "decoy (negative control)" in texts(fig)
    assert "decoy" not in texts(causal.global_effects(rows.assign(decoy_estimate=np.nan)))


def test_uncertainty_draws_the_sd_of_probabilities():
    labels, _, draws = toy_report.predictions(60)
    fig = uncertainty.predictions(["GATA1", "NRF1"], draws[:, :, :2], labels[:, :2], windows=50)
    per_axis = [sum(len(c.get_offsets()) for c in ax.collections) for ax in fig.axes]
    assert per_axis == [50, 50]
    assert "SD over draws" in texts(fig)
    again = uncertainty.predictions(["GATA1", "NRF1"], draws[:, :, :2], labels[:, :2])
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


def distorted(n=4000, base=-3.5):
    """Return labels, the true logits, and logits that are too steep."""
    rng = np.random.default_rng(4)
    true = rng.normal(base, 1.6, n)
    return (rng.random(n) < expit(true)).astype(float), true, 2 * true + 3


def test_reliability_has_both_binnings_and_the_windows_of_each_label():
    labels, _, logits = distorted()
    labels[:10] = np.nan
    fig = calibration.reliability(labels, expit(logits), "GATA1", bins=10)
    upper, middle, lower = fig.axes
    assert upper.get_xlim() == middle.get_xlim()
    positive = int(np.nansum(labels))
    assert f"GATA1: {positive} of 3,990 test windows positive" in texts(fig)
    assert "equally many windows per bin" in upper.get_legend().get_title().get_text()
    assert "equally wide bins" in texts(fig)
    drawn = {patch.get_label(): patch.get_data() for patch in middle.patches}
    for label, number in (("label 0", 3990 - positive), ("label 1", positive)):
        counts = drawn[label].values
        assert counts[counts >= 1].sum() == number
    table = calibration.reliability_table(labels, expit(logits), 10)
    observed = next(line for line in upper.lines if line.get_label() == "observed")
    np.testing.assert_allclose(observed.get_xdata(), logit(table["predicted"]))
    some = table["observed"].between(0.001, 0.999)
    np.testing.assert_allclose(observed.get_ydata()[some], logit(table["observed"][some]))
    windows = [int(t.get_text().replace(",", "")) for t in lower.texts]
    assert sum(windows) == 3990


def test_reliability_marks_bins_of_one_label_and_copes_with_nothing():
    rare = calibration.reliability(np.zeros(300), np.linspace(0, 0.01, 300), "rare", bins=5)
    upper = rare.axes[0]
    assert np.isfinite([*upper.get_xlim(), *upper.get_ylim()]).all()
    hollow = next(line for line in upper.lines if line.get_label() == "one label only")
    np.testing.assert_allclose(expit(hollow.get_ydata()), 0.5 / 60)
    labels, _, logits = distorted(base=0)
    full = calibration.reliability(labels, expit(logits / 2 - 1.5), "open", bins=5)
    hollow = next(line for line in full.axes[0].lines if line.get_label() == "one label only")
    assert not hollow.get_xdata().size
    none = calibration.reliability(np.full(3, np.nan), np.full(3, 0.5), "none")
    assert style.render(none, "svg")


def metrics(**rows):
    keys = ("ece", "ece_null_low", "ece_null_high")
    keys += ("cox_slope", "cox_slope_null_low", "cox_slope_null_high")
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(keys))
    return table.rename_axis("calibrator").reset_index()


def test_calibrators_show_the_same_windows_before_and_after():
    labels, true, logits = distorted()
    why = "Not fitted: too few positives (7 of 900 validation windows)."
    fig = calibration.calibrators(
        labels,
        {"none": expit(logits), "platt": expit(true), "centred_isotonic": why},
        metrics(
            none=(0.0213, 0.002, 0.006, 0.55, 0.92, 1.08),
            platt=(0.0041, 0.002, 0.006, 1.01, 0.92, 1.08),
        ),
        "GATA1",
    )
    shown = [ax for ax in fig.axes if ax.get_visible()]
    titles = [ax.get_title(loc="left") for ax in shown]
    assert titles == ["as predicted (none)", "platt", "centred isotonic"]
    before, after, missing = (" ".join(t.get_text() for t in ax.texts) for ax in shown)
    assert before == "ECE 0.0213* (0.0020–0.0060)\nCox slope 0.55* (0.92–1.08)"
    assert after == "ECE 0.0041 (0.0020–0.0060)\nCox slope 1.01 (0.92–1.08)"
    assert missing.replace("\n", " ") == why
    assert len({ax.get_xlim() for ax in shown}) == 1
    assert shown[0].get_xlim() == shown[0].get_ylim()
    distance = [
        np.abs(line.get_xdata() - line.get_ydata())[-4:].mean()
        for ax in shown[:2]
        for line in ax.lines
        if line.get_label() == "observed"
    ]
    assert distance[1] < 0.4 < 0.8 < distance[0]
    assert not shown[2].lines
    assert "GATA1" in texts(fig)
    assert "before and after calibrators" in texts(fig)


def test_a_calibrator_without_its_metrics_is_named():
    labels, _, logits = distorted(300)
    with pytest.raises(ValueError, match=r"0 rows of the calibrator 'none'.*calibrate_prob"):
        calibration.calibrators(
            labels, {"none": expit(logits)}, metrics(beta=(0, 0, 0, 1, 1, 1)), "GATA1"
        )


@pytest.mark.parametrize(("low", "high"), [(-14, 14), (-14, -4), (-9, 1), (-3, 3), (0, 0)])
@pytest.mark.parametrize("gap", [0.08, 0.2])
def test_ticks_of_a_logit_axis_lie_inside_it_and_apart(low, high, gap):
    ax = style.note("").subplots()
    calibration._limits(ax, "x", (low, high), gap)
    ticks = ax.get_xticks()
    assert ticks.size
    assert ((ticks >= low - 0.4) & (ticks <= high + 0.4)).all()
    assert (np.diff(ticks) >= gap * (high - low + 0.8)).all()
    written = [ax.xaxis.get_major_formatter()(tick) for tick in ticks]
    assert len(set(written)) == ticks.size
    for tick, text in zip(ticks, written, strict=True):
        power = text.removeprefix("1−")
        p = {"10⁻⁶": 1e-6, "10⁻⁵": 1e-5, "10⁻⁴": 1e-4}.get(power) or float(power)
        assert expit(tick) == pytest.approx(1 - p if text.startswith("1−") else p, rel=1e-3)


def replicates(members=4, truth=True, ensemble=False, se=1.0):
    """Return 800 effects of size 0.001 to 2; the larger, the larger their errors and SEs."""
    rng = np.random.default_rng(6)
    sequence = np.repeat(np.arange(20), 40)
    true = rng.choice([-1, 1], 800) * 10 ** rng.uniform(-3, 0.3, 800)
    sd = 0.02 + 0.2 * np.abs(true)
    effects = true[:, None] + sd[:, None] * rng.normal(size=(800, members))
    own = np.broadcast_to(se * sd[:, None], effects.shape).copy()
    target = {"reference": effects.tolist(), "effect": effects.tolist()}
    target |= {"se": None if ensemble else own.tolist(), "truth": true if truth else None}
    rows = {
        "sequence_id": [f"chr5:{i:02d}" for i in sequence],
        "position": np.tile(np.arange(40), 20),
        "ref": ["A"] * 800,
        "alt": ["C"] * 800,
        "GATA1": pd.DataFrame(target).to_dict("records"),
    }
    return read_replicates(pa.table(rows, schema=replicates_schema(["GATA1"])))


def judged(of, method="mc_dropout"):
    rows = report(of, model="cnn", method=method, draws=40, seed=1)
    return pa.Table.from_pandas(rows, UNCERTAINTY, preserve_index=False).to_pandas()


def test_standard_errors_draw_what_the_table_says_of_both_references():
    of = replicates(se=0.5)
    table = judged(of)
    fig = uncertainty.standard_errors(of, "GATA1", table)
    upper, middle, lower = fig.axes
    lines = {line.get_label(): line for line in upper.lines}
    for name, (_, row) in zip(
        ("retrained networks", "simulated truth"), table.iterrows(), strict=True
    ):
        np.testing.assert_allclose(lines[name].get_xdata(), row["levels"])
        np.testing.assert_allclose(lines[name].get_ydata(), row["coverage"])
        scaled = lines[f"same, SE × {row['se_scale']:.2f}, other half"]
        np.testing.assert_allclose(scaled.get_ydata(), row["coverage_scaled"])
        assert f"{name}: ZMS {row['zms']:.2f} (95 % {row['zms_low']:.2f}" in texts(fig)
        assert lines[name].get_ydata()[-1] < 0.9  # SEs of half the size: intervals too narrow
    beyond = middle.get_xlabel().split(": ")[1].split(", ")
    for bars, outside in zip(middle.patches, beyond, strict=True):
        heights, edges, _ = bars.get_data()
        inside = float(heights @ np.diff(edges))
        assert inside == pytest.approx(1 - float(outside.rstrip("%")) / 100, abs=0.001)
    assert "standard normal: what z should follow" in texts(fig)
    assert "GATA1: share of intervals that hold" in texts(fig)
    assert int(lower.collections[0].get_array().sum()) == 800
    median = next(line for line in lower.lines if line.get_label() == "running median")
    np.testing.assert_allclose(median.get_ydata(), 0.01 + 0.1 * median.get_xdata(), rtol=0.35)


def test_standard_errors_of_one_network_are_shown_with_the_reason_why_they_are_not_judged():
    of = replicates(members=1, truth=False)
    fig = uncertainty.standard_errors(of, "GATA1", judged(of))
    assert len(fig.axes) == 1
    said = texts(fig).replace("\n", " ")
    assert "GATA1: SE and size of the effect" in said
    assert "nothing to hold these standard errors against" in said
    assert "models.<name>.members" in said


@pytest.mark.parametrize("method", ["mc_dropout", "ensemble", "ensemble_mc_dropout"])
def test_the_errors_drawn_are_those_of_the_table(method):
    of = replicates(ensemble=method == "ensemble")
    table = judged(of, method)
    assert list(table["reference"]) == ["retrained", "truth"]
    for row in table.to_dict("records"):
        errors = errors_of(of, "GATA1", row["reference"], method)
        np.testing.assert_allclose(scores.coverage(errors), row["coverage"])
        assert scores.zms(errors) == pytest.approx(row["zms"])
        assert scores.rmse(errors) == pytest.approx(row["rmse"])
    fig = uncertainty.standard_errors(of, "GATA1", table)
    t = "Student's t" in texts(fig)
    assert t == any(
        np.isfinite(np.median(errors_of(of, "GATA1", reference, method).df))
        for reference in table["reference"]
    )


def test_an_ensemble_of_two_is_held_against_the_truth_only():
    of = replicates(members=2, ensemble=True)
    fig = uncertainty.standard_errors(of, "GATA1", judged(of, "ensemble"))
    assert "retrained networks" not in fig.axes[0].get_legend_handles_labels()[1]
    assert "simulated truth" in texts(fig)
    assert "an ensemble of two cannot predict a member" in texts(fig).replace("\n", " ")


def test_standard_errors_count_the_mutations_that_a_log_axis_cannot_hold():
    of = replicates(members=1, truth=False)
    of.effects["GATA1"][:7] = 0
    fig = uncertainty.standard_errors(of, "GATA1", judged(of))
    assert "7 of 800 mutations not drawn" in texts(fig)
    of.se["GATA1"][:] = 0
    fig = uncertainty.standard_errors(of, "GATA1", judged(of))
    assert "no mutation has an effect and an SE" in texts(fig)
    with pytest.raises(ValueError, match=r"no row of GATA1; run the rule calibrate_uncertainty"):
        uncertainty.standard_errors(of, "GATA1", judged(of).head(0))


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
        uncertainty.predictions(["A"], np.zeros((5, 1, 1)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match="with 2 targets"):
        uncertainty.predictions(["A", "B"], np.zeros((5, 3, 1)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match=r"labels have the shape \(4, 1\), not \(5, 1\)"):
        uncertainty.predictions(["A"], np.zeros((5, 3, 1)), np.zeros((4, 1)))
    with pytest.raises(ValueError, match="lacks the columns train_loss"):
        prediction.learning_curves(toy_report.history().drop(columns="train_loss"))


def test_a_mean_square_that_a_few_mutations_make_is_not_printed_with_all_its_digits():
    of = replicates(se=0.5)
    of.se["GATA1"][::200] *= 1e-5
    table = judged(of)
    assert (table["zms"] > 1000).all()
    said = texts(uncertainty.standard_errors(of, "GATA1", table))
    assert "retrained networks: ZMS > 100" in said
    assert "the scale is then the RMS error over the RMS SE" in said.replace("\n", " ")
