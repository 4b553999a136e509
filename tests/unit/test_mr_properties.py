"""Hostile numbers, units over draws and batches, through the public functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import mr
from deepmr.mr.multivariable.estimation import METHODS as MULTIVARIABLE
from deepmr.mr.registry import ESTIMATORS

METHODS = tuple(ESTIMATORS)
CLOSED = {"bootstrap_iterations": 0, "presso_iterations": 50}
SLOW = ("bayesian_mode",)
KINDS = ("plain", "rho_xy", "correlation", "draws")
EXPLAINED = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text()
SPECIAL = [0.0, 1.0, -1.0, 5e-324, 1e-160, 1e-7, 1e7, 1e150, -1e308, np.nan, np.inf, -np.inf]

pytestmark = pytest.mark.filterwarnings("error")


def design(seed, n, kind="plain", n_draws=6):
    """Effects with scatter of their own, and what `kind` adds to them."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(size=n)
    se_x, se_y = rng.uniform(0.1, 0.3, (2, n))
    bx = gamma + se_x * rng.normal(size=n)
    by = 0.6 * gamma + 0.4 * rng.normal(size=n) + se_y * rng.normal(size=n)
    more = {}
    if kind == "rho_xy":
        more["rho_xy"] = rng.uniform(-0.8, 0.8, n)
    if kind == "correlation":
        more["correlation"] = 0.6 ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    if kind == "draws":
        draws_x, draws_y = (
            mean + se * rng.normal(size=(n_draws, n)) for mean, se in ((bx, se_x), (by, se_y))
        )
        bx, by = draws_x.mean(axis=0), draws_y.mean(axis=0)
        se_x, se_y = draws_x.std(axis=0, ddof=1), draws_y.std(axis=0, ddof=1)
        more = {"draws_x": draws_x, "draws_y": draws_y}
    return [bx, se_x, by, se_y], more


def used(method, more):
    uses = ESTIMATORS[method].uses | {"draws_x", "draws_y"}
    return {name: value for name, value in more.items() if name in uses}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 3), st.sampled_from(KINDS))
def test_any_numbers_give_a_row_and_a_reason(seed, n, count, kind):
    rng = np.random.default_rng(seed)
    share = rng.choice([0.0, 0.3, 1.0])

    def numbers(*shape):
        normal = rng.normal(size=shape)
        return np.where(rng.random(shape) < share, rng.choice(SPECIAL, shape), normal)

    effects = [numbers(count, n), abs(numbers(count, n)), numbers(count, n), abs(numbers(count, n))]
    more = {}
    if kind == "draws":
        more = {"draws_x": numbers(count, 3, n), "draws_y": numbers(count, 3, n)}
    elif kind == "rho_xy":
        more = {"rho_xy": rng.uniform(-1, 1, (count, n))}
    elif kind == "correlation":
        more = {"correlation": 0.4}
    for method in METHODS:
        table = mr.estimate(*effects, (method,), **CLOSED, **used(method, more))
        assert len(table) == count
        for row in table.itertuples():
            if row.status == "ok":
                assert np.isfinite(row.estimate)
                assert 0 < row.se < np.inf
                assert 0 <= row.p_value <= 1
                assert row.ci_low <= row.ci_high
            else:
                assert f"`{row.status}`" in EXPLAINED
                assert np.isnan([row.estimate, row.se, row.ci_low, row.p_value]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_sequences_to_the_last_bit(method, kind):
    sizes = (7, 12, 7, 5)[: 2 if method in SLOW else 4]
    parts = [design(i, n, kind) for i, n in enumerate(sizes)]
    widest, more = max(sizes), {}
    effects = [np.full((len(sizes), widest), np.nan) for _ in range(4)]
    for name, value in parts[0][1].items():
        shape = (len(sizes), *value.shape[:-1], widest)
        more[name] = np.full(shape, np.nan)
        if name == "correlation":
            more[name] = np.tile(np.eye(widest), (len(sizes), 1, 1))
    for i, (given_effects, given_more) in enumerate(parts):
        for array, value in zip(effects, given_effects, strict=True):
            array[i, : sizes[i]] = value
        for name, value in given_more.items():
            more[name][i][tuple(slice(k) for k in value.shape)] = value
    options = CLOSED | {"bootstrap_iterations": 10}
    together = mr.estimate(*effects, (method,), **options, **used(method, more))
    for i, (given_effects, given_more) in enumerate(parts):
        alone = mr.estimate(*given_effects, (method,), **options, **used(method, given_more))
        pd.testing.assert_frame_equal(
            together.iloc[[i]].drop(columns="sequence").reset_index(drop=True),
            alone.drop(columns="sequence"),
            check_exact=True,
        )


@pytest.mark.parametrize("method", METHODS)
def test_units_do_not_matter_where_there_are_draws(method):
    """Instruments scatter, so that the part of the SE within a draw counts."""
    for seed in range(1 if method in SLOW else 6):
        effects, more = design(seed, 25, "draws")
        factor = np.random.default_rng(seed).uniform(0.01, 100.0, 2)
        scaled = [a * f for a, f in zip(effects, np.repeat(factor, 2), strict=True)]
        scaled_draws = {name: d * f for (name, d), f in zip(more.items(), factor, strict=True)}
        first, second = (
            mr.estimate(*e, (method,), **CLOSED, **d).iloc[0]
            for e, d in ((effects, more), (scaled, scaled_draws))
        )
        assert first.status == second.status
        unit = factor[1] / factor[0]
        for name in ("estimate", "se", "ci_low", "ci_high", "se_within", "se_draws"):
            value = first[name] * unit
            np.testing.assert_allclose(second[name], value, rtol=1e-5, atol=1e-5 * first.se * unit)
        np.testing.assert_allclose(second.p_value, first.p_value, rtol=1e-3, atol=1e-12)


def test_numbers_beyond_single_precision_have_a_status():
    (bx, se_x, by, se_y), _ = design(0, 8)
    for spoiled in (
        (bx * 1e60, se_x, by, se_y),
        (bx, se_x, by * -1e60, se_y),
        (bx, se_x * 1e-60, by, se_y),
        (bx, se_x, by, se_y * 1e160),
    ):
        table = mr.estimate(*spoiled, METHODS, **CLOSED)
        assert set(table["status"]) == {"not_finite"}


def test_likelihood_that_is_all_rounding_has_no_set():
    (bx, se_x, by, se_y), _ = design(1, 10)
    table = mr.estimate(bx, se_x, by, se_y * 1e-12, ("contamination_mixture",))
    assert table["status"].tolist() == ["not_estimable"]
    assert table["ci_set"].tolist() == [None]


@pytest.mark.parametrize("seed", range(4))
def test_presso_does_not_depend_on_orientation(seed):
    (bx, se_x, by, se_y), _ = design(seed, 12)
    flip = np.where(np.arange(12) % 2, -1.0, 1.0)
    first, second = (
        mr.estimate(x, se_x, y, 3 * se_y, ("mr_presso",), presso_iterations=100)
        for x, y in ((bx, by), (bx * flip, by * flip))
    )
    assert 0.02 < first["p_global"][0] == second["p_global"][0]


def test_positions_may_be_missing_but_not_broken():
    effects, _ = design(3, 6)
    positions = np.array([1.0, 1.0, 2.0, 2.0, 3.0, np.nan])
    missing = mr.estimate(*effects, ("ivw",), positions=positions)
    marked = mr.estimate(*effects, ("ivw",), positions=np.nan_to_num(positions, nan=-1.0))
    pd.testing.assert_frame_equal(missing, marked)
    for value in (1.5, np.inf, 1e300):
        with pytest.raises(ValueError, match="positions must be whole numbers"):
            mr.estimate(*effects, ("ivw",), positions=np.where(positions == 3, value, positions))


def test_several_exposures_any_numbers_give_rows_and_reasons():
    """A group without a usable sequence crashed where `correlation` was given."""
    zero = np.zeros((2, 5, 2))
    ones = np.ones((2, 5))
    table = mr.estimate_multivariable(zero, zero + 1, ones, ones, MULTIVARIABLE, correlation=0.3)
    assert set(table["status"]) == {"collinear_exposures"}
    rng = np.random.default_rng(0)
    for _ in range(60):
        numbers = [rng.choice(SPECIAL, (2, 5, 2)), rng.choice(SPECIAL, (2, 5))]
        bx, by = (np.where(rng.random(a.shape) < 0.7, rng.normal(size=a.shape), a) for a in numbers)
        se_x, se_y = (10.0 ** rng.uniform(-155, 155, a.shape) for a in numbers)
        table = mr.estimate_multivariable(bx, se_x, by, se_y, MULTIVARIABLE, bootstrap_iterations=5)
        fine = table["status"] == "ok"
        assert (table.loc[fine, "se"] > 0).all()
        assert np.isfinite(table.loc[fine, ["estimate", "se"]]).all(axis=None)
        assert table.loc[~fine, ["estimate", "se", "p_value"]].isna().all(axis=None)
