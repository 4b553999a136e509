import numpy as np
import pytest
from scipy.stats import chi2

from deepmr.meta.heterogeneity import estimate_tau2, generalised_q, log_likelihood
from deepmr.meta.intervals import i2_h2, prediction_df, profile_likelihood, q_profile


def example(k=20, tau2=0.1, seed=0):
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.05, 0.3, k)
    return rng.normal(0.3, np.sqrt(v + tau2)), v


def test_q_profile_covers():
    rng = np.random.default_rng(4)
    v = np.tile(rng.uniform(0.05, 0.3, 8), (3000, 1))
    for tau2 in (0.05, 0.3):
        y = rng.normal(0, np.sqrt(v + tau2))
        inside = chi2.cdf(generalised_q(y, v, np.full(len(y), tau2)), 7)
        bounds = [q_profile(y[i], v[i]) for i in range(300)]
        held = np.array([low <= tau2 <= high for low, high in bounds])
        # Exactly those whose Q at the truth is no quantile of its tails.
        np.testing.assert_array_equal(held, (inside[:300] > 0.025) & (inside[:300] < 0.975))
        assert ((inside > 0.025) & (inside < 0.975)).mean() == pytest.approx(0.95, abs=0.012)


def test_q_profile_of_estimates_that_agree_too_well_is_0():
    y, v = example()
    assert q_profile(y / 100, v) == (0.0, 0.0)
    low, high = q_profile(y / 1.2, v)
    assert low == 0
    assert high > 0


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("seed", range(5))
def test_profile_likelihood_is_1_92_below_its_maximum(method, seed):
    y, v = example(seed=seed)

    def at(tau2):
        return log_likelihood(y[None], v[None], np.array([tau2]), method == "REML")[0]

    best = estimate_tau2(y[None], v[None], method)[0]
    low, high = profile_likelihood(y, v, method)
    floor = at(best) - chi2.ppf(0.95, 1) / 2
    assert low <= best < high
    assert at(high) == pytest.approx(floor, abs=1e-10)
    if low == 0:
        assert at(0.0) >= floor
    else:
        assert at(low) == pytest.approx(floor, abs=1e-10)


def test_profile_likelihood_from_0():
    y, v = example(tau2=0.0, seed=3)
    low, high = profile_likelihood(y / 10, v)
    assert low == 0
    assert 0 < high < v.max()


def test_profile_likelihood_bad_input():
    y, v = example()
    with pytest.raises(ValueError, match="'DL' has no likelihood; write one of ML, REML"):
        profile_likelihood(y, v, "DL")
    with pytest.raises(ValueError, match="needs 2 estimates or more; found 1"):
        profile_likelihood(y[:1], v[:1])


def test_i2_and_h2_say_the_same():
    i2, h2 = i2_h2(0.3, 0.1)
    assert (i2, h2) == pytest.approx((75.0, 4.0))
    assert i2 == pytest.approx(100 * (1 - 1 / h2))
    assert i2_h2(0.0, 0.1) == (0.0, 1.0)


def test_degrees_of_freedom_of_a_prediction():
    assert prediction_df("metafor", 9, 8.0) == 8
    assert prediction_df("metafor", 9, np.inf) == np.inf
    assert (prediction_df("hts", 9, np.inf), prediction_df("t_k-1", 9, np.inf)) == (7, 8)
    assert prediction_df("normal", 9, 8.0) == np.inf
    assert np.isnan(prediction_df("hts", 2, np.inf))
