from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit

from deepmr.deepiv.stages.binary import LocalEffects, fit_local_effects
from deepmr.deepiv.stages.fitting import Settings, split_held_out
from deepmr.deepiv.stages.networks import Design

N = 3000
QUICK = Settings(epochs=30, batch_size=100)
SMALL = Design(1, hidden=(32,), dropout=0.0)
ROWS = np.arange(N)


def data() -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(0)
    c = rng.uniform(-2, 2, size=N)
    return torch.as_tensor(c[:, None], dtype=torch.float32), c, rng.uniform(size=N), rng


def effects(contexts: Any, q: np.ndarray, y: np.ndarray, **changes: Any) -> LocalEffects:
    rows, held_out = split_held_out(len(y), 0.2, 0)
    options: dict[str, Any] = {
        "design": SMALL,
        "settings": QUICK,
        "rows": rows,
        "held_out": held_out,
        "seed": 3,
        "bounded": False,
    } | changes
    return fit_local_effects(contexts, q, y, **options)


def test_both_outcomes_are_recovered_from_known_probabilities() -> None:
    contexts, c, q, rng = data()
    h0, h1 = 100 + 5 * c**2, 108 + 5 * c**2 + 6 * c
    x = rng.binomial(1, q)
    # The noise knows x, as a confounder's does, and not q. Of 8 (x - q) the groups x = 0, 1 differ
    # by 8 (1 - 1/3), for the mean of q is 1/3 in one and 2/3 in the other.
    y = np.where(x, h1, h0) + 8 * (x - q) + rng.normal(size=N)
    low, high = effects(contexts, q, y).predict(contexts, ROWS)
    assert np.abs(low - h0).mean() < 1.2
    assert np.abs(high - h1).mean() < 1.2
    assert np.corrcoef(high - low, h1 - h0)[0, 1] > 0.98
    naive_low, naive_high = effects(contexts, x, y).predict(contexts, ROWS)
    assert np.mean(naive_high - naive_low - (h1 - h0)) == pytest.approx(16 / 3, abs=1.2)
    assert np.mean(high - low - (h1 - h0)) == pytest.approx(0, abs=1.2)


def test_bounded_outcomes_are_recovered_as_probabilities() -> None:
    contexts, c, q, rng = data()
    h0, h1 = expit(c - 1), expit(2 - c)
    y = rng.binomial(1, h0 + rng.binomial(1, q) * (h1 - h0)).astype(float)
    fitted = effects(contexts, q, y, bounded=True)
    low, high = fitted.predict(contexts, ROWS)
    assert np.abs(low - h0).mean() < 0.06
    assert np.abs(high - h1).mean() < 0.06
    # Bounds hold wherever the network is asked.
    far = torch.tensor([[-1e3], [1e3]])
    for h in (*fitted.predict(far, np.arange(2)), low, high):
        assert ((h >= 0) & (h <= 1)).all()


def test_the_observed_exposure_in_place_of_q_gives_the_mean_of_each_group() -> None:
    contexts, _, q, rng = data()
    x = (q < 0.3).astype(float)
    y = np.where(x, 3.0, -1.0) + rng.normal(size=N)
    low, high = effects(contexts, x, y).predict(contexts, ROWS)
    assert low.mean() == pytest.approx(y[x == 0].mean(), abs=0.15)
    assert high.mean() == pytest.approx(y[x == 1].mean(), abs=0.15)


def test_draws_are_functions_whose_mean_is_the_prediction() -> None:
    contexts, c, q, rng = data()
    y = 10 + q * c + 0.1 * rng.normal(size=N)
    short = replace(QUICK, epochs=3)
    fitted = effects(contexts, q, y, settings=short, design=replace(SMALL, dropout=0.3))
    rows = np.array([5, 900, 5, 17])
    drawn = fitted.draws(contexts, rows, 400, seed=2)
    for draws, predicted in zip(drawn, fitted.predict(contexts, rows), strict=True):
        assert draws.shape == (400, 4)
        np.testing.assert_array_equal(draws[:, 0], draws[:, 2])
        error = draws.std(axis=0) / 400**0.5
        assert (error > 0).all()
        # With one hidden layer the outputs are linear in the masks.
        assert (np.abs(draws.mean(axis=0) - predicted) < 4.5 * error).all()
    again = fitted.draws(contexts, rows[::-1].copy(), 5, seed=2)
    np.testing.assert_allclose(again[1], drawn[1][:5, ::-1], rtol=1e-6)
    with pytest.raises(ValueError, match="n_draws: found 0"):
        fitted.draws(contexts, rows, 0, seed=2)
    dull = effects(contexts, q, y, settings=short)
    for draws, predicted in zip(
        dull.draws(contexts, rows, 3, seed=2), dull.predict(contexts, rows), strict=True
    ):
        np.testing.assert_allclose(draws, np.repeat(predicted[None], 3, axis=0), rtol=1e-12)


def test_the_seed_decides_the_effects() -> None:
    contexts, c, q, _ = data()
    histories = [
        effects(contexts, q, c, settings=replace(QUICK, epochs=2), seed=seed).fitted.history
        for seed in (1, 1, 2)
    ]
    assert histories[0] == histories[1] != histories[2]


def test_what_cannot_be_learned_from_is_refused() -> None:
    contexts, c, q, _ = data()
    with pytest.raises(ValueError, match=r"outcome: .* not in \[0, 1\]; .*bounded=False"):
        effects(contexts, q, c, bounded=True)
    with pytest.raises(ValueError, match=r"q: 1\.\d+ is not in"):
        effects(contexts, q + 1, c)
    with pytest.raises(ValueError, match="q: 1 of 3000 used rows"):
        effects(contexts, np.where(ROWS == 4, np.nan, q), c)
