"""The training loss: one term for each target, only over what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

KINDS = ("binary", "count", "continuous")
"""Types of target; the output is a logit, a log rate or a mean."""


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ``ValueError`` if a type of target is unknown."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"no target type is called {kind!r}; write one of {', '.join(KINDS)}")


def label_problems(labels: NDArray[np.floating], targets: Mapping[str, str]) -> list[str]:
    """Say which labels cannot be learned from.

    Parameters
    ----------
    labels : ndarray, shape (n, targets)
        Labels; NaN = not measured.
    targets : mapping of str to str
        Type of each target.

    Returns
    -------
    list of str
        A sentence for each target without a measured label, or with a label that its type cannot
        have; empty when all is well.
    """
    problems = []
    for column, (target, kind) in zip(labels.T, targets.items(), strict=True):
        measured = column[~np.isnan(column)]
        possible = np.isfinite(measured)
        if kind == "binary":
            possible = np.isin(measured, (0, 1))
        elif kind == "count":
            possible &= measured >= 0
        if len(measured) == 0:
            problems.append(
                f"target {target} is measured in none of {len(column)}; "
                "give the split other chromosomes or leave the target out"
            )
        elif not possible.all():
            problems.append(
                f"target {target} is {kind}, but {int((~possible).sum())} labels are such as "
                f"{measured[~possible][0]:g}; change its type or its labels"
            )
    return problems


def masked_loss(outputs: Tensor, labels: Tensor, kinds: Sequence[str]) -> Tensor:
    """Return the mean over targets of each target's mean loss over its measured windows.

    Binary cross-entropy on logits for ``binary``, Poisson negative log likelihood on log rates for
    ``count`` (without the term that depends on the label only), squared error for ``continuous``.

    Parameters
    ----------
    outputs : Tensor, shape (n, targets)
        Network outputs on the link scale.
    labels : Tensor, shape (n, targets)
        Labels; NaN = not measured.
    kinds : sequence of str
        Type of each target.

    Returns
    -------
    Tensor
        A scalar. Targets without a measured window are left out; when nothing is measured it is
        0, with a gradient of 0.

    Raises
    ------
    ValueError
        If the shapes do not agree or a type is unknown.
    """
    if outputs.shape != labels.shape or outputs.shape[1] != len(kinds):
        raise ValueError(
            f"outputs {tuple(outputs.shape)}, labels {tuple(labels.shape)} and {len(kinds)} target "
            "types do not agree; give (n, targets), (n, targets) and one type a target"
        )
    check_kinds(kinds)
    measured = ~torch.isnan(labels)
    # Replaced before the loss, so that an extreme output of an unmeasured window cannot overflow
    # and turn its zero gradient into NaN.
    outputs = torch.where(measured, outputs, 0.0)
    labels = torch.where(measured, labels, 0.0)
    if all(kind == kinds[0] for kind in kinds):
        losses = _elementwise(outputs, labels, kinds[0])
    else:
        losses = torch.stack(
            [_elementwise(outputs[:, k], labels[:, k], kind) for k, kind in enumerate(kinds)], dim=1
        )
    n_measured = measured.sum(dim=0)
    per_target = (losses * measured).sum(dim=0) / n_measured.clamp(min=1)
    return per_target.sum() / (n_measured > 0).sum().clamp(min=1)


def _elementwise(outputs: Tensor, labels: Tensor, kind: str) -> Tensor:
    if kind == "binary":
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    if kind == "count":
        return functional.poisson_nll_loss(outputs, labels, log_input=True, reduction="none")
    return functional.mse_loss(outputs, labels, reduction="none")
