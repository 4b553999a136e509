"""Modes against R's exact numbers, brute force, their symmetries and a known spread."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepmr.mr.bootstrap import Replicates
from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators.kde import highest_peaks
from deepmr.mr.estimators.kde_search import clusters_of, count_everywhere, search
from deepmr.mr.estimators.mode import (
    SIMPLE_MODE,
    WEIGHTED_MODE,
    bandwidths,
    inverse_variance_weights,
)

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

CLOSED = Options(bootstrap_iterations=0)
REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
ORDERS = (("first", "simple"), ("second", "delta"))
BOTH = ((WEIGHTED_MODE, "weighted"), (SIMPLE_MODE, "unweighted"))


def reference(path):
    case = json.loads(path.read_text())
    columns = (np.array([case["inputs"][k]], float) for k in ("bx", "bxse", "by", "byse"))
    return Group(*columns), case["results"]


def effects(rng, sequences, n, slope=0.5, strength=6.0):
    """Effects with a fifth of invalid instruments; both SEs are 1."""
    true = strength * rng.choice([-1, 1], (sequences, n)) * rng.uniform(0.5, 1.5, (sequences, n))
    invalid = rng.random((sequences, n)) < 0.2
    outcome = slope * true + np.where(invalid, 3.0 * rng.standard_normal((sequences, n)), 0.0)
    one = np.ones((sequences, n))
    bx, by = (b + rng.standard_normal((sequences, n)) for b in (true, outcome))
    return Group(bx, one, by, one.copy())


def density(values, weights, h, at):
    u = (np.asarray(at)[..., None] - values) / h
    kernel = np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi)
    return (kernel * weights).sum(axis=-1) / weights.sum() / h


def brute_force(values, weights, h):
    """Highest density on a grid of h/50 around all values, then of its best points by h/20000."""
    offsets = np.arange(-50, 51) / 50.0 * h
    coarse = np.unique(np.round((values[:, None] + offsets) / (h / 50.0))) * (h / 50.0)
    heights = np.concatenate([density(values, weights, h, part) for part in chunks(coarse)])
    best = coarse[np.argsort(heights)[-20:]]
    fine = (best[:, None] + np.arange(-400, 401) / 20000.0 * h).ravel()
    return max(density(values, weights, h, part).max() for part in chunks(fine))


def chunks(points):
    return np.array_split(points, max(1, len(points) // 500))


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem)
def test_bandwidth_location_and_height_are_those_of_r_exactly(path):
    group, results = reference(path)
    ratio = group.by / group.bx
    for estimator, kind in BOTH:
        for order, label in ORDERS:
            for phi in (0.25, 0.5, 1.0):
                exact = results[f"mbe_{kind}_{label}_phi{phi:g}_exact"]
                options = replace(CLOSED, phi=phi, mode_order=order)
                fit = estimator.fit(group, options)
                assert fit.estimate[0] == pytest.approx(exact["mode"], rel=1e-7)
                assert fit.status[0] == "ok"
                h, centre = bandwidths(ratio, np.ones_like(ratio, bool), phi)
                assert h[0] == pytest.approx(exact["bandwidth"], rel=1e-12)
                weights = (
                    inverse_variance_weights(group, options)
                    if kind == "weighted"
                    else np.ones_like(ratio)
                )
                peaks = highest_peaks(ratio, weights, h, centre)
                assert peaks.density[0] == pytest.approx(exact["density"], rel=1e-12)


# In R's other cases (ldlc_chd, directional300, ism150, ism3000) far ratios widen the step of its
# grid of 512 points, to which every replicate is rounded, to 1.1 to 4 times StdError and more.
SANE = (
    "bmi_sbp",
    "calcium_fastgluc",
    "radial_ldl_chd",
    "synth_corr60",
    "synth_invalid40_200",
    "trig_chd",
    "tsmr_bmi_chd",
)


@pytest.mark.parametrize("case", SANE)
def test_bootstrap_spread_is_near_that_of_r(case):
    group, results = reference(REFERENCE[0].parent / f"mr_{case}.json")
    for estimator, kind in BOTH:
        options = Options(mode_order="first", bootstrap_iterations=500)
        ours = estimator.fit(group, options).se[0]
        assert ours == pytest.approx(results[f"mbe_{kind}_simple_phi1"]["StdError"], rel=0.35)


@st.composite
def designs(draw):
    """Rows that are multimodal, tied, heavy-tailed, with far values or nearly equal peaks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([3, 4, 7, 15, 40, 120]))
    kind = draw(st.sampled_from(["normal", "cauchy", "lattice", "peaks", "uniform", "far"]))
    values = rng.standard_normal(n)
    if kind == "cauchy":
        values = rng.standard_cauchy(n)
    elif kind == "lattice":
        values = np.round(values * 2.0)
    elif kind == "peaks":
        apart = draw(st.floats(0.5, 60.0))
        values = 0.2 * values + apart * rng.integers(0, draw(st.integers(2, 4)), n)
    elif kind == "uniform":
        values = np.linspace(-1.0, 1.0, n) * draw(st.floats(1.0, 10.0))
    elif kind == "far":
        values[: n // 3] *= 10.0 ** rng.uniform(0.0, 6.0, n // 3)
    weights = np.ones(n) if draw(st.booleans()) else rng.random(n) ** draw(st.sampled_from([1, 6]))
    return values, weights + 1e-9, draw(st.sampled_from([0.003, 0.05, 0.2, 0.5, 1.5]))


@settings(max_examples=100, deadline=None)
@given(designs())
@example((np.array([3.0, -2.0, -3.0]), np.ones(3), 0.5))  # two peaks that just merge
def test_no_point_is_higher_by_brute_force(design):
    values, weights, h = design
    bandwidth, centre = np.array([h]), np.array([np.median(values)])
    peaks = highest_peaks(values[None], weights[None], bandwidth, centre, count_modes=True)
    at_mode = density(values, weights, h, peaks.location)[0]
    assert peaks.density[0] == pytest.approx(at_mode, rel=1e-8)
    assert at_mode >= brute_force(values, weights, h) * (1 - 1e-9)
    assert peaks.n_modes[0] >= 1
    # rows that have no proof in the batch and those that have one must agree
    x = (values - centre[0]) / h
    clusters = clusters_of(x, weights / weights.sum())
    _, height = search(clusters)
    assert height == pytest.approx(peaks.density[0] * h * np.sqrt(2 * np.pi), rel=1e-12)
    assert count_everywhere(clusters, height) >= 1


@pytest.mark.parametrize("seed", range(6))
def test_no_point_is_higher_among_3000(seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_cauchy, rng.standard_normal, rng.random)[seed % 3](3000)
    values[:5] = 1e6 * rng.standard_normal(5)
    weights = rng.random(3000) ** (1 + seed)
    h, centre = bandwidths(values[None], np.ones((1, 3000), bool), 1.0)
    found = highest_peaks(values[None], weights, h, centre)
    points = np.linspace(centre[0] - 12 * h[0], centre[0] + 12 * h[0], 4001)
    top = max(density(values, weights, h[0], part).max() for part in chunks(points))
    assert found.density[0] >= top
    assert found.density[0] == pytest.approx(top, rel=1e-4)


def test_equal_peaks_give_the_smaller_and_a_slightly_heavier_one_wins():
    values = np.array([[0.0, 0.1, 5.0, 5.1], [0.0, 0.1, 5.0, 5.1]])
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0 + 1e-6]])
    found = highest_peaks(values, weights, np.full(2, 0.2), np.zeros(2), count_modes=True)
    np.testing.assert_allclose(found.location, [0.05, 5.05], atol=1e-6)
    np.testing.assert_array_equal(found.n_modes, [2, 2])


def test_two_maxima_within_the_step_of_the_grid_are_told_apart():
    # two normals of sd h, 2.02 h apart, have two maxima about .24 h from each other
    for heavier in (0, 1):
        values = np.array([[-1.01, 1.01]])
        weights = np.array([1.0, 1.0])
        weights[heavier] += 1e-7
        found = highest_peaks(values, weights, np.ones(1), np.zeros(1))
        sign = (-1, 1)[heavier]
        line = sign * np.linspace(0.0, 0.5, 100_001)
        best = line[np.argmax(density(values[0], weights, 1.0, line))]
        assert found.location[0] == pytest.approx(best, abs=2e-5)
        assert sign * found.location[0] > 0.1


def test_modes_of_a_tenth_of_the_height_count_wherever_they_are():
    centres = np.array([0.0, 10.0, 30.0, 1e7, -1e12])
    counts = np.array([100, 50, 12, 11, 8])  # the last has less than a tenth
    values = np.concatenate([np.full(c, v) for v, c in zip(centres, counts, strict=True)])
    weights = np.ones(len(values))
    found = highest_peaks(values[None], weights, np.ones(1), np.zeros(1), count_modes=True)
    assert found.n_modes[0] == 4
    assert found.location[0] == pytest.approx(0.0, abs=1e-12)
    assert found.density[0] == pytest.approx(100 / 181 / np.sqrt(2 * np.pi), rel=1e-12)
    inner = highest_peaks(values[None, :162], weights[:162], np.ones(1), np.zeros(1), True)
    assert inner.n_modes[0] == 3


def test_the_highest_peak_may_be_far_from_the_centre():
    values = np.concatenate([np.linspace(-3.0, 3.0, 60), np.full(4, 1e5), [np.pi * 1e8]])
    weights = np.concatenate([np.ones(60), np.full(4, 9.0), [1.0]])
    found = highest_peaks(values[None], weights, np.array([0.3]), np.zeros(1))
    assert found.location[0] == pytest.approx(1e5, rel=1e-12)


@pytest.mark.parametrize("away", [15.0, 20.05, 63.9, 64.0, 128.0, 256.0, -256.0, 1024.0, 2.0**40])
def test_a_higher_peak_is_found_at_any_distance(away):
    bulk = np.linspace(-12.0, 12.0, 80)
    values = np.concatenate([bulk, away + np.array([-0.2, 0.0, 0.2])])
    weights = np.concatenate([np.ones(80), np.full(3, 5.0)])
    found = highest_peaks(values[None], weights, np.ones(1), np.zeros(1), count_modes=True)
    assert found.location[0] == pytest.approx(away, rel=1e-2)
    at_peak = density(values, weights, 1.0, away)
    assert found.density[0] >= at_peak * (1 - 1e-12)
    assert found.density[0] == pytest.approx(at_peak, rel=2e-2)


def test_without_bandwidth_the_mode_is_the_heaviest_value():
    values = np.array([[3.0, 1.0, 1.0, 2.0], [3.0, 1.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [2.5, 1.0, 1.0, 2.5], [1.0, 1.0, 1.0, 1.0]])
    found = highest_peaks(values, weights, np.array([0.0, 0.0, np.nan]), np.ones(3))
    np.testing.assert_array_equal(found.location, [1.0, 2.0, np.nan])


def test_half_of_the_ratios_equal():
    bx = np.array([[1.0, 2.0, 4.0, 8.0, 1.0, 1.0]])
    by = np.array([[0.5, 1.0, 2.0, 4.0, 3.0, -2.0]])
    one = np.ones_like(bx)
    fit = SIMPLE_MODE.fit(Group(bx, one, by, one), CLOSED)
    assert fit.estimate[0] == 0.5
    assert np.isnan(fit.se[0])
    assert fit.status[0] == "ok"


def test_instruments_without_exposure_effect_are_left_out():
    rng = np.random.default_rng(4)
    group = effects(rng, 4, 30)
    group.bx[3] = 0.0
    group.bx[1, :5] = 0.0
    group.by[1, 0] = 0.0
    group.bx[2, :28] = 0.0
    for estimator, _ in BOTH:
        fit = estimator.fit(group, Options(bootstrap_iterations=20))
        alone = estimator.fit(
            Group(*(a[1:2, 5:] for a in (group.bx, group.se_x, group.by, group.se_y))), CLOSED
        )
        assert fit.estimate[1] == pytest.approx(alone.estimate[0], rel=1e-10)
        assert list(fit.status) == ["ok", "ok", "too_few_ratios", "too_few_ratios"]
        np.testing.assert_array_equal(np.isnan(fit.estimate), [False, False, True, True])
        np.testing.assert_array_equal(np.isnan(fit.se), [False, False, True, True])


def test_sandwich_of_two_pairs_by_hand():
    # r = -1, 1 (twice each) and h = 2: the mode is 0, |u| = 1/2, K' = u K, K'' = (u^2 - 1) K
    group = Group(
        np.ones((1, 4)), np.ones((1, 4)), np.array([[-1.0, -1.0, 1.0, 1.0]]), np.ones((1, 4))
    )
    phi = 2.0 / (0.9 * np.sqrt(4 / 3) * 4**-0.2)
    fit = SIMPLE_MODE.fit(group, replace(CLOSED, phi=phi))
    assert fit.estimate[0] == pytest.approx(0.0, abs=1e-12)
    assert fit.se[0] == pytest.approx(2.0 * np.sqrt(4 * 0.25) / (4 * 0.75), rel=1e-12)


def test_bootstrap_spread_equals_its_definition():
    rng = np.random.default_rng(8)
    group = effects(rng, 2, 25)
    group = replace(group, rho_xy=np.full((2, 25), 0.6))
    options = Options(bootstrap_iterations=41)
    fit = WEIGHTED_MODE.fit(group, options)
    x, y = Replicates(25, options).of(group, 1)
    weights = inverse_variance_weights(group, options)[1]
    modes = []
    for ratio in y / x:
        mad = 1.4826 * np.median(np.abs(ratio - np.median(ratio)))
        h = 0.9 * min(ratio.std(ddof=1), mad) * 25**-0.2
        points = np.linspace(-1.0, 2.0, 6001)
        points = points[np.argmax(density(ratio, weights, h, points))] + np.linspace(
            -5e-4, 5e-4, 401
        )
        modes.append(points[np.argmax(density(ratio, weights, h, points))])
    spread = 1.4826 * np.median(np.abs(modes - np.median(modes)))
    assert fit.se[1] == pytest.approx(spread, rel=1e-3)
    assert fit.se[1] != WEIGHTED_MODE.fit(replace(group, rho_xy=None), options).se[1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 10, 60]))
def test_order_signs_and_scales_of_instruments(seed, n):
    rng = np.random.default_rng(seed)
    group = effects(rng, 1, n)
    order, sign = rng.permutation(n), rng.choice([-1.0, 1.0], n)
    changed = Group(
        2.5 * (sign * group.bx)[:, order],
        2.5 * group.se_x[:, order],
        -0.2 * (sign * group.by)[:, order],
        0.2 * group.se_y[:, order],
    )
    for estimator, _ in BOTH:
        plain, other = (estimator.fit(g, CLOSED) for g in (group, changed))
        assert other.estimate[0] == pytest.approx(-0.08 * plain.estimate[0], rel=1e-7, abs=1e-9)
        assert other.se[0] == pytest.approx(0.08 * plain.se[0], rel=1e-7)


@pytest.mark.parametrize("n", [17, 400, 3001])
def test_a_sequence_does_not_feel_its_neighbours(n):
    rng = np.random.default_rng(n)
    group = effects(rng, 13, n)
    group.bx[3, 2] = 0.0
    group.by[5] = 0.5 * group.bx[5]  # no bandwidth
    group.by[7, ::2] += 1e7 * group.bx[7, ::2]
    draws = [a[:, None, :] + rng.standard_normal((13, 5, n)) for a in (group.bx, group.by)]
    draws[0][4, 1, 0] = 0.0
    group = replace(group, draws_x=draws[0], draws_y=draws[1])
    options = Options(bootstrap_iterations=3)
    for estimator, _ in BOTH:
        fit, drawn = estimator.fit(group, options), estimator.fit_draws(group, options)
        for i in range(13):
            one = slice(i, i + 1)
            fields = ("bx", "se_x", "by", "se_y", "draws_x", "draws_y")
            alone = Group(*(np.ascontiguousarray(getattr(group, f)[one]) for f in fields))
            single, single_draws = (f(alone, options) for f in (estimator.fit, estimator.fit_draws))
            for name in ("estimate", "se", "n_modes", "status"):
                assert np.array_equal(
                    getattr(fit, name)[one].astype(str), getattr(single, name).astype(str)
                ), name
            for name in ("estimates", "se", "se_within"):
                np.testing.assert_array_equal(
                    getattr(drawn, name)[one], getattr(single_draws, name), err_msg=name
                )


def test_draws_keep_weights_and_bandwidth_of_the_mean_effects():
    rng = np.random.default_rng(11)
    group = effects(rng, 2, 40)
    x, y = (a[:, None, :] + 0.3 * rng.standard_normal((2, 6, 40)) for a in (group.bx, group.by))
    group = replace(group, draws_x=x, draws_y=y)
    for estimator, _ in BOTH:
        drawn = estimator.fit_draws(group, CLOSED)
        mean = estimator.fit(replace(group, draws_x=None, draws_y=None), CLOSED)
        np.testing.assert_allclose(drawn.se_within, mean.se, rtol=1e-9)
        for t in range(6):
            one = Group(
                np.ascontiguousarray(x[:, t]),
                group.se_x,
                np.ascontiguousarray(y[:, t]),
                group.se_y,
                given_anchor_x=group.bx,
                given_anchor_y=group.by,
            )
            fit = estimator.fit(one, CLOSED)
            np.testing.assert_allclose(drawn.estimates[:, t], fit.estimate, rtol=1e-9)
            np.testing.assert_allclose(drawn.se[:, t], fit.se, rtol=1e-7)


def test_student_or_normal_and_the_truth():
    rng = np.random.default_rng(2)
    group = effects(rng, 60, 150, slope=0.5, strength=10.0)
    fit = WEIGHTED_MODE.fit(group, replace(CLOSED, distribution="t"))
    assert fit.df == 149
    assert WEIGHTED_MODE.fit(group, CLOSED).df == np.inf
    assert np.abs(fit.estimate.mean() - 0.5) < 0.04
    assert 0.3 < np.median(fit.se) / fit.estimate.std() < 3.0


def test_bootstrap_of_a_matrix_that_is_none_gives_no_standard_error():
    group = effects(np.random.default_rng(0), 1, 5)
    group = replace(group, correlation=np.full((1, 5, 5), 2.0))
    fit = WEIGHTED_MODE.fit(group, Options(bootstrap_iterations=10))
    assert np.isfinite(fit.estimate[0])
    assert np.isnan(fit.se[0])
