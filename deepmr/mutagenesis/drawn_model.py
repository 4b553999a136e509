"""A model together with its draws: the eval network and T functions, on rows of sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from deepmr.draws import DrawSet
from deepmr.mutagenesis.masking import MaskedNetwork, Masks

ROWS_PER_BATCH = {"cpu": 512, "cuda": 4096}
"""Rows (draws × sequences) of a forward pass; bounds its memory."""


class Model(Protocol):
    """What is asked of a trained model (:class:`deepmr.models.checkpoint.TrainedModel`)."""

    @property
    def members(self) -> Sequence[nn.Module]:
        """Networks of the ensemble, each (rows, 4, length) to (rows, targets)."""

    @property
    def targets(self) -> Sequence[str]:
        """Names of the outputs, in their order."""

    @property
    def length(self) -> int:
        """Length of the input."""


@dataclass(frozen=True)
class DrawnMember:
    """A network, its masks in chunks (the eval network is the first), and whose draws they are.

    Attributes
    ----------
    network : MaskedNetwork
        The network.
    chunks : list of Masks
        The first function is the network without dropout.
    draws : list of int
        Which draws of the model the others are; without masks, the first is a draw itself.
    masked : bool
        Whether there are masks.
    """

    network: MaskedNetwork
    chunks: list[Masks]
    draws: list[int]
    masked: bool


class DrawnModel:
    """The eval network and the draws of a model, kept targets only, in float32.

    Parameters
    ----------
    model : Model
        A trained model. Its networks are moved to `device` and put in eval mode.
    targets : sequence of str
        Targets to keep, in the order wanted.
    draws : DrawSet
        The functions.
    device : str or torch.device, optional
        Where it runs.
    rows_per_batch : int, optional
        Rows (draws × sequences) of a forward pass; :data:`ROWS_PER_BATCH` when left out. Rounding
        (relative 1e-6) depends on it, and on nothing else of how the work is cut.
    average_strands : bool
        Average the outputs of both strands, draw by draw, under the same masks.

    Attributes
    ----------
    n_draws : int
        Number of draws T.
    members : list of DrawnMember
        Networks and the masks of their draws.
    heads : tensor of int, shape (K,)
        Outputs that are kept.
    dtype : torch.dtype
        Of the networks' numbers.
    sequences_per_pass : int
        Sequences that fit into a forward pass beside their draws.

    Raises
    ------
    ValueError
        If a target is unknown, the draws are for another number of members, or a network breaks
        a rule of :class:`deepmr.mutagenesis.masking.MaskedNetwork`.
    """

    def __init__(
        self,
        model: Model,
        targets: Sequence[str],
        draws: DrawSet,
        *,
        device: str | torch.device | None = None,
        rows_per_batch: int | None = None,
        average_strands: bool = False,
    ) -> None:
        if not model.targets:
            raise ValueError("the model has no named targets; name its outputs, in their order")
        unknown = [target for target in targets if target not in model.targets]
        if unknown or not targets:
            raise ValueError(
                f"targets: the model does not predict {unknown}; it predicts {list(model.targets)}"
                if unknown
                else f"targets: none asked; the model predicts {list(model.targets)}"
            )
        if draws.n_members != len(model.members):
            raise ValueError(
                f"the draws are for {draws.n_members} members, the model has {len(model.members)}"
            )
        self.targets = tuple(targets)
        self.length = model.length
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.n_draws = len(draws)
        self.average_strands = average_strands
        self.heads = torch.tensor(
            [list(model.targets).index(target) for target in targets], device=self.device
        )
        rows = ROWS_PER_BATCH[self.device.type] if rows_per_batch is None else rows_per_batch
        if rows < 1:
            raise ValueError(f"rows_per_batch: found {rows}; write 1 or more")
        with self.exactly():
            self.members = [
                self._prepare(model, member, draws, rows)
                for member in sorted({draw.member for draw in draws.members_and_masks()})
            ]
        for member in self.members:
            if member.network.n_outputs != len(model.targets):
                raise ValueError(
                    f"the network has {member.network.n_outputs} outputs for the "
                    f"{len(model.targets)} targets {list(model.targets)}"
                )
        self.dtype = self.members[0].network.dtype
        widest = max(masks.number for member in self.members for masks in member.chunks)
        self.sequences_per_pass = max(1, rows // widest)

    def threads(self, workers: int) -> int:
        """Return how many threads may evaluate at a time: `workers` on a CPU, one on a GPU."""
        return workers if self.device.type == "cpu" else 1

    def evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate every function on the same rows.

        Parameters
        ----------
        inputs : tensor, shape (rows, 4, length)
            One-hot sequences, float32, on the device.

        Returns
        -------
        evaluated : tensor, shape (rows, K)
            Outputs without dropout on the link scale; the mean over members.
        drawn : tensor, shape (T, rows, K)
            Outputs of each draw.
        """
        with torch.inference_mode(), self.exactly():
            evaluated, drawn = self._evaluate(inputs)
            if self.average_strands:
                # Letters are ordered ACGT, so reversing both axes is the reverse complement.
                there, back = self._evaluate(inputs.flip(1, 2))
                evaluated, drawn = (evaluated + there) / 2, (drawn + back) / 2
        return evaluated, drawn

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn = inputs.new_empty((self.n_draws, len(inputs), len(self.heads)))
        evaluated = []
        for member in self.members:
            values = torch.cat(
                [member.network(inputs, masks)[..., self.heads] for masks in member.chunks]
            )
            evaluated.append(values[0])
            drawn[member.draws] = values[1:] if member.masked else values
        return torch.stack(evaluated).mean(0), drawn

    def _prepare(self, model: Model, member: int, draws: DrawSet, rows: int) -> DrawnMember:
        network = MaskedNetwork(model.members[member], model.length, self.device)
        own = [
            (row, draw.mask)
            for row, draw in enumerate(draws.members_and_masks())
            if draw.member == member
        ]
        masks = [mask for _, mask in own if mask is not None]
        if masks:
            network.choose_expansion(draws.seed)
        # The network without dropout runs beside the draws, as one whose masks keep everything.
        functions = [None, *masks]
        chunks = [
            network.masks(draws.seed, functions[start : start + rows])
            for start in range(0, len(functions), rows)
        ]
        return DrawnMember(network, chunks, [row for row, _ in own], bool(masks))

    def exactly(self) -> contextlib.AbstractContextManager[None]:
        """Forbid TF32 and cuDNN's random choice of algorithms: effects are small differences."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
