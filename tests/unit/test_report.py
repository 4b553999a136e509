import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from deepmr.figures import prediction, style
from deepmr.report import sentences, wording
from deepmr.report.answers import Settings, answers, controls_for, heads
from deepmr.report.checks import checks
from deepmr.report.pictures import FIGURES, Picture, read_captions
from deepmr.report.render import render, write
from tests import toy_meta, toy_report


def plain(text):
    return text.replace(wording.NBSP, " ")


def effects(**changes):
    """Return the toy effects with some replaced: GATA1_open_forward=-0.9."""
    changed = dict(toy_report.EFFECTS)
    for name, value in changes.items():
        pair, direction = name.rsplit("_", 1)
        changed[(pair, direction)] = (value, *changed[(pair, direction)][1:])
    return changed


def found(truth=True, settings=toy_report.SETTINGS, pairs=toy_report.PAIRS, **changes):
    changed = effects(**changes)
    local = toy_report.mr(effects=changed)
    meta = toy_meta.complete(toy_report.meta(changed, local))
    return answers(meta, local, pairs, toy_report.truth() if truth else None, settings)


def said(everything, index=0, head_of=None, settings=toy_report.SETTINGS):
    answer = everything[index]
    words = sentences.sentences(answer, everything, head_of or {}, settings)
    return sentences.headline(answer) + " " + plain(" ".join(words))


def titles(everything, head_of=None, settings=toy_report.SETTINGS):
    listed = checks(everything, head_of or {}, settings)
    return {check.title: (check.level, plain(check.text)) for check in listed}


@pytest.fixture(scope="module")
def context():
    return toy_report.context()


@pytest.fixture(scope="module")
def html(context, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fig = prediction.histogram(np.array([1.0, 0.0]), np.array([0.9, 0.1]), "A")
    paths = [style.save(fig, folder / name) for name in ("a.svg", "b.png")]
    pictures = [Picture(kind, f"picture of {kind}", paths[i % 2]) for i, kind in enumerate(FIGURES)]
    path = write(folder / "out" / "report.html", **context, pictures=pictures)
    return path.read_text("utf-8")


class Loads(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loads, self.tags, self.alts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "srcset", "action", "poster"):
                self.loads.append(value)
            if name == "alt":
                self.alts.append(value)


def test_causal_pair_is_answered_in_words():
    text = said(found())
    assert text.startswith("The model has learned: more GATA1, more open.")
    assert "by 0.93 [0.82, 1.04] (95 % interval; p < 0.001, FDR < 0.001)." in text
    assert re.search(r"\d+ of 100 sequences had enough instruments \(\d+ of 50 bound and", text)
    assert "the local interval by itself lies above 0" in text
    assert "The other way, open → GATA1: 0.02 [−0.09, 0.13]; the interval holds 0." in text
    assert "the control pair NRF1 → open gives −0.02 [−0.13, 0.09]; the interval holds 0." in text
    assert (
        "marginal slope 0.95, structural θ 1.00; it lies inside the 95 % interval, and the "
        "estimate is 2 % below it." in text
    )
    assert "no effect; the 95 % interval holds 0." in text


def test_counts_come_from_the_local_table():
    effect = found()[0].forward
    local = toy_report.mr()
    rows = local[
        (local["pair"] == "GATA1_open")
        & (local["direction"] == "forward")
        & (local["method"] == "egger")
    ]
    ok = rows[rows["status"] == "ok"]
    assert (effect.estimated, effect.asked) == (len(ok), 100)
    assert effect.agreeing == (ok["ci_low"] > 0).sum()
    assert effect.by_stratum["bound"] == ((ok["stratum"] == "bound").sum(), 50)
    assert effect.reasons == {"no_motif_hit": 100 - len(ok)}


def test_negative_effect_and_missed_truth():
    everything = found(GATA1_open_forward=-0.9)
    text = said(everything)
    assert text.startswith("The model has learned: more GATA1, less open.")
    assert "lies below 0" in text
    assert "outside the 95 % interval, and the estimate is 195 % below it" in text
    assert sentences.badge(everything[0]) == "negative effect"
    level, words = titles(everything)["The truth is missed"]
    assert (level, words) == (
        "warn",
        "5 of 6 intervals hold the simulated truth; not GATA1 → open.",
    )


def test_null_pair_is_a_silent_control():
    everything = found()
    text = said(everything, 1)
    assert text.startswith("No effect of NRF1 on open can be told from zero, nor the reverse.")
    assert "The interval holds 0." in text
    assert "there is no effect to find, and none is found" in text
    assert everything[1].control
    assert not everything[2].control  # its reverse is real
    assert titles(everything)["The control pair is silent"][0] == "good"
    assert "6 of 6 intervals hold" in titles(everything)["The truth is held"][1]


def test_reversed_pair_speaks_of_the_reverse_first():
    text = said(found(), 2)
    assert text.startswith("The model has learned the reverse: more open, more JUND.")
    assert "A change of 1 in the logit of open changes the logit of JUND by 0.69" in text
    assert "The other way, JUND → open: 0.03" in text
    assert sentences.badge(found()[2]) == "reverse, positive"


def test_both_directions_mean_not_identified():
    everything = found(GATA1_open_reverse=0.7)
    assert said(everything).startswith("Direction not identified: GATA1 and open each seem")
    assert "the interval excludes 0" in said(everything)
    level, words = titles(everything)["Direction not identified"]
    assert level == "warn"
    assert words.startswith("GATA1 → open:")


def test_a_loud_control_is_a_warning_everywhere():
    everything = found(NRF1_open_forward=0.5)
    assert "excludes 0, a bad sign" in said(everything)
    assert "whatever is found here is an error" in said(everything, 1)
    assert titles(everything)["A control pair shows an effect"][0] == "warn"


def test_controls_without_a_simulation_come_from_the_configuration():
    assert titles(found(truth=False))["No control pair was asked"][0] == "note"
    pairs = toy_report.PAIRS | {"NRF1_open": toy_report.PAIRS["NRF1_open"] | {"control": True}}
    everything = found(truth=False, pairs=pairs)
    assert [a.pair for a in controls_for(everything[0], everything)] == ["NRF1_open"]
    assert controls_for(everything[1], everything) == []
    assert "truth" not in said(everything)
    assert "The control pair is silent" in titles(everything)


def test_an_unestimated_pair_says_why():
    local = toy_report.mr()
    local.loc[local["pair"] == "NRF1_open", ["status", "estimate"]] = ["no_motif_hit", np.nan]
    meta = toy_meta.complete(toy_report.meta(local=local))
    null = meta["pair"] == "NRF1_open"
    numbers = list(meta.select_dtypes("float64"))
    meta.loc[null, numbers] = np.nan
    meta.loc[null, "k"] = 0
    meta.loc[null, ["status", "reason", "pi_kind"]] = ["no_sequences", "all 3 no_partner", None]
    args = {"meta": meta, "mr": local, "pairs": toy_report.PAIRS}
    everything = answers(**args, truth=toy_report.truth(), settings=toy_report.SETTINGS)
    text = said(everything, 1)
    assert text.startswith("No answer: the effect of NRF1 on open could not be estimated.")
    assert "not estimated (no sequence had an estimate)" in text
    assert "0 of 100 sequences had enough instruments" in text
    assert sentences.badge(everything[1]) == "no answer"
    assert titles(everything)["A control pair could not be estimated"][0] == "warn"
    level, words = titles(everything)["Few sequences"]
    assert level == "warn"
    assert "NRF1 → open (0 of 100)" in words
    page = render(
        **args,
        calibration=toy_report.calibrated(),
        calibrators=toy_report.calibrators(),
        uncertainty=toy_report.uncertainty(),
        captions={},
        truth=toy_report.truth(),
        settings=toy_report.SETTINGS,
        **{k: v for k, v in toy_report.tables_of(meta, local).items() if k != "meta"},
    )
    assert "no sequence had an estimate" in page
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)


def test_poor_and_unknown_heads_are_warned_of():
    everything = found()
    table = toy_report.calibrated()
    good = heads(table, everything, toy_report.SETTINGS)
    assert titles(everything, good)["The heads are learned"][0] == "good"
    table.loc[table["target"] == "GATA1", "auroc"] = 0.62
    table.loc[table["target"] == "open", ["auroc", "status"]] = [np.nan, "one_class"]
    poor = heads(table[table["target"] != "JUND"], everything, toy_report.SETTINGS)
    level, words = titles(everything, poor)["Not every head is known to be learned well"]
    assert level == "warn"
    assert "GATA1 0.62" in words
    assert "open (every label is the same)" in words
    assert "GATA1 and open lie below 0.75" in words
    assert "Nothing is known of JUND." in words
    words = said(everything, 0, poor)
    assert "Caution: GATA1 was poorly learned (test AUROC 0.62)" in words
    assert "whether open was learned is not known from the test windows (every label" in words


def test_few_sequences_and_many_pairs_are_warned_of():
    settings = replace(toy_report.SETTINGS, minimum_sequences=90)
    everything = found(settings=settings)
    listed = titles(everything, settings=settings)
    assert listed["Few sequences"][0] == "warn"
    everything[0].forward.row["fdr"] = 0.2
    assert titles(everything)["Many pairs were asked"][1].startswith("GATA1 → open:")


def test_truth_is_not_compared_on_the_probability_scale():
    settings = replace(toy_report.SETTINGS, effect_scale="probability")
    everything = found(settings=settings)
    assert "Simulated truth" not in said(everything, settings=settings)
    assert titles(everything, settings=settings)["The truth is on another scale"][0] == "note"


def test_a_stratum_can_make_the_headline():
    settings = replace(toy_report.SETTINGS, stratum="bound")
    everything = found(settings=settings)
    assert everything[0].forward.asked == 50
    assert "of 50 bound sequences had enough instruments;" in said(everything, settings=settings)


def test_a_pair_without_its_row_is_an_error():
    with pytest.raises(ValueError, match="0 rows instead of 1 for the model cnn, pair GATA1_open"):
        found(settings=Settings(method="raps"))
    with pytest.raises(ValueError, match=r"the table has the methods .'egger', 'ivw'"):
        found(settings=Settings(method="raps"))


def test_truth_without_a_slope_is_theta():
    known = toy_report.truth().assign(marginal_slope=np.nan)
    local = toy_report.mr()
    meta = toy_meta.complete(toy_report.meta(local=local))
    everything = answers(meta, local, toy_report.PAIRS, known, toy_report.SETTINGS)
    assert "Simulated truth of GATA1 → open: structural θ 1.00; it lies inside" in said(everything)
    part = known[known["exposure"] != "open"]
    lacking = answers(meta, local, toy_report.PAIRS, part, toy_report.SETTINGS)
    assert lacking[0].reverse.truth is None


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.812, 1.048, "[0.81, 1.05]"),
        (-0.004, 0.3, "[−0.004, 0.300]"),
        (0.9512, 0.9634, "[0.951, 0.963]"),
        (-120.4, 300.2, "[−120, 300]"),
        (-0.0, 0.5, "[0.00, 0.50]"),
        (np.nan, np.nan, "[–, –]"),
    ],
)
def test_intervals_never_hide_on_which_side_of_zero_they_end(low, high, text):
    assert plain(wording.interval(low, high)) == text


def test_small_words():
    assert wording.joined([]) == ""
    assert wording.joined(["a"]) == "a"
    assert wording.joined(["a", "b", "c"]) == "a, b and c"
    assert plain(wording.p_value(0.0004)) == "p < 0.001"
    assert plain(wording.p_value(0.034, "FDR")) == "FDR = 0.034"
    assert plain(wording.p_value(0.034, "")) == "0.034"
    assert wording.p_value(np.nan) == "–"
    assert wording.status("weak_thing") == "weak thing"


def test_page_loads_nothing_and_runs_nothing(html):
    page = Loads()
    page.feed(html)
    assert all(value.startswith(("data:", "#")) for value in page.loads)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import", html)
    assert "default-src 'none'; img-src data:" in html


def test_page_has_every_figure_with_its_caption(html):
    page = Loads()
    page.feed(html)
    assert page.tags.count("img") == len(FIGURES)
    for kind in FIGURES:
        assert any(alt.endswith(f"picture of {kind}") for alt in page.alts)
    assert html.count("<strong>Good:</strong>") == len(FIGURES)
    assert html.count("<strong>Bad:</strong>") == len(FIGURES)
    assert "data:image/svg+xml;base64," in html
    assert "data:image/png;base64," in html


def test_page_has_answers_numbers_assumptions_and_provenance(html):
    text = plain(unescape(html))
    for words in (
        "The model has learned: more GATA1, more open.",
        "The model has learned the reverse: more open, more JUND.",
        "The control pair is silent",
        "Decoys stay at 0",
        "A decoy (GATA1's effects taken from other sequences) gives 0.03",
        "The network",
        "Do all sequences say the same?",
        "6 of 6 intervals hold the simulated truth",
        "SE within draws",
        "SE over draws",
        "Three inferences",
        "A diagonal analysis takes every sequence for an independent study",
        "weighted_median",
        "29 without a motif hit of the exposure",
        "Calibration of the predictions",
        "Test windows, before and after each calibrator",
        "Are the standard errors right?",
        "Probabilities are off",
        "posterior SD",
        "know it to about 11 %",
        "<dt>tiled</dt><dd>16,000</dd>",
        "<dt>seed</dt><dd>1</dd>",
    ):
        assert words in text
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]+", "", html), re.IGNORECASE)


def test_names_are_escaped_and_models_told_apart(context):
    two = dict(context)
    two["meta"] = pd.concat([context["meta"], context["meta"].assign(model="<b>")])
    two["mr"] = pd.concat([context["mr"], context["mr"].assign(model="<b>")])
    for name in (
        "calibration",
        "calibrators",
        "uncertainty",
        "network",
        "sequence_effects",
        "meta_regression",
        "meta_diagnostics",
    ):
        two[name] = pd.concat([context[name], context[name].assign(model="<b>")])
    page = render(**two)
    assert "GATA1 → open (&lt;b&gt;)" in page
    assert "NRF1 → open (cnn) and NRF1 → open (&lt;b&gt;)" in page
    assert "open (&lt;b&gt;): 1,500 windows" in page
    assert "<b>)" not in page
    assert "Against retrained networks (cnn), standard errors are too small for open" in page


def test_two_renderings_are_equal(context):
    assert render(**context) == render(**context)


def test_bad_pictures_are_named(context, tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF")
    for picture, message in (
        (Picture("pie", "x", tmp_path / "a.svg"), "unknown kind of figure 'pie'; use one of"),
        (Picture("roc", "x", tmp_path / "a.gif"), "must be .svg or .png"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            render(**context, pictures=[picture])
    with pytest.raises(ValueError, match=r"has no caption: write roc\.rst"):
        render(**(context | {"captions": {}}), pictures=[Picture("roc", "x", tmp_path / "a.svg")])


def test_every_caption_is_plain_rst_and_says_good_and_bad():
    captions = toy_report.CAPTIONS
    for kind in FIGURES:
        assert "**Good:**" in captions[kind]
        assert "**Bad:**" in captions[kind]
    # snakemake --report reads them as Jinja templates
    assert not any(re.search(r"\{[{%#]", text) for text in captions.values())


def test_captions_are_read_by_their_stem(tmp_path):
    (tmp_path / "roc.rst").write_text("A *caption*.", "utf-8")
    (tmp_path / "other.txt").write_text("no", "utf-8")
    assert read_captions(tmp_path) == {"roc": "A *caption*."}
