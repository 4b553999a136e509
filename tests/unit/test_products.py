from __future__ import annotations

import pytest
import torch

from deepmr.mutagenesis.local.products import Products


def matrices() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(40, 64), torch.randn(64, 24)


@pytest.mark.parametrize(
    ("precision", "least", "most"),
    [("float32", 0.0, 1e-6), ("tf32", 0.0, 1e-6), ("bfloat16", 1e-4, 1e-2)],
)
def test_products_are_as_precise_as_their_name(precision: str, least: float, most: float) -> None:
    x, weight = matrices()
    exact = (x.double() @ weight.double()).float()
    products = Products(precision)
    laid_out = products.weight(weight)
    fresh, added, batch = (torch.full((40, 24), 7.0) for _ in range(3))
    with products.allowed():
        products.add(fresh, x, laid_out, fresh=True)
        products.add(added, x, laid_out, fresh=False)
        products.each(batch[None], x[None], laid_out[None])
        plain = products.product(x, laid_out)
    for found in (fresh, added - 7, batch, plain):
        error = float((found - exact).norm() / exact.norm())
        assert least <= error <= most
        assert found.dtype == torch.float32


def test_an_unknown_precision_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'half' is unknown; write one of float32, tf32, bfloat16"):
        Products("half")
