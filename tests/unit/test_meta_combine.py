import numpy as np
import pytest
from scipy.stats import norm, t
from statsmodels.stats.meta_analysis import combine_effects

from deepmr import meta
from deepmr.meta.combine import METHODS, TESTS, pool, usable
from deepmr.meta.heterogeneity import estimate_tau2, log_likelihood, score
from deepmr.meta.intervals import PREDICTIONS


def example(k=30, seed=5):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.01, 0.2, k)
    return rng.normal(0.4, np.sqrt(v + 0.05)), v


@pytest.mark.parametrize(("ours", "theirs", "rtol"), [("DL", "chi2", 1e-12), ("PM", "pm", 1e-6)])
def test_agrees_with_statsmodels(ours, theirs, rtol):
    y, v = example()
    # Its Paule and Mandel stops at a tolerance of 1e-5; where rounding lets Q fall below k - 1
    # before a smaller one is met, it returns 0.
    expected = combine_effects(y, v, method_re=theirs)
    plain, knapp = (meta.random_effects(y, v, ours, test) for test in ("z", "knha"))
    assert plain.tau2 == pytest.approx(expected.tau2, rel=rtol)
    assert plain.estimate == pytest.approx(expected.mean_effect_re, rel=rtol)
    assert plain.se == pytest.approx(expected.sd_eff_w_re, rel=rtol)
    assert knapp.se == pytest.approx(expected.sd_eff_w_re_hksj, rel=rtol)


def test_equal_variances_have_closed_forms():
    """With one v all estimators but HS, HSk, SJ, ML and PMM are the variance of y less v."""
    rng = np.random.default_rng(1)
    y, v = rng.normal(size=15), np.full(15, 0.2)
    scatter = y.var(ddof=1)
    for method in ("REML", "DL", "PM", "EB", "HE"):
        found = meta.random_effects(y, v, method, "knha")
        assert found.tau2 == pytest.approx(scatter - 0.2, rel=1e-12)
        assert found.estimate == pytest.approx(y.mean(), rel=1e-12)
        assert found.se == pytest.approx(np.sqrt(scatter / 15), rel=1e-12)
    assert meta.random_effects(y, v, "ML").tau2 == pytest.approx(y.var() - 0.2, rel=1e-12)


def test_the_tests_differ_in_standard_error_and_distribution():
    y, v = example(6)
    # Estimates that agree better than their standard errors let Hartung and Knapp's collapse.
    y = 1 + (y - y.mean()) / 20
    z, student, knapp, floored = (meta.random_effects(y, v, "DL", test) for test in TESTS)
    assert z.tau2 == 0
    assert knapp.se < z.se / 5
    assert z.se == student.se == floored.se
    assert (z.df, student.df, knapp.df, floored.df) == (np.inf, 5, 5, 5)
    assert z.ci_high - z.estimate == pytest.approx(norm.ppf(0.975) * z.se)
    assert student.ci_high - student.estimate == pytest.approx(t.ppf(0.975, 5) * z.se)
    assert floored.p_value == pytest.approx(2 * t.sf(abs(z.estimate) / z.se, 5))
    # Where they scatter more, the floor does nothing.
    y, v = example(6, 2)
    y = y * 3
    knapp, floored = (meta.random_effects(y, v, "FE", test) for test in ("knha", "adhoc"))
    assert knapp.se == floored.se > meta.random_effects(y, v, "FE").se


def test_prediction_intervals_by_convention():
    y, v = example(8)
    df = {"metafor": np.inf, "hts": 6, "t_k-1": 7, "normal": np.inf}
    for prediction in PREDICTIONS:
        found = meta.random_effects(y, v, prediction=prediction)
        half = t.ppf(0.975, df[prediction]) * np.sqrt(found.tau2 + found.se**2)
        assert found.pi_low == pytest.approx(found.estimate - half)
        assert found.pi_high == pytest.approx(found.estimate + half)
    knapp = meta.random_effects(y, v, test="knha")
    half = t.ppf(0.975, 7) * np.sqrt(knapp.tau2 + knapp.se**2)
    assert knapp.pi_high == pytest.approx(knapp.estimate + half)


@pytest.mark.parametrize("method", METHODS)
def test_few_sequences_have_a_status_and_a_reason(method):
    none = meta.random_effects([], [], method)
    assert (none.status, none.k, none.reason) == ("no_sequences", 0, "no sequence to combine")
    assert np.isnan([none.estimate, none.se, none.tau2]).all()
    one = meta.random_effects([2.0], [0.25], method, "knha")
    assert (one.status, one.estimate, one.se, one.k) == ("single_sequence", 2.0, 0.5, 1)
    assert one.ci_low == pytest.approx(2 - 1.959964 * 0.5)
    assert one.p_value == pytest.approx(2 * norm.sf(4))
    assert one.reason == "a single sequence tells nothing of the scatter between sequences"
    assert np.isnan([one.tau2, one.pi_low, one.q]).all()
    for test in TESTS:
        two = meta.random_effects([1.0, 2.0], [0.1, 0.2], method, test, "hts")
        assert two.status == "few_sequences"
        assert "two sequences hardly tell" in two.reason
        assert np.isfinite([two.estimate, two.se, two.ci_low, two.tau2, two.q_p]).all()
        assert two.df == (np.inf if test == "z" else 1)
        assert np.isnan(two.pi_low)
        assert ("needs 3 sequences" in two.reason) == (method != "FE")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("estimate", "variance", "cause"),
    [
        (np.nan, 1.0, "estimate is missing or infinite"),
        (np.inf, 1.0, "estimate is missing or infinite"),
        (np.nan, np.nan, "estimate is missing or infinite"),
        (0.3, 0.0, "standard error is 0, missing or infinite"),
        (0.3, -0.1, "standard error is 0, missing or infinite"),
        (0.3, np.nan, "standard error is 0, missing or infinite"),
        (0.3, np.inf, "standard error is 0, missing or infinite"),
        (0.3, 1e-18, "standard error is mere rounding (an exact fit)"),
    ],
)
def test_what_cannot_be_combined_is_left_out(method, estimate, variance, cause):
    y, v = example()
    bad_y, bad_v = np.append(y, estimate), np.append(v, variance)
    result = meta.random_effects(bad_y, bad_v, method)
    expected = meta.random_effects(y, v, method)
    assert (result.n_dropped, result.k, result.status) == (1, 30, "ok")
    assert result.reason == f"1 of 31 sequences left out: {cause}"
    assert (result.estimate, result.se, result.tau2_high) == pytest.approx(
        (expected.estimate, expected.se, expected.tau2_high), rel=1e-13, nan_ok=True
    )


def test_all_reasons_are_said():
    result = meta.random_effects([np.nan, 1, 2, 3], [1, 0, 1, np.inf])
    assert (result.status, result.n_dropped) == ("single_sequence", 3)
    assert result.reason == (
        "3 of 4 sequences left out: estimate is missing or infinite, or standard error is 0, "
        "missing or infinite; a single sequence tells nothing of the scatter between sequences"
    )
    none = meta.random_effects([1.0, 2.0], [0.0, 0.0])
    assert (none.status, none.n_dropped) == ("no_sequences", 2)


def test_a_sequence_that_is_all_noise_does_not_drive_out_the_others():
    y, v = example()
    noise = meta.random_effects(np.append(y, 1e9), np.append(v, 1e20))
    assert noise.n_dropped == 0
    assert noise.estimate == pytest.approx(meta.random_effects(y, v).estimate, rel=1e-6)
    # Nor does one of two.
    keep, reason = usable(np.array([[1.0, 1e9]]), np.array([[0.1, 1e20]]))
    assert keep.all()
    assert reason == ""


def test_sequences_that_agree_exactly():
    for test in TESTS:
        result = meta.random_effects([2.0, 2.0, 2.0], [1.0, 2.0, 0.5], test=test)
        assert (result.estimate, result.tau2, result.q, result.i2) == (2.0, 0.0, 0.0, 0.0)
        assert result.status == "ok"
        if test == "knha":
            assert result.se == 0
            assert result.reason == "the standard error is 0: all sequences agree exactly"
            assert result.p_value == 0
        else:
            assert result.se == pytest.approx(np.sqrt(1 / 3.5))
            assert result.reason == ""
    equal = meta.random_effects([2.0, 2.0, 2.0], [1.0, 2.0, 0.5], "FE")
    assert (equal.i2, equal.h2) == (0.0, 0.0)


def test_variances_of_very_different_size():
    y = np.array([0.0, 1e-6, 5.0, -4.0])
    result = meta.random_effects(y, np.array([1e-12, 1e-12, 1.0, 1.0]))
    assert (result.k, result.n_dropped) == (4, 0)
    assert np.isfinite(result.estimate)
    far = meta.random_effects(np.array([0.0, 1e8]), np.array([1e-8, 1e-8]))
    assert far.tau2 == pytest.approx(5e15, rel=1e-6)


@pytest.mark.parametrize("restricted", [True, False])
def test_the_highest_of_several_maxima_is_taken(restricted):
    """Two precise sequences that agree and two others that do not: all agree, or none."""
    method = "REML" if restricted else "ML"
    v = np.array([[4e-4, 6e-4, 0.05, 0.06]])
    grid = np.concatenate([[0], np.geomspace(1e-7, 100, 4000)])
    several = {"high": 0, "low": 0}
    for distance in np.arange(0.2, 2.0, 0.01):
        y = np.array([[0.0, 0.01, distance, -0.9 * distance]])
        rows = np.repeat(y, grid.size, 0), np.repeat(v, grid.size, 0)
        rising = score(*rows, grid, restricted) > 0
        n_maxima = (rising[:-1] & ~rising[1:]).sum() + (not rising[0])
        likelihood = log_likelihood(*rows, grid, restricted)
        tau2 = estimate_tau2(y, v, method)
        assert log_likelihood(y, v, tau2, restricted)[0] >= likelihood.max() - 1e-12
        if n_maxima > 1:
            several["high" if tau2[0] > 0.01 else "low"] += 1
    # Both the lower and the upper of two maxima were the right one somewhere.
    assert min(several.values()) > 3, several


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("k", [2, 3, 5, 9])
def test_no_maximum_is_missed_among_very_unequal_variances(k, method):
    rng = np.random.default_rng(k)
    v = 10 ** rng.uniform(-4, 1, (400, k))
    y = np.sqrt(v) * rng.normal(size=v.shape) * rng.choice([0.5, 1, 3], (400, k))
    restricted = method == "REML"
    grid = np.concatenate([[0], np.geomspace(1e-7, 1e3, 200)])
    likelihood = [log_likelihood(y, v, np.full(400, x), restricted) for x in grid]
    rising = np.array([score(y, v, np.full(400, x), restricted) > 0 for x in grid])
    assert k == 2 or ((rising[:-1] & ~rising[1:]).sum(0) + ~rising[0] > 1).sum() > 10
    found = log_likelihood(y, v, estimate_tau2(y, v, method), restricted)
    assert (found >= np.max(likelihood, axis=0) - 1e-12).all()


@pytest.mark.parametrize(("estimate", "variance"), [(1e80, 1.0), (0.3, 1e-200), (0.3, 1e200)])
def test_numbers_whose_squares_overflow_are_left_out(estimate, variance):
    y, v = example()
    result = meta.random_effects(np.append(y, estimate), np.append(v, variance))
    assert (result.n_dropped, result.estimate) == (1, meta.random_effects(y, v).estimate)
    assert meta.random_effects(np.full(3, estimate), np.full(3, variance)).n_dropped == 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_equation_without_a_solution_is_an_error():
    with pytest.raises(RuntimeError, match="1 of 1 rows; are estimates and variances finite and"):
        estimate_tau2(np.array([[1e160, -1e160, 0.0]]), np.ones((1, 3)), "PM")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: meta.random_effects([1.0, 2.0], [1.0]), r"found \(2,\) and \(1,\)"),
        (lambda: meta.random_effects([[1.0]], [[1.0]]), r"must both have shape \(k,\)"),
        (
            lambda: meta.random_effects([1.0, 2.0], [1.0, 1.0], "mean"),
            "'mean' is unknown; write one of REML, DL, PM",
        ),
        (lambda: meta.random_effects([], [], "mean"), "'mean' is unknown"),
        (lambda: meta.random_effects([1.0], [1.0], test="f"), "test 'f' is unknown; write one of"),
        (lambda: meta.random_effects([], [], prediction="k"), "prediction 'k' is unknown"),
        (lambda: pool(np.ones((1, 2)), np.ones((1, 2)), "mean"), "'mean' is unknown"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
