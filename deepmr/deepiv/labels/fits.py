"""The two stages of Deep IV on measured labels, cross-fitted so that no window judges itself.

Stage 1 is fitted without every pair {j, k} of folds. Stage 2 for fold k learns on the folds
j != k, of which the fit without {j, k} tells the exposure's distribution; so neither stage has seen
fold k, and no distribution was learned from the row that uses it. Of fold k itself, the mean over
the fits without k is used (:mod:`deepmr.deepiv.cross_fitting`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from deepmr.deepiv.cross_fitting import folds, pairs_of_folds
from deepmr.deepiv.labels.data import LabelData
from deepmr.deepiv.seeds import derived_seed
from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.binary import LocalEffects, fit_local_effects
from deepmr.deepiv.stages.fitting import split_held_out
from deepmr.deepiv.stages.naive import fit_naive
from deepmr.deepiv.stages.networks import Design, SequenceContexts
from deepmr.deepiv.stages.response import Response, fit_response
from deepmr.deepiv.stages.standard_units import StandardUnits
from deepmr.deepiv.stages.treatment import Categorical, MixtureDensity, Treatment, fit_treatment
from deepmr.models import architectures

_log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

SAMPLES = 32
"""Draws of an exposure that is not binary, for each window and fit."""

_QUARTILES = (0.25, 0.75)


@dataclass(frozen=True)
class Settings:
    """How the networks are made and fitted; section ``deep_iv`` of the configuration.

    Attributes
    ----------
    design : Design
        The network of each stage.
    fitting : deepmr.deepiv.stages.fitting.Settings
        How a response is fitted.
    folds : int
        Folds of whole blocks, 3 or more.
    held_out : float
        Share of the windows of a fit, in whole blocks, that judge its epochs.
    components : int
        Gaussian components of the density of an exposure that is not binary.
    gradient : {"two_sample", "one_sample"}
        As in :func:`deepmr.deepiv.stages.response.fit_response`.
    draws : int
        Dropout draws of the effect in each window.
    """

    design: Design
    fitting: fitting.Settings
    folds: int = 4
    held_out: float = 0.125
    components: int = 10
    gradient: Literal["two_sample", "one_sample"] = "two_sample"
    draws: int = 40

    @classmethod
    def of(
        cls, section: Mapping[str, Any], *, length: int, threads: int, device: str | None = None
    ) -> Settings:
        """Return the settings that section ``deep_iv`` of a configuration says.

        Parameters
        ----------
        section : mapping
            The section, defaults filled in.
        length : int
            Bases of a window.
        threads : int
            Threads of torch on a CPU.
        device : str, optional
            ``"cpu"`` or ``"cuda"``; by default CUDA when there is a GPU.
        """
        encoder = partial(
            architectures.build,
            section["architecture"],
            section["features"],
            length,
            **section["options"],
        )
        # The encoder has its own dropout; the perceptron after it is small.
        design = Design(section["features"], tuple(section["hidden"]), 0.0, encoder)
        steps = fitting.Settings(
            epochs=section["epochs"],
            batch_size=section["batch_size"],
            learning_rate=section["learning_rate"],
            weight_decay=section["weight_decay"],
            patience=section["patience"],
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            threads=threads,
        )
        own = ("folds", "held_out", "components", "gradient", "draws")
        return cls(design, steps, **{key: section[key] for key in own})


@dataclass(frozen=True, eq=False)
class Effects:
    """What a response says of the outcome in each of n windows, by networks that never saw it.

    Attributes
    ----------
    low, high : ndarray of float64, shape (n,)
        Outcome at the lower and the higher exposure that are compared.
    mean : ndarray of float64, shape (n,)
        E[outcome given context]: the response, averaged over the exposure given the context.
    """

    low: Array
    high: Array
    mean: Array

    def put(self, rows: Rows, of_rows: Effects) -> None:
        """Take over the effects of some windows."""
        self.low[rows] = of_rows.low
        self.high[rows] = of_rows.high
        self.mean[rows] = of_rows.mean

    @classmethod
    def empty(cls, n: int) -> Effects:
        """Return effects of n windows, to be filled in."""
        return cls(*np.full((3, n), np.nan))


@dataclass(frozen=True, eq=False)
class LabelFits:
    """The cross-fitted stages.

    Attributes
    ----------
    q, r : ndarray of float64, shape (n,)
        E[exposure given instrument and context], and given the context.
    exposures : tuple of two float
        The lower and the higher exposure that are compared.
    response, naive : Effects
        Of Deep IV, and of the same network on the observed exposure.
    draws : ndarray of float64, shape (n, draws)
        Difference of Deep IV's outcomes at the two exposures in each dropout draw; one function
        for all windows of a fold.
    """

    q: Array
    r: Array
    exposures: tuple[float, float]
    response: Effects
    naive: Effects
    draws: Array

    def slope(self, effects: Effects) -> Array:
        """Return the effects (n,) for each unit of the exposure."""
        return (effects.high - effects.low) / (self.exposures[1] - self.exposures[0])


def compared_exposures(exposure: Array, binary: bool) -> tuple[float, float]:
    """Return 0 and 1, or the quartiles of the exposure; its extremes where these are equal."""
    if binary:
        return 0.0, 1.0
    low, high = np.quantile(exposure, _QUARTILES)
    return (float(low), float(high)) if low < high else (exposure.min(), exposure.max())


def fit_labels(data: LabelData, settings: Settings, *, seed: int, name: str) -> LabelFits:
    """Fit both stages and the naive network.

    Parameters
    ----------
    data : LabelData
        The windows.
    settings : Settings
        How the networks are made and fitted.
    seed : int
        Of folds, held-out blocks and networks.
    name : str
        Of the question, for the log.

    Returns
    -------
    LabelFits
        A function of the arguments only.

    Raises
    ------
    ValueError
        If there are fewer blocks than folds.
    deepmr.deepiv.stages.fitting.FittingError
        If a loss is no longer finite.
    """
    return _CrossFit(data, settings, seed, name).run()


class _CrossFit:
    """The windows, their folds, and the fits of stage 1 by the two folds that they leave out."""

    def __init__(self, data: LabelData, settings: Settings, seed: int, name: str) -> None:
        self.data = data
        self.settings = settings
        self.seed = seed
        self.name = name
        numbers = StandardUnits.of(data.overlapping).standardise(data.overlapping)
        self.contexts = SequenceContexts(data.context, numbers)
        self.design = replace(settings.design, n_numbers=numbers.shape[1])
        self.instruments = data.score[:, None]
        self.fold = folds(data.blocks, settings.folds, derived_seed(seed, "folds"))
        self.exposures = compared_exposures(data.exposure, data.sides[0].binary)
        # Unlike the second stage's, the losses of stage 1 and of the naive network have a clear
        # minimum, so their lowest epoch is kept.
        self.lowest = replace(settings.fitting, tolerance=0.0)
        self.treatments = {pair: self._treatment(pair) for pair in pairs_of_folds(settings.folds)}

    def run(self) -> LabelFits:
        """Let every fold be judged by the fits that have not seen it."""
        n = len(self.data)
        q, r = np.full((2, n), np.nan)
        response, naive = Effects.empty(n), Effects.empty(n)
        draws = np.full((n, self.settings.draws), np.nan)
        for fold in range(self.settings.folds):
            own = np.flatnonzero(self.fold == fold)
            fits = self._without(fold).values()
            q[own] = np.mean([f.mean(self.contexts, self.instruments, own) for f in fits], axis=0)
            r[own] = np.mean([f.mean_without(self.contexts, own) for f in fits], axis=0)
            if self.data.sides[0].binary:
                of_response, of_naive, drawn = self._binary(fold, own, r[own])
            else:
                of_response, of_naive, drawn = self._density(fold, own)
            response.put(own, of_response)
            naive.put(own, of_naive)
            draws[own] = drawn
        return LabelFits(q, r, self.exposures, response, naive, draws)

    def _binary(self, fold: int, own: Rows, r: Array) -> tuple[Effects, Effects, Array]:
        """Return what Deep IV and the naive network say of a fold, in closed form, and draws."""
        response = self._local_effects("response", fold, self._q_of_the_others(fold))
        # The exposure itself in place of its probability makes the naive network.
        naive = self._local_effects("naive", fold, self.data.exposure)
        drawn_low, drawn_high = response.draws(
            self.contexts, own, self.settings.draws, derived_seed(self.seed, "draws", fold)
        )

        def effects(of: LocalEffects) -> Effects:
            low, high = of.predict(self.contexts, own)
            return Effects(low, high, low + r * (high - low))

        return effects(response), effects(naive), (drawn_high - drawn_low).T

    def _local_effects(
        self, kind: Literal["response", "naive"], fold: int, q: Array
    ) -> LocalEffects:
        return fit_local_effects(
            self.contexts,
            q,
            self.data.outcome,
            design=self.design,
            settings=self.settings.fitting if kind == "response" else self.lowest,
            bounded=self.data.sides[1].binary,
            **self._split(kind, (fold,)),
        )

    def _density(self, fold: int, own: Rows) -> tuple[Effects, Effects, Array]:
        """Return the same by draws of the exposure."""
        design, x, y = self.design, self.data.exposure, self.data.outcome
        response = fit_response(
            self.contexts,
            y,
            self._samples_of_the_others(fold),
            design=design,
            settings=self.settings.fitting,
            gradient=self.settings.gradient,
            **self._split("response", (fold,)),
        )
        naive = fit_naive(
            self.contexts,
            x,
            y,
            design=design,
            settings=self.lowest,
            **self._split("naive", (fold,)),
        )
        given_context = np.concatenate(
            [
                fit.sample_without(
                    self.contexts, own, SAMPLES, derived_seed(self.seed, "context", fold, other)
                )
                for other, fit in self._without(fold).items()
            ],
            axis=1,
        )
        at = [np.full(len(own), exposure) for exposure in self.exposures]
        seed = derived_seed(self.seed, "draws", fold)
        # The same draws of the network at both exposures.
        drawn_low, drawn_high = (
            response.draws(p, self.contexts, own, self.settings.draws, seed) for p in at
        )

        def effects(of: Response) -> Effects:
            low, high = (of.predict(p, self.contexts, own) for p in at)
            return Effects(low, high, of.average(given_context, self.contexts, own))

        return effects(response), effects(naive), (drawn_high - drawn_low).T

    def _treatment(self, left_out: tuple[int, int]) -> Treatment:
        binary = self.data.sides[0].binary
        return fit_treatment(
            self.contexts,
            self.instruments,
            self.data.exposure,
            density=Categorical((0.0, 1.0)) if binary else MixtureDensity(self.settings.components),
            design=self.design,
            settings=self.lowest,
            without_instrument=True,
            **self._split("treatment", left_out),
        )

    def _split(self, kind: str, left_out: tuple[int, ...]) -> dict[str, Any]:
        """Return what a fit without some folds learns from and is judged by, and its seed."""
        rows = np.flatnonzero(~np.isin(self.fold, left_out))
        seed = derived_seed(self.seed, kind, *left_out)
        learn, judge = split_held_out(self.data.blocks[rows], self.settings.held_out, seed)
        folds_of = " and ".join(str(fold + 1) for fold in left_out)
        _log.info("%s, %s without fold %s:", self.name, kind, folds_of)
        return {"rows": rows[learn], "held_out": rows[judge], "seed": seed}

    def _without(self, fold: int) -> dict[int, Treatment]:
        """Return the fits of stage 1 that left a fold out, by the other fold that they did."""
        return {
            other: self.treatments[min(fold, other), max(fold, other)]
            for other in range(self.settings.folds)
            if other != fold
        }

    def _q_of_the_others(self, fold: int) -> Array:
        """Return q (n,) of the other folds, each by the fit without it and `fold`; 0 in `fold`."""
        q = np.zeros(len(self.data))
        for other, fit in self._without(fold).items():
            rows = np.flatnonzero(self.fold == other)
            q[rows] = fit.mean(self.contexts, self.instruments, rows)
        return q

    def _samples_of_the_others(self, fold: int) -> Array:
        """Return draws (n, SAMPLES) of the exposure in the other folds; 0 in `fold`."""
        samples = np.zeros((len(self.data), SAMPLES))
        for other, fit in self._without(fold).items():
            rows = np.flatnonzero(self.fold == other)
            seed = derived_seed(self.seed, "samples", fold, other)
            samples[rows] = fit.sample(self.contexts, self.instruments, rows, SAMPLES, seed)
        return samples
