import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.mr import quantiles
from deepmr.mr.bootstrap import Replicates
from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators import median
from deepmr.mr.estimators.median import PENALIZED_WEIGHTED_MEDIAN, SIMPLE_MEDIAN, WEIGHTED_MEDIAN
from deepmr.mr.quantiles import median_and_se, medians_and_se_of_rows, medians_of_rows

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = sorted(path.stem for path in REFERENCE.glob("mr_*.json"))
MEDIANS = (SIMPLE_MEDIAN, WEIGHTED_MEDIAN, PENALIZED_WEIGHTED_MEDIAN)
R_KEYS = ("median_simple", "median_weighted", "median_penalized")
TSMR_KEYS = ("mr_simple_median", "mr_weighted_median", "mr_penalised_weighted_median")
CLOSED = Options(bootstrap_iterations=0)
EFFECTS = ("bx", "se_x", "by", "se_y")

pytestmark = pytest.mark.filterwarnings("error")


def group_of(*arrays, **more):
    return Group(*(np.atleast_2d(np.asarray(a, dtype=float)) for a in arrays), **more)


def simulated(n_sequences=3, n=40, n_draws=0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n_sequences, n)
    gamma = rng.gamma(0.7, 1, shape) * rng.choice([-1, 1], shape)
    se_x, se_y = 0.1 + 0.2 * rng.random((2, *shape))
    bx = gamma + se_x * rng.standard_normal(shape)
    by = 0.7 * gamma + 0.3 * rng.standard_normal(shape) + se_y * rng.standard_normal(shape)
    if not n_draws:
        return Group(bx, se_x, by, se_y)
    shape = (n_sequences, n_draws, n)
    draws_x, draws_y = (
        mean[:, None] + se[:, None] * rng.standard_normal(shape)
        for mean, se in ((bx, se_x), (by, se_y))
    )
    return Group(draws_x.mean(1), se_x, draws_y.mean(1), se_y, draws_x, draws_y)


def select(group, index):
    return Group(
        *(getattr(group, name)[index] for name in EFFECTS),
        *(None if d is None else d[index] for d in (group.draws_x, group.draws_y)),
    )


def plain_quantile(values, weights, p):
    """The definition, one value after the other."""
    pairs = sorted(
        (
            pair
            for pair in zip(values.tolist(), weights.tolist(), strict=True)
            if pair[1] > 0 and not np.isnan(pair[0])
        ),
        key=lambda pair: pair[0],
    )
    total = sum(w for _, w in pairs)
    before, left, low = 0.0, None, None
    for value, weight in pairs:
        right = (before + weight / 2) / total
        if p <= right:
            if left is None or low == value:
                return value
            share = (p - left) / (right - left)
            return low * (1 - share) + value * share
        before, left, low = before + weight, right, value
    return low


@pytest.fixture(scope="module", params=CASES)
def case(request):
    data = json.loads((REFERENCE / f"{request.param}.json").read_text())
    inputs = data["inputs"]
    return group_of(*(inputs[k] for k in ("bx", "bxse", "by", "byse"))), data


def test_reference_estimates(case):
    group, data = case
    results = data["results"]
    for estimator, r_key, tsmr_key in zip(MEDIANS, R_KEYS, TSMR_KEYS, strict=True):
        first = estimator.fit(group, CLOSED)
        np.testing.assert_allclose(first.estimate[0], results[r_key]["Estimate"], rtol=1e-10)
        second = estimator.fit(group, replace(CLOSED, median_order="second"))
        expected = results["TwoSampleMR"][tsmr_key]["b"]
        np.testing.assert_allclose(second.estimate[0], expected, rtol=1e-10)


def test_reference_standard_errors(case):
    """R's are a bootstrap of 50 or 100: four standard deviations of both bootstraps."""
    group, data = case
    results, options = data["results"], Options(seed=1)
    bound = 4 * np.sqrt(0.5 / data["bootstrap_iterations"] + 0.5 / options.bootstrap_iterations)
    for estimator, r_key, tsmr_key in zip(MEDIANS, R_KEYS, TSMR_KEYS, strict=True):
        for order, expected in (
            ("first", results[r_key]["StdError"]),
            ("second", results["TwoSampleMR"][tsmr_key]["se"]),
        ):
            fit = estimator.fit(group, replace(options, median_order=order))
            assert abs(np.log(fit.se[0] / expected)) < bound


def test_known_answer_first_and_second_order():
    # Ratios 0, 1, 3 in the order 2, 0, 1; first-order weights 4, 4, 8, that is cumulated 8, 12, 16
    # with midpoints .25, .625, .875: one half lies 2/3 of the way from 0 to 1.
    group = group_of([2, -2, 4], [1, 1, 1], [2, -6, 0], [1, 1, 1 / np.sqrt(0.5)])
    assert WEIGHTED_MEDIAN.fit(group, CLOSED).estimate[0] == pytest.approx(2 / 3)
    # 1/(1/4 + 4/16), 1/(1/4 + 36/16), 1/(2/16) = 2, .4, 8.
    second = WEIGHTED_MEDIAN.fit(group, replace(CLOSED, median_order="second")).estimate[0]
    assert second == pytest.approx((5.2 - 4) / (9 - 4))
    assert SIMPLE_MEDIAN.fit(group, CLOSED).estimate[0] == 1


def test_penalty_takes_the_weight_of_an_outlier():
    # 1/se = 10: |z| of the outlier is 10 (5 - 1), its penalty 20 P(chi2 > 1600) = 0.
    group = group_of([1, 1, 1, 1, 1], [0.1] * 5, [0.9, 1, 1.1, 5, 5.2], [0.1] * 5)
    assert WEIGHTED_MEDIAN.fit(group, CLOSED).estimate[0] == pytest.approx(1.1)
    weights = median.penalized_weights(group, CLOSED)[0]
    # p of 0.9 is P(|z| > 2) = .0455, so its factor is .91; of 1 (z = 1) .317, factor 1.
    np.testing.assert_allclose(weights, [91.0, 100, 100, 0, 0], rtol=1e-3)
    penalized = PENALIZED_WEIGHTED_MEDIAN.fit(group, CLOSED).estimate[0]
    assert penalized == pytest.approx(1 + 0.1 * (145.5 - 141) / 100, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(MEDIANS), st.sampled_from(["first", "second"]))
def test_invariances(seed, estimator, order):
    group = simulated(2, 25, 6, seed)
    options = replace(CLOSED, median_order=order)
    rng = np.random.default_rng(seed)
    fit, drawn = estimator.fit(group, options), estimator.fit_draws(group, options)

    def same(other, factor=1.0):
        again, drawn_again = estimator.fit(other, options), estimator.fit_draws(other, options)
        np.testing.assert_allclose(again.estimate, factor * fit.estimate, rtol=1e-9)
        np.testing.assert_allclose(again.se, abs(factor) * fit.se, rtol=1e-9)
        np.testing.assert_allclose(drawn_again.estimates, factor * drawn.estimates, rtol=1e-9)
        np.testing.assert_allclose(drawn_again.se, abs(factor) * drawn.se, rtol=1e-9)
        np.testing.assert_allclose(drawn_again.se_within, abs(factor) * drawn.se_within, rtol=1e-9)

    same(select(group, (..., rng.permutation(25))))
    flip = rng.choice([-1.0, 1.0], 25)
    x, y = 2.5, -0.4
    for by_x, by_y, factor in ((flip, flip, 1.0), (x, y, y / x)):
        changed = Group(
            group.bx * by_x,
            group.se_x * np.abs(by_x),
            group.by * by_y,
            group.se_y * np.abs(by_y),
            group.draws_x * by_x,
            group.draws_y * by_y,
        )
        same(changed, factor)


@pytest.mark.parametrize("estimator", MEDIANS)
@pytest.mark.parametrize("n", [12, 150])
def test_results_do_not_depend_on_the_batch(estimator, n):
    options = Options(seed=3, bootstrap_iterations=50)
    group = simulated(4, n, 20)
    together, drawn = estimator.fit(group, options), estimator.fit_draws(group, options)
    for i in range(4):
        alone = select(group, slice(i, i + 1))
        fit, alone_drawn = estimator.fit(alone, options), estimator.fit_draws(alone, options)
        assert fit.estimate[0] == together.estimate[i]
        assert fit.se[0] == together.se[i]
        np.testing.assert_array_equal(alone_drawn.estimates[0], drawn.estimates[i])
        np.testing.assert_array_equal(alone_drawn.se[0], drawn.se[i])
        assert alone_drawn.se_within[0] == drawn.se_within[i]


@pytest.mark.parametrize("estimator", MEDIANS)
@pytest.mark.parametrize("n", [12, 150])
@pytest.mark.parametrize("order", ["first", "second"])
def test_draws_are_the_median_with_the_weights_of_the_mean_effects(estimator, n, order):
    options = replace(CLOSED, median_order=order)
    group = simulated(2, n, 30)
    group.draws_x[0, 4, :3] = 0.0  # infinite ratios
    group.draws_y[0, 4, 1] = 0.0  # and none
    drawn = estimator.fit_draws(group, options)
    for t in range(30):
        x, y = group.draws_x[:, t], group.draws_y[:, t]
        one = Group(x, group.se_x, y, group.se_y, given_anchor_x=group.bx, given_anchor_y=group.by)
        fit = estimator.fit(one, options)
        np.testing.assert_array_equal(drawn.estimates[:, t], fit.estimate)
        np.testing.assert_array_equal(drawn.se[:, t], fit.se)
    np.testing.assert_array_equal(drawn.se_within, estimator.fit(group, options).se)
    free = estimator.fit(Group(x, group.se_x, y, group.se_y), options).estimate
    if estimator is not SIMPLE_MEDIAN:
        assert (free != fit.estimate).all()


def test_woodruff_replaces_the_bootstrap(monkeypatch):
    group = simulated(1, 30)
    expected = median_and_se(group.by / group.bx, (group.bx / group.se_y) ** 2)

    def none(*_):
        raise AssertionError("bootstrapped")

    monkeypatch.setattr(median, "Replicates", none)
    fit = WEIGHTED_MEDIAN.fit(group, CLOSED)
    np.testing.assert_allclose([fit.estimate, fit.se], expected, rtol=1e-12)
    with pytest.raises(AssertionError, match="bootstrapped"):
        WEIGHTED_MEDIAN.fit(group, Options())


@pytest.mark.parametrize("estimator", MEDIANS)
@pytest.mark.parametrize("order", ["first", "second"])
def test_zero_exposure_effects_have_no_say(estimator, order):
    group = simulated(1, 20)
    options = replace(CLOSED, median_order=order)
    expected = estimator.fit(group, options)
    padded = group_of(
        *(
            np.append(getattr(group, name)[0], extra)
            for name, extra in zip(
                EFFECTS, ([0, 0, 0], [1, 1, 1], [5, -5, 0], [1, 1, 1]), strict=True
            )
        )
    )
    fit = estimator.fit(padded, options)
    np.testing.assert_array_equal([fit.estimate, fit.se], [expected.estimate, expected.se])
    assert np.isfinite(estimator.fit(padded, Options(bootstrap_iterations=20)).se)
    nothing = group_of([0, 0, 0], [1, 1, 1], [1, 2, 0], [1, 1, 1])
    for iterations in (0, 20):
        fit = estimator.fit(nothing, Options(bootstrap_iterations=iterations, median_order=order))
        assert np.isnan([fit.estimate, fit.se]).all()


def test_bootstrap_se_against_a_plain_one():
    group = simulated(1, 30, seed=5)
    sign = np.sign(group.bx)
    group = replace(group, bx=sign * group.bx, by=sign * group.by)
    rng = np.random.default_rng(8)
    rho = np.linspace(0.5, 0.95, 30)
    distance = np.abs(np.subtract.outer(np.arange(30), np.arange(30)))
    correlation = 0.8**distance
    root = np.linalg.cholesky(correlation)
    weights = (group.bx[0] / group.se_y[0]) ** 2

    def plain(rho, root):
        z = rng.standard_normal((2, 30, 2000))
        x = group.bx[0, :, None] + group.se_x[0, :, None] * (root @ z[0])
        mixed = rho[:, None] * z[0] + np.sqrt(1 - rho[:, None] ** 2) * z[1]
        y = group.by[0, :, None] + group.se_y[0, :, None] * (root @ mixed)
        return np.std([plain_quantile(r, weights, 0.5) for r in (y / x).T], ddof=1)

    options = Options(bootstrap_iterations=4000)
    found = []
    for given_rho in (None, rho):
        for given_correlation in (None, correlation):
            some = replace(
                group,
                rho_xy=None if given_rho is None else given_rho[None],
                correlation=None if given_correlation is None else given_correlation[None],
            )
            found.append(WEIGHTED_MEDIAN.fit(some, options).se[0])
            expected = plain(
                np.zeros(30) if given_rho is None else rho,
                np.eye(30) if given_correlation is None else root,
            )
            # The standard deviation of the logarithm is .019.
            assert found[-1] == pytest.approx(expected, rel=0.08)
    # The four answers differ by more than that, so the test can tell them apart.
    assert (np.abs(np.diff(np.log(np.sort(found)))) > 0.1).all()


def test_replicates_have_the_correlations_asked_for():
    n, b = 6, 40_000
    rng = np.random.default_rng(0)
    root = rng.standard_normal((n, n)) + 2 * np.eye(n)
    covariance = root @ root.T
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    rho = np.linspace(-0.8, 0.8, n)
    group = replace(simulated(1, n), rho_xy=rho[None], correlation=correlation[None])
    x, y = Replicates(n, Options(bootstrap_iterations=b)).of(group, 0)
    assert x.shape == y.shape == (b, n)
    factor = np.linalg.cholesky(correlation)
    cross = factor @ np.diag(rho) @ factor.T
    expected = np.block([[correlation, cross], [cross.T, correlation]])
    errors = np.hstack([(x - group.bx) / group.se_x, (y - group.by) / group.se_y])
    np.testing.assert_allclose(errors.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(np.cov(errors.T), expected, atol=0.04)


def test_replicates_take_the_error_correlation_from_the_draws():
    group = simulated(2, 5, 400)
    common = np.random.default_rng(1).standard_normal(group.draws_x.shape)
    noise = 0.5 * np.random.default_rng(2).standard_normal(common.shape)
    group = replace(group, draws_x=common, draws_y=common + noise)
    x, y = Replicates(5, Options(bootstrap_iterations=20_000)).of(group, 1)
    found = [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(5)]
    np.testing.assert_allclose(found, group.error_correlation[1], atol=0.01)
    assert min(found) > 0.85


def test_replicates_depend_on_seed_and_size_only():
    group, options = simulated(3, 9), Options(seed=5, bootstrap_iterations=30)
    replicates = Replicates(9, options)
    x, y = replicates.of(group, 2)
    alone = Replicates(9, options).of(select(group, slice(2, 3)), 0)
    np.testing.assert_array_equal(alone, (x, y))
    rows = replicates.rows(group, 2)
    for which in (slice(7, 12), np.array([29, 0])):
        np.testing.assert_array_equal(rows(which), (x[which], y[which]))
    other = Replicates(9, replace(options, seed=6)).of(group, 2)
    assert (np.asarray(other) != (x, y)).all()
    np.testing.assert_array_equal(replicates.of(group, 2), (x, y))
    assert replicates.of(group, 1)[0].shape == (30, 9)
    assert Replicates(9, CLOSED).of(group, 0)[0].shape == (0, 9)


def test_correlation_that_is_none_gives_an_estimate_without_a_standard_error():
    group = simulated(1, 4)
    fit = WEIGHTED_MEDIAN.fit(replace(group, correlation=np.ones((1, 4, 4))), Options())
    assert np.isfinite(fit.estimate)
    assert np.isnan(fit.se)


def rows_of(values, log=None):
    def rows(which):
        if log is not None and not isinstance(which, slice):
            log.append(len(which))
        return values[which].copy()

    return rows


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 100_000),
    st.integers(1, 260),
    st.integers(100, 300),
    st.sampled_from([0.05, 1.0, 4.0]),
    st.sets(st.sampled_from(["ties", "zeros", "infinite", "missing", "shifted", "sorted"])),
)
def test_shared_weights_give_the_bits_of_sorting(seed, count, n, spread, features):
    rng = np.random.default_rng(seed)
    weights = np.exp(spread * rng.standard_normal(n))
    values = rng.standard_normal((count, n))
    if "shifted" in features:
        values += 3 * rng.standard_normal((count, 1))
    if "ties" in features:
        values = np.round(values, 1)
    if "zeros" in features:
        weights[rng.random(n) < 0.3] = 0
    if "infinite" in features:
        some = rng.random((count, n)) < 0.1
        values[some] = rng.choice([-np.inf, np.inf], some.sum())
    if "missing" in features:
        values[rng.random((count, n)) < 0.5 / n] = np.nan
    if "sorted" in features:
        order = np.argsort(values[:, 0])
        values, weights = values[order], np.sort(weights)
    median_, se = median_and_se(values, weights)
    fast, fast_se = medians_and_se_of_rows(rows_of(values), count, weights)
    np.testing.assert_array_equal(fast, median_)
    np.testing.assert_array_equal(fast_se, se)
    np.testing.assert_array_equal(medians_of_rows(rows_of(values), count, weights), median_)
    for i in (0, count - 1):
        expected = plain_quantile(values[i], weights, 0.5)
        assert fast[i] == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def test_bracket_saves_sorting_and_misses_are_sorted():
    rng = np.random.default_rng(3)
    values, weights, log = rng.standard_normal((300, 2000)), rng.random(2000), []
    medians_and_se_of_rows(rows_of(values, log), 300, weights)
    assert sum(log) < 8 + 30
    # Rows that the pilot rows (every 43rd) say nothing about.
    values[::2] += 5
    values[::43] -= 5 * (np.arange(7) % 2 == 0)[:, None]
    log.clear()
    fast = medians_of_rows(rows_of(values, log), 300, weights)
    assert sum(log) > 8 + 100
    np.testing.assert_array_equal(fast, median_and_se(values, weights)[0])


def test_missing_values_are_noticed_beside_a_bracket():
    rng = np.random.default_rng(6)
    values, weights = rng.standard_normal((60, 2000)), rng.random(2000)
    values[5, :2] = np.nan  # so few that the median stays inside
    for fast, slow in zip(
        medians_and_se_of_rows(rows_of(values), 60, weights),
        median_and_se(values, weights),
        strict=True,
    ):
        np.testing.assert_array_equal(fast, slow)


def test_quantiles_do_not_depend_on_blocks_or_the_scale_of_weights(monkeypatch):
    rng = np.random.default_rng(4)
    values, weights = rng.standard_normal((50, 200)), rng.random(200)
    expected = median_and_se(values, weights)
    for scale in (2.0**-900, 2.0**900):
        np.testing.assert_array_equal(median_and_se(values, weights * scale)[0], expected[0])
    monkeypatch.setattr(quantiles, "_BLOCK_ELEMENTS", 700)
    monkeypatch.setattr(quantiles, "_SORTED_TOGETHER", 9)
    np.testing.assert_array_equal(median_and_se(values, weights), expected)
    np.testing.assert_array_equal(medians_and_se_of_rows(rows_of(values), 50, weights), expected)


def test_infinite_neighbour_and_weights_that_say_nothing():
    values = np.array([[-np.inf, 1.0], [1.0, np.inf], [1.0, np.nan]])
    np.testing.assert_array_equal(median_and_se(values)[0], [-np.inf, np.inf, 1.0])
    for weights in ([0.0, 0.0], [1.0, np.inf], [np.nan, 1.0]):
        assert np.isnan(median_and_se(np.ones((1, 2)), weights)).all()
        rows = rows_of(np.ones((3, 2)))
        assert np.isnan(medians_of_rows(rows, 3, np.array(weights))).all()
