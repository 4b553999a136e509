"""Fitting a network of a stage: its steps, which epoch is kept, and when to stop.

The second stage's held-out loss sees the response only through an average over the exposure's
distribution, so near its minimum it is almost flat, and where the minimum falls is noise. Keeping
the lowest epoch would stop far too early. The last epoch that cannot be told from the lowest is
kept instead.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from deepmr.deepiv.stages.running import evaluate, reproducible

_log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
Network = TypeVar("Network", bound=nn.Module)
Loss = Callable[[Network, Tensor], Tensor]


class FittingError(ValueError):
    """A network cannot be fitted with the rows or settings given."""


@dataclass(frozen=True)
class Settings:
    """How a network is fitted.

    Attributes
    ----------
    epochs : int
        Most passes over the rows; 0 leaves the network as it was built.
    batch_size : int
        Rows a step, about: a pass is cut into equal steps.
    learning_rate : float
        Of Adam in the first epoch; it falls to 0 as a cosine over the epochs.
    weight_decay : float
        Squared weights' share of the loss (L2, inside Adam's gradient).
    patience : int
        Epochs in a row that are worse than the lowest, after which fitting stops.
    tolerance : float
        How much worse an epoch must be to count as such: standard errors of the mean of the
        held-out rows' paired differences.
    averaging : float
        Decay, a step, of the moving average of the weights that is judged and kept.
    device : str
        Where the network and what it reads are, such as ``"cpu"`` or ``"cuda"``.
    threads : int
        Threads of torch on a CPU; the last bits of a result depend on it.
    """

    epochs: int = 400
    batch_size: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    patience: int = 30
    tolerance: float = 1.0
    averaging: float = 0.99
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Fitted(Generic[Network]):
    """A fitted network.

    Attributes
    ----------
    network : torch.nn.Module
        In eval mode, without gradients, with the kept weights.
    epoch : int
        The epoch that is kept, from 1; 0 is the network as built.
    held_out_loss : float
        Its mean loss over the held-out rows.
    history : tuple of float
        Mean held-out loss after each number of epochs, from 0; ``history[epoch]`` is the kept one.
    """

    network: Network
    epoch: int
    held_out_loss: float
    history: tuple[float, ...]


def fit(
    make: Callable[[], Network],
    loss: Loss[Network],
    rows: Rows,
    held_out: Rows,
    settings: Settings,
    *,
    seed: int,
    held_out_loss: Loss[Network] | None = None,
    name: str = "",
) -> Fitted[Network]:
    """Fit a network by Adam, and keep the last epoch that is as good as the best.

    What is judged and kept is the exponential moving average of the weights over the steps (Polyak
    and Juditsky, SIAM J. Control Optim. 30:838, 1992). An epoch is worse than the lowest when the
    mean of the held-out rows' differences to it is above `tolerance` of its standard errors.

    Parameters
    ----------
    make : callable
        Makes the network, with weights from torch's default generator.
    loss : callable
        Maps a network and rows (int64, on the device) to a loss of each row (b,). Random numbers
        come from torch's default generator.
    rows, held_out : ndarray of int64
        The rows to learn from and the rows to judge by.
    settings : Settings
        How to fit.
    seed : int
        Of the weights, the order of the rows, dropout and whatever `loss` draws.
    held_out_loss : callable, optional
        What judges, like `loss` and without random numbers; by default `loss`, in eval mode.
    name : str
        Of the network, for the log and errors.

    Returns
    -------
    Fitted
        A function of the arguments, the kind of device and the version of torch only.

    Raises
    ------
    FittingError
        If there is no row to learn from, there are fewer than two to judge by, or a loss is not
        finite.
    """
    if len(rows) == 0 or len(held_out) < 2:
        raise FittingError(
            f"{name}: {len(rows)} rows to learn from and {len(held_out)} held out; "
            "give at least 1 and 2"
        )
    judge = _Judge(held_out_loss or loss, held_out, settings, name)
    with reproducible(seed, settings.device, settings.threads):
        network = make().to(settings.device)
        average = deepcopy(network).eval().requires_grad_(False)
        optimiser = torch.optim.Adam(
            network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        judge.look(average)
        for epoch in range(settings.epochs):
            rate = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / settings.epochs))
            for group in optimiser.param_groups:
                group["lr"] = rate
            _pass(network, average, optimiser, loss, rows, settings, f"{name}, epoch {epoch + 1}")
            judge.look(average)
            if judge.stops:
                break
    fitted = judge.fitted(average)
    _log.info(
        "%s: epoch %d of %d kept, held-out loss %.4f (as built %.4f)",
        name,
        fitted.epoch,
        len(fitted.history) - 1,
        fitted.held_out_loss,
        fitted.history[0],
    )
    return fitted


def split_held_out(groups: NDArray[np.int64] | int, share: float, seed: int) -> tuple[Rows, Rows]:
    """Hold out a share of the rows, whole groups of them.

    Parameters
    ----------
    groups : ndarray of int, shape (n,), or int
        Group of each row; a number n stands for n rows, each a group of its own.
    share : float
        Share of the rows to hold out, between 0 and 1; met as closely as whole groups in a random
        order allow, with one group at least on either side.
    seed : int
        Of the order of the groups.

    Returns
    -------
    rows, held_out : ndarray of int64
        Positions in `groups`, ascending.

    Raises
    ------
    FittingError
        If there are fewer than two groups, or the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise FittingError(f"held-out share: found {share}; write a number between 0 and 1")
    labels = np.arange(groups) if isinstance(groups, int) else np.asarray(groups)
    names, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise FittingError(
            f"{len(labels)} rows are in {len(names)} group, and none can be held out; "
            "give two groups or more"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    after = np.cumsum(sizes[order])[:-1]
    number = int(np.abs(after - share * len(labels)).argmin()) + 1
    out = np.isin(index, order[:number])
    return np.flatnonzero(~out), np.flatnonzero(out)


def _pass(
    network: Network,
    average: Network,
    optimiser: torch.optim.Optimizer,
    loss: Loss[Network],
    rows: Rows,
    settings: Settings,
    name: str,
) -> None:
    """Go through the rows once in a random order, and let the averaged weights follow."""
    network.train()
    weights, averaged = list(network.parameters()), list(average.parameters())
    follow = get_ema_multi_avg_fn(settings.averaging)
    steps = max(1, round(len(rows) / settings.batch_size))
    order = torch.as_tensor(rows)[torch.randperm(len(rows))].to(settings.device)
    total = torch.zeros((), device=settings.device)
    for batch in order.tensor_split(steps):
        optimiser.zero_grad()
        value = loss(network, batch).mean()
        value.backward()
        optimiser.step()
        follow(averaged, weights, 0)
        total += value.detach()
    if not bool(total.isfinite()):
        raise FittingError(
            f"{name}: the loss is {float(total)}; lower the learning rate "
            f"(now {settings.learning_rate:g}), or look for infinite inputs"
        )
    for own, followed in zip(average.buffers(), network.buffers(), strict=True):
        own.copy_(followed)


class _Judge(Generic[Network]):
    """The held-out losses so far: which epoch is lowest, which is kept, and whether to stop."""

    def __init__(
        self,
        loss: Loss[Network],
        held_out: Rows,
        settings: Settings,
        name: str,
    ) -> None:
        self._loss = loss
        self._held_out = held_out
        self._settings = settings
        self._name = name
        self._history: list[float] = []
        self._lowest: NDArray[np.float64] | None = None
        self._kept = -1
        self._weights: dict[str, Tensor]

    @property
    def stops(self) -> bool:
        """Whether the last epochs were all worse than the lowest."""
        return len(self._history) - 1 - self._kept >= self._settings.patience

    def look(self, network: Network) -> None:
        """Judge a network after one more epoch."""
        settings = self._settings
        losses = (
            evaluate(
                lambda rows: self._loss(network, rows).double(),
                self._held_out,
                settings.device,
                settings.threads,
            )
            .cpu()
            .numpy()
        )
        epoch, mean = len(self._history), float(losses.mean())
        if not math.isfinite(mean):
            raise FittingError(
                f"{self._name}, epoch {epoch}: the held-out loss is {mean}; lower the learning "
                f"rate (now {settings.learning_rate:g}), or look for infinite inputs"
            )
        self._history.append(mean)
        if self._lowest is None or mean < self._lowest.mean():
            self._lowest = losses
        worse = losses - self._lowest
        error = worse.std(ddof=1) / math.sqrt(len(worse))
        if worse.mean() <= settings.tolerance * error:
            self._kept = epoch
            self._weights = {key: value.clone() for key, value in network.state_dict().items()}

    def fitted(self, network: Network) -> Fitted[Network]:
        """Return the network with the kept weights."""
        network.load_state_dict(self._weights)
        return Fitted(network, self._kept, self._history[self._kept], tuple(self._history))
