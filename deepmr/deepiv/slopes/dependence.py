"""The network that tells a sequence's slope from its context, and its predictions across folds.

A sequence whose slope by inverse-variance weighting is b = xy/xx has the loss xx (s(c) - b)^2: the
weighted sum of squares of all its instruments, but for a constant. In units of the weighted
standard deviation of the slopes that are learned from,

    s(c) = level + scale f(c),    level = sum xy/sum xx,

with a last layer of f that is 0 at first. The epoch with the lowest held-out loss is kept, the
constant slope before the first one included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deepmr.deepiv import cross_fitting
from deepmr.deepiv.seeds import derived_seed
from deepmr.deepiv.slopes.sequence_slopes import Slopes
from deepmr.deepiv.stages.fitting import Settings, fit, split_held_out
from deepmr.deepiv.stages.networks import Design, SequenceContexts
from deepmr.deepiv.stages.running import evaluate

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

HELD_OUT = 0.2
"""Share of the sequences outside a fold that judge the epochs."""

NOTHING = 0.01
"""A network whose predictions scatter by less than this, in units of the scatter of slopes, has
learned nothing: they explain no more than 1e-4 of it. By chance the held-out loss after a pass or
two is often below that of the constant slope."""

_ROUNDING = 1e-12
"""Relative to the squares of the slopes themselves: scatter that is no more than this is none."""


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What networks say of sequences of which they have seen nothing.

    Attributes
    ----------
    dependence : ndarray, shape (n,)
        f; that of each fold has mean 0 over the contexts of all n sequences.
    r2 : float
        Share of the weighted residual squares of all instruments, about the constant slope of the
        other folds, that f explains; may be negative, and is 0 where every f is 0.
    """

    dependence: Array
    r2: float


def out_of_fold(
    slopes: Slopes, design: Design, settings: Settings, folds: int, seed: int
) -> OutOfFold:
    """Learn the slope from the context, and predict each sequence by what others taught.

    Parameters
    ----------
    slopes : Slopes
        The sequences, in an order that does not matter to the caller.
    design : Design
        The network f.
    settings : Settings
        How it is fitted; the tolerance is taken as 0.
    folds : int
        Folds of whole groups.
    seed : int
        Decides folds, what is held out, weights and dropout.

    Returns
    -------
    OutOfFold

    Raises
    ------
    deepmr.deepiv.stages.fitting.FittingError
        If a loss is not finite.
    ValueError
        If there are fewer than two folds, or fewer groups than folds.
    """
    group = _first_seen(slopes.groups)
    fold = cross_fitting.folds(group, folds, derived_seed(seed, "folds"))
    dependence, explained, squares = np.empty(len(slopes)), 0.0, 0.0
    for k in range(folds):
        others, own = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        level = float(slopes.xy[others].sum() / slopes.xx[others].sum())
        f = _learned(slopes, others, group, level, design, settings, derived_seed(seed, k))
        dependence[own] = f[own] - f.mean()
        squares += _residual_squares(slopes, own, np.full(len(own), level))
        explained += _residual_squares(slopes, own, level + f[own])
    return OutOfFold(dependence, 1.0 - explained / squares if dependence.any() else 0.0)


def in_hash_order(names: Sequence[str], seed: int) -> Rows:
    """Return the rows in the order of a hash of seed and name, whatever their order was."""
    keys = [(derived_seed(seed, name), name) for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), dtype=np.int64)


def _learned(
    slopes: Slopes,
    others: Rows,
    group: Rows,
    level: float,
    design: Design,
    settings: Settings,
    seed: int,
) -> Array:
    """Return f of all sequences, learned from some of them."""
    b, weight = slopes.xy / slopes.xx, slopes.xx / slopes.xx[others].mean()
    variance = float((weight * (b - level) ** 2)[others].mean())
    if variance <= _ROUNDING * float((weight * b**2)[others].mean()):
        return np.zeros(len(slopes))
    scale = variance**0.5
    contexts = SequenceContexts(slopes.codes).to(settings.device)
    target = torch.as_tensor((b - level) / scale, dtype=torch.float32, device=settings.device)
    share = torch.as_tensor(weight, dtype=torch.float32, device=settings.device)

    def starting_at_zero() -> nn.Module:
        network = design.build(0, 1)
        for parameter in network.perceptron[-1].parameters():
            nn.init.zeros_(parameter)
        return network

    def loss(network: nn.Module, rows: Tensor) -> Tensor:
        error = network(contexts[rows])[:, 0] - target[rows]
        return share[rows] * error * error

    learn, judge = split_held_out(group[others], HELD_OUT, seed)
    fitted = fit(
        starting_at_zero,
        loss,
        others[learn],
        others[judge],
        replace(settings, tolerance=0.0),
        seed=seed,
        name="slope",
    )
    learned = evaluate(
        lambda rows: fitted.network(contexts[rows])[:, 0],
        np.arange(len(slopes)),
        settings.device,
        settings.threads,
    )
    f = learned.cpu().numpy().astype(np.float64)
    return scale * f if f.std() > NOTHING else np.zeros(len(f))


def _residual_squares(slopes: Slopes, rows: Rows, slope: Array) -> float:
    """Return the weighted squares of all instruments of some sequences about slopes."""
    xx, xy, yy = slopes.xx[rows], slopes.xy[rows], slopes.yy[rows]
    return float((yy - 2.0 * slope * xy + slope * slope * xx).sum())


def _first_seen(groups: NDArray[np.str_]) -> Rows:
    """Return whole numbers for groups, in the order in which they are first seen."""
    first, index = np.unique(groups, return_index=True, return_inverse=True)[1:]
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[index]
