"""Saturation mutagenesis by a straight loop: every mutant through the whole network.

Slow and plain, it is the oracle of faster engines. A sequence is worked on alone, in passes
whose sizes depend on its length and the number of draws only, so its numbers are the same to the
last bit whatever the shard, the other sequences and the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepmr.draws import DrawSet
from deepmr.genome.alphabet import AMBIGUOUS, Codes, one_hot
from deepmr.mutagenesis.drawn_model import DrawnModel, Model
from deepmr.mutagenesis.threads import in_order

ENGINES = ("naive",)

Float = NDArray[np.float32]

_ALTERNATIVES = np.array(
    [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [AMBIGUOUS] * 3], dtype=np.uint8
)


@dataclass(frozen=True)
class Effects:
    """Outputs of n sequences and what every substitution adds to them, on the link scale.

    The alternatives of a position are the other three bases in the order ACGT. Where the
    reference is ambiguous there is no effect: NaN.

    Attributes
    ----------
    targets : tuple of str
        The K targets.
    reference : ndarray of float32, shape (n, T, K)
        Output of each draw for the unmutated sequence.
    reference_eval : ndarray of float32, shape (n, K)
        The same without dropout (mean over members).
    delta : ndarray of float32, shape (n, length, 3, T, K)
        Mutant minus reference, of each draw.
    delta_eval : ndarray of float32, shape (n, length, 3, K)
        The same without dropout.
    """

    targets: tuple[str, ...]
    reference: Float
    reference_eval: Float
    delta: Float
    delta_eval: Float


def saturate(
    model: Model,
    sequences: NDArray[Any],
    targets: Sequence[str],
    draws: DrawSet,
    engine: str = "naive",
    *,
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
        ``naive``, the straight loop.
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
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} is unknown; write one of {', '.join(ENGINES)}")
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
    for i, one in enumerate(saturate_each(drawn, codes, workers)):
        effects.reference[i] = one.reference[0]
        effects.reference_eval[i] = one.reference_eval[0]
        effects.delta[i] = one.delta[0]
        effects.delta_eval[i] = one.delta_eval[0]
    return effects


def saturate_each(drawn: DrawnModel, codes: Codes, workers: int = 1) -> Iterator[Effects]:
    """Yield the effects of one sequence after the other, each with n = 1.

    Parameters
    ----------
    drawn : DrawnModel
        The functions.
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
    yield from in_order(
        lambda sequence: _saturate_one(drawn, sequence), codes, drawn.threads(workers)
    )


def alternatives(codes: Codes) -> Codes:
    """Return the other three bases, (…, 3), in the order ACGT; all ambiguous for ambiguous."""
    return _ALTERNATIVES[codes]


def as_codes(sequences: NDArray[Any]) -> Codes:
    """Return codes (n, length) from codes or from one-hot (n, 4, length).

    Raises
    ------
    ValueError
        If an array of three axes is not one-hot, or one of two axes holds no codes.
    """
    if sequences.ndim == 3 and sequences.shape[1] == 4:
        codes = np.where(sequences.any(1), sequences.argmax(1), AMBIGUOUS).astype(np.uint8)
        if not np.array_equal(one_hot(codes), sequences):
            raise ValueError(
                "the sequences are not one-hot: a position must be one 1 and three 0, or all 0 "
                "where the base is ambiguous"
            )
        return codes
    if sequences.ndim != 2 or sequences.dtype != np.uint8 or (sequences > AMBIGUOUS).any():
        raise ValueError(
            f"the sequences are {sequences.dtype} of shape {sequences.shape}; give uint8 codes "
            "(n, length) from 0 to 4 or a one-hot array (n, 4, length)"
        )
    return sequences


def mutants(codes: Codes, start: int, stop: int) -> Codes:
    """Return rows start to stop of the 1 + 3·length rows of a sequence's saturation.

    Row 0 is the sequence, row 1 + 3·i + j has alternative j at position i.
    """
    rows = np.tile(codes, (stop - start, 1))
    index = np.arange(max(start, 1), stop)
    position, alternative = np.divmod(index - 1, 3)
    rows[index - start, position] = alternatives(codes)[position, alternative]
    return rows


def _saturate_one(drawn: DrawnModel, codes: Codes) -> Effects:
    length, n_rows = len(codes), 1 + 3 * len(codes)
    t, k = drawn.n_draws, len(drawn.targets)
    evaluated = np.empty((n_rows, k), np.float32)
    values = np.empty((n_rows, t, k), np.float32)
    for start in range(0, n_rows, drawn.sequences_per_pass):
        stop = min(start + drawn.sequences_per_pass, n_rows)
        inputs = torch.from_numpy(one_hot(mutants(codes, start, stop))).to(drawn.device)
        rows_eval, rows_drawn = drawn.evaluate(inputs)
        evaluated[start:stop] = rows_eval.cpu().numpy()
        values[start:stop] = rows_drawn.transpose(0, 1).cpu().numpy()
    delta = (values[1:] - values[0]).reshape(1, length, 3, t, k)
    delta_eval = (evaluated[1:] - evaluated[0]).reshape(1, length, 3, k)
    ambiguous = codes == AMBIGUOUS
    delta[:, ambiguous] = np.nan
    delta_eval[:, ambiguous] = np.nan
    return Effects(drawn.targets, values[None, 0], evaluated[None, 0], delta, delta_eval)
