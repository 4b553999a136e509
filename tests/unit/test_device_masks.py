from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.draws import keep_mask
from deepmr.mutagenesis.device_masks import keep_masks

word = st.integers(0, 2**64 - 1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=word,
    site=word,
    draws=st.lists(word, min_size=1, max_size=3),
    shape=st.sampled_from([(1,), (7,), (3, 5), (2, 1), (64, 17)]),
    p=st.sampled_from([0.0, 0.1, 0.5, 1 / 3, 1.0]),
)
def test_the_device_makes_the_integers_that_numpy_makes(seed, site, draws, shape, p) -> None:
    made = keep_masks(seed, site, draws, shape, p, torch.device("cpu")).numpy()
    expected = np.stack([keep_mask(seed, site, draw, shape, p) for draw in draws])
    np.testing.assert_array_equal(made, expected)
