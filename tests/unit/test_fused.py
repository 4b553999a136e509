from __future__ import annotations

import pytest
import torch

from deepmr.mutagenesis.local import fused


@pytest.mark.parametrize("function", [fused.rectify, fused.keep_larger])
def test_passes_are_one_graph_and_broadcast_like_the_plain_ones(function: fused.Pass) -> None:
    torch.manual_seed(0)
    delta, window = torch.randn(2, 3, 4, 3, 5, 6), torch.randn(2, 1, 4, 1, 5, 6)
    # The tracing that a GPU's compiler starts from; the kernels themselves need a GPU.
    traced = torch.compile(function, dynamic=True, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(traced(delta, window, -window), function(delta, window, -window))
