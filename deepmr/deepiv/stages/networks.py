"""The network of a stage of Deep IV, and the contexts that it reads.

Both stages have one shape (Hartford, Lewis, Leyton-Brown and Taddy, ICML 2017): what is known of a
row beside the instrument and the exposure, its *context*, is encoded; a perceptron then reads the
encoding beside the instrument (stage 1) or the exposure (stage 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class AnnotatedSequences(NamedTuple):
    """A batch of sequences with what else is known of them.

    Attributes
    ----------
    one_hot : Tensor, shape (b, 4, length)
        What an encoder reads.
    numbers : Tensor, shape (b, k)
        What stands beside its encoding.
    """

    one_hot: Tensor
    numbers: Tensor


Batch = Tensor | AnnotatedSequences


class Contexts(Protocol):
    """The contexts of n rows; a float tensor (n, columns) is one."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, rows: Tensor, /) -> Batch:
        """Return what a network takes for some rows, (b, …); `rows` is int64 on their device."""

    def to(self, device: str, /) -> Contexts:
        """Return the same contexts on a device."""


class SequenceContexts:
    """DNA as context: held as one byte a base, given to networks one-hot.

    Parameters
    ----------
    codes : ndarray or Tensor of uint8, shape (n, length)
        0-3 for A, C, G, T; :data:`deepmr.genome.alphabet.AMBIGUOUS` becomes four zeros.
    numbers : ndarray or Tensor, shape (n, k), optional
        What else is known of a sequence, in standard units.

    Raises
    ------
    ValueError
        If the codes are no uint8 matrix, or the numbers have another number of rows.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8] | Tensor,
        numbers: NDArray[np.float64] | Tensor | None = None,
    ) -> None:
        self.codes = torch.as_tensor(codes)
        if self.codes.dtype != torch.uint8 or self.codes.ndim != 2:
            raise ValueError(
                f"contexts: found {self.codes.dtype} of shape {tuple(self.codes.shape)}; "
                "give codes as uint8 of shape (n, length)"
            )
        self._bases = torch.arange(4, dtype=torch.uint8, device=self.codes.device)[:, None]
        self.numbers = None if numbers is None else torch.as_tensor(numbers, dtype=torch.float32)
        if self.numbers is not None and (
            self.numbers.ndim != 2 or len(self.numbers) != len(self.codes)
        ):
            raise ValueError(
                f"numbers: found shape {tuple(self.numbers.shape)} beside {len(self.codes)} "
                "sequences; give (n, k)"
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.codes)

    def __getitem__(self, rows: Tensor) -> Batch:
        """Return some sequences one-hot, float32 of shape (b, 4, length), beside their numbers."""
        one_hot = (self.codes[rows, None] == self._bases).float()
        return one_hot if self.numbers is None else AnnotatedSequences(one_hot, self.numbers[rows])

    def to(self, device: str) -> SequenceContexts:
        """Return the same sequences on a device."""
        numbers = None if self.numbers is None else self.numbers.to(device)
        return SequenceContexts(self.codes.to(device), numbers)


class Dropout(nn.Dropout):
    """Dropout whose masks cost a third of torch's on a CPU, where they are most of a small step."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations with a random share p of them 0; all of them in eval mode."""
        if not self.training or self.p == 0:
            return super().forward(x)
        return x * ((torch.rand_like(x) >= self.p) * (1 / (1 - self.p)))


class ContextNetwork(nn.Module):
    """An encoder of the context, then a perceptron that also reads other numbers.

    Parameters
    ----------
    n_context : int
        Numbers that stand for a context: what the encoder returns, or the columns of the context.
    n_other : int
        Other numbers of a row, the instruments or the exposure; 0 if there are none.
    n_outputs : int
        Outputs.
    hidden : sequence of int
        Units of each hidden layer, ReLU after each; without any, the network is one linear layer
        on the encoding.
    dropout : float
        Rate after each hidden layer.
    encoder : torch.nn.Module, optional
        Maps a batch of contexts to (b, n_context), to which ReLU is applied; by default the
        context, (b, n_context), is taken as it is.
    n_numbers : int
        Numbers of a context that the encoder does not read (`AnnotatedSequences`).

    Raises
    ------
    ValueError
        If the dropout rate is not from 0 to below 1.
    """

    def __init__(
        self,
        n_context: int,
        n_other: int,
        n_outputs: int,
        *,
        hidden: Sequence[int] = (128, 64, 32),
        dropout: float = 0.5,
        encoder: nn.Module | None = None,
        n_numbers: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: found {dropout}; write a rate from 0 to below 1")
        self.n_other = n_other
        self.encoder = encoder
        layers: list[nn.Module] = []
        width = n_context + n_numbers + n_other
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), Dropout(dropout)]
            width = units
        self.perceptron = nn.Sequential(*layers, nn.Linear(width, n_outputs))

    def features(self, context: Batch) -> Tensor:
        """Return what stands for a batch of contexts, (b, n_context + n_numbers)."""
        if isinstance(context, AnnotatedSequences):
            return torch.cat((self.features(context.one_hot), context.numbers), dim=1)
        return context if self.encoder is None else self.encoder(context).relu()

    def head(self, features: Tensor, other: Tensor | None = None) -> Tensor:
        """Return the outputs (b, n_outputs) for encodings and the other numbers (b, n_other).

        Raises
        ------
        ValueError
            If other numbers are given to a network without them, or the reverse.
        """
        if (other is None) != (self.n_other == 0):
            raise ValueError(
                f"the network reads {self.n_other} numbers beside the context, and was given "
                f"{'none' if other is None else tuple(other.shape)}; give (b, {self.n_other})"
            )
        outputs: Tensor = self.perceptron(
            features if other is None else torch.cat((features, other), dim=1)
        )
        return outputs

    def forward(self, context: Batch, other: Tensor | None = None) -> Tensor:
        """Return the outputs (b, n_outputs) for contexts and the other numbers (b, n_other)."""
        return self.head(self.features(context), other)

    def surface(self, context: Batch, other: Tensor) -> Tensor:
        """Return the first output at several values of one other number for each context.

        The context is encoded once, whatever the number of values.

        Parameters
        ----------
        context : Tensor, shape (b, …), or AnnotatedSequences
            Contexts.
        other : Tensor, shape (b, s)
            Values of the network's one other number.

        Returns
        -------
        Tensor, shape (b, s)
            The outputs.
        """
        rows, values = other.shape
        features = self.features(context)
        repeated = features[:, None].expand(-1, values, -1).reshape(rows * values, -1)
        return self.head(repeated, other.reshape(-1, 1))[:, 0].reshape(rows, values)


@dataclass(frozen=True)
class Design:
    """How the network of a stage is made.

    Attributes
    ----------
    n_context : int
        Numbers that stand for a context.
    hidden : tuple of int
        Units of each hidden layer of the perceptron.
    dropout : float
        Rate after each hidden layer.
    encoder : callable, optional
        Makes a new encoder, with weights from torch's current random state; by default the context
        is taken as it is.
    n_numbers : int
        Numbers of a context beside these.
    """

    n_context: int
    hidden: tuple[int, ...] = (128, 64, 32)
    dropout: float = 0.5
    encoder: Callable[[], nn.Module] | None = None
    n_numbers: int = 0

    def build(self, n_other: int, n_outputs: int) -> ContextNetwork:
        """Return a new network, with weights from torch's current random state."""
        return ContextNetwork(
            self.n_context,
            n_other,
            n_outputs,
            hidden=self.hidden,
            dropout=self.dropout,
            encoder=None if self.encoder is None else self.encoder(),
            n_numbers=self.n_numbers,
        )
