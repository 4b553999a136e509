import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.stats import chi2, norm
from scipy.stats import t as student

from deepmr.mr.diagnostics.leave_one_out import leave_one_out, leave_one_position_out
from deepmr.mr.diagnostics.outliers import outliers
from deepmr.mr.diagnostics.power import ivw_power, smallest_detectable_effect
from deepmr.mr.diagnostics.rucker import MODELS, rucker
from deepmr.mr.diagnostics.steiger import direction_share, steiger, steiger_filter
from deepmr.mr.diagnostics.strength import i2, i2_gx, i2_gx_weighted, mean_f
from deepmr.mr.diagnostics.weighted_line import weighted_line
from deepmr.mr.estimator import Group

CASES = [
    json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
]


def having(key):
    cases = [case for case in CASES if key in case["results"].get("TwoSampleMR", {})]
    assert cases
    return pytest.mark.parametrize("case", cases, ids=[case["case"] for case in cases])


def named(name):
    return next(case for case in CASES if case["case"] == name)


def group_of(case):
    inputs = case["inputs"]
    return Group(*(np.array(inputs[name])[None] for name in ("bx", "bxse", "by", "byse")))


def simulated(count=5, n=12, seed=0, pleiotropy=0.05, intercept=0.0):
    rng = np.random.default_rng(seed)
    bx = rng.normal(size=(count, n))
    se_x, se_y = rng.uniform(0.02, 0.1, (2, count, n))
    by = 0.6 * bx + np.sign(bx) * intercept + pleiotropy * rng.normal(size=bx.shape)
    return Group(bx, se_x, by + se_y * rng.normal(size=bx.shape), se_y)


def part(group, index):
    return Group(*(np.ascontiguousarray(a[index]) for a in arrays(group)))


def arrays(group):
    return group.bx, group.se_x, group.by, group.se_y


@having("rucker")
def test_rucker_agrees_with_r(case):
    expected = case["results"]["TwoSampleMR"]["rucker"]
    result = rucker(group_of(case))
    q, df, q_p = (np.array(expected["Q"][name]) for name in ("Q", "df", "P"))
    np.testing.assert_allclose(result.q[0], q, rtol=1e-6)
    np.testing.assert_allclose(result.q_p[0], q_p, rtol=1e-6)
    np.testing.assert_allclose(result.estimate[0], expected["rucker"]["Estimate"], rtol=1e-6)
    intercept = expected["intercept"]
    np.testing.assert_allclose(result.intercept[0], intercept["Estimate"][0], rtol=1e-6)
    # With less scatter than the errors explain (Q < df) R lets it shrink every SE.
    shrunk = np.sqrt(np.minimum(q / df, 1.0))[[0, 0, 1, 1]]
    np.testing.assert_allclose(result.se[0], expected["rucker"]["SE"] / shrunk, rtol=1e-6)
    np.testing.assert_allclose(result.intercept_se[0], intercept["SE"] / shrunk[2:], rtol=1e-6)
    same = shrunk == 1.0
    p_value, intercept_p = np.array(expected["rucker"]["P"]), np.array(intercept["P"])
    np.testing.assert_allclose(result.p_value[0, same], p_value[same], rtol=1e-6, atol=1e-300)
    np.testing.assert_allclose(result.intercept_p[0, same[2:]], intercept_p[same[2:]], rtol=1e-6)


def test_no_underdispersion_in_rucker():
    result = rucker(group_of(named("calcium_fastgluc")))
    assert (result.q[0, :2] < [5, 4]).all()
    np.testing.assert_array_equal(result.se[0, [1, 3]], result.se[0, [0, 2]])
    z = result.estimate[0] / result.se[0]
    expected = [2 * norm.sf(z[0])] * 2 + [2 * student.sf(z[2], 4)] * 2
    np.testing.assert_allclose(result.p_value[0], expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("pleiotropy", "intercept", "model", "share"),
    [
        (0.0, 0.0, "ivw_fixed", 0.9),
        (0.05, 0.0, "ivw_random", 0.6),  # Q - Q' is too large under heterogeneity
        (0.0, 0.3, "egger_fixed", 0.85),
        (0.3, 2.0, "egger_random", 0.95),
    ],
)
def test_rucker_chooses_the_model_that_made_the_data(pleiotropy, intercept, model, share):
    result = rucker(simulated(200, 60, 3, pleiotropy, intercept))
    assert (result.model == model).mean() > share
    chosen = MODELS.index(model)
    rows = result.model == model
    np.testing.assert_array_equal(result.chosen_estimate[rows], result.estimate[rows, chosen])
    np.testing.assert_array_equal(result.chosen_se[rows], result.se[rows, chosen])


def test_rucker_keeps_the_simplest_model_at_its_level():
    assert 0.9 < (rucker(simulated(2000, 30, 4, 0.0)).model == "ivw_fixed").mean() < 0.98


def test_rucker_stays_with_ivw_while_q_is_not_significant():
    # The intercept is significant (Q - Q' = 4.27), Q (5.27 on 11) is not.
    n, rest = 12, np.tile([1.0, -1.0], 6) * np.sqrt(1 / 12)
    bx = np.ones(n) + 0.01 * np.arange(n)
    design = np.stack([np.ones(n), bx], axis=1)
    residual = rest - design @ np.linalg.lstsq(design, rest)[0]
    residual /= np.linalg.norm(residual)
    extra = np.ones(n) - bx * (bx.sum() / (bx @ bx))
    by = bx + residual + extra / np.linalg.norm(extra) * np.sqrt(4.27)
    result = rucker(Group(*(a[None] for a in (bx, 0.1 * bx, by, np.ones(n)))))
    np.testing.assert_allclose(result.q[0], [5.27, 1.0, 4.27], rtol=1e-9)
    assert result.q_p[0, 2] < 0.05 < result.q_p[0, 0]
    assert result.model[0] == "ivw_fixed"


@having("steiger_r_given")
def test_steiger_agrees_with_r(case):
    inputs, expected = case["inputs"], case["results"]["TwoSampleMR"]["steiger_r_given"]
    effects = [inputs[name] for name in ("bx", "bxse", "by", "byse")]
    result = steiger(*effects, expected["nx"], expected["ny"])
    ours = (result.r2_x, result.r2_y, result.p_value, result.vz, result.vz0, result.vz1)
    names = ("r2_exp", "r2_out", "steiger_test", "vz", "vz0", "vz1")
    np.testing.assert_allclose(
        np.concatenate([*ours, result.sensitivity_ratio]),
        [expected[name] for name in (*names, "sensitivity_ratio")],
        rtol=1e-6,
    )
    assert result.forward[0] == expected["correct_causal_direction"]


@having("steiger_filtering")
def test_steiger_filter_agrees_with_r(case):
    inputs, results = case["inputs"], case["results"]["TwoSampleMR"]
    sizes = results["steiger_r_given"]["nx"], results["steiger_r_given"]["ny"]
    result = steiger_filter(*(inputs[name] for name in ("bx", "bxse", "by", "byse")), *sizes)
    expected = results["steiger_filtering"]
    np.testing.assert_array_equal(result.forward[0], expected["steiger_dir"])
    np.testing.assert_allclose(result.p_value[0], expected["steiger_pval"], rtol=1e-5)


def test_steiger_volumes_are_those_under_the_surfaces():
    n = 1000.0
    a, b = 0.5, 0.2
    z = [np.sqrt(r * r * (n - 2) / (1 - r * r)) for r in (a, b)]
    result = steiger([z[0]], [1.0], [z[1]], [1.0], n, n)
    wrong, _ = dblquad(lambda y, x: b / y - a / x, a, 1, b, lambda x: b * x / a)
    whole, _ = dblquad(lambda y, x: b / y - a / x, a, 1, b, 1)
    np.testing.assert_allclose([result.vz0[0], result.vz[0]], [wrong, whole], rtol=1e-9)
    swapped = steiger([z[1]], [1.0], [z[0]], [1.0], n, n)
    assert result.forward[0]
    assert not swapped.forward[0]
    np.testing.assert_allclose(swapped.p_value, result.p_value, rtol=1e-12)
    np.testing.assert_allclose(swapped.sensitivity_ratio, result.sensitivity_ratio, rtol=1e-12)


def test_steiger_has_no_answer_where_it_is_not_defined():
    one = np.ones((6, 3))
    bx = one.copy()
    bx[0, 0] = np.nan
    se_x = 0.5 * one
    se_x[1, 1] = 0.0
    n_x = 500.0 * one
    n_x[2] = 3
    se_x[3] = 1e-3  # three instruments that explain everything each
    se_x[4, 2] = -1.0
    result = steiger(bx, se_x, one, one, n_x, 400)
    np.testing.assert_array_equal(np.isnan(result.p_value), [True] * 5 + [False])
    np.testing.assert_array_equal(np.isnan(result.sensitivity_ratio), [True] * 5 + [False])
    np.testing.assert_array_equal(result.forward, [False] * 5 + [True])
    with pytest.raises(ValueError, match="se_x must have the shape of bx"):
        steiger(one, one[:, :2], one, one, 100, 100)


def test_direction_share_counts_the_stronger_side():
    z_x, z_y = np.array([[3.0, -4.0, 1.0, 0.5]]), np.array([[1.0, 5.0, -0.5, 0.5]])
    share, ratio = direction_share(Group(z_x * 0.1, 0.1 + 0 * z_x, z_y * 2, 2 + 0 * z_x))
    np.testing.assert_allclose([share[0], ratio[0]], [0.5, 26.25 / 26.5])


@having("leave_one_out_ivw")
def test_leave_one_out_agrees_with_r(case):
    expected = case["results"]["TwoSampleMR"]["leave_one_out_ivw"]
    result = leave_one_out(group_of(case))
    for ours, name in ((result.estimate, "b"), (result.se, "se"), (result.p_value, "p")):
        np.testing.assert_allclose(ours[0], expected[name], rtol=1e-6, atol=1e-300)


@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_leave_one_out_is_what_a_fit_without_it_gives(method):
    group = simulated(seed=3, intercept=0.2)
    result = leave_one_out(group, method)
    for j in range(12):
        rest = weighted_line(part(group, (slice(None), np.arange(12) != j)), method)
        scale = np.sqrt(np.maximum(rest.q / rest.df, 1))
        np.testing.assert_allclose(result.estimate[:, j], rest.slope, rtol=1e-10)
        np.testing.assert_allclose(result.se[:, j], scale / np.sqrt(rest.information), rtol=1e-10)


@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_leave_one_position_out_is_what_a_fit_without_it_gives(method):
    group = simulated(6, 12, seed=5, intercept=0.2)
    rng = np.random.default_rng(0)
    positions = np.stack([rng.permutation([7, 7, 7, -2, -2, 90, 90, 90, 4, 4, 4, 5])] * 6)
    positions[3] = rng.permutation(12) * 1000
    result = leave_one_position_out(group, positions, method)
    for i in range(6):
        places = np.unique(positions[i])
        full = weighted_line(part(group, [i]), method).slope[0]
        without = np.array([_without(group, i, positions[i] != p, method) for p in places])
        most = np.abs(without - full).argmax()
        np.testing.assert_allclose(
            [result.low[i], result.high[i], result.estimate[i]],
            [without.min(), without.max(), without[most]],
            rtol=1e-10,
        )
        assert result.position[i] == places[most]


def _without(group, i, keep, method):
    one = Group(*(np.ascontiguousarray(a[i : i + 1, keep]) for a in arrays(group)))
    return weighted_line(one, method).slope[0]


def test_position_that_cannot_be_spared_is_left_out_of_the_range():
    group = simulated(2, 6, seed=1)
    positions = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 3]])
    ivw = leave_one_position_out(group, positions)
    assert np.isnan([ivw.low[0], ivw.high[0], ivw.estimate[0]]).all()
    assert np.isfinite([ivw.low[1], ivw.high[1]]).all()
    egger = leave_one_position_out(group, positions, "egger")
    # Without position 1 two instruments are left, through which every line passes.
    expected = [_without(group, 1, positions[1] != p, "egger") for p in (2, 3)]
    np.testing.assert_allclose([egger.low[1], egger.high[1]], sorted(expected), rtol=1e-10)
    with pytest.raises(ValueError, match="positions must have the shape of bx"):
        leave_one_position_out(group, positions[:, :4])


def test_leaving_out_the_only_informative_instrument_gives_nan():
    bx = np.array([[1.0, 0.0, 0.0, 0.0]])
    group = Group(bx, 0.1 + 0 * bx, bx * 0.5 + 0.01, 0.1 + 0 * bx)
    result = leave_one_out(group)
    np.testing.assert_array_equal(np.isnan(result.estimate), [[True, False, False, False]])
    influence = leave_one_position_out(group, np.array([[1, 2, 3, 4]]))
    np.testing.assert_allclose([influence.low, influence.high], 0.51, rtol=1e-12)


def test_outliers_are_those_of_radial_mr():
    # RadialMR 1.2.3, ivw_radial(first-order weights, alpha .05), LDL-C -> CHD: Q and outliers.
    result = outliers(group_of(named("ldlc_chd")))
    np.testing.assert_allclose(result.q.sum(), 99.53042554849876, rtol=1e-10)
    flagged = np.flatnonzero(result.p_value[0] < 0.05) + 1
    np.testing.assert_array_equal(flagged, [12, 14, 20, 22, 23, 24, 26])
    np.testing.assert_array_equal(result.outlier, result.p_value < 0.05 / 28)


@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_contributions_sum_to_q(method):
    group = simulated(4, 20, 2)
    result = outliers(group, method)
    line = weighted_line(group, method)
    np.testing.assert_allclose(result.q.sum(axis=1), line.q, rtol=1e-12)
    np.testing.assert_allclose(line.leverage.sum(axis=1), 20 - line.df, rtol=1e-12)
    np.testing.assert_allclose(result.p_value, chi2.sf(result.q, 1), rtol=1e-10)


@pytest.mark.parametrize("method", ["ivw", "egger"])
def test_studentized_contributions_have_mean_one(method):
    group = simulated(4000, 6, 7, pleiotropy=0.0)
    plain = outliers(group, method).q.mean()
    studentized = outliers(group, method, studentized=True).q.mean()
    assert plain == pytest.approx((5 if method == "ivw" else 4) / 6, abs=0.03)
    # Above 1 by what the errors of bx add, which the weights leave out: .36 (se_x/se_y)^2.
    known_x = Group(group.bx, group.se_x, 0.6 * group.bx + noise(group), group.se_y)
    assert outliers(known_x, method, studentized=True).q.mean() == pytest.approx(1, abs=0.03)
    assert studentized > plain


def noise(group):
    return group.se_y * np.random.default_rng(11).normal(size=group.bx.shape)


def test_one_gross_outlier_is_flagged_and_no_other():
    group = simulated(50, 30, 9, pleiotropy=0.0)
    by = group.by.copy()
    by[:, 4] += 10 * group.se_y[:, 4]
    result = outliers(Group(group.bx, group.se_x, by, group.se_y))
    assert result.outlier[:, 4].mean() > 0.95
    assert np.delete(result.outlier, 4, axis=1).mean() < 0.01
    with pytest.raises(ValueError, match="method 'mode' is unknown"):
        outliers(group, "mode")


def test_power_is_the_share_of_significant_estimates():
    group = simulated(1, 25, 2)
    effect = smallest_detectable_effect(group, power=0.7)
    np.testing.assert_allclose(ivw_power(group, effect), 0.7, rtol=1e-12)
    np.testing.assert_allclose(ivw_power(group, -effect), 0.7, rtol=1e-12)
    rng = np.random.default_rng(0)
    bx, se_y = np.repeat(group.bx, 20_000, 0), np.repeat(group.se_y, 20_000, 0)
    by = effect[0] * bx + se_y * rng.normal(size=bx.shape)
    line = weighted_line(Group(bx, se_y, by, se_y), "ivw")
    z = line.slope * np.sqrt(line.information)
    assert (np.abs(z) > norm.ppf(0.975)).mean() == pytest.approx(0.7, abs=0.01)


def test_default_power_is_eighty_percent_at_five_percent():
    group = Group(np.full((1, 4), 0.5), np.ones((1, 4)), np.zeros((1, 4)), np.ones((1, 4)))
    np.testing.assert_allclose(smallest_detectable_effect(group), 2.801585, rtol=1e-6)
    np.testing.assert_allclose(ivw_power(group, 0.0), 0.025, rtol=1e-12)


def test_heterogeneity_costs_power():
    group = simulated(3, 40, 5, pleiotropy=0.3)
    line = weighted_line(group, "ivw")
    np.testing.assert_allclose(
        smallest_detectable_effect(group, random=True),
        smallest_detectable_effect(group) * np.sqrt(line.q / 39),
        rtol=1e-12,
    )
    assert (ivw_power(group, 0.1, random=True) < ivw_power(group, 0.1)).all()
    homogeneous = Group(group.bx, group.se_x, 0.5 * group.bx, group.se_y)
    np.testing.assert_array_equal(
        ivw_power(homogeneous, 0.1, random=True), ivw_power(homogeneous, 0.1)
    )


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, float("nan")])
def test_power_refuses_impossible_levels(value):
    group = simulated(1)
    with pytest.raises(ValueError, match="significance must lie between 0 and 1"):
        ivw_power(group, 0.1, significance=value)
    with pytest.raises(ValueError, match="power must lie between 0 and 1"):
        smallest_detectable_effect(group, power=value)


def test_i2():
    np.testing.assert_allclose(i2([20.0, 5.0], [10, 10]), [0.5, 0.0])
    assert np.isnan(i2([0.0, np.nan], 3)).all()


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_strength_agrees_with_r(case):
    group, results = group_of(case), case["results"]
    np.testing.assert_allclose(mean_f(group), results["ivw_random"]["Fstat"], rtol=1e-6)
    expected = results["I2_GX"]
    np.testing.assert_allclose(
        [i2_gx(group)[0], i2_gx_weighted(group)[0]],
        [expected["unweighted_TwoSampleMR_Isq"], expected["weighted_MendelianRandomization"]],
        rtol=1e-6,
    )


def everything(group, positions):
    """Every diagnostic as (name, array) with the sequences first."""
    yield from (
        ("mean_f", mean_f(group)),
        ("i2_gx", i2_gx(group)),
        ("i2_gx_weighted", i2_gx_weighted(group)),
        ("power", ivw_power(group, 0.2, random=True)),
        ("detectable", smallest_detectable_effect(group)),
        ("share", direction_share(group).share),
        ("ratio", direction_share(group).ratio),
    )
    framework = rucker(group)
    yield from ((name, getattr(framework, name)) for name in ("estimate", "se", "p_value", "q"))
    yield from ((name, getattr(framework, name)) for name in ("intercept", "intercept_se"))
    yield "model", framework.model
    for method in ("ivw", "egger"):
        influence = leave_one_position_out(group, positions, method)._asdict()
        yield from ((f"{method}_{name}", value) for name, value in influence.items())
    test = steiger(*arrays(group), 500_000, 400_000)._asdict()
    yield from ((f"steiger_{name}", value) for name, value in test.items())


def by_instrument(group):
    for method in ("ivw", "egger"):
        yield from leave_one_out(group, method)
        yield from outliers(group, method)
    yield from steiger_filter(*arrays(group), 500_000, 400_000)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 40), st.integers(1, 7))
def test_results_do_not_depend_on_the_batch(seed, n, count):
    group = simulated(count, n, seed)
    positions = np.random.default_rng(seed).integers(0, n, (count, n))
    together = dict(everything(group, positions))
    for i in range(count):
        alone = part(group, slice(i, i + 1))
        for name, value in everything(alone, positions[i : i + 1]):
            np.testing.assert_array_equal(value[0], together[name][i], err_msg=name)
        for one, all_of_them in zip(by_instrument(alone), by_instrument(group), strict=True):
            np.testing.assert_array_equal(one[0], all_of_them[i])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 40))
def test_order_and_sign_of_instruments_do_not_matter(seed, n):
    group = simulated(2, n, seed)
    rng = np.random.default_rng(seed)
    positions = rng.integers(0, n // 2, (2, n))
    sign, order = rng.choice([-1.0, 1.0], n), rng.permutation(n)
    changed = Group(
        *((a * s)[:, order] for a, s in zip(arrays(group), (sign, 1, sign, 1), strict=True))
    )
    after = dict(everything(changed, positions[:, order]))
    for name, value in everything(group, positions):
        if name == "model":
            np.testing.assert_array_equal(value, after[name])
        else:
            np.testing.assert_allclose(after[name], value, rtol=1e-8, atol=1e-12, err_msg=name)
    for one, other in zip(by_instrument(group), by_instrument(changed), strict=True):
        np.testing.assert_allclose(other, one[:, order], rtol=1e-7, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_units_only_scale_the_estimates(seed, unit_x, unit_y):
    group = simulated(2, 15, seed)
    positions = np.random.default_rng(seed).integers(0, 6, (2, 15))
    changed = Group(group.bx * unit_x, group.se_x * unit_x, group.by * unit_y, group.se_y * unit_y)
    slopes = {"estimate", "se", "detectable"}
    slopes |= {f"{m}_{n}" for m in ("ivw", "egger") for n in ("low", "high", "estimate")}
    after = dict(everything(changed, positions))
    for name, value in everything(group, positions):
        unit = unit_y / unit_x if name in slopes else 1.0
        unit = unit_y if name.startswith("intercept") else unit
        if name == "power":
            after[name] = ivw_power(changed, 0.2 * unit_y / unit_x, random=True)
        if name == "model":
            np.testing.assert_array_equal(value, after[name])
        else:
            np.testing.assert_allclose(
                after[name], value * unit, rtol=1e-7, atol=1e-12 * unit, err_msg=name
            )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_degenerate_sequences_give_nan_and_no_warning(n):
    rng = np.random.default_rng(0)
    bx = rng.normal(size=(4, n))
    bx[1] = 0.0
    bx[2] = 1.0
    by = 0.5 * bx
    by[3] = 0.0
    group = Group(bx, np.ones((4, n)), by, np.ones((4, n)))
    results = dict(everything(group, np.zeros((4, n), dtype=int)))
    list(by_instrument(group))
    assert np.isnan(results["detectable"][1])
    assert np.isnan(results["estimate"][1:3]).all()
    assert (results["model"][1:3] == "").all()
    assert np.isnan(results["ivw_low"]).all()
    np.testing.assert_array_equal(results["model"][[0, 3]] == "ivw_fixed", n > 2)
