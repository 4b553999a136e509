"""Joint training of one or several networks on all targets, with exact resume after a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from deepmr.models import architectures, batches, checkpoint, losses
from deepmr.models.member import MemberTrainer, Settings, TrainingError

_EVALUATION_ROWS = 512
_HASHED_ROWS = 65_536


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
    settings = Settings(
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
            trainer = MemberTrainer(settings, member, title, train_batches, validation_batches)
            trainer.resume(state, state_id)
            trainer.run(state, state_id)
            networks.append(trainer.best_network())
            history += trainer.history
    model = checkpoint.TrainedModel(
        name, architecture, settings.options, length, settings.targets, settings.kinds, networks
    )
    return model, history


def _split(windows: pa.Table, split: str) -> pa.Table:
    rows = windows.filter(pc.equal(windows.column("split"), split))
    if rows.num_rows == 0:
        raise TrainingError(
            f"no window is in the split {split!r}; give it some chromosomes in the section split"
        )
    return rows


def _state_id(settings: Settings, fingerprint: str, splits: Mapping[str, pa.Table]) -> str:
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
