"""What no estimator may depend on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import mr
from deepmr.mr.registry import ESTIMATORS

METHODS = tuple(ESTIMATORS)
CLOSED = {"bootstrap_iterations": 0, "presso_iterations": 200}
SIMULATED = ("egger_simex",)  # adds noise by the place of an instrument
MONTE_CARLO = ("mr_presso",)
SLOW = ("bayesian_mode",)
designs = st.tuples(st.integers(0, 2**32 - 1), st.integers(6, 25))


def design(seed, n):
    """Effects with a few invalid instruments, strong enough for every method."""
    rng = np.random.default_rng(seed)
    gamma = rng.uniform(0.3, 1.0, n) * rng.choice([-1, 1], n)
    se_x, se_y = rng.uniform(0.01, 0.03, (2, n))
    own = 0.2 * rng.standard_normal(n) * (rng.random(n) < 0.2)
    bx = gamma + se_x * rng.standard_normal(n)
    by = 0.6 * gamma + own + se_y * rng.standard_normal(n)
    return [bx, se_x, by, se_y]


def estimated(effects, method, **options):
    return mr.estimate(*effects, (method,), **(CLOSED | options)).iloc[0]


def assert_same(first, second, rtol):
    assert first.status == second.status
    if first.status == "ok":
        np.testing.assert_allclose(first.estimate, second.estimate, rtol=rtol, atol=rtol * first.se)
        np.testing.assert_allclose(first.se, second.se, rtol=10 * rtol)
        np.testing.assert_allclose(first.p_value, second.p_value, rtol=100 * rtol, atol=1e-12)


def tolerance(method):
    return 0.1 if method in SIMULATED else 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_order_and_orientation_of_instruments(method):
    @settings(max_examples=3 if method in SLOW else 8, deadline=None, derandomize=True)
    @given(designs, st.randoms(use_true_random=False))
    def check(drawn, random):
        effects = design(*drawn)
        n = len(effects[0])
        order = random.sample(range(n), n)
        sign = np.array([random.choice([-1.0, 1.0]) for _ in range(n)])
        bx, se_x, by, se_y = (a[order] for a in effects)
        changed = [sign * bx, se_x, sign * by, se_y]
        before, after = estimated(effects, method), estimated(changed, method)
        if method in SIMULATED:
            assert abs(after.estimate - before.estimate) < 0.5 * before.se
        else:
            assert_same(before, after, tolerance(method))

    check()


@pytest.mark.parametrize("method", METHODS)
def test_units_of_exposure_and_outcome(method):
    @settings(max_examples=3 if method in SLOW else 8, deadline=None, derandomize=True)
    @given(designs, st.floats(-3, 3), st.floats(-3, 3), st.sampled_from([-1.0, 1.0]))
    def check(drawn, x, y, sign):
        bx, se_x, by, se_y = design(*drawn)
        c_x, c_y = 10.0**x, 10.0**y
        if method in MONTE_CARLO:  # whether it looks for outliers hangs on simulated data
            sign = 1.0
        before = estimated([bx, se_x, by, se_y], method)
        after = estimated([c_x * bx, c_x * se_x, sign * c_y * by, c_y * se_y], method)
        after.estimate *= sign * c_x / c_y
        after.se *= c_x / c_y
        assert_same(before, after, 1e-4 if method in SLOW else 1e-5)

    check()


@pytest.mark.parametrize("method", METHODS)
def test_padding_is_absence(method):
    effects = [design(1, 12), design(2, 9), design(3, 15)]
    padded = [
        np.stack([np.pad(one[k], (0, 15 - len(one[k])), constant_values=np.nan) for one in effects])
        for k in range(4)
    ]
    together = mr.estimate(*padded, (method,), **CLOSED)
    for i, one in enumerate(effects):
        alone = mr.estimate(*one, (method,), **CLOSED)
        pd.testing.assert_frame_equal(
            together.iloc[[i]].reset_index(drop=True).drop(columns="sequence"),
            alone.drop(columns="sequence"),
            check_exact=True,
        )


@pytest.mark.parametrize("method", METHODS)
def test_interval_and_p_value_agree(method):
    rng = np.random.default_rng(0)
    rows = [design(seed, 20) for seed in range(12)]
    for k, row in enumerate(rows):  # from a clear effect to none
        row[2] = row[2] - 0.6 * row[0] * (k / 11) + 0.02 * rng.standard_normal(20)
    table = mr.estimate(*(np.stack(part) for part in zip(*rows, strict=True)), (method,), **CLOSED)
    table = table[table["status"] == "ok"]
    assert len(table) > 6
    excluded = []
    for row in table.itertuples():
        parts = np.array([[row.ci_low, row.ci_high]]) if row.ci_set is None else row.ci_set
        excluded.append(not any(low <= 0 <= high for low, high in parts))
        assert parts[0, 0] == row.ci_low
        assert parts[-1, 1] == row.ci_high
    assert excluded == (table["p_value"] < 0.05).tolist()
    assert any(excluded)


@pytest.mark.parametrize("method", ["ivw", "ivw_fixed", "ivw_delta", "egger", "simple_median"])
def test_every_allele_twice_keeps_the_estimate(method):
    effects = design(5, 15)
    once = estimated(effects, method)
    twice = estimated([np.repeat(a, 2) for a in effects], method)
    assert twice.estimate == pytest.approx(once.estimate, rel=1e-9)
    assert twice.n_instruments == 30
    assert twice.mean_f == pytest.approx(once.mean_f)


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicate_allele_counts_as_one_with_twice_the_say(method):
    """Toward the duplicated instrument's own ratio, or not at all; never away, never an error."""
    effects = design(5, 15)
    twice = [np.append(a, a[3]) for a in effects]
    once, with_copy = estimated(effects, method), estimated(twice, method)
    assert with_copy.status == once.status == "ok"
    assert with_copy.n_instruments == 16
    assert abs(with_copy.estimate - once.estimate) < 2 * max(once.se, with_copy.se)
