"""Small versions of the networks of the field, for tests of engines that must run any of them.

Written from the publications, a few channels wide. Norms have statistics and weights that are not
those of a new layer, so that nothing agrees by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def scrambled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return a network in eval mode with the norms of a trained one.

    Biases of convolutions are drawn too, such that units are on and off.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) * (high - low) + low

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _NORMS):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
                module.running_var.copy_(uniform(module.running_var, 0.2, 1.5))
            if isinstance(module, (*_NORMS, nn.LayerNorm)):
                # Some of them negative: a norm before a maximum turns it into a minimum.
                module.weight.copy_(uniform(module.weight, -0.6, 1.8))
                module.bias.copy_(uniform(module.bias, -0.3, 0.3))
    return network.eval()


class Lambda(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: Tensor) -> Tensor:
        return self._function(x)


class Residual(nn.Module):
    """What a branch adds to its input, which takes a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class Branches(nn.Module):
    """Several layers on the same input, side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def deepsea() -> nn.Module:
    """Zhou and Troyanskaya 2015: convolutions with pooling and dropout, one hidden layer."""
    return nn.Sequential(
        nn.Conv1d(4, 5, 8),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Dropout(0.2),
        nn.Conv1d(5, 6, 8),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Dropout(0.2),
        nn.Conv1d(6, 7, 8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(7 * 3, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def basset() -> nn.Module:
    """Kelley, Snoek and Rinn 2016: batch normalisation, dropout behind the hidden layers only."""
    return nn.Sequential(
        nn.Conv1d(4, 6, 19),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.MaxPool1d(3),
        nn.Conv1d(6, 5, 11),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(5, 5, 7),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Flatten(),
        nn.Linear(5 * 2, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(8, 3),
    )


class DanQ(nn.Module):
    """Quang and Xie 2016: one convolution, a bidirectional LSTM over all its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 26)
        self.drop = nn.Dropout(0.2)
        self.lstm = nn.LSTM(6, 4, batch_first=True, bidirectional=True)
        self.drop_states = nn.Dropout(0.5)
        self.head = nn.Sequential(nn.Linear(5 * 8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.max_pool1d(torch.relu(self.conv(x)), 13, 13))
        states, _ = self.lstm(x.transpose(1, 2))
        return self.head(torch.flatten(self.drop_states(states), 1))


class Beluga(nn.Module):
    """Zhou et al. 2018 as it is distributed: images of height 1, lambdas around linear layers."""

    def __init__(self) -> None:
        super().__init__()

        def pair(below: int, channels: int) -> list[nn.Module]:
            return [
                nn.Conv2d(below, channels, (1, 8)),
                nn.ReLU(),
                nn.Conv2d(channels, channels, (1, 8)),
                nn.ReLU(),
            ]

        def linear(inputs: int, outputs: int) -> nn.Module:
            rows = Lambda(lambda x: x.view(1, -1) if len(x.size()) == 1 else x)
            return nn.Sequential(rows, nn.Linear(inputs, outputs))

        self.model = nn.Sequential(
            nn.Sequential(
                *pair(4, 4),
                nn.Dropout(0.2),
                nn.MaxPool2d((1, 4), (1, 4)),
                *pair(4, 5),
                nn.Dropout(0.2),
                nn.MaxPool2d((1, 4), (1, 4)),
                *pair(5, 6),
            ),
            nn.Sequential(
                nn.Dropout(0.5),
                Lambda(lambda x: x.view(x.size(0), -1)),
                linear(6 * 4, 8),
                nn.ReLU(),
                linear(8, 3),
            ),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.unsqueeze(2))


def _dilated(channels: int, layers: int) -> list[nn.Module]:
    """Return the first layer of BPNet and its residual tower, with dropout in the branches."""
    tower = [
        Residual(
            nn.Sequential(
                nn.Conv1d(channels, channels, 3, dilation=2**layer, padding="same"),
                nn.ReLU(),
                nn.Dropout(0.2),
            )
        )
        for layer in range(1, layers + 1)
    ]
    return [nn.Conv1d(4, channels, 21, padding="same"), nn.ReLU(), *tower]


def bpnet_counts() -> nn.Module:
    """Avsec et al. 2021, the counts: a tower of dilated convolutions, the mean of its positions."""
    return nn.Sequential(
        *_dilated(5, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(5, 3)
    )


def bpnet_profile() -> nn.Module:
    """Avsec et al. 2021, the profile: its middle, where the tower has seen no end."""
    return nn.Sequential(
        *_dilated(5, 2),
        nn.Conv1d(5, 2, 9, padding=4),
        Lambda(lambda x: x[:, :, 9:-7]),
        nn.Flatten(),
        nn.Linear(2 * 44, 3),
    )


def _block(below: int, channels: int, stride: int) -> list[nn.Module]:
    shortcut = None
    if stride > 1 or below != channels:
        shortcut = nn.Sequential(
            nn.Conv1d(below, channels, 1, stride=stride, bias=False), nn.BatchNorm1d(channels)
        )
    branch = nn.Sequential(
        nn.Conv1d(below, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm1d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout(0.1),
        nn.Conv1d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm1d(channels),
    )
    return [Residual(branch, shortcut), nn.ReLU(inplace=True)]


def resnet() -> nn.Module:
    """He et al. 2016 in one dimension: strided residual blocks, the mean of the positions."""
    return nn.Sequential(
        nn.Conv1d(4, 4, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm1d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool1d(3, 2, 1),
        *_block(4, 4, 1),
        *_block(4, 6, 2),
        *_block(6, 6, 2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(6, 3),
    )


def overlapping_pools() -> nn.Module:
    """Dropout of whole channels, and pools that overlap, with padding and unfinished windows."""
    return nn.Sequential(
        nn.Conv1d(4, 5, 6, padding=2),
        nn.GELU(),
        nn.Dropout1d(0.3),
        nn.MaxPool1d(3, 2, padding=1, ceil_mode=True),
        nn.Conv1d(5, 5, 4),
        nn.GELU(),
        nn.AvgPool1d(3, 2, padding=1, ceil_mode=True),
        nn.Dropout1d(0.3),
        nn.Conv1d(5, 5, 3, padding=1),
        nn.GELU(),
        nn.AvgPool1d(4, 1, padding=2, count_include_pad=False),
        nn.MaxPool1d(4, 3, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(5 * 6, 3),
    )


class Attention(nn.Module):
    """Convolution, then attention as in a transformer, layer norms over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 7, padding="same")
        self.pool = nn.MaxPool1d(4)
        self.first_norm, self.second_norm = nn.LayerNorm(6), nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.queries, self.keys, self.values = (nn.Linear(6, 6) for _ in range(3))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.gelu(self.conv(x))).permute(0, 2, 1)
        h = self.first_norm(x)
        x = x + self.drop(self.attention(h, h, h, need_weights=False)[0])
        h = self.second_norm(x)
        heads = [
            part(h).unflatten(-1, (2, 3)).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        ]
        attended = F.scaled_dot_product_attention(*heads)
        x = x + self.drop(attended.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def branches() -> nn.Module:
    """Kernels of different sizes side by side, and convolutions in groups of channels."""
    return nn.Sequential(
        Branches(*(nn.Conv1d(4, 2, kernel, padding="same") for kernel in (3, 6, 11))),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv1d(6, 6, 5, groups=3, padding=2),
        nn.BatchNorm1d(6),
        nn.SiLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(6, 6, 3, groups=6, dilation=2, padding=2),
        nn.Conv1d(6, 4, 1),
        nn.ELU(),
        nn.Dropout1d(0.2),
        Branches(nn.Conv1d(4, 3, 4, stride=2, padding=1), nn.AvgPool1d(2)),
        nn.Flatten(),
        nn.Linear(7 * 15, 3),
    )


class Reused(nn.Module):
    """One dropout layer at three places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 5, 8), nn.Conv1d(5, 5, 5)
        self.hidden, self.head = nn.Linear(5 * 6, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.25)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(F.max_pool1d(self.first(x).relu(), 3))
        x = self.drop(F.max_pool1d(self.second(x).relu(), 2))
        return self.head(self.drop(self.hidden(x.flatten(1)).relu()))


class Recurrent(nn.Module):
    """A convolution and a GRU, of which the last state counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 5, 9, stride=3)
        self.drop = nn.Dropout(0.2)
        self.gru = nn.GRU(5, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.tanh(self.conv(x)))
        states, _ = self.gru(x.transpose(1, 2))
        return self.head(self.drop(states[:, -1]))


class GlobalMaximum(nn.Module):
    """Kelley 2016 to DeepBind: the best match anywhere, in each way of asking for it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 5, 7)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Conv1d(5, 4, 4, padding=2)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.drop(torch.relu(self.norm(self.conv(x)))))
        found = (x.amax(-1), F.adaptive_max_pool1d(x, 1).squeeze(-1), x.max(dim=2).values)
        return self.head(self.drop(torch.cat(found, 1)))


class Gated(nn.Module):
    """Linear layers on each position, gates, and a softmax over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 8, stride=2)
        self.value, self.gate = nn.Linear(6, 5), nn.Linear(6, 5)
        self.drop = nn.Dropout(0.2)
        self.mix = nn.Linear(5, 4)
        self.head = nn.Linear(4 * 27, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.softplus(self.conv(x)).transpose(1, 2)
        x = self.drop(self.value(x) * torch.sigmoid(self.gate(x)))
        x = self.mix(x).softmax(-1) * x[..., :4]
        return self.head(self.drop(x).flatten(1))


def plain() -> nn.Module:
    """No dropout at all."""
    return nn.Sequential(
        nn.Conv1d(4, 5, 7, stride=2),
        nn.BatchNorm1d(5),
        nn.LeakyReLU(0.1),
        nn.Conv1d(5, 5, 5, padding=2),
        nn.Softplus(),
        nn.MaxPool1d(3),
        nn.Flatten(),
        nn.Linear(5 * 9, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "deepsea": (deepsea, 200),
    "basset": (basset, 220),
    "danq": (DanQ, 92),
    "beluga": (Beluga, 360),
    "bpnet_counts": (bpnet_counts, 70),
    "bpnet_profile": (bpnet_profile, 60),
    "resnet": (resnet, 90),
    "overlapping_pools": (overlapping_pools, 75),
    "attention": (Attention, 50),
    "branches": (branches, 60),
    "reused": (Reused, 56),
    "recurrent": (Recurrent, 61),
    "global_maximum": (GlobalMaximum, 50),
    "gated": (Gated, 60),
    "plain": (plain, 60),
}
"""Networks and the lengths of their inputs, by name."""


def build(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, int]:
    """Return a network, the same at every call, and the length of its input."""
    make, length = NETWORKS[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(sorted(NETWORKS).index(name))
        return scrambled(make()).to(dtype), length


def names(but: Sequence[str] = ()) -> list[str]:
    """Return the names of all networks but some."""
    return [name for name in NETWORKS if name not in but]
