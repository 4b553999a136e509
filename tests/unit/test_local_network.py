from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from deepmr.genome.alphabet import one_hot
from deepmr.mutagenesis.capture import Graph, capture
from deepmr.mutagenesis.local.convolution import Convolution
from deepmr.mutagenesis.local.geometry import ceil_to
from deepmr.mutagenesis.local.network import LocalNetwork
from deepmr.mutagenesis.local.planning import Plan, make_plan
from deepmr.mutagenesis.local.sizes import Sizes
from deepmr.mutagenesis.masking import NO_MASKS, MaskedNetwork, Masks
from deepmr.mutagenesis.substitutions import mutants
from tests.networks import NETWORKS, Branches, Lambda, Residual, build, names, scrambled

CPU = torch.device("cpu")
METHODS = ("taps", "band", "window")
EXACT = {torch.float64: 1e-12, torch.float32: 2e-6}

FALL_BACK = {"attention": {"scaled_dot_product_attention": "no rule is known for it"}}
"""Networks with operations that no rule is known for, and what the plan says of them."""

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """What a rule forgets to write must not look right by chance; torch fills it if asked to."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


class Straight:
    """A network, its draws in two chunks, and all that a straight loop says of a sequence."""

    def __init__(self, network: nn.Module, length: int) -> None:
        masked = MaskedNetwork(network, length, CPU)
        self.network, self.length, self.dtype = masked.network, length, masked.dtype
        self.chunks: list[Masks] = [NO_MASKS]
        if masked.sites:
            masked.choose_expansion(1)
            self.chunks = [masked.masks(1, [None, 0, 1]), masked.masks(1, [2, 3])]
        codes = np.random.default_rng(1).integers(4, size=length, dtype=np.uint8)
        inputs = torch.from_numpy(one_hot(mutants(codes, 0, 1 + 3 * length))).to(self.dtype)
        outputs = torch.cat([masked(inputs, masks) for masks in self.chunks])
        self.input = inputs[0]
        self.reference = outputs[:, 0]
        changes = outputs[:, 1:] - outputs[:, :1]
        self.delta = changes.unflatten(1, (length, 3)).permute(1, 2, 0, 3)

    @cached_property
    def graph(self) -> Graph:
        return capture(self.network, self.length)

    def plan(self) -> Plan:
        return make_plan(self.graph, self.length)

    def local(
        self, plan: Plan, shared: int = 4, drawn: int = 2, columns: Sequence[int] | None = None
    ) -> LocalNetwork:
        """Return the local network, with blocks of so many strides."""
        sizes = Sizes(plan.stride * shared, plan.stride * drawn, 2)
        columns = range(self.reference.shape[1]) if columns is None else columns
        return LocalNetwork(plan, self.length, self.chunks, sizes, columns)

    def compare(self, local: LocalNetwork) -> tuple[float, float]:
        """Return the largest difference of the outputs, and of the deltas."""
        with torch.inference_mode():
            reference, delta = local(self.input)
        assert delta.shape == self.delta.shape
        return (
            float((reference - self.reference).abs().max()),
            float((delta - self.delta).abs().max()),
        )

    def worst(self, local: LocalNetwork) -> float:
        """Return the larger of both; NaN if one is, which Python's maximum would hide."""
        return float(torch.tensor(self.compare(local), dtype=torch.float64).max())


@cache
def prepared(name: str, dtype: torch.dtype) -> tuple[Straight, Plan]:
    straight = Straight(*build(name, dtype))
    if dtype != torch.float64:
        # Capturing takes longer than all else here.
        straight.graph = in_dtype(prepared(name, torch.float64)[0].graph, dtype)
    return straight, straight.plan()


def in_dtype(graph: Graph, dtype: torch.dtype) -> Graph:
    """Return the graph of the same network in another precision than double."""

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float64:
            return value.to(dtype)
        return dtype if value is torch.float64 else value

    nodes = [
        replace(node, kwargs={key: cast(value) for key, value in node.kwargs.items()})
        for node in graph.nodes
    ]
    constants = {key: cast(value) for key, value in graph.constants.items()}
    return replace(graph, nodes=nodes, constants=constants)


@contextmanager
def convolving_by(method: str) -> Iterator[None]:
    """Have convolutions computed in one way, where they can be."""
    costs = Convolution._costs

    def only(self: Convolution, part: Any) -> dict[str, tuple[float, float]]:
        found = costs(self, part)
        return {method: found[method]} if method in found else found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Convolution, "_costs", only)
        yield


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("name", NETWORKS)
def test_local_equals_straight(name: str, dtype: torch.dtype) -> None:
    straight, plan = prepared(name, dtype)
    # Enough that agreement says something: no output is dead, and neither end.
    assert straight.delta.abs().amax((0, 1, 2)).min() > 100 * EXACT[dtype]
    local = straight.local(plan)
    assert local._sizes.shared < straight.length
    outputs, deltas = straight.compare(local)
    assert outputs <= EXACT[dtype]
    assert deltas <= EXACT[dtype]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_of_blocks_does_not_matter(name: str) -> None:
    straight, plan = prepared(name, torch.float64)
    whole = ceil_to(straight.length, plan.stride) // plan.stride
    for shared, drawn in ((whole, whole), (6, 3), (1, 1)):
        assert straight.worst(straight.local(plan, shared, drawn)) <= 1e-12


@pytest.mark.parametrize("name", names(but=list(FALL_BACK)))
def test_other_networks_are_local_throughout(name: str) -> None:
    _, plan = prepared(name, torch.float64)
    assert plan.fallbacks == []
    assert plan.speed_up(5) > 1


@pytest.mark.parametrize("name", FALL_BACK)
def test_what_changes_everywhere_is_named_with_its_reason(name: str) -> None:
    _, plan = prepared(name, torch.float64)
    found = {fallback.operation: fallback.reason for fallback in plan.fallbacks}
    assert FALL_BACK[name].items() <= found.items()
    assert any(operation.startswith("what follows") for operation in found)
    assert all(fallback.reason in "\n".join(plan.describe(5)) for fallback in plan.fallbacks)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["deepsea", "resnet", "bpnet_counts", "branches", "gated"])
def test_all_ways_to_convolve_agree(name: str, method: str) -> None:
    straight, _ = prepared(name, torch.float64)
    with convolving_by(method):
        plan = straight.plan()
    found = {m for rule in plan.rules if isinstance(rule, Convolution) for m in rule.methods}
    assert method in found
    assert straight.worst(straight.local(plan)) <= 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_positions_that_a_pool_drops_change_nothing(method: str) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv1d(4, 4, 1), nn.MaxPool1d(4), nn.Dropout(), nn.Conv1d(4, 4, 1)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    straight = Straight(network.double(), 26)
    with convolving_by(method):
        plan = straight.plan()
    assert straight.worst(straight.local(plan)) <= 1e-12
    assert not straight.delta[24:].any()


@pytest.mark.parametrize("name", ["basset", "attention", "plain"])
def test_some_positions_get_the_numbers_they_get_among_all(name: str) -> None:
    straight, plan = prepared(name, torch.float64)
    local = straight.local(plan, 2, 1)
    with torch.inference_mode():
        reference, delta = local(straight.input)
        for low, high in ((0, 1), (13, 37), (straight.length - 1, straight.length)):
            again, part = local(straight.input, range(low, high))
            assert torch.equal(again, reference)
            assert torch.equal(part, delta[low:high])


def test_some_draws_are_those_of_the_first_chunk() -> None:
    straight, plan = prepared("deepsea", torch.float64)
    local = straight.local(plan)
    with torch.inference_mode():
        reference, delta = local.some_draws(straight.input, range(90, 99))
    first = straight.chunks[0].number
    torch.testing.assert_close(reference, straight.reference[:first], rtol=0, atol=1e-12)
    torch.testing.assert_close(delta, straight.delta[90:99, :, :first], rtol=0, atol=1e-12)


def test_outputs_are_kept_in_the_order_asked_for() -> None:
    straight, plan = prepared("resnet", torch.float64)
    with torch.inference_mode():
        reference, delta = straight.local(plan, columns=[2, 0])(straight.input)
    torch.testing.assert_close(reference, straight.reference[:, [2, 0]], rtol=0, atol=1e-12)
    torch.testing.assert_close(delta, straight.delta[..., [2, 0]], rtol=0, atol=1e-12)


class Tail(nn.Module):
    """A convolution with dropout, then any function, then a linear layer on all of its result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 5, padding=2)
        self.drop = nn.Dropout(0.2)
        self._function = function
        self.head = nn.Linear(function(torch.zeros(1, 6, 24)).numel(), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._function(self.drop(self.conv(x))).flatten(1))


def tail(function: Callable[[Tensor], Tensor]) -> Straight:
    torch.manual_seed(0)
    return Straight(Tail(function).double(), 24)


LOCAL_TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: 1 - x + x * x / (1 + x.abs()) - 2 * x**2 + -x,
    "in place": lambda x: F.relu_(x.mul_(2).add_(1)),
    "some channels": lambda x: x[:, 1:4],
    "cropped": lambda x: x[:, :, 3:-2],
    "padded": lambda x: F.relu(F.pad(x, (2, 1), value=0.5)),
    "padded image": lambda x: F.pad(x.unsqueeze(2), (2, 1, 0, 0)),
    "mean over merged channels": lambda x: F.avg_pool1d(x.view(-1, 2, 3, 24).flatten(1, 2), 2),
    "flat pools of images": lambda x: F.max_pool2d(x.view(-1, 2, 3, 24), (1, 4)),
    "adaptive": lambda x: F.adaptive_max_pool1d(F.adaptive_avg_pool1d(x, 12), 3),
    "pools with gaps": lambda x: F.avg_pool1d(F.max_pool1d(x, 2, 3), 1, 2),
    "mean and maximum": lambda x: torch.cat(
        [x.mean(-1), x.amax(2), x.sum(2, keepdim=True)[..., 0]], 1
    ),
    "softmax of channels": lambda x: x.softmax(1),
}


@pytest.mark.parametrize("what", LOCAL_TAILS)
def test_operations_that_stay_local(what: str) -> None:
    straight = tail(LOCAL_TAILS[what])
    plan = straight.plan()
    assert plan.fallbacks == []
    assert straight.worst(straight.local(plan)) <= 1e-12


OTHER_TAILS: dict[str, Callable[[Tensor], Tensor]] = {
    "circular padding": lambda x: F.pad(x, (2, 2), mode="circular"),
    "reflected padding": lambda x: F.pad(x, (2, 2), mode="reflect"),
    "whole window beyond the end": lambda x: F.max_pool1d(x[:, :, :10], 10, 10, 2),
    "mean of a window beyond the end": lambda x: F.avg_pool1d(x[:, :, :10], 10, 10, 2),
    "adaptive height": lambda x: F.adaptive_avg_pool2d(x.view(-1, 2, 3, 24), 1),
    "high windows": lambda x: F.avg_pool2d(x.view(-1, 2, 3, 24), (3, 4)),
    "condition": lambda x: torch.where(x > 0, x, x * 0.1),
    "best channel": lambda x: x.argmax(1) * x[:, 0],
    "softmax of positions": lambda x: x.softmax(2),
    "reverse complement": lambda x: x + x.flip(1, 2),
    "every second position": lambda x: x[:, :, ::2],
    "broadcast": lambda x: x * torch.sigmoid(x[:, :1]),
    "squeeze and excite": lambda x: x * torch.sigmoid(x.mean(2, keepdim=True)),
    "halves": lambda x: (lambda parts: parts[0] * torch.sigmoid(parts[1]))(x.chunk(2, 1)),
    "side by side in order": lambda x: torch.cat([x, 2 * x], 2),
    "views that cut positions": lambda x: x.view(-1, 6, 12, 2).amax(-1),
    "upsampled": lambda x: F.interpolate(x, scale_factor=2.0),
    "norm over positions": lambda x: F.group_norm(x, 2),
    "positions as channels": lambda x: x[:, :, :6] + x[:, :, :6].transpose(1, 2),
}


@pytest.mark.parametrize("what", OTHER_TAILS)
def test_operations_that_may_change_everywhere_are_right_all_the_same(what: str) -> None:
    straight = tail(OTHER_TAILS[what])
    assert straight.worst(straight.local(straight.plan())) <= 1e-12


@pytest.mark.parametrize("groups", [1, 4])
def test_strides_that_skip_positions_leave_nothing_there(groups: int) -> None:
    torch.manual_seed(0)
    skipping = [nn.Conv1d(4, 4, 1, stride=2, groups=groups), nn.Conv1d(4, 6, 1), nn.GELU()]
    for head, inputs in ((nn.Flatten(), 72), (nn.AdaptiveMaxPool1d(1), 6)):
        network = nn.Sequential(*skipping, nn.Dropout(), head, nn.Flatten(), nn.Linear(inputs, 2))
        straight = Straight(network.double(), 24)
        plan = straight.plan()
        assert plan.fallbacks == []
        assert straight.worst(straight.local(plan)) <= 1e-12
        assert not straight.delta[1::2].any()


ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Tanh, nn.Softplus, nn.LeakyReLU, nn.Sigmoid)
KINDS = (
    "convolution",
    "convolution",
    "max",
    "mean",
    "norm",
    "activation",
    "activation",
    "dropout",
    "residual",
    "branches",
    "gate",
    "layer norm",
    "crop",
)
HEADS = ("flat", "hidden", "mean", "max", "amax", "sum")


class Gate(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.gate = nn.Conv1d(channels, channels, kernel, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


class ChannelNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def _dropout(draw: st.DrawFn) -> nn.Module:
    kind = draw(st.sampled_from([nn.Dropout, nn.Dropout1d]))
    return kind(draw(st.sampled_from([0.1, 0.5])))


def _convolution(draw: st.DrawFn, channels: int) -> nn.Module:
    out = draw(st.sampled_from([2, 4, 6]))
    kernel, dilation = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    paddings: list[str | int] = ["same", "valid", 0, 1, kernel // 2, kernel]
    padding = draw(st.sampled_from(paddings))
    stride = 1 if padding == "same" else draw(st.sampled_from([1, 1, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    return nn.Conv1d(channels, out, kernel, stride, padding, dilation, groups)


def _pool(draw: st.DrawFn, kind: str) -> nn.Module:
    kernel = draw(st.integers(1, 5))
    stride, padding = draw(st.integers(1, 4)), draw(st.integers(0, kernel // 2))
    ceil = draw(st.booleans())
    if kind == "max":
        return nn.MaxPool1d(kernel, stride, padding, draw(st.integers(1, 2)), ceil_mode=ceil)
    return nn.AvgPool1d(kernel, stride, padding, ceil, draw(st.booleans()))


def _residual(draw: st.DrawFn, channels: int) -> nn.Module:
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    branch: list[nn.Module] = [
        nn.Conv1d(channels, channels, 3, stride, dilation, dilation),
        draw(st.sampled_from(ACTIVATIONS))(),
    ]
    if draw(st.booleans()):
        branch.append(_dropout(draw))
    shortcut = nn.Conv1d(channels, channels, 1, stride) if stride > 1 else None
    return Residual(nn.Sequential(*branch), shortcut)


def _layer(draw: st.DrawFn, kind: str, channels: int) -> nn.Module:
    if kind == "convolution":
        return _convolution(draw, channels)
    if kind in ("max", "mean"):
        return _pool(draw, kind)
    if kind == "norm":
        return nn.BatchNorm1d(channels)
    if kind == "activation":
        return draw(st.sampled_from(ACTIVATIONS))()
    if kind == "dropout":
        return _dropout(draw)
    if kind == "residual":
        return _residual(draw, channels)
    if kind == "branches":
        kernels = draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
        return Branches(*(nn.Conv1d(channels, 2, kernel, padding="same") for kernel in kernels))
    if kind == "gate":
        return Gate(channels, draw(st.integers(1, 5)))
    if kind == "layer norm":
        return ChannelNorm(channels)
    before, after = draw(st.integers(0, 4)), draw(st.integers(1, 4))
    return Lambda(lambda x: x[:, :, before:-after])


def _head(draw: st.DrawFn, channels: int, size: int) -> list[nn.Module]:
    kind = draw(st.sampled_from(HEADS))
    if kind == "flat":
        return [nn.Flatten(), nn.Linear(channels * size, 2)]
    if kind == "hidden":
        hidden = [nn.Linear(channels * size, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 2)]
        return [nn.Flatten(), *hidden]
    reductions: dict[str, nn.Module] = {
        "mean": nn.AdaptiveAvgPool1d(1),
        "max": nn.AdaptiveMaxPool1d(1),
        "amax": Lambda(lambda x: x.amax(-1)),
        "sum": Lambda(lambda x: x.sum(2)),
    }
    return [reductions[kind], nn.Flatten(), nn.Linear(channels, 2)]


@st.composite
def architectures(draw: st.DrawFn) -> tuple[nn.Module, int]:
    length = draw(st.integers(20, 60))
    torch.manual_seed(draw(st.integers(0, 99)))
    layers: list[nn.Module] = []
    value = torch.rand(1, 4, length)
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=6)):
        layer = _layer(draw, kind, value.shape[1])
        try:
            after = layer.eval()(value)
        except RuntimeError:
            continue  # no positions are left for it
        if after.shape[2]:
            layers.append(layer)
            value = after
    network = nn.Sequential(*layers, *_head(draw, *value.shape[1:]))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                # As much variance behind a layer as before.
                module.weight.mul_(3**0.5)
        assume(network(torch.rand(2, 4, length)).isfinite().all())
    return scrambled(network).double(), length


@given(architectures(), st.sampled_from([(1, 1), (4, 2), (3, 3)]), st.sampled_from(("", *METHODS)))
@settings(deadline=None, max_examples=60, derandomize=True)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_any_architecture_is_the_same(
    made: tuple[nn.Module, int], blocks: tuple[int, int], method: str
) -> None:
    straight = Straight(*made)
    with convolving_by(method):
        plan = straight.plan()
    outputs, deltas = straight.compare(straight.local(plan, *blocks))
    allowed = 1e-12 * max(1.0, float(straight.reference.abs().max()))
    assert outputs <= allowed
    assert deltas <= allowed
