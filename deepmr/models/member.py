"""Training of one network, epoch by epoch, so that a killed training continues to the same bits."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from deepmr import progress
from deepmr.models import architectures, batches, checkpoint, losses

_log = logging.getLogger(__name__)

_WARM_UP = 0.05
_INITIAL_WEIGHTS, _BATCHES, _DROPOUT = 0, 1, 2


class TrainingError(ValueError):
    """The windows or settings cannot be trained on, or the loss is no longer finite."""


@dataclass(frozen=True)
class Settings:
    """What the result depends on besides the windows."""

    architecture: str
    options: dict[str, Any]
    length: int
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    seed: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    patience: int
    reverse_complement: bool
    cpu_threads: int
    device: str


class MemberTrainer:
    """One member on its way through the epochs; `_state` is all that a resume needs.

    No random state is among it: the generators are seeded anew for each epoch.
    """

    def __init__(
        self,
        settings: Settings,
        member: int,
        title: str,
        train_batches: batches.WindowBatches,
        validation_batches: batches.WindowBatches,
    ) -> None:
        self.settings = settings
        self.member = member
        self.title = title
        self.train_batches = train_batches
        self.validation_batches = validation_batches
        torch.manual_seed(self._seed(_INITIAL_WEIGHTS))
        self.network = architectures.build(
            settings.architecture, len(settings.targets), settings.length, **settings.options
        ).to(settings.device)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.history: checkpoint.History = []
        self.best = _copy(self.network)
        self.best_epoch = 0
        self.best_loss = math.inf

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the validation loss has not fallen for long enough."""
        done = len(self.history)
        return done >= self.settings.epochs or done - self.best_epoch >= self.settings.patience

    def run(self, state: Path | None, state_id: str) -> None:
        """Train to the end; write the state to a file, if one is given, after each epoch."""
        while not self.finished:
            self._epoch(len(self.history) + 1)
            if state is not None:
                checkpoint.save_tensors(self._state(state_id), state)
        _log.info("%s: best validation loss in epoch %d", self.title, self.best_epoch)

    def resume(self, state: Path | None, state_id: str) -> None:
        """Continue from a state file if it is there and of this very run; say so if it is not."""
        if state is None or not state.exists():
            return
        try:
            stored = checkpoint.load_tensors(state)
        except checkpoint.CheckpointError as error:
            _log.warning("%s: starts anew: %s", self.title, error)
            return
        if stored.get("state_id") != state_id:
            _log.warning(
                "%s: starts anew: %s is of other windows, settings or code", self.title, state
            )
            return
        self.network.load_state_dict(stored["network"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.best = stored["best"]
        self.best_epoch, self.best_loss = stored["best_epoch"], stored["best_loss"]
        self.history = stored["history"]
        _log.info("%s: continues after epoch %d", self.title, len(self.history))

    def best_network(self) -> nn.Module:
        """Return the network with the weights of the best epoch."""
        self.network.load_state_dict(self.best)
        return self.network

    def _state(self, state_id: str) -> dict[str, Any]:
        return {
            "state_id": state_id,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_loss": self.best_loss,
            "history": self.history,
        }

    def _seed(self, *purpose: int) -> int:
        words = np.random.SeedSequence([self.settings.seed, self.member, *purpose])
        return int(words.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _epoch(self, epoch: int) -> None:
        started = time.monotonic()
        train_loss, rate = self._steps(epoch)
        outputs = self._validate()
        labels = self.validation_batches.labels
        validation_loss = float(
            losses.masked_loss(
                torch.from_numpy(outputs), torch.from_numpy(labels), self.settings.kinds
            )
        )
        if not math.isfinite(train_loss) or not math.isfinite(validation_loss):
            raise TrainingError(
                f"{self.title}, epoch {epoch}: the loss is {train_loss} in training and "
                f"{validation_loss} in validation; lower training.learning_rate "
                f"(now {self.settings.learning_rate:g})"
            )
        aurocs = {
            f"auroc.{target}": _auroc(labels[:, k], outputs[:, k]) if kind == "binary" else None
            for k, (target, kind) in enumerate(
                zip(self.settings.targets, self.settings.kinds, strict=True)
            )
        }
        seconds = time.monotonic() - started
        self.history.append(
            {
                "member": self.member,
                "epoch": epoch,
                "train_loss": train_loss,
                "validation_loss": validation_loss,
                "learning_rate": rate,
                "seconds": seconds,
                **aurocs,
            }
        )
        if validation_loss < self.best_loss:
            self.best, self.best_epoch, self.best_loss = (
                _copy(self.network),
                epoch,
                validation_loss,
            )
        _log.info(
            "%s epoch %d/%d: loss %.4f, validation %.4f%s; %.0f s, at most %.0f s left",
            self.title,
            epoch,
            self.settings.epochs,
            train_loss,
            validation_loss,
            "".join(f", {key} {value:.3f}" for key, value in aurocs.items() if value is not None),
            seconds,
            seconds * (self.settings.epochs - epoch),
        )

    def _validate(self) -> NDArray[np.float32]:
        """Return the eval-mode outputs (n, targets) of the validation windows."""
        self.network.eval()
        device = self.settings.device
        with torch.no_grad():
            return np.concatenate(
                [
                    self.network(batches.one_hot(codes, device)).cpu().numpy()
                    for codes, _ in self.validation_batches
                ]
            )

    def _steps(self, epoch: int) -> tuple[float, float]:
        """Go through the train windows once; return the mean loss and the last learning rate."""
        settings = self.settings
        torch.manual_seed(self._seed(_DROPOUT, epoch))
        self.network.train()
        steps = len(self.train_batches)
        total, n, rate = torch.zeros((), device=settings.device), 0, 0.0
        tracked = progress.track(
            self.train_batches.for_epoch(epoch, seed=self._seed(_BATCHES)),
            total=steps,
            description=f"{self.title} epoch {epoch}/{settings.epochs}",
            unit="batch",
        )
        for step, (codes, labels) in enumerate(tracked):
            rate = _learning_rate(
                (epoch - 1) * steps + step, settings.epochs * steps, settings.learning_rate
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.zero_grad()
            outputs = self.network(batches.one_hot(codes, settings.device))
            loss = losses.masked_loss(
                outputs, torch.from_numpy(labels).to(settings.device), settings.kinds
            )
            loss.backward()
            self.optimiser.step()
            total += loss.detach() * len(codes)
            n += len(codes)
        return float(total) / n, rate


def _auroc(labels: NDArray[np.floating], scores: NDArray[np.floating]) -> float | None:
    """Return the area under the ROC curve of the measured labels; None if they are all alike."""
    measured = ~np.isnan(labels)
    if len(np.unique(labels[measured])) < 2:
        return None
    return float(roc_auc_score(labels[measured], scores[measured]))


def _learning_rate(step: int, steps: int, peak: float) -> float:
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _copy(network: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
