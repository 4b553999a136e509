import numpy as np
import pytest

from deepmr.effects import Effects, summarise_draws
from deepmr.instruments import resolve, select

POSITIONS = np.repeat(np.arange(6), 3)


def effects(seed=0, evaluated=None):
    draws = np.random.default_rng(seed).normal(size=(20, 18)) * 0.5 + np.linspace(-2, 2, 18)
    return Effects(draws, *summarise_draws(draws), evaluated)


def test_motif_takes_the_positions_inside_hits():
    inside = np.array([False, True, True, False, False, False])
    selection = select("motif", effects(), POSITIONS, inside, minimum=6)
    assert selection.status == "ok"
    np.testing.assert_array_equal(np.flatnonzero(selection.mask), np.arange(3, 9))
    assert select("motif", effects(), POSITIONS, inside, minimum=7).status == "too_few_instruments"


def test_no_motif_and_no_hit_are_told_apart():
    assert select("motif", effects(), POSITIONS, None).status == "no_motif"
    nowhere = np.zeros(6, dtype=bool)
    assert select("motif", effects(), POSITIONS, nowhere).status == "no_motif_hit"


def test_strength_uses_the_evaluated_effect_where_there_is_one():
    plain = effects()
    expected = np.abs(plain.point) / plain.se > 1.5
    np.testing.assert_array_equal(select("strength", plain, POSITIONS, strength=1.5).mask, expected)
    evaluated = np.zeros(18)
    evaluated[4] = 9.0
    selection = select("strength", effects(evaluated=evaluated), POSITIONS, minimum=1)
    np.testing.assert_array_equal(np.flatnonzero(selection.mask), [4])


def test_halves_are_chosen_on_even_draws_and_estimated_on_odd():
    given = effects()
    selection = select("strength_halves", given, POSITIONS, strength=1.5)
    point, se = summarise_draws(given.draws[::2])
    np.testing.assert_array_equal(selection.mask, np.abs(point) / se > 1.5)
    np.testing.assert_array_equal(given.draws[selection.draws], given.draws[1::2])


def test_per_position_keeps_the_strongest_allele():
    given = effects()
    mask = select("per_position", given, POSITIONS, minimum=1).mask
    for position in range(6):
        own = np.flatnonzero(position == POSITIONS)
        np.testing.assert_array_equal(
            np.flatnonzero(mask[own]), [np.abs(given.point[own]).argmax()]
        )


def test_maximum_keeps_the_largest_ratio_and_the_earlier_of_a_tie():
    given = effects()
    ratio = np.abs(given.point / given.se)
    mask = select("all", given, POSITIONS, minimum=1, maximum=5).mask
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(np.argsort(-ratio)[:5]))
    tied = Effects(given.draws, np.ones(18), np.ones(18))
    mask = select("all", tied, POSITIONS, minimum=1, maximum=2).mask
    np.testing.assert_array_equal(np.flatnonzero(mask), [0, 1])


def test_effects_without_variation_are_no_instruments():
    draws = np.zeros((5, 18))
    constant = Effects(draws, *summarise_draws(draws))
    assert select("all", constant, POSITIONS).status == "no_variation"
    draws = effects().draws
    draws[:, 3] = 1.0
    mask = select("all", Effects(draws, *summarise_draws(draws)), POSITIONS).mask
    np.testing.assert_array_equal(np.flatnonzero(~mask), [3])


def test_no_mutations_are_too_few():
    nothing = Effects(np.empty((5, 0)), np.empty(0), np.empty(0))
    assert select("all", nothing, np.empty(0, dtype=int)).status == "too_few_instruments"


def test_auto_and_bad_input():
    assert resolve("auto", True) == "motif"
    assert resolve("auto", False) == "all"
    assert resolve("strength", False) == "strength"
    with pytest.raises(ValueError, match=r"instruments.rule 'window' is unknown; write auto or"):
        resolve("window", True)
    with pytest.raises(ValueError, match="instrument rule 'auto' is unknown"):
        select("auto", effects(), POSITIONS)
    with pytest.raises(ValueError, match=r"positions must have shape \(18,\)"):
        select("all", effects(), POSITIONS[:4])
