"""Contamination mixture, debiased IVW and MR-PRESSO; RAPS has a file of its own."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from scipy.stats import t as student

from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators import contamination, divw, presso
from deepmr.mr.estimators.contamination import CONTAMINATION_MIXTURE
from deepmr.mr.estimators.divw import DIVW
from deepmr.mr.estimators.presso import MR_PRESSO, presso_test
from deepmr.mr.estimators.raps import RAPS

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
FAST = Options(presso_iterations=99)
METHODS = (CONTAMINATION_MIXTURE, DIVW, RAPS, MR_PRESSO)
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
every_reference = pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem[3:])


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def reference(path):
    case = json.loads(path.read_text())
    effects = [np.array(case["inputs"][name])[None] for name in ("bx", "bxse", "by", "byse")]
    return Group(*effects), case["results"]


def simulated(n_sequences=5, n=20, seed=0, invalid=0.2, slope=0.6):
    rng = np.random.default_rng(seed)
    shape = (n_sequences, n)
    se_x, se_y = 0.05 + 0.05 * rng.random(shape), 0.05 + 0.05 * rng.random(shape)
    true = rng.normal(size=shape)
    by = slope * true + se_y * rng.normal(size=shape)
    by += np.where(rng.random(shape) < invalid, rng.normal(size=shape), 0.0)
    return Group(true + se_x * rng.normal(size=shape), se_x, by, se_y)


def with_draws(group, n_draws=20, seed=1):
    rng = np.random.default_rng(seed)
    shape = (len(group.bx), n_draws, group.bx.shape[1])
    noise_x = rng.normal(size=shape) * group.se_x[:, None]
    noise_y = rng.normal(size=shape) * group.se_y[:, None]
    noise_x -= noise_x.mean(axis=1, keepdims=True)
    noise_y -= noise_y.mean(axis=1, keepdims=True)
    return replace(group, draws_x=group.bx[:, None] + noise_x, draws_y=group.by[:, None] + noise_y)


def rows(group, index):
    arrays = {k: v[index] for k, v in vars(group).items() if v is not None}
    return Group(**arrays)


# --- contamination mixture


def height(group, theta, psi):
    """Twice the log-likelihood above "all are invalid", by the densities of the paper."""
    bx, by, se_y = group.bx[0], group.by[0], group.se_y[0]
    used = bx != 0
    r, s = by[used] / bx[used], se_y[used] / np.abs(bx[used])
    valid = norm.logpdf(r, np.atleast_1d(theta)[:, None], s)
    invalid = norm.logpdf(r, 0.0, np.sqrt(psi**2 + s**2))
    return 2.0 * np.maximum(valid - invalid, 0.0).sum(axis=-1)


@every_reference
def test_contamination_agrees_with_r_within_its_grid(path):
    group, expected = reference(path)
    fit = contamination.fit(group, Options())
    keys = [key for key in expected if key.startswith("conmix")]
    assert keys
    for key in keys:
        r = expected[key]
        step = 0.01 if key == "conmix_default" else float(key.split("_")[-1])
        set_by_r = contamination.fit(group, Options(contamination_sd=r["Psi"]))
        np.testing.assert_allclose(set_by_r.estimate, fit.estimate, rtol=1e-12)
        assert abs(fit.estimate[0] - r["Estimate"]) <= 0.5 * step + 1e-9
        assert abs(fit.ci_low[0] - r["CILower"]) <= step
        assert abs(fit.ci_high[0] - r["CIUpper"]) <= step
        assert list(np.flatnonzero(fit.p_valid[0]) + 1) == r["Valid"]
        assert fit.n_valid[0] == len(r["Valid"])
        # R multiplies by phi^2 where it should divide; its grid misses a little of the maximum.
        phi2 = (fit.se[0] / fit.se_model[0]) ** 2
        statistic = chi2.isf(fit.p_value[0], 1) * phi2**2
        if r["Pvalue"] > 0:
            missed = phi2 * (0.5 * step / fit.se_model[0]) ** 2
            assert -1e-6 <= statistic - chi2.isf(r["Pvalue"], 1) <= missed + 1e-6
        else:
            assert fit.p_value[0] == 0.0
    np.testing.assert_allclose(
        fit.se_unfloored * fit.se_unfloored,
        fit.se_model**2
        * (fit.p_valid * (group.by - fit.estimate[:, None] * group.bx) ** 2 / group.se_y**2).sum(
            axis=1
        )
        / (fit.n_valid - 1),
        rtol=1e-9,
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(3, 10), st.booleans(), st.booleans())
def test_contamination_finds_the_highest_of_all_sets(seed, n, near_zero, one_zero):
    """The maximum is searched among all pieces by brute force, the set checked point by point."""
    rng = np.random.default_rng(seed)
    bx = rng.normal(size=n) * 10 ** rng.uniform(-8 if near_zero else -0.5, 0.5, size=n)
    se_y = 10 ** rng.uniform(-3, 0, size=n)
    by = 0.4 * bx + se_y * rng.normal(size=n) + (rng.random(n) < 0.4) * rng.normal(size=n)
    if one_zero:
        bx[0] = 0.0
    group = Group(bx[None], se_y[None], by[None], se_y[None])
    fit = contamination.fit(group, Options())
    used = bx != 0
    r, w = by[used] / bx[used], (bx[used] / se_y[used]) ** 2
    psi = 1.5 * r.std(ddof=1)
    reach = np.sqrt((np.log1p(psi**2 * w) + r**2 / (psi**2 + 1.0 / w)) / w)
    ends = np.sort(np.concatenate([r - reach, r + reach]))
    middles = 0.5 * (ends[1:] + ends[:-1])
    inside = np.abs(middles[:, None] - r) < reach
    inside = inside[inside.any(axis=1)]
    vertices = (inside * w * r).sum(axis=1) / (inside * w).sum(axis=1)
    top = height(group, vertices, psi).max()
    assert height(group, fit.estimate, psi)[0] == pytest.approx(top, rel=1e-9)
    cut = top - chi2.isf(0.05, 1) * (fit.se[0] / fit.se_model[0]) ** 2
    points = np.concatenate([middles, ends, fit.estimate + fit.se * rng.normal(size=40) * 4])
    above = height(group, points, psi) - cut
    member = (points[:, None] >= fit.ci_set[0][:, 0]) & (points[:, None] <= fit.ci_set[0][:, 1])
    clear = np.abs(above) > 1e-6 * max(1.0, top)
    np.testing.assert_array_equal(member.any(axis=1)[clear], (above > 0)[clear])
    assert fit.ci_low[0] == fit.ci_set[0][0, 0]
    assert fit.ci_high[0] == fit.ci_set[0][-1, 1]


def test_contamination_p_value_agrees_with_its_set():
    group = simulated(400, 8, seed=3, invalid=0.5, slope=0.08)
    fit = contamination.fit(group, Options())
    covers = np.array([((one[:, 0] <= 0) & (one[:, 1] >= 0)).any() for one in fit.ci_set])
    assert 0.2 < covers.mean() < 0.8
    np.testing.assert_array_equal(covers, fit.p_value >= 0.05)
    assert (fit.ci_kind == "likelihood").all()


def test_contamination_two_groups_of_ratios_give_two_intervals():
    bx = np.ones((1, 12))
    by = np.concatenate([np.full(6, -1.0), np.full(6, 1.0)])[None] + 0.01 * np.arange(12) / 12
    group = Group(bx, 0.1 * bx, by, 0.1 * bx)
    fit = contamination.fit(group, Options())
    assert fit.ci_set[0].shape == (2, 2)
    (low_1, high_1), (low_2, high_2) = fit.ci_set[0]
    assert low_1 < -1.0 < high_1 < 0.0 < low_2 < 1.0 < high_2
    assert fit.n_valid[0] == 6


def test_contamination_without_information_has_an_unbounded_set():
    by = np.array([[0.1, -0.2, 0.15, 0.05]])
    fit = contamination.fit(Group(by * 0 + 0.1, by * 0 + 1, by, by * 0 + 1), Options())
    np.testing.assert_array_equal(fit.ci_set[0], [[-np.inf, np.inf]])
    assert fit.p_value[0] > 0.05


def test_contamination_invalid_sd_comes_from_the_anchors():
    group = simulated(3, 12)
    anchored = replace(group, given_anchor_x=group.bx * 2.0, given_anchor_y=group.by + 0.5)
    sd = 1.5 * (anchored.given_anchor_y / anchored.given_anchor_x).std(axis=1, ddof=1)
    fit = contamination.fit(anchored, Options())
    for i in range(3):
        alone = contamination.fit(rows(group, [i]), Options(contamination_sd=sd[i]))
        np.testing.assert_allclose(fit.estimate[i], alone.estimate[0], rtol=1e-12)
        np.testing.assert_allclose(fit.p_value[i], alone.p_value[0], rtol=1e-9)
    plain = contamination.fit(group, Options())
    assert (np.abs(np.log(fit.p_value / plain.p_value)) > 0.01).all()


# --- debiased IVW


@every_reference
@pytest.mark.parametrize("overdispersion", [True, False])
def test_divw_agrees_with_r(path, overdispersion):
    group, expected = reference(path)
    r = expected["divw" if overdispersion else "divw_no_overdisp"]
    fit = divw.fit(group, Options(overdispersion=overdispersion))
    z = fit.estimate / fit.se
    np.testing.assert_allclose(
        [fit.estimate[0], fit.se[0], divw.strength(group)[0], 2 * norm.sf(abs(z[0]))],
        [r["Estimate"], r["StdError"], r["Condition"], r["Pvalue"]],
        rtol=1e-10,
    )
    assert (fit.tau2[0] > 0) <= overdispersion
    without = divw.fit(group, Options(overdispersion=False))
    np.testing.assert_array_equal(fit.se_model, without.se)


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_divw_is_unbiased_with_weak_instruments_and_correlated_errors(rho):
    rng = np.random.default_rng(5)
    shape = (2000, 100)
    noise_x, noise_y = rng.normal(size=(2, *shape))
    bx = 2.0 * rng.normal(size=shape) + noise_x
    by = 0.8 * (bx - noise_x) + rho * noise_x + np.sqrt(1 - rho**2) * noise_y
    by += 0.7 * rng.normal(size=shape)
    one = np.ones(shape)
    group = Group(bx, one, by, one, rho_xy=np.full(shape, rho))
    fit = divw.fit(group, Options())
    monte_carlo = fit.estimate.std() / np.sqrt(len(bx))
    assert abs(fit.estimate.mean() - 0.8) < 4 * monte_carlo
    assert np.mean(np.abs(fit.estimate - 0.8) < 1.96 * fit.se) == pytest.approx(0.95, abs=0.015)
    assert fit.tau2.mean() == pytest.approx(0.49, abs=0.04)
    if rho:
        ignored = divw.fit(replace(group, rho_xy=None), Options())
        assert abs(ignored.estimate.mean() - 0.8) > 20 * monte_carlo


def test_divw_has_no_estimate_from_noise():
    bx = np.array([[0.5, -0.5, 0.4], [3.0, -2.0, 1.0]])
    fit = divw.fit(Group(bx, bx * 0 + 1.0, bx, bx * 0 + 1.0), Options())
    assert list(fit.status) == ["weak_instruments", "ok"]
    for value in (fit.estimate, fit.se, fit.se_model, fit.tau2, fit.q):
        assert list(np.isnan(value)) == [True, False]


# --- MR-PRESSO


def test_presso_agrees_with_r():
    group, expected = reference(next(path for path in REFERENCE if "ldlc" in path.stem))
    r = expected["mrpresso_seed1_N300"]
    options = Options(presso_iterations=2000, distribution="t")
    test = presso_test(group, options)
    fit = presso.fit(group, options)
    assert test.rss[0] == pytest.approx(r["RSSobs"], rel=1e-12)
    np.testing.assert_allclose(test.squared_residual[0], r["outlier_RSSobs"], rtol=1e-10)
    estimate, se, _, p_value = r["corrected"]
    assert fit.estimate[0] == pytest.approx(estimate, rel=1e-12)
    assert fit.se_unfloored[0] == pytest.approx(se, rel=1e-12)
    assert fit.se[0] == fit.se_unfloored[0]
    assert fit.p_value[0] == pytest.approx(p_value, rel=1e-9)
    half = student.isf(0.025, 25) * se
    np.testing.assert_allclose(fit.ci_high[0] - fit.ci_low[0], 2 * half, rtol=1e-10)
    np.testing.assert_array_equal(np.flatnonzero(test.outlier[0]), [11, 13])
    assert fit.n_valid[0] == 26
    assert fit.p_global[0] == 1 / 2001
    assert fit.p_distortion[0] == pytest.approx(r["distortion_p"], abs=4 * 0.031)
    for exact, counted in zip(test.p_outlier[0], r["outlier_p"], strict=True):
        if counted.startswith("<"):
            assert exact < 28 / 300
        else:
            share = float(counted) / 28
            spread = np.sqrt(max(share, 1 / 300) * (1 - min(share, 0.5)) / 300)
            assert counted == "1" or abs(exact / 28 - share) < 3 * spread
            assert counted != "1" or exact > 0.3


def test_presso_outlier_p_value_is_the_limit_of_the_simulation():
    group = replace(simulated(1, 8, invalid=0.4), rho_xy=np.full((1, 8), 0.5))
    x, se_x, y, se_y = (a[0] for a in (group.bx, group.se_x, group.by, group.se_y))
    test = presso_test(group, FAST)
    rng = np.random.default_rng(0)
    compared = 0
    for j in range(8):
        rest = np.arange(8) != j
        w = 1 / se_y[rest] ** 2
        theta = (w * x[rest] * y[rest]).sum() / (w * x[rest] ** 2).sum()
        noise_x, noise_y = rng.normal(size=(2, 100_000))
        by = theta * x[j] + se_y[j] * (0.5 * noise_x + np.sqrt(0.75) * noise_y)
        share = np.mean((by - theta * (x[j] + se_x[j] * noise_x)) ** 2 > (y[j] - theta * x[j]) ** 2)
        assert test.squared_residual[0, j] == pytest.approx((y[j] - theta * x[j]) ** 2)
        if share < 1 / 8:
            compared += 1
        expected = min(8 * share, 1.0)
        assert test.p_outlier[0, j] == pytest.approx(expected, abs=8 * 4 * np.sqrt(0.1 / 1e5))
    assert compared >= 1


def test_presso_global_p_value_is_uniform_without_pleiotropy():
    group = simulated(300, 12, seed=7, invalid=0.0)
    p = presso_test(group, Options(presso_iterations=199)).p_global
    assert p.min() >= 1 / 200
    assert p.mean() == pytest.approx(0.5, abs=0.07)
    assert np.mean(p <= 0.05) < 0.1


def test_presso_leaves_out_what_was_spoiled_and_is_ivw_otherwise():
    group = simulated(6, 30, invalid=0.0)
    by = group.by.copy()
    by[1, 4] += 0.9
    by[2, [3, 9]] -= 0.9
    fit = presso.fit(replace(group, by=by), Options(presso_iterations=199))
    outliers = [list(np.flatnonzero(p == 0)) for p in fit.p_valid]
    assert outliers[1] == [4]
    assert outliers[2] == [3, 9]
    w = fit.p_valid / group.se_y**2
    expected = (w * group.bx * by).sum(axis=1) / (w * group.bx**2).sum(axis=1)
    np.testing.assert_allclose(fit.estimate, expected, rtol=1e-12)
    kept = fit.p_valid.sum(axis=1)
    q = (w * (by - expected[:, None] * group.bx) ** 2).sum(axis=1)
    np.testing.assert_allclose(fit.q_p, chi2.sf(q, kept - 1), rtol=1e-9)
    model = 1 / np.sqrt((w * group.bx**2).sum(axis=1))
    np.testing.assert_allclose(fit.se, model * np.sqrt(np.maximum(q / (kept - 1), 1)), rtol=1e-12)
    np.testing.assert_allclose(fit.se_unfloored, model * np.sqrt(q / (kept - 1)), rtol=1e-12)
    assert (fit.se_unfloored < fit.se).any()
    np.testing.assert_array_equal(np.isnan(fit.p_distortion), kept == 30)
    assert (fit.p_global[1:3] == 1 / 200).all()


def test_presso_has_outliers_only_where_the_global_test_is_significant():
    test = presso_test(simulated(300, 15, seed=3, invalid=0.0), Options(presso_iterations=199))
    quiet = test.p_global >= 0.05
    assert (test.p_outlier[quiet] <= 0.05).any()
    assert not test.outlier[quiet].any()
    assert test.outlier[~quiet].any()


def test_presso_distortion_keeps_the_size_of_the_corrected_set():
    """Its null: the k outliers and n - 2k of the others, with replacement, here one by one."""
    group = simulated(1, 24, invalid=0.0, seed=5)
    by = group.by.copy()
    by[0, :8] += 0.5 * np.sign(group.bx[0, :8]) * np.array([1, -1, 1, -1, -1, 1, 1, -1])
    group = replace(group, by=by)
    fit = presso.fit(group, Options(presso_iterations=4000))
    out = fit.p_valid[0] == 0
    k = out.sum()
    assert 4 <= k < 12
    w = 1 / group.se_y[0] ** 2
    xy, xx = w * group.bx[0] * by[0], w * group.bx[0] ** 2
    rng = np.random.default_rng(0)
    theta = xy.sum() / xx.sum()
    biases = []
    for _ in range(4000):
        chosen = np.concatenate([np.flatnonzero(out), rng.choice(np.flatnonzero(~out), 24 - 2 * k)])
        other = xy[chosen].sum() / xx[chosen].sum()
        biases.append(abs((theta - other) / other))
    observed = abs(theta / fit.estimate[0] - 1)
    assert fit.p_distortion[0] == pytest.approx(np.mean(biases >= observed), abs=0.04)
    assert 0.05 < fit.p_distortion[0] < 0.95


def test_presso_distortion_tells_harmless_from_harmful_outliers():
    group = simulated(1, 120, invalid=0.0, seed=2)
    strong = np.argsort(-np.abs(group.bx[0]))[:6]
    sign = np.sign(group.bx[0, strong])
    one_sided, balanced = group.by.copy(), group.by.copy()
    one_sided[0, strong] += 0.9 * sign
    balanced[0, strong] += 0.9 * sign * np.array([1, -1, 1, -1, 1, -1])
    harmful, harmless = (
        presso.fit(replace(group, by=by), Options(presso_iterations=499)).p_distortion[0]
        for by in (one_sided, balanced)
    )
    assert harmful == 1 / 500
    assert harmless > 0.05


def test_presso_draws_keep_the_instruments_of_the_mean_effects():
    group = with_draws(simulated(4, 25, invalid=0.1))
    fit = presso.fit(group, FAST)
    drawn = presso.fit_draws(group, FAST)
    w = fit.p_valid / group.se_y**2
    assert (fit.n_valid < 25).any()
    expected = (w[:, None] * group.draws_x * group.draws_y).sum(axis=-1)
    expected /= (w[:, None] * group.draws_x**2).sum(axis=-1)
    np.testing.assert_allclose(drawn.estimates, expected, rtol=1e-12)


def test_presso_is_reproducible_and_follows_the_seed():
    group = simulated(3, 10)
    first, again, other = (presso_test(group, replace(FAST, seed=s)).p_global for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_presso_tests_are_of_the_anchors():
    group = simulated(2, 15, invalid=0.3)
    moved = replace(group, by=group.by + 1.0, given_anchor_x=group.bx, given_anchor_y=group.by)
    np.testing.assert_array_equal(presso.fit(moved, FAST).p_valid, presso.fit(group, FAST).p_valid)


# --- all of them


@every_method
def test_a_sequence_does_not_depend_on_its_neighbours(method):
    group = with_draws(simulated(70, 301))
    whole = method.fit(group, FAST)
    drawn = method.fit_draws(rows(group, slice(0, 9)), FAST)
    for part in ([3], [5, 3, 69], list(range(3, 60))):
        alone = method.fit(rows(group, part), FAST)
        for name, value in vars(whole).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(alone, name), value[part], err_msg=name)
        if whole.ci_set is not None:
            for i, one in zip(part, alone.ci_set, strict=True):
                np.testing.assert_array_equal(one, whole.ci_set[i])
    alone = method.fit_draws(rows(group, [6]), FAST)
    for name in ("estimates", "se", "se_within"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(drawn, name)[[6]])


@every_method
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_units_and_order_do_not_matter(method, seed, scale_x, scale_y):
    group = replace(simulated(3, 9, seed=seed, invalid=0.0), rho_xy=np.full((3, 9), 0.4))
    fit = method.fit(group, FAST)
    order = np.random.default_rng(seed).permutation(9)
    scaled = Group(
        group.bx * scale_x, group.se_x * scale_x, group.by * scale_y, group.se_y * scale_y,
        rho_xy=group.rho_xy,
    )  # fmt: skip
    factor = scale_y / scale_x
    shuffled = Group(**{k: v[:, order] for k, v in vars(group).items() if v is not None})
    for other, unit in ((scaled, factor), (shuffled, 1.0)):
        again = method.fit(other, FAST)
        if method is MR_PRESSO and not np.array_equal(again.n_valid, fit.n_valid):
            continue  # the global test is a simulation, and its level was met once
        np.testing.assert_allclose(again.estimate, unit * fit.estimate, rtol=1e-7, atol=1e-9 * unit)
        np.testing.assert_allclose(again.se, unit * fit.se, rtol=1e-6)
        assert list(again.status) == list(fit.status)


@every_method
@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_the_reference_allele_does_not_matter(method, seed):
    group = simulated(3, 9, seed=seed, invalid=0.0)
    sign = np.random.default_rng(seed).choice([-1.0, 1.0], size=group.bx.shape)
    fit = method.fit(group, FAST)
    flipped = method.fit(replace(group, bx=sign * group.bx, by=sign * group.by), FAST)
    if method is MR_PRESSO and not np.array_equal(flipped.n_valid, fit.n_valid):
        return
    np.testing.assert_allclose(flipped.estimate, fit.estimate, rtol=1e-9)
    np.testing.assert_allclose(flipped.se, fit.se, rtol=1e-7)


@every_method
def test_finds_the_effect_in_every_draw(method):
    group = with_draws(simulated(4, 60, invalid=0.0), n_draws=30)
    fit = method.fit(group, FAST)
    drawn = method.fit_draws(group, FAST)
    assert drawn.estimates.shape == drawn.se.shape == (4, 30)
    assert drawn.se_within.shape == (4,)
    np.testing.assert_allclose(drawn.estimates.mean(axis=1), fit.estimate, atol=0.02)
    np.testing.assert_allclose(fit.estimate, 0.6, atol=5 * fit.se.max())
    assert (drawn.se > 0).all()
    # There is no scatter here but that of the errors, which the draws carry.
    assert (drawn.se_within < 0.7 * fit.se).all()
    assert (fit.se_model <= fit.se * (1 + 1e-12)).all()


@every_method
def test_a_sequence_that_says_nothing_gets_a_status(method):
    group = simulated(3, 10)
    bx = group.bx.copy()
    bx[1] = 0.0
    fit = method.fit(replace(group, bx=bx), FAST)
    good = method.fit(rows(group, [0, 2]), FAST)
    assert fit.status[1] != "ok"
    assert np.isnan(fit.estimate[1])
    np.testing.assert_array_equal(fit.estimate[[0, 2]], good.estimate)
    assert list(fit.status[[0, 2]]) == ["ok", "ok"]
    drawn = method.fit_draws(with_draws(replace(group, bx=bx)), FAST)
    assert np.isfinite(drawn.estimates[[0, 2]]).all()


@every_method
def test_values_of_any_size_do_not_raise(method):
    rng = np.random.default_rng(0)
    shape = (60, 5)
    effects = [rng.choice([0.0, 1e-12, 1.0, -1.0, 1e8], size=shape) for _ in range(2)]
    errors = [rng.choice([1e-10, 1.0, 1e6], size=shape) for _ in range(2)]
    fit = method.fit(Group(effects[0], errors[0], effects[1], errors[1]), FAST)
    usable = fit.status == "ok"
    assert usable.any()
    assert np.isnan(fit.estimate[~usable]).all()
    assert np.isfinite(fit.estimate[usable]).all()
    assert (fit.se[usable] >= 0).all()
