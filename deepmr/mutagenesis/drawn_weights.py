"""A network whose last layer gives the outputs of many samples of its weights, side by side.

Everything before the last layer is the same for all draws of the method ``laplace``. So the last
layer is widened: it gives the kept outputs with the trained weights, then those of each sample,
and the network runs once for all draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deepmr.draws import standard_normals
from deepmr.models import last_layer
from deepmr.models.laplace import Posterior


def sampled_weights(
    posterior: Posterior, target: str, seed: int, member: int, draws: Sequence[int]
) -> NDArray[np.float64]:
    """Return samples of the weights of a target.

    Parameters
    ----------
    posterior : Posterior
        Of the target in the network.
    target : str
        Its name.
    seed, member : int
        The seed; which network of the ensemble.
    draws : sequence of int
        Which draws.

    Returns
    -------
    ndarray of float64, shape (draws, d)
        Each depends on its own number alone, not on the others nor on other targets.
    """
    d = len(posterior.mean)
    samples = np.empty((len(draws), d))
    for row, draw in enumerate(draws):
        samples[row] = posterior.sample(standard_normals(seed, target, member, draw, d))
    return samples


def with_draws(
    network: nn.Module,
    length: int,
    targets: Sequence[str],
    posteriors: Sequence[Posterior],
    seed: int,
    member: int,
    draws: Sequence[int],
) -> nn.Module:
    """Return a copy of a network with the outputs of the trained weights and of each draw.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (rows, 4, length) to (rows, targets); it is put in eval mode and stays as it is.
    length : int
        Length of its input.
    targets : sequence of str
        Targets to keep, K.
    posteriors : sequence of Posterior
        Of each of them; its mean are the trained weights.
    seed, member, draws
        As :func:`sampled_weights` takes them.

    Returns
    -------
    torch.nn.Module
        Maps (rows, 4, length) to (rows, (1 + draws)·K): the K outputs of the eval network, then K
        of each draw.

    Raises
    ------
    deepmr.models.last_layer.LastLayerError
        If the network does not end in a linear layer.
    ValueError
        If the posterior is of a layer of another width.
    """
    layer = last_layer.find(network, length)
    d = layer.weights.shape[1]
    for target, posterior in zip(targets, posteriors, strict=True):
        if len(posterior.mean) != d:
            raise ValueError(
                f"target {target}: the posterior is of {len(posterior.mean)} weights, the last "
                f"layer has {d}; fit the posterior of this network"
            )
    weights = np.stack(
        [
            np.vstack([posterior.mean, sampled_weights(posterior, target, seed, member, draws)])
            for target, posterior in zip(targets, posteriors, strict=True)
        ],
        axis=1,
    )
    return layer.with_weights(torch.from_numpy(weights).flatten(0, 1))
