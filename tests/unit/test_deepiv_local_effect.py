"""The estimate from networks' predictions: by hand, against 2SLS, and coverage with weak z."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepmr.deepiv.local_effect import (
    FEWEST_CLUSTERS,
    ClusterSums,
    LocalEffect,
    anderson_rubin,
    cluster_sums,
    local_effect,
    naive_effect,
)
from deepmr.deepiv.two_stage import two_stage_least_squares

TRUTH = 0.5
seeds = st.integers(0, 10_000)


def simulate(
    rng: np.random.Generator, strength: float, n_clusters: int = 100, size: int = 4
) -> tuple[np.ndarray, ...]:
    """Return y, x, q, r, m and clusters; all of z, the confounder and noise depend in clusters."""
    n = n_clusters * size
    shared = np.repeat(rng.normal(size=(2, n_clusters)), size, axis=1)
    own = rng.normal(size=(3, n))
    z, u = 0.6 * shared + 0.8 * own[:2]
    x = strength * z + u
    y = TRUTH * x + 0.95 * u + np.sqrt(1 - 0.95**2) * own[2]
    zero = np.zeros(n)
    return y, x, strength * z, zero, zero, np.repeat(np.arange(n_clusters), size)


def covers(effect: LocalEffect, truth: float) -> bool:
    if effect.ar_kind == "outside":
        return not effect.ar_low < truth < effect.ar_high
    return effect.ar_low <= truth <= effect.ar_high


def numbers(effect: LocalEffect) -> dict[str, float]:
    return {name: v for name, v in vars(effect).items() if not isinstance(v, str)}


def agree(one: LocalEffect, other: LocalEffect, rtol: float = 1e-8) -> None:
    for name, value in numbers(one).items():
        np.testing.assert_allclose(numbers(other)[name], value, rtol, 1e-10, err_msg=name)
    assert [one.ar_kind, one.status, one.reason] == [other.ar_kind, other.status, other.reason]


def test_a_small_case_by_hand() -> None:
    # q - r = 1, -1, 1, ...; y - m and x - r as listed; clusters of two rows.
    a = np.tile([1.0, -1.0], 5)
    y = np.array([3.0, 1, 2, 0, 4, 0, 2, 1, 3, 2])
    x = np.array([2.0, 1, 3, 1, 2, 0, 1, 0, 2, 0])
    clusters = np.repeat(list("edcba"), 2)
    # N_g = 2, 2, 4, 1, 1 and D_g = 1, 2, 2, 1, 2: theta = 10/8, S_g = N_g - 1.25 D_g.
    found = local_effect(y + 7, x + 5, a + 5, np.full(10, 5.0), np.full(10, 7.0), clusters)
    scores = np.array([0.75, -0.5, 1.5, -0.25, -1.5])
    se = np.sqrt(5 / 4 * (scores**2).sum()) / 8
    assert found.estimate == pytest.approx(1.25)
    assert found.se == pytest.approx(se)
    assert (found.df, found.n, found.n_clusters) == (4, 10, 5)
    t = stats.t(4).ppf(0.975)
    assert (found.ci_low, found.ci_high) == pytest.approx((1.25 - t * se, 1.25 + t * se))
    assert found.p_value == pytest.approx(2 * stats.t(4).sf(1.25 / se))
    assert found.variance == pytest.approx(0.8)
    assert found.variance_share == pytest.approx(8 / 24)
    # Var(D): deviations of D_g from 1.6.
    var_d = 5 / 4 * (3 * 0.4**2 + 2 * 0.6**2)
    assert found.f == pytest.approx(64 / var_d)
    assert (found.status, found.reason, found.ar_kind) == ("ok", "", "interval")
    # Both ends of the set solve (N - theta D)^2 = t^2 V(theta).
    for end in (found.ar_low, found.ar_high):
        s = np.array([2, 2, 4, 1, 1]) - end * np.array([1, 2, 2, 1, 2])
        assert (10 - end * 8) ** 2 == pytest.approx(t**2 * 5 / 4 * ((s - s.mean()) ** 2).sum())
    narrower = local_effect(
        y + 7, x + 5, a + 5, np.full(10, 5.0), np.full(10, 7.0), clusters, level=0.8
    )
    assert narrower.ci_high == pytest.approx(1.25 + stats.t(4).ppf(0.9) * se)


def test_with_linear_predictions_it_is_two_stage_least_squares() -> None:
    rng = np.random.default_rng(0)
    c, z, u = rng.normal(size=(300, 2)), rng.normal(size=300), rng.normal(size=300)
    x = c @ [1.0, -1] + 0.5 * z + u
    y = 0.7 * x + c @ [0.3, 2] + u + rng.normal(size=300)
    design = np.column_stack([np.ones(300), c])

    def projected(on: np.ndarray, values: np.ndarray) -> np.ndarray:
        return on @ np.linalg.lstsq(on, values, rcond=None)[0]

    clusters = np.arange(300) // 5
    q = projected(np.column_stack([design, z]), x)
    r, m = projected(design, x), projected(design, y)
    ours = local_effect(y, x, q, r, m, clusters)
    theirs = two_stage_least_squares(y, x, z[:, None], c, clusters)
    assert ours.estimate == pytest.approx(theirs.estimate, rel=1e-9)
    # The same sandwich, but for the correction (n - 1)/(n - p) of the regression's.
    assert ours.se == pytest.approx(theirs.se * np.sqrt((300 - 4) / 299), rel=1e-9)
    assert ours.variance == pytest.approx(np.var(q - r), rel=1e-9)
    naive = naive_effect(y, x, r, m, clusters)
    slope = np.linalg.lstsq(np.column_stack([x, design]), y, rcond=None)[0][0]
    assert naive.estimate == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize(("strength", "f_low", "f_high"), [(0.08, 1.2, 3), (0.8, 50, 200)])
def test_coverage_of_both_kinds_of_interval(strength: float, f_low: float, f_high: float) -> None:
    rng = np.random.default_rng(1)
    found = [local_effect(*simulate(rng, strength)) for _ in range(8000)]
    assert f_low < np.median([effect.f for effect in found]) < f_high
    # Four standard errors of a coverage from 8,000 runs are .0097.
    assert np.mean([covers(effect, TRUTH) for effect in found]) == pytest.approx(0.95, abs=0.0097)
    estimated = [effect for effect in found if effect.status == "ok"]
    wald = np.mean([effect.ci_low <= TRUTH <= effect.ci_high for effect in estimated])
    weak = np.mean([effect.reason == "weak_instrument" for effect in estimated])
    if strength < 0.1:
        assert wald < 0.9
        assert weak > 0.95
    else:
        assert wald == pytest.approx(0.95, abs=0.0097)
        assert weak == 0


def test_the_two_sets_become_one_as_windows_become_many() -> None:
    gaps = []
    for n_clusters in (100, 10_000):
        effect = local_effect(*simulate(np.random.default_rng(2), 1.0, n_clusters))
        ends = np.array([effect.ar_low - effect.ci_low, effect.ar_high - effect.ci_high])
        gaps.append(np.abs(ends).max() / (effect.ci_high - effect.ci_low))
    assert gaps[0] > 0.005
    assert gaps[1] < gaps[0] / 5


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(0.01, 10),
    st.floats(-0.99, 0.99),
    st.floats(0.01, 10),
    st.floats(1, 5),
)
def test_the_set_is_what_solves_the_inequality(
    n: float, d: float, sd_n: float, correlation: float, sd_d: float, t: float
) -> None:
    sums = ClusterSums(n, d, sd_n**2, correlation * sd_n * sd_d, sd_d**2, 50)
    found = anderson_rubin(sums, t)
    centre = n / d if abs(d) > 1e-3 else 0.0
    grid = centre + np.r_[0.0, np.geomspace(1e-3, 1e4, 200), -np.geomspace(1e-3, 1e4, 200)]
    for theta in grid:
        distance, limit = abs(n - theta * d), t * np.sqrt(sums.variance(theta))
        if abs(distance - limit) < 1e-6 * (distance + limit):
            continue
        inside = found.low <= theta <= found.high
        if found.kind == "outside":
            inside = not inside
        assert inside == (distance < limit), (found, theta)


def test_every_kind_of_set() -> None:
    t = 2.0
    assert anderson_rubin(ClusterSums(1, 10, 1, 0, 1, 9), t).kind == "interval"
    assert anderson_rubin(ClusterSums(0.5, 1, 1, 0, 1, 9), t) == (-np.inf, np.inf, "everything")
    gap = anderson_rubin(ClusterSums(10, 1, 1, 0, 1, 9), t)
    # (10 - theta)^2 = 4 (1 + theta^2) at the ends of the gap.
    assert gap.kind == "outside"
    roots = (-10 - np.sqrt(388)) / 3, (-10 + np.sqrt(388)) / 3
    assert (gap.low, gap.high) == pytest.approx(sorted(roots))
    # D^2 = t^2 Var(D): a half line, (4 - 2 theta)^2 <= 4 (1 + theta^2).
    assert anderson_rubin(ClusterSums(4, 2, 1, 0, 1, 9), t) == (0.75, np.inf, "interval")
    assert anderson_rubin(ClusterSums(-4, 2, 1, 0, 1, 9), t) == (-np.inf, -0.75, "interval")
    assert anderson_rubin(ClusterSums(4, 0, 1, 0, 0, 9), t).kind == "empty"
    assert anderson_rubin(ClusterSums(1, 0, 1, 0, 0, 9), t).kind == "everything"
    assert anderson_rubin(ClusterSums(0, 3, 0, 0, 1, 9), t) == (0.0, 0.0, "interval")


@settings(max_examples=40, deadline=None)
@given(seeds, st.floats(0.05, 2), st.floats(-10, 10), st.floats(0.1, 10), st.floats(0.1, 10))
def test_shifts_order_and_units(
    seed: int, strength: float, shift: float, unit_y: float, unit_x: float
) -> None:
    rng = np.random.default_rng(seed)
    y, x, q, r, m, clusters = simulate(rng, strength, 20)
    tau = rng.normal(size=y.size)
    plain = local_effect(y, x, q, r, m, clusters, tau=tau)
    agree(local_effect(y + shift, x, q, r, m + shift, clusters, tau=tau), plain, 1e-6)
    order = rng.permutation(y.size)
    shuffled = (v[order] for v in (y, x, q, r, m, np.char.mod("block %d", clusters)))
    agree(local_effect(*shuffled, tau=tau[order]), plain, 1e-6)
    factor = unit_y / unit_x
    scaled = local_effect(
        *(unit_y * y, unit_x * x, unit_x * q, unit_x * r, unit_y * m, clusters), tau=factor * tau
    )
    in_units = {
        name: factor * getattr(plain, name)
        for name in ("estimate", "se", "ci_low", "ci_high", "network", "ar_low", "ar_high")
    }
    agree(scaled, replace(plain, **in_units, variance=unit_x**2 * plain.variance), 1e-6)


def test_the_estimate_is_the_networks_average_and_a_correction() -> None:
    rng = np.random.default_rng(3)
    n = 20_000
    c, z, clusters = rng.uniform(-1, 1, n), rng.normal(size=n), np.arange(n) // 100
    strength, tau = 1 + 0.8 * c, 1 + c
    x = strength * z + rng.normal(size=n)
    y = tau * x + rng.normal(size=n)
    q, zero = strength * z, np.zeros(n)
    found = local_effect(y, x, q, zero, zero, clusters, tau=tau)
    # Weights Var(q|c) = (1 + .8 c)^2: the mean of 1 + c is 1 + 1.6/3 / (1 + .64/3).
    expected = 1 + (1.6 / 3) / (1 + 0.64 / 3)
    assert abs(found.estimate - expected) < 3 * found.se < 0.1
    assert found.network == pytest.approx(expected, abs=0.03)
    # A network that is wrong by a constant is put right by its own residuals.
    wrong = local_effect(y, x, q, zero, zero, clusters, tau=tau + 5)
    correction = (q * (y - (tau + 5) * x)).sum() / (q * x).sum()
    assert wrong.network + correction == pytest.approx(found.estimate)
    assert wrong.estimate == found.estimate
    assert np.isnan(local_effect(y, x, q, zero, zero, clusters).network)


def test_small_errors_of_the_context_predictions_hardly_matter() -> None:
    """Orthogonality: errors of r and m of 1 % move the estimate by far less than 1 %."""
    rng = np.random.default_rng(4)
    n = 200_000
    c, z, u = rng.normal(size=(3, n))
    x = c + z + u
    y = TRUTH * x + c**2 + u
    q, r, m = c + z, c, TRUTH * c + c**2
    clusters = np.arange(n) // 100
    right = local_effect(y, x, q, r, m, clusters).estimate
    error = 0.01 * (1 + c)
    for moved in (
        local_effect(y, x, q, r + error, m, clusters),
        local_effect(y, x, q, r, m + error, clusters),
        local_effect(y, x, q + error, r, m, clusters),
    ):
        assert abs(moved.estimate - right) < 2e-4
    # Not so without the outcome's prediction: what q - r and y share is then confounding.
    bare = [local_effect(y, x, q, r + e, np.zeros(n), clusters).estimate for e in (0, error)]
    assert abs(bare[1] - bare[0]) > 20 * 2e-4


def test_a_naive_effect_holds_confounding_and_has_no_instrument() -> None:
    y, x, q, r, m, clusters = simulate(np.random.default_rng(5), 0.8, 500)
    naive, local = naive_effect(y, x, r, m, clusters, tau=x), local_effect(y, x, q, r, m, clusters)
    # u makes up 1 of the exposure's variance of 1.64.
    assert abs(naive.estimate - (TRUTH + 0.95 / 1.64)) < 3 * naive.se
    assert abs(local.estimate - TRUTH) < 3 * local.se
    assert naive.variance_share == 1
    assert naive.variance == pytest.approx(np.mean(x**2))
    assert naive.network == pytest.approx((x**3).sum() / (x**2).sum())
    assert np.isnan([naive.f, naive.ar_low, naive.ar_high]).all()
    assert (naive.ar_kind, naive.status, naive.reason) == ("", "ok", "")


def test_why_there_is_no_estimate() -> None:
    y, x, q, r, m, clusters = simulate(np.random.default_rng(6), 0.8)
    ones = np.ones_like(x)
    constant_x = local_effect(y, ones, q, r, m, clusters)
    constant_y = local_effect(ones, x, q, r, m, clusters)
    opposite = local_effect(y, x, -q, r, m, clusters)
    blind = local_effect(y, x, r, r, m, clusters)
    reasons = ["constant_exposure", "constant_outcome", "no_first_stage", "no_first_stage"]
    for effect, reason in zip((constant_x, constant_y, opposite, blind), reasons, strict=True):
        assert (effect.status, effect.reason) == ("no_variation", reason)
        assert np.isnan([effect.estimate, effect.se, effect.ci_low, effect.p_value]).all()
    assert constant_x.ar_kind == constant_y.ar_kind == blind.ar_kind == "everything"
    # The sign of the instrument is nothing to the Anderson-Rubin set, but tells of a bad stage 1.
    assert opposite.variance < 0
    right = local_effect(y, x, q, r, m, clusters)
    assert (opposite.ar_low, opposite.ar_high) == pytest.approx((right.ar_low, right.ar_high))


def test_few_clusters_leave_an_estimate_without_scatter() -> None:
    y, x, q, r, m, _ = simulate(np.random.default_rng(7), 0.8)
    effects = {
        k: local_effect(y, x, q, r, m, np.arange(y.size) % k) for k in (1, FEWEST_CLUSTERS - 1)
    }
    for k, effect in effects.items():
        assert (effect.status, effect.n_clusters, effect.df) == ("too_few_clusters", k, k - 1)
        assert effect.estimate == pytest.approx((q @ y) / (q @ x))
        assert np.isnan([effect.se, effect.ci_low, effect.p_value, effect.f]).all()
        assert effect.ar_kind == "everything"
    assert local_effect(y, x, q, r, m, np.arange(y.size) % FEWEST_CLUSTERS).status == "ok"


def test_sums_of_clusters() -> None:
    sums = cluster_sums(np.array([1.0, 2, 3]), np.array([1.0, 1, 4]), ["b", "a", "b"])
    # Sums 4 and 2, 5 and 1; twice the squared deviations from 3 and 3.
    assert sums == (6, 6, 2 * 2, 2 * 4, 2 * 8, 2)
    assert sums.variance(1.0) == 4
    assert sums.variance(0.5) == 0


def test_bad_columns_are_refused_by_name() -> None:
    y = np.arange(4.0)
    with pytest.raises(ValueError, match=r"q must have the shape of y, \(4,\); found \(3,\)"):
        local_effect(y, y, y[:3], y, y, y)
    with pytest.raises(ValueError, match="clusters must have the shape of y"):
        naive_effect(y, y, y, y, y[:2])
    with pytest.raises(ValueError, match="tau is nan in window 1; leave windows out"):
        local_effect(y, y, y, y, y, y, tau=[0, np.nan, 0, 0])
    with pytest.raises(ValueError, match="at least one window"):
        local_effect([], [], [], [], [], [])
    with pytest.raises(ValueError, match=r"in \(0, 1\), such as \.95; got 95"):
        local_effect(y, y, y, y, y, y, level=95)
