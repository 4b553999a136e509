"""Cluster-robust standard errors: metafor's numbers, the definition, and where there are none."""

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
from deepmr.meta.regression.cluster_robust import _quadrature, cluster_robust
from deepmr.meta.regression.meta_regression import meta_regression

REFERENCE = Path(__file__).parents[1] / "reference"


def simulate(seed, sizes=(7, 1, 12, 4, 9, 3), p=2, spread=1.0):
    """Clusters of very different size whose members share an error."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    k = clusters.size
    v = np.exp(spread * rng.normal(size=k)) * 0.1
    y = 0.4 + 0.3 * rng.normal(size=len(sizes))[clusters] + np.sqrt(v) * rng.normal(size=k)
    x = np.column_stack([np.ones(k), rng.normal(size=(k, p - 1))])
    return y, v, clusters, x


def by_definition(y, phi, clusters, x):
    """CR2 with its k x k matrices, and Satterthwaite's degrees of freedom."""
    k = len(y)
    w = 1 / phi
    bread = np.linalg.inv(x.T * w @ x)
    hat = np.eye(k) - x @ bread @ x.T * w
    residual = hat @ y
    meat, sides = 0.0, []
    for cluster in np.unique(clusters):
        own = clusters == cluster
        root = np.diag(np.sqrt(phi[own]))
        inside = root @ (np.diag(phi[own]) - x[own] @ bread @ x[own].T) @ root
        values, vectors = np.linalg.eigh(inside)
        inverse = np.array([v**-0.5 if v > 1e-12 * values.max() else 0.0 for v in values])
        a = root @ (vectors * inverse) @ vectors.T @ root
        score = x[own].T @ (w[own][:, None] * a) @ residual[own]
        meat = meat + np.outer(score, score)
        sides.append(hat[own].T @ a.T @ (w[own][:, None] * x[own]) @ bread)
    df = []
    for j in range(x.shape[1]):
        side = np.column_stack([one[:, j] for one in sides])
        scatter = side.T @ (phi[:, None] * side)
        df.append(np.trace(scatter) ** 2 / (scatter**2).sum())
    return bread @ meat @ bread, df


def test_konstantopoulos_districts_agree_with_metafor():
    """CR1 as `robust`, CR2 as `robust(clubSandwich = TRUE)`; 56 schools in 11 districts."""
    case = json.loads((REFERENCE / "meta_konstantopoulos2011.json").read_text())
    inputs = case["inputs"]
    for kind in ("CR1", "CR2"):
        expected = case["results"][f"robust_{kind}_REML"]
        found = cluster_robust(inputs["yi"], inputs["vi"], inputs["cluster"], kind=kind)
        ours = {
            "beta": found.coefficients[0],
            "se": found.se[0],
            "tval": found.coefficients[0] / found.se[0],
            "df": found.df[0],
            "pval": found.p_value[0],
        }
        assert set(ours) == set(expected)
        for name, theirs in expected.items():
            np.testing.assert_allclose(ours[name], theirs, rtol=1e-6, err_msg=name)
        assert (found.k, found.n_clusters, found.status) == (56, 11, "ok")


def test_synth2000_agrees_with_metafor():
    """Above k = 500 the reference's fit is PM by `uniroot`, with a tolerance of 1e-4 in tau2.

    So its tau2 is taken to be the one that gives its estimate.
    """
    case = json.loads((REFERENCE / "meta_synth2000.json").read_text())
    y, v = (np.array(case["inputs"][name]) for name in ("yi", "vi"))
    clusters = np.repeat(np.arange(200), 10)
    expected = case["results"]["robust_CR1_REML"]

    def at(tau2):
        return cluster_robust(y, v + tau2, clusters, method="FE", kind="CR1")

    theirs = brentq(
        lambda tau2: at(tau2).coefficients[0] - expected["beta"], 0.011, 0.013, xtol=1e-14
    )
    found = at(theirs)
    np.testing.assert_allclose(found.coefficients[0], expected["beta"], rtol=1e-10)
    np.testing.assert_allclose(found.se[0], expected["se"], rtol=1e-8)
    np.testing.assert_allclose(found.p_value[0], expected["pval"], rtol=1e-6)
    assert found.df[0] == expected["df"]
    own = cluster_robust(y, v, clusters)
    assert own.tau2 == pytest.approx(case["results"]["exact_Ok_REML"]["tau2"], rel=1e-8)
    exact = cluster_robust(y, v, clusters, method="PM", kind="CR1")
    assert exact.tau2 == pytest.approx(case["results"]["PM_z"]["tau2"], rel=1e-8)
    assert exact.tau2 == pytest.approx(theirs, abs=1e-4)
    assert exact.se[0] == pytest.approx(expected["se"], rel=1e-4)
    # The file has no CR2 of this size; the definition with its matrices has.
    assert case["results"]["robust_CR2_REML"] == {"error": "skipped k>500"}
    cov, df = by_definition(y, v + own.tau2, clusters, np.ones((2000, 1)))
    np.testing.assert_allclose([own.cov[0, 0], own.df[0]], [cov[0, 0], df[0]], rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 3), st.floats(0.0, 1.5), st.sampled_from(["REML", "FE"])
)
def test_cr2_is_its_definition(seed, p, spread, method):
    y, v, clusters, x = simulate(seed, p=p, spread=spread)
    found = cluster_robust(y, v, clusters, x, method)
    cov, df = by_definition(y, v + found.tau2, clusters, x)
    np.testing.assert_allclose(found.cov, cov, rtol=1e-5, atol=1e-9 * np.abs(cov).max())
    np.testing.assert_allclose(found.df, df, rtol=1e-5)
    working = meta_regression(y, v, x, method=method)
    np.testing.assert_allclose(found.coefficients, working.coefficients, rtol=1e-9)
    assert found.tau2 == pytest.approx(float(working.tau2))


def test_a_cluster_that_alone_determines_a_coefficient():
    """Its residuals are 0 and so is its share; the pseudo-inverse leaves it out."""
    y, v, clusters, _ = simulate(3)
    x = np.column_stack([np.ones(len(y)), clusters == 2])
    for method in ("FE", "REML"):
        found = cluster_robust(y, v, clusters, x, method)
        cov, df = by_definition(y, v + found.tau2, clusters, x)
        np.testing.assert_allclose(found.cov, cov, rtol=1e-6)
        np.testing.assert_allclose(found.df, df, rtol=1e-6)


@pytest.mark.parametrize("method", ["REML", "FE", "DL"])
def test_clusters_of_one_sequence_are_hc2(method):
    """A^2 (phi - x M x') = phi for a scalar, so A = 1/sqrt(1 - h): HC2 of a weighted regression."""
    y, v, _, x = simulate(4)
    found = cluster_robust(y, v, np.arange(len(y)), x, method)
    theirs = WLS(y, x, weights=1 / (v + found.tau2)).fit(cov_type="HC2")
    np.testing.assert_allclose(found.cov, theirs.cov_params(), rtol=1e-9)
    np.testing.assert_allclose(found.coefficients, theirs.params, rtol=1e-9)


def test_cr1_is_the_sandwich_of_statsmodels():
    y, v, clusters, x = simulate(5)
    found = cluster_robust(y, v, clusters, x, kind="CR1")
    fit = WLS(y, x, weights=1 / (v + found.tau2)).fit(
        cov_type="cluster", cov_kwds={"groups": clusters, "use_correction": False}
    )
    np.testing.assert_allclose(found.cov, fit.cov_params() * 6 / 4, rtol=1e-9)
    np.testing.assert_array_equal(found.df, 4)


def test_equal_clusters_and_variances_are_the_t_test_of_their_means():
    """k = 40 in 8 balanced clusters: CR2 is var(means)/8 with 7 degrees of freedom, exactly."""
    rng = np.random.default_rng(0)
    y, clusters = rng.normal(size=40), np.tile(np.arange(8), 5)
    found = cluster_robust(y, np.full(40, 0.3), clusters)
    means = y.reshape(5, 8).mean(axis=0)
    assert found.se[0] == pytest.approx(stats.sem(means), rel=1e-10)
    assert found.df[0] == pytest.approx(7, rel=1e-10)
    assert found.p_value[0] == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000), st.floats(-5, 5), st.floats(0.01, 100), st.sampled_from(["CR1", "CR2"])
)
def test_order_shift_and_scale(seed, shift, scale, kind):
    y, v, clusters, _ = simulate(seed)
    found = cluster_robust(y, v, clusters, kind=kind)
    order = np.random.default_rng(seed).permutation(len(y))
    names = np.array([f"chr{c}" for c in clusters], dtype=object)
    permuted = cluster_robust(y[order], v[order], names[order], kind=kind)
    moved = cluster_robust(scale * y + shift, scale**2 * v, clusters, kind=kind)
    np.testing.assert_allclose(permuted.se, found.se, rtol=1e-7)
    np.testing.assert_allclose(permuted.df, found.df, rtol=1e-7)
    np.testing.assert_allclose(moved.se, scale * found.se, rtol=1e-6)
    np.testing.assert_allclose(moved.df, found.df, rtol=1e-6)
    np.testing.assert_allclose(
        moved.coefficients, scale * found.coefficients + shift, rtol=1e-6, atol=1e-6 * scale
    )


def test_the_interval_covers_where_chromosomes_share_an_error():
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 15, 20)
    clusters = np.repeat(np.arange(20), sizes)
    held = {"CR2": 0, "independent": 0}
    replicates = 300
    for _ in range(replicates):
        v = rng.uniform(0.01, 0.1, clusters.size)
        y = 0.3 * rng.normal(size=20)[clusters] + np.sqrt(v) * rng.normal(size=clusters.size)
        robust = cluster_robust(y, v, clusters, method="DL")
        plain = random_effects(y, v, "DL", "knha")
        held["CR2"] += robust.ci_low[0] < 0 < robust.ci_high[0]
        held["independent"] += plain.ci_low < 0 < plain.ci_high
    assert held["CR2"] / replicates == pytest.approx(0.95, abs=0.03)
    assert held["independent"] / replicates < 0.75


def test_the_global_effect_as_a_result():
    y, v, clusters, x = simulate(8, sizes=(9, 8, 7, 6, 8, 9, 7))
    robust = cluster_robust(y, v, clusters)
    result, working = robust.result, random_effects(y, v)
    assert (result.estimate, result.se, result.df) == (
        robust.coefficients[0],
        robust.se[0],
        robust.df[0],
    )
    assert result.test == "CR2"
    assert result.status == "ok"
    for name in ("tau2", "tau2_low", "tau2_high", "i2", "h2", "q", "q_p", "k"):
        assert getattr(result, name) == getattr(working, name)
    half = stats.t.ppf(0.975, result.df) * np.sqrt(result.tau2 + result.se**2)
    assert result.pi_high == pytest.approx(result.estimate + half)
    assert np.isnan(cluster_robust(y, v, clusters, method="FE").result.pi_low)
    with pytest.raises(ValueError, match="has coefficients, not one global effect"):
        _ = cluster_robust(y, v, clusters, x).result


def test_a_single_sequence_says_why_the_others_are_left_out():
    found = cluster_robust([0.1, np.nan, 0.3], [0.1, 0.1, 0.0], ["a", "b", "c"])
    assert (found.status, found.n_dropped) == ("single_sequence", 2)
    assert found.reason.startswith("2 of 3 sequences left out: ")
    assert found.reason.endswith("; a single sequence tells nothing of the scatter of clusters")


@pytest.mark.parametrize(
    ("k", "clusters", "status"),
    [
        (0, 0, "no_sequences"),
        (1, 1, "single_sequence"),
        (2, 1, "single_cluster"),
        (9, 1, "single_cluster"),
        (2, 2, "few_clusters"),
        (9, 3, "few_clusters"),
        (60, 20, "ok"),
    ],
)
def test_few_sequences_and_few_clusters_have_a_status(k, clusters, status):
    rng = np.random.default_rng(1)
    y, v = rng.normal(size=k), rng.uniform(0.1, 0.2, k)
    for kind in ("CR1", "CR2"):
        found = cluster_robust(y, v, np.arange(k) % max(clusters, 1), kind=kind)
        assert (found.status, found.k, found.n_clusters) == (status, k, clusters)
        assert bool(found.reason) == (status != "ok")
        numbers = status in ("ok", "few_clusters")
        assert np.isfinite([found.se[0], found.df[0], found.p_value[0]]).all() == numbers
        result = found.result
        assert (result.status, result.k, result.reason) == (status, k, found.reason)
        assert np.isfinite([result.estimate, result.se]).all() == numbers


def test_more_coefficients_than_clusters():
    y, v, _, x = simulate(2, p=3)
    found = cluster_robust(y, v, np.arange(len(y)) % 3, x)
    assert found.status == "too_few_clusters"
    assert found.reason == "3 clusters do not determine 3 coefficients and their scatter"
    assert np.isnan(found.se).all()
    constant = cluster_robust(y, v, np.arange(len(y)), x * [1, 0, 1], names=["one", "gc", "b"])
    assert constant.status == "constant_covariate"
    assert "gc" in constant.reason


def test_covariates_told_apart_only_by_sequences_that_count_for_nothing():
    x = np.column_stack([np.ones(8), np.repeat([0.3, 0.9], [5, 3])])
    v = np.repeat([1.0, 1e24], [5, 3])
    found = cluster_robust(np.arange(8.0), v, np.arange(8) % 4, x)
    assert found.status == "collinear_covariates"
    assert found.reason.startswith("only sequences whose variances are so large")
    assert np.isnan([*found.se, found.tau2]).all()


def test_clusters_that_all_determine_a_coefficient_leave_no_degrees_of_freedom():
    clusters = np.repeat(np.arange(3), 4)
    x = (clusters[:, None] == np.arange(2)) * 1.0
    y, v = np.random.default_rng(0).normal(size=12), np.ones(12)
    found = cluster_robust(y, v, clusters, x, "FE")
    assert found.status == "few_clusters"
    assert "leave 0.0 degrees of freedom" in found.reason
    np.testing.assert_array_equal(found.df, 0)


def test_estimates_that_agree_exactly_have_no_standard_error():
    found = cluster_robust(np.zeros(12), np.ones(12), np.arange(12))
    assert found.se[0] == 0
    assert found.reason == "a standard error is 0: there are no residuals"


def test_one_sequence_with_nearly_all_the_weight():
    y, v, clusters, _ = simulate(1)
    v = v.copy()
    v[10] = 1e-9
    found = cluster_robust(y, v, clusters, method="FE")
    assert found.status == "few_clusters"
    assert 0 < found.df[0] < 4
    assert np.isfinite([found.se[0], found.p_value[0]]).all()


def test_sequences_without_a_cluster_or_a_variance_are_left_out():
    y, v, clusters, _ = simulate(6)
    clean = cluster_robust(y[3:], v[3:], clusters[3:])
    labels = clusters.astype(object)
    labels[0], labels[1] = None, np.nan
    v = v.copy()
    v[2] = 0
    found = cluster_robust(y, v, labels)
    assert (found.k, found.n_dropped) == (33, 3)
    assert "2 of 36 sequences left out: the cluster is unknown" in found.reason
    assert found.se[0] == clean.se[0]
    assert found.df[0] == clean.df[0]


def test_many_sequences_in_few_chromosomes():
    rng = np.random.default_rng(0)
    k = 20_000
    v = rng.uniform(0.01, 1, k)
    y = 0.3 + np.sqrt(v) * rng.normal(size=k)
    found = cluster_robust(y, v, rng.integers(0, 24, k))
    # With so small a share of each cluster CR2 is CR1 and its 23 degrees of freedom are all there.
    plain = cluster_robust(y, v, rng.integers(0, 24, k), kind="CR1")
    assert found.df[0] == pytest.approx(23, rel=0.01)
    assert found.se[0] == pytest.approx(plain.se[0], rel=0.6)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6, 1e12, 1e20])
def test_the_quadrature_is_the_inverse_square_root(condition):
    nodes, weights = _quadrature(np.array([3.0]), np.array([3.0 * condition]))
    at = 3.0 * np.geomspace(1, condition, 40)
    value = (weights / (at + nodes**2)).sum(axis=0)
    np.testing.assert_allclose(value, at**-0.5, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, v, c, x: cluster_robust(y, v, c, kind="CR3"), "kind 'CR3' is unknown; write"),
        (lambda y, v, c, x: cluster_robust(y, v, c, method="X"), "method 'X' is unknown"),
        (lambda y, v, c, x: cluster_robust(y, v, c[:4]), r"found \(36,\) and \(4,\)"),
        (lambda y, v, c, x: cluster_robust(y, v[:4], c), r"found \(36,\) and \(4,\)"),
        (lambda y, v, c, x: cluster_robust(y, v, c, prediction="x"), "'x' is unknown"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*simulate(0))
