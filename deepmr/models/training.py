"""Joint training of one or several networks on all targets, with exact resume after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import nn

from deepmr import progress
from deepmr.models import architectures, batches, checkpoint, losses

_log = logging.getLogger(__name__)

_WARM_UP = 0.05
_EVALUATION_ROWS = 512
_HASHED_ROWS = 65_536
_INITIAL_WEIGHTS, _BATCHES, _DROPOUT = 0, 1, 2


class TrainingError(ValueError):
    """The windows or settings cannot be trained on, or the loss is no longer finite."""


@dataclass(frozen=True)
class _Settings:
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


def train(
    reader: batches.Reader,
    windows: pa.Table,
    targets: Mapping[str, str],
    *,
    name: str,
    architecture: str,
    options: Mapping[str, Any],
    length: int,
    seed: int,
    members: int = 1,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    patience: int = 4,
    reverse_complement: bool = True,
    cpu_threads: int = 1,
    cache_bytes: int = 2**30,
    resume_dir: str | Path | None = None,
    fingerprint: str = "",
    device: str | None = None,
) -> tuple[checkpoint.TrainedModel, checkpoint.History]:
    """Train networks on the train windows, keeping the weights best on the validation windows.

    AdamW; the learning rate rises linearly over the first twentieth of the steps and falls to zero
    as a cosine (Loshchilov and Hutter, ICLR 2017 and 2019). The result depends on the arguments,
    the windows, the kind of device and the version of torch only: not on being killed and
    continued, nor on whether the windows were cached.

    Parameters
    ----------
    reader : batches.Reader
        Gives the codes of the windows.
    windows : pyarrow.Table
        Schema of `windows.parquet`.
    targets : mapping of str to str
        Type of each target: binary, count or continuous.
    name, architecture, options
        Name of the model; key and arguments of `architectures.ARCHITECTURES`.
    length : int
        Input length in bp.
    seed : int
        Weights, order, strands and dropout of member m derive from (seed, m).
    members : int
        Networks to train, one after the other.
    epochs, batch_size, learning_rate, weight_decay
        Most epochs; windows a step; settings of AdamW.
    patience : int
        Epochs without a better validation loss after which a member stops.
    reverse_complement : bool
        Show a random half of the train windows as their reverse complement.
    cpu_threads : int
        Threads of torch on a CPU; the last bits of a result depend on it.
    cache_bytes : int
        Codes of a split are held in memory when they fit in this.
    resume_dir : path, optional
        Folder for the state after each epoch. A state of the same windows, settings and
        `fingerprint` is continued, any other discarded.
    fingerprint : str
        What else the result depends on, such as a hash of code and configuration.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default CUDA when there is a GPU.

    Returns
    -------
    model : checkpoint.TrainedModel
        With the best weights of each member, on the device.
    history : list of dict
        A row for each member and epoch: member (from 0), epoch (from 1), train_loss (with
        dropout), validation_loss, ``auroc.<target>`` on the validation windows (None where it does
        not exist), learning_rate (at the end of the epoch), seconds.

    Raises
    ------
    TrainingError
        If a split has no windows, a target has no measured window in one, a label does not
        suit its target's type, or the loss is no longer finite.
    """
    losses.check_kinds(list(targets.values()))
    with torch.device("meta"):  # a wrong option fails now, at no cost
        architectures.build(architecture, len(targets), length, **options)
    settings = _Settings(
        architecture=architecture,
        options=architectures.complete_options(architecture, options),
        length=length,
        targets=tuple(targets),
        kinds=tuple(targets.values()),
        seed=seed,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        reverse_complement=reverse_complement,
        cpu_threads=cpu_threads,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    splits = {split: _split(windows, split) for split in ("train", "validation")}
    for split, rows in splits.items():
        problems = losses.label_problems(batches.read_labels(rows, settings.targets), targets)
        if problems:
            raise TrainingError(f"labels of the {split} windows: {'; '.join(problems)}")
    train_batches = batches.WindowBatches(
        reader,
        splits["train"],
        settings.targets,
        batch_size,
        reverse_complement=reverse_complement,
        cache_bytes=cache_bytes,
    )
    validation_batches = batches.WindowBatches(
        reader,
        splits["validation"],
        settings.targets,
        _EVALUATION_ROWS,
        reverse_complement=False,
        cache_bytes=cache_bytes,
        shuffle=False,
    )
    state_id = _state_id(settings, fingerprint, splits)
    networks, history = [], []
    with _reproducible(cpu_threads, settings.device):
        for member in range(members):
            title = name if members == 1 else f"{name} member {member + 1}/{members}"
            state = None if resume_dir is None else Path(resume_dir) / f"member-{member}.pt"
            trainer = _Trainer(settings, member, title, train_batches, validation_batches)
            trainer.resume(state, state_id)
            trainer.run(state, state_id)
            networks.append(trainer.best_network())
            history += trainer.history
    model = checkpoint.TrainedModel(
        name, architecture, settings.options, length, settings.targets, settings.kinds, networks
    )
    return model, history


class _Trainer:
    """One member on its way through the epochs; `_state` is all that a resume needs.

    No random state is among it: the generators are seeded anew for each epoch.
    """

    def __init__(
        self,
        settings: _Settings,
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
        done = len(self.history)
        return done >= self.settings.epochs or done - self.best_epoch >= self.settings.patience

    def run(self, state: Path | None, state_id: str) -> None:
        while not self.finished:
            self._epoch(len(self.history) + 1)
            if state is not None:
                checkpoint.save_tensors(self._state(state_id), state)
        _log.info("%s: best validation loss in epoch %d", self.title, self.best_epoch)

    def resume(self, state: Path | None, state_id: str) -> None:
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


def _split(windows: pa.Table, split: str) -> pa.Table:
    rows = windows.filter(pc.equal(windows.column("split"), split))
    if rows.num_rows == 0:
        raise TrainingError(
            f"no window is in the split {split!r}; give it some chromosomes in the section split"
        )
    return rows


def _state_id(settings: _Settings, fingerprint: str, splits: Mapping[str, pa.Table]) -> str:
    """Hash all that a result depends on, so that no state of another run is continued."""
    digest = hashlib.blake2b(digest_size=16)
    stated = {**asdict(settings), "fingerprint": fingerprint, "torch": torch.__version__}
    digest.update(json.dumps(stated, sort_keys=True).encode())
    for rows in splits.values():
        for part in rows.select(["sequence_id"]).to_batches(max_chunksize=_HASHED_ROWS):
            digest.update("".join(f"{name}\n" for name in part.column(0).to_pylist()).encode())
        digest.update(batches.read_labels(rows, settings.targets).tobytes())
    return digest.hexdigest()


@contextmanager
def _reproducible(cpu_threads: int, device: str) -> Iterator[None]:
    """Fix what the bits of a result depend on, and put torch back as it was."""
    threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.set_num_threads(cpu_threads)
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
