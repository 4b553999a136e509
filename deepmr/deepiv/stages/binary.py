"""Stage 2 for a binary exposure, in closed form: the outcome without it and with it.

With q(z, c) = P(X = 1 | z, c) the integral over F is a sum of two terms,
E[Y | z, c] = h0(c) + q(z, c) (h1(c) - h0(c)): nothing is sampled, and the response is linear in q.
h1 - h0 is the local effect of the exposure in a context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.dropout_draws import under_draws
from deepmr.deepiv.stages.networks import Batch, ContextNetwork, Contexts, Design
from deepmr.deepiv.stages.running import evaluate
from deepmr.deepiv.stages.standard_units import StandardUnits, finite_column

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LocalEffects:
    """Fitted outcomes without and with a binary exposure.

    Attributes
    ----------
    fitted : fitting.Fitted of ContextNetwork
        The network, contexts → (h0, h1), and how it was fitted; its losses are in units of the
        outcome's variance.
    outcome_units : StandardUnits
        Units in which the network gives outcomes that are not bounded.
    bounded : bool
        Whether outcomes are in [0, 1], and the network gives their logits.
    settings : fitting.Settings
        How it was fitted; says where it runs.
    """

    fitted: fitting.Fitted[ContextNetwork]
    outcome_units: StandardUnits
    bounded: bool
    settings: fitting.Settings

    def predict(self, contexts: Contexts, rows: Rows) -> tuple[Array, Array]:
        """Return the outcomes without and with the exposure, h0 and h1 (m,), of some rows (m,)."""
        h = self._outcomes(contexts, rows)
        return h[:, 0, 0], h[:, 0, 1]

    def draws(self, contexts: Contexts, rows: Rows, n_draws: int, seed: int) -> tuple[Array, Array]:
        """Return h0 and h1 under dropout masks (Gal and Ghahramani, ICML 2016).

        Parameters
        ----------
        contexts : Contexts
            Contexts.
        rows : ndarray of int64, shape (m,)
            The rows.
        n_draws, seed : int
            How many draws, and the key of their masks.

        Returns
        -------
        h0, h1 : ndarray, shape (n_draws, m)
            Each draw is one function for all rows.

        Raises
        ------
        deepmr.mutagenesis.masking.DropoutError
            If the encoder uses a dropout that no mask can stand for.
        """
        h = self._outcomes(contexts, rows, n_draws, seed).swapaxes(0, 1)
        return h[..., 0], h[..., 1]

    def _outcomes(
        self, contexts: Contexts, rows: Rows, n_draws: int | None = None, seed: int = 0
    ) -> Array:
        """Return h0 and h1 (m, draws, 2) of some rows; without draws, of the network itself."""
        network, contexts = self.fitted.network, contexts.to(self.settings.device)

        def outcomes(part: Tensor) -> Tensor:
            def forward() -> Tensor:
                return _outcomes(network, contexts[part], self.bounded)

            return forward()[:, None] if n_draws is None else under_draws(forward, n_draws, seed)

        h = evaluate(outcomes, rows, self.settings.device, self.settings.threads)
        return self.outcome_units.restore(h.double().cpu().numpy())


def fit_local_effects(
    contexts: Contexts,
    q: Array,
    outcome: Array,
    *,
    design: Design,
    settings: fitting.Settings,
    rows: Rows,
    held_out: Rows,
    seed: int,
    bounded: bool,
    name: str = "stage 2",
) -> LocalEffects:
    """Fit h0 and h1 by minimising the mean of (y - [h0(c) + q (h1(c) - h0(c))])².

    Parameters
    ----------
    contexts : Contexts
        Contexts of n rows.
    q : ndarray, shape (n,)
        P(X = 1 | z, c) of each row, from a first stage that has not seen the row. The observed
        exposure in its place makes the naive network.
    outcome : ndarray, shape (n,)
        Outcomes.
    design : Design
        How the network is made.
    settings : fitting.Settings
        How it is fitted.
    rows, held_out : ndarray of int64
        The rows to learn from and the rows to judge by.
    seed : int
        Of everything random.
    bounded : bool
        Outcomes are in [0, 1], so h0 and h1 are too; otherwise they may be any number.
    name : str
        Of the network, for the log and errors.

    Returns
    -------
    LocalEffects
        The fitted outcomes.

    Raises
    ------
    ValueError
        If shapes do not agree, a used row is missing or infinite, or a bounded outcome or q is not
        in [0, 1].
    fitting.FittingError
        If there are too few rows, or the loss is not finite.
    """
    n, device = len(contexts), settings.device
    used = np.concatenate((rows, held_out))
    q, y = finite_column("q", q, n, used), finite_column("outcome", outcome, n, used)
    _check_range("q", q[used], "give probabilities")
    if bounded:
        _check_range("outcome", y[used], "give such outcomes, or bounded=False")
    spread = StandardUnits.of(y[rows])
    units = StandardUnits.own() if bounded else spread
    variance = float((spread.scale / units.scale) ** 2)
    seen = torch.as_tensor(units.standardise(y), dtype=torch.float32, device=device)
    probability = torch.as_tensor(q, dtype=torch.float32, device=device)
    contexts = contexts.to(device)

    def loss(network: ContextNetwork, batch: Tensor) -> Tensor:
        h = _outcomes(network, contexts[batch], bounded)
        expected = torch.lerp(h[:, 0], h[:, 1], probability[batch])
        return (seen[batch] - expected).square() / variance

    fitted = fitting.fit(
        lambda: design.build(0, 2),
        loss,
        rows,
        held_out,
        settings,
        seed=seed,
        name=name,
    )
    return LocalEffects(fitted, units, bounded, settings)


def _outcomes(network: ContextNetwork, context: Batch, bounded: bool) -> Tensor:
    outputs: Tensor = network(context)
    return outputs.sigmoid() if bounded else outputs


def _check_range(name: str, values: Array, instead: str) -> None:
    outside = (values < 0) | (values > 1)
    if outside.any():
        raise ValueError(f"{name}: {values[outside][0]:g} is not in [0, 1]; {instead}")
