from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepmr.draws import DrawSet
from deepmr.mutagenesis.capture import CaptureError, capture
from deepmr.mutagenesis.drawn_model import DrawnModel
from deepmr.mutagenesis.local.activations import Rectifier
from deepmr.mutagenesis.local.engine import LocalEngine, MismatchError
from deepmr.mutagenesis.local.heads import keep_columns
from deepmr.mutagenesis.local.planning import make_plan
from deepmr.mutagenesis.local.sizes import MemoryBudgetError, choose_sizes
from deepmr.mutagenesis.saturation import choose_engine
from deepmr.mutagenesis.straight import StraightEngine

LENGTH = 24
TARGETS = ("A", "B", "C")


def cnn(tail: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2),
        nn.MaxPool1d(2),
        nn.Dropout(0.2),
        nn.Conv1d(6, 6, 3),
        nn.ReLU(),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(60, 3),
        *([] if tail is None else [tail]),
    )


class Branching(nn.Module):
    """Asks for the value of an activation, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) if x.sum() > 0 else -self.layers(x)


class Recurrent(nn.Module):
    """Nothing but a layer that passes everything on."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.lstm(x.transpose(1, 2))[0]).mean(1))


def drawn(network: nn.Module, draws: int = 3, targets: tuple[str, ...] = TARGETS) -> DrawnModel:
    model = SimpleNamespace(members=[network], targets=TARGETS, length=LENGTH)
    return DrawnModel(model, targets, DrawSet("mc_dropout", draws, 1))


def codes() -> np.ndarray:
    return np.random.default_rng(0).integers(4, size=LENGTH, dtype=np.uint8)


def test_auto_takes_the_local_engine_and_says_what_it_will_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        engine = choose_engine(drawn(cnn()))
    assert isinstance(engine, LocalEngine)
    for said in (
        "7 operations in windows, 0 at full length",
        "times fewer as planned",
        "dropout site 0: p 0.2, element-wise (6, 12)",
        "MB a sequence",
    ):
        assert said in caplog.text


def test_a_network_that_cannot_be_captured_goes_straight_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = drawn(Branching())
    assert isinstance(choose_engine(model), StraightEngine)
    assert "the straight loop, because torch.export cannot follow Branching" in caplog.text
    with pytest.raises(CaptureError, match="cannot follow Branching"):
        choose_engine(model, "local")


def test_where_nothing_is_saved_auto_goes_straight_and_local_is_still_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = drawn(Recurrent())
    straight = choose_engine(model)
    assert isinstance(straight, StraightEngine)
    assert "saves nothing" in caplog.text
    local = choose_engine(model, "local")
    np.testing.assert_allclose(local(codes()).delta, straight(codes()).delta, atol=1e-6)


def test_operations_at_full_length_are_named_with_their_reason() -> None:
    plan = make_plan(capture(Recurrent().eval(), LENGTH), LENGTH)
    text = "\n".join(plan.describe(4))
    assert "at full length: lstm (it has several levels, or its batch is not the first" in text


def test_too_little_memory_is_refused_and_auto_goes_straight(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = drawn(cnn())
    with pytest.raises(MemoryBudgetError, match=r"raise mutagenesis\.memory_gb"):
        choose_engine(model, "local", memory_gb=1e-6)
    assert isinstance(choose_engine(model, memory_gb=1e-6), StraightEngine)
    assert "raise mutagenesis.memory_gb" in caplog.text
    with pytest.raises(ValueError, match=r"mutagenesis\.memory_gb: found 0"):
        choose_engine(model, memory_gb=0)


def test_memory_cuts_the_work_and_changes_rounding_only() -> None:
    model = drawn(cnn(), draws=20)
    plan = make_plan(capture(cnn().eval(), LENGTH), LENGTH)
    ample = choose_sizes(plan, LENGTH, 21, 4, "cpu", 1e9)
    scarce = choose_sizes(plan, LENGTH, 21, 4, "cpu", ample.bytes / 4)
    assert scarce.bytes <= ample.bytes / 4
    assert scarce.draws * scarce.drawn < ample.draws * ample.drawn
    whole = LocalEngine(model, 1e9)(codes())
    cut = LocalEngine(model, ample.bytes / 4)(codes())
    np.testing.assert_allclose(cut.delta, whole.delta, atol=1e-6)
    np.testing.assert_allclose(cut.reference, whole.reference, atol=1e-6)


def test_a_rule_that_is_wrong_stops_the_job_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Rectifier, "apply", lambda self, prepared, deltas, block, free: deltas[0])
    with pytest.raises(MismatchError, match=r"disagree by [\d.e-]+ in effects at positions 0 to 3"):
        choose_engine(drawn(cnn()))


def test_a_rule_that_is_wrong_at_one_end_only_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Rectifier.apply

    def wrong_at_the_end(self, prepared, deltas, block, free):
        result = apply(self, prepared, deltas, block, free)
        if block.start + block.size >= LENGTH:
            for tensor in result:
                tensor[-1] *= 1.5
        return result

    monkeypatch.setattr(Rectifier, "apply", wrong_at_the_end)
    with pytest.raises(MismatchError, match=f"positions {LENGTH - 4} to {LENGTH - 1}"):
        choose_engine(drawn(cnn()))


@pytest.mark.parametrize(("tail", "outputs"), [(None, 1), (nn.Sigmoid(), 1), (nn.LayerNorm(3), 3)])
def test_only_the_outputs_that_are_kept_are_computed(tail: nn.Module | None, outputs: int) -> None:
    network = cnn(tail).eval()
    graph, left = keep_columns(capture(network, LENGTH), [2])
    assert graph.nodes[-1].shape == (outputs,)
    assert left == ([0] if outputs == 1 else [2])
    model = drawn(network, targets=("C",))
    local, straight = (choose_engine(model, name)(codes()) for name in ("local", "naive"))
    # The norm of three outputs that are nearly alike multiplies rounding.
    np.testing.assert_allclose(local.delta, straight.delta, atol=1e-5)


def test_blocks_of_a_chunk_hold_what_was_promised() -> None:
    plan = make_plan(capture(cnn().eval(), LENGTH), LENGTH)
    sizes = choose_sizes(plan, LENGTH, 60, 4, "cpu", 1e9)
    assert sizes.draws == 20
    assert sizes.drawn % plan.stride == 0
    assert sizes.shared % sizes.drawn == 0
