import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import chi2
from scipy.stats import t as student

from deepmr.mr.multivariable.conditional_strength import conditional_f, joint_errors
from deepmr.mr.multivariable.estimation import METHODS, estimate_multivariable
from deepmr.mr.multivariable.least_absolute import least_absolute
from deepmr.mr.multivariable.least_squares import least_squares

CASES = [
    json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "reference").glob("mv_*.json"))
]
each_case = pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])


def effects(case):
    inputs, exposures = case["inputs"], range(1, case["n_exposures"] + 1)
    return (
        np.stack([inputs[f"bx{k}"] for k in exposures], axis=1),
        np.stack([inputs[f"bxse{k}"] for k in exposures], axis=1),
        np.array(inputs["by"]),
        np.array(inputs["byse"]),
    )


def simulated(count=4, n=20, k=3, seed=0):
    rng = np.random.default_rng(seed)
    bx = rng.normal(size=(count, n, k))
    se_x, se_y = rng.uniform(0.05, 0.2, (count, n, k)), rng.uniform(0.05, 0.2, (count, n))
    by = bx @ np.linspace(0.5, -0.3, k) + 0.1 * rng.normal(size=(count, n))
    return bx, se_x, by, se_y


def run(data, methods=METHODS, **options):
    return estimate_multivariable(*data, methods=methods, **{"bootstrap_iterations": 20, **options})


def correlation_matrix(n, seed=0):
    factor = np.random.default_rng(seed).normal(size=(n, n + 5))
    covariance = factor @ factor.T
    scale = np.sqrt(np.diagonal(covariance))
    return covariance / scale / scale[:, None]


def assert_regression(table, expected, suffix=""):
    names = {"estimate": "Estimate", "se": "StdError", "ci_low": "CILower", "ci_high": "CIUpper"}
    for column, name in names.items():
        key = name if name == "Estimate" else name + suffix
        np.testing.assert_allclose(table[column], expected[key], rtol=1e-6)
    q, q_p = expected["Heter.Stat"]
    np.testing.assert_allclose(table["q"], q, rtol=1e-6)
    np.testing.assert_allclose(table["q_p"], q_p, rtol=1e-6)
    assert (table["status"] == "ok").all()


@each_case
@pytest.mark.parametrize(
    ("key", "method", "options"),
    [
        ("mvivw_default", "mv_ivw", {}),
        ("mvivw_fixed", "mv_ivw_fixed", {}),
        ("mvivw_t", "mv_ivw", {"distribution": "t"}),
        ("mvivw", "mv_ivw", {"correlation": 0.25}),
        ("mvivw_fixed", "mv_ivw_fixed", {"correlation": 0.25}),
    ],
)
def test_ivw_agrees_with_r(case, key, method, options):
    results = case["results"]
    expected = results["correlated"][key] if "correlation" in options else results[key]
    table = run(effects(case), (method,), **options)
    assert_regression(table, expected)
    np.testing.assert_allclose(table["p_value"], expected["Pvalue"], rtol=1e-6, atol=1e-300)
    assert table[["intercept", "intercept_se", "intercept_p"]].isna().all(axis=None)


@each_case
def test_ivw_agrees_with_mvmr(case):
    estimate, se, _, p_value = np.array(case["results"]["MVMR_ivw"]).T
    table = run(effects(case), ("mv_ivw",), distribution="t")
    np.testing.assert_allclose(table["estimate"], estimate, rtol=1e-6)
    np.testing.assert_allclose(table["se"], se, rtol=1e-6)
    np.testing.assert_allclose(table["p_value"], p_value, rtol=1e-6)


@each_case
@pytest.mark.parametrize("orient", [1, 2, 3, "t", "correlated"])
def test_egger_agrees_with_r(case, orient):
    results, options = case["results"], {}
    if orient == "correlated":
        expected, options = results["correlated"]["mvegger_orient1"], {"correlation": 0.25}
    elif orient == "t":
        expected, options = results["mvegger_t_orient1"], {"distribution": "t"}
    else:
        expected, options = results[f"mvegger_orient{orient}"], {"orientate": orient - 1}
    table = run(effects(case), ("mv_egger",), **options)
    assert_regression(table, expected, ".Est")
    np.testing.assert_allclose(table["intercept"], expected["Intercept"], rtol=1e-6)
    np.testing.assert_allclose(table["intercept_se"], expected["StdError.Int"], rtol=1e-6)
    if orient == "t":
        # R's interval has n - K - 1 degrees of freedom, its p-value n - K; ours agree.
        df = case["n_instruments"] - 4
        z = np.array(expected["Estimate"]) / expected["StdError.Est"]
        np.testing.assert_allclose(expected["Pvalue.Est"], 2 * student.sf(abs(z), df + 1), 1e-6)
        np.testing.assert_allclose(table["p_value"], 2 * student.sf(abs(z), df), rtol=1e-6)
        z = expected["Intercept"] / expected["StdError.Int"]
        np.testing.assert_allclose(table["intercept_p"], 2 * student.sf(abs(z), df), rtol=1e-6)
    else:
        np.testing.assert_allclose(table["p_value"], expected["Pvalue.Est"], rtol=1e-6)
        np.testing.assert_allclose(table["intercept_p"], expected["Pvalue.Int"], rtol=1e-6)


@each_case
def test_median_agrees_with_r(case):
    expected = case["results"]["mvmedian"]
    table = run(effects(case), ("mv_median",), bootstrap_iterations=1000)
    np.testing.assert_allclose(table["estimate"], expected["Estimate"], rtol=1e-6)
    np.testing.assert_allclose(table["se"], expected["StdError"], rtol=0.12)
    np.testing.assert_allclose(
        run(effects(case), ("mv_median",), bootstrap_iterations=0)["se"], table["se"], rtol=0.15
    )


@each_case
@pytest.mark.parametrize(("correlation", "suffix"), [(None, "gencov0"), (0.3, "pcor0.3")])
def test_strength_and_q_a_agree_with_mvmr(case, correlation, suffix):
    results, n = case["results"], case["n_instruments"]
    table = run(effects(case), ("mv_ivw",), error_correlation=correlation)
    # MVMR divides by n where n - K + 1 belongs, and takes off one degree of freedom too many.
    np.testing.assert_allclose(
        table["conditional_f"] * (n - 2) / n, results[f"MVMR_conditionalF_{suffix}"], rtol=1e-6
    )
    expected = results[f"MVMR_QA_{suffix}"]
    np.testing.assert_allclose(table["q_a"], expected["Q"], rtol=1e-6)
    np.testing.assert_allclose(chi2.sf(table["q_a"], n - 4), expected["p"], rtol=1e-6)
    np.testing.assert_allclose(table["q_a_p"], chi2.sf(expected["Q"], n - 3), rtol=1e-6)


@each_case
def test_joint_errors_agree_with_r(case):
    bx, se_x, _, _ = effects(case)
    expected = np.array(case["results"]["mvivw_default"]["CondFstat"])
    strength = conditional_f(bx[None], *joint_errors(bx[None], se_x[None], case["nx"]))[0]
    # R minimises from here with a gradient that leaves out the denominator, and gets away from
    # the start for the second exposure only.
    np.testing.assert_allclose(strength[[0, 2]], expected[[0, 2]], rtol=1e-6)
    assert strength[1] > expected[1]


def test_joint_errors_are_those_of_effects_when_samples_are_large():
    bx, se_x, _, _ = simulated()
    se, correlation = joint_errors(bx, se_x, [1e12, 2e12, 1e12])
    np.testing.assert_allclose(se, se_x, rtol=1e-8)
    np.testing.assert_allclose(correlation[:, 0], np.tile(np.eye(3), (4, 1, 1)), atol=1e-8)


def test_conditional_f_is_one_and_q_a_chi_squared_under_their_nulls():
    rng = np.random.default_rng(0)
    count, n = 2000, 20
    truth = rng.normal(size=(count, n, 3))
    se_x, se_y = rng.uniform(0.02, 0.04, (count, n, 3)), rng.uniform(0.02, 0.04, (count, n))
    by = truth @ [0.5, 0.2, -0.3] + se_y * rng.normal(size=(count, n))
    strong = truth + se_x * rng.normal(size=truth.shape)
    table = run((strong, se_x, by, se_y), ("mv_ivw",)).iloc[::3]
    assert table["q_a"].mean() == pytest.approx(n - 3, rel=0.03)
    assert (table["q_a_p"] < 0.05).mean() == pytest.approx(0.05, abs=0.02)
    truth[..., 0] = 0.5 * truth[..., 1] - 0.3 * truth[..., 2]
    weak = truth + se_x * rng.normal(size=truth.shape)
    strength = conditional_f(weak, se_x)
    assert strength[:, 0].mean() == pytest.approx(1.0, abs=0.04)
    # What holds for one holds for all of them: the three are dependent.
    assert (strength < 3).mean() > 0.99


def test_one_exposure_is_univariable():
    bx, se_x, by, se_y = simulated(2, 15, 1)
    table = run((bx, se_x, by, se_y), ("mv_ivw_fixed",))
    weights = se_y**-2
    information = (weights * bx[..., 0] ** 2).sum(axis=1)
    slope = (weights * bx[..., 0] * by).sum(axis=1) / information
    np.testing.assert_allclose(table["estimate"], slope, rtol=1e-12)
    np.testing.assert_allclose(table["se"], information**-0.5, rtol=1e-12)
    mean_f = ((bx / se_x) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(table["conditional_f"], mean_f, rtol=1e-12)


def test_noiseless_effects_are_found_exactly():
    bx, se_x, _, se_y = simulated(3, 12, 3)
    truth = np.array([0.7, -0.4, 0.1])
    table = run((bx, se_x, bx @ truth, se_y))
    np.testing.assert_allclose(
        table["estimate"].to_numpy().reshape(-1, 3), np.tile(truth, (12, 1)), rtol=1e-10
    )
    eggers = table[table["method"] == "mv_egger"]
    np.testing.assert_allclose(eggers["intercept"], 0.0, atol=1e-12)
    shifted = np.where(bx[..., 1] < 0, -1.0, 1.0) * 0.2
    table = run((bx, se_x, bx @ truth + shifted, se_y), ("mv_egger",), orientate=1)
    np.testing.assert_allclose(table["intercept"], 0.2, rtol=1e-10)


def test_correlations_that_are_zero_change_nothing():
    data = simulated(2, 12)
    plain = run(data)
    zero = run(data, correlation=np.eye(12), error_correlation=np.eye(4))
    pd.testing.assert_frame_equal(plain, zero, rtol=1e-10)
    per_instrument = run(data, error_correlation=np.tile(np.eye(3), (2, 12, 1, 1)))
    pd.testing.assert_frame_equal(plain, per_instrument, rtol=1e-10)


def test_generalised_least_squares_with_any_correlation():
    bx, se_x, by, se_y = (a[0] for a in simulated(1, 10, 2))
    matrix = correlation_matrix(10)
    table = run((bx, se_x, by, se_y), ("mv_ivw_fixed",), correlation=matrix)
    inverse = np.linalg.inv(matrix * np.outer(se_y, se_y))
    covariance = np.linalg.inv(bx.T @ inverse @ bx)
    estimate = covariance @ bx.T @ inverse @ by
    np.testing.assert_allclose(table["estimate"], estimate, rtol=1e-9)
    np.testing.assert_allclose(table["se"], np.sqrt(np.diagonal(covariance)), rtol=1e-9)
    within = np.array([[1.0, 0.4, 0.2], [0.4, 1.0, -0.3], [0.2, -0.3, 1.0]])
    table = run((bx, se_x, by, se_y), ("mv_ivw",), correlation=matrix, error_correlation=within)
    contrast, errors = np.append(estimate, -1.0), np.column_stack([se_x, se_y])
    total = np.zeros((10, 10))
    for i in range(10):
        for j in range(10):
            for k in range(3):
                for other in range(3):
                    total[i, j] += (
                        contrast[k]
                        * contrast[other]
                        * within[k, other]
                        * matrix[i, j]
                        * errors[i, k]
                        * errors[j, other]
                    )
    residual = by - bx @ estimate
    np.testing.assert_allclose(table["q_a"], residual @ np.linalg.solve(total, residual), rtol=1e-8)


def test_conditional_f_with_correlated_instruments_is_one_without_strength():
    rng = np.random.default_rng(1)
    count, n = 300, 12
    matrix = correlation_matrix(n, 3)
    factor = np.linalg.cholesky(matrix)
    truth = rng.normal(size=(count, n, 2))
    truth[..., 0] = 0.5 * truth[..., 1]
    se = np.full((count, n, 2), 0.02)
    bx = truth + se * (factor @ rng.normal(size=(count, n, 2)))
    strength = conditional_f(bx, se, correlation=np.tile(matrix, (count, 1, 1)))[:, 0]
    assert strength.mean() == pytest.approx(1.0, abs=0.1)
    # F is chi-squared with n - 1 degrees of freedom divided by them, but not if that is ignored.
    assert strength.std() == pytest.approx((2 / 11) ** 0.5, rel=0.1)
    assert conditional_f(bx, se)[:, 0].std() > 1.2 * (2 / 11) ** 0.5


def test_q_a_knows_the_correlation_with_the_outcome():
    rng = np.random.default_rng(2)
    count, n = 1500, 25
    truth = rng.normal(size=(count, n, 2))
    within = np.array([[1.0, 0.3, 0.8], [0.3, 1.0, 0.5], [0.8, 0.5, 1.0]])
    error = 0.05 * rng.normal(size=(count, n, 3)) @ np.linalg.cholesky(within).T
    effects = truth + error[..., :2], np.full((count, n, 2), 0.05)
    outcome = truth @ [0.9, 0.2] + error[..., 2], np.full((count, n), 0.05)
    table = run((*effects, *outcome), ("mv_ivw",), error_correlation=within).iloc[::2]
    assert table["q_a"].mean() == pytest.approx(n - 2, rel=0.03)
    blind = run((*effects, *outcome), ("mv_ivw",)).iloc[::2]
    assert blind["q_a"].mean() < 0.6 * (n - 2)
    each = run(
        (*effects, *outcome), ("mv_ivw",), error_correlation=np.tile(within, (count, n, 1, 1))
    ).iloc[::2]
    np.testing.assert_allclose(each["q_a"], table["q_a"], rtol=1e-10)


@pytest.mark.parametrize("iterations", [0, 1000])
def test_standard_error_of_the_median_knows_correlations(iterations):
    bx, _, _, se = (a[0] for a in simulated(1, 40, 2, 4))
    bx, se = np.concatenate([bx, -bx]), 0.2 * np.concatenate([se, se])
    by = bx @ [0.5, -0.3]
    data = bx, np.stack([se, se], axis=1), by, se
    options = {"methods": ("mv_median",), "bootstrap_iterations": iterations}
    plain = run(data, **options)["se"]
    # Errors that x and -x share cancel: without residuals the two signs correlate by
    # (2/pi) asin(rho).
    pairs = np.eye(80) + 0.7 * (np.eye(80, k=40) + np.eye(80, k=-40))
    correlated = run(data, correlation=pairs, **options)["se"]
    expected = np.sqrt(1 - 2 / np.pi * np.arcsin(0.7))
    np.testing.assert_allclose(correlated / plain, expected, rtol=0.12)
    # Errors that y shares with x enter y - x't with 1 + .5^2 + .3^2 - 2 .5 .6 + 2 .3 .2.
    within = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.2], [0.6, 0.2, 1.0]])
    shared = run(data, error_correlation=within, **options)["se"]
    np.testing.assert_allclose(shared / plain, np.sqrt((1.34 - 0.48) / 1.34), rtol=0.12)
    each = run(data, error_correlation=np.tile(within, (80, 1, 1)), **options)["se"]
    np.testing.assert_allclose(each, shared, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_least_absolute_deviations_are_the_optimum_of_the_linear_program(seed, ties):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(4, 40)), int(rng.integers(1, 4))
    if ties:  # small integers: instruments that coincide, and residuals of exactly 0
        design = rng.integers(-3, 4, (n, k)).astype(float)
        target, weights = rng.integers(-3, 4, n).astype(float), rng.integers(1, 4, n).astype(float)
    else:
        design, target = rng.normal(size=(n, k)), rng.normal(size=n)
        weights = rng.uniform(0.1, 3, n)
    if np.linalg.matrix_rank(design) < k:
        return
    ours = least_absolute(design[None], target[None], weights[None])
    equalities = np.hstack([design, np.eye(n), -np.eye(n)])
    program = linprog(
        np.concatenate([np.zeros(k), weights, weights]),
        A_eq=equalities,
        b_eq=target,
        bounds=[(None, None)] * k + [(0, None)] * (2 * n),
        method="highs",
    )
    value = (weights * np.abs(target - design @ ours.coefficients[0])).sum()
    assert value == pytest.approx(program.fun, rel=1e-9, abs=1e-9)
    fitted = target[ours.basis[0]] - design[ours.basis[0]] @ ours.coefficients[0]
    np.testing.assert_allclose(fitted, 0.0, atol=1e-9)


def test_least_squares_keeps_its_digits_with_nearly_collinear_columns():
    rng = np.random.default_rng(0)
    base = rng.normal(size=50)
    design = np.stack([base, base + 1e-6 * rng.normal(size=50)], axis=1)
    truth = np.array([2.0, -1.0])
    fit = least_squares(design[None], (design @ truth)[None])
    np.testing.assert_allclose(fit.coefficients[0], truth, rtol=1e-8)
    exact = least_squares(np.stack([base, 3 * base], axis=1)[None], base[None])
    assert np.isnan(exact.coefficients).all()


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(5, 18), min_size=1, max_size=5),
    st.integers(1, 3),
    st.booleans(),
)
def test_results_do_not_depend_on_the_batch(seed, sizes, k, correlated):
    data = simulated(len(sizes), 18, k, seed)
    for i, size in enumerate(sizes):
        for array in data:
            array[i, size:] = np.nan
    options = {"correlation": 0.2, "error_correlation": 0.1} if correlated else {}
    together = run(data, **options)
    for i, size in enumerate(sizes):
        alone = run([a[i, :size] for a in data], **options)
        part = together[together["sequence"] == i].reset_index(drop=True)
        assert (part["n_instruments"] == size).all()
        pd.testing.assert_frame_equal(
            part.drop(columns="sequence"), alone.drop(columns="sequence"), check_exact=True
        )


def test_batch_of_hundreds_equals_one_by_one():
    data = simulated(300, 30, 3, 8)
    methods = ("mv_ivw", "mv_egger", "mv_median")
    together = run(data, methods, bootstrap_iterations=0)
    for i in (0, 151, 299):
        alone = run([a[i] for a in data], methods, bootstrap_iterations=0)
        part = together[together["sequence"] == i].reset_index(drop=True)
        pd.testing.assert_frame_equal(part.drop(columns="sequence"), alone.drop(columns="sequence"))
        np.testing.assert_array_equal(part["estimate"], alone["estimate"])
        np.testing.assert_array_equal(part["se"], alone["se"])


COMPARED = ("estimate", "se", "q", "q_a", "conditional_f", "intercept", "intercept_se")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_order_and_sign_of_instruments_do_not_matter(seed):
    bx, se_x, by, se_y = simulated(2, 16, 3, seed)
    rng = np.random.default_rng(seed)
    sign, order = rng.choice([-1.0, 1.0], 16), rng.permutation(16)
    changed = (
        (bx * sign[:, None])[:, order],
        se_x[:, order],
        (by * sign)[:, order],
        se_y[:, order],
    )
    before = run((bx, se_x, by, se_y), bootstrap_iterations=0)
    after = run(changed, bootstrap_iterations=0)
    for column in COMPARED:
        np.testing.assert_allclose(after[column], before[column], rtol=1e-7, atol=1e-11)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_only_scale_the_estimates(seed, unit_x, unit_y):
    bx, se_x, by, se_y = simulated(1, 16, 3, seed)
    before = run((bx, se_x, by, se_y))
    unit = np.array([unit_x, 1.0, 2.0])
    after = run((bx * unit, se_x * unit, by * unit_y, se_y * unit_y))
    scale = np.tile(unit_y / unit, len(METHODS))
    for column in ("estimate", "se", "ci_low", "ci_high"):
        np.testing.assert_allclose(
            after[column], before[column] * scale, rtol=1e-6, atol=1e-9 * scale.max()
        )
    for column in ("q", "q_a", "p_value"):
        np.testing.assert_allclose(after[column], before[column], rtol=1e-6, atol=1e-12)
    # Residuals of an exposure on the others, unweighted, do not depend on the units either.
    np.testing.assert_allclose(after["conditional_f"], before["conditional_f"], rtol=1e-6)


def test_p_value_and_interval_agree():
    for distribution in ("normal", "t"):
        table = run(simulated(40, 8, 2, 5), distribution=distribution)
        excludes = (table["ci_low"] > 0) | (table["ci_high"] < 0)
        assert 0.1 < excludes.mean() < 0.999
        np.testing.assert_array_equal(excludes, table["p_value"] < 0.05)


def test_seed_decides_the_bootstrap():
    data = simulated(1, 20)
    first, again, other = (run(data, ("mv_median",), seed=seed)["se"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@pytest.mark.filterwarnings("error")
def test_bad_sequences_get_a_status_and_leave_the_others_alone():
    bx, se_x, by, se_y = simulated(8, 12, 3, 6)
    good = run([a[0] for a in (bx, se_x, by, se_y)])
    by[1, 3:] = np.nan
    bx[2, :, 2] = 2 * bx[2, :, 0] - bx[2, :, 1]
    se_x[3, 4, 1] = -0.1
    se_y[4] = 0.0
    bx[5, :, 1] = 0.0
    bx[6, 4:, :] = np.inf  # four instruments: enough for all but Egger
    bx[7] *= 1e200
    table = run((bx, se_x, by, se_y))
    pd.testing.assert_frame_equal(
        table[table["sequence"] == 0].reset_index(drop=True), good, check_exact=True
    )
    expected = {
        1: "too_few_instruments",
        2: "collinear_exposures",
        3: "negative_se",
        4: "no_variation",
        5: "collinear_exposures",
        7: "no_variation",
    }
    for sequence, status in expected.items():
        rows = table[table["sequence"] == sequence]
        assert (rows["status"] == status).all()
        assert rows[["estimate", "se", "p_value", "q", "q_a"]].isna().all(axis=None)
    six = table[table["sequence"] == 6].set_index("method")
    assert (six.loc["mv_egger", "status"] == "too_few_instruments").all()
    assert (six.loc["mv_ivw", "status"] == "ok").all()
    assert (six["n_instruments"] == 4).all()
    assert six["conditional_f"].notna().all()


def test_bad_correlation_of_one_sequence_is_its_own():
    data = simulated(3, 10, 2)
    matrices = np.tile(np.eye(10), (3, 1, 1))
    matrices[0, 2, 3] = 0.5
    matrices[1] = 1.0
    table = run(data, ("mv_ivw",), correlation=matrices).iloc[::2]
    assert table["status"].tolist() == [
        "correlation_not_symmetric",
        "correlation_not_positive_definite",
        "ok",
    ]


def test_correlation_of_padded_instruments_may_be_missing():
    data = simulated(1, 12, 2)
    matrix = correlation_matrix(12)
    for array in data:
        array[0, [3, 7]] = np.nan
    keep = np.delete(np.arange(12), [3, 7])
    expected = run([a[:, keep] for a in data], correlation=matrix[np.ix_(keep, keep)])
    matrix[[3, 7]] = np.nan
    matrix[:, [3, 7]] = np.nan
    pd.testing.assert_frame_equal(run(data, correlation=matrix), expected, check_exact=True)
    each = np.tile(np.eye(2), (1, 12, 1, 1))
    each[0, [3, 7]] = np.nan
    assert (run(data, ("mv_ivw",), error_correlation=each)["status"] == "ok").all()


def test_table_names_its_rows():
    table = run(simulated(2, 10, 2), ("mv_egger", "mv_ivw"), exposures=["GATA1", "TAL1"])
    assert table["sequence"].tolist() == [0] * 4 + [1] * 4
    assert table["method"].tolist() == (["mv_egger"] * 2 + ["mv_ivw"] * 2) * 2
    assert table["exposure"].tolist() == ["GATA1", "TAL1"] * 4
    first = run(simulated(2, 10, 2), ("mv_egger",), exposures=["a", "b"], orientate="b")
    pd.testing.assert_frame_equal(
        first, run(simulated(2, 10, 2), ("mv_egger",), exposures=["a", "b"], orientate=1)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("mv_ivw", "ivw")}, "unknown method 'ivw'"),
        ({"methods": ()}, "unknown method"),
        ({"methods": "mv_ivw"}, "must be a sequence"),
        ({"bx": np.ones(8)}, "bx must be"),
        ({"bx": np.ones((3, 8))}, "too many exposures: 8"),
        ({"bx": np.ones((8, 0))}, "holds no exposure"),
        ({"se_x": np.ones((8, 3))}, r"se_x must have shape \(8, 2\)"),
        ({"by": np.ones(7)}, r"by must have shape \(8,\)"),
        ({"se_y": np.ones((8, 1))}, "se_y must have shape"),
        ({"correlation": np.ones((8, 7))}, "correlation must be a number or"),
        ({"correlation": np.triu(np.ones((8, 8)))}, "correlation is not symmetric"),
        ({"correlation": 1.0}, "correlation is not positive definite"),
        ({"correlation": -0.5}, "correlation is not positive definite"),
        ({"correlation": 2 * np.eye(8)}, "correlation is not positive definite"),
        ({"error_correlation": np.eye(5)}, "error_correlation must be a number"),
        ({"error_correlation": np.array([[1, 0.5], [0.2, 1]])}, "error_correlation is not symm"),
        ({"error_correlation": 1.5}, "error_correlation is not positive definite"),
        ({"error_correlation": np.full((8, 2, 2), 1.5)}, "for every instrument"),
        (
            {"error_correlation": np.tile(np.eye(2), (8, 1, 1)), "correlation": 0.1},
            "must be one matrix where correlation is given",
        ),
        ({"exposures": ["a"]}, "2 different names"),
        ({"exposures": ["a", "a"]}, "2 different names"),
        ({"orientate": 2}, "orientate must be 0 to 1"),
        ({"orientate": "c"}, "orientate 'c' is no exposure"),
        ({"distribution": "cauchy"}, "distribution 'cauchy' is unknown"),
        ({"bootstrap_iterations": 1}, "bootstrap_iterations must be 0 or at least 2"),
        ({"robust": True}, "unknown option robust"),
    ],
)
def test_refuses_what_it_cannot_use(changes, message):
    rng = np.random.default_rng(0)
    arguments = {
        "bx": rng.normal(size=(8, 2)),
        "se_x": np.ones((8, 2)),
        "by": rng.normal(size=8),
        "se_y": np.ones(8),
    } | changes
    if "bx" in changes and "se_x" not in changes:
        arguments["se_x"] = np.ones(changes["bx"].shape)
        arguments["by"] = arguments["se_y"] = np.ones(changes["bx"].shape[:-1])
    with pytest.raises(ValueError, match=message):
        estimate_multivariable(**arguments)
