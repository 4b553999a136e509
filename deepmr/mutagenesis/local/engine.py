"""The local engine: all members and draws of a model, checked against the straight loop."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from deepmr.genome.alphabet import AMBIGUOUS, Codes, one_hot
from deepmr.mutagenesis.capture import capture
from deepmr.mutagenesis.drawn_model import DrawnMember, DrawnModel
from deepmr.mutagenesis.local.heads import keep_columns
from deepmr.mutagenesis.local.network import LocalNetwork
from deepmr.mutagenesis.local.planning import Plan, make_plan
from deepmr.mutagenesis.local.products import Products
from deepmr.mutagenesis.local.sizes import Sizes, choose_sizes
from deepmr.mutagenesis.masking import Masks
from deepmr.mutagenesis.substitutions import Effects, mutants

logger = logging.getLogger(__name__)

_COMPARED_FUNCTIONS = 3
_COMPARED_POSITIONS = 4
_ABSOLUTE = 2e-5


class MismatchError(RuntimeError):
    """The local engine and the straight loop disagree; a defect, never a matter of data."""


class LocalEngine:
    """Effects by exact local recomputation.

    Parameters
    ----------
    drawn : DrawnModel
        The model and its draws.
    memory : float
        Bytes for all sequences in work together.
    precision : str
        Of the products of effects on a GPU: ``float32``, ``tf32`` or ``bfloat16``.

    Attributes
    ----------
    plans : list of Plan
        Of each member.
    gain : float
        How many times fewer operations it takes than the straight loop.
    most_at_once : int
        Sequences that may be worked on at a time.

    Raises
    ------
    CaptureError
        If a network cannot be captured.
    MemoryBudgetError
        If one sequence does not fit into `memory`.
    MismatchError
        If a probe does not agree with the straight loop.
    """

    name = "local"

    def __init__(self, drawn: DrawnModel, memory: float, precision: str = "tf32") -> None:
        self._model = drawn
        products = Products(precision)
        self._products = products if drawn.device.type == "cuda" else Products("float32")
        self.plans: list[Plan] = []
        self._networks: list[LocalNetwork] = []
        taken = 0
        for member in drawn.members:
            with drawn.exactly():
                plan, network, sizes = self._prepare(member, memory)
                self._check(member, network)
            self.plans.append(plan)
            self._networks.append(network)
            taken = max(taken, sizes.bytes)
        self.gain = min(
            plan.speed_up(member.n_masked, shared=True)
            for plan, member in zip(self.plans, drawn.members, strict=True)
        )
        self.most_at_once: int | None = max(1, int(memory // max(taken, 1)))

    def __call__(self, codes: Codes) -> Effects:
        """Return the effects of one sequence, n = 1.

        Parameters
        ----------
        codes : ndarray of uint8, shape (length,)
            The sequence.
        """
        model = self._model
        inputs = torch.from_numpy(one_hot(codes[None]))[0].to(model.device, model.dtype)
        with torch.inference_mode(), model.exactly():
            reference, delta = self._evaluate(inputs)
            if model.average_strands:
                # Reversing both axes of the one-hot is the reverse complement; so are the
                # positions, and the alternatives, which are in the order ACGT.
                back_reference, back_delta = self._evaluate(inputs.flip(0, 1))
                reference = (reference + back_reference) / 2
                delta = (delta + back_delta.flip(0, 1)) / 2
        # The eval network comes first, then the draws.
        values, changes = reference.float().cpu().numpy(), delta.float().cpu().numpy()
        ambiguous = codes == AMBIGUOUS
        changes[ambiguous] = np.nan
        return Effects(
            model.targets,
            values[None, 1:],
            values[None, 0],
            changes[None, :, :, 1:],
            changes[None, :, :, 0],
        )

    def _evaluate(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs (1 + T, K) and effects (length, 3, 1 + T, K), the eval network first."""
        model = self._model
        functions, k = 1 + model.n_draws, len(model.targets)
        reference = inputs.new_zeros((functions, k))
        delta = inputs.new_zeros((model.length, 3, functions, k))
        for member, network in zip(model.members, self._networks, strict=True):
            values, changes = network(inputs)
            side = (member.n_side_by_side, k)
            values = values.unflatten(-1, side).flatten(0, 1)
            changes = changes.unflatten(-1, side).flatten(2, 3)
            places = torch.tensor(member.draws, device=inputs.device) + 1
            reference[0] += values[0] / len(model.members)
            delta[:, :, 0] += changes[:, :, 0] / len(model.members)
            reference[places] = values[1:] if member.eval_first else values
            delta[:, :, places] = changes[:, :, 1:] if member.eval_first else changes
        return reference, delta

    def _prepare(self, member: DrawnMember, memory: float) -> tuple[Plan, LocalNetwork, Sizes]:
        model = self._model
        network = member.network
        graph, left = keep_columns(capture(network.network, model.length), member.columns)
        plan = make_plan(graph, model.length)
        itemsize = torch.finfo(network.dtype).bits // 8
        sizes = choose_sizes(
            plan, model.length, member.n_masked, itemsize, model.device.type, memory
        )
        for line in plan.describe(member.n_masked):
            logger.info("local engine: %s", line)
        for number, site in enumerate(network.sites):
            logger.info("local engine: dropout site %d: %s", number, site)
        logger.info(
            "local engine: blocks of %d positions (%d where draws are the "
            "same), %d draws at a time, %.0f MB a sequence",
            sizes.drawn,
            sizes.shared,
            sizes.draws,
            sizes.bytes / 1e6,
        )
        chunks = _cut(member.chunks, sizes.draws)
        return plan, LocalNetwork(plan, model.length, chunks, sizes, left, self._products), sizes

    def _check(self, member: DrawnMember, network: LocalNetwork) -> None:
        """Compare both ends and the middle of a random sequence with the straight loop."""
        model = self._model
        length = model.length
        codes = np.random.default_rng(0).integers(4, size=length, dtype=np.uint8)
        inputs = torch.from_numpy(one_hot(codes[None]))[0].to(model.device, model.dtype)
        few = min(_COMPARED_POSITIONS, length)
        starts = sorted({0, (length - few) // 2, length - few})
        masks = _cut(member.chunks, _COMPARED_FUNCTIONS)[0]
        with torch.inference_mode():
            for start in starts:
                rows = mutants(codes, 1 + 3 * start, 1 + 3 * (start + few))
                batch = torch.from_numpy(one_hot(np.concatenate([codes[None], rows])))
                straight = member.network(batch.to(model.device, model.dtype), masks)
                straight = straight[..., member.columns]
                expected = (straight[:, 1:] - straight[:, :1]).unflatten(1, (few, 3))
                reference, delta = network.some_draws(inputs, range(start, start + few))
                found = delta[:, :, : masks.number].permute(2, 0, 1, 3)
                allowed = (
                    self._products.tolerance * expected.abs().max()
                    + _ABSOLUTE * straight.abs().max()
                )
                for what, ours, theirs in (
                    ("effects", found, expected),
                    ("outputs", reference[: masks.number], straight[:, 0]),
                ):
                    worst = float((ours - theirs).abs().max())
                    if not worst <= float(allowed):
                        raise MismatchError(
                            f"the local engine and the straight loop disagree by {worst:.3g} in "
                            f"{what} at positions {start} to {start + few - 1} of a random "
                            f"sequence, where {float(allowed):.3g} is allowed; set "
                            "mutagenesis.engine to naive, and report the network as a defect"
                        )


def _cut(chunks: list[Masks], draws: int) -> list[Masks]:
    """Return the same masks in chunks of another size."""
    number = sum(masks.number for masks in chunks)
    if not chunks[0].factors:
        return chunks
    factors = [
        each[0] if len(each) == 1 else torch.cat(each)
        for each in zip(*(masks.factors for masks in chunks), strict=True)
    ]
    return [
        Masks(min(draws, number - at), [factor[at : at + draws] for factor in factors])
        for at in range(0, number, draws)
    ]
