"""Stage 1: the distribution of the exposure given instrument and context, F(p | z, c)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.densities import Categorical, Density, MixtureDensity
from deepmr.deepiv.stages.networks import Batch, Contexts, Design
from deepmr.deepiv.stages.running import evaluate
from deepmr.deepiv.stages.standard_units import StandardUnits, finite_column

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


class Heads(nn.Module):
    """A network of instrument and context and, if asked for, one of the context alone.

    The encoder of the context is shared; without an encoder the two share nothing.
    """

    def __init__(self, design: Design, n_instruments: int, n_outputs: int, *, without: bool):
        super().__init__()
        self.given = design.build(n_instruments, n_outputs)
        self.without = replace(design, encoder=None).build(0, n_outputs) if without else None

    def forward(self, context: Batch, instruments: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the outputs (b, n_outputs) of both heads."""
        features = self.given.features(context)
        alone = None if self.without is None else self.without.head(features)
        return self.given.head(features, instruments), alone

    def alone(self, context: Batch) -> Tensor:
        """Return the outputs (b, n_outputs) of the head that does not see the instrument.

        Raises
        ------
        ValueError
            If there is no such head.
        """
        if self.without is None:
            raise ValueError(
                "stage 1 has no head without the instrument; fit it with without_instrument=True"
            )
        return self.without.head(self.given.features(context))


@dataclass(frozen=True, eq=False)
class Treatment:
    """A fitted first stage; exposures are in their own units.

    Attributes
    ----------
    fitted : fitting.Fitted of Heads
        The network and how it was fitted.
    density : Density
        The family of F.
    instrument_units, exposure_units : StandardUnits
        Units in which the network reads instruments and gives exposures.
    settings : fitting.Settings
        How it was fitted; says where it runs.
    """

    fitted: fitting.Fitted[Heads]
    density: Density
    instrument_units: StandardUnits
    exposure_units: StandardUnits
    settings: fitting.Settings

    def mean(self, contexts: Contexts, instruments: Array, rows: Rows) -> Array:
        """Return E[X | z, c] of some rows (m,); of a binary exposure P(X=1 | z, c)."""
        return self._mean(self._outputs(contexts, rows, instruments))

    def mean_without(self, contexts: Contexts, rows: Rows) -> Array:
        """Return E[X | c] of some rows (m,).

        Raises
        ------
        ValueError
            If stage 1 was fitted without the head of the context alone.
        """
        return self._mean(self._outputs(contexts, rows))

    def sample(
        self, contexts: Contexts, instruments: Array, rows: Rows, n: int, seed: int
    ) -> Array:
        """Return n independent exposures (m, n) of some rows from F(p | z, c)."""
        return self._sample(self._outputs(contexts, rows, instruments), n, seed)

    def sample_without(self, contexts: Contexts, rows: Rows, n: int, seed: int) -> Array:
        """Return n independent exposures (m, n) of some rows from F(p | c).

        Raises
        ------
        ValueError
            If stage 1 was fitted without the head of the context alone.
        """
        return self._sample(self._outputs(contexts, rows), n, seed)

    def drawer(self, contexts: Contexts, instruments: Array) -> Callable[[Tensor, int], Tensor]:
        """Return a function that draws exposures anew each time, as stage 2 wants them.

        Parameters
        ----------
        contexts : Contexts
            Contexts of n rows.
        instruments : ndarray, shape (n, k)
            Their instruments.

        Returns
        -------
        callable
            Maps rows (int64, (b,)) and a number to exposures (b, number) from F(p | z, c), from
            torch's default generator. The network has then already run on all n rows.
        """
        outputs = self._outputs(contexts, np.arange(len(contexts)), instruments)

        def draw(rows: Tensor, n: int) -> Tensor:
            return self._draw(outputs[rows], n)

        return draw

    def _outputs(self, contexts: Contexts, rows: Rows, instruments: Array | None = None) -> Tensor:
        network = self.fitted.network
        contexts = contexts.to(self.settings.device)
        if instruments is None:
            return self._evaluate(lambda part: network.alone(contexts[part]), rows)
        z = torch.as_tensor(
            self.instrument_units.standardise(instruments),
            dtype=torch.float32,
            device=self.settings.device,
        )
        return self._evaluate(lambda part: network.given(contexts[part], z[part]), rows)

    def _evaluate(self, function: Callable[[Tensor], Tensor], rows: Rows, seed: int = 0) -> Tensor:
        return evaluate(function, rows, self.settings.device, self.settings.threads, seed)

    def _mean(self, outputs: Tensor) -> Array:
        return self.exposure_units.restore(self.density.mean(outputs).double().cpu().numpy())

    def _sample(self, outputs: Tensor, n: int, seed: int) -> Array:
        numbers = np.arange(len(outputs))
        draws = self._evaluate(lambda part: self._draw(outputs[part], n), numbers, seed)
        return draws.double().cpu().numpy()

    def _draw(self, outputs: Tensor, n: int) -> Tensor:
        units = self.exposure_units
        return self.density.sample(outputs, n) * float(units.scale) + float(units.location)


def fit_treatment(
    contexts: Contexts,
    instruments: Array,
    exposure: Array,
    *,
    density: MixtureDensity | Categorical,
    design: Design,
    settings: fitting.Settings,
    rows: Rows,
    held_out: Rows,
    seed: int,
    without_instrument: bool = False,
    name: str = "stage 1",
) -> Treatment:
    """Fit F(p | z, c) by maximum likelihood.

    Parameters
    ----------
    contexts : Contexts
        Contexts of n rows.
    instruments : ndarray, shape (n, k)
        Their instruments, in any units.
    exposure : ndarray, shape (n,)
        Their exposures, in any units.
    density : MixtureDensity or Categorical
        The family of F.
    design : Design
        How the network is made.
    settings : fitting.Settings
        How it is fitted.
    rows, held_out : ndarray of int64
        The rows to learn from and the rows to judge by.
    seed : int
        Of everything random.
    without_instrument : bool
        Fit F(p | c) as well, as a second head; the loss is the sum of both.
    name : str
        Of the network, for the log and errors.

    Returns
    -------
    Treatment
        The fitted stage.

    Raises
    ------
    ValueError
        If shapes do not agree, a used row is missing or infinite, or an exposure is no level.
    fitting.FittingError
        If there are too few rows, or the loss is not finite.
    """
    used = np.concatenate((rows, held_out))
    n, device = len(contexts), settings.device
    z = finite_column("instruments", instruments, n, used)
    if z.ndim != 2 or z.shape[1] == 0:
        raise ValueError(f"instruments: found shape {z.shape}; give (n, k) with k of 1 or more")
    x = finite_column("exposure", exposure, n, used)
    if isinstance(density, Categorical) and not (known := np.isin(x[used], density.levels)).all():
        raise ValueError(
            f"exposure: {x[used][~known][0]:g} is none of the levels {density.levels}; "
            "name every value, or use MixtureDensity"
        )
    z_units = StandardUnits.of(z[rows])
    x_units = StandardUnits.of(x[rows]) if density.standardised else StandardUnits.own()
    z_device = torch.as_tensor(z_units.standardise(z), dtype=torch.float32, device=device)
    x_device = torch.as_tensor(x_units.standardise(x), dtype=torch.float32, device=device)
    contexts = contexts.to(device)

    def loss(network: Heads, batch: Tensor) -> Tensor:
        given, alone = network(contexts[batch], z_device[batch])
        seen = x_device[batch]
        value = -density.log_density(given, seen)
        return value if alone is None else value - density.log_density(alone, seen)

    fitted = fitting.fit(
        lambda: Heads(design, z.shape[1], density.n_outputs, without=without_instrument),
        loss,
        rows,
        held_out,
        settings,
        seed=seed,
        name=name,
    )
    return Treatment(fitted, density, z_units, x_units, settings)
