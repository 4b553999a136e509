"""How many draws a standard error needs.

The standard deviation of T normal draws has the relative error 1/sqrt(2 (T - 1)): with 40 draws
it is 11 %, with 200 it is 5 %. This says how well the spread of the draws is known, not whether
that spread is the right one.
"""

from __future__ import annotations

from math import ceil, sqrt

ENOUGH = 0.15
"""Relative error of a standard error that is small beside all else that is wrong with one."""


def relative_error(n_draws: int) -> float:
    """Return the relative error of a standard deviation of `n_draws` normal draws.

    Raises
    ------
    ValueError
        If there are fewer than 2 draws.
    """
    if n_draws < 2:
        raise ValueError(f"{n_draws} draws have no standard deviation; write 2 or more")
    return 1.0 / sqrt(2 * (n_draws - 1))


def enough(n_draws: int) -> bool:
    """Tell whether a standard error of so many draws is known to 15 %: 24 draws or more."""
    return relative_error(n_draws) <= ENOUGH


def draws_for(error: float) -> int:
    """Return the fewest draws with a relative error of at most `error`.

    Raises
    ------
    ValueError
        If `error` is not above 0.
    """
    if not error > 0:
        raise ValueError(f"a relative error of {error} cannot be reached; write one above 0")
    draws = max(2, ceil(1 + 1 / (2 * error**2)))
    # The square rounds: the neighbours decide by the very formula that `enough` uses.
    if draws > 2 and relative_error(draws - 1) <= error:
        return draws - 1
    return draws if relative_error(draws) <= error else draws + 1


def sentence(n_draws: int) -> str:
    """Return what so many draws are worth, for a log."""
    if n_draws < 2:
        return "one draw has no standard error, and no effect is estimated"
    known = f"standard errors of {n_draws} draws are known to {relative_error(n_draws):.0%}"
    if enough(n_draws):
        return known
    return f"{known}; {draws_for(ENOUGH)} draws or more bring that below {ENOUGH:.0%}"
