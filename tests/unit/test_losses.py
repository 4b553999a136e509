import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepmr.models import losses

NAN = math.nan


def test_binary_loss_by_hand() -> None:
    outputs = torch.tensor([[0.0], [2.0]])
    labels = torch.tensor([[1.0], [0.0]])
    expected = (math.log(2) + math.log1p(math.exp(2))) / 2
    assert losses.masked_loss(outputs, labels, ["binary"]).item() == pytest.approx(expected)


def test_each_kind_has_its_loss() -> None:
    outputs = torch.tensor([[0.5, 0.5, 0.5]])
    labels = torch.tensor([[1.0, 3.0, 2.0]])
    expected = (math.log1p(math.exp(-0.5)) + math.exp(0.5) - 1.5 + 2.25) / 3
    loss = losses.masked_loss(outputs, labels, ["binary", "count", "continuous"])
    assert loss.item() == pytest.approx(expected)


def test_targets_weigh_alike_however_few_windows_measured_them() -> None:
    outputs = torch.tensor([[1.0, 5.0], [2.0, 0.0], [3.0, 0.0]])
    labels = torch.tensor([[0.0, 2.0], [0.0, NAN], [0.0, NAN]])
    expected = ((1 + 4 + 9) / 3 + 9) / 2
    assert losses.masked_loss(outputs, labels, ["continuous"] * 2).item() == pytest.approx(expected)


def test_unmeasured_target_is_left_out_of_the_mean() -> None:
    outputs = torch.tensor([[1.0, 7.0]])
    labels = torch.tensor([[3.0, NAN]])
    assert losses.masked_loss(outputs, labels, ["continuous"] * 2).item() == 4.0


@pytest.mark.parametrize("kind", losses.KINDS)
def test_nothing_measured_is_zero_with_a_zero_gradient(kind: str) -> None:
    outputs = torch.full((3, 2), 1000.0, requires_grad=True)
    loss = losses.masked_loss(outputs, torch.full((3, 2), NAN), [kind, kind])
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(outputs.grad, torch.zeros(3, 2))


@given(st.data())
def test_unmeasured_outputs_never_matter(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10_000))
    kinds = data.draw(st.lists(st.sampled_from(losses.KINDS), min_size=1, max_size=4))
    rng = np.random.default_rng(seed)
    shape = (5, len(kinds))
    labels = torch.from_numpy(rng.integers(0, 2, shape).astype(np.float32))
    hidden = torch.from_numpy(rng.random(shape) < 0.5)
    labels[hidden] = NAN
    first = torch.from_numpy(rng.normal(size=shape).astype(np.float32))
    second = torch.where(hidden, 500.0, first)
    grads = []
    for outputs in (first, second):
        outputs.requires_grad_(True)
        losses.masked_loss(outputs, labels, kinds).backward()
        grads.append(outputs.grad)
    assert torch.equal(grads[0], grads[1])
    assert torch.all(grads[0][hidden] == 0)


def test_disagreeing_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"outputs \(2, 3\), labels \(2, 3\) and 2 target types"):
        losses.masked_loss(torch.zeros(2, 3), torch.zeros(2, 3), ["binary"] * 2)


def test_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="called 'ordinal'; write one of binary, count, contin"):
        losses.masked_loss(torch.zeros(2, 1), torch.zeros(2, 1), ["ordinal"])


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("binary", 0.5, "target A is binary, but 1 labels are such as 0.5"),
        ("count", -1.0, "target A is count, but 1 labels are such as -1"),
        ("count", math.inf, "target A is count, but 1 labels are such as inf"),
        ("continuous", math.inf, "target A is continuous, but 1 labels are such as inf"),
        ("continuous", NAN, "target A is measured in none of 2"),
        ("continuous", -0.5, None),
        ("count", 7.0, None),
        ("binary", 1.0, None),
    ],
)
def test_labels_that_a_type_cannot_have(kind: str, value: float, problem: str | None) -> None:
    found = losses.label_problems(np.array([[NAN], [value]], dtype=np.float32), {"A": kind})
    assert len(found) == (problem is not None)
    assert problem is None or found[0].startswith(problem)
