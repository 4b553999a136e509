"""A draw of a network with dropout: one function, the same for all rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepmr.draws import keep_mask
from deepmr.mutagenesis.masking import DropoutError, Intercept, Kind


def dropout_draw(seed: int, draw: int) -> Intercept:
    """Return a context in which one forward pass obeys the dropout masks of a draw.

    The masks are those of :func:`deepmr.draws.keep_mask`: they depend on (seed, place of the
    dropout call in the forward pass, draw) and not on the rows.

    Parameters
    ----------
    seed : int
        Key of the masks.
    draw : int
        Which draw, from 0.

    Returns
    -------
    Intercept
        To be entered for one forward pass.

    Raises
    ------
    deepmr.mutagenesis.masking.DropoutError
        In the forward pass, if the network uses a dropout that no mask can stand for.
    """
    sites = 0

    def mask(x: Tensor, p: float, kind: Kind) -> Tensor:
        nonlocal sites
        if kind == "alpha":
            raise DropoutError(
                "the encoder uses AlphaDropout, which does not multiply by a mask; use nn.Dropout"
            )
        shape = tuple(x.shape[1:]) if kind == "element" else (x.shape[1],) + (1,) * (x.ndim - 2)
        kept = torch.from_numpy(keep_mask(seed, sites, draw, shape, p)).to(x)
        sites += 1
        return x * (kept / (1 - p) if p < 1 else kept)

    return Intercept(mask)


def under_draws(forward: Callable[[], Tensor], n_draws: int, seed: int) -> Tensor:
    """Return a forward pass under the masks of each draw.

    Parameters
    ----------
    forward : callable
        One forward pass of some rows, (b, …).
    n_draws, seed : int
        How many draws, and the key of their masks.

    Returns
    -------
    Tensor, shape (b, n_draws, …)
        The outputs.

    Raises
    ------
    ValueError
        If no draw is asked for.
    deepmr.mutagenesis.masking.DropoutError
        If the network uses a dropout that no mask can stand for.
    """
    if n_draws < 1:
        raise ValueError(f"n_draws: found {n_draws}; ask for 1 or more")
    outputs = []
    for draw in range(n_draws):
        with dropout_draw(seed, draw):
            outputs.append(forward())
    return torch.stack(outputs, dim=1)
