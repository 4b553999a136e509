from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import tables
from deepmr.meta.tables.network import EGGER_KINDS, FLAGS, network
from deepmr.mr.registry import ESTIMATORS
from deepmr.schemas import META, NETWORK

PAIRS = {
    "A_Y": {"exposure": "A", "outcome": "Y", "control": False},
    "B_Y": {"exposure": "B", "outcome": "Y", "control": True},
    "Y_C": {"exposure": "Y", "outcome": "C"},
}


def row(pair, direction, estimate, half, fdr=0.5, method="egger", **changes):
    exposure, outcome = PAIRS[pair]["exposure"], PAIRS[pair]["outcome"]
    if direction == "reverse":
        exposure, outcome = outcome, exposure
    values = {
        "model": "net",
        "pair": pair,
        "direction": direction,
        "exposure": exposure,
        "outcome": outcome,
        "method": method,
        "instrument_rule": "motif",
        "stratum": "all",
        "combination": "REML",
        "inference": "draw_wise",
        "k": 40,
        "estimate": estimate,
        "se": half / 1.96,
        "ci_low": estimate - half,
        "ci_high": estimate + half,
        "p_value": 0.01,
        "fdr": fdr,
        "q_value": fdr / 2,
        "conditional_f": 30.0 if method.startswith("mv") else np.nan,
        "status": "ok",
    }
    return dict.fromkeys(META.names) | values | changes


def edges(*rows, method="egger", pairs=PAIRS, fdr=0.05):
    return network(pd.DataFrame(rows), pairs, method=method, combination="REML", fdr=fdr)


def one(table, pair="A_Y", direction="forward"):
    found = table[(table["pair"] == pair) & (table["direction"] == direction)]
    assert len(found) == 1
    return found.iloc[0]


def test_an_edge_stands_beside_its_decoy_the_other_direction_and_its_conditional_effect():
    table = edges(
        row("A_Y", "forward", 0.9, 0.1, 0.001),
        row("A_Y", "reverse", 0.02, 0.1, 0.8, p_value=0.7),
        row("A_Y", "decoy", 0.03, 0.07, np.nan, p_value=0.4),
        row("A_Y", "forward", 0.7, 0.2, 0.002, "mv_ivw", k=38),
        row("B_Y", "forward", 0.1, 0.3),
    )
    edge = one(table)
    assert list(table.columns) == NETWORK.names
    assert (edge["estimate"], edge["fdr"], edge["q_value"], edge["k"]) == (0.9, 0.001, 0.0005, 40)
    assert edge["decoy_estimate"] == 0.03
    assert (edge["decoy_ci_low"], edge["decoy_ci_high"]) == pytest.approx((-0.04, 0.1))
    assert edge["decoy_p_value"] == 0.4
    assert (edge["back_estimate"], edge["back_fdr"]) == (0.02, 0.8)
    assert (edge["back_ci_low"], edge["back_ci_high"]) == pytest.approx((-0.08, 0.12))
    assert (edge["conditional_estimate"], edge["conditional_k"]) == (0.7, 38)
    assert edge["conditional_method"] == "mv_ivw"
    assert edge["conditional_on"] == "B,C"
    assert edge["significant"]
    assert edge["flag"] == ""
    back = one(table, direction="reverse")
    assert (back["exposure"], back["outcome"]) == ("Y", "A")
    assert (back["back_estimate"], back["back_fdr"]) == (0.9, 0.001)
    assert back[["decoy_estimate", "decoy_ci_low", "decoy_ci_high", "decoy_p_value"]].isna().all()
    assert pd.isna(back["conditional_on"])
    assert not back["significant"]


def test_rows_follow_the_pairs_and_a_question_without_sequences_has_a_status():
    table = edges(row("B_Y", "forward", 0.1, 0.3), row("B_Y", "forward", 0.2, 0.3, model="a"))
    of_model = [(name, way) for name in PAIRS for way in ("forward", "reverse")]
    assert list(zip(table["pair"], table["direction"], strict=True)) == 2 * of_model
    assert list(table["model"]) == 6 * ["a"] + 6 * ["net"]
    assert one(table.tail(6), "B_Y")["control"]
    asked = one(table.tail(6), "Y_C", "reverse")
    assert (asked["exposure"], asked["outcome"]) == ("C", "Y")
    assert (asked["status"], asked["k"], asked["flag"]) == ("no_sequences", 0, "")
    assert np.isnan(asked["estimate"])
    assert not asked["significant"]


def test_a_conditional_effect_that_is_hardly_identified_stands_against_nothing():
    rows = [row("A_Y", "forward", 0.9, 0.1, 0.01)]
    for f, flag in ((30.0, "not_conditional"), (9.9, ""), (np.nan, "")):
        given = row("A_Y", "forward", 0.1, 0.4, method="mv_egger", conditional_f=f)
        found = one(edges(*rows, given))
        assert found["flag"] == flag
        np.testing.assert_equal(found["conditional_f"], f)


@pytest.mark.parametrize(
    ("rows", "flag"),
    [
        ([("forward", 0.9, 0.1, 0.01), ("reverse", 0.4, 0.1, 0.05)], "both_directions"),
        ([("forward", 0.9, 0.1, 0.01), ("reverse", 0.4, 0.1, 0.051)], ""),
        ([("forward", 0.1, 0.3, 0.06), ("reverse", 0.4, 0.1, 0.01)], ""),
        ([("forward", 0.9, 0.1, 0.01), ("decoy", 0.2, 0.1, np.nan)], "decoy_differs_from_zero"),
        ([("forward", 0.1, 0.9, 0.70), ("decoy", -0.2, 0.1, np.nan)], "decoy_differs_from_zero"),
        ([("forward", 0.3, 0.1, 0.01), ("decoy", 0.0, 0.2, np.nan)], "not_beyond_decoy"),
        ([("forward", 0.3, 0.1, 0.01), ("decoy", 0.0, 0.199, np.nan)], ""),
        ([("forward", -0.3, 0.1, 0.01), ("decoy", 0.0, 0.2, np.nan)], "not_beyond_decoy"),
        ([("forward", 0.3, 0.4, 0.20), ("decoy", 0.0, 0.2, np.nan)], ""),
        (
            [("forward", 0.3, 0.2, 0.01), ("decoy", 0.2, 0.1, np.nan)],
            "decoy_differs_from_zero,not_beyond_decoy",
        ),
        ([("forward", 0.9, 0.1, 0.01), ("forward", 0.1, 0.1, 0.4, "mv_egger")], "not_conditional"),
        ([("forward", 0.9, 0.1, 0.01), ("forward", 0.2, 0.1, 0.4, "mv_egger")], ""),
        ([("forward", 0.9, 1.0, 0.30), ("forward", 0.1, 0.2, 0.4, "mv_egger")], ""),
        ([("forward", 0.9, 0.1, 0.01), ("forward", -0.5, 0.1, 0.4, "mv_egger")], "sign_changes"),
        ([("forward", -0.9, 0.1, 0.01), ("forward", 0.5, 0.1, 0.4, "mv_egger")], "sign_changes"),
        ([("forward", 0.9, 1.0, 0.30), ("forward", -0.5, 0.1, 0.4, "mv_egger")], ""),
        ([("forward", 0.9, np.inf, 0.30), ("decoy", 0.0, np.nan, np.nan)], ""),
    ],
)
def test_flags(rows, flag):
    table = edges(*(row("A_Y", *one_row) for one_row in rows))
    assert one(table)["flag"] == flag
    assert one(table)["significant"] == (rows[0][3] <= 0.05)


def test_the_vocabulary_of_flags_is_the_one_documented():
    assert set(FLAGS) == {
        "both_directions",
        "decoy_differs_from_zero",
        "not_beyond_decoy",
        "not_conditional",
        "sign_changes",
    }
    assert all(f"``{flag}``" in network.__doc__ for flag in FLAGS)


def test_both_rows_of_a_pair_say_that_its_direction_is_not_identified():
    table = edges(row("A_Y", "forward", 0.9, 0.1, 0.01), row("A_Y", "reverse", 0.4, 0.1, 0.02))
    assert list(table[table["flag"] == "both_directions"]["direction"]) == ["forward", "reverse"]
    strict = edges(
        row("A_Y", "forward", 0.9, 0.1, 0.01), row("A_Y", "reverse", 0.4, 0.1, 0.02), fdr=0.015
    )
    assert list(strict["flag"]) == [""] * 6
    assert list(strict["significant"]) == [True] + [False] * 5


@pytest.mark.parametrize(
    ("method", "there", "used"),
    [
        ("egger", ["mv_ivw", "mv_egger"], "mv_egger"),
        ("egger_profile", ["mv_egger"], "mv_egger"),
        ("egger", ["mv_ivw"], "mv_ivw"),
        ("weighted_median", ["mv_ivw", "mv_egger"], "mv_ivw"),
        ("ivw", ["mv_egger"], None),
        ("ivw", [], None),
    ],
)
def test_the_conditional_method_follows_the_primary_one(method, there, used):
    table = edges(
        row("A_Y", "forward", 0.9, 0.1, 0.01, method),
        *(row("A_Y", "forward", 0.8, 0.1, 0.01, name) for name in there),
        method=method,
    )
    found = one(table)["conditional_method"]
    assert (None if pd.isna(found) else found) == used


def test_kinds_of_egger_regression_are_those_of_the_registry():
    assert set(EGGER_KINDS) == {name for name in ESTIMATORS if "egger" in name}


def test_other_rows_of_the_table_are_not_looked_at():
    main = row("A_Y", "forward", 0.9, 0.1, 0.01)
    others = [
        main | {"estimate": 5.0} | change
        for change in (
            {"stratum": "bound"},
            {"stratum": "cpg=yes"},
            {"inference": "diagonal"},
            {"inference": "chromosome"},
            {"combination": "median"},
            {"method": "ivw"},
            {"direction": "decoy", "stratum": "bound"},
        )
    ]
    pd.testing.assert_frame_equal(edges(main, *others), edges(main))


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(7)))
def test_the_order_of_the_rows_does_not_matter(order):
    rows = [
        row("A_Y", "forward", 0.9, 0.1, 0.001),
        row("A_Y", "reverse", 0.5, 0.1, 0.004),
        row("A_Y", "decoy", 0.3, 0.07, np.nan),
        row("A_Y", "forward", 0.7, 0.9, 0.002, "mv_ivw"),
        row("A_Y", "forward", 0.6, 0.2, 0.002, "mv_egger"),
        row("B_Y", "forward", 0.1, 0.3),
        row("Y_C", "reverse", 0.1, 0.3, model="b"),
    ]
    pd.testing.assert_frame_equal(edges(*(rows[i] for i in order)), edges(*rows))


def test_the_table_is_written_whatever_is_missing(tmp_path):
    everything = edges(
        row("A_Y", "forward", 0.9, 0.1, 0.001),
        row("A_Y", "decoy", 0.0, 0.1, np.nan),
        row("A_Y", "forward", 0.7, 0.2, 0.002, "mv_ivw"),
    )
    little = edges(row("A_Y", "forward", np.nan, np.nan, np.nan, k=0, status="no_sequences"))
    nothing = network(
        pd.DataFrame(columns=META.names), PAIRS, method="egger", combination="REML", fdr=0.05
    )
    assert (len(everything), len(little), len(nothing)) == (6, 6, 0)
    for table in (everything, little, nothing):
        path = tmp_path / "network.parquet"
        tables.write_table(pa.Table.from_pandas(table, preserve_index=False), path, NETWORK)
        back = tables.read_table(path)
        assert back.schema.remove_metadata() == NETWORK
        assert back["estimate"].null_count == len(table) - table["estimate"].notna().sum()
        pd.testing.assert_frame_equal(back.to_pandas(), table, check_dtype=False)


def test_what_contradicts_the_configuration_is_named():
    main = row("A_Y", "forward", 0.9, 0.1, 0.01)
    with pytest.raises(ValueError, match=r"'profile' and the combination 'REML'.*egger with REML"):
        edges(main, method="profile")
    with pytest.raises(ValueError, match=r"no pair is called 'A_Y'; pairs are B_Y"):
        edges(main, pairs={"B_Y": PAIRS["B_Y"]})
    with pytest.raises(ValueError, match=r"pair 'A_Y', forward: .* B on Y, .* A on Y"):
        edges(main | {"exposure": "B"})
    with pytest.raises(ValueError, match=r"2 rows of one method .* 'net', pair 'A_Y', forward"):
        edges(main, main)
    with pytest.raises(ValueError, match="lacks the columns q_value, status"):
        network(
            pd.DataFrame([main]).drop(columns=["q_value", "status"]),
            PAIRS,
            method="egger",
            combination="REML",
            fdr=0.05,
        )
