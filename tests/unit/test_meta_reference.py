"""Every number of metafor in our domain, on seven data sets (sources: tests/reference/README.md).

Both sides solve to machine precision (metafor with tolerances of 1e-14), so all agree to 1e-10;
p-values of 1e-100 and beyond lose digits to the quantile they come from.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from deepmr import meta
from deepmr.meta.heterogeneity import (
    LIKELIHOODS,
    METHODS,
    estimate_tau2,
    generalised_q,
    log_likelihood,
    score,
)
from deepmr.meta.intervals import i2_h2, profile_likelihood

REFERENCE = Path(__file__).parents[1] / "reference"
FIELDS = {
    "estimate": "beta",
    "se": "se",
    "p_value": "pval",
    "ci_low": "ci.lb",
    "ci_high": "ci.ub",
    "tau2": "tau2",
    "i2": "I2",
    "h2": "H2",
    "q": "QE",
    "q_p": "QEp",
    "pi_low": "pi.lb",
    "pi_high": "pi.ub",
}
# Number of calls of rma() in each file.
FITS = {
    "bangertdrowns2004": 27,
    "bcg": 27,
    "hackshaw1998": 27,
    "konstantopoulos2011": 27,
    "mcdaniel1994": 27,
    "synth2000": 7,
    "synth_homog50": 27,
}
NAMES = {name: name for name in METHODS if name != "FE"} | {"EE": "FE"}


def read(name):
    case = json.loads((REFERENCE / f"meta_{name}.json").read_text())
    y, v = (np.array(case["inputs"][key]) for key in ("yi", "vi"))
    assert case["k"] == y.size
    return y, v, case["results"]


def test_every_file_is_tested():
    assert {path.stem[5:] for path in REFERENCE.glob("meta_*.json")} == set(FITS)


def agree_with_rma(name):
    y, v, results = read(name)
    fits = [key.split("_") for key in results]
    fits = [key for key in fits if len(key) == 2 and key[0] in NAMES]
    assert len(fits) == FITS[name]
    for theirs, test in fits:
        expected, method = results[f"{theirs}_{test}"], NAMES[theirs]
        ours = meta.random_effects(y, v, method, test)
        assert (ours.k, ours.n_dropped, ours.status, ours.test) == (y.size, 0, "ok", test)
        assert ours.reason == ""
        for field, key in FIELDS.items():
            value = getattr(ours, field)
            if expected[key] is None:
                assert np.isnan(value), (theirs, test, field)
            else:
                np.testing.assert_allclose(
                    value, expected[key], rtol=1e-10, atol=0, err_msg=f"{theirs} {test} {field}"
                )
        assert ours.df == (np.inf if expected["dfs"] is None else expected["dfs"])
        np.testing.assert_allclose(ours.estimate / ours.se, expected["zval"], rtol=1e-11)
        fit = log_likelihood(y[None], v[None], np.array([ours.tau2]), method == "REML")
        np.testing.assert_allclose(fit, expected["loglik"], rtol=1e-12)
    for method in LIKELIHOODS:
        expected = results[f"exact_Ok_{method}"]
        plain, knapp = (meta.random_effects(y, v, method, test) for test in ("z", "knha"))
        found = {"se_knha": knapp.se}
        found |= {key: getattr(plain, field) for field, key in FIELDS.items()}
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-12, err_msg=f"{method} {key}")


def agree_with_confint(name):
    y, v, results = read(name)
    ours = meta.random_effects(y, v, results["model_for_confint_regtest"])
    intervals = np.array(
        [
            [getattr(ours, f"{field}_{end}") for end in ("low", "high")]
            for field in ("tau2", "i2", "h2")
        ]
    )
    expected = np.array(results["qprofile_REMLfit"]["random"])
    assert results["qprofile_REMLfit"]["rows"] == ["tau^2", "tau", "I^2(%)", "H^2"]
    np.testing.assert_allclose(intervals, expected[[0, 2, 3], 1:], rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(intervals[0]), expected[1, 1:], rtol=1e-10)
    if "profile_likelihood_CI" in results:
        bounds = profile_likelihood(y, v, results["model_for_confint_regtest"])
        expected = np.array(results["profile_likelihood_CI"])
        np.testing.assert_allclose(bounds, expected[0, 1:], rtol=1e-10)
        np.testing.assert_allclose(np.sqrt(bounds), expected[1, 1:], rtol=1e-10)
        typical = ours.tau2 / (ours.h2 - 1)
        i2, h2 = zip(*(i2_h2(bound, typical) for bound in bounds), strict=True)
        np.testing.assert_allclose([i2, h2], expected[2:, 1:], rtol=1e-9)
    return ours, expected[:, 0]


def agree(name):
    agree_with_rma(name)
    ours, theirs = agree_with_confint(name)
    np.testing.assert_allclose(
        [ours.tau2, np.sqrt(ours.tau2), ours.i2, ours.h2], theirs, rtol=1e-10
    )


def test_metadat_bangertdrowns2004_writing_to_learn():
    agree("bangertdrowns2004")


def test_metadat_bcg_vaccine_log_risk_ratios():
    agree("bcg")


def test_metadat_hackshaw1998_passive_smoking_log_odds_ratios():
    agree("hackshaw1998")


def test_metadat_konstantopoulos2011_schools():
    agree("konstantopoulos2011")


def test_metadat_mcdaniel1994_interviews_fisher_z():
    agree("mcdaniel1994")


def test_synthetic_homogeneous_50():
    agree("synth_homog50")


def test_synthetic_2000():
    agree_with_rma("synth2000")
    ours, theirs = agree_with_confint("synth2000")
    # confint() of this file was evidently called on a fit with a wider tolerance, that stops short:
    # at its tau2 the equation Q = k - 1 is missed by 1.7, at ours by rounding.
    y, v, results = read("synth2000")
    assert results["model_for_confint_regtest"] == "PM"

    def missed(tau2):
        return abs(generalised_q(y[None], v[None], np.array([tau2]))[0] - (y.size - 1))

    assert missed(ours.tau2) < 1e-9
    assert missed(theirs[0]) > 1.7
    np.testing.assert_allclose(ours.tau2, theirs[0], rtol=2e-3)
    np.testing.assert_allclose(ours.tau2, results["PM_z"]["tau2"], rtol=1e-12)


@pytest.mark.parametrize("name", FITS)
def test_the_scores_of_the_likelihoods_are_as_near_to_0_as_those_of_the_reference(name):
    y, v, results = read(name)
    for method in LIKELIHOODS:
        ours = estimate_tau2(y[None], v[None], method)
        theirs = np.array([results[f"exact_Ok_{method}"]["tau2"]])
        ours, theirs = (
            abs(score(y[None], v[None], at, method == "REML")[0]) for at in (ours, theirs)
        )
        assert ours <= max(theirs, 1e-12 * (1 / v).sum())
