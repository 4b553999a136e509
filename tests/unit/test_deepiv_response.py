from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepmr.deepiv.stages import response as module
from deepmr.deepiv.stages.fitting import Settings, split_held_out
from deepmr.deepiv.stages.naive import fit_naive
from deepmr.deepiv.stages.networks import Design, SequenceContexts
from deepmr.deepiv.stages.response import Gradient, Response, fit_response, squared_error

QUICK = Settings(epochs=60, batch_size=100)
SMALL = Design(1, hidden=(32,), dropout=0.0)


def every_sample(n: int, gradient: Gradient) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and its gradient, averaged over all samples of an F with three values.

    The response is h(p) = a p² + b p with parameters (a, b); beside them stand the loss and the
    gradient that are meant, of (y - ∫h dF)².
    """
    parameters = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([-1.0, 0.5, 3.0], dtype=torch.float64)
    y = torch.tensor([2.0], dtype=torch.float64)

    def h(p: Tensor) -> Tensor:
        return parameters[0] * p.square() + parameters[1] * p

    samples = torch.stack([values[list(chosen)] for chosen in product(range(3), repeat=n)])
    loss = squared_error(y.expand(len(samples)), h(samples), gradient).mean()
    meant = (y - h(values).mean()).square().sum()
    spread = h(values).var(correction=0) / n
    gradients = [torch.autograd.grad(value, parameters)[0] for value in (loss, meant, spread)]
    return loss - meant, spread, gradients[0] - gradients[1], gradients[2]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_two_sample_loss_and_its_gradient_are_unbiased(n: int) -> None:
    bias, _, gradient_bias, _ = every_sample(n, "two_sample")
    assert abs(bias.item()) < 1e-12
    assert gradient_bias.abs().max() < 1e-12


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_one_sample_loss_is_biased_up_by_the_variance_of_h_over_n(n: int) -> None:
    bias, spread, gradient_bias, spread_gradient = every_sample(n, "one_sample")
    assert spread.item() > 0.3
    torch.testing.assert_close(bias, spread)
    torch.testing.assert_close(gradient_bias, spread_gradient)


def test_two_samples_are_one_product_of_residuals() -> None:
    y, h = torch.tensor([1.0, 2.0]), torch.tensor([[0.5, 3.0], [2.0, 7.0]])
    torch.testing.assert_close(squared_error(y, h, "two_sample"), (y - h[:, 0]) * (y - h[:, 1]))
    with pytest.raises(ValueError, match="one_sample or two_sample"):
        squared_error(y, h, "both")  # type: ignore[arg-type]


def confounded(n: int) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray, Callable[..., Any]]:
    """Exposure p ~ N(z, .5²) whose noise is in the outcome too; y = p² / 2 + c + noise."""
    rng = np.random.default_rng(0)
    c, z, v = rng.normal(size=(3, n))
    p = z + 0.5 * v
    y = 5 + 3 * (p**2 / 2 + c + 2 * v + 0.3 * rng.normal(size=n))
    mean = torch.as_tensor(z, dtype=torch.float32)

    def draw(rows: Tensor, number: int) -> Tensor:
        return mean[rows, None] + 0.5 * torch.randn(len(rows), number)

    return torch.as_tensor(c[:, None], dtype=torch.float32), c, p, y, draw


def split(n: int) -> dict[str, Any]:
    rows, held_out = split_held_out(n, 0.2, 0)
    return {"rows": rows, "held_out": held_out, "seed": 3, "design": SMALL, "settings": QUICK}


@pytest.mark.parametrize("gradient", ["one_sample", "two_sample"])
def test_the_response_is_found_where_the_naive_network_is_biased(gradient: Gradient) -> None:
    contexts, c, p, y, draw = confounded(2000)
    at = np.linspace(-1.5, 1.5, 2000)
    rows = np.arange(2000)
    truth = 5 + 3 * (at**2 / 2 + c)

    def slope(fitted: Response) -> float:
        """Return the slope of the error along p, which confounding makes."""
        return float(np.polyfit(at, fitted.predict(at, contexts, rows) - truth, 1)[0])

    response = fit_response(contexts, y, draw, gradient=gradient, **split(2000))
    naive = fit_naive(contexts, p, y, **split(2000))
    # The regression of the confounder's part of y, 6 v, on p has slope 6 · .5 / (1 + .25).
    assert slope(naive) == pytest.approx(2.4, abs=0.5)
    assert abs(slope(response)) < 0.6
    error = response.predict(at, contexts, rows) - truth
    assert error.std() < 1.0 < 3.0 < truth.std()


def test_a_table_of_samples_serves_as_well() -> None:
    contexts, _, p, y, draw = confounded(1000)
    torch.manual_seed(0)
    table = draw(torch.arange(1000), 20).numpy()
    response = fit_response(contexts, y, table, **split(1000))
    other = fit_response(contexts, y, draw, **split(1000))
    rows = np.arange(1000)
    a, b = (fit.predict(p.clip(-1.5, 1.5), contexts, rows) for fit in (response, other))
    assert np.corrcoef(a, b)[0, 1] > 0.97
    average = response.average(table, contexts, rows)
    each = [response.predict(table[:, j], contexts, rows) for j in range(20)]
    np.testing.assert_allclose(average, np.mean(each, axis=0), rtol=1e-4, atol=1e-4)


def test_samples_of_a_table_are_drawn_without_replacement() -> None:
    table = np.arange(12.0).reshape(3, 4)
    draw = module._from_table(table, 2, "cpu")
    torch.manual_seed(0)
    seen = [draw(torch.tensor([2, 0]), 2) for _ in range(60)]
    assert all(len(set(row.tolist())) == 2 for pair in seen for row in pair)
    assert {value for pair in seen for value in pair[0].tolist()} == {8, 9, 10, 11}
    assert {value for pair in seen for value in pair[1].tolist()} == {0, 1, 2, 3}


def quick(contexts: Any, **changes: Any) -> Response:
    """Fit a response of some contexts for a few epochs, on an exposure that matters."""
    rng = np.random.default_rng(1)
    n = len(contexts)
    p = rng.normal(size=n)
    options = split(n) | {"settings": replace(QUICK, epochs=5, averaging=0.5)} | changes
    return fit_naive(contexts, p, p + 0.1 * rng.normal(size=n), **options)


def test_a_draw_is_one_function_of_all_rows() -> None:
    contexts = torch.randn(200, 1, generator=torch.Generator().manual_seed(0))
    fitted = quick(contexts, design=replace(SMALL, dropout=0.5))
    rows, p = np.arange(150), np.linspace(-2, 2, 150)
    draws = fitted.draws(p, contexts, rows, 6, seed=9)
    assert draws.shape == (6, 150)
    order = np.random.default_rng(0).permutation(150)
    shuffled = fitted.draws(p[order], contexts, rows[order], 6, seed=9)
    np.testing.assert_allclose(shuffled, draws[:, order], rtol=1e-5, atol=1e-5)
    twice = fitted.draws(np.repeat(p[:1], 2), contexts, np.zeros(2, dtype=np.int64), 6, seed=9)
    np.testing.assert_array_equal(twice[:, 0], twice[:, 1])
    assert (draws.std(axis=0) > 0).all()
    assert not np.allclose(draws, fitted.draws(p, contexts, rows, 6, seed=10))
    np.testing.assert_array_equal(draws[:3], fitted.draws(p, contexts, rows, 3, seed=9))


def test_the_mean_of_draws_is_the_prediction() -> None:
    # With one hidden layer the outputs are linear in the masks.
    contexts = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    fitted = quick(contexts, design=replace(SMALL, dropout=0.3))
    rows, p = np.arange(20), np.linspace(-2, 2, 20)
    draws = fitted.draws(p, contexts, rows, 400, seed=9)
    error = draws.std(axis=0) / 400**0.5
    assert (np.abs(draws.mean(axis=0) - fitted.predict(p, contexts, rows)) < 4.5 * error).all()


def test_without_dropout_the_draws_are_the_prediction() -> None:
    contexts = torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    fitted = quick(contexts)
    rows, p = np.arange(20), np.linspace(-2, 2, 20)
    expected = np.repeat(fitted.predict(p, contexts, rows)[None], 3, axis=0)
    np.testing.assert_array_equal(fitted.draws(p, contexts, rows, 3, seed=9), expected)


def test_sequences_are_contexts_and_their_encoder_makes_draws_too() -> None:
    codes = np.random.default_rng(0).integers(0, 5, size=(120, 12), dtype=np.uint8)
    contexts = SequenceContexts(codes)

    def encoder() -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(4, 3, 5), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(24, 5)
        )

    fitted = quick(contexts, design=Design(5, hidden=(8,), dropout=0.0, encoder=encoder))
    rows, p = np.arange(120), np.zeros(120)
    assert np.unique(fitted.predict(p, contexts, rows)).size > 100
    assert (fitted.draws(p, contexts, rows, 8, seed=1).std(axis=0) > 0).all()


def test_the_seed_decides_the_response() -> None:
    contexts, _, _, y, draw = confounded(300)
    options = split(300) | {"settings": replace(QUICK, epochs=3)}
    histories = []
    for outer, seed in ((0, 3), (1, 3), (1, 4)):
        torch.manual_seed(outer)
        fitted = fit_response(contexts, y, draw, **(options | {"seed": seed}))
        histories.append(fitted.fitted.history)
    assert histories[0] == histories[1] != histories[2]


def test_units_of_the_exposure_and_the_outcome_do_not_matter() -> None:
    contexts, _, p, y, _ = confounded(300)
    options = split(300) | {"settings": replace(QUICK, epochs=3)}
    rows = np.arange(300)
    plain = fit_naive(contexts, p, y, **options).predict(p, contexts, rows)
    other = fit_naive(contexts, 9 - 200 * p, 0.01 * y + 3, **options)
    mirrored = fit_naive(contexts, -p, y, **options).predict(-p, contexts, rows)
    np.testing.assert_allclose(
        other.predict(9 - 200 * p, contexts, rows), 0.01 * mirrored + 3, atol=1e-4
    )
    assert np.abs(plain - mirrored).max() > 1e-3  # the sign is no unit


def test_what_cannot_be_learned_from_is_refused() -> None:
    contexts, _, _, y, _ = confounded(100)
    table = np.zeros((100, 3))
    with pytest.raises(ValueError, match="two_sample needs 2 or more"):
        fit_response(contexts, y, table, n_samples=1, **split(100))
    with pytest.raises(ValueError, match="s of 4 or more"):
        fit_response(contexts, y, table, n_samples=4, **split(100))
    with pytest.raises(ValueError, match="outcome: 100 of 100 used rows"):
        fit_response(contexts, y * np.nan, table, **split(100))
    with pytest.raises(ValueError, match="samples: found 99 rows"):
        fit_response(contexts, y, table[1:], **split(100))
