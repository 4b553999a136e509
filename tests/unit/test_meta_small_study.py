"""Tests of an association of effects with their standard errors: metafor's numbers, and edges."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from statsmodels.regression.linear_model import WLS

from deepmr.meta import random_effects
from deepmr.meta.heterogeneity import score
from deepmr.meta.regression.meta_regression import meta_regression
from deepmr.meta.small_study import egger_test, rank_test, trim_and_fill

REFERENCE = Path(__file__).parents[1] / "reference"
SOURCES = (
    "bangertdrowns2004",
    "bcg",
    "hackshaw1998",
    "konstantopoulos2011",
    "mcdaniel1994",
    "synth2000",
    "synth_homog50",
)
SMALL = [source for source in SOURCES if source not in ("mcdaniel1994", "synth2000")]
"""The two largest have no rank test and no trim and fill."""


def load(source):
    case = json.loads((REFERENCE / f"meta_{source}.json").read_text())
    y, v = (np.array(case["inputs"][name]) for name in ("yi", "vi"))
    return y, v, case["results"]


def simulate(seed, k=25, slope=0.0):
    rng = np.random.default_rng(seed)
    se = rng.uniform(0.05, 0.8, k)
    return 0.3 + slope * se + 0.1 * rng.normal(size=k) + se * rng.normal(size=k), se**2


@pytest.mark.parametrize("source", SOURCES)
def test_regression_test_agrees_with_metafor(source):
    """metafor's PM (for synth2000) is `uniroot` with a tolerance of 1e-4 in tau2."""
    y, v, results = load(source)
    expected = results["regtest_rma_sei"]
    method = results["model_for_confint_regtest"]
    assert (method == "PM") == (source == "synth2000")
    found = egger_test(y, v, "rma", method)
    if method == "PM":
        design = np.column_stack([np.ones(len(y)), np.sqrt(v)])
        own = float(meta_regression(y, v, design, method="PM", test="z").tau2)
        theirs = brentq(
            lambda tau2: regress(y, v + tau2, design)["zval"] - expected["zval"],
            own - 1e-4,
            own + 1e-4,
            xtol=1e-15,
        )
        ours = regress(y, v + theirs, design)
        # The equation is y'Py = k - p.
        assert abs(regress(y, v + own, design)["qe"] - 1998) < 1e-8
        assert abs(ours.pop("qe") - 1998) > 1e-3
    else:
        ours = {
            "zval": found.statistic,
            "pval": found.p_value,
            "est": found.limit,
            "ci.lb": found.limit_low,
            "ci.ub": found.limit_high,
        }
    assert set(ours) == set(expected)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, err_msg=name)
    assert (found.k, found.status, found.df) == (len(y), "ok", np.inf)
    assert found.statistic == pytest.approx(expected["zval"], rel=0.02)
    assert found.limit == pytest.approx(expected["est"], rel=1e-5)


def regress(y, total, design):
    """Regression with known total variances."""
    fit = meta_regression(y, total, design, method="FE", test="z")
    return {
        "zval": fit.coefficients[1] / fit.se[1],
        "pval": fit.p_value[1],
        "est": fit.coefficients[0],
        "ci.lb": fit.ci_low[0],
        "ci.ub": fit.ci_high[0],
        "qe": fit.qe,
    }


@pytest.mark.parametrize("source", SOURCES)
def test_eggers_regression_agrees_with_r(source):
    y, v, results = load(source)
    expected = results["regtest_lm_sei_Egger1997"]
    found = egger_test(y, v, "lm")
    ours = {
        "tval": found.statistic,
        "df": found.df,
        "pval": found.p_value,
        "est": found.limit,
        "ci.lb": found.limit_low,
        "ci.ub": found.limit_high,
    }
    assert set(ours) == set(expected)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("source", SMALL)
def test_rank_test_agrees_with_metafor(source):
    y, v, results = load(source)
    found = rank_test(y, v)
    np.testing.assert_allclose(found.tau, results["ranktest"]["tau"], rtol=1e-10)
    np.testing.assert_allclose(found.p_value, results["ranktest"]["pval"], rtol=1e-8)
    assert set(results["ranktest"]) == {"tau", "pval"}
    assert found.exact == (np.unique(v).size == v.size)


@pytest.mark.parametrize("source", SMALL)
def test_trim_and_fill_agrees_with_metafor(source):
    y, v, results = load(source)
    expected = results["trimfill_L0"]
    found = trim_and_fill(y, v)
    assert found.k0 == expected["k0"]
    assert found.side == expected["side"]
    # metafor's refits have its default tolerance of 1e-5 in tau2, ours are exact: at the tau2 that
    # gives its standard error its estimate is ours, and the score is further from 0.
    np.testing.assert_allclose(found.result.estimate, expected["beta"], rtol=1e-6)
    np.testing.assert_allclose(found.result.se, expected["se"], rtol=1e-5)
    all_y, all_v = np.append(y, found.filled_estimates), np.append(v, found.filled_variances)

    def at(tau2):
        return random_effects(all_y, all_v + tau2, "FE")

    theirs = brentq(lambda tau2: at(tau2).se - expected["se"], 0, 1, xtol=1e-16)
    np.testing.assert_allclose(at(theirs).estimate, expected["beta"], rtol=1e-10)
    slopes = [
        abs(score(all_y[None], all_v[None], np.array([tau2]), restricted=True)[0])
        for tau2 in (found.result.tau2, theirs)
    ]
    assert slopes[0] < 1e-10
    assert slopes[0] < slopes[1]
    assert set(expected) == {"k0", "side", "beta", "se"}
    assert found.filled_estimates.shape == found.filled_variances.shape == (found.k0,)
    assert (found.k, found.result.k) == (len(y), len(y) + found.k0)


def test_eggers_regression_is_a_weighted_regression():
    y, v = simulate(0)
    x = np.column_stack([np.ones(25), np.sqrt(v)])
    theirs = WLS(y, x, weights=1 / v).fit()
    found = egger_test(y, v, "lm")
    np.testing.assert_allclose([found.limit, found.slope], theirs.params, rtol=1e-10)
    assert found.slope_se == pytest.approx(theirs.bse[1], rel=1e-10)
    assert found.p_value == pytest.approx(theirs.pvalues[1], rel=1e-9)


def test_the_rank_test_is_kendalls_of_the_definition():
    y, v = simulate(3)
    w = 1 / v
    standardised = (y - (w * y).sum() / w.sum()) / np.sqrt(v - 1 / w.sum())
    pairs = [
        np.sign((standardised[i] - standardised[j]) * (v[i] - v[j]))
        for i in range(25)
        for j in range(i)
    ]
    found = rank_test(y, v)
    assert found.tau == pytest.approx(np.mean(pairs))
    assert found.p_value == stats.kendalltau(standardised, v, method="exact").pvalue


@pytest.mark.parametrize("model", ["rma", "lm", "rank"])
def test_levels_and_power(model):
    def rejects(seed, slope):
        y, v = simulate(seed, 40, slope)
        found = rank_test(y, v) if model == "rank" else egger_test(y, v, model, "DL")
        return found.p_value < 0.05

    assert np.mean([rejects(seed, 0.0) for seed in range(300)]) == pytest.approx(0.05, abs=0.04)
    assert np.mean([rejects(seed, 3.0) for seed in range(40)]) > 0.8


def test_trim_and_fill_moves_a_cut_funnel_back():
    rng = np.random.default_rng(1)
    se = rng.uniform(0.05, 1, 120)
    y = 0.2 + se * rng.normal(size=120)
    kept = y > 0.2 - 0.8 * se  # the left side is missing
    y, v = y[kept], se[kept] ** 2
    found = trim_and_fill(y, v, "DL")
    assert found.side == "left"
    assert found.k0 > 5
    assert abs(found.result.estimate - 0.2) < abs(random_effects(y, v, "DL").estimate - 0.2)
    again = random_effects(
        np.append(y, found.filled_estimates), np.append(v, found.filled_variances), "DL"
    )
    assert found.result == again


def test_a_funnel_that_is_even_is_left_alone():
    se = np.linspace(0.1, 1, 12)
    y = np.concatenate([se, -1.01 * se])
    found = trim_and_fill(y, np.concatenate([se, se]) ** 2, side="left")
    assert found.k0 == 0
    assert found.result == random_effects(y, np.concatenate([se, se]) ** 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 100))
def test_order_shift_and_scale(seed, shift, scale):
    y, v = simulate(seed, slope=1.0)
    order = np.random.default_rng(seed).permutation(25)
    moved = y * scale + shift, v * scale**2
    for test in (
        lambda *data: egger_test(*data, "rma", "DL"),
        lambda *data: egger_test(*data, "lm"),
    ):
        found, other = test(y, v), test(*moved)
        assert test(y[order], v[order]).statistic == pytest.approx(found.statistic, rel=1e-7)
        assert other.statistic == pytest.approx(found.statistic, rel=1e-6, abs=1e-8)
        assert other.limit == pytest.approx(found.limit * scale + shift, rel=1e-6, abs=1e-6 * scale)
    ranks = rank_test(y, v)
    assert rank_test(y[order], v[order]).p_value == ranks.p_value
    assert rank_test(*moved).tau == pytest.approx(ranks.tau)
    filled = trim_and_fill(y, v, "DL")
    permuted, shifted = trim_and_fill(y[order], v[order], "DL"), trim_and_fill(*moved, "DL")
    assert permuted.k0 == filled.k0
    assert permuted.result.estimate == pytest.approx(filled.result.estimate, rel=1e-9)
    assert shifted.k0 == filled.k0
    assert shifted.result.estimate == pytest.approx(
        filled.result.estimate * scale + shift, rel=1e-6, abs=1e-6 * scale
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_other_side_is_the_mirror_image(seed):
    y, v = simulate(seed, slope=2.0)
    left, right = trim_and_fill(y, v, "DL", "left"), trim_and_fill(-y, v, "DL", "right")
    assert left.k0 == right.k0
    np.testing.assert_allclose(np.sort(left.filled_estimates), np.sort(-right.filled_estimates))
    assert egger_test(-y, v).statistic == pytest.approx(-egger_test(y, v).statistic, rel=1e-7)


@pytest.mark.parametrize(
    ("k", "egger", "rank", "fill"),
    [
        (0, "no_sequences", "no_sequences", "no_sequences"),
        (1, "too_few_sequences", "single_sequence", "too_few_sequences"),
        (2, "too_few_sequences", "few_sequences", "too_few_sequences"),
        (3, "few_sequences", "ok", "few_sequences"),
    ],
)
def test_few_sequences_have_a_status(k, egger, rank, fill):
    y, v = simulate(5, k)
    for model in ("rma", "lm"):
        found = egger_test(y, v, model)
        assert (found.status, found.k) == (egger, k)
        assert found.reason
        assert np.isfinite(found.p_value) == (k == 3)
    ranks, filled = rank_test(y, v), trim_and_fill(y, v)
    assert (ranks.status, ranks.k) == (rank, k)
    assert bool(ranks.reason) == (rank != "ok")
    assert np.isfinite(ranks.p_value) == (k >= 2)
    assert (filled.status, filled.k, filled.k0 is None) == (fill, k, k < 3)
    assert filled.reason
    assert (filled.result.status == fill) == (k < 3)
    assert np.isfinite(filled.result.estimate) == (k >= 3)


def test_equal_standard_errors_have_no_association():
    y = np.random.default_rng(0).normal(size=8)
    v = np.full(8, 0.3)
    for found in (egger_test(y, v), egger_test(y, v, "lm"), rank_test(y, v), trim_and_fill(y, v)):
        assert found.status == "equal_standard_errors"
        assert found.reason == "all standard errors are the same"
    assert np.isnan([egger_test(y, v).p_value, rank_test(y, v).tau]).all()
    assert trim_and_fill(y, v).result.status == "equal_standard_errors"
    assert trim_and_fill(y, v, side="left").status == "ok"


def test_equal_estimates():
    v = np.linspace(0.1, 1, 8)
    found = rank_test(np.full(8, 0.25), v)
    assert (found.status, found.reason) == ("equal_estimates", "all estimates are the same")
    assert egger_test(np.full(8, 0.25), v).p_value == pytest.approx(1, abs=1e-6)
    assert trim_and_fill(np.full(8, 0.25), v, side="left").k0 == 0


def test_what_cannot_be_used_is_left_out():
    y, v = simulate(6)
    clean = [f(y[3:], v[3:]) for f in (egger_test, rank_test, trim_and_fill)]
    y, v = y.copy(), v.copy()
    y[0], v[1], v[2] = np.nan, -0.5, np.inf
    for test, expected in zip((egger_test, rank_test, trim_and_fill), clean, strict=True):
        found = test(y, v)
        assert (found.k, found.n_dropped) == (22, 3)
        assert found.reason.startswith("3 of 25 sequences left out")
        if test is trim_and_fill:
            assert found.result.estimate == expected.result.estimate
        else:
            assert found.p_value == expected.p_value


def test_one_sequence_that_outweighs_all():
    """v - 1/sum w is not computed as a difference."""
    v = np.array([1e-10, 1.0, 2.0, 3.0, 4.0])
    found = rank_test(np.array([0.1, 0.5, -0.3, 0.2, 0.7]), v)
    assert found.status == "ok"
    assert np.isfinite(found.tau)


def test_many_sequences():
    y, v = simulate(2, 200_000)
    found = rank_test(y, v)
    assert not found.exact
    assert 0 < found.p_value <= 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, v: egger_test(y, v, "glm"), "model 'glm' is unknown; write one of rma, lm"),
        (lambda y, v: egger_test(y, v, method="X"), "method 'X' is unknown"),
        (lambda y, v: egger_test(y, v[:3]), r"found \(25,\) and \(3,\)"),
        (lambda y, v: rank_test(y, v[:3]), r"found \(25,\) and \(3,\)"),
        (lambda y, v: trim_and_fill(y, v[:3]), r"found \(25,\) and \(3,\)"),
        (lambda y, v: trim_and_fill(y, v, side="up"), "side 'up' is unknown; write left or right"),
        (lambda y, v: trim_and_fill(y, v, "X"), "method 'X' is unknown"),
        (lambda y, v: trim_and_fill(y, v, test="f"), "test 'f' is unknown"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*simulate(0))


def test_a_line_without_scatter_has_a_statistic_that_agrees_with_its_p_value():
    x = np.linspace(0.1, 1.0, 6)
    found = egger_test(1 + 2 * x, x * x, "lm")
    assert (found.slope_se, found.statistic, found.p_value) == (0.0, np.inf, 0.0)
    assert "fit exactly" in found.reason
