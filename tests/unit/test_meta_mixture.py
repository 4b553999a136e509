"""The mixture of effects: known truth, numerical integration, other solvers, bad data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm, t

from deepmr.meta.shrinkage import weights as mixture_weights
from deepmr.meta.shrinkage.half_uniform import log_ratio, truncated_moments
from deepmr.meta.shrinkage.mixture import (
    Mixture,
    Posterior,
    draw_wise_shares,
    fit_mixture,
    posterior,
)
from deepmr.meta.shrinkage.normal_equivalent import normal_se

Array = NDArray[np.float64]
SIMULATED = 4000


def simulated(seed: int, k: int, largest: float = 2.0) -> tuple[Array, Array, Array]:
    """Return true effects, 60 % zero, 30 % positive, 10 % negative, estimates and their SE."""
    rng = np.random.default_rng(seed)
    se = rng.uniform(0.02, 0.1, k)
    part = rng.random(k)
    size = rng.uniform(0.0, largest, k)
    true = np.select([part < 0.6, part < 0.9], [0.0, size], -size)
    return true, true + se * rng.standard_normal(k), se


def densities(mixture: Mixture, b: Array, s: Array) -> Array:
    """Density of every estimate under every component, from normal probabilities."""
    below = norm.cdf(b[:, None] / s[:, None])
    far = norm.cdf((b[:, None] - mixture.grid) / s[:, None])
    other = norm.cdf((b[:, None] + mixture.grid) / s[:, None])
    null = norm.pdf(b, scale=s)[:, None]
    return np.hstack([null, (below - far) / mixture.grid, (other - below) / mixture.grid])


def test_shares_of_a_known_truth_are_found() -> None:
    errors = []
    for seed in range(10):
        true, b, s = simulated(seed, SIMULATED)
        fitted = fit_mixture(b, s)
        assert (fitted.status, fitted.reason, fitted.k) == ("ok", "", SIMULATED)
        shares = np.array([fitted.share_zero, fitted.share_positive, fitted.share_negative])
        assert shares.sum() == pytest.approx(1)
        errors.append(shares - [(true == 0).mean(), (true > 0).mean(), (true < 0).mean()])
    # An effect far below its standard error is like none: some of the share of 0 stands there.
    assert np.abs(errors).max() < 0.07
    assert np.abs(np.mean(errors, axis=0)).max() < 0.04


def test_false_sign_rates_are_what_they_say() -> None:
    wrong, said = [], []
    for seed in range(5):
        true, b, s = simulated(seed, SIMULATED, largest=0.4)
        found = posterior(fit_mixture(b, s), b, s)
        claimed = np.where(found.p_positive > found.p_negative, 1.0, -1.0)
        wrong.append(np.sign(true) != claimed)
        said.append(found.lfsr)
    missed, lfsr = np.concatenate(wrong), np.concatenate(said)
    sure = lfsr < 0.05
    n = int(sure.sum())
    assert n > 2000
    assert missed[sure].mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / n)
    for low, high in ((0.0, 0.05), (0.05, 0.2), (0.2, 0.5), (0.5, 0.9)):
        bin_ = (lfsr >= low) & (lfsr < high)
        assert bin_.sum() > 500
        assert missed[bin_].mean() == pytest.approx(lfsr[bin_].mean(), abs=0.05)


def test_the_null_weight_favours_no_effect() -> None:
    _, b, s = simulated(2, 60, largest=0.2)
    plain, careful = fit_mixture(b, s, null_weight=1.0), fit_mixture(b, s)
    assert plain.share_zero < careful.share_zero
    assert plain.log_likelihood > careful.log_likelihood


@pytest.mark.parametrize("width", [1e-7, 1e-3, 0.2, 0.6, 3.0, 45.0, 1e5])
@pytest.mark.parametrize("z", [-300.0, -40.0, -2.0, 0.0, 0.3, 2.5, 40.0, 300.0])
def test_densities_and_moments_are_integrals(z: float, width: float) -> None:
    peak = min(max(z, 0.0), width)
    far = abs(z - peak)
    reach = 80.0 / (far + np.sqrt(far * far + 80.0))
    low, high = max(0.0, peak - reach), min(width, peak + reach)

    def integral(power: int, about: float) -> float:
        def integrand(x: float) -> float:
            kernel = -(x - peak) * (0.5 * (x + peak) - z)
            return float((x - about) ** power * np.exp(kernel))

        middle = [point for point in (peak - 1, peak, peak + 1) if low < point < high]
        return quad(
            integrand, low, high, epsabs=1e-13, epsrel=1e-10, limit=200, points=middle or None
        )[0]

    mass = integral(0, 0.0)
    expected = z * peak - 0.5 * peak * peak + np.log(mass / width)
    (found,) = log_ratio(np.array([z]), np.array([width]))
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)
    mean = integral(1, peak) / mass + peak
    (found_mean,), (found_variance,) = truncated_moments(np.array([z]), np.array([width]))
    assert found_mean == pytest.approx(mean, rel=1e-9)
    assert found_variance == pytest.approx(integral(2, mean) / mass, rel=1e-8)


def test_posteriors_are_integrals() -> None:
    _, b, s = simulated(3, 40, largest=0.3)
    mixture = fit_mixture(b, s)
    found = posterior(mixture, b, s)
    m = mixture.grid.size
    for i in range(0, 40, 3):

        def moment(power: int, low: float, high: float, i: int = i) -> float:
            def integrand(x: float) -> float:
                return float(x**power * norm.pdf(b[i], x, s[i]))

            inside = [point for point in (b[i] - s[i], b[i], b[i] + s[i]) if low < point < high]
            return quad(integrand, low, high, epsabs=1e-13, epsrel=1e-11, points=inside or None)[0]

        parts = np.zeros((3, 3))  # power, part
        parts[0, 0] = mixture.weights[0] * norm.pdf(b[i], 0, s[i])
        for power in range(3):
            for j, a in enumerate(mixture.grid):
                weights = mixture.weights[1 + j], mixture.weights[1 + m + j]
                if weights[0] > 0:
                    parts[power, 1] += weights[0] / a * moment(power, 0, a)
                if weights[1] > 0:
                    parts[power, 2] += weights[1] / a * moment(power, -a, 0)
        zero, positive, negative = parts[0] / parts[0].sum()
        first, second = parts[1:].sum(axis=1) / parts[0].sum()
        assert found.p_zero[i] == pytest.approx(zero, abs=1e-8)
        assert found.p_positive[i] == pytest.approx(positive, abs=1e-8)
        assert found.p_negative[i] == pytest.approx(negative, abs=1e-8)
        assert found.lfdr[i] == found.p_zero[i]
        assert found.lfsr[i] == pytest.approx(1 - max(positive, negative), abs=1e-8)
        assert found.mean[i] == pytest.approx(first, abs=1e-8)
        assert found.sd[i] == pytest.approx(np.sqrt(second - first**2), abs=1e-8)


def test_weights_are_those_of_another_solver() -> None:
    _, b, s = simulated(4, 150, largest=0.3)
    fitted = fit_mixture(b, s)
    density = densities(fitted, b, s)

    def objective(x: Array) -> float:
        return float(-np.log(density @ x).sum() - 9 * np.log(x[0]))

    def gradient(x: Array) -> Array:
        slope = -density.T @ (1 / (density @ x))
        slope[0] -= 9 / x[0]
        return slope

    n = density.shape[1]
    theirs = minimize(
        objective,
        np.full(n, 1 / n),
        jac=gradient,
        method="SLSQP",
        bounds=[(1e-12 if i == 0 else 0, 1) for i in range(n)],
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 2000, "ftol": 1e-15},
    )
    ours = objective(fitted.weights)
    assert ours == pytest.approx(objective(theirs.x / theirs.x.sum()), abs=1e-8)
    assert fitted.log_likelihood == pytest.approx(np.log(density @ fitted.weights).sum(), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.01, 3))
def test_weights_meet_the_conditions_of_a_maximum(seed: int, k: int, largest: float) -> None:
    _, b, s = simulated(seed, k, largest)
    fitted = fit_mixture(b, s)
    density = densities(fitted, b, s)
    slope = density.T @ (1 / (density @ fitted.weights))
    slope[0] += 9 / fitted.weights[0]
    assert (fitted.weights >= 0).all()
    assert fitted.weights.sum() == pytest.approx(1, abs=1e-12)
    assert slope.max() / (k + 9) - 1 < 1e-9
    assert fitted.kkt_gap <= 1e-11


def test_a_start_does_not_move_the_maximum() -> None:
    rng = np.random.default_rng(5)
    likelihood = np.exp(-rng.exponential(2, (80, 9)))
    likelihood /= likelihood.max(axis=1, keepdims=True)
    cold, gap = mixture_weights.maximise(likelihood, 4.0)
    start = np.zeros(9)
    start[3] = 1.0
    warm, warm_gap = mixture_weights.maximise(likelihood, 4.0, start)
    assert max(gap, warm_gap) <= mixture_weights.TOLERANCE
    np.testing.assert_allclose(cold, warm, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 80), st.sampled_from([1e-6, 0.3, 5.0, 1e8]))
def test_signs_and_units(seed: int, k: int, unit: float) -> None:
    _, b, s = simulated(seed, k, 0.4)
    one = fit_mixture(b, s)
    flipped, scaled = fit_mixture(-b, s), fit_mixture(unit * b, unit * s)
    assert flipped.share_zero == pytest.approx(one.share_zero, abs=1e-5)
    assert flipped.share_positive == pytest.approx(one.share_negative, abs=1e-5)
    assert scaled.share_zero == pytest.approx(one.share_zero, abs=1e-5)
    assert scaled.share_positive == pytest.approx(one.share_positive, abs=1e-5)
    assert scaled.log_likelihood == pytest.approx(one.log_likelihood - k * np.log(unit), rel=1e-7)
    at_one = posterior(one, b, s)
    other, larger = posterior(flipped, -b, s), posterior(scaled, unit * b, unit * s)
    np.testing.assert_allclose(other.mean, -at_one.mean, atol=1e-5)
    np.testing.assert_allclose(other.p_negative, at_one.p_positive, atol=1e-5)
    np.testing.assert_allclose(larger.mean, unit * at_one.mean, atol=1e-5 * unit)
    np.testing.assert_allclose(larger.sd, unit * at_one.sd, atol=1e-5 * unit)
    np.testing.assert_allclose(larger.lfsr, at_one.lfsr, atol=1e-5)


def test_the_order_of_sequences_does_not_matter() -> None:
    _, b, s = simulated(6, 300, 0.4)
    order = np.random.default_rng(0).permutation(300)
    fitted, other = fit_mixture(b, s), fit_mixture(b[order], s[order])
    assert other.share_zero == pytest.approx(fitted.share_zero, abs=1e-8)
    np.testing.assert_allclose(
        posterior(other, b[order], s[order]).s_value,
        posterior(fitted, b, s).s_value[order],
        atol=1e-8,
    )


def everywhere_finite(found: Posterior) -> bool:
    return all(bool(np.isfinite(value).all()) for value in vars(found).values())


def test_extreme_estimates_and_standard_errors() -> None:
    _, b, s = simulated(7, 200)
    z = np.concatenate([b / s, np.full(20, 40.0), np.full(20, -40.0), [1e6, -1e6]])
    se = np.concatenate([s, np.geomspace(1e-6, 1.0, 40), [1.0, 1e-6]])
    fitted = fit_mixture(z * se, se)
    assert fitted.status == "ok"
    assert fitted.kkt_gap <= 1e-11
    found = posterior(fitted, z * se, se)
    assert everywhere_finite(found)
    assert (found.lfsr[-2:] < 1e-6).all()
    np.testing.assert_allclose(found.mean[200:220], z[200:220] * se[200:220], rtol=0.1)
    # What a float64 hardly holds.
    huge = np.array([1e74, -1e74, 1e-74, 3.0] * 4)
    tiny = np.array([1e-74, 1e74, 1e-74, 1.0] * 4)
    vast = fit_mixture(huge, tiny)
    assert (vast.k, vast.status) == (16, "ok")
    assert everywhere_finite(posterior(vast, huge, tiny))
    # Nothing but positive effects, and an estimate 40 standard errors on the other side.
    lonely = fit_mixture(np.full(30, 3.0), np.full(30, 0.1))
    beyond = posterior(lonely, np.array([-4.0]), np.array([0.1]))
    assert everywhere_finite(beyond)
    assert beyond.mean[0] >= 0
    assert beyond.lfsr[0] <= 1


def test_no_effects_at_all() -> None:
    fitted = fit_mixture(np.zeros(50), np.full(50, 0.2))
    assert fitted.share_zero == pytest.approx(1)
    np.testing.assert_array_equal(
        posterior(fitted, np.zeros(50), np.full(50, 0.2)).mean, np.zeros(50)
    )


@pytest.mark.parametrize(
    ("b", "s"),
    [([], []), ([np.nan, 1.0, np.inf, 2.0, 1.0, 1.0], [1.0, 0.0, 1.0, np.nan, np.inf, -1.0])],
)
def test_without_a_sequence(b: list[float], s: list[float]) -> None:
    fitted = fit_mixture(b, s)
    assert fitted.status == "no_sequences"
    assert fitted.reason
    assert (fitted.k, fitted.n_dropped) == (0, len(b))
    assert np.isnan([fitted.share_zero, fitted.share_positive, fitted.share_negative]).all()
    assert np.isnan(posterior(fitted, [1.0, 2.0], [1.0, 1.0]).mean).all()


def test_what_cannot_be_used_is_dropped_and_counted() -> None:
    _, b, s = simulated(8, 30)
    bad_b, bad_s = np.append(b, [1.0, np.nan, 5.0]), np.append(s, [0.0, 1.0, np.nan])
    fitted, clean = fit_mixture(bad_b, bad_s), fit_mixture(b, s)
    assert (fitted.k, fitted.n_dropped, fitted.status) == (30, 3, "ok")
    assert "3" in fitted.reason
    np.testing.assert_array_equal(fitted.weights, clean.weights)
    found = posterior(fitted, bad_b, bad_s)
    assert np.isnan(found.s_value[30:]).all()
    np.testing.assert_array_equal(found.s_value[:30], posterior(clean, b, s).s_value)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_few_sequences_say_so(k: int) -> None:
    _, b, s = simulated(9, k)
    fitted = fit_mixture(b, s)
    assert fitted.status == "few_sequences"
    assert str(k) in fitted.reason
    assert everywhere_finite(posterior(fitted, b, s))


def test_weights_that_do_not_converge_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _, b, s = simulated(10, 100)
    monkeypatch.setattr(mixture_weights, "ITERATIONS", 2)
    fitted = fit_mixture(b, s)
    assert fitted.status == "not_converged"
    assert fitted.kkt_gap > 1e-11
    draws = draw_wise_shares(np.stack([b, b]), np.stack([s, s]) ** 2)
    assert draws.status == "not_converged"


def test_s_values_are_mean_false_sign_rates() -> None:
    _, b, s = simulated(11, 80, 0.2)
    b, s = np.append(b, b[:5]), np.append(s, s[:5])  # ties
    found = posterior(fit_mixture(b, s), b, s)
    expected = [found.lfsr[found.lfsr <= value].mean() for value in found.lfsr]
    np.testing.assert_allclose(found.s_value, expected, rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30), st.floats(0.5, 200), st.floats(1e-3, 1e3))
def test_standard_errors_of_few_degrees_of_freedom(z: float, df: float, se: float) -> None:
    (found,) = normal_se(np.array([z * se]), np.array([se]), np.array([df]))
    at = max(abs(z), 1e-4)
    assert norm.logsf(at * se / found) == pytest.approx(np.log(t.sf(at, df)), rel=1e-9)


def test_standard_errors_beyond_the_least_p_value() -> None:
    t_values = np.array([36.0, 38.0, 40.0, 60.0, 400.0])
    found = normal_se(t_values, np.ones(5), np.full(5, 1e4))
    z = t_values / found
    assert (np.diff(z) > 0).all()
    np.testing.assert_array_equal(normal_se(t_values, np.ones(5), np.full(5, np.inf)), np.ones(5))


def test_few_degrees_of_freedom_make_less_sure() -> None:
    _, b, s = simulated(12, 200, 0.3)
    known = posterior(fit_mixture(b, s), b, s)
    few = posterior(fit_mixture(b, s, df=3), b, s, df=3)
    assert few.lfsr.mean() > known.lfsr.mean()
    endless = posterior(fit_mixture(b, s, df=np.inf), b, s, df=np.full(200, np.inf))
    np.testing.assert_array_equal(endless.lfsr, known.lfsr)
    freedom = np.full(200, 3.0)
    freedom[4] = np.nan
    assert fit_mixture(b, s, df=freedom).n_dropped == 1


def test_few_sequences_that_are_all_sure_leave_no_share_without_an_effect() -> None:
    b = np.random.default_rng(5).normal(1.0, 0.1, size=(10, 40))
    shares = draw_wise_shares(b, np.full(b.shape, 0.02**2))
    assert shares.share_zero < 1e-6
    assert shares.share_positive == pytest.approx(1.0)


def test_equal_draws_are_one_mixture() -> None:
    _, b, s = simulated(13, 120, 0.4)
    one = fit_mixture(b, s)
    draws = draw_wise_shares(np.tile(b, (4, 1)), np.tile(s**2, (4, 1)))
    found = posterior(one, b, s)
    assert draws.share_zero == pytest.approx(found.p_zero.mean(), abs=1e-6)
    assert draws.share_positive == pytest.approx(found.p_positive.mean(), abs=1e-6)
    assert draws.share_zero_sd == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(draws.lfsr, found.lfsr, atol=1e-6)
    np.testing.assert_allclose(draws.s_value, found.s_value, atol=1e-6)
    assert draws.status == "ok"
    assert draws.kkt_gap <= 1e-11


def test_an_error_that_all_sequences_share_shows_in_the_draws() -> None:
    rng = np.random.default_rng(14)
    k, n_draws, s = 200, 30, 0.05
    shared = rng.normal(0, 0.5, (n_draws, 1))
    estimates = shared + s * rng.standard_normal((n_draws, k))
    draws = draw_wise_shares(estimates, np.full((n_draws, k), s**2))
    assert draws.share_positive_sd > 0.2
    assert draws.shares.shape == (n_draws, 3)
    np.testing.assert_allclose(draws.shares.sum(axis=1), 1)
    assert draws.share_positive == pytest.approx(draws.shares[:, 1].mean())
    # Each draw is sure of a sign, and not all of the same one.
    assert draws.lfsr.min() > 0.2
    total = np.sqrt(s**2 + estimates.var(axis=0, ddof=1) * (1 + 1 / n_draws))
    blind = fit_mixture(np.full(k, 2.0) + estimates.mean(axis=0), total)
    assert blind.share_positive > 0.9
    np.testing.assert_allclose(
        draws.p_zero + draws.p_positive + draws.p_negative, np.ones(k), atol=1e-12
    )


def test_draws_with_gaps() -> None:
    rng = np.random.default_rng(15)
    estimates, variances = rng.normal(size=(3, 15)), np.full((3, 15), 0.1)
    estimates[1, 2], variances[0, 4], variances[2, 5] = np.nan, -1.0, np.inf
    draws = draw_wise_shares(estimates, variances)
    assert (draws.k, draws.n_dropped, draws.status) == (12, 3, "ok")
    assert np.isnan(draws.lfsr[[2, 4, 5]]).all()
    assert np.isfinite(np.delete(draws.s_value, [2, 4, 5])).all()
    nothing = draw_wise_shares(np.full((3, 2), np.nan), np.ones((3, 2)))
    assert nothing.status == "no_sequences"
    assert np.isnan([nothing.share_zero, nothing.share_zero_sd, nothing.kkt_gap]).all()
    assert draw_wise_shares(np.empty((2, 0)), np.empty((2, 0))).status == "no_sequences"
    assert draw_wise_shares(estimates[:, 6:9], variances[:, 6:9]).status == "few_sequences"


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        fit_mixture([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="shape"):
        posterior(fit_mixture([1.0], [1.0]), [[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="null_weight"):
        fit_mixture([1.0], [1.0], null_weight=0.5)
    with pytest.raises(ValueError, match="df"):
        fit_mixture([1.0], [1.0], df=0)
    with pytest.raises(ValueError, match="df"):
        fit_mixture([1.0], [1.0], df=[3.0, 4.0])
    with pytest.raises(ValueError, match="2 draws"):
        draw_wise_shares([[1.0, 2.0]], [[1.0, 1.0]])
    with pytest.raises(ValueError, match="null_weight"):
        draw_wise_shares([[1.0], [2.0]], [[1.0], [1.0]], null_weight=np.inf)
