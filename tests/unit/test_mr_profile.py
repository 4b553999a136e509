import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import chdtr, gammaln
from scipy.stats import chi2, norm

from deepmr.mr.estimator import Group, Options
from deepmr.mr.estimators.conditional_test import conditional_p
from deepmr.mr.estimators.covariance import DiagonalErrors, errors_from_correlation
from deepmr.mr.estimators.draw_covariance import errors_from_draws
from deepmr.mr.estimators.profile import EGGER_PROFILE, MAX_LIKELIHOOD, PROFILE, fit
from deepmr.mr.estimators.profile_heterogeneity import heterogeneity
from deepmr.mr.estimators.profile_objective import FINE, Objective, minimum
from deepmr.mr.estimators.profile_solution import Model

REFERENCE = sorted((Path(__file__).parents[1] / "reference").glob("mr_*.json"))
CORRELATED = [path for path in REFERENCE if "correlation" in json.loads(path.read_text())["inputs"]]
ALL = (MAX_LIKELIHOOD, PROFILE, EGGER_PROFILE)
DRAWS = Options(draw_covariance=True)
WALD, ROBUST = replace(DRAWS, weak_f=0.0), replace(DRAWS, weak_f=np.inf)


def name_of(value):
    return value.stem[3:] if isinstance(value, Path) else getattr(value, "name", None)


def case(path, psi=0.0, correlated=False):
    content = json.loads(path.read_text())
    inputs = content["inputs"]
    bx, se_x, by, se_y = (
        np.array(inputs[name], float)[None] for name in ("bx", "bxse", "by", "byse")
    )
    n = bx.shape[1]
    matrix = None
    if correlated:
        matrix = np.array(inputs["correlation"], float)
        if matrix.ndim == 0:
            matrix = np.where(np.eye(n, dtype=bool), 1.0, matrix)
        matrix = matrix[None]
    group = Group(bx, se_x, by, se_y, rho_xy=np.full((1, n), psi), correlation=matrix)
    return group, content["results"]


def simulated(count=3, n=25, seed=0, n_draws=None, pleiotropy=0.02, strength=0.1, theta=0.6):
    rng = np.random.default_rng(seed)
    gamma = strength * rng.normal(size=(count, n))
    se_x = 0.02 * np.exp(0.2 * rng.normal(size=(count, n)))
    se_y = 0.03 * np.exp(0.2 * rng.normal(size=(count, n)))

    def error(k):
        u, v = (
            np.sqrt(0.5) * rng.normal(size=(count, k, 1))
            + np.sqrt(0.5) * rng.normal(size=(count, k, n))
            for _ in range(2)
        )
        return se_x[:, None] * u, se_y[:, None] * (0.6 * u + 0.8 * v)

    error_x, error_y = (v[:, 0] for v in error(1))
    bx = gamma + error_x
    by = theta * gamma + pleiotropy * rng.normal(size=bx.shape) + error_y
    if n_draws is None:
        return Group(bx, se_x, by, se_y, rho_xy=np.full_like(bx, 0.6))
    x, y = error(n_draws)
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    return Group(bx, se_x, by, se_y, draws_x=bx[:, None] + x, draws_y=by[:, None] + y)


def objective_of(group, intercept=False):
    return Objective(
        group.bx,
        group.by,
        DiagonalErrors.from_rho(group.se_x, group.se_y, group.error_correlation),
        np.median(group.se_y / group.se_x, axis=-1),
        np.median(group.se_x, axis=-1),
        intercept,
        FINE,
    )


def q_of(group, row, t, tau2=0.0, correlation=None, intercept=False):
    """Q of a slope by the dense formula."""
    x, y, se_x, se_y = (v[row] for v in (group.bx, group.by, group.se_x, group.se_y))
    rho = group.error_correlation[row]
    matrix = np.eye(len(x)) if correlation is None else correlation
    if intercept:
        sign = np.where(x < 0, -1.0, 1.0)
        x, y, matrix = sign * x, sign * y, matrix * np.outer(sign, sign)
    xy = np.outer(se_x, rho * se_y) * matrix
    v = np.outer(se_y, se_y) * matrix - t * (xy + xy.T) + t * t * np.outer(se_x, se_x) * matrix
    v[np.diag_indices_from(v)] += tau2
    r = y - t * x
    s = np.linalg.solve(v, r)
    if not intercept:
        return r @ s
    ones = np.linalg.solve(v, np.ones_like(r))
    return r @ s - s.sum() ** 2 / ones.sum()


def fields(fit_):
    names = ("estimate", "se", "ci_low", "ci_high", "p_value", "se_model", "q", "tau2", "intercept")
    return {n: getattr(fit_, n) for n in names if getattr(fit_, n) is not None}


def same(left, right, rtol=1e-7, atol=1e-12):
    left, right = fields(left), fields(right)
    assert left.keys() == right.keys()
    for name, values in left.items():
        np.testing.assert_allclose(values, right[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.parametrize("psi", [0.0, 0.3])
@pytest.mark.parametrize("path", REFERENCE, ids=name_of)
def test_maximum_likelihood_is_the_optimum_of_rs_likelihood(path, psi):
    group, results = case(path, psi)
    expected = results["exact_ML_profile" + ("_psi0.3" if psi else "")]
    found = MAX_LIKELIHOOD.fit(group, DRAWS)
    np.testing.assert_allclose(
        [found.estimate[0], found.se_model[0], found.se[0], found.q[0]],
        [expected[key] for key in ("estimate", "se_fixed", "se_random", "Q")],
        rtol=1e-6,
    )
    assert found.q_df == expected["df"]
    assert found.q_p[0] == pytest.approx(chi2.sf(expected["Q"], expected["df"]), rel=1e-6)
    scale = np.sqrt(expected["Q"] / expected["df"])
    assert found.se_unfloored[0] == pytest.approx(expected["se_fixed"] * scale, rel=1e-6)


@pytest.mark.parametrize("psi", [0, 0.3, 0.6])
@pytest.mark.parametrize("path", CORRELATED, ids=name_of)
def test_maximum_likelihood_of_correlated_instruments(path, psi):
    group, results = case(path, psi, correlated=True)
    expected = results["correlated"][f"exact_ML_profile_psi{psi}"]
    found = MAX_LIKELIHOOD.fit(group, DRAWS)
    np.testing.assert_allclose(
        [found.estimate[0], found.se_model[0], found.se[0], found.q[0]],
        [expected[key] for key in ("estimate", "se_fixed", "se_random", "Q")],
        rtol=1e-6,
    )


@pytest.mark.parametrize("psi", [0, 0.3, 0.6])
@pytest.mark.parametrize("path", CORRELATED, ids=name_of)
def test_the_line_with_an_intercept(path, psi):
    group, results = case(path, psi, correlated=True)
    expected = results["correlated"][f"exact_eggerML_profile_psi{psi}_oriented"]
    found = fit(group, DRAWS, Model(intercept=True, additive=False))
    assert found.q_df == expected["df"]
    if path.stem == "mr_synth_ism150" and psi == 0.6:
        # R's search stopped short of the minimum: its point is no local minimum of its own Q.
        at_r = q_of(
            group, 0, expected["estimate"], correlation=group.correlation[0], intercept=True
        )
        assert at_r == pytest.approx(expected["Q"], rel=1e-9)
        at_ours = q_of(
            group, 0, found.estimate[0], correlation=group.correlation[0], intercept=True
        )
        assert found.q[0] == pytest.approx(at_ours, rel=1e-9)
        assert at_ours < expected["Q"] - 0.3
        return
    np.testing.assert_allclose(
        [found.estimate[0], found.se_model[0], found.se[0], found.q[0], found.intercept[0]],
        [expected[key] for key in ("estimate", "se_fixed", "se_random", "Q", "intercept")],
        rtol=1e-6,
    )


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("kind", ["diagonal", "correlation", "draws"])
def test_derivatives_are_those_of_q(kind, intercept):
    group = simulated(1, 12, n_draws=40)
    rows = (group.se_x[0], group.se_y[0])
    errors = {
        "diagonal": lambda: DiagonalErrors.from_rho(
            group.se_x, group.se_y, group.error_correlation
        ),
        "correlation": lambda: errors_from_correlation(
            *rows, group.error_correlation[0], np.where(np.eye(12) > 0, 1.0, 0.4)
        ),
        "draws": lambda: errors_from_draws(group.draws_x[0], group.draws_y[0], *rows),
    }[kind]()
    objective = replace(objective_of(group, intercept), errors=errors)

    def at(angle, tau2):
        angle, tau2 = np.array([angle]), np.array([tau2])
        return objective.derivatives(np.cos(angle), np.sin(angle), tau2)

    for angle in (-1.2, 0.1, 0.7, 1.5):
        d, tau2, h = at(angle, 3e-4), 3e-4, 1e-5
        up, down = at(angle + h, tau2), at(angle - h, tau2)
        more, less = at(angle, tau2 * (1 + h)), at(angle, tau2 * (1 - h))
        np.testing.assert_allclose(d.slope, (up.q - down.q) / (2 * h), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(d.curvature, (up.slope - down.slope) / (2 * h), rtol=1e-5)
        np.testing.assert_allclose(d.by_tau2, (more.q - less.q) / (2 * h * tau2), rtol=1e-5)
        np.testing.assert_allclose(
            d.slope_by_tau2, (more.slope - less.slope) / (2 * h * tau2), rtol=1e-5
        )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.floats(0.0, 1.5),
    strength=st.floats(0.0, 0.1),
    intercept=st.booleans(),
)
def test_the_minimum_is_the_global_one(seed, spread, strength, intercept):
    group = simulated(2, 12, seed=seed, strength=strength)
    rng = np.random.default_rng(seed)
    group = replace(group, se_y=group.se_y * np.exp(spread * rng.normal(size=group.bx.shape)))
    objective = objective_of(group, intercept)
    zero = np.zeros(2)
    found = minimum(objective, zero, objective.scan(zero))
    angles = np.linspace(-np.pi / 2, np.pi / 2, 801)
    dense = [
        objective.value(np.full(2, np.cos(angle)), np.full(2, np.sin(angle)), zero)
        for angle in angles
    ]
    assert (found.q <= np.min(dense, axis=0) * (1 + 1e-9)).all()
    slope = objective.derivatives(found.a, found.b, zero).slope
    assert (np.abs(slope) <= 1e-6 * np.sqrt(found.curvature)).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), pleiotropy=st.floats(0.01, 1.0), strength=st.floats(0.01, 0.3))
def test_heterogeneity_brings_q_to_its_degrees_of_freedom(seed, pleiotropy, strength):
    group = simulated(3, 20, seed=seed, pleiotropy=pleiotropy, strength=strength)
    objective = objective_of(group)
    zero = np.zeros(3)
    start = minimum(objective, zero, objective.scan(zero))
    tau2, point, _ = heterogeneity(objective, start)
    heterogeneous = start.q > objective.df
    np.testing.assert_allclose(point.q[heterogeneous], objective.df, rtol=1e-9)
    assert (tau2[~heterogeneous] == 0).all()
    assert (tau2[heterogeneous] > 0).all()
    angles = np.linspace(-np.pi / 2, np.pi / 2, 201)
    for angle in angles:
        q = objective.value(np.full(3, np.cos(angle)), np.full(3, np.sin(angle)), tau2)
        assert (q >= point.q * (1 - 1e-7)).all()


@pytest.mark.parametrize("told", ["rho", "correlation", "draws"])
def test_profile_finds_slope_heterogeneity_and_their_uncertainty(told):
    truth, tau, n, count = 0.6, 0.04, 60, 80
    group = simulated(count, n, seed=5, n_draws=80 if told == "draws" else None, pleiotropy=tau)
    if told == "correlation":
        matrix = np.where(np.eye(n, dtype=bool), 1.0, 0.5)
        group = replace(group, correlation=np.broadcast_to(matrix, (count, n, n)))
    found = PROFILE.fit(group, WALD)
    assert abs(found.estimate.mean() - truth) < 4 * found.estimate.std() / np.sqrt(count)
    assert found.tau2.mean() == pytest.approx(tau**2, rel=0.1 if told != "rho" else 0.35)
    if told == "rho":
        # What instruments share is not known to be shared.
        return
    assert found.se.mean() == pytest.approx(found.estimate.std(), rel=0.25)
    covered = (found.ci_low <= truth) & (truth <= found.ci_high)
    assert covered.mean() >= 0.87


def test_the_standard_error_of_strong_instruments_is_the_curvatures():
    group = simulated(1, 40, strength=20.0, pleiotropy=0.0)
    strong, likelihood = PROFILE.fit(group, WALD), MAX_LIKELIHOOD.fit(group, WALD)
    np.testing.assert_allclose(strong.estimate, likelihood.estimate, rtol=1e-5)
    assert strong.tau2[0] == 0
    np.testing.assert_allclose(strong.se, likelihood.se_model, rtol=1e-3)
    np.testing.assert_array_equal(strong.se_model, strong.se)


def test_wald_intervals_agree_with_their_p_values():
    found = PROFILE.fit(simulated(4), WALD)
    assert (found.ci_kind == "wald").all()
    np.testing.assert_allclose(found.p_value, 2 * norm.sf(np.abs(found.estimate / found.se)))
    np.testing.assert_allclose(found.ci_high - found.ci_low, 2 * norm.ppf(0.975) * found.se)
    for low, high, parts in zip(found.ci_low, found.ci_high, found.ci_set, strict=True):
        np.testing.assert_array_equal(parts, [[low, high]])


def andrews_moreira_stock(ratio, strength, k):
    constant = np.exp(gammaln(k / 2) - gammaln((k - 1) / 2)) / np.sqrt(np.pi)

    def integrand(s):
        inner = (strength + ratio) / (1 + strength * s * s / ratio)
        return chdtr(k, inner) * (1 - s * s) ** ((k - 3) / 2)

    end = min(1.0, 20 / np.sqrt(k))
    scale = np.sqrt(ratio / strength)
    edges = [0.0, *(v for v in (0.3 * scale, scale, 3 * scale, 10 * scale) if v < end), end]
    parts = [
        quad(integrand, a, b, epsabs=1e-13, epsrel=1e-11, limit=300)[0] for a, b in pairwise(edges)
    ]
    return 1 - 2 * constant * sum(parts)


@pytest.mark.parametrize("k", [3, 6, 450, 3000])
def test_the_conditional_p_value_is_the_published_integral(k):
    for strength in (0.1, k / 3, 2 * k, 50 * k):
        for ratio in (0.5, 3.84, 20.0):
            expected = andrews_moreira_stock(ratio, strength, k)
            assert conditional_p(ratio, strength, k) == pytest.approx(expected, abs=1e-9)


def test_the_conditional_p_value_has_the_right_limits():
    # Without strength it is the test of all instruments, with all strength that of one.
    assert conditional_p(12.0, 0.0, 5) == pytest.approx(chi2.sf(12.0, 5), rel=1e-9)
    assert conditional_p(12.0, 1e9, 5) == pytest.approx(chi2.sf(12.0, 1), rel=1e-6)
    assert conditional_p(300.0, 1e9, 5) == pytest.approx(chi2.sf(300.0, 1), rel=1e-4)
    assert conditional_p(0.0, 3.0, 5) == pytest.approx(1.0)
    assert conditional_p(0.0, 0.0, 5) == 1.0
    assert conditional_p(3.0, 7.0, 1) == pytest.approx(chi2.sf(3.0, 1))
    assert conditional_p(3.0, 7.0, 2) == pytest.approx(
        np.mean(
            chi2.sf(
                10.0 / (1 + 7.0 / 3.0 * np.cos((np.arange(20_000) + 0.5) / 20_000 * np.pi) ** 2), 2
            )
        ),
        rel=1e-6,
    )


def test_weak_instrument_sets_agree_with_r():
    group, results = case(REFERENCE[1], correlated=True)
    assert REFERENCE[1].stem == "mr_calcium_fastgluc"
    expected = results["correlated"]["clr"]
    found = PROFILE.fit(group, ROBUST)
    assert found.tau2[0] == 0
    assert found.ci_kind[0] == "clr"
    # R gives points of a grid with step .02, and weighs the errors of x by sample size.
    assert abs(found.ci_low[0] - expected["CLRlower"]) < 0.02
    assert abs(found.ci_high[0] - expected["CLRupper"]) < 0.02
    # Anderson and Rubin's test is Q itself; R's upper limit is the end of its grid.
    correlation = group.correlation[0]
    for t in np.arange(-1.0, 5.0, 0.02):
        inside = chi2.sf(q_of(group, 0, t, correlation=correlation), 6) >= 0.05
        assert inside == (t > expected["ARlower"] - 0.01)
    # Kleibergen's statistic, too, is made of Q: (Q'/2)^2 over the variance of the projected x.
    kleibergen = []
    for t in np.arange(0.5, 4.5, 0.02):
        h = 1e-4
        xx = np.outer(group.se_x[0], group.se_x[0]) * correlation
        v = np.outer(group.se_y[0], group.se_y[0]) * correlation + t * t * xx
        x = group.bx[0] + t * xx @ np.linalg.solve(v, group.by[0] - t * group.bx[0])
        slope = q_of(group, 0, t + h, correlation=correlation)
        slope = (slope - q_of(group, 0, t - h, correlation=correlation)) / (2 * h)
        if chi2.sf((slope / 2) ** 2 / (x @ np.linalg.solve(v, x)), 1) >= 0.05:
            kleibergen.append(t)
    assert abs(min(kleibergen) - expected["Klower"]) < 0.021
    assert abs(max(kleibergen) - expected["Kupper"]) < 0.021


@pytest.mark.parametrize("method", [PROFILE, EGGER_PROFILE], ids=name_of)
def test_a_robust_set_holds_the_slopes_that_its_test_accepts(method):
    group = simulated(4, 15, strength=0.06, seed=3)
    found = method.fit(group, ROBUST)
    for row in range(4):
        moved = []
        for edge in found.ci_set[row].ravel():
            if np.isfinite(edge):
                # By of a slope `edge` more is tested at 0 like by at `edge`.
                at = replace(
                    group,
                    by=group.by - edge * group.bx,
                    se_y=np.sqrt(
                        group.se_y**2
                        - 2 * edge * 0.6 * group.se_x * group.se_y
                        + edge**2 * group.se_x**2
                    ),
                )
                rho = (0.6 * group.se_y - edge * group.se_x) / at.se_y
                moved.append(method.fit(replace(at, rho_xy=rho), ROBUST).p_value[row])
        np.testing.assert_allclose(moved, 0.05, rtol=1e-6)
        inside = any(low <= 0 <= high for low, high in found.ci_set[row])
        assert inside == (found.p_value[row] >= 0.05)
        assert any(low <= found.estimate[row] <= high for low, high in found.ci_set[row])
        assert found.ci_low[row] == found.ci_set[row][0, 0]
        assert found.ci_high[row] == found.ci_set[row][-1, 1]


def test_useless_instruments_give_an_unbounded_set():
    kinds = set()
    found = PROFILE.fit(simulated(60, 10, seed=1, strength=0.012, pleiotropy=0.0), ROBUST)
    for row, parts in enumerate(found.ci_set):
        if found.status[row] != "ok":
            assert np.isnan(parts).all() or np.isnan(found.ci_low[row])
            continue
        assert (parts[:, 0] < parts[:, 1]).all()
        assert (parts[1:, 0] > parts[:-1, 1]).all()
        if len(parts) == 2:
            assert parts[0, 0] == -np.inf
            assert parts[1, 1] == np.inf
            kinds.add("rays")
        else:
            kinds.add("everything" if np.isinf(parts).all() else "interval")
    assert kinds == {"rays", "everything", "interval"}


def test_the_robust_interval_covers_with_weak_instruments():
    group = simulated(150, 20, seed=11, strength=0.02, pleiotropy=0.0)
    matrix = np.where(np.eye(20, dtype=bool), 1.0, 0.5)
    group = replace(group, correlation=np.broadcast_to(matrix, (150, 20, 20)))
    found = PROFILE.fit(group, ROBUST)
    covered = [
        any(low <= 0.6 <= high for low, high in parts)
        for parts, status in zip(found.ci_set, found.status, strict=True)
        if status == "ok"
    ]
    assert len(covered) > 140
    # .95 with a Monte Carlo error of .018
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("told", ["rho", "correlation", "draws"])
@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_a_sequence_does_not_depend_on_its_neighbours(method, told):
    group = simulated(5, 30, n_draws=20 if told == "draws" else None)
    if told == "correlation":
        matrix = np.where(np.eye(30, dtype=bool), 1.0, 0.3)
        group = replace(group, correlation=np.broadcast_to(matrix, (5, 30, 30)))
    whole = fields(method.fit(group, DRAWS))
    for row in range(5):
        alone = fields(method.fit(rows_of(group, [row]), DRAWS))
        for name, values in whole.items():
            assert values[row] == alone[name][0], name
    if told == "draws":
        drawn = method.fit_draws(group, DRAWS)
        one = method.fit_draws(rows_of(group, [3]), DRAWS)
        np.testing.assert_array_equal(drawn.estimates[3], one.estimates[0])
        np.testing.assert_array_equal(drawn.se[3], one.se[0])
        assert drawn.se_within[3] == one.se_within[0]


def rows_of(group, rows):
    names = ("bx", "se_x", "by", "se_y", "rho_xy", "draws_x", "draws_y", "correlation")
    given = {name: getattr(group, name) for name in names}
    return Group(**{name: value[rows] for name, value in given.items() if value is not None})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(ALL), draws=st.booleans())
def test_the_order_of_instruments_does_not_matter(seed, method, draws):
    group = simulated(2, 18, seed=seed, n_draws=12 if draws else None)
    order = np.random.default_rng(seed).permutation(18)
    names = ("bx", "se_x", "by", "se_y", "rho_xy", "draws_x", "draws_y")
    moved = Group(
        **{
            name: getattr(group, name)[..., order]
            for name in names
            if getattr(group, name) is not None
        }
    )
    same(method.fit(moved, DRAWS), method.fit(group, DRAWS), rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), method=st.sampled_from(ALL), draws=st.booleans())
def test_the_sign_of_an_instrument_does_not_matter(seed, method, draws):
    group = simulated(2, 18, seed=seed, n_draws=12 if draws else None)
    sign = np.where(np.random.default_rng(seed).random((2, 18)) < 0.5, -1.0, 1.0)
    flipped = replace(group, bx=group.bx * sign, by=group.by * sign)
    if draws:
        flipped = replace(
            flipped,
            draws_x=group.draws_x * sign[:, None],
            draws_y=group.draws_y * sign[:, None],
        )
    same(method.fit(flipped, DRAWS), method.fit(group, DRAWS), rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(ALL),
    c_x=st.floats(0.01, 100.0),
    c_y=st.floats(0.01, 100.0),
)
def test_units_scale_the_slope(seed, method, c_x, c_y):
    group = simulated(2, 18, seed=seed)
    scaled = Group(
        group.bx * c_x, group.se_x * c_x, group.by * c_y, group.se_y * c_y, rho_xy=group.rho_xy
    )
    found, plain = method.fit(scaled, DRAWS), method.fit(group, DRAWS)
    factor = c_y / c_x
    for name in ("estimate", "se", "ci_low", "ci_high"):
        np.testing.assert_allclose(
            getattr(found, name), factor * getattr(plain, name), rtol=1e-6, atol=1e-9 * factor
        )
    np.testing.assert_allclose(found.p_value, plain.p_value, rtol=1e-5, atol=1e-12)


def test_the_intercept_and_its_error_are_those_of_the_joint_likelihood():
    group = simulated(1, 40, pleiotropy=0.0)
    found = fit(group, DRAWS, Model(intercept=True, additive=False))
    sign = np.where(group.bx < 0, -1.0, 1.0)

    def joint(slope, intercept):
        r = sign * (group.by - slope * group.bx) - intercept
        variance = group.se_y**2 - 1.2 * slope * group.se_x * group.se_y + slope**2 * group.se_x**2
        return 0.5 * float((r * r / variance).sum())

    at, h = np.array([found.estimate[0], found.intercept[0]]), np.array([1e-3, 1e-4])
    hessian = np.empty((2, 2))
    for i in range(2):
        for j in range(2):
            steps = [
                np.eye(2)[i] * h[i] * p + np.eye(2)[j] * h[j] * q for p, q in ((1, 1), (1, -1))
            ]
            values = [joint(*(at + s)) for s in (steps[0], -steps[0])]
            mixed = [joint(*(at + s)) for s in (steps[1], -steps[1])]
            hessian[i, j] = (sum(values) - sum(mixed)) / (4 * h[i] * h[j])
    covariance = np.linalg.inv(hessian)
    scale = max(1.0, np.sqrt(found.q[0] / 38))
    assert found.se_model[0] == pytest.approx(np.sqrt(covariance[0, 0]), rel=1e-4)
    if scale == 1.0:
        assert found.intercept_se[0] == pytest.approx(np.sqrt(covariance[1, 1]), rel=1e-4)
    assert found.intercept_p[0] == pytest.approx(
        2 * norm.sf(abs(found.intercept[0] / found.intercept_se[0]))
    )


def test_egger_profile_finds_a_directional_intercept():
    rng = np.random.default_rng(8)
    count, n = 100, 60
    gamma = rng.uniform(0.1, 0.5, size=(count, n)) * np.where(rng.random((count, n)) < 0.5, -1, 1)
    se = np.full((count, n), 0.01)
    by = 0.5 * gamma + 0.05 * np.sign(gamma) + 0.02 * rng.normal(size=gamma.shape)
    group = Group(gamma + se * rng.normal(size=gamma.shape), se, by, se)
    found = EGGER_PROFILE.fit(group, DRAWS)
    assert abs(found.estimate.mean() - 0.5) < 4 * found.estimate.std() / 10
    assert abs(found.intercept.mean() - 0.05) < 4 * found.intercept.std() / 10
    assert found.intercept_se.mean() == pytest.approx(found.intercept.std(), rel=0.3)
    assert found.se.mean() == pytest.approx(found.estimate.std(), rel=0.3)
    assert (PROFILE.fit(group, DRAWS).estimate.mean() - 0.5) > 0.1


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_bad_sequences_are_named_and_alone(method):
    group = simulated(6, 10)
    bx, se_y, by = group.bx.copy(), group.se_y.copy(), group.by.copy()
    bx[1, 3] = np.nan
    se_y[2, 0] = 0.0
    bx[4] = 0.0
    found = method.fit(Group(bx, group.se_x, by, se_y), DRAWS)
    lost = found.status != "ok"
    assert found.status.tolist()[1:3] == ["not_finite", "not_finite"]
    assert found.status[4] == "no_finite_slope"
    np.testing.assert_array_equal(lost, [False, True, True, False, True, False])
    for name, values in fields(found).items():
        np.testing.assert_array_equal(np.isnan(values), lost, err_msg=name)


def test_what_is_no_correlation_matrix_costs_its_sequence_alone():
    group = simulated(2, 5)
    matrices = np.stack([np.eye(5), np.where(np.eye(5) > 0, 1.0, -0.5)])
    found = PROFILE.fit(replace(group, correlation=matrices), DRAWS)
    assert found.status.tolist() == ["ok", "bad_correlation"]
    np.testing.assert_array_equal(np.isnan(found.estimate), [False, True])


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_the_fewest_instruments(method):
    found = method.fit(simulated(5, method.minimum), DRAWS)
    assert np.isfinite(found.estimate).any()
    drawn = method.fit_draws(simulated(5, method.minimum, n_draws=6), DRAWS)
    assert drawn.estimates.shape == drawn.se.shape == (5, 6)


def test_exact_effects_give_the_exact_slope():
    group = simulated(1, 20)
    exact = replace(group, by=0.7 * group.bx)
    found = PROFILE.fit(exact, DRAWS)
    assert found.estimate[0] == pytest.approx(0.7, rel=1e-12)
    assert found.q[0] == pytest.approx(0.0, abs=1e-20)
    assert found.tau2[0] == 0.0


def test_correlation_that_the_covariance_left_out_widens_the_interval():
    n, n_draws, count = 120, 60, 3
    rng = np.random.default_rng(4)
    place = np.arange(n)
    root = np.linalg.cholesky(np.exp(-np.abs(place[:, None] - place) / 4.0))
    bx = np.tile(0.3 * np.exp(-(((place - 60) / 20.0) ** 2)), (count, 1))
    se = np.full((count, n), 0.03)
    x = 0.03 * rng.normal(size=(count, n_draws, n)) @ root.T
    y = 0.03 * rng.normal(size=(count, n_draws, n)) @ root.T
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (x, y))
    by = 0.5 * bx + 0.03 * rng.normal(size=(count, n)) @ root.T
    told = PROFILE.fit(
        Group(bx, se, by, se, draws_x=bx[:, None] + x, draws_y=by[:, None] + y), WALD
    )
    untold = PROFILE.fit(Group(bx, se, by, se), WALD)
    # exp(-d/4) sums to 8 over all distances d, so the SE is up to sqrt(8) times larger.
    assert (told.se > 1.8 * untold.se).all()
    assert (told.se < 4.0 * untold.se).all()


@pytest.mark.parametrize("method", ALL, ids=name_of)
def test_draws_scatter_about_the_estimate_by_their_share_of_the_error(method):
    group = simulated(30, 80, seed=2, n_draws=60, strength=0.1, pleiotropy=0.0)
    if method is EGGER_PROFILE:
        group = replace(group, bx=group.bx + 0.3, draws_x=group.draws_x + 0.3)
    found, drawn = method.fit(group, WALD), method.fit_draws(group, WALD)
    distance = drawn.estimates.mean(axis=1) - found.estimate
    # The mean over draws is not diluted or drawn to the correlation of the errors.
    assert np.abs(distance).mean() < 0.35 * found.se.mean()
    spread = drawn.estimates.std(axis=1, ddof=1).mean()
    if method is not MAX_LIKELIHOOD:
        assert spread == pytest.approx(found.se_model.mean(), rel=0.25)
        # Without pleiotropy little is left within a draw.
        assert np.median(drawn.se_within) < 0.3 * spread
    assert (drawn.se > 0).all()


def test_draws_are_estimated_with_the_scatter_taken_apart():
    group = simulated(20, 80, seed=2, n_draws=60, strength=0.1, pleiotropy=0.1)
    found, drawn = PROFILE.fit(group, WALD), PROFILE.fit_draws(group, WALD)
    np.testing.assert_allclose(drawn.se_within, np.sqrt(found.se**2 - found.se_model**2), rtol=1e-9)
    assert abs(np.mean(drawn.estimates.mean(axis=1) - found.estimate)) < 0.1 * found.se.mean()


def test_a_draw_without_a_minimum_is_an_estimate_too():
    group = simulated(5, 12, seed=3, n_draws=30, strength=0.002)
    drawn = PROFILE.fit_draws(group, DRAWS)
    ok = PROFILE.fit(group, DRAWS).status == "ok"
    assert ok.any()
    assert np.isfinite(drawn.estimates[ok]).all()
    assert (drawn.se[ok] > 0).all()
