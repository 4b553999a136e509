"""Networks that map one-hot DNA (n, 4, length) to outputs (n, targets) on the link scale.

A new architecture is one function here and one line in `ARCHITECTURES`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

PerLayer = int | Sequence[int]
Rates = float | Sequence[float]


class ArchitectureError(ValueError):
    """A network cannot be built from the name, options or file given."""


def small(
    n_targets: int,
    length: int,
    *,
    n_layers: int = 3,
    channels: PerLayer = 32,
    kernel: PerLayer | None = None,
    pool: PerLayer = 4,
    batch_norm: bool = False,
    dropout: Rates | None = None,
) -> nn.Module:
    """Build a small network: convolutions as long as the input, then one linear layer.

    Parameters
    ----------
    n_targets, length : int
        Outputs; input length in bp.
    n_layers : int
        Convolutions.
    channels : int or sequence of int
        Filters of each convolution.
    kernel : int or sequence of int, optional
        Width of each convolution in its own positions; by default 15 for the first (a motif with
        its flanks) and 7 for the others.
    pool : int or sequence of int
        Width of the max-pooling after each convolution. A single number holds for the first two;
        the others do not pool. 1 is no pooling.
    batch_norm : bool
        Normalise each convolution's output, after its pooling. Many thousand windows with rare
        positives are learned far faster with it and a dropout of .1-.2; on few windows it shrinks
        the effects of mutations.
    dropout : float or sequence of float, optional
        Rate after each layer; by default .2, and .5 after the last.

    Returns
    -------
    torch.nn.Module
        Maps (n, 4, length) to (n, n_targets).

    Raises
    ------
    ArchitectureError
        If an option has the wrong length or range, or the input is too short for the pooling.
    """
    _check_integers("n_layers", [n_layers])
    kernels = _per_layer(
        "kernel", [15] + [7] * (n_layers - 1) if kernel is None else kernel, n_layers
    )
    widths = _per_layer("channels", channels, n_layers)
    pools = _per_layer(
        "pool",
        [pool, pool, *[1] * n_layers][:n_layers] if isinstance(pool, int) else pool,
        n_layers,
    )
    rates = _rates([0.2] * (n_layers - 1) + [0.5] if dropout is None else dropout, n_layers)
    lengths = _lengths("small", length, [1] * n_layers, pools)
    layers: list[nn.Module] = []
    for below, width, size, step, rate in zip(
        [4, *widths], widths, kernels, pools, rates, strict=False
    ):
        layers.append(nn.Conv1d(below, width, size, padding="same"))
        if step > 1:
            # Before the ReLU, with which it commutes: fewer elements to normalise and rectify.
            layers.append(nn.MaxPool1d(step))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers += [nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * lengths[-1], n_targets))


def basset(
    n_targets: int,
    length: int,
    *,
    channels: Sequence[int] = (300, 200, 200),
    hidden: int = 1000,
    dropout: float = 0.3,
) -> nn.Module:
    """Build Basset: three convolutions with batch normalisation, two hidden layers.

    Published for 600 bp and 164 targets (Kelley, Snoek and Rinn, Genome Research 26:990, 2016).

    Parameters
    ----------
    n_targets, length : int
        Outputs; input length in bp.
    channels : sequence of 3 int
        Filters of the convolutions (widths 19, 11, 7; pooling 3, 4, 4; no padding).
    hidden : int
        Units of each hidden layer.
    dropout : float
        Rate after each hidden layer.

    Returns
    -------
    torch.nn.Module
        Maps (n, 4, length) to (n, n_targets).

    Raises
    ------
    ArchitectureError
        If an option is out of range or the input is too short.
    """
    widths = _per_layer("channels", channels, 3)
    _check_integers("hidden", [hidden])
    (rate,) = _rates(dropout, 1)
    kernels, pools = (19, 11, 7), (3, 4, 4)
    flat = widths[-1] * _lengths("basset", length, kernels, pools)[-1]
    layers: list[nn.Module] = []
    for below, width, size, step in zip([4, *widths], widths, kernels, pools, strict=False):
        layers += [nn.Conv1d(below, width, size), nn.BatchNorm1d(width), nn.ReLU()]
        layers.append(nn.MaxPool1d(step))
    layers.append(nn.Flatten())
    for units in (flat, hidden):
        layers += [nn.Linear(units, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*layers, nn.Linear(hidden, n_targets))


def deepsea(
    n_targets: int,
    length: int,
    *,
    channels: Sequence[int] = (320, 480, 960),
    hidden: int = 925,
    dropout: Rates = (0.2, 0.2, 0.5),
) -> nn.Module:
    """Build DeepSEA: three convolutions, pooling and dropout between them, one hidden layer.

    Published for 1000 bp and 919 targets (Zhou and Troyanskaya, Nature Methods 12:931, 2015).

    Parameters
    ----------
    n_targets, length : int
        Outputs; input length in bp.
    channels : sequence of 3 int
        Filters of the convolutions (width 8, no padding; pooling 4 after the first two).
    hidden : int
        Units of the hidden layer.
    dropout : float or sequence of 3 float
        Rate after each convolution.

    Returns
    -------
    torch.nn.Module
        Maps (n, 4, length) to (n, n_targets).

    Raises
    ------
    ArchitectureError
        If an option is out of range or the input is too short.
    """
    widths = _per_layer("channels", channels, 3)
    _check_integers("hidden", [hidden])
    rates = _rates(dropout, 3)
    kernels, pools = (8, 8, 8), (4, 4, 1)
    flat = widths[-1] * _lengths("deepsea", length, kernels, pools)[-1]
    layers: list[nn.Module] = []
    for below, width, size, step, rate in zip(
        [4, *widths], widths, kernels, pools, rates, strict=False
    ):
        layers += [nn.Conv1d(below, width, size), nn.ReLU()]
        if step > 1:
            layers.append(nn.MaxPool1d(step))
        layers.append(nn.Dropout(rate))
    layers += [nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, n_targets)]
    return nn.Sequential(*layers)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "small": small,
    "basset": basset,
    "deepsea": deepsea,
}
"""Architectures by the name that the configuration uses."""


def build(name: str, n_targets: int, length: int, **options: Any) -> nn.Module:
    """Build a network by name, with weights from torch's current random state.

    Parameters
    ----------
    name : str
        A key of `ARCHITECTURES`.
    n_targets, length : int
        Outputs; input length in bp.
    **options
        Arguments of the architecture's function.

    Returns
    -------
    torch.nn.Module
        Maps (n, 4, length) to (n, n_targets): logits, log rates or means.

    Raises
    ------
    ArchitectureError
        If the name or an option is unknown, an option is out of range, or the input is too short.
    """
    if name not in ARCHITECTURES:
        raise ArchitectureError(
            f"no architecture is called {name!r}; write one of {', '.join(ARCHITECTURES)}"
        )
    known = list(inspect.signature(ARCHITECTURES[name]).parameters)[2:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ArchitectureError(
            f"architecture {name} has no option {', '.join(unknown)}; it has {', '.join(known)}"
        )
    _check_integers("n_targets", [n_targets])
    _check_integers("length", [length])
    return ARCHITECTURES[name](n_targets, length, **options)


def from_code(code: str) -> nn.Module:
    """Build a user's own network by calling a function of a Python file.

    Parameters
    ----------
    code : str
        ``"path/to/file.py:function"``; the function takes no argument and returns a network.

    Returns
    -------
    torch.nn.Module
        The network, with whatever weights the function gives it.

    Raises
    ------
    ArchitectureError
        If the file or function is missing, fails, or returns something else.
    """
    path, _, function = code.rpartition(":")
    if not path or not function.isidentifier():
        raise ArchitectureError(f"{code!r} names no function; write file.py:function")
    file = Path(path)
    if not file.is_file():
        raise ArchitectureError(f"{code}: there is no file {file}")
    module_name = f"deepmr_imported_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ArchitectureError(f"{code}: {file.name} is no Python file; write file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ArchitectureError(f"{code}: {file.name} cannot be run: {error!r}") from error
    make = getattr(module, function, None)
    if not callable(make):
        present = [
            name
            for name, item in vars(module).items()
            if inspect.isfunction(item) and name[0] != "_"
        ]
        raise ArchitectureError(
            f"{code}: {file.name} has no function {function!r}; "
            f"it has {', '.join(present) or 'none'}"
        )
    try:
        network = make()
    except Exception as error:
        raise ArchitectureError(f"{code}: {function}() failed: {error!r}") from error
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"{code}: {function}() returned {type(network).__name__}; return a torch.nn.Module"
        )
    return network


def complete_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an architecture with its defaults filled in, sequences as lists.

    What is stored with a model, so that a later change of a default does not change the model.
    """
    defaults = {
        option: parameter.default
        for option, parameter in inspect.signature(ARCHITECTURES[name]).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {
        option: list(value) if isinstance(value, list | tuple) else value
        for option, value in sorted((defaults | dict(options)).items())
    }


def _check_integers(option: str, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArchitectureError(f"{option}: found {value!r}; write whole numbers from 1 up")


def _per_layer(option: str, value: PerLayer, n_layers: int) -> list[int]:
    values = [value] * n_layers if isinstance(value, int) else list(value)
    _check_integers(option, values)
    if len(values) != n_layers:
        raise ArchitectureError(
            f"{option}: found {len(values)} numbers; write one, or one for each of "
            f"{n_layers} convolutions"
        )
    return values


def _rates(value: Rates, n_layers: int) -> list[float]:
    values = [float(v) for v in ([value] * n_layers if isinstance(value, int | float) else value)]
    for rate in values:
        if not 0 <= rate < 1:
            raise ArchitectureError(f"dropout: found {rate}; write a rate from 0 to below 1")
    if len(values) != n_layers:
        raise ArchitectureError(
            f"dropout: found {len(values)} rates; write one, or one for each of {n_layers} layers"
        )
    return values


def _lengths(name: str, length: int, kernels: Sequence[int], pools: Sequence[int]) -> list[int]:
    """Return the positions left after each layer of unpadded convolution and pooling."""
    lengths = []
    left = length
    for kernel, pool in zip(kernels, pools, strict=True):
        left = (left - kernel + 1) // pool
        lengths.append(left)
    if min(lengths) < 1:
        needed = 1
        for kernel, pool in zip(reversed(kernels), reversed(pools), strict=True):
            needed = needed * pool + kernel - 1
        raise ArchitectureError(
            f"an input of {length} bp is too short for {name}, which needs {needed} bp or more; "
            "use longer windows or another architecture"
        )
    return lengths
