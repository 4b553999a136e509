"""How many draws a standard error needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepmr.uncertainty.draws_needed import draws_for, enough, relative_error, sentence


@pytest.mark.parametrize("draws", [24, 40, 200])
def test_the_error_is_that_of_simulated_standard_deviations(draws: int) -> None:
    sd = np.random.default_rng(0).standard_normal((20_000, draws)).std(axis=1, ddof=1)
    assert sd.std() == pytest.approx(relative_error(draws), rel=0.03)


def test_the_threshold_is_24_draws() -> None:
    assert (enough(23), enough(24)) == (False, True)
    assert draws_for(0.15) == 24
    assert (draws_for(0.1), draws_for(0.05), draws_for(10.0)) == (51, 201, 2)


@given(st.integers(2, 5000))
def test_draws_for_an_error_reach_it_and_no_fewer_do(draws: int) -> None:
    assert draws_for(relative_error(draws)) == draws


@given(st.floats(0.001, 3))
def test_one_draw_fewer_would_not_do(error: float) -> None:
    draws = draws_for(error)
    assert relative_error(draws) <= error
    assert draws == 2 or relative_error(draws - 1) > error


def test_the_log_says_what_to_do() -> None:
    assert sentence(40) == "standard errors of 40 draws are known to 11%"
    assert sentence(1) == "one draw has no standard error, and no effect is estimated"
    assert sentence(6).endswith("known to 32%; 24 draws or more bring that below 15%")


def test_one_draw_and_no_error_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        relative_error(1)
    with pytest.raises(ValueError, match="above 0"):
        draws_for(0)
