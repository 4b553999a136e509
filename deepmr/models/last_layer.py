"""The last linear layer of a network: its features, and the network with other outputs.

The layer is the ``nn.Linear`` whose output is the output of the network, bit by bit, so that
output = W·features + b. It is found by running the network, whatever its architecture.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepmr.genome.alphabet import one_hot

_PROBE_ROWS = 5
_TOLERANCE = 1e-4


class LastLayerError(ValueError):
    """A network whose output is not that of a linear layer."""


@dataclass(frozen=True)
class LastLayer:
    """The last layer of a network in eval mode.

    Attributes
    ----------
    network : torch.nn.Module
        The network; it is in eval mode, and its dropout sites are off.
    path : str
        Where the layer is in the network.
    length : int
        Length of the network's input.
    """

    network: nn.Module
    path: str
    length: int

    @property
    def linear(self) -> nn.Linear:
        """The layer."""
        layer = self.network.get_submodule(self.path)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def weights(self) -> Tensor:
        """Weights of each output, shape (targets, d), float64; the last column is the bias."""
        parts = [self.linear.weight]
        if self.linear.bias is not None:
            parts.append(self.linear.bias[:, None])
        return torch.cat(parts, dim=1).detach().double()

    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and outputs of sequences.

        Parameters
        ----------
        inputs : tensor, shape (rows, 4, length)
            One-hot sequences.

        Returns
        -------
        features : tensor, shape (rows, d)
            What the layer gets, and a column of ones where it has a bias.
        outputs : tensor, shape (rows, targets)
            What the network returns: features · weights'.
        """
        met: list[Tensor] = []
        handle = self.linear.register_forward_hook(
            lambda _, args, kwargs, made: met.append(_input(args, kwargs)), with_kwargs=True
        )
        try:
            with torch.inference_mode():
                outputs: Tensor = self.network(inputs)
        finally:
            handle.remove()
        (features,) = met
        if self.linear.bias is not None:
            features = torch.cat([features, features.new_ones((len(features), 1))], dim=1)
        return features, outputs

    def with_weights(self, weights: Tensor) -> nn.Module:
        """Return a copy of the network with other outputs; the network itself stays as it is.

        Parameters
        ----------
        weights : tensor, shape (outputs, d)
            Weights of each output, in the order of :attr:`weights`; any number of outputs.

        Returns
        -------
        torch.nn.Module
            Maps (rows, 4, length) to (rows, outputs).

        Raises
        ------
        LastLayerError
            If the network does not take a layer with another number of outputs.
        """
        old = self.linear
        bias = old.bias is not None
        # Without random weights, which would move torch's random state.
        new = nn.utils.skip_init(
            nn.Linear,
            old.in_features,
            len(weights),
            bias=bias,
            device=old.weight.device,
            dtype=old.weight.dtype,
        )
        with torch.no_grad():
            new.weight.copy_(weights[:, : old.in_features])
            if new.bias is not None:
                new.bias.copy_(weights[:, -1])
        network = copy.deepcopy(self.network)
        network.set_submodule(self.path, new)
        network.eval().requires_grad_(False)
        self._check(network, weights)
        return network

    def _check(self, network: nn.Module, weights: Tensor) -> None:
        inputs = _probe(self.network, self.length)
        features, _ = self.evaluate(inputs)
        expected = features.double() @ weights.to(features.device).T
        reason = "they differ from those of the layer"
        try:
            with torch.inference_mode():
                found = network(inputs)
            alike = found.shape == expected.shape and _close(found, expected)
        except Exception as error:
            alike, reason = False, str(error).strip().partition("\n")[0]
        if not alike:
            raise _refusal(
                self.network,
                f"does not give {len(weights)} outputs when its last layer does ({reason})",
            )


def find(network: nn.Module, length: int) -> LastLayer:
    """Find the last layer of a network.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (rows, 4, length) to (rows, targets); it is put in eval mode.
    length : int
        Length of its input.

    Returns
    -------
    LastLayer
        The layer whose output is the network's.

    Raises
    ------
    LastLayerError
        If there is none.
    """
    network.eval()
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, made: Tensor) -> None:
            # Later layers may work in place.
            calls.append((path, _input(args, kwargs).clone(), made.clone()))

        return hook

    layers = {path: m for path, m in network.named_modules() if isinstance(m, nn.Linear)}
    if not layers:
        raise _refusal(network, "has no nn.Linear")
    handles = [
        layer.register_forward_hook(note(path), with_kwargs=True) for path, layer in layers.items()
    ]
    try:
        with torch.inference_mode():
            outputs = network(_probe(network, length))
    finally:
        for handle in handles:
            handle.remove()
    same = [call for call in calls if torch.equal(call[2], outputs)]
    if not same:
        raise _refusal(network, "returns something else than the output of an nn.Linear")
    path, features, _ = same[-1]
    if sum(other == path for other, _, _ in calls) > 1:
        raise _refusal(network, f"calls its last layer {path} more than once")
    layer = layers[path]
    again = features.double() @ layer.weight.double().T
    if layer.bias is not None:
        again = again + layer.bias.double()
    if not _close(outputs, again):
        raise _refusal(network, f"has a last layer {path} that is not weights · features + bias")
    return LastLayer(network, path, length)


def _input(args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Tensor:
    return args[0] if args else kwargs["input"]


def _probe(network: nn.Module, length: int) -> Tensor:
    codes = np.random.default_rng(0).integers(4, size=(_PROBE_ROWS, length), dtype=np.uint8)
    like = next(network.parameters())
    return torch.from_numpy(one_hot(codes)).to(like.device, like.dtype)


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _TOLERANCE * (1 + b.abs().max()))


def _refusal(network: nn.Module, what: str) -> LastLayerError:
    return LastLayerError(
        f"{type(network).__name__} {what}, so its last layer cannot be sampled; "
        "write uncertainty.method mc_dropout or ensemble"
    )
