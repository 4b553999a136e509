"""An implementation that is not ours, of another idea (fastISM), against the local engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tangermeme import saturation_mutagenesis as theirs
from torch import Tensor, nn

from benchmarks.mutagenesis import Residual, with_fixed_masks
from deepmr.genome.alphabet import one_hot
from deepmr.mutagenesis.capture import capture
from deepmr.mutagenesis.local.network import LocalNetwork
from deepmr.mutagenesis.local.planning import make_plan
from deepmr.mutagenesis.local.sizes import Sizes
from deepmr.mutagenesis.masking import MaskedNetwork, Masks

LENGTH = 120
DRAWS = 2


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 9, padding=4),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(3),
        nn.Dropout(0.2),
        nn.Conv1d(16, 12, 5),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(12 * 9, 20),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(20, 3),
    )


def residual() -> nn.Module:
    return Residual(3, channels=12, kernel=11, dilations=(2, 4, 8), rate=0.1)


@pytest.fixture(autouse=True)
def _fast_path_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let tangermeme take its fast path for a job of seconds, whether or not that gains."""
    monkeypatch.setattr(theirs, "_FAST_MIN_SECONDS", 0.0)
    monkeypatch.setattr(theirs, "_FAST_MAX_RELATIVE_TIME", float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other in operations this small
    yield
    torch.set_num_threads(threads)


def ours(network: nn.Module, masks: Masks, sequence: Tensor) -> tuple[Tensor, Tensor]:
    plan = make_plan(capture(network, LENGTH), LENGTH)
    assert not plan.fallbacks
    sizes = Sizes(plan.stride * 4, plan.stride * 2, masks.number)
    with torch.inference_mode():
        return LocalNetwork(plan, LENGTH, [masks], sizes, range(3))(sequence)


@pytest.mark.parametrize("make", [pooled, residual])
@pytest.mark.filterwarnings("error::tangermeme.utils.TangermemeWarning")  # it went the slow way
def test_every_substitution_under_every_draw_equals_tangermemes(
    make: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    network = make()
    for weights in network.parameters():
        if weights.ndim > 1:
            weights.data *= 1.5  # effects of a trained network's size
    masked = MaskedNetwork(network, LENGTH, torch.device("cpu"))
    masks = masked.masks(3, [None, *range(DRAWS)])
    codes = np.random.default_rng(2).integers(4, size=(1, LENGTH), dtype=np.uint8)
    sequence = torch.from_numpy(one_hot(codes))
    reference, delta = ours(masked.network, masks, sequence[0])
    alternative = ~sequence[0].T.bool()  # (position, base)
    for function in range(1 + DRAWS):
        model = with_fixed_masks(masked.network, [factor[function] for factor in masks.factors])
        y0, y_hat = theirs.saturation_mutagenesis(model, sequence, raw_outputs=True, device="cpu")
        effects = (y_hat[0] - y0).transpose(0, 1)[alternative].view(LENGTH, 3, 3)
        assert effects.abs().max() > 1e-2
        # Both round outputs of about 1 to 24 bits, in sums of up to 240 terms.
        np.testing.assert_allclose(y0[0], reference[function], atol=2e-6, rtol=0)
        np.testing.assert_allclose(delta[:, :, function], effects, atol=2e-6, rtol=0)
