from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from scipy.special import expit

from deepmr.calibration.fitting import fit_targets
from deepmr.calibration.maps import Affine, Identity
from deepmr.calibration.parameters import read_calibrators, to_table
from deepmr.calibration.reliability import reliability
from deepmr.calibration.report import report
from deepmr.effects import Response
from deepmr.figures import sets, style
from deepmr.held_out import HeldOut
from deepmr.meta.tables.network import network
from deepmr.meta.tables.summary import headline, summarise
from deepmr.mr.shard import shard_instruments
from deepmr.schemas import META_DIAGNOSTICS, SEQUENCE_EFFECTS, replicates_schema
from deepmr.shards.membership import members
from deepmr.uncertainty.replicates import read_replicates
from deepmr.uncertainty.report import report as judge
from tests.toy_report import history
from tests.unit import test_mr_shard as toy

RESPONSES = {"TF": Response(), "open": Response()}


@pytest.fixture(scope="module")
def test_windows() -> HeldOut:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(80, 2)).astype(np.float32)
    labels = (rng.random((80, 2)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    draws = logits[:, None] + 0.2 * rng.normal(size=(80, 6, 2)).astype(np.float32)
    return HeldOut(
        ("TF", "open"),
        np.repeat(
            np.array(["chr1", "chr2"], dtype=object),
            [len(labels) // 2, len(labels) - len(labels) // 2],
        ),
        labels,
        logits,
        draws,
    )


def words(figure: Figure) -> str:
    texts = [text.get_text() for text in figure.texts]
    for ax in figure.axes:
        texts += [ax.get_title(), ax.get_title(loc="left"), ax.get_xlabel()]
    return " ".join(texts)


@pytest.fixture(scope="module")
def calibration(test_windows):
    """Calibrators fitted on few and on enough windows, and their metrics on the test windows."""
    fitted = []
    for name in ("platt", "isotonic"):
        fitted += fit_targets(
            name,
            test_windows.labels,
            test_windows.draws,
            ("TF", "open"),
            ("binary", "count"),
            minimum_positives=10,
        )
    few = dataclasses.replace(
        fitted[0], name="beta", calibrator=Identity(), status="too_few_positives", n_positive=4
    )
    metrics = [
        report(
            test_windows.labels[:, :1],
            test_windows.evaluated[:, :1],
            test_windows.draws[:, :, :1],
            ["TF"],
            calibrator=name,
            model="net",
            simulations=20,
        )
        for name in ("none", "platt", "isotonic", "beta")
    ]
    return pd.concat(metrics), to_table([*fitted, few], "net")


def test_model_figures_are_drawn_for_each_binary_target(test_windows, calibration):
    metrics, calibrators = calibration
    drawn = sets.model_figures(
        test_windows, ["binary", "count"], history(), metrics, calibrators, "net", bins=5, seed=1
    )
    kinds = ("reliability", "calibrators", "histogram")
    targets = {f"{kind}/{target}" for kind in kinds for target in ("TF", "open")}
    assert set(drawn) == {"learning_curves", "roc"} | targets
    assert "TF" in words(drawn["histogram/TF"])
    assert "open: count labels" in words(drawn["histogram/open"])
    assert "open: count labels" in words(drawn["calibrators/open"])


def test_calibrators_are_applied_to_the_test_windows_or_the_reason_is_given(
    test_windows, calibration
):
    metrics, calibrators = calibration
    drawn = sets.model_figures(
        test_windows, ["binary", "count"], history(), metrics, calibrators, "net", bins=5, seed=1
    )
    panels = {ax.get_title(loc="left"): ax for ax in drawn["calibrators/TF"].axes}
    assert list(panels) == ["as predicted (none)", "platt", "isotonic", "beta"]
    said = " ".join(text.get_text() for text in panels["beta"].texts).replace("\n", " ")
    assert "too few positives (4 of 80 validation windows)" in said
    platt = read_calibrators(calibrators, "net", "platt")["TF"]
    pooled = expit(platt(test_windows.draws[:, :, 0])).mean(axis=1)
    line = next(line for line in panels["platt"].lines if line.get_label() == "observed")
    points = reliability(test_windows.labels[:, 0], pooled, 5)
    np.testing.assert_allclose(expit(line.get_xdata()), points["predicted"], rtol=1e-5)


def test_model_without_history_or_binary_targets_says_so(test_windows, calibration):
    drawn = sets.model_figures(
        test_windows, ["count"] * 2, pd.DataFrame(), *calibration, "net", bins=5, seed=1
    )
    assert "imported, not trained here" in words(drawn["learning_curves"])
    assert "No target is binary" in words(drawn["roc"])


def test_standard_errors_are_drawn_for_every_target():
    rng = np.random.default_rng(2)
    effects = rng.normal(size=60)
    one = [
        {"reference": [0.0], "effect": [effect], "se": [1.0], "truth": None} for effect in effects
    ]
    rows = {
        "sequence_id": np.repeat(["a", "b"], 30),
        "position": np.tile(np.arange(30), 2),
        "ref": ["A"] * 60,
        "alt": ["C"] * 60,
        "TF": one,
        "open": one,
    }
    replicates = read_replicates(pa.table(rows, schema=replicates_schema(["TF", "open"])))
    table = judge(replicates, model="net", method="mc_dropout", draws=40, seed=1)
    drawn = sets.uncertainty_figures(replicates, table)
    assert set(drawn) == {"standard_errors/TF", "standard_errors/open"}
    assert "open: SE and size of the effect" in words(drawn["standard_errors/open"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """Two shards of the toy sequences, and what MR and meta-analysis make of them."""
    folder = tmp_path_factory.mktemp("figures")
    ids = toy.sequence_table()["sequence_id"].to_pylist()
    shards = [toy.write(folder, members(ids, f"{i}-of-2"), name=f"shard{i}") for i in (1, 2)]
    mr = toy.estimated(folder, range(6)).to_pandas()
    return shards, mr, summarise(mr)


def explained(mr):
    """Return what explain_heterogeneity would say of each sequence, and of all of them."""
    primary = mr[mr["method"] == "egger"]
    sequences = primary.reindex(columns=SEQUENCE_EFFECTS.names).assign(
        lfsr=np.linspace(0, 0.5, len(primary)), influential=False
    )
    ends = primary[["direction", "exposure", "outcome"]].drop_duplicates()
    diagnostics = ends.reindex(columns=META_DIAGNOSTICS.names)
    return sequences, diagnostics.assign(reason="too few sequences for a mixture")


def draw(test_windows, run, mr=None, known=None, responses=RESPONSES, **tables):
    shards, found, meta = run
    effects, references = zip(*shards, strict=True)
    sequences, diagnostics = explained(found if mr is None else mr)
    return sets.pair_figures(
        toy.PAIRS[0],
        test_windows,
        toy.sequence_table(),
        effects,
        references,
        found if mr is None else mr,
        tables.get("headline", headline(meta, "egger", "REML")),
        sequences,
        tables.get("diagnostics", diagnostics),
        known,
        toy.MOTIFS,
        toy.SETTINGS,
        responses,
        "egger",
    )


def test_pair_figures_in_both_directions(test_windows, run):
    known = pd.DataFrame(
        {"exposure": ["TF", "open"], "outcome": ["open", "TF"]}
        | {"theta": [0.8, 0.0], "marginal_slope": [0.75, 0.1]}
    )
    drawn = draw(test_windows, run, known=known)
    assert set(drawn) == {
        "uncertainty",
        "mr_scatter_forward",
        "forest_forward",
        "funnel_forward",
        "mr_scatter_reverse",
        "forest_reverse",
        "funnel_reverse",
    }
    scatter = drawn["mr_scatter_forward"]
    labels = [text.get_text() for legend in scatter.legends for text in legend.get_texts()]
    assert any(label.startswith("egger") for label in labels)
    assert any("marginal slope  0.75" in label for label in labels)
    assert "24 instruments" in words(scatter)


def test_the_funnel_is_that_of_the_direction_and_has_the_reason_for_missing_shares(
    test_windows, run
):
    drawn = draw(test_windows, run)
    for direction, arrow in (("forward", "TF → open"), ("reverse", "open → TF")):
        said = words(drawn[f"funnel_{direction}"])
        assert arrow in said
        texts = [t.get_text() for t in drawn[f"funnel_{direction}"].axes[0].texts]
        assert texts == ["No shares of effects: too few sequences for a mixture"]
    with pytest.raises(ValueError, match=r"0 rows of diagnostics .* 'TF_open', forward"):
        draw(test_windows, run, diagnostics=pd.DataFrame({"direction": ["reverse"]}))


def test_decoys_are_no_figure_of_their_own(test_windows, run):
    overall = headline(run[2], "egger", "REML")
    decoy = overall[overall["direction"] == "forward"].assign(direction="decoy")
    drawn = draw(test_windows, run, headline=pd.concat([decoy, overall]))
    assert set(drawn) == set(draw(test_windows, run))


def test_conditional_effects_are_no_lines_through_the_instruments(test_windows, run):
    mr = run[1]
    direct = mr[mr["method"] == "egger"].assign(method="mv_ivw", estimate=77.0)
    scatter = draw(test_windows, run, mr=pd.concat([mr, direct]))["mr_scatter_forward"]
    labels = [text.get_text() for legend in scatter.legends for text in legend.get_texts()]
    assert any(label.startswith("egger") for label in labels)
    assert not any(label.startswith("mv_ivw") for label in labels)


def test_the_instruments_drawn_have_been_through_the_calibrator(test_windows, run):
    doubled = RESPONSES | {"TF": Response(calibrator=Affine(2.0, 0.3))}
    plain, steep = (
        draw(test_windows, run, responses=responses)["mr_scatter_forward"].axes[0].containers[0]
        for responses in (RESPONSES, doubled)
    )
    np.testing.assert_allclose(
        steep.lines[0].get_xdata(), 2 * plain.lines[0].get_xdata(), rtol=1e-5
    )
    np.testing.assert_allclose(steep.lines[0].get_ydata(), plain.lines[0].get_ydata())


def test_pair_without_an_estimate_says_why(test_windows, run):
    mr = run[1].assign(status="no_motif_hit")
    drawn = draw(test_windows, run, mr=mr)
    assert "no sequence has an estimate (5 no_motif_hit)" in words(drawn["mr_scatter_forward"])


def test_only_the_asked_sequence_is_yielded(run):
    effects, references = run[0][0]
    everything = list(
        shard_instruments(
            toy.sequence_table(), effects, references, toy.PAIRS, toy.MOTIFS, toy.SETTINGS
        )
    )
    wanted = everything[-1].sequence_id
    one = list(
        shard_instruments(
            toy.sequence_table(),
            effects,
            references,
            toy.PAIRS,
            toy.MOTIFS,
            toy.SETTINGS,
            only=wanted,
        )
    )
    assert {item.sequence_id for item in one} == {wanted}
    same = [item for item in everything if item.sequence_id == wanted]
    for a, b in zip(one, same, strict=True):
        assert np.array_equal(a.instruments.bx, b.instruments.bx)


def test_effects_figures_show_decoys_and_the_truth_on_its_own_scale_only(run):
    meta = run[2]
    decoy = meta[meta["direction"] == "forward"].assign(direction="decoy")
    pairs = {pair.name: {"exposure": pair.exposure, "outcome": pair.outcome} for pair in toy.PAIRS}
    edges = network(pd.concat([meta, decoy]), pairs, method="egger", combination="REML", fdr=0.05)
    known = pd.DataFrame({"exposure": ["TF"], "outcome": ["open"], "marginal_slope": [0.7]})
    for scale in ("logit", "probability"):
        drawn = sets.effects_figures(
            headline(meta, "egger", "REML"),
            edges,
            known,
            ["open", "TF"],
            fdr=0.05,
            effect_scale=scale,
        )
        assert set(drawn) == {"global_effects", "network"}
        effects = drawn["global_effects"]
        labels = [text.get_text() for text in effects.legends[0].get_texts()]
        assert ("simulated truth" in labels) == (scale == "logit")
        rows = [label.get_text() for label in effects.axes[0].get_yticklabels()]
        assert "decoy: TF of other sequences" in rows
        assert f"global effect ({scale})" in [ax.get_xlabel() for ax in drawn["network"].axes]


def test_figures_go_to_the_paths_that_end_in_their_names(tmp_path):
    figures = {"roc": style.note("a"), "reliability/TF": style.note("b")}
    paths = [tmp_path / "x" / "reliability" / "TF.svg", tmp_path / "x" / "roc.svg"]
    style.save_all(figures, paths)
    assert all(path.exists() for path in paths)
    with pytest.raises(ValueError, match="0 files for the figure 'roc'"):
        style.save_all(figures, paths[:1])
    with pytest.raises(ValueError, match="no figure for"):
        style.save_all({"roc": figures["roc"]}, paths)
