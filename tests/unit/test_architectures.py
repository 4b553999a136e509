import pytest
import torch
from torch import nn

from deepmr.models import architectures

OPTIONS = {
    "small": {"channels": 4},
    "basset": {"channels": [4, 5, 6], "hidden": 7},
    "deepsea": {"channels": [4, 5, 6], "hidden": 7},
}


def sizes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in network.parameters() if p.ndim > 1]


@pytest.mark.parametrize("name", list(architectures.ARCHITECTURES))
@pytest.mark.parametrize("length", [173, 200, 601])
def test_output_is_one_column_a_target_at_any_length(name: str, length: int) -> None:
    network = architectures.build(name, 3, length, **OPTIONS[name]).eval()
    assert network(torch.zeros(2, 4, length)).shape == (2, 3)


@pytest.mark.parametrize("name", list(architectures.ARCHITECTURES))
def test_shortest_input_named_in_the_message_works(name: str) -> None:
    with pytest.raises(ValueError, match=f"an input of 3 bp is too short for {name}") as caught:
        architectures.build(name, 3, 3, **OPTIONS[name])
    shortest = int(str(caught.value).split("needs ")[1].split()[0])
    network = architectures.build(name, 3, shortest, **OPTIONS[name]).eval()
    assert network(torch.zeros(2, 4, shortest)).shape == (2, 3)
    with pytest.raises(ValueError, match="too short"):
        architectures.build(name, 3, shortest - 1, **OPTIONS[name])


def test_small_has_three_convolutions_and_two_poolings() -> None:
    network = architectures.build("small", 4, 200)
    assert sizes(network) == [(32, 4, 15), (32, 32, 7), (32, 32, 7), (4, 32 * 12)]
    assert [m.kernel_size for m in network if isinstance(m, nn.MaxPool1d)] == [4, 4]
    assert [m.p for m in network if isinstance(m, nn.Dropout)] == [0.2, 0.2, 0.5]


def test_small_takes_a_number_for_each_layer() -> None:
    network = architectures.build(
        "small", 1, 100, n_layers=2, channels=[8, 6], kernel=[9, 5], pool=[5, 2], dropout=[0.1, 0]
    )
    assert sizes(network) == [(8, 4, 9), (6, 8, 5), (1, 6 * 10)]
    assert [m.p for m in network if isinstance(m, nn.Dropout)] == [0.1, 0.0]


@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_small_defaults_suit_any_number_of_layers(n_layers: int) -> None:
    network = architectures.build("small", 1, 100, n_layers=n_layers, channels=4)
    rates = [m.p for m in network if isinstance(m, nn.Dropout)]
    assert rates == [0.2] * (n_layers - 1) + [0.5]
    assert sum(isinstance(m, nn.MaxPool1d) for m in network) == min(2, n_layers)


def test_basset_has_the_published_shape() -> None:
    network = architectures.build("basset", 164, 600)
    assert sizes(network) == [
        (300, 4, 19),
        (200, 300, 11),
        (200, 200, 7),
        (1000, 2000),
        (1000, 1000),
        (164, 1000),
    ]


def test_deepsea_has_the_published_shape() -> None:
    network = architectures.build("deepsea", 919, 1000)
    assert sizes(network) == [
        (320, 4, 8),
        (480, 320, 8),
        (960, 480, 8),
        (925, 50880),
        (919, 925),
    ]
    assert [m.p for m in network if isinstance(m, nn.Dropout)] == [0.2, 0.2, 0.5]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "no architecture is called 'resnet'; write one of small, basset, deepsea"),
        ("small", {"filters": 3}, "small has no option filters; it has n_layers, channels, kernel"),
        ("small", {"channels": 0}, "channels: found 0; write whole numbers from 1 up"),
        ("small", {"n_layers": 2.5}, "n_layers: found 2.5; write whole numbers"),
        ("small", {"kernel": [5, 5]}, "kernel: found 2 numbers; write one, or one for each of 3"),
        ("small", {"dropout": 1.0}, "dropout: found 1.0; write a rate from 0 to below 1"),
        ("small", {"dropout": [0.1]}, "dropout: found 1 rates; write one, or one for each of 3"),
        ("basset", {"hidden": -1}, "hidden: found -1"),
        ("deepsea", {"channels": True}, "channels: found True"),
    ],
)
def test_wrong_names_and_options_are_named(name: str, options: dict, message: str) -> None:
    with pytest.raises(architectures.ArchitectureError) as caught:
        architectures.build(name, 2, 200, **options)
    assert message in str(caught.value)


def test_batch_normalisation_comes_after_the_pooling() -> None:
    network = architectures.build("small", 1, 100, n_layers=1, channels=4, batch_norm=True)
    assert [type(m).__name__ for m in network][:4] == ["Conv1d", "MaxPool1d", "BatchNorm1d", "ReLU"]
    plain = architectures.build("small", 1, 100, n_layers=1, channels=4)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in plain)


def test_complete_options_hold_the_defaults() -> None:
    assert architectures.complete_options("basset", {"dropout": 0.1, "channels": (1, 2, 3)}) == {
        "channels": [1, 2, 3],
        "dropout": 0.1,
        "hidden": 1000,
    }
    assert set(architectures.complete_options("small", {})) == {
        "n_layers",
        "channels",
        "kernel",
        "pool",
        "batch_norm",
        "dropout",
    }
