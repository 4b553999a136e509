"""How sequences differ, what goes with it, and the three inferences, as the report says them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepmr.meta.tables import moderators as fitted
from deepmr.report import moderators, wording
from deepmr.report.answers import answers
from deepmr.report.heterogeneity import of_heterogeneity
from deepmr.report.inferences import of_inferences
from deepmr.report.moderators import of_moderators
from deepmr.report.small_study import influence_checks, of_small_study
from deepmr.report.summaries import pairs_table, views_table
from deepmr.report.table import Cell, Heading
from tests import toy_meta, toy_report
from tests.toy_meta import emptied

LOCAL = toy_report.mr()
COMBINED = toy_meta.complete(toy_report.meta(local=LOCAL))
TABLES = toy_report.tables_of(COMBINED, LOCAL)
SETTINGS = toy_report.SETTINGS
CAUSAL = {"pair": "GATA1_open", "direction": "forward"}
SLOPE = CAUSAL | {"term": "predicted_exposure"}


def plain(text):
    return text.replace(wording.NBSP, " ")


ANSWERS = answers(TABLES["meta"], LOCAL, toy_report.PAIRS, None, SETTINGS)


def found(meta=TABLES["meta"]):
    if meta is TABLES["meta"]:
        return ANSWERS
    return answers(meta, LOCAL, toy_report.PAIRS, None, SETTINGS)


def changed(name, values, **where):
    """Return a table of the run with some columns replaced in some rows."""
    table = TABLES[name].copy()
    chosen = np.logical_and.reduce([table[key] == value for key, value in where.items()])
    for key, value in values.items():
        table.loc[chosen, key] = value
    return table


def main(values, **where):
    """Return the table of global effects with the row that the report speaks of changed."""
    rows = {"method": "egger", "combination": "REML", "stratum": "all", "inference": "draw_wise"}
    return changed("meta", values, **(rows | where))


def cells(table):
    """Return the rows of a table as text, a heading as its title."""
    return [
        [plain(cell if isinstance(cell, str) else f"{cell.text}|{cell.band}") for cell in row]
        if not isinstance(row, Heading)
        else row.title
        for row in table.rows
    ]


def differ(meta=TABLES["meta"], diagnostics=TABLES["meta_diagnostics"]):
    return of_heterogeneity(meta, diagnostics, found(meta), SETTINGS)


def test_spread_and_shares_of_effects_that_differ_from_0():
    section = differ()
    assert [plain(text) for text in section.summary] == [
        "GATA1 → open: sequences differ by more than their errors (τ 0.100 [0.063, 0.141]); a new "
        "one is expected in [0.70, 1.16]. 92 ± 3 % of sequences have a positive effect, 1 ± 3 % a "
        "negative one, 7 ± 3 % none; the sign is sure in 61 of 71.",
        "open → JUND: sequences differ by more than their errors (τ 0.100 [0.063, 0.141]); a new "
        "one is expected in [0.46, 0.92]. 92 ± 3 % of sequences have a positive effect, 1 ± 3 % a "
        "negative one, 7 ± 3 % none; the sign is sure in 61 of 73.",
    ]
    assert section.convention.startswith("metafor's convention")
    assert cells(section.spread)[0] == [
        "GATA1 → open",
        "71|",
        "0.93 [0.82, 1.04]",
        "0.100 [0.063, 0.141]",
        "31 [15, 48]",
        "1.40 [1.18, 1.92]",
        "0.2",
        "[0.70, 1.16]",
    ]
    assert cells(section.shares)[1] == ["open → GATA1", "71", "88 ± 3 %", "5 ± 3 %", "7 ± 3 %", "2"]
    assert len(section.spread.rows) == len(section.shares.rows) == len(section.strata.rows) == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"tau2_low": 0.0},
            "no difference between sequences can be told from their errors (τ 0.10",
        ),
        ({"tau2_low": np.nan}, "sequences differ by τ 0.100; a new one"),
        ({"tau2": np.nan}, "how far sequences differ is not estimated by this combination. 92 ± 3"),
        (
            {"tau2": np.nan, "reason": "a single sequence tells nothing"},
            "GATA1 → open: a single sequence tells nothing. 92",
        ),
        ({"pi_low": -0.1}, "expected in [−0.10, 1.16], which holds 0."),
        ({"pi_low": np.nan}, "(τ 0.100 [0.063, 0.141]). 92 ± 3 %"),
        ({"tau2_high": np.inf}, "(τ 0.10 [0.06, ∞])"),
    ],
)
def test_spread_in_words(values, said):
    assert said in plain(differ(main(values, **CAUSAL)).summary[0])


def test_one_effect_for_all_is_no_estimate_of_their_spread():
    values = {"combination": "FE", "tau2": 0.0, "tau2_low": np.nan, "tau2_high": np.nan}
    meta = main(values | {"pi_low": np.nan, "pi_high": np.nan})
    equal = replace(SETTINGS, combination="FE")
    of_equal = answers(meta, LOCAL, toy_report.PAIRS, None, equal)
    section = of_heterogeneity(meta, TABLES["meta_diagnostics"], of_equal, equal)
    assert plain(section.summary[0]).startswith(
        "GATA1 → open: FE takes one effect for all sequences; how far they differ is not estimated."
    )
    assert cells(section.spread)[0][3] == "–"


def test_sequences_left_out_are_counted_beside_the_rest():
    why = "3 of 74 sequences left out: standard error is 0, missing or infinite"
    assert cells(differ(main({"reason": why}, **CAUSAL)).spread)[0][1] == f"71|{why}"


def test_without_an_effect_the_numbers_are_left_to_the_table():
    meta = changed("meta", {"ci_low": -1.0, "ci_high": 1.0}, inference="draw_wise")
    assert differ(meta).summary == (
        "No effect differs from 0; how far sequences differ all the same is below.",
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("hts", "that of Higgins, Thompson and Spiegelhalter (t with k − 2 degrees of freedom)"),
        ("odd", "odd"),
    ],
)
def test_the_convention_of_prediction_intervals_is_named(kind, said):
    assert differ(changed("meta", {"pi_kind": kind}, inference="draw_wise")).convention == said
    none = emptied(TABLES["meta"], ["pi_low", "pi_high"])
    section = differ(none)
    assert section.convention == ""
    assert {row[-1] for row in cells(section.spread)} == {"–"}


def test_strata_stand_side_by_side_without_decoys_and_other_methods():
    section = differ()
    assert section.strata.columns == ("effect", "all", "bound", "unbound", "enhancer: yes")
    row = cells(section.strata)[0]
    assert row[1] == "0.93 [0.82, 1.04]|71 of 100 sequences"
    assert row[2].endswith("|50 of 50 sequences")
    assert row[4].endswith("|25 of 25 sequences")
    empty = {"estimate": np.nan, "ci_low": np.nan, "k": 0, "status": "no_sequences"}
    meta = changed("meta", empty, stratum="unbound", **CAUSAL)
    assert cells(differ(meta).strata)[0][3] == "–|0 of 50 sequences"
    lacking = TABLES["meta"][
        ~((TABLES["meta"]["stratum"] == "unbound") & (TABLES["meta"]["pair"] == "GATA1_open"))
    ]
    assert cells(differ(lacking).strata)[0][3] == "–"


def test_an_effect_without_an_estimate_says_why_in_every_table():
    numbers = dict.fromkeys(TABLES["meta"].select_dtypes("float64"), np.nan)
    why = {
        "k": 0,
        "status": "no_sequences",
        "reason": "no sequence has an estimate: 9 no_motif_hit",
    }
    meta = main(numbers | why, **CAUSAL)
    shares = [name for name in TABLES["meta_diagnostics"] if name.startswith("share")]
    diagnostics = emptied(TABLES["meta_diagnostics"], shares, **CAUSAL)
    diagnostics.loc[0, ["status", "reason"]] = ["few_sequences", None]
    section = differ(meta, diagnostics)
    words = "no sequence has an estimate: 9 without a motif hit of the exposure"
    assert cells(section.spread)[0][:4] == ["GATA1 → open", "0", f"–|{words}", "–"]
    assert len(section.spread.rows[0]) == len(section.spread.columns)
    assert cells(section.shares)[0] == ["GATA1 → open", "71|two sequences only", *["–"] * 4]
    assert cells(differ(meta, diagnostics[1:]).shares)[0] == ["GATA1 → open", *["–"] * 5]
    assert "nan" not in str(section).lower()


def test_shares_without_draws_have_no_spread():
    sds = [name for name in TABLES["meta_diagnostics"] if name.endswith("_sd")]
    section = differ(diagnostics=emptied(TABLES["meta_diagnostics"], sds))
    assert cells(section.shares)[0][2] == "7 %"
    assert "92 % of sequences have a positive effect, 1 % a" in plain(section.summary[0])


def test_covariates_in_words():
    section = of_moderators(TABLES["meta_regression"], found())
    assert [plain(text) for text in section.summary] == [
        "GATA1 → open: the effect is larger where the model predicts more GATA1: "
        "+0.08 [0.02, 0.14] per logit (with the other covariates in the model +0.07 [0.01, 0.13]).",
        "Not seen to change with any covariate: open → GATA1, NRF1 → open, open → NRF1, "
        "JUND → open and open → JUND. That may be for want of sequences; the intervals tell.",
    ]
    rows = cells(section.table)
    assert rows[0] == "GATA1 → open"
    assert rows[2] == [
        "predicted GATA1",
        "per logit",
        "71",
        "+0.08 [0.02, 0.14]",
        "0.0077",
        "12 %",
        "+0.07 [0.01, 0.13]",
        "0.019",
    ]
    assert [row[0] for row in rows[1:6]] == [
        "GC content",
        "predicted GATA1",
        "distance of the motifs",
        "bound or not",
        "enhancer: yes",
    ]
    assert len(rows) == 6 * 6


@pytest.mark.parametrize(
    ("term", "estimate", "said"),
    [
        ("gc", 0.2, "larger where more bases are G or C: +0.20 [0.02, 0.40] per 0.1"),
        ("gc", -0.2, "smaller where more bases are G or C: −0.20"),
        (
            "motif_distance",
            0.2,
            "larger where the motifs of GATA1 and open lie further apart: +0.20",
        ),
        ("bound", -0.2, "smaller in bound than in unbound sequences: −0.20"),
        ("enhancer=yes", 0.2, "larger in sequences with enhancer: yes: +0.20"),
    ],
)
def test_each_covariate_has_its_words(term, estimate, said):
    values = {"estimate": estimate, "p_value": 0.01}
    values |= (
        {"ci_low": 0.02, "ci_high": 0.4} if estimate > 0 else {"ci_low": -0.4, "ci_high": -0.02}
    )
    where = CAUSAL | {"term": term, "covariates": "alone"}
    section = of_moderators(changed("meta_regression", values, **where), found())
    assert said in plain(section.summary[0])


def test_a_number_of_an_annotation_and_an_effect_at_0_have_words():
    rows = changed("meta_regression", {"term": "depth"}, **(CAUSAL | {"term": "gc"}))
    rows.loc[rows["term"] == "depth", ["estimate", "p_value"]] = [0.3, 0.01]
    assert "larger with more depth: +0.3" in plain(of_moderators(rows, found()).summary[0])
    silent = found(main({"ci_low": -1.0}, **CAUSAL))
    assert "the effect is higher with more depth" in of_moderators(rows, silent).summary[0]
    negative = found(main({"estimate": -0.9, "ci_low": -1.0, "ci_high": -0.8}, **CAUSAL))
    assert "the effect is smaller with more depth" in of_moderators(rows, negative).summary[0]
    rows.loc[rows["term"] == "depth", "estimate"] = -0.3
    assert "the effect is lower with more depth" in of_moderators(rows, silent).summary[0]


def test_covariates_that_could_not_be_tested_say_why():
    empty = {"estimate": np.nan, "ci_low": np.nan, "p_value": np.nan, "r2": np.nan, "unit": None}
    why = {"status": "constant_covariate", "reason": "gc is the same in all 71 sequences"}
    only = changed("meta_regression", empty | why, **(CAUSAL | {"term": "gc"}))
    row = of_moderators(only, found()).table.rows[1]
    assert row[1] == "–"
    assert row[3] == Cell("–", "gc is the same in all 71 sequences")
    assert row[4:] == ("–", "–", Cell("–", "gc is the same in all 71 sequences"), "–")
    none = changed("meta_regression", empty | {"status": "too_few_sequences"}, **CAUSAL)
    none.loc[none["pair"] == "GATA1_open", "reason"] = None
    assert of_moderators(none, found()).summary[-1] == (
        "No covariate could be tested for GATA1 → open (too few sequences)."
    )
    together = TABLES["meta_regression"]
    alone = together[together["covariates"] == "alone"]
    section = of_moderators(alone, found())
    assert plain(section.summary[0]).endswith("+0.08 [0.02, 0.14] per logit.")
    assert cells(section.table)[2][-2:] == ["–", "–"]
    nothing = of_moderators(together.iloc[:0], found())
    assert (nothing.summary, nothing.table.rows) == ((), ())


def test_the_intercept_is_called_as_its_table_calls_it():
    assert moderators.INTERCEPT == fitted.INTERCEPT


def studied(diagnostics=TABLES["meta_diagnostics"], meta=TABLES["meta"]):
    return of_small_study(diagnostics, TABLES["sequence_effects"], found(meta))


def test_small_study_tests_are_read_as_dilution():
    section = studied()
    assert [plain(text) for text in section.small_study_summary] == [
        "GATA1 → open: sequences that are less sure have an effect nearer 0, as weak instruments "
        "make it: they dilute it (Egger and rank test)."
    ]
    assert cells(section.small_study)[0] == [
        "GATA1 → open",
        "71|",
        "−2.60",
        "0.009",
        "−0.18",
        "0.03",
        "0.93",
        "5",
        "0.96",
    ]


@pytest.mark.parametrize(
    ("values", "row", "said"),
    [
        ({"egger_z": 2.6}, {}, "have a larger effect, as where a large slope makes its own"),
        ({"egger_p": 0.4, "rank_tau": 0.2}, {}, "have a larger effect"),
        ({"egger_p": 0.4}, {}, "they dilute it (rank test)."),
        ({"rank_p": np.nan}, {}, "they dilute it (Egger)."),
        ({}, {"ci_low": -1.0}, "sequences that are less sure say less (Egger and rank test)."),
        ({"egger_z": 2.6}, {"ci_low": -1.0}, "sequences that are less sure say more"),
        ({}, {"estimate": -0.9, "ci_low": -1.0, "ci_high": -0.8}, "have a larger effect"),
        ({"egger_p": 0.4, "rank_p": 0.4}, {}, "No effect is seen to depend on its own"),
    ],
)
def test_small_study_tests_in_words(values, row, said):
    diagnostics = changed("meta_diagnostics", values, **CAUSAL)
    assert said in plain(studied(diagnostics, main(row, **CAUSAL)).small_study_summary[0])


def test_tests_that_were_not_made_are_dashes_with_their_reason():
    numbers = dict.fromkeys(TABLES["meta_diagnostics"].select_dtypes("float64"), np.nan)
    why = {"k": 2, "n_influential": np.nan, "trim_fill_k0": np.nan, "most_influential": None}
    table = TABLES["meta_diagnostics"].assign(
        **(numbers | why), status="few_sequences", reason="two sequences hardly tell"
    )
    section = studied(table)
    assert section.small_study_summary == ("No effect has enough sequences for a test.",)
    assert section.influence_summary == (
        "No effect that differs from 0 has enough sequences to leave one out.",
    )
    assert cells(section.small_study)[0] == [
        "GATA1 → open",
        "2|two sequences hardly tell",
        *["–"] * 4,
        "0.93",
        *["–"] * 2,
    ]
    assert cells(section.influence)[0][2:] == ["0.93", "–", "–", "–", "–", "–"]
    assert influence_checks(table, found()) == []
    assert studied(table.iloc[:0]).influence.rows == ()


def test_influence_of_single_sequences():
    section = studied()
    assert [plain(text) for text in section.influence_summary] == [
        "No single sequence carries GATA1 → open and open → JUND: leaving any one out moves the "
        "estimate by at most 2 % of it."
    ]
    diagnosed = TABLES["meta_diagnostics"].iloc[0]
    single = TABLES["sequence_effects"]
    one = single[
        (single["sequence_id"] == diagnosed["most_influential"])
        & (single["pair"] == "GATA1_open")
        & (single["direction"] == "forward")
    ]
    assert cells(section.influence)[0] == [
        "GATA1 → open",
        "71|",
        "0.93",
        "0.92 to 0.94",
        "2",
        diagnosed["most_influential"],
        "1.4 %",
        f"{one['without'].iloc[0]:.2f}",
    ]
    assert influence_checks(TABLES["meta_diagnostics"], found()) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"without_one_low": 0.5}, "between 0.50 and 0.94."),
        ({"without_one_high": 1.2}, "between 0.92 and 1.20."),
        ({"without_one_low": -0.1}, "between −0.10 and 0.94."),
    ],
)
def test_an_effect_that_hangs_on_one_sequence_is_warned_of(values, said):
    diagnostics = changed("meta_diagnostics", values, **CAUSAL)
    (text,) = studied(diagnostics).influence_summary
    assert plain(text).startswith(
        "GATA1 → open hangs on one sequence: leaving one out, whichever it is, puts the estimate "
        "between"
    )
    assert plain(text).endswith(said)
    (check,) = influence_checks(diagnostics, found())
    assert (check.level, check.title) == ("warn", "One sequence carries an answer")
    name = diagnostics["most_influential"].iloc[0]
    assert check.text.startswith(f"GATA1 → open ({name}):")


def test_leaving_one_out_by_reml_is_not_held_against_a_median():
    apart = changed("meta_diagnostics", {"without_one_low": 0.5, "without_one_high": 0.6}, **CAUSAL)
    median = replace(SETTINGS, combination="median")
    of_median = answers(TABLES["meta"], LOCAL, toy_report.PAIRS, None, median)
    assert influence_checks(apart, found()) != []
    assert influence_checks(apart, of_median) == []
    section = of_small_study(apart, TABLES["sequence_effects"], of_median)
    assert [plain(text) for text in section.influence_summary] == [
        "No single sequence carries GATA1 → open and open → JUND: leaving any one out does not "
        "change the sign of the estimate by REML."
    ]
    assert cells(section.influence)[0][3] == "0.50 to 0.60|by REML"
    assert cells(section.small_study)[0][-1].endswith("|by REML")
    other_sign = changed("meta_diagnostics", {"without_one_low": -0.5}, **CAUSAL)
    assert len(influence_checks(other_sign, of_median)) == 1
    section = of_small_study(other_sign, TABLES["sequence_effects"], of_median)
    assert "puts the estimate by REML between −0.50 and" in plain(section.influence_summary[0])


def test_three_inferences_in_words_and_numbers():
    section = of_inferences(found())
    first, doubt, diagonal, chromosomes = (plain(text) for text in section.summary)
    assert first.startswith("Draw-wise is used: one network made the estimates of all sequences")
    assert first.endswith(
        "wrong in all sequences alike stays in the interval however many sequences there are."
    )
    assert doubt == (
        "Of the variance of GATA1 → open, 91 % is error of the network (the fraction of missing "
        "information). Further sequences remove of it only what is not the same in all of them."
    )
    assert diagonal == (
        "A diagonal analysis takes every sequence for an independent study and would claim "
        "0.930 [0.895, 0.965], 3.2 times as narrow."
    )
    assert "within a chromosome only" in chromosomes
    row = cells(section.table)[0]
    assert row[:2] == ["GATA1 → open", "0.93 [0.82, 1.04]"]
    assert row[2].endswith("|4 chromosomes; df 2.6")
    assert row[3:] == ["0.930 [0.895, 0.965]", "0.018", "0.055", "91 %", "1.4 ×", "3.2 ×"]


def test_what_a_diagonal_analysis_would_claim_beyond():
    where = {"inference": "diagonal"} | CAUSAL | {"pair": "NRF1_open"}
    meta = changed("meta", {"ci_low": -0.04, "ci_high": -0.01}, **where)
    text = " ".join(of_inferences(found(meta)).summary)
    assert "claim an effect where the draw-wise interval holds 0: NRF1 → open." in text


def test_inferences_that_are_not_there_are_dashes():
    why = {"estimate": np.nan, "se": np.nan, "status": "single_cluster", "reason": "one chromosome"}
    meta = changed("meta", why, inference="chromosome")
    assert of_inferences(found(meta)).table.rows[0][2] == Cell("–", "one chromosome")
    assert of_inferences(found(meta)).table.rows[0][-2] == "–"
    alone = TABLES["meta"][TABLES["meta"]["inference"] == "draw_wise"]
    section = of_inferences(found(emptied(alone, ["fmi"])))
    assert len(section.summary) == 1
    assert cells(section.table)[0][2:4] == ["–", "–"]
    assert cells(section.table)[0][6:] == ["–", "–", "–"]
    nothing = of_inferences(found(emptied(TABLES["meta"], ["ci_low"])))
    assert (len(nothing.summary), nothing.table.rows) == (1, ())


def test_a_diagonal_interval_that_is_wider_is_not_called_narrow():
    meta = changed("meta", {"se": 0.2}, inference="diagonal")
    assert "times as narrow" not in " ".join(of_inferences(found(meta)).summary)


def test_a_diagonal_error_of_0_is_no_ratio():
    meta = changed("meta", {"se": 0.0}, inference="diagonal")
    section = of_inferences(found(meta))
    assert "times as narrow" not in " ".join(section.summary)
    assert cells(section.table)[0][-1] == "–"


def test_decoys_and_conditional_effects_stand_only_among_the_views():
    pairs = cells(pairs_table(found(), SETTINGS))
    assert [row[0] for row in pairs] == [
        "GATA1 → open",
        "open → GATA1",
        "NRF1 → open",
        "open → NRF1",
        "JUND → open",
        "open → JUND",
    ]
    views = cells(views_table(TABLES["meta"], found()[0]))
    kinds = {row[0] for row in views}
    assert kinds == {
        "GATA1 → open|",
        "open → GATA1|",
        "GATA1 → open|decoy: GATA1 of other sequences",
        "GATA1 → open|given the other exposures",
    }
    assert {row[2] for row in views} == {"all", "bound", "unbound", "enhancer: yes"}
    assert {row[1] for row in views if row[0].endswith("given the other exposures")} == {"mv_ivw"}
