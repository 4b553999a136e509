"""Saturation mutagenesis by a straight loop: every mutant through the whole network.

Slow and plain, it is the oracle of the local engine. A sequence is worked on alone, in passes
whose sizes depend on its length and the number of draws only, so its numbers are the same to the
last bit whatever the shard, the other sequences and the number of threads.
"""

from __future__ import annotations

import numpy as np
import torch

from deepmr.genome.alphabet import AMBIGUOUS, Codes, one_hot
from deepmr.mutagenesis.drawn_model import DrawnModel
from deepmr.mutagenesis.substitutions import Effects, mutants


class StraightEngine:
    """Effects by running every mutant through the whole network.

    Parameters
    ----------
    drawn : DrawnModel
        The model and its draws.
    """

    name = "naive"
    gain = 1.0
    most_at_once: int | None = None

    def __init__(self, drawn: DrawnModel) -> None:
        self._model = drawn

    def __call__(self, codes: Codes) -> Effects:
        """Return the effects of one sequence, n = 1.

        Parameters
        ----------
        codes : ndarray of uint8, shape (length,)
            The sequence.
        """
        model = self._model
        length, n_rows = len(codes), 1 + 3 * len(codes)
        t, k = model.n_draws, len(model.targets)
        evaluated = np.empty((n_rows, k), np.float32)
        values = np.empty((n_rows, t, k), np.float32)
        for start in range(0, n_rows, model.sequences_per_pass):
            stop = min(start + model.sequences_per_pass, n_rows)
            inputs = torch.from_numpy(one_hot(mutants(codes, start, stop))).to(model.device)
            rows_eval, rows_drawn = model.evaluate(inputs)
            evaluated[start:stop] = rows_eval.cpu().numpy()
            values[start:stop] = rows_drawn.transpose(0, 1).cpu().numpy()
        delta = (values[1:] - values[0]).reshape(1, length, 3, t, k)
        delta_eval = (evaluated[1:] - evaluated[0]).reshape(1, length, 3, k)
        ambiguous = codes == AMBIGUOUS
        delta[:, ambiguous] = np.nan
        delta_eval[:, ambiguous] = np.nan
        return Effects(model.targets, values[None, 0], evaluated[None, 0], delta, delta_eval)
