"""A model together with its draws: the eval network and T functions, on rows of sequences."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from deepmr.draws import DrawSet
from deepmr.models.laplace import LastLayerPosterior
from deepmr.mutagenesis.drawn_weights import with_draws
from deepmr.mutagenesis.masking import NO_MASKS, MaskedNetwork, Masks

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

    @property
    def laplace(self) -> LastLayerPosterior | None:
        """Posterior of the last layer; asked for by the draws ``laplace`` alone."""


@dataclass(frozen=True)
class DrawnMember:
    """A network that gives functions of a model: under masks, or as outputs side by side.

    Attributes
    ----------
    network : MaskedNetwork
        The network. With samples of the last layer it has the kept outputs of each function, one
        function after the other.
    chunks : list of Masks
        Masks of the functions, the network without dropout first.
    columns : list of int
        Outputs of the network to keep, in this order: K, or K of each function side by side.
    n_side_by_side : int
        Functions side by side; 1 unless the last layer is sampled, and then there are no masks.
    draws : list of int
        Which draws of the model its functions are.
    eval_first : bool
        Whether the eval network comes before the draws; otherwise it is the one draw itself.
    """

    network: MaskedNetwork
    chunks: list[Masks]
    columns: list[int]
    n_side_by_side: int
    draws: list[int]
    eval_first: bool

    @property
    def n_masked(self) -> int:
        """How often a sequence runs through the network: once for each set of masks, or once."""
        return sum(masks.number for masks in self.chunks)

    def evaluate(self, inputs: Tensor) -> Tensor:
        """Return the kept outputs of all functions, shape (functions, rows, K)."""
        values = torch.cat(
            [self.network(inputs, masks)[..., self.columns] for masks in self.chunks]
        )
        return values.unflatten(-1, (self.n_side_by_side, -1)).transpose(1, 2).flatten(0, 1)


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
    dtype : torch.dtype
        Of the networks' numbers.
    sequences_per_pass : int
        Sequences that fit into a forward pass beside their draws.

    Raises
    ------
    ValueError
        If a target is unknown, the draws are for another number of members or need a posterior
        that the model lacks, or a network breaks a rule of
        :class:`deepmr.mutagenesis.masking.MaskedNetwork`.
    deepmr.models.last_layer.LastLayerError
        If the last layer shall be sampled of a network that does not end in a linear one.
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
        rows = ROWS_PER_BATCH[self.device.type] if rows_per_batch is None else rows_per_batch
        if rows < 1:
            raise ValueError(f"rows_per_batch: found {rows}; write 1 or more")
        with self.exactly():
            self.members = [
                self._prepare(model, member, draws, rows)
                for member in sorted({draw.member for draw in draws})
            ]
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
        drawn = inputs.new_empty((self.n_draws, len(inputs), len(self.targets)))
        evaluated = []
        for member in self.members:
            values = member.evaluate(inputs)
            evaluated.append(values[0])
            drawn[member.draws] = values[1:] if member.eval_first else values
        return torch.stack(evaluated).mean(0), drawn

    def _prepare(self, model: Model, member: int, draws: DrawSet, rows: int) -> DrawnMember:
        network = MaskedNetwork(model.members[member], model.length, self.device)
        if network.n_outputs != len(model.targets):
            raise ValueError(
                f"the network has {network.n_outputs} outputs for the "
                f"{len(model.targets)} targets {list(model.targets)}"
            )
        own = [(row, draw) for row, draw in enumerate(draws) if draw.member == member]
        places = [row for row, _ in own]
        samples = [draw.weights for _, draw in own if draw.weights is not None]
        if samples:
            if model.laplace is None:
                raise ValueError(
                    "draws of uncertainty.method laplace need the posterior of the model; "
                    "load the model with it"
                )
            posteriors = model.laplace.of(member, self.targets)
            seeds = (draws.seed, member, samples)
            wide = with_draws(network.network, model.length, self.targets, posteriors, *seeds)
            network = MaskedNetwork(wide, model.length, self.device)
            columns = list(range(network.n_outputs))
            return DrawnMember(
                network, [NO_MASKS], columns, 1 + len(samples), places, eval_first=True
            )
        columns = [list(model.targets).index(target) for target in self.targets]
        masks = [draw.mask for _, draw in own if draw.mask is not None]
        if masks:
            network.choose_expansion(draws.seed)
        # The network without dropout runs beside the draws, as one whose masks keep everything.
        functions = [None, *masks]
        chunks = [
            network.masks(draws.seed, functions[start : start + rows])
            for start in range(0, len(functions), rows)
        ]
        return DrawnMember(network, chunks, columns, 1, places, eval_first=bool(masks))

    def exactly(self) -> contextlib.AbstractContextManager[None]:
        """Forbid TF32 and cuDNN's random choice of algorithms: effects are small differences."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        return torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
