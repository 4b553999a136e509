"""A network under given dropout masks, for many draws at once.

Every dropout call of a forward pass is a *site*. Calls are met where they happen, as functions,
so dropout inside a user's own ``forward`` counts as well as an ``nn.Dropout``. Everything before
the first site is the same for all draws and is computed once; there the rows are expanded, from
one for each sequence to one for each draw and sequence.

A network that carries something computed before its first site past it (a residual connection
around dropout) cannot be expanded there. This is found by trying on random sequences, and such a
network is expanded at its input instead: slower, same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from deepmr.draws import keep_mask
from deepmr.genome.alphabet import one_hot
from deepmr.mutagenesis.device_masks import keep_masks

logger = logging.getLogger(__name__)


class DropoutError(ValueError):
    """A network whose dropout cannot be turned into draws."""


_PROBE_ROWS = 5
_PROBE_DRAWS = 2

Kind = Literal["element", "channel", "alpha"]
SiteFunction = Callable[[Tensor, float, Kind], Tensor]

_DROPOUTS: dict[Any, Kind] = {
    F.dropout: "element",
    torch.dropout: "element",
    torch.dropout_: "element",
    F.dropout1d: "channel",
    F.dropout2d: "channel",
    F.dropout3d: "channel",
    torch.feature_dropout: "channel",
    torch.feature_dropout_: "channel",
    F.alpha_dropout: "alpha",
    F.feature_alpha_dropout: "alpha",
    torch.alpha_dropout: "alpha",
    torch.feature_alpha_dropout: "alpha",
}
_IN_PLACE = {torch.dropout_, torch.feature_dropout_}


@dataclass(frozen=True)
class Site:
    """A dropout call: its probability, the shape of its mask for one sequence, and its kind."""

    p: float
    shape: tuple[int, ...]
    kind: Kind

    def __str__(self) -> str:
        """Return it in words."""
        what = "channels" if self.kind == "channel" else "element-wise"
        return f"p {self.p:g}, {what} {self.shape}"


@dataclass(frozen=True)
class Masks:
    """Dropout masks of some draws; no masks at all stand for the network without dropout.

    Attributes
    ----------
    number : int
        Draws D.
    factors : list of float tensors, one for each site, shape (D, 1, *site shape)
        What activations are multiplied with: 0 where a unit is dropped, 1/(1-p) where it is
        kept, and 1 everywhere for a draw without dropout.
    """

    number: int
    factors: list[Tensor] = field(default_factory=list)


NO_MASKS = Masks(1)


class MaskedNetwork:
    """A network in eval mode whose dropout calls obey given masks.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (rows, 4, length) to (rows, targets). It is moved to `device` and put in eval mode.
    length : int
        Length of its input.
    device : torch.device
        Where it runs.

    Attributes
    ----------
    sites : list of Site
        Dropout calls with p > 0, in the order of a forward pass.
    n_outputs : int
        Targets of the network.
    expanded_at : str
        ``first site`` or ``input``: where rows are expanded to draws.

    Raises
    ------
    ValueError
        If the output has another shape or a row depends on the other rows of its batch.
    """

    def __init__(self, network: nn.Module, length: int, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.device = device
        self.sites: list[Site] = []
        self._alpha = False
        self.expanded_at = "first site"
        codes = np.random.default_rng(0).integers(4, size=(_PROBE_ROWS, length), dtype=np.uint8)
        self.dtype = next((p.dtype for p in network.parameters()), torch.float32)
        self._probe = torch.from_numpy(one_hot(codes)).to(device, self.dtype)
        self._find_sites()

    def masks(self, seed: int, draws: Sequence[int | None]) -> Masks:
        """Return the masks of some draws; None is the network without dropout.

        Raises
        ------
        DropoutError
            If masks are asked of a network without a dropout site, or with a kind of dropout
            that no mask can stand for.
        """
        if list(draws) == [None]:
            return NO_MASKS
        self._check_maskable()
        factors = []
        rows = [row for row, draw in enumerate(draws) if draw is not None]
        numbers = [draw for draw in draws if draw is not None]
        for index, site in enumerate(self.sites):
            factor = torch.ones((len(draws), 1, *site.shape), dtype=self.dtype, device=self.device)
            scale = 1 / (1 - site.p) if site.p < 1 else 0
            factor[rows, 0] = self._keep(seed, index, numbers, site).to(self.dtype) * scale
            factors.append(factor)
        return Masks(len(draws), factors)

    def _keep(self, seed: int, index: int, draws: list[int], site: Site) -> Tensor:
        if self.device.type == "cpu":
            # The same integers, and several times faster than in torch.
            masks = [keep_mask(seed, index, draw, site.shape, site.p) for draw in draws]
            return torch.from_numpy(np.stack(masks))
        return keep_masks(seed, index, draws, site.shape, site.p, self.device)

    def choose_expansion(self, seed: int) -> None:
        """Find out, on random sequences, whether rows may be expanded at the first site.

        Raises
        ------
        DropoutError
            If a mask would not be the same for all rows.
        """
        masks = self.masks(seed, range(_PROBE_DRAWS))
        if hidden := hidden_dropout(self.network):
            logger.warning(
                "%s: dropout inside %s is out of reach and stays off; the draws vary by the other "
                "%d sites only",
                _name(self.network),
                ", ".join(hidden),
                len(self.sites),
            )
        self.expanded_at = "input"
        expected = self(self._probe, masks)
        alike = self(self._probe[:1].repeat(_PROBE_ROWS, 1, 1), masks)
        if not _close(alike, alike[:, :1].expand_as(alike), expected):
            raise DropoutError(
                f"{_name(self.network)}: one sequence in two rows of a batch gets two different "
                "masks; dropout must see tensors whose first dimension is the batch"
            )
        self.expanded_at = "first site"
        try:
            same = _close(self(self._probe, masks), expected, expected)
            reason = None if same else "the outputs differ"
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
        if reason is not None:
            self.expanded_at = "input"
            logger.info(
                "%s carries values past its first dropout site (%s); nothing is shared between "
                "draws, every draw runs from the input",
                _name(self.network),
                reason,
            )

    def __call__(self, inputs: Tensor, masks: Masks) -> Tensor:
        """Return the outputs (draws, rows, targets) of `inputs` (rows, 4, length)."""
        run = _Run(masks, len(inputs), expanded=self.expanded_at == "input")
        if run.expanded:
            inputs = inputs.repeat(masks.number, 1, 1)
        with torch.inference_mode(), Intercept(run.site):
            outputs = self.network(inputs)
        self._check_outputs(outputs, masks.number * run.rows)
        return outputs.reshape(masks.number, run.rows, -1)

    def _find_sites(self) -> None:
        def record(x: Tensor, p: float, kind: Kind) -> Tensor:
            self._alpha |= kind == "alpha"
            self.sites.append(Site(p, _mask_shape(x, kind), kind))
            return x

        try:
            with torch.inference_mode(), Intercept(record):
                outputs = self.network(self._probe)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{_name(self.network)} fails on an input {tuple(self._probe.shape)} ({reason}); "
                "it must take (rows, 4, windows.length): was it made for another length?"
            ) from error
        self._check_outputs(outputs, _PROBE_ROWS)
        if not bool(outputs.isfinite().all()):
            raise ValueError(f"{_name(self.network)}: outputs are not finite on random sequences")
        self.n_outputs = int(outputs.shape[1])
        alone = self(self._probe[1:2], NO_MASKS)[0]
        if not _close(alone, outputs[1:2], outputs):
            raise ValueError(
                f"{_name(self.network)}: the prediction of a sequence depends on the others of "
                "its batch even in eval mode (BatchNorm with track_running_stats=False?)"
            )

    def _check_outputs(self, outputs: Any, rows: int) -> None:
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != rows:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ValueError(
                f"{_name(self.network)}: {rows} sequences gave {found}; "
                f"the network must return a tensor of shape ({rows}, targets)"
            )

    def _check_maskable(self) -> None:
        name = _name(self.network)
        if self._alpha:
            raise DropoutError(
                f"{name} uses AlphaDropout, which does not multiply by a mask; use nn.Dropout "
                "there, or uncertainty.method ensemble"
            )
        hidden = hidden_dropout(self.network)
        if not self.sites:
            also = f" (dropout inside {', '.join(hidden)} is out of reach)" if hidden else ""
            raise DropoutError(
                f"{name} has no dropout site with p > 0{also}, so masks cannot make draws of it; "
                "add dropout to the network, or use "
                "uncertainty.method ensemble with 2 or more members"
            )


def hidden_dropout(network: nn.Module) -> list[str]:
    """Return the modules whose dropout happens inside a fused operation, with their kind."""
    return [
        f"{path} ({type(module).__name__})"
        for path, module in network.named_modules()
        if (isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1)
        or (isinstance(module, nn.MultiheadAttention) and module.dropout > 0)
    ]


class _Run:
    """One forward pass: which site comes next, and whether rows are draws × sequences yet."""

    def __init__(self, masks: Masks, rows: int, expanded: bool) -> None:
        self.masks = masks
        self.rows = rows
        self.expanded = expanded
        self._next = 0

    def site(self, x: Tensor, p: float, kind: Kind) -> Tensor:
        if not self.masks.factors:
            return x
        if self._next == len(self.masks.factors):
            raise DropoutError(
                f"the network made more than its {self._next} dropout calls; their number must be "
                "the same in every forward pass"
            )
        factor = self.masks.factors[self._next]
        rows = self.masks.number * self.rows if self.expanded else self.rows
        if len(x) != rows or _mask_shape(x, kind) != tuple(factor.shape[2:]):
            raise DropoutError(
                f"dropout site {self._next} got a tensor of shape {tuple(x.shape)} for {rows} "
                "rows; its first dimension must be the batch, and the others the same in every "
                "forward pass"
            )
        self._next += 1
        self.expanded = True
        return (x.reshape(-1, self.rows, *x.shape[1:]) * factor).flatten(0, 1)


class Intercept(TorchFunctionMode):
    """Send every dropout call with p > 0 to a function; thread-local, as all torch modes."""

    def __init__(self, site: SiteFunction) -> None:
        super().__init__()
        self._site = site

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Send dropout to the function, and everything else where it belongs."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            _refuse_dropout(*args, **kwargs)
        kind = _DROPOUTS.get(func)
        if kind is None:
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        p = float(kwargs["p"] if "p" in kwargs else args[1])
        if p == 0:
            return x
        dropped = self._site(x, p, kind)
        if (kwargs.get("inplace") or func in _IN_PLACE) and dropped.shape == x.shape:
            return x.copy_(dropped)
        return dropped


def _refuse_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    **_: Any,
) -> None:
    if dropout_p > 0:
        raise DropoutError(
            f"the network calls scaled_dot_product_attention with dropout_p={dropout_p} in eval "
            "mode; pass 0 when the module is not training"
        )


def _mask_shape(x: Tensor, kind: Kind) -> tuple[int, ...]:
    """Return the shape of a mask for one row of `x`."""
    if kind != "channel":
        return tuple(x.shape[1:])
    if x.ndim < 3:
        raise DropoutError(
            f"channel dropout got a tensor of shape {tuple(x.shape)}; it needs (batch, channel, "
            "position, …), or use element-wise dropout"
        )
    return (x.shape[1], *(1 for _ in x.shape[2:]))


def _close(a: Tensor, b: Tensor, among: Tensor) -> bool:
    """Tell rounding from a wrong mask: agreement to 0.1 % of the spread of outputs."""
    if a.shape != b.shape:
        return False
    values = among.reshape(-1, among.shape[-1])
    spread = (values.amax(0) - values.amin(0)).max()
    return bool((a - b).abs().max() <= 1e-3 * spread + 1e-5 * values.abs().max())


def _name(network: nn.Module) -> str:
    return type(network).__name__
