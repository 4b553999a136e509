import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from deepmr.effects import Response, error_correlation, on_scale, summarise_draws

RNG = np.random.default_rng(3)
REFERENCE = RNG.normal(size=7).astype(np.float32)
DELTA = RNG.normal(size=(5, 7)).astype(np.float16)


def test_logit_effects_are_the_stored_differences_in_float64():
    effects = on_scale(REFERENCE, DELTA)
    assert effects.draws.dtype == np.float64
    assert effects.draws.flags.c_contiguous
    np.testing.assert_array_equal(effects.draws, DELTA.T.astype(np.float64))
    np.testing.assert_allclose(effects.point, DELTA.astype(np.float64).mean(axis=1))
    np.testing.assert_allclose(effects.se, DELTA.astype(np.float64).std(axis=1, ddof=1))
    assert effects.evaluated is None


@pytest.mark.parametrize(
    ("kind", "response"),
    [("binary", expit), ("count", np.exp), ("continuous", lambda value: value)],
)
def test_response_scale_of_each_kind(kind, response):
    effects = on_scale(
        REFERENCE,
        DELTA,
        "probability",
        Response(kind),
        reference_eval=0.4,
        delta_eval=DELTA[:, 0],
    )
    mutant = REFERENCE.astype(float) + DELTA.astype(float)
    expected = response(mutant) - response(REFERENCE.astype(float))
    np.testing.assert_allclose(effects.draws, expected.T, rtol=1e-12)
    eval_expected = response(0.4 + DELTA[:, 0].astype(float)) - response(0.4)
    np.testing.assert_allclose(effects.evaluated, eval_expected, rtol=1e-12)


def test_calibrator_comes_before_the_scale():
    def platt(logit):
        return 0.5 * logit - 1.0

    logit = on_scale(REFERENCE, DELTA, response=Response(calibrator=platt))
    np.testing.assert_allclose(logit.draws, 0.5 * DELTA.T.astype(float), atol=1e-12)
    probability = on_scale(REFERENCE, DELTA, "probability", Response(calibrator=platt))
    reference = REFERENCE.astype(float)
    mutant = reference + DELTA.astype(float)
    expected = expit(platt(mutant)) - expit(platt(reference))
    np.testing.assert_allclose(probability.draws, expected.T, rtol=1e-12)


def test_one_draw_has_no_standard_error():
    effects = on_scale(REFERENCE[:1], DELTA[:, :1])
    assert np.isnan(effects.se).all()
    np.testing.assert_array_equal(effects.point, DELTA[:, 0].astype(float))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((REFERENCE, DELTA, "odds"), {}, "effect scale 'odds' is unknown; write one of logit"),
        ((REFERENCE[:3], DELTA), {}, r"found \(3,\) and \(5, 7\)"),
        ((REFERENCE, DELTA), {"reference_eval": 1.0}, "give both reference_eval and delta_eval"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        on_scale(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ordinal"}, "target type 'ordinal' is unknown; write one of binary"),
        ({"se_scale": 0.5}, "standard errors is 0.5; they are never narrowed"),
    ],
)
def test_a_response_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Response(**options)


def test_standard_errors_are_widened_about_the_mean():
    plain = on_scale(REFERENCE, DELTA)
    wide = on_scale(REFERENCE, DELTA, response=Response(se_scale=1.7))
    np.testing.assert_allclose(wide.point, plain.point, atol=1e-12)
    np.testing.assert_allclose(wide.se, 1.7 * plain.se, rtol=1e-12)
    covariance = np.cov(plain.draws, rowvar=False)
    np.testing.assert_allclose(np.cov(wide.draws, rowvar=False), 1.7**2 * covariance, rtol=1e-9)


def test_moderated_variances_borrow_from_each_other():
    rng = np.random.default_rng(1)
    reference, delta = np.zeros(4), rng.normal(size=(300, 4))
    own = on_scale(reference, delta)
    moderated = on_scale(reference, delta, response=Response(moderated=True))
    np.testing.assert_array_equal(moderated.point, own.point)
    # The true standard deviation of all is 1; four draws alone know it badly.
    assert np.abs(moderated.se - 1).mean() < 0.3 * np.abs(own.se - 1).mean()
    half = moderated.using(slice(0, None, 2))
    np.testing.assert_allclose(half.se, summarise_draws(moderated.draws[::2], True)[1])


@given(st.floats(-0.95, 0.95), st.integers(0, 1000))
def test_error_correlation_is_numpys(rho, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(30, 4))
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
    expected = [np.corrcoef(x[:, j], y[:, j])[0, 1] for j in range(4)]
    np.testing.assert_allclose(error_correlation(x, y), expected, atol=1e-10)


def test_error_correlation_without_variation_or_with_other_shape():
    x = np.array([[1.0, 2.0], [1.0, 3.0]])
    rho = error_correlation(x, x)
    assert np.isnan(rho[0])
    assert rho[1] == 1.0
    with pytest.raises(ValueError, match=r"found \(2, 2\) and \(2,\)"):
        error_correlation(x, x[0])


def test_without_a_draw_there_is_no_effect():
    with pytest.raises(ValueError, match="no draw"):
        on_scale(np.zeros(0), np.zeros((4, 0)))
