from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from benchmarks import invalid_instruments
from deepmr.mr.estimator import Array, Group, Options
from deepmr.mr.estimators import bayesian_grid, bayesian_passes, bayesian_posterior
from deepmr.mr.estimators.bayesian_mode import BAYESIAN_MODE, Posterior, bayesian_mode_posterior
from deepmr.mr.estimators.effect_prior import EffectPrior, fit_effect_prior, shrinkage
from deepmr.mr.estimators.ivw import IVW
from deepmr.mr.estimators.posterior_set import (
    cell_masses,
    count_modes,
    highest_mode,
    hpd_set,
    mass_not_above,
    normalised,
    quantiles,
    spread_nodes,
)

REFERENCE = Path(__file__).parents[1] / "reference"
Data = tuple[Array, Array, Array, Array]


def simulated(seed: int, n: int, invalid: int = 0, theta: float = 0.4) -> Data:
    """Return effects of n instruments, the first `invalid` with an effect of their own."""
    generator = np.random.default_rng(seed)
    gamma = generator.uniform(0.05, 0.3, n)
    se_x, se_y = generator.uniform(0.015, 0.025, n), generator.uniform(0.02, 0.04, n)
    own = np.where(np.arange(n) < invalid, generator.normal(0.3, 0.1, n), 0.0)
    sign = generator.choice([-1.0, 1.0], n)
    bx = sign * (gamma + se_x * generator.standard_normal(n))
    by = sign * (theta * gamma + own + se_y * generator.standard_normal(n))
    return bx, se_x, by, se_y


def group_of(*rows: Data, rho: float | None = None) -> Group:
    bx, se_x, by, se_y = (np.array(values) for values in zip(*rows, strict=True))
    return Group(bx, se_x, by, se_y, rho_xy=None if rho is None else np.full(bx.shape, rho))


def close(found: Posterior, expected: Posterior, tolerance: float = 1e-6) -> bool:
    """Whether two posteriors agree to a share of the SD."""
    least = tolerance * expected.sd
    same = all(
        abs(getattr(found, name) - getattr(expected, name)) <= least
        for name in ("mode", "median", "mean", "sd", "ci_low", "ci_high")
    )
    return same and bool(np.allclose(found.hpd_set, expected.hpd_set, atol=least))


# --- the density on a grid


@pytest.mark.parametrize("sd", [0.01, 3.0])
def test_summaries_of_a_normal_density_are_the_known_ones(sd: float) -> None:
    grid = np.linspace(1 - 6 * sd, 1 + 6 * sd, 400)
    log_density = -0.5 * ((grid - 1.0) / sd) ** 2
    density = normalised(grid, log_density)
    assert highest_mode(grid, log_density) == pytest.approx(1.0, abs=1e-9 * sd)
    assert quantiles(grid, density, np.asarray(norm.cdf([-1.5, 0.3]))) == pytest.approx(
        1 + sd * np.array([-1.5, 0.3]), abs=1e-3 * sd
    )
    (interval,) = hpd_set(grid, density)
    assert interval == pytest.approx(1 + sd * np.array([-1.96, 1.96]), abs=1e-3 * sd)
    at = float(np.interp(1 + 2.5 * sd, grid, density))
    assert mass_not_above(grid, density, at) == pytest.approx(2 * norm.sf(2.5), rel=2e-3)
    assert count_modes(grid, density) == 1


def test_a_mixture_has_two_intervals_and_two_modes_by_the_stated_rule() -> None:
    grid = np.linspace(-6, 14, 2001)

    def mixture(share: float, distance: float) -> Array:
        return np.asarray((1 - share) * norm.pdf(grid) + share * norm.pdf(grid, distance))

    density = mixture(0.4, 8.0)
    found = hpd_set(grid, density)
    assert found.shape == (2, 2)
    inside = ((grid[:, None] >= found[:, 0]) & (grid[:, None] <= found[:, 1])).any(axis=1)
    assert (density * inside).sum() * 0.01 == pytest.approx(0.95, abs=2e-3)
    assert np.interp(found.ravel(), grid, density) == pytest.approx(
        np.full(4, np.interp(found[0, 0], grid, density)), rel=1e-3
    )
    assert count_modes(grid, density) == 2
    assert count_modes(grid, mixture(0.009, 8.0)) == 1
    assert count_modes(grid, mixture(0.011, 8.0)) == 2
    # At a distance of 2.6 SD there are two maxima, but the valley holds more than half.
    near = mixture(0.5, 2.6)
    assert (np.diff(np.sign(np.diff(near))) < 0).sum() == 2
    assert count_modes(grid, near) == 1


def test_nodes_are_placed_in_every_mode_and_reach_the_tails() -> None:
    coarse = np.linspace(-10, 10, 201)
    log_density = np.logaddexp(norm.logpdf(coarse, -5, 0.2), norm.logpdf(coarse, 5, 0.2) - 4)
    nodes = spread_nodes(coarse, log_density, 161)
    assert (np.diff(nodes) > 0).all()
    assert (np.abs(nodes + 5) < 1).sum() > 40
    assert (np.abs(nodes - 5) < 1).sum() > 20
    density = normalised(nodes, np.interp(nodes, coarse, log_density))
    assert cell_masses(nodes, density).max() < 0.08


# --- the likelihood


@pytest.mark.parametrize("n", [1, 4, 7, 33])
def test_blocks_of_subset_products_equal_the_product_over_instruments(n: int) -> None:
    generator = np.random.default_rng(n)
    instruments = bayesian_grid.Instruments(
        generator.normal(0, 1, (2, n)),
        generator.uniform(0.3, 0.5, n),
        generator.normal(0, 0.5, (2, n)),
        generator.uniform(0.3, 0.5, n),
        generator.uniform(-0.8, 0.8, n),
        EffectPrior(np.array([1.3]), np.ones(1)),
    )
    slabs = bayesian_grid.make_slabs(replace(instruments, x=instruments.x[0], y=instruments.y[0]))
    cells = bayesian_grid.make_cells(slabs)
    cells = cells.subset(np.array([5, 17, 100, cells.pi.size - 1]))
    theta = np.array([-0.7, 0.2, 1.1])
    found = bayesian_grid.log_likelihood(instruments, slabs, cells, theta, 1.4)
    valid = bayesian_grid.valid_log_density(instruments, theta, 1.4)[:, :, None, :]
    slab = bayesian_grid.slab_log_density(instruments, slabs, 1.4)[:, :, cells.slab]
    pi = cells.pi[:, None]
    each = np.logaddexp(valid + np.log1p(-pi), slab[..., None] + np.log(pi))
    assert found == pytest.approx(each.sum(axis=1), rel=1e-10)


def test_slabs_are_at_least_2_typical_errors_wide_and_cover_the_data_densely() -> None:
    bx, sx, by, sy = simulated(3, 41)
    rho = np.full(41, 0.3)
    scaled = bayesian_posterior.scale(bx, sx, by, sy, rho, (bx, by), 300).instruments
    slabs = bayesian_grid.make_slabs(scaled)
    lambda_ = shrinkage(scaled.prior, scaled.x, scaled.se_x)[2]
    error = np.sqrt(
        scaled.se_y**2 * (1 - 0.3**2) + lambda_ * (scaled.se_x**2 + (0.3 * scaled.se_y) ** 2)
    )
    weight = bayesian_grid.information(scaled)
    for sds, errors in (
        (np.sqrt(slabs.ratio_variance), error / scaled.x),
        (np.sqrt(slabs.outcome_variance), error),
    ):
        order = np.argsort(errors)
        position = np.cumsum(weight[order]) - 0.5 * weight[order]
        typical = np.interp(0.5 * weight.sum(), position, errors[order])
        assert sds[sds > 0].min() == pytest.approx(2 * typical, rel=1e-6)
        assert np.unique(sds[sds > 0].round(9)).size == 4
    narrow = slabs.ratio_variance == slabs.ratio_variance[slabs.ratio_variance > 0].min()
    means = slabs.ratio_mean[narrow]
    sd = np.sqrt(slabs.ratio_variance[narrow][0])
    assert np.diff(means).max() <= 0.75 * sd * (1 + 1e-9)
    # The prior of a mean is uniform on +-2, whatever part of it has nodes.
    assert np.exp(slabs.log_weight[narrow]) == pytest.approx(np.diff(means)[0] / 4 / 4 / 2)


def test_the_posterior_is_the_formula_summed_by_hand() -> None:
    bx, sx, by, sy = simulated(3, 9, invalid=2)
    rho = np.linspace(-0.5, 0.7, 9)
    found = bayesian_mode_posterior(bx, sx, by, sy, rho, scale_errors=False)
    x, y = np.abs(bx), np.sign(bx) * by
    unit = np.sqrt((y * y).mean() / (x * x).mean())
    psi2 = (x * x - sx * sx).mean()
    lambda_, kappa = psi2 / (psi2 + sx**2), rho * sy / sx
    theta = found.grid[:, None]
    valid = norm.logpdf(
        y,
        kappa * x + (theta - kappa) * lambda_ * x,
        np.sqrt(sy**2 * (1 - rho**2) + (theta - kappa) ** 2 * lambda_ * sx**2),
    )
    height = np.sqrt((y * y).mean())
    scaled = bayesian_posterior.scale(bx, sx, by, sy, rho, (bx, by), 300).instruments
    slab_grid = bayesian_grid.make_slabs(scaled)
    slabs = []
    for k, weight in enumerate(np.exp(slab_grid.log_weight)):
        if slab_grid.ratio_variance[k] > 0:
            mean = slab_grid.ratio_mean[k] * unit * x
            variance = sy**2 + slab_grid.ratio_variance[k] * (unit * x) ** 2
        else:
            mean = slab_grid.outcome_mean[k] * height
            variance = sy**2 + slab_grid.outcome_variance[k] * height**2
        slabs.append((weight, norm.logpdf(y, mean, np.sqrt(variance))))
    nodes, weights = np.polynomial.legendre.leggauss(8)
    terms = []
    for share, slab in slabs:
        for pi, w in zip((1 + nodes) / 2, weights / 2, strict=True):
            each = np.logaddexp(np.log1p(-pi) + valid, np.log(pi) + slab)
            terms.append(np.log(share * w) + each.sum(axis=1))
    log_density = logsumexp(terms, axis=0) + norm.logpdf(found.grid, 0, 2 * unit)
    expected = normalised(found.grid, log_density)
    assert found.density == pytest.approx(expected, rel=1e-5, abs=1e-7 * expected.max())


def test_without_invalid_instruments_and_error_of_x_it_is_close_to_the_regression() -> None:
    bx, _, by, sy = simulated(11, 60)
    by = 0.4 * bx + 0.6 * (by - 0.4 * bx)
    found = bayesian_mode_posterior(bx, np.full(60, 1e-6), by, sy, scale_errors=False)
    information = (bx * bx / sy**2).sum()
    assert found.mode == pytest.approx((bx * by / sy**2).sum() / information, abs=0.01)
    assert found.se_model == pytest.approx(information**-0.5, rel=0.2)
    assert found.p_valid.mean() > 0.8
    assert found.n_modes == 1


def test_the_factor_of_the_standard_errors_is_found() -> None:
    bx, sx, by, sy = simulated(6, 200)
    residual = by - 0.4 * bx
    truth = np.sqrt((residual**2 / (sy**2 + (0.4 * sx) ** 2)).mean())
    for factor in (0.5, 1.0, 2.0):
        found = bayesian_mode_posterior(bx, sx / factor, by, sy / factor)
        assert found.phi == pytest.approx(factor * truth, rel=0.06)
    # With errors taken twice too large the interval is too wide only if phi is held at 1.
    fixed = bayesian_mode_posterior(bx, 2 * sx, by, 2 * sy, scale_errors=False)
    learned = bayesian_mode_posterior(bx, 2 * sx, by, 2 * sy)
    assert learned.sd < 0.8 * fixed.sd
    assert fixed.phi == 1.0


def test_invalid_instruments_are_told_from_valid_ones() -> None:
    for seed in range(3):
        found = bayesian_mode_posterior(*simulated(seed, 60, invalid=18))
        assert found.hpd_set[0, 0] <= 0.4 <= found.hpd_set[-1, 1]
        assert found.p_valid[:18].mean() < 0.25 < 0.75 < found.p_valid[18:].mean()
        assert 0.15 < found.expected_pi < 0.5


def test_two_groups_of_one_size_are_two_modes() -> None:
    x = np.tile(np.linspace(0.1, 0.3, 12), 2)
    error = np.tile(0.02 * np.array([1.0, -1.0, -1.0, 1.0]), 6)
    y = np.repeat([0.4, 1.4], 12) * x + error
    found = bayesian_mode_posterior(x, np.full(24, 1e-4), y, np.full(24, 0.02))
    assert found.n_modes == 2
    assert found.hpd_set.shape == (2, 2)
    for ratio, (low, high) in zip((0.4, 1.4), found.hpd_set, strict=True):
        assert low < ratio < high
        assert high - low < 0.4


# --- the distribution of exposure effects


def test_shrinkage_of_a_mixture_is_the_posterior_by_integration() -> None:
    prior = EffectPrior(np.array([0.0, 0.04, 1.0]), np.array([0.5, 0.3, 0.2]))
    x, se = np.array([0.1, 0.5, -1.2]), np.array([0.2, 0.15, 0.3])
    gamma = np.linspace(-6, 6, 200_001)
    step = gamma[1] - gamma[0]
    smooth = 0.3 * norm.pdf(gamma, 0, 0.2) + 0.2 * norm.pdf(gamma, 0, 1)
    mean, pull, share = shrinkage(prior, x, se)
    for j in range(3):
        joint = smooth * norm.pdf(x[j], gamma, se[j]) * step
        total = joint.sum() + 0.5 * norm.pdf(x[j], 0, se[j])
        first, second = (joint * gamma).sum() / total, (joint * gamma**2).sum() / total
        assert mean[j] == pytest.approx(first, rel=1e-6)
        assert share[j] * se[j] ** 2 == pytest.approx(second - first**2, rel=1e-6)
        assert pull[j] * se[j] ** 2 == pytest.approx(x[j] - first, rel=1e-6)


def test_sparse_effects_get_a_mixture_and_normal_ones_do_not() -> None:
    generator = np.random.default_rng(2)
    se = np.full(500, 0.3)
    wide = generator.standard_normal(500)
    noise = se * generator.standard_normal(500)
    one = fit_effect_prior(wide + noise, se)
    assert one.variances == pytest.approx([((wide + noise) ** 2 - se**2).mean()])
    sparse = np.where(np.arange(500) < 50, 3 * wide, 0.0)
    many = fit_effect_prior(sparse + noise, se)
    assert many.weights.sum() == pytest.approx(1.0)
    mean, _, _ = shrinkage(many, np.array([3.0]), np.array([0.3]))
    assert mean[0] == pytest.approx(3.0, rel=0.02)
    assert (many.weights * many.variances).sum() == pytest.approx((sparse**2).mean(), rel=0.3)


def test_sparse_effects_do_not_bias_the_estimate() -> None:
    modes = []
    for seed in range(6):
        generator = np.random.default_rng(seed)
        gamma = np.where(generator.random(1000) < 0.1, 0.2, 0.003) * generator.normal(size=1000)
        bx = gamma + 0.02 * generator.standard_normal(1000)
        by = 0.7 * gamma + 0.03 * generator.standard_normal(1000)
        found = bayesian_mode_posterior(bx, np.full(1000, 0.02), by, np.full(1000, 0.03))
        modes.append(found.mode)
    # A common psi gives .746.
    assert np.mean(modes) == pytest.approx(0.7, abs=0.02)


# --- properties


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(seed=st.integers(0, 10_000), n=st.integers(3, 24), rho=st.sampled_from([0.0, 0.6]))
def test_orientation_and_order_of_instruments_do_not_matter(seed: int, n: int, rho: float) -> None:
    bx, sx, by, sy = simulated(seed, n, invalid=n // 4)
    base = bayesian_mode_posterior(bx, sx, by, sy, np.full(n, rho))
    generator = np.random.default_rng(seed)
    flip = generator.choice([-1.0, 1.0], n)
    assert close(bayesian_mode_posterior(flip * bx, sx, flip * by, sy, np.full(n, rho)), base)
    order = generator.permutation(n)
    moved = bayesian_mode_posterior(bx[order], sx[order], by[order], sy[order], np.full(n, rho))
    assert close(moved, base)
    assert moved.p_valid == pytest.approx(base.p_valid[order], abs=1e-6)


@settings(max_examples=5, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    seed=st.integers(0, 10_000),
    by_x=st.floats(1e-6, 1e6),
    by_y=st.floats(1e-6, 1e6),
    down=st.booleans(),
)
def test_the_estimate_scales_with_the_effects(
    seed: int, by_x: float, by_y: float, down: bool
) -> None:
    bx, sx, by, sy = simulated(seed, 12, invalid=3)
    base = bayesian_mode_posterior(bx, sx, by, sy)
    sign = -1.0 if down else 1.0
    scaled = bayesian_mode_posterior(by_x * bx, by_x * sx, sign * by_y * by, by_y * sy)
    factor = sign * by_y / by_x
    assert scaled.mean == pytest.approx(factor * base.mean, abs=1e-5 * abs(factor) * base.sd)
    assert scaled.sd == pytest.approx(abs(factor) * base.sd, rel=1e-5)
    assert scaled.p_value == pytest.approx(base.p_value, rel=1e-4, abs=1e-9)
    assert scaled.p_valid == pytest.approx(base.p_valid, abs=1e-5)


@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(seed=st.integers(0, 10_000), theta=st.floats(-0.3, 0.3))
def test_p_value_and_set_agree(seed: int, theta: float) -> None:
    found = bayesian_mode_posterior(*simulated(seed, 10, invalid=2, theta=theta))
    holds_zero = bool(((found.hpd_set[:, 0] <= 0) & (found.hpd_set[:, 1] >= 0)).any())
    assert holds_zero == (found.p_value >= 0.05)
    assert 0 <= found.p_value <= 1


def test_a_sequence_does_not_depend_on_its_neighbours_and_repeats() -> None:
    rows = [simulated(seed, 20, invalid=5) for seed in range(3)]
    options = Options()
    together = BAYESIAN_MODE.fit(group_of(*rows, rho=0.3), options)
    for i, row in enumerate(rows):
        alone = BAYESIAN_MODE.fit(group_of(row, rho=0.3), options)
        for name in ("estimate", "se", "ci_low", "ci_high", "p_value", "n_valid", "p_valid"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[i])
        assert alone.ci_set is not None
        assert together.ci_set is not None
        assert np.array_equal(alone.ci_set[0], together.ci_set[i])


@pytest.mark.parametrize(
    ("bx", "sx", "by", "sy"),
    [
        ([1e-12, 2e-12, -3e-12], [1.0] * 3, [1.0, 2.0, 3.0], [0.1] * 3),
        ([1e9, 2e9, -3e9], [1e-9] * 3, [1e-9, 2e-9, -3e-9], [1e-30] * 3),
        ([1.0, 0.0, 0.0], [0.1] * 3, [0.3, 0.0, -0.2], [0.1] * 3),
        ([1.0, 2.0, 3.0], [1e-150, 1e150, 1.0], [0.5, 1.0, 1.5], [1e-150, 1.0, 1e150]),
        ([1.0, 2.0, 3.0], [0.1] * 3, [0.0, 0.0, 0.0], [0.1] * 3),
        ([1.0, 1.0, 1.0], [1e-3] * 3, [1.0, 1.0, 1.0], [1e-3] * 3),
        ([1e-200, 2e-200, 5e-200], [1e-201] * 3, [1e-100, 2e-100, 3e-100], [1e-101] * 3),
        ([1.0, 1.0, 1.0, 1e-9], [1e-3] * 4, [0.5, 0.5, 0.5, 1e4], [1e-3] * 4),
    ],
)
def test_extreme_effects_give_finite_numbers(
    bx: list[float], sx: list[float], by: list[float], sy: list[float]
) -> None:
    with np.errstate(all="raise", under="ignore"):
        found = bayesian_mode_posterior(bx, sx, by, sy, np.full(len(bx), 0.9))
    for name in ("mode", "median", "mean", "sd", "ci_low", "ci_high", "p_value", "expected_pi"):
        assert np.isfinite(getattr(found, name)), name
    assert np.isfinite(found.p_valid).all()
    assert ((found.p_valid >= 0) & (found.p_valid <= 1 + 1e-12)).all()
    assert found.hpd_set[0, 0] <= found.mode <= found.hpd_set[-1, 1]


def test_bad_sequences_get_a_status_and_leave_the_others_alone() -> None:
    rows = [tuple(values.copy() for values in simulated(1, 8)) for _ in range(4)]
    rows[1][0][2] = np.nan
    rows[2][0][:] = 0.0
    rows[3][3][0] = 0.0
    fit = BAYESIAN_MODE.fit(group_of(*rows), Options())  # type: ignore[arg-type]
    assert fit.status is not None
    assert fit.status.tolist() == [
        "ok",
        "not_finite",
        "no_exposure_effect",
        "standard_error_not_positive",
    ]
    assert np.isfinite(fit.estimate).tolist() == [True, False, False, False]
    with pytest.raises(ValueError, match="no exposure effect"):
        bayesian_mode_posterior(*rows[2])
    with pytest.raises(ValueError, match="ratio out of range"):
        bayesian_mode_posterior(1e-200 * rows[0][0], *rows[0][1:])
    with pytest.raises(ValueError, match="vectors of one length"):
        bayesian_mode_posterior([1.0, 2.0], [1.0], [1.0, 2.0], [1.0, 1.0])


# --- the grid


def test_a_grid_that_does_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = simulated(4, 30, invalid=8)
    fine = BAYESIAN_MODE.fit(group_of(data), Options())
    assert fine.status is not None
    assert fine.status[0] == "ok"
    monkeypatch.setattr(bayesian_passes, "ROUNDS", 1)
    monkeypatch.setattr(bayesian_passes, "SECOND_NODES", 11)
    coarse = BAYESIAN_MODE.fit(group_of(data), Options())
    assert coarse.status is not None
    assert coarse.status[0] == "grid_not_converged"
    assert np.isfinite(coarse.estimate[0])
    monkeypatch.setattr(bayesian_passes, "ROUNDS", 6)
    refined = BAYESIAN_MODE.fit(group_of(data), Options())
    assert refined.status is not None
    assert refined.status[0] == "ok"
    assert refined.estimate[0] == pytest.approx(fine.estimate[0], abs=0.02 * fine.se[0])


@pytest.mark.parametrize("invalid", [0, 10])
def test_the_automatic_grid_agrees_with_a_much_finer_one(
    monkeypatch: pytest.MonkeyPatch, invalid: int
) -> None:
    data = simulated(6, 40, invalid=invalid)
    found = bayesian_mode_posterior(*data)
    for name, value in (("FIRST_NODES", 400), ("SECOND_NODES", 641), ("_NEGLIGIBLE", 0.0)):
        monkeypatch.setattr(bayesian_passes, name, value)
    monkeypatch.setattr(bayesian_passes, "PHI_NODES", 25)
    monkeypatch.setattr(bayesian_passes, "_PHI_DROP", 12.0)
    assert close(found, bayesian_mode_posterior(*data), tolerance=0.04)


def test_a_peak_far_narrower_than_the_first_grid_is_found() -> None:
    generator = np.random.default_rng(3)
    x = generator.uniform(0.1, 0.3, 40)
    y = 0.4 * x + 1e-6 * generator.standard_normal(40)
    y[:12] += generator.uniform(0.1, 0.4, 12)
    found = bayesian_mode_posterior(x, np.full(40, 1e-6), y, np.full(40, 1e-6))
    assert found.mode == pytest.approx(0.4, abs=5e-6)
    assert found.sd < 1e-5
    assert found.converged
    assert (found.p_valid > 0.5).sum() == 28


def test_a_choice_of_instruments_changes_little_where_it_should() -> None:
    generator = np.random.default_rng(8)
    gamma = generator.standard_normal(3000) * np.where(np.arange(3000) < 150, 0.2, 0.004)
    se_x, se_y = np.full(3000, 0.01), np.full(3000, 0.015)
    bx = gamma + se_x * generator.standard_normal(3000)
    by = 0.5 * gamma + se_y * generator.standard_normal(3000)
    by[:30] += 0.3 * np.sign(gamma[:30])
    few = bayesian_mode_posterior(bx, se_x, by, se_y, instruments=300)
    all_of_them = bayesian_mode_posterior(bx, se_x, by, se_y, instruments=3000)
    assert abs(few.mode - all_of_them.mode) < 0.5 * all_of_them.sd
    assert few.sd == pytest.approx(all_of_them.sd, rel=0.25)
    assert few.p_valid.shape == (3000,)
    strong = np.abs(bx) > 0.1
    assert np.abs(few.p_valid - all_of_them.p_valid)[strong].mean() < 0.1
    assert (few.p_valid[:30] < 0.5).mean() > 0.9
    assert few.hpd_set[0, 0] < 0.5 < few.hpd_set[-1, 1]


# --- draws


def with_draws(rows: list[Data], n_draws: int, size: float) -> Group:
    group = group_of(*rows)
    generator = np.random.default_rng(17)
    shape = (len(rows), n_draws, group.bx.shape[1])
    first, second = generator.standard_normal((2, *shape))
    return replace(
        group,
        draws_x=group.bx[:, None] + size * group.se_x[:, None] * first,
        draws_y=group.by[:, None] + size * group.se_y[:, None] * second,
        rho_xy=np.zeros_like(group.bx),
    )


def test_draws_equal_to_the_mean_give_its_mode_and_about_its_sd() -> None:
    group = with_draws([simulated(2, 60, invalid=12)], 3, 0.0)
    fit = BAYESIAN_MODE.fit(group, Options())
    draws = BAYESIAN_MODE.fit_draws(group, Options())
    assert draws.estimates[0] == pytest.approx(np.full(3, fit.estimate[0]), abs=0.15 * fit.se[0])
    assert draws.se[0] == pytest.approx(np.full(3, fit.se[0]), rel=0.3)
    assert fit.se_model is not None
    within = np.sqrt(max(fit.se[0] ** 2 - fit.se_model[0] ** 2, 0.0))
    assert draws.se_within[0] == pytest.approx(within, rel=1e-9)


def test_draws_spread_as_the_errors_do_and_do_not_depend_on_each_other() -> None:
    rows = [simulated(seed, 50) for seed in (1, 2)]
    group = with_draws(rows, 40, 1.0)
    draws = BAYESIAN_MODE.fit_draws(group, Options())
    fit = BAYESIAN_MODE.fit(group, Options())
    assert fit.se_model is not None
    spread = draws.estimates.std(axis=1, ddof=1)
    assert spread == pytest.approx(fit.se_model, rel=0.4)
    assert group.draws_x is not None
    assert group.draws_y is not None
    alone = BAYESIAN_MODE.fit_draws(
        replace(
            group_of(rows[1]),
            draws_x=group.draws_x[1:, 5:8],
            draws_y=group.draws_y[1:, 5:8],
            rho_xy=np.zeros((1, 50)),
        ),
        Options(),
    )
    assert alone.estimates[0] == pytest.approx(draws.estimates[1, 5:8], rel=1e-12)
    again = BAYESIAN_MODE.fit_draws(group, Options())
    assert np.array_equal(again.estimates, draws.estimates)


def test_draws_far_from_the_mean_are_followed() -> None:
    group = group_of(simulated(9, 40))
    shift = np.array([-3.0, 0.0, 3.0])[None, :, None]
    draws_x = np.repeat(group.bx[:, None], 3, axis=1)
    moved = replace(
        group,
        draws_x=draws_x,
        draws_y=group.by[:, None] + shift * 0.1 * draws_x,
        rho_xy=np.zeros_like(group.bx),
    )
    draws = BAYESIAN_MODE.fit_draws(moved, Options())
    assert np.diff(draws.estimates[0]) == pytest.approx([0.3, 0.3], abs=0.03)


def test_a_bad_sequence_has_no_draws() -> None:
    group = with_draws([simulated(1, 8), simulated(2, 8)], 4, 1.0)
    group.bx[0] = 0.0
    draws = BAYESIAN_MODE.fit_draws(group, Options())
    assert np.isnan(draws.estimates[0]).all()
    assert np.isnan(draws.se_within[0])
    assert np.isfinite(draws.estimates[1]).all()


# --- published data and coverage


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("mr_*.json")), ids=lambda path: path.stem)
def test_reference_data_converge_and_agree_with_the_robust_estimates(path: Path) -> None:
    stored = json.loads(path.read_text())
    given_ = stored["inputs"]
    rho = 0.6 if "synth_ism" in path.stem else 0.0
    bx, sx, by, sy = (np.array(given_[key]) for key in ("bx", "bxse", "by", "byse"))
    found = bayesian_mode_posterior(bx, sx, by, sy, np.full(bx.size, rho))
    assert found.converged
    median = stored["results"]["median_weighted"]
    scale = np.hypot(found.sd, median["StdError"])
    assert abs(found.mode - median["Estimate"]) < 2.5 * scale


def test_the_interval_covers_with_directional_pleiotropy_where_ivw_does_not() -> None:
    design = invalid_instruments.DESIGNS[1]
    group = invalid_instruments.simulate(design, 0.0, 24, 5)
    ours = invalid_instruments.score(BAYESIAN_MODE, group)
    assert ours["set_coverage"] >= 0.87
    assert abs(ours["bias"]) < 0.05
    assert invalid_instruments.score(IVW, group)["set_coverage"] <= 0.2


def test_the_benchmark_reports_every_design_and_method(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalid_instruments, "CORRELATIONS", (0.6,))
    assert invalid_instruments.main(["--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = result["results"]
    assert {row["design"] for row in rows} == {d.name for d in invalid_instruments.DESIGNS}
    assert {row["method"] for row in rows} == {m.name for m in invalid_instruments.METHODS}
    assert all(0 <= row["set_coverage"] <= 1 and row["median_width"] > 0 for row in rows)


def test_smallest_number_of_instruments() -> None:
    found = bayesian_mode_posterior([0.3, 0.2, 0.4], [0.01] * 3, [0.15, 0.1, 0.2], [0.01] * 3)
    assert found.mode == pytest.approx(0.5, abs=0.02)
    assert BAYESIAN_MODE.minimum == bayesian_posterior.MINIMUM == 3
    with pytest.raises(ValueError, match="too few instruments"):
        bayesian_mode_posterior([0.3, 0.2], [0.01] * 2, [0.15, 0.1], [0.01] * 2)
