"""Deep IV in the words of the report: labels beside the network, and slopes by context."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepmr.deepiv.local_effect import local_effect
from deepmr.report import run, wording
from deepmr.report.answers import answers
from deepmr.report.deep_iv import of_deep_iv
from deepmr.report.deep_iv_comparison import ar_set, comparisons, deep_iv_checks, sign, why
from deepmr.report.deep_iv_tables import METHODS
from deepmr.report.pictures import Picture
from deepmr.report.render import render
from deepmr.report.table import Cell, Heading
from deepmr.schemas import DEEP_IV
from tests import toy_deep_iv, toy_meta, toy_report
from tests.unit.test_config import ROOT, load

SETTINGS = toy_report.SETTINGS
LOCAL = toy_report.mr()
META = toy_meta.headline(toy_meta.complete(toy_report.meta(local=LOCAL)))
LOCAL = LOCAL[LOCAL["method"] == SETTINGS.method]  # others are not read here
FOUND = answers(META, LOCAL, toy_report.PAIRS, None, SETTINGS)
TABLE = toy_deep_iv.table()


def plain(text):
    return text.replace(wording.NBSP, " ")


def changed(pair="GATA1_open", method="deep_iv", direction="forward", **values):
    """Return the table with some columns of one row replaced."""
    table = TABLE.copy()
    row = (table["pair"] == pair) & (table["direction"] == direction) & (table["method"] == method)
    assert row.sum() == 1
    for name, value in values.items():
        table.loc[row, name] = value
    return table


def said(table, index=0):
    return plain(of_deep_iv(table, FOUND, SETTINGS).summary[index])


def slopes_said(table):
    return [plain(text) for text in of_deep_iv(table, FOUND, SETTINGS).slopes_summary]


def network_with(low, high):
    """Return the pairs, the network's GATA1 -> open with another interval."""
    meta = META.copy()
    rows = (meta["pair"] == "GATA1_open") & (meta["direction"] == "forward")
    meta.loc[rows, ["estimate", "ci_low", "ci_high"]] = [(low + high) / 2, low, high]
    return answers(meta, LOCAL, toy_report.PAIRS, None, SETTINGS)


def checked(table, found=FOUND):
    return {c.title: (c.level, plain(c.text)) for c in deep_iv_checks(table, found, SETTINGS)}


@pytest.mark.parametrize(
    ("labels", "network", "verdict"),
    [
        ((0.2, 0.4), (0.8, 1.0), "agree"),
        ((-0.4, -0.2), (-1.0, -0.8), "agree"),
        ((-0.4, -0.2), (0.8, 1.0), "opposite"),
        ((0.2, 0.4), (-1.0, -0.8), "opposite"),
        ((-0.1, 0.2), (0.8, 1.0), "network_only"),
        ((0.2, 0.4), (-0.1, 0.1), "labels_only"),
        ((-0.1, 0.2), (-0.1, 0.1), "neither"),
        ((np.nan, np.nan), (0.8, 1.0), "not_comparable"),
        ((0.2, 0.4), (np.nan, np.nan), "not_comparable"),
    ],
)
def test_only_signs_of_labels_and_network_are_compared(labels, network, verdict):
    low, high = labels
    table = changed(estimate=(low + high) / 2, ci_low=low, ci_high=high)
    assert comparisons(table, network_with(*network), SETTINGS)[0].verdict == verdict


def test_each_direction_says_what_labels_and_network_say():
    summary = [plain(text) for text in of_deep_iv(TABLE, FOUND, SETTINGS).summary]
    assert summary == [
        "GATA1 → open: labels and network agree in sign. Measured labels say more GATA1, more "
        "open, 0.772 [0.754, 0.790] (probability per label); the network (MR) says more GATA1, "
        "more open, 0.93 [0.82, 1.04] (logit per logit).",
        "open → GATA1: labels and network cannot be compared. Measured labels give no answer (open "
        "has no motif to make an instrument of); the network (MR) tells no effect from 0, "
        "0.02 [−0.09, 0.13] (logit per logit).",
        "NRF1 → open: seen by neither. Measured labels tell no effect from 0, "
        "0.016 [−0.014, 0.046] (probability per label); the network (MR) tells no effect from 0, "
        "−0.02 [−0.13, 0.09] (logit per logit).",
        "open → NRF1: labels and network cannot be compared. Measured labels give no answer (open "
        "has no motif to make an instrument of); the network (MR) tells no effect from 0, "
        "0.01 [−0.10, 0.12] (logit per logit).",
        "JUND → open: the labels cannot tell, for their instrument is weak. In the measured labels "
        "the instrument is weak (F 3.1), so that only the Anderson-Rubin set counts: "
        "[−0.18, 1.92] (probability per label); the network (MR) tells no effect from 0, "
        "0.03 [−0.08, 0.14] (logit per logit).",
        "open → JUND: labels and network cannot be compared. Measured labels give no answer (open "
        "has no motif to make an instrument of); the network (MR) says more open, more JUND, "
        "0.69 [0.58, 0.80] (logit per logit).",
    ]


def test_a_negative_effect_is_less_of_the_outcome():
    text = said(changed(estimate=-0.3, ci_low=-0.4, ci_high=-0.2))
    assert text.startswith("GATA1 → open: labels and network have opposite signs. Measured labels")
    assert "say more GATA1, less open, −0.30 [−0.40, −0.20] (probability per label);" in text


@pytest.mark.parametrize(
    ("kind", "low", "high", "in_words", "of_sign"),
    [
        ("interval", 0.2, 1.4, "[0.20, 1.40]", 1),
        ("interval", -1.4, -0.2, "[−1.40, −0.20]", -1),
        ("interval", 0.2, np.inf, "[0.20, ∞]", 1),
        ("interval", -0.2, 1.4, "[−0.20, 1.40]", 0),
        ("outside", -0.5, 3.2, "below −0.50 or above 3.20", 0),
        ("everything", -np.inf, np.inf, "every value", 0),
        ("empty", np.nan, np.nan, "no value", 0),
    ],
)
def test_with_a_weak_instrument_the_anderson_rubin_set_decides(kind, low, high, in_words, of_sign):
    weak = {"f": 4.2, "ar_low": low, "ar_high": high, "ar_kind": kind}
    table = changed(**weak)  # its own interval excludes 0
    row = comparisons(table, FOUND, SETTINGS)[0].row
    assert plain(ar_set(row)) == in_words
    assert sign(row) == of_sign
    assert f"weak (F 4.2), so that only the Anderson-Rubin set counts: {in_words} (" in said(table)
    assert ("weak" in said(table).split(".")[0]) == (of_sign == 0)
    strong = comparisons(changed(**weak | {"f": 10.0}), FOUND, SETTINGS)[0].row
    assert sign(strong) == 1


def test_the_unit_of_the_network_is_that_of_its_slopes():
    table = changed(method="constant_slope", unit="log rate per logit")
    table.loc[table["method"] == "context_slope", "unit"] = "log rate per logit"
    assert said(table).endswith("more open, 0.93 [0.82, 1.04] (log rate per logit).")
    alone = TABLE[TABLE["source"] == "labels"]
    scaled = of_deep_iv(alone, FOUND, replace(SETTINGS, effect_scale="probability")).summary[0]
    assert plain(scaled).endswith("0.93 [0.82, 1.04] (probability per probability).")


def test_a_weak_instrument_without_a_set_is_read_by_its_interval():
    table = changed("JUND_open", "2sls", ci_low=0.1)
    row = table[(table["pair"] == "JUND_open") & (table["method"] == "2sls")].iloc[0].to_dict()
    assert ar_set(row) == "–"
    assert sign(row) == 1


def test_reasons_are_words():
    for changes, words in (
        ({"status": "no_motif", "reason": None}, "the exposure has no motif, so there is no"),
        ({"status": "no_variation", "reason": "no_first_stage"}, "does not foretell the exposure"),
        ({"status": "no_variation", "reason": "constant_outcome"}, "the outcome is the same in"),
        ({"status": "too_few_windows", "reason": ""}, "too few windows of either label"),
        ({"status": "too_few_clusters", "reason": ""}, "too few blocks of windows"),
    ):
        assert words in why(toy_deep_iv.row("GATA1_open", "forward", **changes))
    assert wording.status("weak_instrument") == "weak instrument"


def test_the_statuses_of_an_estimate_have_words():
    rng = np.random.default_rng(3)
    x, y, q = rng.normal(size=(3, 60))
    zero, clusters = np.zeros(60), np.arange(60) // 6
    no_first_stage = local_effect(y, x, -x, zero, zero, clusters)
    constant = local_effect(y, zero, q, zero - 1, zero, clusters)
    few = local_effect(y, x, x, zero, zero, clusters // 5)
    for effect in (no_first_stage, constant, few):
        assert effect.status != "ok"
        words = why({"status": effect.status, "reason": effect.reason})
        assert "_" not in words
        assert words not in ("without variation among the instruments", "")


def test_checks_tell_agreement_disagreement_and_weakness():
    listed = checked(TABLE)
    assert listed == {
        "Labels and network agree": (
            "good",
            "GATA1 → open: the same sign by Deep IV on measured labels and by MR on the network. "
            "NRF1 → open: neither of the two tells an effect from 0.",
        ),
        "A weak instrument in the labels": (
            "note",
            "JUND → open (F 3.1): the best word of the motif hardly decides the exposure once the "
            "rest of the window is known. The Anderson-Rubin set is valid all the same; estimate "
            "and interval are not.",
        ),
    }
    against = checked(changed(estimate=-0.3, ci_low=-0.4, ci_high=-0.2))
    level, text = against["Labels and network disagree"]
    assert level == "warn"
    assert text.startswith("GATA1 → open: Deep IV on measured labels and MR on the network have")
    assert "GATA1" not in against["Labels and network agree"][1]
    alone = checked(changed("NRF1_open", ci_low=0.01))
    assert alone["Seen by one of the two only"] == (
        "note",
        "NRF1 → open in the measured labels only. An interval that holds 0 does not prove that "
        "there is none.",
    )
    by_network = checked(changed(ci_low=-0.1))["Seen by one of the two only"][1]
    assert by_network.startswith("GATA1 → open by the network only.")


def test_nothing_is_checked_without_labels():
    only = TABLE[TABLE["source"] == "model"]
    assert deep_iv_checks(only, FOUND, SETTINGS) == []
    section = of_deep_iv(only, FOUND, SETTINGS)
    assert (section.summary, section.beside, section.labels.rows) == ((), (), ())
    assert section.slopes.rows


def test_the_naive_network_is_held_against_deep_iv():
    apart, alike = (plain(text) for text in of_deep_iv(TABLE, FOUND, SETTINGS).beside)
    assert "NRF1 → open 0.091 [0.073, 0.109] instead of 0.016 [−0.014, 0.046]." in apart
    assert "JUND" not in apart + alike  # a weak instrument says nothing of the naive network
    assert alike.endswith("overlap: GATA1 → open.")


@pytest.mark.parametrize("naive", [(0.9, 0.95), (0.1, 0.2)])
def test_the_naive_network_may_lie_on_either_side(naive):
    low, high = naive
    table = changed(method="naive", estimate=(low + high) / 2, ci_low=low, ci_high=high)
    assert "GATA1 → open" in of_deep_iv(table, FOUND, SETTINGS).beside[0]
    assert len(of_deep_iv(table, FOUND, SETTINGS).beside) == 1


def test_slopes_say_whether_they_depend_on_the_context():
    assert slopes_said(TABLE) == [
        "GATA1 → open: the slope depends on the context. Predicted slopes have an SD of 0.21 "
        "between sequences, and sequences that were kept aside follow them by a factor of 0.94 "
        "(SE 0.11, p < 0.001); 1 would be in full. They explain 18 % of the scatter around one "
        "slope.",
        "NRF1 → open: sequences that were kept aside go against the predicted differences of the "
        "slope, by a factor of −0.90 (SE 0.30, p = 0.004). The network of slopes has learned "
        "noise; this is no dependence on the context.",
        "open → JUND: the slope depends on the context. Predicted slopes have an SD of 0.10 "
        "between sequences, and sequences that were kept aside follow them by a factor of 0.81 "
        "(SE 0.20, p < 0.001); 1 would be in full. They explain nothing of the scatter around one "
        "slope.",
        "Not seen to depend on the context: open → GATA1 (p = 0.8), open → NRF1 (p = 0.5) and "
        "JUND → open (p = 0.31). That may be for want of sequences.",
    ]
    numbers = dict.fromkeys(["estimate", "moderation", "moderation_p"], np.nan)
    few = changed(method="context_slope", status="too_few_sequences", **numbers)
    assert slopes_said(few)[-1] == "Not estimated for GATA1 → open: too few sequences."
    none = changed(method="context_slope", reason="no network foretold", **numbers)
    *_, unseen = slopes_said(none)
    assert "depend on the context: GATA1 → open (none was learned), open → GATA1 (" in unseen


def test_the_table_of_labels_has_every_method_in_numbers():
    rows = of_deep_iv(TABLE, FOUND, SETTINGS).labels.rows
    width = len(of_deep_iv(TABLE, FOUND, SETTINGS).labels.columns)
    assert rows[0] == Heading("GATA1 → open", "probability per label")
    assert {len(row) for row in rows if not isinstance(row, Heading)} == {width}
    assert [row[0] for row in rows[1:5]] == list(METHODS.values())[:4]
    assert [plain(cell if isinstance(cell, str) else cell.text) for cell in rows[1]] == [
        "Deep IV",
        "0.772 [0.754, 0.790]",
        "< 0.001",
        "[0.754, 0.790]",
        "4120",
        "31.0 %",
        "0.768",
        "9,800",
        "200",
        "",
    ]
    assert plain(rows[1][1].band) == "SE 0.0090, 39 df"
    assert rows[1][7].band == "40 blocks"
    assert rows[4][1] == "0.73"  # without an interval
    assert rows[4][-1] == "no standard error"
    assert rows[2][5] == "–"  # all of the exposure: no share of an instrument
    assert [row.title for row in rows if isinstance(row, Heading)][1] == "open → GATA1"
    assert rows[6][0] == "no estimate"
    assert rows[6][-1] == "open has no motif to make an instrument of"
    by_name = {
        (heading, row[0]): row
        for heading, row in zip(
            np.repeat([0, 1, 2, 3, 4, 5], [5, 2, 5, 2, 5, 2]), rows, strict=True
        )
        if not isinstance(row, Heading)
    }
    weak = by_name[4, "Deep IV"]
    assert not weak[1].marked
    assert weak[-1] == "weak instrument: read the Anderson-Rubin set"
    assert by_name[4, "naive network"][1].marked
    assert by_name[4, "2SLS"][-1] == "weak instrument"
    assert by_name[0, "Deep IV"][1].marked
    assert not by_name[2, "Deep IV"][1].marked


def test_reasons_that_differ_stand_beside_each_method():
    table = changed(direction="reverse", status="too_few_windows", reason="12 windows have both")
    rows = of_deep_iv(table, FOUND, SETTINGS).labels.rows
    assert [row[0] for row in rows[6:10]] == list(METHODS.values())[:4]
    assert rows[6][-1] == "12 windows have both"
    assert rows[7][1] == "–"


def test_the_table_of_slopes_begins_with_mr():
    table = of_deep_iv(TABLE, FOUND, SETTINGS).slopes
    assert table.rows[0] == Heading("GATA1 → open", "logit per logit")
    mr, one, by_context = table.rows[1:4]
    assert mr[0] == Cell("MR", "egger")
    assert plain(mr[1].text) == "0.93 [0.82, 1.04]"
    assert (one[0], by_context[0]) == ("one slope", "slope by context")
    assert one[3] == "–"
    assert (by_context[3].text, plain(by_context[3].band)) == ("0.94", "SE 0.11, p < 0.001")
    assert [plain(cell) for cell in by_context[4:8]] == ["18 %", "0.21", "71", "3,012"]
    rows = [row for row in table.rows if not isinstance(row, Heading)]
    assert {len(row) for row in rows} == {len(table.columns)}
    assert [plain(row[4]) for row in rows if row[0] == "slope by context"][2] == "−3 %"


def test_another_model_has_its_own_slopes_and_the_same_labels():
    two = pd.concat([META, META.assign(model="other")])
    local = pd.concat([LOCAL, LOCAL.assign(model="other")])
    found = answers(two, local, toy_report.PAIRS, None, SETTINGS)
    section = of_deep_iv(TABLE, found, SETTINGS)
    assert section.summary[6].startswith("GATA1 → open (other): labels and network agree in sign.")
    titles = [row.title for row in section.slopes.rows if isinstance(row, Heading)]
    assert titles[0] == "GATA1 → open (cnn)"
    assert not any("other" in title for title in titles)
    assert len([r for r in section.labels.rows if isinstance(r, Heading)]) == 6


def test_a_pair_without_its_row_is_an_error():
    lacking = TABLE[~((TABLE["pair"] == "NRF1_open") & (TABLE["method"] == "deep_iv"))]
    with pytest.raises(ValueError, match="0 rows instead of 1 for the pair NRF1_open, direction"):
        of_deep_iv(lacking, FOUND, SETTINGS)


@pytest.fixture(scope="module")
def context():
    return toy_report.context()


def page_of(context, table):
    page = unescape(render(**(context | {"deep_iv": table})))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    return plain(page)


def test_the_page_says_which_was_run_and_what_it_assumes(context):
    page = page_of(context, TABLE)
    labels = (
        "A causal model learned directly (Deep IV)",
        'href="#deep-iv"',
        "Labels and network agree",
        "the score of the best word of the exposure's motif",
        "compare their signs, not their sizes",
        "<b>Deep IV, exclusion.</b>",
        "<b>Deep IV, context.</b>",
        "<b>Deep IV, local.</b>",
        "<b>Deep IV, units.</b>",
    )
    slopes = ("There is no instrument here.", "<b>Slopes by context.</b>", "slope by context")
    for words in (*labels, *slopes):
        assert words in page
    of_labels = page_of(context, TABLE[TABLE["source"] == "labels"])
    of_model = page_of(context, TABLE[TABLE["source"] == "model"])
    assert all(words in of_labels for words in labels)
    assert not any(words in of_labels for words in slopes)
    assert all(words in of_model for words in (*labels[:2], *slopes))
    assert not any(words in of_model for words in labels[2:])
    assert "The network's own draws are asked" in of_model


def test_the_page_is_silent_where_it_was_not_run(context):
    page = page_of(context, None)
    for words in ("Deep IV", "deep-iv", "Slopes by context", "instrument is weak"):
        assert words not in page


def test_its_picture_is_named_as_the_rule_names_it():
    config = load(ROOT / "config" / "config.yaml")
    off = run.pictures("results/figures", config | {"deep_iv": {"run": False}})
    on = run.pictures("results/figures", config | {"deep_iv": {"run": True}})
    (picture,) = set(on) - set(off)
    assert picture == Picture("deep_iv", "cnn", Path("results/figures/cnn/deep_iv.svg"))
    rule = (ROOT / "workflow" / "rules" / "deep_iv.smk").read_text()
    assert 'f"{FIGURES}/{{model}}/deep_iv.svg"' in rule
    assert 'caption="../report/deep_iv.rst"' in rule


def test_the_toy_table_has_every_column():
    assert list(TABLE.columns) == DEEP_IV.names
