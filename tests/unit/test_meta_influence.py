"""Leave-one-out, deletion diagnostics and predictions: metafor's numbers, definitions, edges."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepmr.meta import influence as module
from deepmr.meta import random_effects
from deepmr.meta.heterogeneity import METHODS
from deepmr.meta.influence import blup, influence, leave_one_out

REFERENCE = Path(__file__).parents[1] / "reference"
SOURCES = ("bangertdrowns2004", "bcg", "hackshaw1998", "konstantopoulos2011", "synth_homog50")
LEFT_OUT = ("estimate", "se", "tau2", "i2", "h2", "q", "q_p", "ci_low", "ci_high", "p_value")


def load(source):
    case = json.loads((REFERENCE / f"meta_{source}.json").read_text())
    y, v = (np.array(case["inputs"][name]) for name in ("yi", "vi"))
    return y, v, case["results"]


def simulate(seed, k=15):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.02, 0.5, k)
    return 0.3 + 0.4 * rng.normal(size=k) + np.sqrt(v) * rng.normal(size=k), v


@pytest.mark.parametrize("source", SOURCES)
def test_leave_one_out_agrees_with_metafor(source):
    y, v, results = load(source)
    expected = results["leave1out_REML"]
    found = leave_one_out(y, v)
    ours = {
        "estimate": found.estimate,
        "se": found.se,
        "tau2": found.tau2,
        "Q": found.q,
        "I2": found.i2,
    }
    assert set(ours) == set(expected)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, atol=1e-9, err_msg=name)
    assert (found.k, found.n_dropped, found.status, found.reason) == (len(y), 0, "ok", "")


@pytest.mark.parametrize("source", SOURCES)
def test_influence_agrees_with_metafor(source):
    y, v, results = load(source)
    expected = results["influence"]
    found = influence(y, v)
    ours = {
        "rstudent": found.rstudent,
        "dffits": found.dffits,
        "cook.d": found.cooks_distance,
        "cov.r": found.cov_ratio,
        "hat": found.hat,
        "weight": found.weight,
    }
    assert set(ours) == set(expected)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, atol=1e-9, err_msg=name)
    without = results["leave1out_REML"]
    np.testing.assert_allclose(found.tau2_without, without["tau2"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.q_without, without["Q"], rtol=1e-8)


@pytest.mark.parametrize("source", SOURCES)
def test_blup_agrees_with_metafor(source):
    y, v, results = load(source)
    expected = results["blup"]
    found = blup(y, v)
    assert set(expected) == {"pred", "se"}
    np.testing.assert_allclose(found.estimate, expected["pred"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.se, expected["se"], rtol=1e-6)
    half = stats.norm.ppf(0.975) * np.array(expected["se"])
    np.testing.assert_allclose(found.pi_high, expected["pred"] + half, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.pi_low, expected["pred"] - half, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_leave_one_out_is_the_meta_analysis_of_the_others(method):
    y, v = simulate(1)
    found = leave_one_out(y, v, method)
    for i in range(len(y)):
        others = random_effects(np.delete(y, i), np.delete(v, i), method)
        for name in LEFT_OUT:
            assert getattr(found, name)[i] == getattr(others, name), name


def test_blocks_change_nothing(monkeypatch):
    y, v = simulate(2, 23)
    whole = leave_one_out(y, v)
    monkeypatch.setattr(module, "_BLOCK", 50)
    blocks = leave_one_out(y, v)
    for name in LEFT_OUT:
        np.testing.assert_array_equal(getattr(blocks, name), getattr(whole, name))


@pytest.mark.parametrize("method", ["REML", "FE"])
def test_influence_by_its_definition(method):
    y, v = simulate(3)
    found = influence(y, v, method)
    whole = random_effects(y, v, method)
    w = 1 / (v + whole.tau2)
    np.testing.assert_allclose(found.hat, w / w.sum())
    assert found.hat.sum() == pytest.approx(1)
    for i in range(len(y)):
        rest = random_effects(np.delete(y, i), np.delete(v, i), method)
        change = whole.estimate - rest.estimate
        scale = np.sqrt(1 / (1 / (v + rest.tau2)).sum())
        assert found.dfbetas[i] == pytest.approx(change / scale)
        assert found.cooks_distance[i] == pytest.approx(change**2 / whole.se**2)
        assert found.cov_ratio[i] == pytest.approx(rest.se**2 / whole.se**2)
        residual_se = np.sqrt(v[i] + rest.tau2 + rest.se**2)
        assert found.rstudent[i] == pytest.approx((y[i] - rest.estimate) / residual_se)
    given_already = influence(y, v, method, leave_one_out(y, v, method))
    np.testing.assert_array_equal(given_already.dffits, found.dffits)


def test_flags():
    y, v = simulate(4, 30)
    found = influence(y, v)
    expected = (
        (np.abs(found.dffits) > 3 * np.sqrt(1 / 29))
        | (stats.chi2.cdf(found.cooks_distance, 1) > 0.5)
        | (found.hat > 3 / 30)
        | (np.abs(found.dfbetas) > 1)
    )
    np.testing.assert_array_equal(found.influential, expected)
    y[7] += 12
    pulled = influence(y, v)
    assert pulled.influential[7]
    assert int(np.argmax(pulled.cooks_distance)) == 7
    assert pulled.rstudent[7] > 4
    v[3] = 1e-3
    assert influence(y, v, "FE").influential[3]


@pytest.mark.parametrize("test", ["z", "t", "knha", "adhoc"])
def test_blup_by_its_definition(test):
    y, v = simulate(5)
    found, whole = blup(y, v, test=test), random_effects(y, v, test=test)
    share = whole.tau2 / (whole.tau2 + v)
    np.testing.assert_allclose(found.estimate, whole.estimate + share * (y - whole.estimate))
    np.testing.assert_allclose(found.se**2, share * v + (1 - share) ** 2 * whole.se**2)
    quantile = stats.norm.ppf(0.975) if test == "z" else stats.t.ppf(0.975, 14)
    np.testing.assert_allclose(found.pi_high - found.estimate, quantile * found.se)
    equal = blup(y, v, "FE", test)
    np.testing.assert_allclose(equal.estimate, random_effects(y, v, "FE").estimate)


def test_predictions_are_nearer_to_the_truth_than_estimates():
    rng = np.random.default_rng(0)
    v = rng.uniform(0.05, 0.8, 500)
    truth = 0.5 + 0.3 * rng.normal(size=500)
    y = truth + np.sqrt(v) * rng.normal(size=500)
    found = blup(y, v)
    assert ((found.estimate - truth) ** 2).mean() < 0.5 * ((y - truth) ** 2).mean()
    inside = (found.pi_low < truth) & (truth < found.pi_high)
    assert inside.mean() == pytest.approx(0.95, abs=0.03)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 100), st.sampled_from(["REML", "PM"])
)
def test_order_shift_and_scale(seed, shift, scale, method):
    y, v = simulate(seed)
    order = np.random.default_rng(seed).permutation(15)
    moved = y * scale + shift, v * scale**2
    without, others = leave_one_out(y, v, method), leave_one_out(*moved, method)
    close = {"rtol": 1e-6, "atol": 1e-8}
    np.testing.assert_allclose(
        others.estimate, without.estimate * scale + shift, rtol=1e-6, atol=1e-6 * scale
    )
    np.testing.assert_allclose(others.se, without.se * scale, rtol=1e-6)
    np.testing.assert_allclose(
        leave_one_out(y[order], v[order], method).estimate, without.estimate[order], rtol=1e-7
    )
    found, same = influence(y, v, method), influence(*moved, method)
    permuted = influence(y[order], v[order], method)
    for name in ("rstudent", "dffits", "cooks_distance", "cov_ratio", "dfbetas", "hat"):
        np.testing.assert_allclose(getattr(same, name), getattr(found, name), **close)
        np.testing.assert_allclose(getattr(permuted, name), getattr(found, name)[order], **close)
    np.testing.assert_allclose(
        blup(*moved, method).estimate,
        blup(y, v, method).estimate * scale + shift,
        rtol=1e-6,
        atol=1e-6 * scale,
    )


@pytest.mark.parametrize(
    ("k", "without", "influenced"),
    [
        (0, "no_sequences", "no_sequences"),
        (1, "single_sequence", "too_few_sequences"),
        (2, "few_sequences", "too_few_sequences"),
        (3, "ok", "ok"),
    ],
)
def test_few_sequences_have_a_status(k, without, influenced):
    y, v = simulate(6, k)
    left, found, predicted = leave_one_out(y, v), influence(y, v), blup(y, v)
    assert (left.status, left.k, left.estimate.shape) == (without, k, (k,))
    assert (found.status, found.k, found.rstudent.shape) == (influenced, k, (k,))
    assert (predicted.status, predicted.k, predicted.se.shape) == (without, k, (k,))
    for one in (left, found, predicted):
        assert bool(one.reason) == (k < 3)
    assert np.isfinite(left.se).all() == (k != 1)
    assert np.isfinite(found.dffits).all() == (k in (0, 3))
    assert np.isfinite(predicted.se).all() == (k != 1)
    assert not found.influential[: k if k < 3 else 0].any()
    if k == 2:
        np.testing.assert_array_equal(left.estimate, y[::-1])
        np.testing.assert_array_equal(left.se, np.sqrt(v[::-1]))
        assert np.isnan(left.tau2).all()


def test_what_cannot_be_used_keeps_its_place():
    y, v = simulate(7)
    clean = {
        f: f(np.delete(y, [2, 5, 9]), np.delete(v, [2, 5, 9]))
        for f in (leave_one_out, influence, blup)
    }
    y, v = y.copy(), v.copy()
    y[2], v[5], v[9] = np.inf, 0, np.nan
    kept = np.ones(15, dtype=bool)
    kept[[2, 5, 9]] = False
    for function, expected in clean.items():
        found = function(y, v)
        assert (found.k, found.n_dropped, found.status) == (12, 3, "ok")
        assert found.reason.startswith("3 of 15 sequences left out")
        for field in fields(found):
            values = getattr(found, field.name)
            if not isinstance(values, np.ndarray):
                continue
            np.testing.assert_array_equal(values[kept], getattr(expected, field.name))
            lacking = values[~kept]
            assert not lacking.any() if values.dtype == bool else np.isnan(lacking).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, v: leave_one_out(y, v, "X"), "method 'X' is unknown; write one of"),
        (lambda y, v: influence(y, v, "X"), "method 'X' is unknown; write one of"),
        (lambda y, v: blup(y, v, "X"), "method 'X' is unknown; write one of"),
        (lambda y, v: blup(y, v, test="f"), "test 'f' is unknown"),
        (lambda y, v: leave_one_out(y, v[:3]), r"found \(15,\) and \(3,\)"),
        (lambda y, v: influence(y, v[:3]), r"found \(15,\) and \(3,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*simulate(0))
