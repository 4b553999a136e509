import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from deepmr import mr
from deepmr.mr.drawwise import rubin, scatter_without_draw_noise
from deepmr.mr.estimator import Group, drawn
from deepmr.mr.quantiles import median_and_se, weighted_quantiles
from deepmr.mr.registry import ESTIMATORS, estimators

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
METHODS = tuple(ESTIMATORS)
SIMPLE = ("ivw", "ivw_fixed", "egger", "weighted_median")
QUICK = tuple(m for m in METHODS if m not in ("bayesian_mode", "egger_simex", "mr_presso"))
REGRESSIONS = ("ivw", "ivw_fixed", "ivw_delta", "egger", "divw", "profile", "max_likelihood")


def simulated(n_sequences=4, n=15, n_draws=20, seed=0):
    rng = np.random.default_rng(seed)
    bx = rng.normal(size=(n_sequences, n))
    by = 0.6 * bx + 0.1 * rng.normal(size=bx.shape)
    shared = rng.normal(size=(n_sequences, n_draws, n))
    draws_x = bx[:, None] + 0.2 * shared
    draws_y = by[:, None] + 0.15 * shared + 0.1 * rng.normal(size=shared.shape)
    return (
        draws_x.mean(axis=1),
        draws_x.std(axis=1, ddof=1),
        draws_y.mean(axis=1),
        draws_y.std(axis=1, ddof=1),
        draws_x,
        draws_y,
    )


def mean(draws):
    return draws.mean(axis=1)


def sd(draws):
    return draws.std(axis=1, ddof=1)


def run(data, methods=METHODS, **options):
    *effects, draws_x, draws_y = data
    options = {"bootstrap_iterations": 20, "presso_iterations": 100, **options}
    return mr.estimate(*effects, methods=methods, draws_x=draws_x, draws_y=draws_y, **options)


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem[3:])
def test_agrees_with_r(path):
    case = json.loads(path.read_text())
    inputs, expected = case["inputs"], case["results"]
    table = mr.estimate(
        inputs["bx"], inputs["bxse"], inputs["by"], inputs["byse"], SIMPLE, seed=1
    ).set_index("method")
    assert (table["status"] == "ok").all()
    for method, key in (("ivw", "ivw_random"), ("ivw_fixed", "ivw_fixed")):
        row, r = table.loc[method], expected[key]
        np.testing.assert_allclose(
            [row.estimate, row.se, row.ci_low, row.ci_high, row.q, row.q_p, row.mean_f],
            [
                r["Estimate"],
                r["StdError"],
                r["CILower"],
                r["CIUpper"],
                *r["Heter.Stat"],
                r["Fstat"],
            ],
            rtol=1e-6,
            atol=1e-14,
        )
        np.testing.assert_allclose(row.p_value, r["Pvalue"], rtol=1e-6, atol=1e-15)
    row, r = table.loc["egger"], expected["egger"]
    np.testing.assert_allclose(
        [row.estimate, row.se, row.ci_low, row.ci_high, row.intercept, row.intercept_se, row.q],
        [
            *(r[name] for name in ("Estimate", "StdError.Est", "CILower.Est", "CIUpper.Est")),
            *(r["Intercept"], r["StdError.Int"], r["Heter.Stat"][0]),
        ],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        [row.p_value, row.intercept_p, row.q_p],
        [r["Pvalue.Est"], r["Pvalue.Int"], r["Heter.Stat"][1]],
        rtol=1e-6,
        atol=1e-14,
    )
    i2 = expected["I2_GX"]
    np.testing.assert_allclose(row.i2_gx_weighted, i2["weighted_MendelianRandomization"], rtol=1e-6)
    np.testing.assert_allclose(row.i2_gx, i2["unweighted_TwoSampleMR_Isq"], rtol=1e-6)
    row, r = table.loc["weighted_median"], expected["median_weighted"]
    np.testing.assert_allclose(row.estimate, r["Estimate"], rtol=1e-6)
    assert abs(row.se / r["StdError"] - 1) < 0.25  # R's is a bootstrap of 100


@pytest.mark.parametrize("path", REFERENCE, ids=lambda path: path.stem[3:])
def test_agrees_with_two_sample_mr(path):
    case = json.loads(path.read_text())
    effects = [case["inputs"][name] for name in ("bx", "bxse", "by", "byse")]
    r = case["results"]["TwoSampleMR"]
    normal, student = (
        mr.estimate(*effects, ("ivw", "ivw_fixed", "egger"), distribution=d).set_index("method")
        for d in ("normal", "t")
    )
    fixed, ivw, egger = normal.loc["ivw_fixed"], normal.loc["ivw"], student.loc["egger"]
    found = {
        "mr_ivw": [ivw.estimate, ivw.se, ivw.q, ivw.q_p],
        "mr_ivw_fe": [fixed.estimate, fixed.se, fixed.q, fixed.q_p],
        "mr_ivw_mre": [ivw.estimate, ivw.se_unfloored, ivw.q, ivw.q_p],
        "mr_egger_regression": [egger.estimate, egger.se, egger.q, egger.q_p],
    }
    for name, values in found.items():
        expected = [r[name][key] for key in ("b", "se", "Q", "Q_pval")]
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-14)
    for row, name in ((ivw, "mr_ivw"), (fixed, "mr_ivw_fe")):
        np.testing.assert_allclose(row.p_value, r[name]["pval"], rtol=1e-6, atol=1e-300)
    # TwoSampleMR takes Student's t with the floored SE; MendelianRandomization, which we follow
    # (`egger_t`), the wider of normal with the floored and t with the unfloored SE.
    df = len(effects[0]) - 2
    expected = r["mr_egger_regression"]
    np.testing.assert_allclose(
        [egger.intercept, egger.intercept_se], [expected["b_i"], expected["se_i"]], rtol=1e-6
    )
    for value, se, key in (
        (egger.estimate, egger.se, "pval"),
        (egger.intercept, egger.intercept_se, "pval_i"),
    ):
        np.testing.assert_allclose(2 * t.sf(abs(value / se), df), expected[key], rtol=1e-6)
    if egger.q > df:
        np.testing.assert_allclose(egger.p_value, expected["pval"], rtol=1e-6)
    default = case["results"]["ivw_default"]
    np.testing.assert_allclose(
        [ivw.estimate, ivw.se, ivw.ci_low, ivw.ci_high],
        [default[key] for key in ("Estimate", "StdError", "CILower", "CIUpper")],
        rtol=1e-6,
    )


def test_egger_p_does_not_underflow():
    bx = np.linspace(0.5, 3, 12)
    table = mr.estimate(bx, np.full(12, 0.01), bx, np.full(12, 0.1), ("egger",))
    z = table["estimate"][0] / table["se"][0]
    assert 20 < z < 37
    assert 0 < table["p_value"][0] == pytest.approx(2 * norm.sf(z), rel=1e-6)


def test_p_value_and_interval_agree():
    table = run(simulated(n_sequences=12, seed=5))
    assert (table["status"] == "ok").all()
    excludes = (table["ci_low"] > 0) | (table["ci_high"] < 0)
    np.testing.assert_array_equal(excludes, table["p_value"] < 0.05)
    assert table["estimate"].between(table["ci_low"], table["ci_high"]).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(3, 18), min_size=1, max_size=6))
def test_results_do_not_depend_on_the_batch(seed, sizes):
    *effects, draws_x, draws_y = simulated(len(sizes), 18, 8, seed)
    for i, size in enumerate(sizes):
        for array in effects:
            array[i, size:] = np.nan
        draws_x[i, :, size:] = draws_y[i, :, size:] = np.nan
    together = run((*effects, draws_x, draws_y), QUICK)
    for i, size in enumerate(sizes):
        one = [a[i, :size] for a in effects] + [d[i, :, :size] for d in (draws_x, draws_y)]
        alone = run(one, QUICK)
        part = together[together["sequence"] == i].reset_index(drop=True)
        pd.testing.assert_frame_equal(
            part.drop(columns="sequence"), alone.drop(columns="sequence"), check_exact=True
        )


@pytest.mark.parametrize("method", METHODS)
def test_batch_of_hundreds_equals_one_by_one(method):
    count = 120 if method in QUICK else 9
    data = simulated(count, 30, 10, seed=8)
    together = run(data, (method,))
    for i in (0, count // 2, count - 1):
        alone = run([a[i] for a in data], (method,))
        assert alone["estimate"][0] == together["estimate"][i]
        assert alone["se"][0] == together["se"][i]


@pytest.mark.parametrize("method", METHODS)
def test_memory_order_of_the_input_does_not_matter(method):
    data = simulated(3, 40, 10, seed=6)
    turned = [np.asfortranarray(a) for a in data]
    pd.testing.assert_frame_equal(run(data, (method,)), run(turned, (method,)), check_exact=True)


@pytest.mark.parametrize("method", METHODS)
def test_orientation_and_order_of_instruments_do_not_matter(method):
    data = simulated(1, seed=2)
    flip = np.where(np.arange(15) % 2, -1.0, 1.0)
    signs = (flip, 1.0, flip, 1.0, flip, flip)
    order = np.random.default_rng(1).permutation(15)
    changed = [(a * s)[..., order] for a, s in zip(data, signs, strict=True)]
    before, after = (run(d, (method,), bootstrap_iterations=2000) for d in (data, changed))
    for column in ("estimate", "se_within", "se_draws", "estimate_diagonal", "se"):
        # SIMEX adds simulated noise, another to each place.
        rtol = 0.1 if method == "egger_simex" else 1e-7
        np.testing.assert_allclose(before[column], after[column], rtol=rtol)
    np.testing.assert_allclose(before["se_diagonal"], after["se_diagonal"], rtol=0.15)


@pytest.mark.parametrize("method", ["profile", "egger_profile"])
def test_an_interval_that_holds_the_draws_is_kept(method):
    *_, draws_x, draws_y = simulated(3, 40, 25)
    reference = np.random.default_rng(1).normal(size=(2, 3, 25, 1))  # an error of all mutations
    draws_x, draws_y = draws_x + 0.4 * reference[0], draws_y + 0.4 * reference.sum(axis=0)
    effects = (f(d) for d in (draws_x, draws_y) for f in (mean, sd))
    data = (*effects, draws_x, draws_y)
    aware = run(data, (method,), draw_covariance=True, weak_f=0.0)
    blind = mr.estimate(*data[:4], (method,))
    assert set(aware["ci_kind"]) == {"wald"}
    assert aware["se_draws"].notna().all()
    np.testing.assert_allclose([d.mean() for d in aware["draws"]], aware["estimate"])
    assert (np.abs(aware["estimate"] / aware["estimate_diagonal"] - 1) > 1e-6).all()
    assert (np.abs(aware["estimate_diagonal"] - blind["estimate"]) < blind["se"]).all()


@pytest.mark.parametrize("method", METHODS)
def test_draws_are_combined_by_rubin(method):
    table = run(simulated(3), (method,))
    for row in table.itertuples():
        n_draws = len(row.draws)
        assert row.estimate == pytest.approx(row.draws.mean())
        assert row.se_draws == pytest.approx(row.draws.std(ddof=1))
        total = row.se_within**2 + (1 + 1 / n_draws) * row.se_draws**2
        assert row.se == pytest.approx(np.sqrt(total))
        assert row.se_kind == "posterior_sd"
        assert (row.draws_se > 0).all()


@pytest.mark.parametrize("method", ["egger", "ivw", "ivw_fixed"])
def test_draws_agree_with_least_squares(method):
    bx, _, _, se_y, draws_x, draws_y = (a[0] for a in simulated(1, seed=4))
    row = run(simulated(1, seed=4), (method,)).iloc[0]
    sign = np.where(bx < 0, -1.0, 1.0) if method == "egger" else np.ones_like(bx)
    for k in range(len(draws_x)):
        columns = [sign * draws_x[k]] + ([np.ones_like(bx)] if method == "egger" else [])
        design = np.stack(columns, axis=1) / se_y[:, None]
        y = sign * draws_y[k] / se_y
        solution, rss, *_ = np.linalg.lstsq(design, y)
        variance = rss[0] / (len(y) - len(columns)) * np.linalg.inv(design.T @ design)[0, 0]
        assert row.draws[k] == pytest.approx(solution[0])
        assert row.draws_se[k] == pytest.approx(np.sqrt(variance))


def test_centre_on_the_mean_effects_moves_the_draws_only():
    drawn, centred = (run(simulated(3), centre=c) for c in ("draws", "mean_effects"))
    np.testing.assert_allclose(centred["estimate"], centred["estimate_diagonal"])
    for column in ("se", "se_within", "se_draws"):
        np.testing.assert_allclose(centred[column], drawn[column])
    shift = (np.stack(centred["draws"]) - np.stack(drawn["draws"])).T
    np.testing.assert_allclose(shift, [(centred["estimate"] - drawn["estimate"])] * 20, atol=1e-12)
    assert np.abs(shift).max() > 1e-3


def test_within_error_holds_no_model_error():
    """Effects on a line but for the model's error: nothing is left within a draw."""
    rng = np.random.default_rng(0)
    n_sequences, n, n_draws = 200, 40, 60
    scatter = np.where(np.arange(n_sequences) < 100, 0.0, 0.3)[:, None]
    bx = rng.uniform(1, 4, size=(n_sequences, n))
    by = 0.5 * bx + scatter * rng.normal(size=bx.shape)
    error = rng.normal(size=(n_sequences, n_draws + 1, n))
    draws_x = (bx + 0.02 * error[:, -1])[:, None] + 0.02 * error[:, :-1]
    noise = 0.3 * rng.normal(size=error.shape)
    draws_y = (by + noise[:, -1])[:, None] + noise[:, :-1]
    shape = (draws_x.mean(1), draws_x.std(1, ddof=1), draws_y.mean(1), draws_y.std(1, ddof=1))
    for method in ("ivw", "egger"):
        table = run((*shape, draws_x, draws_y), (method,))
        squared = table["se_within"].to_numpy() ** 2
        from_draws = table["se_draws"].to_numpy() ** 2
        # Scatter and model error are equally large in the second half, so are their shares.
        assert squared[:100].mean() < 0.2 * from_draws[:100].mean()
        assert squared[100:].mean() == pytest.approx(from_draws[100:].mean(), rel=0.15)
        own = np.stack(table["draws_se"])[:100] ** 2
        assert own.mean() == pytest.approx(2 * from_draws[:100].mean(), rel=0.15)


def test_without_draws_the_estimate_is_the_diagonal_one():
    table = mr.estimate(*simulated(2)[:4], METHODS, bootstrap_iterations=50, presso_iterations=50)
    np.testing.assert_array_equal(table["estimate"], table["estimate_diagonal"])
    np.testing.assert_array_equal(table["se"], table["se_diagonal"])
    assert table["se_draws"].isna().all()
    assert set(table["se_kind"]) == {"analytic"}
    assert "draws" not in table


def test_bad_sequences_get_a_status_and_do_not_harm_the_others():
    *effects, draws_x, draws_y = simulated(6)
    bx, _, _, se_y = effects
    for array in (*effects, draws_x, draws_y):
        array[1, ..., 2:] = np.nan  # two instruments
        array[2] = np.nan  # none
    se_y[3] = 0.0  # the outcome does not vary
    bx[4] = 1.0  # no slope with intercept
    draws_x[4] = 1.0
    draws_y[5, 3, 0] = np.inf  # one broken instrument
    table = run((*effects, draws_x, draws_y), ("egger", "ivw"))
    status = table.pivot(index="sequence", columns="method", values="status")
    assert status["egger"].tolist() == [
        "ok",
        "too_few_instruments",
        "too_few_instruments",
        "no_variation",
        "no_spread_in_exposure",
        "ok",
    ]
    assert status["ivw"].tolist()[1] == "ok"
    counts = table[table["method"] == "ivw"]["n_instruments"].tolist()
    assert counts == [15, 2, 0, 0, 15, 14]
    assert table[table["method"] == "ivw"]["n_dropped"].tolist() == [0, 0, 0, 15, 0, 1]
    bad = table[table["status"] != "ok"]
    assert bad[["estimate", "se", "p_value", "estimate_diagonal"]].isna().all(axis=None)
    assert table[table["status"] == "ok"][["estimate", "se"]].notna().all(axis=None)
    good = run(simulated(6), ("egger", "ivw"))
    pd.testing.assert_frame_equal(table.iloc[:2], good.iloc[:2], check_exact=True)


def test_zero_exposure_effect_has_no_say_in_the_median():
    bx = np.array([0.0, 1.0, 1.0, 2.0])
    ones = np.ones(4)
    table = mr.estimate(bx, ones, [9.0, 0.5, 0.5, 1.0], ones, ("weighted_median",))
    assert table["estimate"][0] == 0.5


def test_median_seed():
    data = simulated(1)[:4]
    first, same, other = (
        mr.estimate(*data, ("weighted_median",), seed=s)["se"][0] for s in (1, 1, 2)
    )
    assert first == same != other
    assert first == pytest.approx(other, rel=0.1)


def test_weighted_quantile_is_the_median_for_equal_weights():
    values = np.random.default_rng(0).normal(size=(3, 9))
    half = np.full((3, 1), 0.5)
    np.testing.assert_allclose(
        weighted_quantiles(values, np.ones((3, 9)), half)[:, 0], np.median(values, axis=1)
    )
    extreme = weighted_quantiles(values, np.ones((3, 9)), np.tile([0.0, 1.0], (3, 1)))
    np.testing.assert_array_equal(extreme, np.stack([values.min(1), values.max(1)], axis=1))
    assert np.isnan(weighted_quantiles(values, np.zeros((3, 9)), half)).all()


def test_woodruff_standard_error_of_a_normal_median():
    values = np.random.default_rng(1).normal(size=(400, 101))
    values[:, 0] = np.inf
    values[:, 1] = np.nan
    median, se = median_and_se(values)
    assert se.mean() == pytest.approx(median.std(), rel=0.1)
    assert median_and_se(np.array([[2.0]]))[1][0] == 0


def test_rubin_degrees_of_freedom():
    estimates = np.array([[1.0, 2.0, 3.0, 4.0]])
    only_draws = rubin(estimates, np.zeros(1))
    assert only_draws.df[0] == 3
    wide = rubin(estimates, np.array([1e12]))
    assert wide.ci_high[0] - wide.estimate[0] == pytest.approx(1.959964 * wide.se[0], rel=1e-6)
    no_spread = rubin(np.ones((1, 4)), np.ones(1))
    assert no_spread.ci_high[0] == pytest.approx(1 + 1.959964)
    with pytest.raises(ValueError, match="needs at least 2 of them; found 1"):
        rubin(np.ones((1, 1)), np.ones(1))


def test_scatter_is_never_negative():
    assert scatter_without_draw_noise(np.array([1.0]), np.full((1, 5), 9.0))[0] == 0


DATA = simulated(2)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (DATA[:4], {"methods": ("mode",)}, "method 'mode' is unknown; write one of ivw, ivw_fixed"),
        (DATA[:4], {"methods": ("ivw", "ivw")}, "stands twice"),
        (DATA[:4], {"methods": "ivw"}, "methods must be a list"),
        (DATA[:4], {"rho_xy": DATA[0]}, "rho_xy is given, but none of ivw, egger uses it"),
        (
            DATA[:4],
            {"methods": ("divw",), "correlation": 0.2},
            "correlation is given, but none of divw uses it",
        ),
        (DATA[:4], {"correlation": np.eye(14)}, r"\(15, 15\) or \(2, 15, 15\); found \(14, 14\)"),
        (
            DATA[:4],
            {"correlation": np.triu(np.full((15, 15), 0.1), 1) + np.eye(15)},
            "correlation not symmetric",
        ),
        (DATA[:4], {"correlation": -0.2}, "correlation not positive definite"),
        (DATA[:4], {"correlation": 2 * np.eye(15)}, "correlation diagonal not 1"),
        (DATA[:4], {"correlation": np.full((15, 15), np.nan)}, "correlation not finite"),
        (
            DATA[:4],
            {"correlation": 0.2, "draws_x": DATA[4], "draws_y": DATA[5]},
            "correlation is given beside draws_x and draws_y",
        ),
        (DATA[:4], {"positions": np.arange(15)}, r"positions must have the shape of bx, \(2, 15\)"),
        (DATA[:4], {"draw": 3}, "unknown option draw; the options are bootstrap_iterations"),
        (DATA[:4], {"bootstrap_iterations": 1}, "must be 0 or at least 2; found 1"),
        (DATA[:4], {"phi": 0.0}, "phi must be greater than 0"),
        (DATA[:4], {"presso_significance": 1.0}, "must lie between 0 and 1"),
        (DATA[:4], {"bayesian_instruments": 0}, "bayesian_instruments must be at least 1"),
        (DATA[:4], {"centre": "mode"}, "centre 'mode' is unknown; write one of draws"),
        ((DATA[0][None], *DATA[1:4]), {}, r"found \(1, 2, 15\)"),
        ((DATA[0], DATA[1][:1], *DATA[2:4]), {}, r"se_x must have the shape of bx, \(2, 15\)"),
        (DATA[:4], {"draws_x": DATA[4]}, "give both draws_x and draws_y, or neither"),
        (
            DATA[:4],
            {"draws_x": DATA[4][0], "draws_y": DATA[5][0]},
            r"draws_x must have shape \(sequences, draws, n\)",
        ),
        (
            DATA[:4],
            {"draws_x": DATA[4], "draws_y": DATA[5][:, :3]},
            "draws_y must have the shape of draws_x",
        ),
        (
            DATA[:4],
            {"draws_x": DATA[4][:, :1], "draws_y": DATA[5][:, :1]},
            "at least 2 draws; found 1",
        ),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        mr.estimate(*arguments, **options)


def test_registry_and_group_without_draws():
    assert [e.name for e in estimators(["ivw", "egger"])] == ["ivw", "egger"]
    one = np.ones((1, 3))
    with pytest.raises(ValueError, match="this group has no draws"):
        drawn(Group(one, one, one, one))


def test_errors_of_one_sequence_are_a_status_that_says_why():
    bx, se_x, by, se_y, *_ = simulated(5)
    se_x[0, 3] = -0.1
    rho = np.full(bx.shape, 0.3)
    rho[1, 2] = 1.0
    matrices = np.tile(np.eye(15), (5, 1, 1))
    matrices[2, 0, 1] = 0.5
    matrices[3] = np.where(np.eye(15) == 1, 1.0, -0.5)
    table = mr.estimate(
        bx, se_x, by, se_y, ("profile", "ivw"), rho_xy=rho, correlation=matrices
    ).set_index(["method", "sequence"])
    for method in ("profile", "ivw"):
        assert table.loc[method]["status"].tolist() == [
            "negative_se",
            "rho_xy_out_of_range",
            "correlation_not_symmetric",
            "correlation_not_positive_definite",
            "ok",
        ]
        assert table.loc[method]["estimate"].notna().tolist() == [False] * 4 + [True]


def test_equal_correlation_of_all_pairs_may_be_a_number():
    bx, se_x, by, se_y, *_ = simulated(3)
    methods = ("ivw", "egger", "profile", "weighted_median")
    options = {"rho_xy": 0.4, "bootstrap_iterations": 30}
    matrix = np.where(np.eye(15) == 1, 1.0, 0.3)
    tables = [
        mr.estimate(bx, se_x, by, se_y, methods, correlation=c, **options)
        for c in (0.3, matrix, np.tile(matrix, (3, 1, 1)))
    ]
    without = mr.estimate(bx, se_x, by, se_y, methods, **options)
    pd.testing.assert_frame_equal(tables[0], tables[1])
    pd.testing.assert_frame_equal(tables[0], tables[2])
    assert (np.abs(tables[0]["se"] / without["se"] - 1) > 1e-3).all()


def test_correlation_is_that_of_the_instruments_that_stayed():
    bx, se_x, by, se_y, *_ = (a[0] for a in simulated(1))
    matrix = 0.5 ** np.abs(np.subtract.outer(np.arange(15), np.arange(15)))
    broken = bx.copy()
    broken[[2, 7]] = np.nan
    keep = ~np.isnan(broken)
    with_gaps = mr.estimate(broken, se_x, by, se_y, ("ivw", "profile"), correlation=matrix)
    alone = mr.estimate(
        *(a[keep] for a in (bx, se_x, by, se_y)),
        ("ivw", "profile"),
        correlation=matrix[np.ix_(keep, keep)],
    )
    assert with_gaps["n_dropped"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(
        with_gaps.drop(columns="n_dropped"), alone.drop(columns="n_dropped")
    )


def test_leaving_out_a_position_leaves_out_all_its_alleles():
    bx, se_x, by, se_y, *_ = (a[0] for a in simulated(1, 18))
    positions = np.repeat(np.arange(6) + 40, 3)
    table = mr.estimate(bx, se_x, by, se_y, ("ivw", "egger", "divw"), positions=positions)
    for row in table.iloc[:2].itertuples():
        without = {
            place: mr.estimate(
                *(a[positions != place] for a in (bx, se_x, by, se_y)), (row.method,)
            )["estimate"][0]
            for place in range(40, 46)
        }
        assert row.without_position_low == pytest.approx(min(without.values()))
        assert row.without_position_high == pytest.approx(max(without.values()))
        far = max(without, key=lambda place, w=without, e=row.estimate: abs(w[place] - e))
        assert row.influential_position == far
    assert table["influential_position"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("method", METHODS)
def test_hostile_numbers_leave_a_row_and_no_harm(method):
    """One sequence of every kind that a network can produce; the good one is as if alone."""
    good = [a[:1] for a in simulated(1, 12, 8, seed=3)]
    rng = np.random.default_rng(0)

    def spoiled(bx=1.0, by=1.0, se=1.0):
        x, sx, y, sy, dx, dy = (a.copy() for a in good)
        return [x * bx, sx * se, y * by, sy * se, dx * bx, dy * by]

    cases = [
        good,
        spoiled(bx=0.0),
        spoiled(by=0.0),
        spoiled(bx=1e-12),
        spoiled(by=1e12),
        spoiled(se=1e-9),
        spoiled(se=1e9),
        [np.ones_like(a) if i in (0, 4) else a for i, a in enumerate(good)],
        [np.round(a, 0) if i in (0, 2) else a for i, a in enumerate(good)],
        [rng.standard_cauchy(a.shape) if i in (0, 2) else a for i, a in enumerate(good)],
    ]
    data = [np.concatenate(parts) for parts in zip(*cases, strict=True)]
    table = run(data, (method,))
    assert len(table) == len(cases)
    fine = table["status"] == "ok"
    assert np.isfinite(table.loc[fine, ["estimate", "se"]]).all(axis=None)
    assert table.loc[~fine, "estimate"].isna().all()
    explained = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text()
    for status in set(table["status"]) - {"ok"}:
        assert f"`{status}`" in explained
    pd.testing.assert_frame_equal(table.iloc[:1], run(good, (method,)), check_exact=True)
