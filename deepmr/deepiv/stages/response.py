"""Stage 2: the response h(p, c), of which only the average over F(p | z, c) is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.dropout_draws import under_draws
from deepmr.deepiv.stages.networks import ContextNetwork, Contexts, Design
from deepmr.deepiv.stages.running import evaluate
from deepmr.deepiv.stages.standard_units import StandardUnits, finite_column

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Draw = Callable[[Tensor, int], Tensor]
Gradient = Literal["one_sample", "two_sample"]

_JUDGING_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Response:
    """A fitted response; exposures and outcomes are in their own units.

    Attributes
    ----------
    fitted : fitting.Fitted of ContextNetwork
        The network and how it was fitted; its losses are in units of the outcome's variance.
    exposure_units, outcome_units : StandardUnits
        Units in which the network reads exposures and gives outcomes.
    settings : fitting.Settings
        How it was fitted; says where it runs.
    """

    fitted: fitting.Fitted[ContextNetwork]
    exposure_units: StandardUnits
    outcome_units: StandardUnits
    settings: fitting.Settings

    def predict(self, p: Array, contexts: Contexts, rows: Rows) -> Array:
        """Return h(p, c) (m,) at an exposure (m,) for each of some rows (m,)."""
        return self._surface(np.asarray(p)[:, None], contexts, rows)[:, 0, 0]

    def draws(self, p: Array, contexts: Contexts, rows: Rows, n_draws: int, seed: int) -> Array:
        """Return h(p, c) under dropout masks (Gal and Ghahramani, ICML 2016).

        Parameters
        ----------
        p : ndarray, shape (m,)
            An exposure for each row.
        contexts : Contexts
            Contexts.
        rows : ndarray of int64, shape (m,)
            The rows.
        n_draws, seed : int
            How many draws, and the key of their masks.

        Returns
        -------
        ndarray, shape (n_draws, m)
            Each draw is one function for all rows.

        Raises
        ------
        deepmr.mutagenesis.masking.DropoutError
            If the encoder uses a dropout that no mask can stand for.
        """
        h = self._surface(np.asarray(p)[:, None], contexts, rows, n_draws, seed)
        return np.ascontiguousarray(h[..., 0].T)

    def average(self, samples: Array, contexts: Contexts, rows: Rows) -> Array:
        """Return ∫h(p, c) dF (m,), the mean over sampled exposures (m, s) of some rows (m,)."""
        return self._surface(samples, contexts, rows)[:, 0].mean(axis=1)

    def _surface(
        self,
        p: Array,
        contexts: Contexts,
        rows: Rows,
        n_draws: int | None = None,
        seed: int = 0,
    ) -> Array:
        """Return h (m, draws, s) at exposures (m, s); without draws, of the network itself."""
        network, device = self.fitted.network, self.settings.device
        contexts, at = contexts.to(device), torch.as_tensor(rows, device=device)
        exposures = torch.as_tensor(
            self.exposure_units.standardise(p), dtype=torch.float32, device=device
        )

        def surface(part: Tensor) -> Tensor:
            def forward() -> Tensor:
                return network.surface(contexts[at[part]], exposures[part])

            return forward()[:, None] if n_draws is None else under_draws(forward, n_draws, seed)

        h = evaluate(surface, np.arange(len(rows)), device, self.settings.threads)
        return self.outcome_units.restore(h.double().cpu().numpy())


def fit_response(
    contexts: Contexts,
    outcome: Array,
    samples: Array | Draw,
    *,
    design: Design,
    settings: fitting.Settings,
    rows: Rows,
    held_out: Rows,
    seed: int,
    gradient: Gradient = "two_sample",
    n_samples: int = 2,
    name: str = "stage 2",
) -> Response:
    """Fit h by minimising the mean of (y - ∫h(p, c) dF(p | z, c))².

    Parameters
    ----------
    contexts : Contexts
        Contexts of n rows.
    outcome : ndarray, shape (n,)
        Their outcomes, in any units.
    samples : ndarray, shape (n, s), or callable
        Exposures sampled from F for each row, in any units; or what draws them anew each step, as
        :meth:`deepmr.deepiv.stages.treatment.Treatment.drawer` returns.
    design : Design
        How the network is made.
    settings : fitting.Settings
        How it is fitted.
    rows, held_out : ndarray of int64
        The rows to learn from and the rows to judge by. A held-out row's loss is its (y - mean of
        h)² over 64 fixed samples, or over all if there are fewer.
    seed : int
        Of everything random.
    gradient : str
        See :func:`squared_error`.
    n_samples : int
        Samples of each row a step.
    name : str
        Of the network, for the log and errors.

    Returns
    -------
    Response
        The fitted response.

    Raises
    ------
    ValueError
        If shapes do not agree, a used row is missing or infinite, or there are fewer samples than
        the gradient needs.
    fitting.FittingError
        If there are too few rows, or the loss is not finite.
    """
    least = 2 if gradient == "two_sample" else 1
    if n_samples < least:
        raise ValueError(f"n_samples: found {n_samples}; {gradient} needs {least} or more")
    n, device = len(contexts), settings.device
    used = np.concatenate((rows, held_out))
    y = finite_column("outcome", outcome, n, used)
    if callable(samples):
        draw = samples
    else:
        draw = _from_table(finite_column("samples", samples, n, used), n_samples, device)

    def fixed(which: Rows, number: int) -> Tensor:
        return evaluate(lambda part: draw(part, number), which, device, settings.threads, seed)

    p_units = StandardUnits.of(fixed(rows, 1).double().cpu().numpy().ravel())
    y_units = StandardUnits.of(y[rows])
    location, scale = float(p_units.location), float(p_units.scale)
    seen = torch.as_tensor(y_units.standardise(y), dtype=torch.float32, device=device)
    judging = (fixed(held_out, _JUDGING_SAMPLES) - location) / scale
    place = torch.zeros(n, dtype=torch.int64, device=device)
    place[torch.as_tensor(held_out, device=device)] = torch.arange(len(held_out), device=device)
    contexts = contexts.to(device)

    def loss(network: ContextNetwork, batch: Tensor) -> Tensor:
        p = (draw(batch, n_samples) - location) / scale
        return squared_error(seen[batch], network.surface(contexts[batch], p), gradient)

    def held_out_loss(network: ContextNetwork, batch: Tensor) -> Tensor:
        h = network.surface(contexts[batch], judging[place[batch]])
        return squared_error(seen[batch], h, "one_sample")

    fitted = fitting.fit(
        lambda: design.build(1, 1),
        loss,
        rows,
        held_out,
        settings,
        seed=seed,
        held_out_loss=held_out_loss,
        name=name,
    )
    return Response(fitted, p_units, y_units, settings)


def squared_error(outcome: Tensor, h: Tensor, gradient: Gradient) -> Tensor:
    """Return a loss of each row from h at exposures sampled from F.

    With n samples, ``one_sample`` is (y - mean_j h_j)², whose expectation over the samples is
    (y - ∫h dF)² + Var(h)/n: as if a flat h were better. ``two_sample`` is the mean over j ≠ k of
    (y - h_j)(y - h_k), a U-statistic with the expectation (y - ∫h dF)² (Hartford et al. 2017,
    section 3, where the two factors of the gradient take independent samples); its variance is the
    larger one.

    Parameters
    ----------
    outcome : Tensor, shape (b,)
        Outcomes y.
    h : Tensor, shape (b, n)
        The response at each sample.
    gradient : str
        ``one_sample``, or ``two_sample`` with n of 2 or more.

    Returns
    -------
    Tensor, shape (b,)
        The loss.

    Raises
    ------
    ValueError
        If the gradient is unknown.
    """
    residuals = outcome[:, None] - h
    if gradient == "one_sample":
        return residuals.mean(1).square()
    if gradient == "two_sample":
        n = h.shape[1]
        return (residuals.sum(1).square() - residuals.square().sum(1)) / (n * (n - 1))
    raise ValueError(f"gradient: found {gradient!r}; write one_sample or two_sample")


def _from_table(samples: Array, n_samples: int, device: str) -> Draw:
    """Return what draws a few of each row's samples, without replacement."""
    if samples.ndim != 2 or samples.shape[1] < n_samples:
        raise ValueError(
            f"samples: found shape {samples.shape}; give (n, s) with s of {n_samples} or more"
        )
    table = torch.as_tensor(samples, dtype=torch.float32, device=device)

    def draw(rows: Tensor, n: int) -> Tensor:
        # Samples of different rows are independent, so the same columns may serve all of a batch.
        columns = torch.randperm(table.shape[1])[:n].to(device)
        return table[rows[:, None], columns]

    return draw
