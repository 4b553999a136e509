from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepmr.genome.alphabet import one_hot
from deepmr.models import architectures, last_layer
from tests import networks

LENGTH = 24


def inputs(rows: int = 7, length: int = LENGTH) -> Tensor:
    codes = np.random.default_rng(3).integers(4, size=(rows, length), dtype=np.uint8)
    return torch.from_numpy(one_hot(codes))


def body() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Conv1d(4, 5, 5), nn.ReLU(), nn.Flatten(), nn.Dropout(0.4)]


class Named(nn.Module):
    """The last layer is not the last module, is called by name, and is followed by a view."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.out = nn.ModuleDict({"head": nn.Linear(6, 3, bias=bias)})
        self.body = nn.Sequential(*body(), nn.Linear(100, 6), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.out["head"](input=self.body(x)).view(len(x), -1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*body())
        self.first, self.same = nn.Linear(100, 100), nn.Linear(100, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.same(self.same(self.layers(x)))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*body())
        self.head = nn.Linear(100, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.layers(x), self.head.weight, self.head.bias)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Rigid(nn.Module):
    """Takes its outputs apart by their number."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*body(), nn.Linear(100, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.layers(x).split([1, 2], dim=1), dim=1)


@pytest.mark.parametrize(
    ("make", "length", "path", "d"),
    [
        (lambda: nn.Sequential(*body(), nn.Linear(100, 3)), LENGTH, "4", 101),
        (Named, LENGTH, "out.head", 7),
        (lambda: Named(bias=False), LENGTH, "out.head", 6),
        (lambda: architectures.build("small", 3, 64, batch_norm=True), 64, "15", 129),
        (networks.DanQ, 100, "head.2", 7),
        (networks.basset, 258, "21", 9),
    ],
)
def test_the_last_layer_is_found_and_gives_the_output(
    make: Callable[[], nn.Module], length: int, path: str, d: int
) -> None:
    network = networks.scrambled(make())
    layer = last_layer.find(network, length)
    assert layer.path == path
    assert not network.training
    x = inputs(length=length)
    features, outputs = layer.evaluate(x)
    assert features.shape == (7, d)
    with torch.no_grad():
        assert torch.equal(outputs, network(x))
    torch.testing.assert_close((features.double() @ layer.weights.T).float(), outputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Sequential(*body(), nn.Linear(100, 3), nn.Sigmoid()), "something else than"),
        (lambda: nn.Sequential(nn.Conv1d(4, 3, LENGTH), nn.Flatten()), "has no nn.Linear"),
        (Functional, "something else than"),
        (Twice, "calls its last layer same more than once"),
        (lambda: nn.Sequential(*body(), Scaled(100, 3), nn.Identity()), None),
    ],
)
def test_networks_that_do_not_end_in_a_linear_layer_are_refused(
    make: Callable[[], nn.Module], message: str | None
) -> None:
    network = make()
    name = type(network).__name__
    message = message or "is not weights"
    with pytest.raises(last_layer.LastLayerError, match=rf"{name} .*{message}.*mc_dropout or ens"):
        last_layer.find(network, LENGTH)


@pytest.mark.parametrize("bias", [True, False])
def test_other_weights_make_other_outputs_and_leave_the_network_alone(bias: bool) -> None:
    network = Named(bias).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    layer = last_layer.find(network, LENGTH)
    weights = torch.randn(8, layer.weights.shape[1], dtype=torch.float64)
    state = torch.get_rng_state()
    wide = layer.with_weights(weights)
    assert torch.equal(torch.get_rng_state(), state)
    x = inputs()
    expected = layer.evaluate(x)[0].double() @ weights.T
    with torch.no_grad():
        torch.testing.assert_close(wide(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in wide.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_network_that_counts_its_outputs_is_refused() -> None:
    layer = last_layer.find(Rigid(), LENGTH)
    assert layer.path == "layers.4"
    with pytest.raises(last_layer.LastLayerError, match=r"Rigid does not give 8 outputs .*split"):
        layer.with_weights(torch.zeros(8, 101, dtype=torch.float64))
