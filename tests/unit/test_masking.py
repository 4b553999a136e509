from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepmr.draws import keep_mask
from deepmr.genome.alphabet import one_hot
from deepmr.mutagenesis.masking import NO_MASKS, DropoutError, MaskedNetwork

LENGTH = 24
CPU = torch.device("cpu")


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Dropout(0.2),
        nn.Conv1d(6, 6, 3),
        nn.ReLU(),
        nn.Dropout1d(0.4),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(60, 3),
    )


def inputs(n: int = 4) -> Tensor:
    codes = np.random.default_rng(1).integers(4, size=(n, LENGTH), dtype=np.uint8)
    return torch.from_numpy(one_hot(codes))


def masked(network: nn.Module) -> MaskedNetwork:
    return MaskedNetwork(network, LENGTH, CPU)


class Own(nn.Module):
    """A network from a forward function over a few layers."""

    def __init__(self, forward: Callable[[Own, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(4, 4, 5, padding=2)
        self.head = nn.Linear(4 * LENGTH, 2)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def test_all_draws_at_once_equal_a_plain_loop_with_explicit_masks() -> None:
    network = cnn()
    many = masked(network)
    many.choose_expansion(seed=5)
    assert many.expanded_at == "first site"
    x = inputs()
    values = many(x, many.masks(5, [None, 0, 1, 7]))
    assert values.shape == (4, 4, 3)
    plain = [network.eval()(x)]
    for draw in (0, 1, 7):
        first = torch.from_numpy(keep_mask(5, 0, draw, (6, 12), 0.2)).float() / 0.8
        second = torch.from_numpy(keep_mask(5, 1, draw, (6, 1), 0.4)).float() / 0.6
        h = network[:4](x) * first
        plain.append(network[8:](network[5:7](h) * second))
    torch.testing.assert_close(values, torch.stack(plain))


def test_sites_are_counted_and_p_zero_is_none() -> None:
    sites = masked(cnn()).sites
    assert [(site.p, site.shape) for site in sites] == [(0.2, (6, 12)), (0.4, (6, 1))]


def test_expansion_at_the_input_gives_the_same() -> None:
    network = masked(cnn())
    masks = network.masks(1, range(3))
    at_site = network(inputs(), masks)
    network.expanded_at = "input"
    torch.testing.assert_close(network(inputs(), masks), at_site)


def test_residual_around_dropout_runs_from_the_input(caplog: pytest.LogCaptureFixture) -> None:
    def forward(net: Own, x: Tensor) -> Tensor:
        h = net.conv(x)
        return net.head((h + F.dropout(torch.relu(h), 0.5, net.training)).flatten(1))

    own = Own(forward)
    network = masked(own)
    with caplog.at_level(logging.INFO):
        network.choose_expansion(seed=2)
    assert network.expanded_at == "input"
    assert "carries values past its first dropout site" in caplog.text
    x = inputs()
    values = network(x, network.masks(2, [3]))
    with torch.no_grad():
        h = own.conv(x)
        mask = torch.from_numpy(keep_mask(2, 0, 3, (4, LENGTH), 0.5)).float() * 2
        expected = own.head((h + torch.relu(h) * mask).flatten(1))
    torch.testing.assert_close(values[0], expected)


def test_batch_size_remembered_from_before_the_dropout_runs_from_the_input() -> None:
    def forward(net: Own, x: Tensor) -> Tensor:
        h = F.dropout(net.conv(x), 0.5, net.training)
        return net.head(h.reshape(len(x), -1))

    network = masked(Own(forward))
    network.choose_expansion(seed=2)
    assert network.expanded_at == "input"
    assert network(inputs(), network.masks(2, range(3))).shape == (3, 4, 2)


def test_in_place_dropout_changes_its_input() -> None:
    def forward(net: Own, x: Tensor) -> Tensor:
        h = torch.relu(net.conv(x))
        F.dropout(h, 0.5, net.training, inplace=True)
        return net.head(h.flatten(1))

    own = Own(forward)
    network = masked(own)
    network.choose_expansion(seed=2)
    x = inputs()
    with torch.no_grad():
        mask = torch.from_numpy(keep_mask(2, 0, 0, (4, LENGTH), 0.5)).float() * 2
        expected = own.head((torch.relu(own.conv(x)) * mask).flatten(1))
    torch.testing.assert_close(network(x, network.masks(2, [0]))[0], expected)


def test_dropout_that_is_always_on_is_a_site_and_off_without_masks() -> None:
    own = Own(lambda net, x: net.head(torch.dropout(net.conv(x), 0.5, True).flatten(1)))
    network = masked(own)
    assert len(network.sites) == 1
    with torch.no_grad():
        expected = own.head(own.conv(inputs()).flatten(1))
    torch.testing.assert_close(network(inputs(), NO_MASKS)[0], expected)


def test_dropping_everything_leaves_zeros() -> None:
    own = Own(lambda net, x: net.head(F.dropout(net.conv(x), 1.0, net.training).flatten(1)))
    network = masked(own)
    torch.testing.assert_close(
        network(inputs(), network.masks(1, [0]))[0], own.head.bias.detach().expand(4, 2)
    )


def test_attention_layers_show_their_outer_dropout_and_warn_of_the_inner(
    caplog: pytest.LogCaptureFixture,
) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    own = Own(lambda net, x: net.head(net.layer(x.transpose(1, 2)).flatten(1)))
    own.layer = layer
    network = masked(own)
    network.choose_expansion(seed=1)
    assert len(network.sites) == 3
    assert network.expanded_at == "input"
    assert "layer.self_attn (MultiheadAttention) is out of reach" in caplog.text


def stacked_lstm(net: Own, x: Tensor) -> Tensor:
    return net.head(net.lstm(x.transpose(1, 2))[0].flatten(1))


def test_a_network_without_sites_is_refused_with_the_alternatives() -> None:
    network = masked(nn.Sequential(nn.Flatten(), nn.Linear(4 * LENGTH, 2)))
    with pytest.raises(DropoutError, match=r"no dropout site with p > 0.*add dropout.*ensemble"):
        network.masks(1, [0])
    own = Own(stacked_lstm)
    own.lstm = nn.LSTM(4, 4, num_layers=2, dropout=0.3, batch_first=True)
    with pytest.raises(DropoutError, match=r"dropout inside lstm \(LSTM\) is out of reach"):
        masked(own).masks(1, [0])


def test_alpha_dropout_is_refused_for_masks_only() -> None:
    network = masked(nn.Sequential(nn.AlphaDropout(0.1), nn.Flatten(), nn.Linear(4 * LENGTH, 2)))
    assert network(inputs(), NO_MASKS).shape == (1, 4, 2)
    with pytest.raises(DropoutError, match=r"uses AlphaDropout.*use nn\.Dropout"):
        network.masks(1, [0])


def test_attention_with_dropout_in_eval_mode_is_refused() -> None:
    def forward(net: Own, x: Tensor) -> Tensor:
        h = net.conv(x).transpose(1, 2)
        return net.head(F.scaled_dot_product_attention(h, h, h, dropout_p=0.1).flatten(1))

    with pytest.raises(DropoutError, match=r"dropout_p=0\.1 in eval mode"):
        masked(Own(forward))


def test_masks_that_would_differ_between_rows_are_refused() -> None:
    def position_first(net: Own, x: Tensor) -> Tensor:
        h = F.dropout(net.conv(x).permute(2, 0, 1), 0.5, net.training)
        return net.head(h.permute(1, 2, 0).flatten(1))

    network = masked(Own(position_first))
    with pytest.raises(DropoutError, match="first dimension must be the batch"):
        network.choose_expansion(seed=1)

    def merged(net: Own, x: Tensor) -> Tensor:
        h = net.conv(x).permute(1, 0, 2).reshape(-1, 6 * 4)
        h = F.dropout(h, 0.5, net.training).reshape(4, len(x), LENGTH)
        return net.head(h.permute(1, 0, 2).flatten(1))

    # 4 channels × 24 positions are 4 rows of 24 for each sequence, in another order.
    with pytest.raises(DropoutError, match="first dimension must be the batch"):
        masked(Own(merged)).choose_expansion(seed=1)

    def shuffled(net: Own, x: Tensor) -> Tensor:
        h = torch.cat([net.conv(x)[:, :, i::2].transpose(0, 1) for i in (0, 1)], 2)
        h = F.dropout(h.reshape(len(x), -1), 0.5, net.training)
        return net.head(h.reshape(4, len(x), LENGTH).transpose(0, 1).flatten(1))

    with pytest.raises(DropoutError, match="two rows of a batch gets two different masks"):
        masked(Own(shuffled)).choose_expansion(seed=1)


def test_channel_dropout_on_vectors_is_refused() -> None:
    own = Own(lambda net, x: net.head(F.dropout1d(x.flatten(1), 0.5, net.training)))
    with pytest.raises(DropoutError, match=r"channel dropout got a tensor of shape \(5, 96\)"):
        masked(own)


def test_a_changing_number_of_dropout_calls_is_refused() -> None:
    calls = iter([1, 1, 2, 2])

    def forward(net: Own, x: Tensor) -> Tensor:
        for _ in range(next(calls)):
            x = F.dropout(x, 0.5, net.training)
        return net.head(x.flatten(1))

    network = masked(Own(forward))
    with pytest.raises(DropoutError, match="more than its 1 dropout calls"):
        network(inputs(), network.masks(1, [0]))


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gave \(5, 4, 24\); .* shape \(5, targets\)"):
        masked(nn.Conv1d(4, 4, 5, padding=2))
    with pytest.raises(ValueError, match="gave tuple"):
        masked(Own(lambda net, x: (x, x)))
    with pytest.raises(ValueError, match="not finite"):
        masked(Own(lambda net, x: net.head(x.flatten(1)) / 0))


def test_a_network_for_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fails on an input \(5, 4, 24\) .*another length\?"):
        masked(nn.Sequential(nn.Flatten(), nn.Linear(4 * LENGTH + 4, 2)))


def test_a_network_that_mixes_sequences_is_refused() -> None:
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="depends on the others of its batch"):
        masked(nn.Sequential(norm, nn.Flatten(), nn.Linear(4 * LENGTH, 2)))
    own = Own(lambda net, x: net.head((x - x.mean(0)).flatten(1)))
    with pytest.raises(ValueError, match="depends on the others of its batch"):
        masked(own)
