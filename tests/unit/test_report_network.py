"""Decoys and the network, in the words of the report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from deepmr.meta.tables.network import FLAGS, network
from deepmr.report import decoys, wording
from deepmr.report.answers import answers
from deepmr.report.cards import cards
from deepmr.report.network import FLAG_WORDS, network_checks, of_network
from deepmr.report.table import Cell
from deepmr.schemas import NETWORK
from tests import toy_meta, toy_report

LOCAL = toy_report.mr()
COMBINED = toy_meta.complete(toy_report.meta(local=LOCAL))
SETTINGS = toy_report.SETTINGS


def plain(text):
    return text.replace(wording.NBSP, " ")


def found(meta=COMBINED):
    return answers(meta, LOCAL, toy_report.PAIRS, None, SETTINGS)


def with_interval(low, high, pair="GATA1_open", direction="decoy", meta=COMBINED):
    """Return the table of global effects with one interval replaced."""
    rows = (meta["pair"] == pair) & (meta["direction"] == direction)
    rows &= (meta["inference"] == "draw_wise") & (meta["method"] == "egger")
    changed = meta.copy()
    numbers = [(low + high) / 2, low, high]
    changed.loc[rows, ["estimate", "ci_low", "ci_high"]] = numbers
    return changed


def arrows(meta=COMBINED, pairs=toy_report.PAIRS):
    made = network(meta, pairs, method="egger", combination="REML", fdr=SETTINGS.fdr)
    return toy_meta.through_schema(made, NETWORK)


@pytest.mark.parametrize(
    ("decoy", "effect", "judged", "said"),
    [
        (
            (-0.04, 0.1),
            (0.82, 1.04),
            "beyond",
            "gives 0.03 [−0.04, 0.10]: near 0, and the interval of GATA1 → open lies beyond it.",
        ),
        (
            (-0.04, 0.1),
            (-1.04, -0.82),
            "beyond",
            "near 0, and the interval of GATA1 → open lies beyond it.",
        ),
        (
            (-0.1, 0.5),
            (0.1, 0.9),
            "overlaps",
            "gives 0.20 [−0.10, 0.50]: it holds 0 but overlaps the interval of GATA1 → open, so "
            "that the effect cannot be told from what all sequences have in common.",
        ),
        (
            (0.1, 0.3),
            (0.5, 0.9),
            "differs",
            "The decoy itself is not 0: what is common to all sequences, such as the position in "
            "the window, makes part of the estimate. The pair's own interval lies apart from it.",
        ),
        (
            (0.1, 0.3),
            (0.2, 0.9),
            "differs",
            "makes part of the estimate. The pair's own interval does not lie apart from it.",
        ),
        ((0.1, 0.3), (np.nan, np.nan), "differs", "such as the position in the window, makes part"),
        (
            (-0.2, 0.2),
            (-0.1, 0.2),
            "silent_alike",
            "its interval holds 0, as does that of the pair.",
        ),
        ((-0.2, 0.2), (np.nan, np.nan), "silent_alike", "[−0.20, 0.20]: its interval holds 0."),
    ],
)
def test_a_decoy_is_judged_against_its_pair(decoy, effect, judged, said):
    meta = with_interval(*decoy, meta=with_interval(*effect, direction="forward"))
    answer = found(meta)[0]
    assert decoys.judgement(answer) == judged
    text = plain(decoys.sentence(answer))
    assert text.startswith("A decoy (GATA1's effects taken from other sequences) gives ")
    assert said in text
    if np.isnan(effect[0]):
        assert "pair" not in text


def test_a_decoy_that_could_not_be_estimated_says_why():
    meta = with_interval(np.nan, np.nan)
    rows = (meta["pair"] == "GATA1_open") & (meta["direction"] == "decoy")
    for status, reason, said in (
        (
            "no_sequences",
            "no sequence has an estimate: 1 no_partner",
            "no sequence has an estimate: 1 without another sequence to take effects from",
        ),
        ("no_sequences", None, "no sequence had an estimate"),
    ):
        meta.loc[rows, "status"] = status
        meta.loc[rows, "reason"] = reason
        answer = found(meta)[0]
        assert decoys.judgement(answer) == "missing"
        assert decoys.sentence(answer) == (
            "No decoy (GATA1's effects taken from other sequences) could be estimated: "
            + said
            + "."
        )
        (good, note) = decoys.decoy_checks(found(meta))
        assert (good.level, note.level) == ("good", "note")
        assert "GATA1" not in good.text
        assert f"GATA1 → open ({said})" in note.text


def test_a_decoy_that_was_never_asked_is_said():
    meta = COMBINED[(COMBINED["direction"] != "decoy") | (COMBINED["pair"] != "NRF1_open")]
    everything = found(meta)
    assert everything[1].decoy is None
    assert "no sequence was sampled for NRF1" in decoys.sentence(everything[1])
    assert [mark.role for mark in cards(everything, {}, SETTINGS)[1]["marks"]] == [
        "forward",
        "reverse",
    ]


def test_two_rows_of_a_decoy_are_an_error():
    twice = pd.concat([COMBINED, COMBINED[COMBINED["direction"] == "decoy"]])
    with pytest.raises(
        ValueError, match="2 rows instead of 1 for the decoy of the model cnn, pair"
    ):
        found(twice)


def test_decoys_at_0_are_good_and_one_that_differs_is_no_longer():
    (good,) = decoys.decoy_checks(found())
    assert (good.level, good.title) == ("good", "Decoys stay at 0")
    assert "at least 44 sequences each" in good.text
    assert decoys.decoy_checks(found(with_interval(0.1, 0.3))) == []


def test_a_card_shows_its_own_decoy_beside_the_control_pair():
    pairs = toy_report.PAIRS | {"NRF1_open": toy_report.PAIRS["NRF1_open"] | {"control": True}}
    everything = answers(COMBINED, LOCAL, pairs, None, SETTINGS)
    first, null, _ = cards(everything, {}, SETTINGS)
    assert [(mark.role, mark.note) for mark in first["marks"]] == [
        ("forward", ""),
        ("reverse", "reverse"),
        ("decoy", "decoy: GATA1 of other sequences"),
        ("control", "control pair"),
    ]
    decoy = first["marks"][2]
    assert (decoy.name, plain(decoy.text)[:4], decoy.truth) == ("GATA1 → open", "0.03", None)
    assert not decoy.found
    assert [mark.role for mark in null["marks"]] == ["forward", "reverse", "decoy"]
    loud = cards(found(with_interval(0.1, 0.3)), {}, SETTINGS)[0]["marks"][2]
    assert loud.found


def test_a_strip_holds_its_decoy():
    (first, *_) = cards(found(with_interval(-1.9, -1.7)), {}, SETTINGS)
    decoy = first["marks"][2]
    assert 0 < decoy.low < decoy.point < decoy.high < first["marks"][0].low


def test_every_flag_has_words():
    assert list(FLAG_WORDS) == list(FLAGS)


def test_network_lists_all_arrows_with_what_stands_beside_them():
    section = of_network(arrows(), SETTINGS)
    assert plain(section.summary[0]) == (
        "2 of 6 arrows are found (false-discovery rate at most 5 %)."
    )
    assert section.summary[1:] == (
        "Nothing here stands against GATA1 → open and open → JUND (it has no decoy).",
    )
    rows = [
        [plain(cell if isinstance(cell, str) else cell.text) for cell in row]
        for row in section.table.rows
    ]
    assert [row[0] for row in rows][:2] == ["GATA1 → open", "open → GATA1"]
    assert rows[0][1:] == [
        "0.93 [0.82, 1.04]",
        "< 0.001",
        "0.03 [−0.04, 0.10]",
        "0.02 [−0.09, 0.13]",
        "0.90 [0.76, 1.04]",
        "nothing seen",
    ]
    assert rows[1][3] == "–"
    assert rows[1][-1] == "not found"
    assert rows[5][-1] == "nothing seen; it has no decoy"
    first = section.table.rows[0]
    assert first[0].band == "71 sequences"
    assert first[1].marked
    assert not section.table.rows[1][1].marked
    assert first[5].band == "given NRF1 and JUND (mv_ivw, 71 sequences)"
    assert section.table.rows[1][5].band == ""
    assert len(section.table.columns) == len(first)


def test_flags_are_words_in_the_table_and_warnings_in_the_checks():
    table = arrows()
    table.loc[0, "flag"] = "decoy_differs_from_zero,not_beyond_decoy"
    table.loc[5, "flag"] = "not_conditional"
    table.loc[4, "flag"] = "sign_changes"
    section = of_network(table, SETTINGS)
    assert section.table.rows[0][-1] == "the decoy is not 0; not beyond its decoy"
    assert section.summary[1] == (
        "Not to be read as a cause without more: GATA1 → open (the decoy is not 0; not beyond its "
        "decoy); open → JUND (not seen given the other exposures)."
    )
    listed = {check.title: check for check in network_checks(table, found())}
    assert {check.level for check in listed.values()} == {"warn"}
    assert list(listed) == [
        "A decoy is not 0",
        "Not beyond the decoy",
        "Another exposure may explain it",
        "The sign changes given the other exposures",
    ]
    assert listed["A decoy is not 0"].text.startswith("GATA1 → open: with the exposure's effects")
    assert listed["Another exposure may explain it"].text.startswith("open → JUND: found alone")
    assert listed["The sign changes given the other exposures"].text.startswith("JUND → open:")
    assert network_checks(arrows(), found()) == []


def test_a_direction_that_is_not_identified_is_warned_of_once():
    table = arrows()
    table.loc[[0, 1], "flag"] = "both_directions"
    (check,) = network_checks(table, found())
    assert check.title == "Direction not identified"
    assert check.text.startswith("GATA1 → open and open → GATA1: significant both ways")
    warned = found(with_interval(0.3, 0.5, direction="reverse"))
    assert warned[0].verdict == "both"
    assert network_checks(table, warned) == []
    assert of_network(table, SETTINGS).table.rows[1][-1] == FLAG_WORDS["both_directions"]


def test_a_network_without_a_find_or_without_a_number():
    table = arrows()
    table["significant"] = False
    numbers = ["estimate", "ci_low", "ci_high", "fdr", "q_value"]
    table.loc[0, numbers] = np.nan
    table.loc[0, "status"] = "no_sequences"
    strict = of_network(table, replace(SETTINGS, fdr=0.005))
    assert [plain(text) for text in strict.summary] == [
        "None of 6 arrows is found (false-discovery rate at most 0.5 %)."
    ]
    row = strict.table.rows[0]
    assert (row[1].text, row[2], row[-1]) == (
        "no sequence had an estimate",
        Cell("–", ""),
        "not estimated",
    )
    assert "nan" not in str(strict).lower()


def test_a_control_pair_is_named_in_the_network():
    pairs = toy_report.PAIRS | {"NRF1_open": toy_report.PAIRS["NRF1_open"] | {"control": True}}
    section = of_network(arrows(pairs=pairs), SETTINGS)
    assert section.table.rows[2][0] == Cell("NRF1 → open", "72 sequences, control pair")
    single = of_network(arrows(pairs=pairs).assign(k=1), SETTINGS)
    assert single.table.rows[2][0].band == "1 sequence, control pair"


def test_models_are_told_apart_in_the_network():
    both = pd.concat([arrows(), arrows().assign(model="other", flag="not_conditional")])
    section = of_network(both, SETTINGS)
    assert section.table.rows[0][0].text == "GATA1 → open (cnn)"
    assert "GATA1 → open (other)" in section.summary[2]


def test_an_unknown_flag_is_an_error():
    table = arrows()
    table.loc[0, "flag"] = "odd"
    with pytest.raises(
        ValueError, match="unknown flag 'odd' of GATA1_open, forward; flags are both"
    ):
        of_network(table, SETTINGS)
