"""One run of the shipped example, in a copy of the checkout, that many tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkout import Checkout, Outcome, copy_of_the_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return copy_of_the_checkout(tmp_path_factory.mktemp("workflow") / "checkout")


@pytest.fixture(scope="session")
def example(checkout: Checkout) -> tuple[Checkout, Outcome]:
    """The shipped example, run from nothing to the report."""
    return checkout, checkout.run()


@pytest.fixture
def example_copy(example: tuple[Checkout, Outcome], tmp_path: Path) -> Checkout:
    """A copy of the finished example that one test may damage."""
    return example[0].copy(tmp_path / "copy")
