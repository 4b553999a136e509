from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepmr.draws import Draw, DrawSet, keep_mask, standard_normals

_M0, _M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_W0, _W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_64 = 2**64


def philox_block(key: tuple[int, int], counter: list[int]) -> list[int]:
    """Philox-4x64-10 from the paper's definition, in plain integers."""
    k0, k1 = key
    x0, x1, x2, x3 = counter
    for _ in range(10):
        high0, low0 = divmod(_M0 * x0, _64)
        high1, low1 = divmod(_M1 * x2, _64)
        x0, x1, x2, x3 = high1 ^ x1 ^ k0, low1, high0 ^ x3 ^ k1, low0
        k0, k1 = (k0 + _W0) % _64, (k1 + _W1) % _64
    return [x0, x1, x2, x3]


@pytest.mark.parametrize(("seed", "site", "draw"), [(1, 0, 0), (7, 3, 39), (2**63 + 5, 1, 12)])
def test_masks_are_philox_words_below_the_threshold(seed: int, site: int, draw: int) -> None:
    p, shape = 0.3, (3, 7)
    blocks = [philox_block((seed, site), [i, 0, 0, draw]) for i in (1, 2, 3)]
    words = [half for block in blocks for w in block for half in (w % 2**32, w >> 32)][:21]
    expected = np.array([w < int((1 - p) * 2**32) for w in words]).reshape(shape)
    np.testing.assert_array_equal(keep_mask(seed, site, draw, shape, p), expected)


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 50),
    st.integers(0, 10_000),
    st.sampled_from([0.2, 0.5]),
)
@settings(max_examples=20, deadline=None)
def test_masks_repeat_and_keep_the_right_share(seed: int, site: int, draw: int, p: float) -> None:
    mask = keep_mask(seed, site, draw, (64, 64), p)
    np.testing.assert_array_equal(mask, keep_mask(seed, site, draw, (64, 64), p))
    assert abs(mask.mean() - (1 - p)) < 6 * np.sqrt(p * (1 - p) / 4096)


def test_masks_of_other_seeds_sites_and_draws_are_independent() -> None:
    base = keep_mask(1, 0, 0, (10_000,), 0.5)
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        assert abs((keep_mask(*other, (10_000,), 0.5) == base).mean() - 0.5) < 0.03


def test_masks_at_the_ends_of_the_range() -> None:
    assert keep_mask(1, 0, 0, (1000,), 0.0).all()
    assert not keep_mask(1, 0, 0, (1000,), 1.0).any()
    assert keep_mask(1, 0, 0, (), 0.0).shape == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 0, 0, (2,), 1.5), "found 1.5; it must be in"),
        ((-1, 0, 0, (2,), 0.5), "seed: found -1"),
        ((1, 0, 2**64, (2,), 0.5), "draw: found"),
    ],
)
def test_masks_refuse_what_is_out_of_range(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        keep_mask(*arguments)


def test_normals_are_quantiles_of_philox_words() -> None:
    digest = hashlib.blake2b(b"2 GATA1", digest_size=8).digest()
    blocks = [philox_block((7, int.from_bytes(digest, "little")), [i, 0, 0, 5]) for i in (1, 2)]
    words = [word for block in blocks for word in block][:6]
    expected = stats.norm.ppf([((word >> 11) + 0.5) / 2**53 for word in words])
    np.testing.assert_allclose(standard_normals(7, "GATA1", 2, 5, 6), expected, rtol=1e-13)


def test_normals_are_standard_and_fewer_of_them_are_the_first() -> None:
    normals = standard_normals(1, "A", 0, 0, 20_000)
    assert stats.kstest(normals, "norm").pvalue > 0.01
    np.testing.assert_array_equal(standard_normals(1, "A", 0, 0, 5), normals[:5])


def test_normals_of_other_seeds_targets_members_and_draws_are_independent() -> None:
    base = standard_normals(1, "A", 0, 0, 10_000)
    for other in ((2, "A", 0, 0), (1, "B", 0, 0), (1, "A", 1, 0), (1, "A", 0, 1)):
        assert abs(np.corrcoef(base, standard_normals(*other, 10_000))[0, 1]) < 0.04


def test_normals_refuse_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="draw: found -1"):
        standard_normals(1, "A", 0, -1, 3)


def test_draw_sets_list_members_and_masks() -> None:
    assert list(DrawSet("mc_dropout", 3, 1)) == [Draw(0, 0), Draw(0, 1), Draw(0, 2)]
    ensemble = DrawSet("ensemble", 40, 1, 2)
    assert list(ensemble) == [Draw(0, None), Draw(1, None)]
    assert len(ensemble) == 2
    assert len(DrawSet("ensemble", 40, 1, 1)) == 1
    both = DrawSet("ensemble_mc_dropout", 3, 1, 2)
    assert list(both) == [Draw(0, 0), Draw(1, 1), Draw(0, 2)]
    assert len(both) == 3
    laplace = DrawSet("laplace", 2, 1, 3)
    assert list(laplace) == [Draw(0, None, 0), Draw(0, None, 1)]
    assert len(laplace) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dropout", 3, 1), "'dropout' is unknown; write one of mc_dropout, ensemble"),
        (("mc_dropout", 0, 1), "uncertainty.draws: found 0"),
        (("mc_dropout", 3, -2), "seed: found -2"),
        (("mc_dropout", 3, 1, 0), "0 members"),
    ],
)
def test_draw_sets_refuse_what_cannot_be(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DrawSet(*arguments)


def test_draws_do_not_need_torch() -> None:
    code = "import sys, deepmr.draws; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
