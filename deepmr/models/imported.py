"""A user's own network: its code and weights, and the check that it behaves as a model must."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepmr.genome import alphabet
from deepmr.models import architectures, checkpoint, losses

_TOLERANCE = 1e-5


class ImportedModelError(ValueError):
    """A user's network cannot be used; the message says what it gave and what is expected."""


def load_model(
    code: str,
    weights: str | Path,
    targets: Sequence[str],
    length: int,
    kinds: Sequence[str] | None = None,
    name: str = checkpoint.IMPORTED,
) -> checkpoint.TrainedModel:
    """Build a user's network, load its weights and check it.

    Parameters
    ----------
    code : str
        ``"path/to/file.py:function"``; the function takes no argument and returns a
        ``torch.nn.Module`` that maps (n, 4, length) one-hot DNA (channels A, C, G, T) to
        (n, targets) logits, log rates or means.
    weights : path
        A state dict, ``.safetensors`` or written by ``torch.save`` (also below a key
        ``state_dict``).
    targets : sequence of str
        Names of the outputs, in order.
    length : int
        Input length in bp.
    kinds : sequence of str, optional
        Type of each target; binary by default.
    name : str
        Name of the model.

    Returns
    -------
    checkpoint.TrainedModel
        With one member. Its file holds the weights and the absolute path of the code.

    Raises
    ------
    architectures.ArchitectureError
        If the code gives no network.
    ImportedModelError
        If the weights do not fit or the network breaks the contract.
    checkpoint.CheckpointError
        If the weights cannot be read.
    """
    kinds = ("binary",) * len(targets) if kinds is None else tuple(kinds)
    losses.check_kinds(kinds)
    path, _, function = code.rpartition(":")
    network = architectures.from_code(code)
    _load_weights(network, Path(weights))
    check(network, len(targets), length)
    absolute = f"{Path(path).resolve()}:{function}"
    return checkpoint.TrainedModel(
        name=name,
        architecture=checkpoint.IMPORTED,
        options={},
        length=length,
        targets=tuple(targets),
        kinds=kinds,
        members=[network],
        code=absolute,
        code_hash=checkpoint.code_hash(absolute),
    )


def check(network: nn.Module, n_targets: int, length: int) -> None:
    """Check that a network maps (2, 4, length) to (2, targets), row by row and always alike.

    Parameters
    ----------
    network : torch.nn.Module
        Put into eval mode.
    n_targets, length : int
        Outputs expected; input length in bp.

    Raises
    ------
    ImportedModelError
        If it fails on such an input; if the output has another shape or type or is not finite; if
        a second call differs; or if a row depends on the other row.
    """
    codes = np.random.default_rng(0).integers(0, 4, size=(2, length), dtype=np.uint8)
    inputs = torch.from_numpy(alphabet.one_hot(codes))
    network.eval()
    outputs = _forward(network, inputs)
    expected = (2, n_targets)
    if tuple(outputs.shape) != expected:
        raise ImportedModelError(
            f"an input {tuple(inputs.shape)} gave an output of shape {tuple(outputs.shape)}; "
            f"expected {expected}, a row a sequence and a column a target"
        )
    if outputs.dtype != torch.float32:
        raise ImportedModelError(f"the output is {outputs.dtype}; expected torch.float32")
    if not bool(torch.isfinite(outputs).all()):
        raise ImportedModelError(
            f"the output is not finite: {outputs.tolist()}; expected logits, log rates or means"
        )
    if not torch.equal(outputs, _forward(network, inputs)):
        raise ImportedModelError(
            "two calls on the same input differ in eval mode; is dropout called with "
            "training=True? Use training=self.training, draws are made by Deep MR"
        )
    alone = torch.cat([_forward(network, inputs[row : row + 1]) for row in range(2)])
    difference = float((alone - outputs).abs().max())
    if difference > _TOLERANCE * (1 + float(outputs.abs().max())):
        raise ImportedModelError(
            f"a sequence alone and in a batch of 2 gives outputs {difference:.2g} apart in eval "
            "mode; expected the same. Does the network normalise over the batch?"
        )


def _forward(network: nn.Module, inputs: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            outputs: Any = network(inputs)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ImportedModelError(
            f"the network failed on an input {tuple(inputs.shape)}: {type(error).__name__}: "
            f"{reason}; expected it to take (n, 4, length) float32"
        ) from error
    if not isinstance(outputs, Tensor):
        raise ImportedModelError(
            f"the network returned {type(outputs).__name__}; expected one tensor (n, targets)"
        )
    return outputs


def _load_weights(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise ImportedModelError(f"there is no file {path} with the network's weights")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    else:
        content = checkpoint.load_tensors(path)
        state = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
    own = network.state_dict()
    problems = [
        *(f"{key} is missing" for key in own if key not in state),
        *(f"{key} is not in the network" for key in state if key not in own),
        *(
            f"{key} has shape {tuple(state[key].shape)}, the network's has {tuple(own[key].shape)}"
            for key in own
            if key in state and tuple(state[key].shape) != tuple(own[key].shape)
        ),
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ImportedModelError(
            f"the weights in {path} do not fit the network: {'; '.join(problems[:5])}{more}"
        )
    network.load_state_dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportedModelError(
            f"{path} needs the package safetensors; install it, or write a .pt file"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ImportedModelError(f"{path} cannot be read as safetensors: {error}") from error
