from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from torch import nn

from deepmr.deepiv.stages.densities import Categorical, MixtureDensity
from deepmr.deepiv.stages.fitting import Settings, split_held_out
from deepmr.deepiv.stages.networks import Design
from deepmr.deepiv.stages.treatment import Treatment, fit_treatment

QUICK = Settings(epochs=40, batch_size=100, weight_decay=0.0)
SMALL = Design(1, hidden=(32,), dropout=0.0)
BINARY = Categorical((0.0, 1.0))


def data(n: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    c = rng.normal(size=n)
    return torch.as_tensor(c[:, None], dtype=torch.float32), c, rng.normal(size=(n, 1))


def treatment(contexts: Any, z: np.ndarray, x: np.ndarray, **changes: Any) -> Treatment:
    rows, held_out = split_held_out(len(x), 0.2, 0)
    options: dict[str, Any] = {
        "density": MixtureDensity(4),
        "design": SMALL,
        "settings": QUICK,
        "rows": rows,
        "held_out": held_out,
        "seed": 1,
    } | changes
    return fit_treatment(contexts, z, x, **options)


def test_the_density_is_a_mixture_of_normals() -> None:
    weights, means, sds = [0.2, 0.5, 0.3], [-1.0, 0.5, 3.0], [0.3, 1.0, 0.1]
    outputs = torch.tensor([[*np.log(weights), *means, *np.log(sds)]] * 50, dtype=torch.float64)
    density = MixtureDensity(3)
    p = np.linspace(-4, 5, 50)
    expected = np.log(norm.pdf(p[:, None], means, sds) @ weights)
    np.testing.assert_allclose(density.log_density(outputs, torch.tensor(p)), expected, rtol=1e-9)
    mean = np.dot(weights, means)
    np.testing.assert_allclose(density.mean(outputs), np.full(50, mean), rtol=1e-12)
    torch.manual_seed(0)
    draws = density.sample(outputs.float(), 4000).numpy()
    variance = np.dot(weights, np.square(sds) + np.square(means)) - mean**2
    assert draws.shape == (50, 4000)
    assert abs(draws.mean() - mean) < 4 * (variance / draws.size) ** 0.5
    assert draws.var() == pytest.approx(variance, rel=0.02)
    assert (np.abs(draws - 3) < 0.2).mean() == pytest.approx(0.3 * 0.954, abs=0.01)


def test_categories_have_the_probabilities_of_a_softmax() -> None:
    density = Categorical([-1.0, 0.0, 2.5])
    logits = np.array([[0.3, -1.0, 0.2], [2.0, 0.0, -3.0]])
    outputs = torch.tensor(logits)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = density.log_density(outputs, torch.tensor([2.5, -1.0], dtype=torch.float64))
    np.testing.assert_allclose(found, np.log(probability[[0, 1], [2, 0]]), rtol=1e-9)
    np.testing.assert_allclose(density.mean(outputs), probability @ [-1, 0, 2.5], rtol=1e-9)
    assert density.log_density(outputs, torch.tensor([1.0, 0.0]))[0] == -np.inf
    torch.manual_seed(0)
    draws = density.sample(outputs.float(), 20_000).numpy()
    for level, column in zip((-1.0, 0.0, 2.5), probability.T, strict=True):
        np.testing.assert_allclose((draws == level).mean(1), column, atol=0.015)


@pytest.mark.parametrize("levels", [(1.0,), (1.0, 0.0), (0.0, 0.0, 1.0)])
def test_levels_ascend(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Categorical(levels)


def test_a_mixture_recovers_a_known_bimodal_density() -> None:
    contexts, c, z = data(3000)
    rng = np.random.default_rng(1)
    side = rng.choice([-2.0, 2.0], size=3000)
    # In units far from 0 and 1, which are the caller's own.
    x = 50 + 10 * (0.5 * c + 0.4 * z[:, 0] + side + 0.3 * rng.normal(size=3000))
    fitted = treatment(contexts, z, x, settings=replace(QUICK, epochs=25))
    rows = np.arange(500)
    mean = 50 + 10 * (0.5 * c + 0.4 * z[:, 0])[rows]
    assert np.abs(fitted.mean(contexts, z, rows) - mean).mean() < 1.5
    draws = fitted.sample(contexts, z, rows, 400, seed=2)
    assert (draws - mean[:, None]).mean() == pytest.approx(0, abs=1.0)
    assert draws.var(axis=1).mean() == pytest.approx(100 * (4 + 0.09), rel=0.05)
    # Bimodal: next to nothing in the middle.
    assert (np.abs(draws - mean[:, None]) < 7).mean() < 0.02


def test_categories_recover_logistic_probabilities() -> None:
    contexts, c, z = data(2000)
    x = np.random.default_rng(1).binomial(1, expit(0.5 + 1.2 * z[:, 0] - 0.8 * c)).astype(float)
    rows, held_out = split_held_out(2000, 0.2, 0)
    linear = replace(SMALL, hidden=())
    thorough = replace(QUICK, epochs=60, learning_rate=0.03, tolerance=1e9)
    fitted = treatment(contexts, z, x, density=BINARY, design=linear, settings=thorough)
    columns = np.column_stack((z, c))
    logistic = LogisticRegression(C=np.inf).fit(columns[rows], x[rows])
    expected = logistic.predict_proba(columns[held_out])[:, 1]
    np.testing.assert_allclose(fitted.mean(contexts, z, held_out), expected, atol=5e-3)


def test_the_head_without_the_instrument_averages_over_it() -> None:
    contexts, c, z = data(4000)
    z = (z > 0).astype(float)
    q = expit(2 * z[:, 0] - 1 + c)
    x = np.random.default_rng(1).binomial(1, q).astype(float)
    fitted = treatment(
        contexts, z, x, density=BINARY, settings=replace(QUICK, epochs=15), without_instrument=True
    )
    rows = np.arange(4000)
    r = (expit(1 + c) + expit(-1 + c)) / 2
    assert np.abs(fitted.mean_without(contexts, rows) - r).mean() < 0.03
    assert np.abs(fitted.mean(contexts, z, rows) - q).mean() < 0.03
    assert fitted.sample_without(contexts, rows, 50, 0).mean(1) @ r / (r @ r) == pytest.approx(
        1, abs=0.03
    )


def test_both_heads_share_one_encoder() -> None:
    made = []

    def encoder() -> nn.Module:
        made.append(nn.Linear(1, 6))
        return made[-1]

    contexts, c, z = data(300)
    design = Design(6, hidden=(8,), dropout=0.0, encoder=encoder)
    settings = replace(QUICK, epochs=2, averaging=0.0)
    fitted = treatment(contexts, z, c, design=design, settings=settings, without_instrument=True)
    assert len(made) == 1
    names = {name.rsplit(".", maxsplit=1)[0] for name in fitted.fitted.network.state_dict()}
    perceptron = ("perceptron.0", "perceptron.3")
    assert names == {"given.encoder"} | {
        f"{a}.{b}" for a in ("given", "without") for b in perceptron
    }


def test_the_head_without_the_instrument_must_be_asked_for() -> None:
    contexts, c, z = data(100)
    fitted = treatment(contexts, z, c, settings=replace(QUICK, epochs=0))
    with pytest.raises(ValueError, match="without_instrument=True"):
        fitted.mean_without(contexts, np.arange(3))


def test_units_of_exposure_and_instrument_do_not_matter() -> None:
    contexts, c, z = data(400)
    x = c + z[:, 0] + np.random.default_rng(1).normal(size=400)
    settings = replace(QUICK, epochs=3)
    rows = np.arange(100)
    plain = treatment(contexts, z, x, settings=settings)
    other = treatment(contexts, 1000 * z - 5, 20 * x + 7, settings=settings)
    np.testing.assert_allclose(
        other.mean(contexts, 1000 * z - 5, rows), 20 * plain.mean(contexts, z, rows) + 7, atol=0.02
    )


def test_samples_depend_on_the_seed_and_have_the_stated_mean() -> None:
    contexts, c, z = data(300)
    fitted = treatment(contexts, z, c + z[:, 0], settings=replace(QUICK, epochs=3))
    rows = np.array([200, 3, 3])
    draws = fitted.sample(contexts, z, rows, 3000, seed=4)
    np.testing.assert_array_equal(draws, fitted.sample(contexts, z, rows, 3000, seed=4))
    assert not np.array_equal(draws, fitted.sample(contexts, z, rows, 3000, seed=5))
    assert not np.array_equal(draws[1], draws[2])
    error = draws.std(axis=1) / 3000**0.5
    assert (np.abs(draws.mean(axis=1) - fitted.mean(contexts, z, rows)) < 4 * error).all()
    torch.manual_seed(0)
    anew = fitted.drawer(contexts, z)(torch.as_tensor(rows), 3000).numpy()
    assert anew.shape == (3, 3000)
    assert (np.abs(anew.mean(axis=1) - draws.mean(axis=1)) < 6 * error).all()


def test_what_cannot_be_learned_from_is_refused() -> None:
    contexts, c, z = data(100)
    settings = replace(QUICK, epochs=0)
    with pytest.raises(ValueError, match="none of the levels"):
        treatment(contexts, z, c, density=BINARY, settings=settings)
    with pytest.raises(ValueError, match=r"give \(n, k\)"):
        treatment(contexts, z[:, 0], c, settings=settings)
    with pytest.raises(ValueError, match="99 rows for 100 contexts"):
        treatment(contexts, z, c[:99], settings=settings)
    missing = np.where(np.arange(100) == 7, np.nan, c)
    with pytest.raises(ValueError, match=r"1 of 100 used rows .* row 7"):
        treatment(contexts, z, missing, settings=settings)
    unused = np.delete(np.arange(100), 7)
    fitted = treatment(
        contexts, z, missing, settings=settings, rows=unused[:80], held_out=unused[80:]
    )
    assert np.isfinite(fitted.mean(contexts, z, np.arange(100))).all()
