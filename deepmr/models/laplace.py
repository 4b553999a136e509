"""Laplace's approximation of the last layer: how sure a network is of its last weights.

Given the features φ (with a 1 for the bias) of the eval network before its last linear layer, each
binary target k is a logistic regression with weights w_k. Their posterior is taken as normal
around the trained weights (MacKay, The evidence framework applied to classification networks,
Neural Computation 4:720, 1992):

    N(w_k, Σ_k),   Σ_k = (H_k + λ_k I)⁻¹,   H_k = Σ_i m_ik p_ik (1 − p_ik) φ_i φ_i'

over the train windows i, m_ik = 1 where k was measured. The precision λ_k of the prior maximises
Laplace's evidence with w_k fixed, up to a constant

    −λ‖w‖²/2 + (d/2) log λ − ½ Σ_j log(e_j + λ),   e_j the eigenvalues of H_k,

whose derivative is zero where λ‖w‖² = Σ_j e_j/(e_j + λ) (MacKay, Bayesian interpolation, Neural
Computation 4:415, 1992); the left side rises and the right one falls, so there is one maximum.

The logit is linear in the weights, hence the variance of the effect of a mutation that changes
the features by δφ is δφ' Σ_k δφ exactly (Kristiadi, Hein and Hennig, Being Bayesian, even just a
bit, fixes overconfidence in ReLU networks, ICML 2020). The features are taken as known: targets
are independent given them, so the errors of a mutation's effects on two targets are uncorrelated,
unlike those of dropout or of an ensemble, where errors of the features are shared.

Trained weights need not be at the maximum that the approximation stands on (early stopping,
dropout, weight decay), and the windows are shown on their own strand only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import brentq
from torch import Tensor, nn

from deepmr.models import batches, last_layer
from deepmr.progress import track

Float = NDArray[np.float64]

_BATCH_SIZE = 512


class Model(Protocol):
    """What is asked of a trained model (:class:`deepmr.models.checkpoint.TrainedModel`)."""

    @property
    def members(self) -> Sequence[nn.Module]:
        """Networks of the ensemble."""

    @property
    def targets(self) -> Sequence[str]:
        """Names of the outputs, in their order."""

    @property
    def kinds(self) -> Sequence[str]:
        """Type of each target."""

    @property
    def length(self) -> int:
        """Length of the input."""


@dataclass(frozen=True)
class Posterior:
    """Posterior of the weights of one target in one network, N(mean, root·root').

    Attributes
    ----------
    mean : ndarray of float64, shape (d,)
        The trained weights, the bias last (where there is one).
    root : ndarray of float64, shape (d, d)
        Upper triangular with a positive diagonal, hence unique: the transposed inverse of the
        Cholesky factor of the posterior's precision.
    prior_precision : float
        λ.
    """

    mean: Float
    root: Float
    prior_precision: float

    def sample(self, normals: Float) -> Float:
        """Return a sample of the weights, shape (d,), made of standard normal numbers (d,)."""
        # einsum sums alike whatever the number of threads, as a product by BLAS would not.
        return self.mean + np.einsum("ij,j->i", self.root, normals)


@dataclass(frozen=True)
class LastLayerPosterior:
    """Posteriors of the last layer of a model's networks.

    Attributes
    ----------
    targets : tuple of str
        The targets.
    members : dict of int to list of Posterior
        Of some networks of the ensemble, one for each target.
    """

    targets: tuple[str, ...]
    members: dict[int, list[Posterior]]

    def alone(self, member: int) -> LastLayerPosterior:
        """Return the posterior of one network, which becomes member 0."""
        return LastLayerPosterior(self.targets, {0: self.of(member, self.targets)})

    def of(self, member: int, targets: Sequence[str]) -> list[Posterior]:
        """Return the posteriors of targets in a network.

        Raises
        ------
        ValueError
            If the posterior of the network or of a target was not fitted.
        """
        missing = [target for target in targets if target not in self.targets]
        if member not in self.members or missing:
            what = f"target {', '.join(missing)}" if missing else f"member {member}"
            raise ValueError(
                f"there is no Laplace posterior of {what}; it was fitted for the targets "
                f"{', '.join(self.targets)} of the members {sorted(self.members)}"
            )
        return [self.members[member][self.targets.index(target)] for target in targets]


def fit(
    model: Model,
    reader: batches.Reader,
    windows: pa.Table,
    targets: Sequence[str],
    *,
    members: Sequence[int] | None = None,
    cache_bytes: int = 2**28,
    device: str | torch.device | None = None,
) -> LastLayerPosterior:
    """Fit the posteriors of the last layers, in one pass over the train windows for each network.

    A target takes d² numbers of 8 bytes, twice.

    Parameters
    ----------
    model : Model
        A trained model. Its networks are moved to `device` and put in eval mode.
    reader : batches.Reader
        Gives the codes of the windows.
    windows : pyarrow.Table
        Schema of ``windows.parquet``; the train windows are used.
    targets : sequence of str
        Targets to fit; binary ones.
    members : sequence of int, optional
        Networks to fit; all when left out.
    cache_bytes : int
        Codes are held in memory when they fit in this.
    device : str or torch.device, optional
        Where the networks run; the GPU if there is one.

    Returns
    -------
    LastLayerPosterior
        On the CPU.

    Raises
    ------
    ValueError
        If a target is unknown or not binary, is measured in no train window, or leaves nothing to
        estimate.
    deepmr.models.last_layer.LastLayerError
        If a network does not end in a linear layer.
    """
    columns = _binary_columns(model, targets)
    train = windows.filter(pc.equal(windows["split"], "train"))
    if train.num_rows == 0:
        raise ValueError("no window is in the split 'train', which the Laplace posterior is of")
    rows = batches.WindowBatches(
        reader,
        train,
        targets,
        _BATCH_SIZE,
        reverse_complement=False,
        cache_bytes=cache_bytes,
        shuffle=False,
    )
    for target, labels in zip(targets, rows.labels.T, strict=True):
        if np.isnan(labels).all():
            raise ValueError(f"target {target} is measured in no train window; leave it out")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    found: dict[int, list[Posterior]] = {}
    for member in range(len(model.members)) if members is None else members:
        layer = last_layer.find(model.members[member].to(where), model.length)
        sums = _curvature(layer, rows, columns, where, f"Laplace, member {member}")
        found[member] = []
        for target, curvature, weights in zip(
            targets, sums, layer.weights[columns].cpu().numpy(), strict=True
        ):
            try:
                found[member].append(posterior(weights, curvature.cpu().numpy()))
            except ValueError as error:
                raise ValueError(f"target {target}, member {member}: {error}") from error
    return LastLayerPosterior(tuple(targets), found)


def posterior(weights: Float, curvature: Float) -> Posterior:
    """Return the posterior of the weights of a target.

    Parameters
    ----------
    weights : ndarray of float64, shape (d,)
        Trained weights w.
    curvature : ndarray of float64, shape (d, d)
        H.

    Returns
    -------
    Posterior
        With the prior's precision of the largest evidence.

    Raises
    ------
    ValueError
        If the curvature is not finite or zero, or all weights are zero.
    """
    if not np.isfinite(curvature).all():
        raise ValueError("the curvature is not finite; are the outputs of the network?")
    eigenvalues = np.linalg.eigvalsh(curvature).clip(min=0)
    precision = prior_precision(eigenvalues, float(weights @ weights))
    lower = np.linalg.cholesky(curvature + precision * np.eye(len(weights)))
    root = solve_triangular(lower, np.eye(len(weights)), lower=True).T
    return Posterior(weights, np.ascontiguousarray(root), precision)


def prior_precision(eigenvalues: Float, squared_norm: float) -> float:
    """Return the prior's precision λ that maximises Laplace's evidence.

    Parameters
    ----------
    eigenvalues : ndarray, shape (d,)
        Of H, not negative.
    squared_norm : float
        ‖w‖².

    Returns
    -------
    float
        The solution of λ‖w‖² = Σ_j e_j/(e_j + λ), to a relative 1e-12.

    Raises
    ------
    ValueError
        If all eigenvalues or all weights are zero: there is no maximum then.
    """
    largest = float(eigenvalues.max())
    if not (largest > 0 and squared_norm > 0):
        raise ValueError(
            "the evidence of the prior's precision has no maximum, for all weights are zero or all "
            "predictions of train windows are 0 or 1; write uncertainty.method mc_dropout"
        )

    def excess(log_precision: float) -> float:
        precision = np.exp(log_precision)
        return float(precision * squared_norm - (eigenvalues / (eigenvalues + precision)).sum())

    # The sum lies between its largest term and d.
    scale = largest / squared_norm
    low = 2 * scale / (largest + np.sqrt(largest**2 + 4 * scale))
    high = len(eigenvalues) / squared_norm
    return float(np.exp(brentq(excess, np.log(low) - 1, np.log(high) + 1, xtol=1e-12)))


def effect_variance(posterior: Posterior, dphi: Float) -> Float:
    """Return the variance of effects of mutations on the logit, in closed form.

    Parameters
    ----------
    posterior : Posterior
        Of a target.
    dphi : ndarray, shape (n, d)
        What each mutation adds to the features; 0 for the bias.

    Returns
    -------
    ndarray of float64, shape (n,)
        δφ' Σ δφ, the variance over infinitely many draws.
    """
    variance: Float = ((np.asarray(dphi, dtype=np.float64) @ posterior.root) ** 2).sum(1)
    return variance


def _binary_columns(model: Model, targets: Sequence[str]) -> list[int]:
    kinds = dict(zip(model.targets, model.kinds, strict=True))
    unknown = [target for target in targets if target not in kinds]
    if unknown or not targets:
        raise ValueError(
            f"targets: the model does not predict {unknown}; it predicts {list(model.targets)}"
            if unknown
            else f"targets: none asked; the model predicts {list(model.targets)}"
        )
    others = [f"{target} is {kinds[target]}" for target in targets if kinds[target] != "binary"]
    if others:
        raise ValueError(
            f"uncertainty.method laplace is for binary targets; {', '.join(others)}: "
            "write mc_dropout or ensemble"
        )
    return [list(model.targets).index(target) for target in targets]


def _curvature(
    layer: last_layer.LastLayer,
    rows: batches.WindowBatches,
    columns: list[int],
    device: torch.device,
    title: str,
) -> Tensor:
    """Return H of each target, shape (K, d, d), float64, summed in the order of the windows."""
    d = layer.weights.shape[1]
    total = torch.zeros((len(columns), d, d), dtype=torch.float64, device=device)
    for codes, labels in track(rows, len(rows), title, f"{_BATCH_SIZE} windows"):
        with _exactly(device):
            features, outputs = layer.evaluate(
                batches.one_hot(codes, device).to(layer.linear.weight.dtype)
            )
        p = outputs[:, columns].double().sigmoid()
        measured = torch.from_numpy(~np.isnan(labels)).to(device)
        features = features.double()
        for k, weight in enumerate((p * (1 - p) * measured).T):
            total[k] += (features * weight[:, None]).T @ features
    return total


def _exactly(device: torch.device) -> contextlib.AbstractContextManager[None]:
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
