import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, multivariate_normal, norm, t

from deepmr.meta.combine import random_effects
from deepmr.meta.dependence.dependent import combine_dependent, working_weights
from deepmr.meta.dependence.error_covariance import Blocks, Diagonal, LowRank
from deepmr.meta.dependence.likelihood import Model

REFERENCE = Path(__file__).parents[1] / "reference"
FIELDS = ("estimate", "se", "tau2", "ci_low", "ci_high", "q", "i2", "h2", "pi_low", "pi_high")


def case_of(name):
    case = json.loads((REFERENCE / f"meta_{name}.json").read_text())
    return {key: np.array(value) for key, value in case["inputs"].items()}, case["results"]


def compare_with_rma_mv(name):
    """V = rho sqrt(v_i v_j) off the diagonal; metafor's `rma.mv`, REML and equal effects."""
    data, expected = case_of(name)
    v = data["vi"]
    for rho in (0.2, 0.6):
        covariance = Blocks.compound_symmetric(v, np.zeros(v.size), rho)
        # The same V as diagonal plus one factor, so solved by other formulas.
        factor = LowRank((1 - rho) * v, np.sqrt(rho * v)[:, None])
        theirs = expected[f"rma.mv_EE_V_rho{rho}"]
        for form in (covariance, factor):
            fixed = combine_dependent(data["yi"], form, "FE")
            assert fixed.estimate == pytest.approx(theirs["beta"], rel=1e-8)
            assert fixed.se == pytest.approx(theirs["se"], rel=1e-8)
            assert fixed.q == pytest.approx(theirs["QE"], rel=1e-8)
        theirs = expected[f"rma.mv_V_compound_rho{rho}"]
        for form in (covariance, factor):
            reml = combine_dependent(data["yi"], form)
            assert reml.k == v.size
            # nlminb stops where the likelihood is flat to 1e-11, so tau2 is known to 5e-6 only.
            assert 0 <= reml.log_likelihood - theirs["loglik"] + 1e-12 < 1e-10
            assert reml.estimate == pytest.approx(theirs["beta"], rel=1e-6)
            assert reml.se == pytest.approx(theirs["se"], rel=1e-6)
            assert reml.tau2 == pytest.approx(theirs["tau2"], rel=5e-6)
            assert reml.q == pytest.approx(theirs["QE"], rel=1e-8)
            tolerance = 1e-6 * (theirs["pi.ub"] - theirs["pi.lb"])
            assert reml.pi_low == pytest.approx(theirs["pi.lb"], abs=tolerance)
            assert reml.pi_high == pytest.approx(theirs["pi.ub"], abs=tolerance)


def test_colditz_1994_bcg():
    compare_with_rma_mv("bcg")


def test_bangert_drowns_2004_writing_to_learn():
    compare_with_rma_mv("bangertdrowns2004")


def test_hackshaw_1998_passive_smoking():
    compare_with_rma_mv("hackshaw1998")


def test_konstantopoulos_2011_school_calendars():
    compare_with_rma_mv("konstantopoulos2011")


def test_simulated_homogeneous_50():
    compare_with_rma_mv("synth_homog50")


def test_konstantopoulos_2011_multilevel():
    data, expected = case_of("konstantopoulos2011")
    theirs = expected["multilevel_cluster"]
    ours = combine_dependent(data["yi"], Diagonal(data["vi"]), clusters=data["cluster"])
    assert 0 <= ours.log_likelihood - theirs["loglik"] + 1e-12 < 1e-10
    assert ours.estimate == pytest.approx(theirs["beta"], rel=1e-6)
    assert ours.se == pytest.approx(theirs["se"], rel=1e-6)
    assert [ours.omega2, ours.tau2] == pytest.approx(theirs["sigma2_cluster_id"], rel=1e-6)
    assert ours.q == pytest.approx(theirs["QE"], rel=1e-8)
    half = norm.ppf(0.975) * np.sqrt(ours.se**2 + ours.tau2 + ours.omega2)
    assert ours.pi_high == pytest.approx(ours.estimate + half)
    few = combine_dependent(data["yi"], Diagonal(data["vi"]), clusters=data["cluster"], test="t")
    assert few.df == 10
    assert few.ci_high == pytest.approx(few.estimate + t.ppf(0.975, 10) * few.se)


def test_konstantopoulos_2011_multilevel_with_correlated_errors():
    data, expected = case_of("konstantopoulos2011")
    theirs = expected["vcalc_rho0.5_multilevel"]
    covariance = Blocks.compound_symmetric(data["vi"], data["cluster"], 0.5)
    ours = combine_dependent(data["yi"], covariance, clusters=data["cluster"])
    assert 0 <= ours.log_likelihood - theirs["loglik"] + 1e-12 < 1e-10
    assert ours.estimate == pytest.approx(theirs["beta"], rel=1e-6)
    assert ours.se == pytest.approx(theirs["se"], rel=1e-6)
    assert [ours.omega2, ours.tau2] == pytest.approx(theirs["sigma2_cluster_id"], rel=1e-6)


def drawn(seed, k, factors=2, tau=0.3):
    """Estimates, and the parts of their covariance."""
    rng = np.random.default_rng(seed)
    own, shared = rng.uniform(0.05, 0.6, k), 0.5 * rng.normal(size=(k, factors))
    error = np.sqrt(own) * rng.normal(size=k) + shared @ rng.normal(size=factors)
    return 0.4 + tau * rng.normal(size=k) + error, own, shared


def whole(covariance):
    return covariance.matvec(np.eye(len(covariance)))


def one_block(matrix):
    return Blocks([np.arange(len(matrix))], [matrix])


seeds = st.integers(0, 10_000)
fast = settings(max_examples=20, deadline=None)


@fast
@given(seeds, st.integers(2, 30), st.integers(0, 4))
def test_low_rank_and_blocks_solve_as_dense(seed, k, factors):
    rng = np.random.default_rng(seed)
    _, own, shared = drawn(seed, k, factors)
    forms = [
        (LowRank(own, shared), np.diag(own) + shared @ shared.T),
        (Diagonal(own), np.diag(own)),
    ]
    labels = rng.integers(0, 4, k)
    rho = 0.3
    dense = rho * np.sqrt(np.outer(own, own)) * (labels[:, None] == labels)
    np.fill_diagonal(dense, own)
    forms.append((Blocks.compound_symmetric(own, labels, rho), dense))
    rows = rng.permutation(k)[: max(1, k // 2)]
    x = rng.normal(size=(k, 3))
    for covariance, matrix in forms:
        np.testing.assert_allclose(whole(covariance), matrix, atol=1e-12)
        np.testing.assert_allclose(covariance.variances, np.diagonal(matrix), rtol=1e-12)
        np.testing.assert_allclose(covariance.solve(x), np.linalg.solve(matrix, x), atol=1e-8)
        one = np.linalg.solve(matrix, x[:, 0])
        np.testing.assert_allclose(covariance.solve(x[:, 0]), one, atol=1e-8)
        assert covariance.logdet() == pytest.approx(np.linalg.slogdet(matrix)[1], abs=1e-8)
        np.testing.assert_allclose(whole(covariance.take(rows)), matrix[np.ix_(rows, rows)])


@fast
@given(seeds, st.integers(3, 14), st.sampled_from(["diagonal", "low rank", "blocks"]))
def test_likelihood_is_the_normal_density_and_the_slopes_its_derivatives(seed, k, form):
    y, own, shared = drawn(seed, k)
    labels = np.arange(k) % 2
    covariance = {
        "diagonal": Diagonal(own),
        "low rank": LowRank(own, shared),
        "blocks": Blocks.compound_symmetric(own, labels, 0.4),
    }[form]
    tau2, omega2, step = 0.2, 0.3, 1e-5
    dense = whole(covariance) + tau2 * np.eye(k) + omega2 * (labels[:, None] == labels)
    ones = np.ones(k)
    forward = covariance.forward
    for restricted in (False, True):
        model = Model(
            covariance, forward(y), forward(ones), covariance.membership(labels), restricted
        )
        point = model.at(tau2, omega2)
        expected = multivariate_normal(np.full(k, point.mean), dense).logpdf(y)
        if restricted:
            information = ones @ np.linalg.solve(dense, ones)
            expected += 0.5 * np.log(2 * np.pi * k / information)
        assert point.log_likelihood == pytest.approx(expected, abs=1e-9)
        for name, high, low in (
            ("slope_tau2", model.at(tau2 + step, omega2), model.at(tau2 - step, omega2)),
            ("slope_omega2", model.at(tau2, omega2 + step), model.at(tau2, omega2 - step)),
        ):
            slope = (high.log_likelihood - low.log_likelihood) / (2 * step)
            assert getattr(point, name) == pytest.approx(slope, abs=1e-5 * (1 + abs(slope)))
        beyond = model.highest_tau2(omega2)
        assert model.at(1.01 * beyond, omega2).slope_tau2 < 0


@fast
@given(seeds, st.integers(3, 25), st.sampled_from(["REML", "ML", "FE"]))
def test_independent_errors_are_random_effects(seed, k, method):
    y, own, _ = drawn(seed, k)
    plain = random_effects(y, own, method)
    single = [np.array([i]) for i in range(k)]
    for covariance in (
        Diagonal(own),
        LowRank(own, np.zeros((k, 1))),
        Blocks(single, own[:, None, None]),
    ):
        result = combine_dependent(y, covariance, method)
        for name in FIELDS:
            ours, theirs = getattr(result, name), getattr(plain, name)
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7, nan_ok=True), name
        if method == "REML":
            ends = [plain.tau2_low, plain.tau2_high]
            assert [result.tau2_low, result.tau2_high] == pytest.approx(ends, rel=1e-6, abs=1e-7)


@fast
@given(seeds, st.integers(4, 20), st.sampled_from(["REML", "ML", "FE"]))
def test_low_rank_and_one_dense_block_agree(seed, k, method):
    y, own, shared = drawn(seed, k)
    low_rank = LowRank(own, shared)
    first = combine_dependent(y, low_rank, method)
    second = combine_dependent(y, one_block(whole(low_rank)), method)
    for name in FIELDS:
        ours, theirs = getattr(first, name), getattr(second, name)
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-8, nan_ok=True), name


def check_shift_and_scale(combine, y, own, shared, shift, scale):
    plain = combine(y, LowRank(own, shared))
    moved = combine(shift + scale * y, LowRank(scale**2 * own, scale * shared))
    assert moved.estimate == pytest.approx(shift + scale * plain.estimate, abs=1e-6 * scale)
    assert moved.se == pytest.approx(scale * plain.se, rel=1e-6)
    assert moved.tau2 == pytest.approx(scale**2 * plain.tau2, rel=1e-5, abs=1e-7 * scale**2)


@fast
@given(seeds, st.integers(4, 20), st.floats(-5, 5), st.floats(0.1, 10))
def test_order_shift_and_scale(seed, k, shift, scale):
    y, own, shared = drawn(seed, k)
    order = np.random.default_rng(seed + 1).permutation(k)
    for combine in (combine_dependent, working_weights):
        check_shift_and_scale(combine, y, own, shared, shift, scale)
        plain = combine(y, LowRank(own, shared))
        mixed = combine(y[order], LowRank(own, shared).take(order))
        assert mixed.estimate == pytest.approx(plain.estimate, rel=1e-8, abs=1e-10)
        assert mixed.se == pytest.approx(plain.se, rel=1e-8)


@settings(max_examples=4, deadline=None)
@given(seeds, st.integers(9, 20), st.floats(-5, 5), st.floats(0.1, 10))
def test_shift_and_scale_with_clusters(seed, k, shift, scale):
    def combine(y, covariance):
        return combine_dependent(y, covariance, clusters=np.arange(k) % 3)

    check_shift_and_scale(combine, *drawn(seed, k), shift, scale)


@fast
@given(seeds, st.integers(4, 25), st.sampled_from(["REML", "ML"]))
def test_no_tau2_is_more_likely(seed, k, method):
    y, own, shared = drawn(seed, k)
    covariance = LowRank(own, shared)
    best = combine_dependent(y, covariance, method)
    model = Model(covariance, y, np.ones(k), None, method == "REML")
    for tau2 in np.concatenate([[0.0], np.geomspace(1e-5, 10, 60)]):
        assert model.at(tau2).log_likelihood <= best.log_likelihood + 1e-9


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_no_pair_of_variances_is_more_likely(seed):
    rng = np.random.default_rng(seed)
    y, own, shared = drawn(seed, 20)
    labels = np.arange(20) % 5
    y = y + 0.4 * rng.normal(size=5)[labels]
    covariance = LowRank(own, shared)
    best = combine_dependent(y, covariance, clusters=labels)
    model = Model(covariance, y, np.ones(20), covariance.membership(labels), True)
    for tau2 in np.array([0, 0.5, 0.9, 1, 1.1, 2]) * best.tau2 + np.array([0, 0, 0, 0, 0, 0.1]):
        for omega2 in (0.0, 0.9 * best.omega2, best.omega2, 1.1 * best.omega2, best.omega2 + 0.1):
            assert model.at(tau2, omega2).log_likelihood <= best.log_likelihood + 1e-9


@fast
@given(seeds, st.integers(4, 25))
def test_interval_of_tau2_inverts_q(seed, k):
    y, own, shared = drawn(seed, k, tau=0.8)
    result = combine_dependent(y, LowRank(own, shared))
    model = Model(LowRank(own, shared), y, np.ones(k), None, True)
    for bound, level in ((result.tau2_low, 0.975), (result.tau2_high, 0.025)):
        q = model.at(bound).q
        if bound:
            assert chi2.cdf(q, k - 1) == pytest.approx(level, abs=1e-8)
        else:
            assert chi2.cdf(q, k - 1) <= level
    assert result.q_p == pytest.approx(chi2.sf(result.q, k - 1))


def test_a_shared_error_stays_however_many_sequences_there_are():
    y, own, _ = drawn(3, 2000, factors=0)
    result = combine_dependent(y, LowRank(own, np.full((2000, 1), 0.2)))
    assert 0.2 < result.se < 0.201
    assert random_effects(y, own).se < 0.02
    weighted = working_weights(y, LowRank(own, np.full((2000, 1), 0.2)))
    assert 0.2 < weighted.se < 0.201
    assert weighted.fmi == pytest.approx(0.04 / weighted.se**2, rel=1e-6)


def test_working_weights_are_the_sandwich_and_its_moments():
    y, own, shared = drawn(8, 15, tau=1.5)
    covariance = LowRank(own, shared)
    v = whole(covariance)
    result = working_weights(y, covariance, "DL")
    w = 1 / (own + random_effects(y, own, "DL").tau2)
    mean = w @ y / w.sum()
    assert result.estimate == pytest.approx(mean)
    assert result.tau2 > 0
    s = v + result.tau2 * np.eye(15)
    assert result.se == pytest.approx(np.sqrt(w @ s @ w) / w.sum())
    # tau2 is such that the weighted squares are what S lets one expect.
    spread = np.diag(w) - np.outer(w, w) / w.sum()
    assert w @ (y - mean) ** 2 == pytest.approx(np.trace(spread @ s))
    fixed = working_weights(y, covariance, "FE")
    w = 1 / own
    assert fixed.se == pytest.approx(np.sqrt(w @ v @ w) / w.sum())
    assert fixed.tau2 == 0


@fast
@given(seeds, st.integers(4, 25))
def test_working_weights_of_independent_errors_are_paule_and_mandel(seed, k):
    y, own, _ = drawn(seed, k)
    plain, ours = random_effects(y, own, "PM"), working_weights(y, Diagonal(own), "PM")
    for name in ("estimate", "se", "ci_low", "ci_high"):
        assert getattr(ours, name) == pytest.approx(getattr(plain, name), rel=1e-6), name
    assert ours.tau2 == pytest.approx(plain.tau2, rel=1e-6, abs=1e-8)
    assert np.isnan(ours.fmi)


def test_covariance_of_draws():
    rng = np.random.default_rng(4)
    draws, within = rng.normal(size=(12, 30)), rng.uniform(0.1, 0.2, (12, 30))
    covariance = LowRank.from_draws(draws, within)
    expected = (1 + 1 / 12) * np.cov(draws.T) + np.diag(within.mean(axis=0))
    np.testing.assert_allclose(whole(covariance), expected, atol=1e-12)
    same = LowRank.from_draws(draws, within.mean(axis=0))
    np.testing.assert_allclose(whole(same), expected, atol=1e-12)
    y = draws.mean(axis=0)
    result = working_weights(y, covariance, "FE", test="t")
    w = 1 / within.mean(axis=0)
    w /= w.sum()
    shared = (1 + 1 / 12) * np.var(draws @ w, ddof=1)
    own = w**2 @ within.mean(axis=0)
    assert result.se == pytest.approx(np.sqrt(own + shared))
    assert result.fmi == pytest.approx(shared / (own + shared))
    df = (own + shared) ** 2 / (own**2 / 29 + shared**2 / 11)
    assert result.df == pytest.approx(df)
    assert result.ci_low == pytest.approx(result.estimate - t.ppf(0.975, df) * result.se)


def test_gls_reads_the_factors_and_working_weights_do_not():
    """Loadings that follow the effects: GLS takes the mean for an error, and is sure of it."""
    rng = np.random.default_rng(6)
    effects = 0.5 + 0.2 * rng.normal(size=200)
    covariance = LowRank(np.full(200, 1e-4), 0.3 * effects[:, None])
    y = effects + 0.01 * rng.normal(size=200)
    gls, weighted = combine_dependent(y, covariance), working_weights(y, covariance)
    assert abs(gls.estimate) < 0.1
    assert gls.se < 0.02
    assert gls.negative_weights < -0.1
    assert weighted.estimate == pytest.approx(0.5, abs=0.05)
    assert weighted.se == pytest.approx(0.15, rel=0.1)
    assert weighted.negative_weights == 0


@pytest.mark.parametrize("combine", [combine_dependent, working_weights])
def test_few_sequences_have_a_status(combine):
    for k, status in ((0, "no_sequences"), (1, "single_sequence"), (2, "few_sequences")):
        result = combine(np.ones(k), LowRank(np.ones(k), np.ones((k, 1))))
        assert (result.status, result.k) == (status, k)
        assert result.reason
        assert np.isfinite(result.se) == (k > 0)
    alone = combine([2.0], LowRank([0.5], [[0.5]]))
    assert (alone.estimate, alone.se) == (2.0, pytest.approx(np.sqrt(0.75)))
    equal = combine(np.ones(5), Diagonal(np.ones(5)))
    assert (equal.estimate, equal.tau2, equal.status) == (pytest.approx(1.0), 0.0, "ok")


@pytest.mark.parametrize("combine", [combine_dependent, working_weights])
def test_sequences_without_a_number_are_left_out_and_counted(combine):
    y, own, shared = drawn(1, 12)
    clean = combine(y[5:], LowRank(own[5:], shared[5:]))
    for bad in (0.0, -1.0, np.nan, np.inf):
        y_bad, own_bad = y.copy(), own.copy()
        y_bad[:3] = np.nan
        own_bad[3:5] = bad
        result = combine(y_bad, LowRank(own_bad, shared))
        assert (result.k, result.n_dropped, result.status) == (7, 5, "ok")
        assert "5 of 12 sequences left out" in result.reason
        assert result.estimate == clean.estimate
        blocks = Blocks.compound_symmetric(own_bad, np.arange(12) % 2, 0.3)
        expected = combine(y[5:], Blocks.compound_symmetric(own[5:], np.arange(5, 12) % 2, 0.3))
        assert combine(y_bad, blocks).estimate == pytest.approx(expected.estimate)


def test_variances_of_very_different_size():
    y, v = np.array([0.0, 1e-6, 5.0, -4.0]), np.array([1e-12, 1e-12, 1.0, 1.0])
    for k in (2, 4):
        for combine in (combine_dependent, working_weights):
            result = combine(y[-k:] + 1, Diagonal(v[-k:]))
            assert np.isfinite([result.estimate, result.se, result.tau2, result.i2]).all()
    for combine in (combine_dependent, working_weights):
        result = combine([0.0, 1.0], Diagonal([1e-30, 1.0]))
        assert np.isfinite([result.estimate, result.se, result.tau2, result.i2]).all()
        far = combine([0.0, 1e8], LowRank([1e-8, 1e-8], [[1.0], [1.0]]))
        assert far.tau2 == pytest.approx(5e15, rel=1e-6)
        common = combine([1.0, 2.0, 3.0], LowRank([1.0, 1.0, 1.0], [[1e5]] * 3))
        assert common.estimate == pytest.approx(2.0, rel=1e-5)
        assert common.se == pytest.approx(1e5, rel=1e-5)
    only = LowRank([1e-4, 1e-4, 1e-4], [[1e9]] * 3)
    singular = combine_dependent([1.0, 2.0, 3.0], only)
    assert singular.status == "singular_covariance"
    assert "too small beside shared ones" in singular.reason
    assert np.isnan(singular.estimate)
    weighted = working_weights([1.0, 2.0, 3.0], only)
    assert (weighted.estimate, weighted.se) == (pytest.approx(2.0), pytest.approx(1e9))
    assert np.isfinite([weighted.tau2, weighted.i2]).all()


def test_sequences_without_a_cluster_are_left_out_and_counted():
    y, own, shared = drawn(1, 12)
    labels = np.array(["a", "b", "c"] * 4, dtype=object)
    labels[2], labels[5], y[0] = None, np.nan, np.nan
    result = combine_dependent(y, LowRank(own, shared), clusters=labels)
    kept = np.array([1, 3, 4, 6, 7, 8, 9, 10, 11])
    expected = combine_dependent(y[kept], LowRank(own, shared).take(kept), clusters=labels[kept])
    assert (result.k, result.n_dropped) == (9, 3)
    assert result.estimate == expected.estimate
    assert "1 of 12 sequences left out" in result.reason
    assert "2 left out without a cluster" in result.reason


def test_clusters_that_tell_nothing_have_a_status():
    y, own, _ = drawn(2, 6)
    one = combine_dependent(y, Diagonal(own), clusters=["a"] * 6)
    assert (one.status, one.k) == ("single_cluster", 6)
    assert "one cluster" in one.reason
    every = combine_dependent(y, Diagonal(own), clusters=np.arange(6))
    assert every.status == "clusters_of_one"
    assert np.isnan([one.estimate, one.se, every.estimate]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: working_weights([1.0], Diagonal([1.0]), "mean"),
            "'mean' is unknown; write one of",
        ),
        (lambda: combine_dependent([1.0], Diagonal([1.0]), "DL"), "'DL' is unknown; write one of"),
        (lambda: combine_dependent([1.0], Diagonal([1.0]), test="f"), "test 'f' is unknown"),
        (lambda: combine_dependent([1.0], Diagonal([1.0, 2.0])), r"shape \(2,\)"),
        (
            lambda: combine_dependent([1.0, 2.0], Diagonal([1.0, 2.0]), "FE", clusters=[0, 1]),
            "write method REML or ML, not FE",
        ),
        (
            lambda: combine_dependent([1.0, 2.0], Diagonal([1.0, 2.0]), clusters=[0]),
            r"clusters must have shape \(2,\)",
        ),
        (
            lambda: combine_dependent(
                [1.0, 2.0], one_block(np.eye(2) + 0.1), clusters=[0, 1], method="ML"
            ),
            "block of V that holds estimate 0 reaches over several clusters",
        ),
        (
            lambda: combine_dependent([1.0, 2.0], one_block(np.array([[1.0, 2], [2, 1]]))),
            "covariance of the estimates 0, 1 is not positive definite",
        ),
        (
            lambda: combine_dependent([1.0, 2], one_block(np.array([[1, np.nan], [np.nan, 1]]))),
            "covariance among the estimates 0, 1 is not finite",
        ),
        (lambda: one_block(np.array([[1.0, 0.5], [0.4, 1]])), "block 0 is not symmetric"),
        (lambda: Blocks([np.array([0])], [np.eye(2)]), r"write one of shape \(1, 1\)"),
        (lambda: Blocks([np.array([1])], [np.eye(1)]), "each of 0 ... k - 1 once"),
        (lambda: Blocks([np.array([0])], []), "1 sets of members and 0 matrices"),
        (lambda: Blocks.compound_symmetric([1.0, 1.0], [0], 0.1), r"\(2,\), clusters \(1,\)"),
        (lambda: Blocks.compound_symmetric([1.0] * 3, [0] * 3, -0.6), "between -0.5 and 1"),
        (lambda: LowRank([1.0], [[1.0], [2.0]]), r"factors must have shape \(1, q\)"),
        (lambda: Diagonal([[1.0]]), r"variances must have shape \(k,\)"),
        (lambda: LowRank.from_draws([[1.0, 2.0]], [1.0, 1.0]), "at least 2 draws; found 1"),
        (lambda: LowRank.from_draws(np.ones((3, 2)), np.ones(3)), r"found \(3, 2\) and \(3,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_low_rank_of_many_sequences_makes_no_dense_matrix():
    rng = np.random.default_rng(0)
    k = 100_000  # a dense V would take 80 GB
    covariance = LowRank(np.full(k, 0.1), 0.1 * rng.normal(size=(k, 3)))
    result = combine_dependent(rng.normal(size=k), covariance)
    assert result.tau2 == pytest.approx(0.9, rel=0.05)
    assert working_weights(rng.normal(size=k), covariance, "DL").k == k
