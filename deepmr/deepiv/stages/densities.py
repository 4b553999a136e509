"""What the first stage's outputs say about the exposure: a mixture of normals, or categories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_LOG_SD = 7.0


class Density(Protocol):
    """A family of distributions of the exposure, one for each row of a network's outputs."""

    standardised: ClassVar[bool]
    """Whether the exposure is to be put in standard units first."""

    @property
    def n_outputs(self) -> int:
        """How many outputs it takes."""

    def log_density(self, outputs: Tensor, exposure: Tensor) -> Tensor:
        """Return the log density, or log probability, (b,) of exposures (b,)."""

    def sample(self, outputs: Tensor, n: int) -> Tensor:
        """Return n independent exposures (b, n), from torch's default generator."""

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the mean exposure (b,)."""


@dataclass(frozen=True)
class MixtureDensity:
    """A mixture of normal distributions (Bishop, Mixture density networks, 1994).

    The outputs are the logits of the weights, the means and the logs of the standard deviations.

    Attributes
    ----------
    n_components : int
        Normal distributions.
    """

    n_components: int = 10
    standardised: ClassVar[bool] = True

    @property
    def n_outputs(self) -> int:
        """Three for each component."""
        return 3 * self.n_components

    def log_density(self, outputs: Tensor, exposure: Tensor) -> Tensor:
        """Return the log density (b,) of exposures (b,)."""
        logits, means, log_sd = self._parts(outputs)
        z = (exposure[:, None] - means) * (-log_sd).exp()
        parts = torch.log_softmax(logits, 1) - log_sd - 0.5 * z.square()
        return torch.logsumexp(parts, 1) - 0.5 * math.log(2 * math.pi)

    def sample(self, outputs: Tensor, n: int) -> Tensor:
        """Return n independent exposures (b, n)."""
        logits, means, log_sd = self._parts(outputs)
        chosen = _choose(logits, n)
        noise = torch.randn(chosen.shape, device=outputs.device)
        return means.gather(1, chosen) + log_sd.exp().gather(1, chosen) * noise

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the mean exposure (b,)."""
        logits, means, _ = self._parts(outputs)
        return (logits.softmax(1) * means).sum(1)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, means, log_sd = outputs.split(self.n_components, dim=1)
        return logits, means, log_sd.clamp(-_MOST_LOG_SD, _MOST_LOG_SD)


@dataclass(frozen=True)
class Categorical:
    """An exposure with a few possible values; a binary one has ``(0, 1)``.

    The outputs are the logits of the values.

    Attributes
    ----------
    levels : sequence or ndarray of float
        The values, ascending.

    Raises
    ------
    ValueError
        If there are fewer than two values, or they do not ascend.
    """

    levels: Sequence[float] | NDArray[np.float64]
    standardised: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the values."""
        levels = tuple(float(level) for level in self.levels)
        if len(levels) < 2 or any(a >= b for a, b in pairwise(levels)):
            raise ValueError(f"levels: found {levels}; give two or more values, ascending")
        object.__setattr__(self, "levels", levels)

    @property
    def n_outputs(self) -> int:
        """One for each value."""
        return len(self.levels)

    def log_density(self, outputs: Tensor, exposure: Tensor) -> Tensor:
        """Return the log probability (b,) of exposures (b,); -inf for what is no level."""
        is_level = exposure[:, None] == self._values(outputs)
        log_probability = torch.where(is_level, torch.log_softmax(outputs, 1), 0.0).sum(1)
        return torch.where(is_level.any(1), log_probability, -math.inf)

    def sample(self, outputs: Tensor, n: int) -> Tensor:
        """Return n independent exposures (b, n)."""
        return self._values(outputs)[_choose(outputs, n)]

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the mean exposure (b,); of a binary one the probability of 1."""
        return outputs.softmax(1) @ self._values(outputs)

    def _values(self, outputs: Tensor) -> Tensor:
        return torch.tensor(self.levels, dtype=outputs.dtype, device=outputs.device)


def _choose(logits: Tensor, n: int) -> Tensor:
    """Return n independent choices (b, n) with given logits (b, k), by the Gumbel-max trick.

    Unlike ``multinomial``, the same on every run of a GPU.
    """
    rows, k = logits.shape
    waits = torch.empty(rows, n, k, device=logits.device).exponential_()
    return (logits[:, None] - waits.log()).argmax(2)
