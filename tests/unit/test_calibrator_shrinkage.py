"""Platt's map of a target with few positive windows leans on the other targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from deepmr.calibration.affine import AffineFit, fit_affine
from deepmr.calibration.fitting import fit_targets
from deepmr.calibration.maps import NAMES, Affine, Identity
from deepmr.calibration.shrinkage import WEAK_VARIANCE, prior_from, weight_of_prior

FITS = st.builds(
    lambda a, b, va, vb: AffineFit(a, b, np.diag([va, vb]), 0.1),
    st.floats(0.2, 4),
    st.floats(-3, 3),
    st.floats(1e-4, 1),
    st.floats(1e-4, 1),
)


def network(n_few=2, n_many=8, n=4000, seed=0):
    """Targets of one network, all overconfident by about 1.5 and shifted by about .8."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-3.2, 1.5, (n, n_few + n_many))
    truth[:, :n_few] -= 3.0
    labels = (rng.random(truth.shape) < expit(truth)).astype(float)
    slope = np.exp(rng.normal(np.log(1.5), 0.1, n_few + n_many))
    logits = slope * truth + rng.normal(0.8, 0.2, n_few + n_many)
    draws = logits[:, None, :] + rng.normal(0, 0.2, (n, 3, n_few + n_many))
    names = [f"few{i}" for i in range(n_few)] + [f"many{i}" for i in range(n_many)]
    return truth, labels, draws, names


def platt(labels, draws, names, **options):
    return fit_targets("platt", labels, draws, names, ["binary"] * len(names), **options)


def test_a_target_alone_is_held_near_the_identity():
    mean, covariance = prior_from([])
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_array_equal(covariance, np.diag(WEAK_VARIANCE))


def test_the_prior_by_hand():
    fits = [AffineFit(np.exp(y), 0.0, np.diag([v * np.exp(2 * y), 1.0]), 0.1)
            for y, v in ((0.0, 0.01), (1.0, 0.01), (2.0, 0.04))]  # fmt: skip
    w, y = np.array([100.0, 100.0, 25.0]), np.array([0.0, 1.0, 2.0])
    centre = (w * y).sum() / w.sum()
    q = (w * (y - centre) ** 2).sum()
    laird = (q - 2) / (w.sum() - (w**2).sum() / w.sum())
    tau2 = (0.25 + 2 * laird) / 3
    weights = 1 / (1 / w + tau2)
    mean, covariance = prior_from(fits)
    assert mean[0] == pytest.approx((weights * y).sum() / weights.sum())
    assert covariance[0, 0] == pytest.approx(tau2 + 1 / weights.sum())
    # Intercepts are all 0: only the weak prior's third is left.
    assert mean[1] == 0
    assert covariance[1, 1] == pytest.approx(1 / 3 + (1 + 1 / 3) / 3)


@given(st.lists(FITS, max_size=6), st.randoms())
def test_the_prior_does_not_depend_on_the_order(fits, random):
    mean, covariance = prior_from(fits)
    shuffled = random.sample(fits, len(fits))
    again = prior_from(shuffled)
    np.testing.assert_array_equal(again[0], mean)
    np.testing.assert_array_equal(again[1], covariance)
    assert (np.diag(covariance) > 0).all()


@pytest.mark.parametrize(
    "useless",
    [
        AffineFit(-0.5, 0.0, np.eye(2), 0.1),
        AffineFit(1.0, 0.0, np.diag([np.inf, np.inf]), 0.1),
        AffineFit(1.0, 0.0, np.zeros((2, 2)), 0.1),
    ],
)
def test_a_fit_that_says_nothing_lends_nothing(useless):
    fits = [AffineFit(1.3, -0.2, np.diag([0.01, 0.02]), 0.1)] * 2
    np.testing.assert_array_equal(prior_from([*fits, useless])[0], prior_from(fits)[0])
    np.testing.assert_array_equal(prior_from([useless])[1], np.diag(WEAK_VARIANCE))


@settings(max_examples=30)
@given(st.floats(1e-6, 1e6), st.integers(0, 10))
def test_the_weight_of_the_prior_lies_between_0_and_1(variance, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(-2, 1, 100)
    y = (rng.random(100) < expit(x)).astype(float)
    prior = (np.zeros(2), variance * np.diag(WEAK_VARIANCE))
    weight = weight_of_prior(fit_affine(y, x[:, None], prior=prior), prior)
    assert 0 <= weight <= 1
    if variance > 1e5:
        assert weight < 0.01
    if variance < 1e-5:
        assert weight > 0.99


def test_only_targets_with_few_windows_are_shrunk():
    _, labels, draws, names = network()
    alone = platt(labels, draws, names, shrink_below=0)
    fitted = platt(labels, draws, names)
    for one, own in zip(fitted, alone, strict=True):
        assert own.shrinkage == 0
        if one.n_positive >= 100:
            assert (one.calibrator, one.shrinkage) == (own.calibrator, 0.0)
        else:
            assert 0 < one.shrinkage < 1
            assert one.calibrator != own.calibrator
    assert [one.shrinkage > 0 for one in fitted] == [True] * 2 + [False] * 8


def test_few_negatives_count_like_few_positives():
    _, labels, draws, names = network()
    few = [f.shrinkage for f in platt(labels, draws, names)]
    mirrored = platt(1 - labels, -draws, names)
    assert [f.shrinkage > 0 for f in mirrored] == [s > 0 for s in few]


def test_shrunk_targets_do_not_depend_on_the_order_of_targets():
    _, labels, draws, names = network(seed=3)
    order = np.random.default_rng(0).permutation(len(names))
    expected = {f.target: f for f in platt(labels, draws, names)}
    for one in platt(labels[:, order], draws[:, :, order], [names[i] for i in order]):
        assert one.calibrator == expected[one.target].calibrator
        assert one.shrinkage == expected[one.target].shrinkage


def test_shrinking_brings_maps_nearer_to_the_truth():
    excess = []
    for seed in range(8):
        truth, labels, draws, names = network(n_few=4, n_many=6, n=3000, seed=seed)
        for options in ({"shrink_below": 0}, {}):
            for k, one in enumerate(platt(labels, draws, names, **options)[:4]):
                if one.status == "ok":
                    p = expit(one.calibrator(draws[:, :, k])).mean(axis=1)
                    q = expit(truth[:, k])
                    divergence = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
                    excess.append((bool(options), divergence.mean()))
    own, shrunk = (np.mean([e for o, e in excess if o is chosen]) for chosen in (True, False))
    assert shrunk < 0.75 * own


def test_targets_that_cannot_be_calibrated_stay_as_they_are():
    rng = np.random.default_rng(0)
    labels = np.zeros((200, 7))
    labels[:50, 0] = 1
    labels[:4, 1] = 1
    labels[4:, 2] = 1
    labels[:, 3] = 1
    labels[:, 4] = np.nan
    labels[:, 5] = rng.poisson(2, 200)
    labels[:, 6] = rng.normal(0, 1, 200)
    kinds = ["binary"] * 5 + ["count", "continuous"]
    expected = ["ok", "too_few_positives", "too_few_negatives", "one_class", "no_labels",
                "count_target", "continuous_target"]  # fmt: skip
    draws = rng.normal(0, 1, (200, 2, 7))
    for name in NAMES:
        fitted = fit_targets(name, labels, draws, list("abcdefg"), kinds)
        assert [f.status for f in fitted] == expected
        assert [isinstance(f.calibrator, Identity) for f in fitted] == [False] + [True] * 6
        assert [f.n for f in fitted] == [200] * 4 + [0] + [200] * 2


def test_the_only_target_leans_on_the_identity():
    _, labels, draws, names = network(n_few=1, n_many=0)
    (one,) = platt(labels, draws, names)
    (own,) = platt(labels, draws, names, shrink_below=0)
    assert isinstance(one.calibrator, Affine)
    assert one.n_positive < 100
    assert 0 < one.shrinkage < 1
    assert abs(one.calibrator.b) < abs(own.calibrator.b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": ["binary"]}, "1 kinds for 2 columns"),
        ({"kinds": ["binary", "peaks"]}, "target B: unknown kind 'peaks'"),
        ({"name": "scaling"}, "'scaling' is unknown"),
        ({"draws": np.zeros((40, 2, 3))}, "shape"),
        ({"labels": np.repeat([[0.0, 0.5], [1.0, 1.0]], 20, axis=0)}, "target B: labels"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "name": "platt",
        "labels": np.repeat([[0.0, 1.0], [1.0, 0.0]], 20, axis=0),
        "draws": np.zeros((40, 2, 2)),
        "targets": ["A", "B"],
        "kinds": ["binary", "binary"],
    } | change
    with pytest.raises(ValueError, match=message):
        fit_targets(*given.values())
