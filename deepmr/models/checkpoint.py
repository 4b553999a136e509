"""A trained model on disk: networks, targets and how to build them again."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from deepmr import provenance, schemas, tables
from deepmr.models import architectures
from deepmr.models.laplace import LastLayerPosterior, Posterior
from deepmr.outputs import replacing

_FORMAT = "deepmr model 1"
_LAPLACE_FORMAT = "deepmr laplace posterior 1"
IMPORTED = "imported"
"""What stands for the architecture of a user's own network."""

History = list[dict[str, Any]]


class CheckpointError(ValueError):
    """A file holds no model that can be loaded."""


@dataclass(frozen=True)
class TrainedModel:
    """Networks that predict the same targets from windows of the same length.

    Attributes
    ----------
    name : str
        Name in the configuration.
    architecture : str
        Key of `architectures.ARCHITECTURES`, or `IMPORTED`.
    options : dict
        Arguments of the architecture; numbers, and sequences of numbers.
    length : int
        Input length in bp.
    targets : tuple of str
        Names of the outputs, in order.
    kinds : tuple of str
        Type of each target: binary, count or continuous.
    members : list of torch.nn.Module
        Networks in eval mode, without gradients; more than one is an ensemble.
    code : str or None
        ``file.py:function`` of an imported network.
    code_hash : str or None
        Hash of that file when it was imported.
    laplace : LastLayerPosterior or None
        How sure the networks are of the weights of their last layer; kept in a file of its own.
    """

    name: str
    architecture: str
    options: dict[str, Any]
    length: int
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    members: list[nn.Module]
    code: str | None = None
    code_hash: str | None = field(default=None, repr=False)
    laplace: LastLayerPosterior | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check the targets and freeze the networks."""
        if len(self.targets) != len(self.kinds):
            raise ValueError(
                f"model {self.name}: {len(self.targets)} targets but {len(self.kinds)} types; "
                "give one type for each target"
            )
        for member in self.members:
            member.eval().requires_grad_(False)

    def columns(self, targets: Sequence[str]) -> list[int]:
        """Return the output column of each of the targets.

        Raises
        ------
        ValueError
            If the model has no such target.
        """
        unknown = [target for target in targets if target not in self.targets]
        if unknown:
            raise ValueError(
                f"model {self.name} has no target {', '.join(unknown)}; "
                f"it has {', '.join(self.targets)}"
            )
        return [self.targets.index(target) for target in targets]

    def alone(self, member: int) -> TrainedModel:
        """Return the model whose only network is one of the members, with its posterior."""
        laplace = None if self.laplace is None else self.laplace.alone(member)
        return replace(self, members=[self.members[member]], laplace=laplace)

    def save(self, path: str | Path) -> None:
        """Write the model to one file, which appears only when it is complete.

        The file holds tensors, numbers and strings only, so that loading it runs no code of it.

        Parameters
        ----------
        path : path
            The file; its folder is made.
        """
        save_tensors(
            {
                "format": _FORMAT,
                "name": self.name,
                "architecture": self.architecture,
                "options": dict(self.options),
                "length": self.length,
                "targets": list(self.targets),
                "kinds": list(self.kinds),
                "code": self.code,
                "code_hash": self.code_hash,
                "members": [
                    {name: value.cpu() for name, value in member.state_dict().items()}
                    for member in self.members
                ],
            },
            path,
        )


def load(
    path: str | Path, device: str | torch.device = "cpu", laplace: str | Path | None = None
) -> TrainedModel:
    """Read a model that :meth:`TrainedModel.save` wrote.

    Parameters
    ----------
    path : path
        The file.
    device : str or torch.device
        Where the networks shall live.
    laplace : path, optional
        The file of its posterior, which :func:`save_laplace` wrote.

    Returns
    -------
    TrainedModel
        In eval mode.

    Raises
    ------
    CheckpointError
        If a file is damaged or no model, if the code of an imported network has changed, or if
        the posterior is another model's.
    """
    stored = load_tensors(path)
    if stored.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is no Deep MR model of this version (found format "
            f"{stored.get('format')!r}, expected {_FORMAT!r}); train or import the model again"
        )
    code = stored["code"]
    if code is not None and code_hash(code) != stored["code_hash"]:
        raise CheckpointError(
            f"{path}: {code} has changed since the network was imported; import it again"
        )
    members = []
    for state in stored["members"]:
        network = (
            architectures.build(
                stored["architecture"],
                len(stored["targets"]),
                stored["length"],
                **stored["options"],
            )
            if code is None
            else architectures.from_code(code)
        )
        network.load_state_dict(state)
        members.append(network.to(device))
    return TrainedModel(
        name=stored["name"],
        architecture=stored["architecture"],
        options=stored["options"],
        length=stored["length"],
        targets=tuple(stored["targets"]),
        kinds=tuple(stored["kinds"]),
        members=members,
        code=code,
        code_hash=stored["code_hash"],
        laplace=None if laplace is None else _load_laplace(laplace, path),
    )


def save_laplace(posterior: LastLayerPosterior, model_path: str | Path, path: str | Path) -> None:
    """Write the posterior of a model's last layers to a file, which appears when it is complete.

    Parameters
    ----------
    posterior : LastLayerPosterior
        The posterior.
    model_path : path
        The file of the model that it is of; the posterior is loaded beside that content only.
    path : path
        The file; its folder is made.
    """
    members = {
        member: [
            {
                "mean": torch.from_numpy(one.mean),
                "root": torch.from_numpy(one.root),
                "prior_precision": one.prior_precision,
            }
            for one in each
        ]
        for member, each in posterior.members.items()
    }
    save_tensors(
        {
            "format": _LAPLACE_FORMAT,
            "model": provenance.content_hash(model_path),
            "targets": list(posterior.targets),
            "members": members,
        },
        path,
    )


def _load_laplace(path: str | Path, model_path: str | Path) -> LastLayerPosterior:
    stored = load_tensors(path)
    if stored.get("format") != _LAPLACE_FORMAT:
        raise CheckpointError(
            f"{path} is no Laplace posterior of this version (found format "
            f"{stored.get('format')!r}, expected {_LAPLACE_FORMAT!r}); fit it again"
        )
    if stored["model"] != provenance.content_hash(model_path):
        raise CheckpointError(
            f"{path} is the Laplace posterior of another model than {model_path}; fit it again"
        )
    members = {
        member: [
            Posterior(one["mean"].numpy(), one["root"].numpy(), one["prior_precision"])
            for one in each
        ]
        for member, each in stored["members"].items()
    }
    return LastLayerPosterior(tuple(stored["targets"]), members)


def code_hash(code: str) -> str | None:
    """Return a hash of the file named in ``file.py:function``; None if there is no such file."""
    file = Path(code.rpartition(":")[0])
    if not file.is_file():
        return None
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()


def save_tensors(content: Mapping[str, Any], path: str | Path) -> None:
    """Write tensors, numbers, strings and containers of them; the file appears when complete."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save(dict(content), stream)


def load_tensors(path: str | Path) -> dict[str, Any]:
    """Read a dict of tensors, numbers and strings to the CPU; nothing in the file is executed.

    Raises
    ------
    CheckpointError
        If the file is damaged, holds something else, or is no torch file.
    FileNotFoundError
        If there is no such file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as tensors ({reason}); "
            "write it with torch.save(network.state_dict(), path)"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}; "
            "write it with torch.save(network.state_dict(), path)"
        )
    return content


def save_history(
    history: History,
    targets: Sequence[str],
    path: str | Path,
    metadata: tables.Metadata | None = None,
) -> None:
    """Write the learning curves as a Parquet table.

    Parameters
    ----------
    history : list of dict
        Rows of :func:`deepmr.models.training.train`.
    targets : sequence of str
        Targets, whose ``auroc.<target>`` on validation windows is a column each.
    path : path
        The file.
    metadata : mapping, optional
        What made the table.
    """
    schema = pa.schema(
        [*schemas.HISTORY, *(pa.field(f"auroc.{target}", pa.float64()) for target in targets)]
    )
    tables.write_table(pa.Table.from_pylist(history, schema=schema), path, schema, metadata)
