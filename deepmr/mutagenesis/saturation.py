"""Effects of all substitutions of sequences, by the engine that is asked or fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from deepmr.draws import DrawSet
from deepmr.genome.alphabet import Codes
from deepmr.mutagenesis.capture import CaptureError
from deepmr.mutagenesis.drawn_model import DrawnModel, Model
from deepmr.mutagenesis.local.engine import LocalEngine
from deepmr.mutagenesis.local.sizes import MemoryBudgetError
from deepmr.mutagenesis.straight import StraightEngine
from deepmr.mutagenesis.substitutions import Effects, as_codes
from deepmr.mutagenesis.threads import in_order

logger = logging.getLogger(__name__)

ENGINES = ("auto", "local", "naive")

MEMORY_GB = 4.0
"""What sequences in work may take together, by default."""


class Engine(Protocol):
    """Computes the effects of one sequence.

    Attributes
    ----------
    name : str
        What the configuration calls it.
    gain : float
        How many times fewer operations it takes than the straight loop.
    most_at_once : int or None
        Sequences that its memory permits to work on at a time.
    """

    name: str
    gain: float
    most_at_once: int | None

    def __call__(self, codes: Codes) -> Effects:
        """Return the effects of a sequence (length,), n = 1."""


def choose_engine(
    drawn: DrawnModel,
    engine: str = "auto",
    memory_gb: float = MEMORY_GB,
    precision: str = "tf32",
) -> Engine:
    """Return the engine asked for.

    Parameters
    ----------
    drawn : DrawnModel
        The model and its draws.
    engine : str
        ``local``, exact recomputation of what a mutation changes; ``naive``, the straight loop;
        ``auto``, local unless the network cannot be captured, does not fit into the memory or
        would gain nothing, and the log says which.
    memory_gb : float
        Memory of the local engine for all sequences in work together.
    precision : str
        Of its products on a GPU: ``float32``, ``tf32`` or ``bfloat16``; a CPU takes float32.

    Returns
    -------
    Engine
        Ready to use.

    Raises
    ------
    ValueError
        If the engine is unknown; with ``local`` also where ``auto`` would take the other.
    deepmr.mutagenesis.local.engine.MismatchError
        If the local engine does not agree with the straight loop on a probe.
    """
    if engine not in ENGINES:
        raise ValueError(
            f"mutagenesis.engine: {engine!r} is unknown; write one of {', '.join(ENGINES)}"
        )
    if not memory_gb > 0:
        raise ValueError(f"mutagenesis.memory_gb: found {memory_gb}; write a number above 0")
    if engine == "naive":
        return StraightEngine(drawn)
    try:
        local = LocalEngine(drawn, memory_gb * 1e9, precision)
    except (CaptureError, MemoryBudgetError) as error:
        if engine == "local":
            raise
        logger.warning("engine: the straight loop, because %s", error)
        return StraightEngine(drawn)
    if engine == "auto" and local.gain <= 1:
        logger.warning("engine: the straight loop, because local recomputation saves nothing here")
        return StraightEngine(drawn)
    return local


def saturate(
    model: Model,
    sequences: NDArray[Any],
    targets: Sequence[str],
    draws: DrawSet,
    engine: str = "auto",
    *,
    memory_gb: float = MEMORY_GB,
    precision: str = "tf32",
    average_strands: bool = False,
    device: str | torch.device | None = None,
    rows_per_batch: int | None = None,
    workers: int = 1,
) -> Effects:
    """Predict every single-base substitution of every sequence with every draw.

    Parameters
    ----------
    model : Model
        A trained model.
    sequences : ndarray, shape (n, length) of codes or (n, 4, length) one-hot
        The sequences.
    targets : sequence of str
        Targets to keep.
    draws : DrawSet
        The functions; reference and mutants meet the same ones.
    engine : str
        ``auto``, ``local`` or ``naive``; see :func:`choose_engine`.
    memory_gb : float
        Memory of the local engine.
    precision : str
        Of its products on a GPU.
    average_strands : bool
        Average the outputs of both strands, draw by draw.
    device : str or torch.device, optional
        Where the networks run; the GPU if there is one.
    rows_per_batch : int, optional
        Rows (draws × mutants) of a forward pass.
    workers : int
        Sequences worked on at the same time on a CPU; a GPU takes them one by one.

    Returns
    -------
    Effects
        Outputs and effects of all sequences.

    Raises
    ------
    ValueError
        If the engine is unknown, the sequences have another length than the model's input or
        are not one-hot, or the model does not fit `targets` and `draws`.
    """
    drawn = DrawnModel(
        model,
        targets,
        draws,
        device=device,
        rows_per_batch=rows_per_batch,
        average_strands=average_strands,
    )
    codes = as_codes(sequences)
    n, length, t, k = len(codes), drawn.length, drawn.n_draws, len(drawn.targets)
    effects = Effects(
        drawn.targets,
        np.empty((n, t, k), np.float32),
        np.empty((n, k), np.float32),
        np.empty((n, length, 3, t, k), np.float32),
        np.empty((n, length, 3, k), np.float32),
    )
    chosen = choose_engine(drawn, engine, memory_gb, precision)
    for i, one in enumerate(saturate_each(drawn, chosen, codes, workers)):
        effects.reference[i] = one.reference[0]
        effects.reference_eval[i] = one.reference_eval[0]
        effects.delta[i] = one.delta[0]
        effects.delta_eval[i] = one.delta_eval[0]
    return effects


def saturate_each(
    drawn: DrawnModel, engine: Engine, codes: Codes, workers: int = 1
) -> Iterator[Effects]:
    """Yield the effects of one sequence after the other, each with n = 1.

    Parameters
    ----------
    drawn : DrawnModel
        The functions.
    engine : Engine
        Made of them.
    codes : ndarray of uint8, shape (n, length)
        The sequences.
    workers : int
        Sequences worked on at the same time on a CPU; a GPU takes them one by one.

    Yields
    ------
    Effects
        Effects of the next sequence.

    Raises
    ------
    ValueError
        If the length is not the model's.
    """
    if codes.shape[1] != drawn.length:
        raise ValueError(
            f"the sequences have {codes.shape[1]} bases, the model reads {drawn.length}; "
            "give sequences of that length"
        )
    at_once = drawn.threads(min(workers, engine.most_at_once or workers))
    yield from in_order(engine, codes, at_once)
