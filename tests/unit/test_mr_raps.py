"""RAPS: its equations, their solution, and what R makes of them."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators.raps import RAPS, _sandwich, fit
from deepmr.mr.estimators.raps_loss import LOSS
from deepmr.mr.estimators.raps_score import (
    Score,
    _first,
    _second,
    equations,
    global_minimum,
    joint_root,
)

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
every_reference = pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem[3:])
every_loss = pytest.mark.parametrize("name", LOSS)


@pytest.fixture(autouse=True)
def _no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def reference(path):
    case = json.loads(path.read_text())
    effects = [np.array(case["inputs"][name])[None] for name in ("bx", "bxse", "by", "byse")]
    return Group(*effects), case["results"]


def simulated(n_sequences, n, seed=0, tau=0.0, rho=0.0, strength=2.0, slope=0.7):
    rng = np.random.default_rng(seed)
    shape = (n_sequences, n)
    se_x, se_y = 0.5 + rng.random(shape), 0.5 + rng.random(shape)
    true = strength * rng.normal(size=shape)
    noise_x, noise_y = rng.normal(size=(2, *shape))
    noise_y = rho * noise_x + np.sqrt(1 - rho**2) * noise_y
    by = slope * true + se_y * noise_y + tau * rng.normal(size=shape)
    return Group(true + se_x * noise_x, se_x, by, se_y, rho_xy=np.full(shape, rho))


def loss_at(group, theta, name, tau2=0.0):
    theta = np.atleast_1d(theta)[:, None]
    covariance = group.error_correlation[0] * group.se_x[0] * group.se_y[0]
    v = group.se_y[0] ** 2 + tau2 + theta**2 * group.se_x[0] ** 2 - 2 * theta * covariance
    return LOSS[name].value((group.by[0] - theta * group.bx[0]) / np.sqrt(v)).sum(axis=-1)


def residue(group, theta, tau2, name):
    """How far theta and tau2 are from a root, in standard deviations of the scores."""
    first, second = equations(Score.of(group), theta, tau2, LOSS[name])
    return np.maximum(np.abs(first), np.where(tau2 > 0, np.abs(second), second))


# --- against R


@every_reference
@every_loss
def test_without_overdispersion_agrees_with_r(path, name):
    group, expected = reference(path)
    r = expected[f"raps_{name}"]
    result = fit(group, Options(loss=name, overdispersion=False))
    assert result.estimate[0] == pytest.approx(r["beta"], rel=1e-7)
    assert result.se[0] == pytest.approx(r["se"], rel=1e-6)
    assert result.tau2[0] == 0.0
    first, _ = equations(Score.of(group), result.estimate, result.tau2, LOSS[name])
    assert abs(first[0]) < 1e-12
    np.testing.assert_array_equal(result.se_model, result.se)


@every_reference
def test_overdispersed_l2_agrees_with_r(path):
    group, expected = reference(path)
    r = expected["raps_l2_overdisp"]
    result = fit(group, Options())
    if r["tau2"] > 1e-7:
        assert result.estimate[0] == pytest.approx(r["beta"], rel=1e-6)
        assert result.se[0] == pytest.approx(r["se"], rel=1e-5)
        assert result.tau2[0] == pytest.approx(r["tau2"], rel=2e-5)
        assert result.se_model[0] < 0.8 * result.se[0]
    else:  # R's search ends at 8e-9 where tau2 is 0
        assert result.tau2[0] == 0.0
        assert result.estimate[0] == pytest.approx(r["beta"], rel=1e-5)
        assert result.se[0] == pytest.approx(r["se"], rel=1e-4)
    ours = residue(group, result.estimate, result.tau2, "l2")[0]
    theirs = residue(group, np.array([r["beta"]]), np.array([r["tau2"]]), "l2")[0]
    assert ours < 1e-12
    assert ours < theirs or theirs < 0


@every_reference
@pytest.mark.parametrize("name", ["huber", "tukey"])
def test_overdispersed_robust_values_of_r_solve_nothing(path, name):
    group, expected = reference(path)
    r = expected[f"raps_{name}_overdisp"]
    result = fit(group, Options(loss=name))
    assert list(result.status) == ["ok"]
    assert residue(group, result.estimate, result.tau2, name)[0] < 1e-12
    assert residue(group, np.array([r["beta"]]), np.array([r["tau2"]]), name)[0] > 0.01


@every_reference
@every_loss
def test_the_sandwich_is_that_of_r_at_the_values_of_r(path, name):
    group, expected = reference(path)
    r = expected[f"raps_{name}_overdisp"]
    theta, tau2 = np.array([r["beta"]]), np.array([r["tau2"]], dtype=float)
    se, _, _ = _sandwich(Score.of(group), theta, tau2, LOSS[name], True)
    # R integrates the moments of the robust losses with a corner in the way.
    assert se[0] == pytest.approx(r["se"], rel=1e-12 if name == "l2" else 1e-5)


# --- the equations


@every_loss
def test_losses_and_their_moments(name):
    loss = LOSS[name]
    t = np.linspace(-7, 7, 57) + 0.003
    h = 1e-6
    np.testing.assert_allclose(
        loss.psi(t), (loss.value(t + h) - loss.value(t - h)) / 2 / h, atol=1e-8
    )
    np.testing.assert_allclose(
        loss.slope(t), (loss.psi(t + h) - loss.psi(t - h)) / 2 / h, atol=1e-8
    )

    def mean(function):
        corners = [-4.685, -1.345, 1.345, 4.685]
        return quad(
            lambda x: float(function(np.float64(x))) * norm.pdf(x), -12, 12, points=corners
        )[0]

    assert loss.delta == pytest.approx(mean(lambda x: x * loss.psi(x)), rel=1e-9)
    assert loss.delta == pytest.approx(mean(loss.slope), rel=1e-9)
    assert loss.score_variance == pytest.approx(mean(lambda x: loss.psi(x) ** 2), rel=1e-9)
    square = mean(lambda x: (x * loss.psi(x)) ** 2)
    assert loss.scale_variance == pytest.approx(square - loss.delta**2, rel=1e-9)
    assert loss.curvature == pytest.approx(mean(lambda x: x * x * loss.slope(x)), rel=1e-9)
    efficiency = loss.delta**2 / loss.score_variance
    assert efficiency == pytest.approx(1.0 if name == "l2" else 0.95, abs=1e-4)


@every_loss
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_first_equation_is_the_slope_of_the_loss(name, rho):
    group = simulated(1, 12, rho=rho, tau=1.0)
    score = Score.of(group)
    for theta in (-1.3, 0.2, 0.9):
        t, g, _, _ = score.parts(np.array([theta]), np.array([0.5]))
        first = (LOSS[name].psi(t) * g).sum()
        ends = loss_at(group, [theta - 1e-6, theta + 1e-6], name, 0.5)
        assert first == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@every_loss
def test_derivatives_that_newton_uses(name):
    score, h = Score.of(simulated(1, 12, rho=0.6, tau=1.0)), 1e-6
    for theta, tau2 in ((-1.3, 0.4), (0.2, 2.0), (0.9, 0.1)):
        at = np.array([theta]), np.array([tau2])
        ends = [_first(score, at[0] + d, at[1], LOSS[name])[0] for d in (h, -h)]
        slope = _first(score, *at, LOSS[name])[1]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2 / h, rtol=1e-5)
        ends = [_second(score, at[0], at[1] + d, LOSS[name])[0] for d in (h, -h)]
        slope = _second(score, *at, LOSS[name])[1]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2 / h, rtol=1e-5)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_equations_have_mean_zero_and_variance_one_at_the_truth(rho):
    group = simulated(4000, 40, rho=rho, tau=1.2)
    at = np.full(4000, 0.7), np.full(4000, 1.2**2)
    for name, loss in LOSS.items():
        first, second = equations(Score.of(group), *at, loss)
        for value, spread in ((first, 1.0), (second, 1.0)):
            assert abs(value.mean()) < 4 / np.sqrt(4000), name
            assert value.std() == pytest.approx(spread, abs=0.05), name


# --- the solution


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(3, 15),
    st.sampled_from(list(LOSS)),
    st.sampled_from([0.0, 0.5, -0.8]),
    st.sampled_from([0.0, 3.0]),
)
def test_no_point_of_the_line_is_better_than_the_minimum(seed, n, name, rho, tau):
    group = simulated(1, n, seed=seed, rho=rho, tau=tau)
    theta = global_minimum(Score.of(group), LOSS[name])[0]
    grid = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 4001)[1:-1])
    best = loss_at(group, grid, name).min()
    if np.isfinite(theta):
        assert loss_at(group, theta, name)[0] <= best + 1e-9
    else:  # then the loss is lowest at the far ends
        far = loss_at(group, [-1e9, 1e9], name).min()
        assert far <= best + 0.05 * abs(best)


def test_a_minimum_narrower_than_the_scan_is_found():
    rng = np.random.default_rng(2)
    bx = rng.normal(size=(1, 40))
    by = 0.7317 * bx
    by[0, :16] += 0.4 * rng.normal(size=16)
    se = np.full(bx.shape, 1e-5)
    theta = global_minimum(Score.of(Group(bx, se, by, se)), LOSS["tukey"])
    assert theta[0] == pytest.approx(0.7317, abs=1e-4)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(5, 40),
    st.sampled_from(list(LOSS)),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 1.0, 10.0]),
)
def test_what_is_called_a_root_is_one(seed, n, name, rho, tau):
    group = simulated(8, n, seed=seed, rho=rho, tau=tau)
    score = Score.of(group)
    theta, tau2 = joint_root(score, LOSS[name])
    solved = np.isfinite(theta)
    np.testing.assert_array_equal(solved, np.isfinite(tau2))
    found = Group(
        *(getattr(group, k)[solved] for k in ("bx", "se_x", "by", "se_y")),
        rho_xy=group.rho_xy[solved],
    )
    assert (tau2[solved] >= 0).all()
    assert (residue(found, theta[solved], tau2[solved], name) <= 1e-9).all()


@every_loss
def test_a_root_is_found_where_no_fit_without_overdispersion_exists(name):
    group = simulated(200, 100, tau=25.0, strength=6.0, seed=3)
    plain = fit(group, Options(overdispersion=False, loss="l2"))
    assert (plain.status == "no_finite_estimate").mean() > 0.05
    result = fit(group, Options(loss=name))
    assert (result.status == "ok").mean() > 0.97
    ok = result.status == "ok"
    assert np.mean(np.abs(result.estimate - 0.7)[ok] < 1.96 * result.se[ok]) > 0.88


def test_turns_that_go_to_and_fro_are_ended_by_halving():
    """Solving in turn has no limit in some of these; every root is reached all the same."""
    group = simulated(300, 5, tau=0.5, seed=11, strength=4.0)
    result = fit(group, Options())
    assert (result.status == "ok").mean() > 0.97


@every_loss
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_covers_with_weak_instruments_pleiotropy_and_correlated_errors(name, rho):
    group = simulated(1500, 80, tau=1.0, rho=rho, seed=4)
    result = fit(group, Options(loss=name))
    assert (result.status == "ok").all()
    miss = result.estimate - 0.7
    assert abs(miss.mean()) < 4 * miss.std() / np.sqrt(1500) + 0.01
    assert np.mean(np.abs(miss) < 1.96 * result.se) == pytest.approx(0.95, abs=0.02)
    assert result.tau2.mean() == pytest.approx(1.0, abs=0.1)
    if rho and name == "l2":
        ignored = fit(replace(group, rho_xy=None), Options(loss=name))
        assert abs(ignored.estimate.mean() - 0.7) > 3 * abs(miss.mean()) + 0.02


def test_robust_losses_resist_outliers():
    group = simulated(50, 60, strength=5.0, seed=6)
    by = group.by.copy()
    by[:, :6] += 25.0 * np.sign(group.bx[:, :6])
    spoiled = replace(group, by=by)
    bias = {
        name: abs(fit(spoiled, Options(loss=name, overdispersion=False)).estimate.mean() - 0.7)
        for name in LOSS
    }
    assert bias["tukey"] < 0.02
    assert bias["tukey"] < bias["huber"] < 0.5 * bias["l2"]


def test_se_model_is_what_pleiotropy_does_not_make():
    options = Options()
    with_tau = fit(simulated(200, 100, tau=2.0, seed=8), options)
    np.testing.assert_array_less(with_tau.se_model, with_tau.se)
    # sqrt of var/(var + tau^2), roughly: about 1.7 of errors against 4 of pleiotropy
    assert np.median(with_tau.se_model / with_tau.se) == pytest.approx(np.sqrt(1.7 / 5.7), abs=0.08)
    without = fit(simulated(200, 100, tau=0.0, seed=8), options)
    none = without.tau2 == 0
    assert 0.3 < none.mean() < 0.9
    np.testing.assert_allclose(without.se_model[none], without.se[none], rtol=1e-12)


def test_correlation_is_taken_from_the_draws():
    rng = np.random.default_rng(0)
    group = replace(simulated(2, 30), rho_xy=None)
    noise = rng.normal(size=(2, 40, 30))
    draws = replace(
        group,
        draws_x=group.bx[:, None] + group.se_x[:, None] * noise,
        draws_y=group.by[:, None] + group.se_y[:, None] * noise,
    )
    given_rho = replace(group, rho_xy=np.full(group.bx.shape, 0.999))
    np.testing.assert_array_equal(
        fit(draws, Options()).estimate, fit(given_rho, Options()).estimate
    )
    drawn = RAPS.fit_draws(draws, Options())
    alone = fit(
        replace(given_rho, bx=draws.draws_x[:, 7].copy(), by=draws.draws_y[:, 7].copy()), Options()
    )
    np.testing.assert_array_equal(drawn.estimates[:, 7], alone.estimate)
