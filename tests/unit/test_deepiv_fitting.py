import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepmr.deepiv.stages.fitting import FittingError, Settings, fit, split_held_out

ROWS, HELD_OUT = np.arange(10), np.arange(10, 14)
PLAIN = Settings(epochs=5, batch_size=10, weight_decay=0.0, averaging=0.0, tolerance=1e9)


def scalar() -> nn.Module:
    return nn.Linear(1, 1, bias=False)


def falling(network: nn.Module, rows: Tensor) -> Tensor:
    """A loss with the gradient 1, so that every step of Adam has the length of its rate."""
    return network(torch.ones(len(rows), 1))[:, 0]


def weight(network: nn.Module) -> float:
    return float(next(network.parameters()).detach())


def started(seed: int = 3) -> float:
    return weight(fit(scalar, falling, ROWS, HELD_OUT, replace(PLAIN, epochs=0), seed=seed).network)


def test_the_rate_falls_as_a_cosine_over_the_epochs() -> None:
    rates = [3e-3 * (1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(5)]
    for batch_size, steps in ((10, 1), (5, 2), (100, 1)):
        plain = replace(PLAIN, batch_size=batch_size)
        fitted = fit(scalar, falling, ROWS, HELD_OUT, plain, seed=3)
        assert weight(fitted.network) == pytest.approx(started() - steps * sum(rates), abs=1e-6)
        assert fitted.epoch == 5
        np.testing.assert_allclose(fitted.history[1], started() - steps * rates[0], atol=1e-6)


def test_what_is_kept_is_the_moving_average_of_the_weights() -> None:
    averaged = replace(PLAIN, epochs=1, batch_size=5, averaging=0.8, learning_rate=0.1)
    fitted = fit(scalar, falling, ROWS, HELD_OUT, averaged, seed=3)
    first, second = started() - 0.1, started() - 0.2
    expected = 0.8 * (0.8 * started() + 0.2 * first) + 0.2 * second
    assert weight(fitted.network) == pytest.approx(expected, abs=1e-6)
    assert not fitted.network.training
    assert not any(p.requires_grad for p in fitted.network.parameters())


def test_each_epoch_meets_each_row_once_in_equal_steps_and_another_order() -> None:
    met: list[list[int]] = []

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        if network.training:
            met.append(rows.tolist())
        return falling(network, rows)

    fit(scalar, loss, ROWS + 100, HELD_OUT, replace(PLAIN, epochs=2, batch_size=4), seed=0)
    assert [len(rows) for rows in met] == [5, 5, 5, 5]
    epochs = [met[0] + met[1], met[2] + met[3]]
    assert [sorted(rows) for rows in epochs] == [list(ROWS + 100)] * 2
    assert epochs[0] != epochs[1]


def scripted(
    script: Sequence[Sequence[float]], **changes: Any
) -> tuple[int, tuple[float, ...], float, list[float]]:
    """Fit with given held-out losses; return epoch, history, weight, weights by epoch."""
    seen: list[float] = []

    def judge(network: nn.Module, rows: Tensor) -> Tensor:
        seen.append(weight(network))
        return torch.tensor(script[len(seen) - 1])

    options = {"epochs": len(script) - 1, "tolerance": 1.0, "patience": 3} | changes
    fitted = fit(
        scalar, falling, ROWS, HELD_OUT, replace(PLAIN, **options), seed=0, held_out_loss=judge
    )
    return fitted.epoch, fitted.history, weight(fitted.network), seen


AS_BUILT = [4.0, 4.0, 4.0, 4.0]
LOWEST = [1.0, 2.0, 3.0, 2.0]
# Worse by .25 on average; the differences' standard error is .144 or .479.
SURELY_WORSE = [1.5, 2.5, 3.0, 2.0]
PERHAPS_WORSE = [2.0, 1.0, 4.0, 2.0]


def test_the_last_epoch_that_is_as_good_as_the_lowest_is_kept() -> None:
    script = [AS_BUILT, LOWEST, SURELY_WORSE, PERHAPS_WORSE, *[SURELY_WORSE] * 6]
    epoch, history, kept, seen = scripted(script)
    assert epoch == 3
    np.testing.assert_allclose(history, [4, 2, 2.25, 2.25, 2.25, 2.25, 2.25])  # stopped after 3
    assert kept == seen[3]
    assert kept != seen[1]


def test_without_tolerance_the_lowest_epoch_is_kept() -> None:
    script = [AS_BUILT, LOWEST, SURELY_WORSE, PERHAPS_WORSE, *[SURELY_WORSE] * 6]
    epoch, history, kept, seen = scripted(script, tolerance=0.0)
    assert (epoch, len(history) - 1, kept) == (1, 4, seen[1])


def test_tolerance_counts_standard_errors() -> None:
    script = [AS_BUILT, LOWEST, SURELY_WORSE]
    ratio = 0.25 / (np.std([0.5, 0.5, 0, 0], ddof=1) / 2)
    assert scripted(script, tolerance=ratio - 0.01)[0] == 1
    assert scripted(script, tolerance=ratio + 0.01)[0] == 2


def test_the_network_as_built_is_kept_if_nothing_beats_it() -> None:
    epoch, history, kept, seen = scripted([LOWEST, *[AS_BUILT] * 9])
    assert (epoch, len(history), kept) == (0, 4, seen[0])


def noisy(network: nn.Module, rows: Tensor) -> Tensor:
    draws = torch.randn(len(rows), 1)
    return (network(draws)[:, 0] - 2 * draws[:, 0]).square()


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))


def test_the_seed_decides_every_bit_and_nothing_else_does() -> None:
    def run(seed: int) -> tuple[dict[str, Tensor], tuple[float, ...]]:
        fitted = fit(dropping, noisy, ROWS, HELD_OUT, replace(PLAIN, batch_size=5), seed=seed)
        return fitted.network.state_dict(), fitted.history

    torch.manual_seed(1)
    weights, history = run(5)
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    again, history_again = run(5)
    assert torch.equal(torch.rand(3), expected)  # the caller's random numbers are its own
    assert history == history_again
    assert all(torch.equal(weights[key], again[key]) for key in weights)
    assert run(6)[1] != history


def test_running_statistics_are_those_of_the_network() -> None:
    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        return network(torch.full((len(rows), 1), 7.0))[:, 0]

    def judge(network: nn.BatchNorm1d, rows: Tensor) -> Tensor:
        return -network.running_mean.expand(len(rows))

    fitted = fit(
        lambda: nn.BatchNorm1d(1), loss, ROWS, HELD_OUT, PLAIN, seed=0, held_out_loss=judge
    )
    assert float(fitted.network.running_mean) == pytest.approx(7 * (1 - 0.9**5), rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    def broken(network: nn.Module, rows: Tensor) -> Tensor:
        return falling(network, rows) * (value if network.training else 1)

    with pytest.raises(FittingError, match=r"toy, epoch 1: .*learning rate \(now 0.003\)"):
        fit(scalar, broken, ROWS, HELD_OUT, PLAIN, seed=0, name="toy")
    judge: Callable[[nn.Module, Tensor], Tensor] = lambda _, rows: torch.full((len(rows),), value)  # noqa: E731
    with pytest.raises(FittingError, match="toy, epoch 0: the held-out loss"):
        fit(scalar, falling, ROWS, HELD_OUT, PLAIN, seed=0, name="toy", held_out_loss=judge)


def test_rows_are_needed_on_both_sides() -> None:
    for rows, held_out in ((ROWS[:0], HELD_OUT), (ROWS, HELD_OUT[:1])):
        with pytest.raises(FittingError, match="held out; give at least 1 and 2"):
            fit(scalar, falling, rows, held_out, PLAIN, seed=0)


def test_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(scalar, falling, ROWS, HELD_OUT, PLAIN, seed=0, name="toy")
    assert [record.message.split(",")[0] for record in caplog.records] == ["toy: epoch 5 of 5 kept"]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=80).filter(lambda g: len(set(g)) > 1),
    st.floats(0.05, 0.95),
    st.integers(0, 99),
)
def test_whole_groups_are_held_out(groups: list[int], share: float, seed: int) -> None:
    labels = np.array(groups)
    rows, held_out = split_held_out(labels, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate((rows, held_out))), np.arange(len(labels)))
    assert len(rows) > 0
    assert len(held_out) > 0
    assert not set(labels[rows]) & set(labels[held_out])
    largest = np.bincount(labels).max()
    assert abs(len(held_out) - share * len(labels)) <= largest
    again = split_held_out(labels, share, seed)
    np.testing.assert_array_equal(held_out, again[1])


def test_rows_that_are_their_own_groups_meet_the_share_exactly() -> None:
    rows, held_out = split_held_out(1000, 0.2, 1)
    assert (len(rows), len(held_out)) == (800, 200)
    assert not np.array_equal(held_out, split_held_out(1000, 0.2, 2)[1])


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(FittingError, match="in 1 group"):
        split_held_out(np.zeros(9, dtype=np.int64), 0.2, 0)
    with pytest.raises(FittingError, match="between 0 and 1"):
        split_held_out(9, 1.0, 0)
