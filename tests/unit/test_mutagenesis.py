from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deepmr import mutagenesis
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import alternatives, one_hot, reverse_complement
from deepmr.mutagenesis.drawn_model import DrawnModel
from deepmr.mutagenesis.substitutions import as_codes, mutants
from deepmr.mutagenesis.threads import in_order

LENGTH = 20

Saturate = Callable[..., mutagenesis.Effects]


def toy_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(4, 8, 5, padding=2),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Dropout(0.3),
        nn.Conv1d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * LENGTH // 2, 3),
    )


def toy_model(members: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        members=[toy_network(seed) for seed in range(members)],
        targets=("A", "B", "C"),
        length=LENGTH,
        kinds=("binary",) * 3,
    )


def sequences(n: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(4, size=(n, LENGTH), dtype=np.uint8)


@pytest.fixture(params=["local", "naive"])
def saturate(request: pytest.FixtureRequest) -> Saturate:
    """Run with each engine."""
    return partial(mutagenesis.saturate, engine=request.param)


def assert_equal(a: mutagenesis.Effects, b: mutagenesis.Effects) -> None:
    for name in ("reference", "reference_eval", "delta", "delta_eval"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_mutants_are_all_substitutions_in_order() -> None:
    codes = np.array([0, 3, 2, 4], np.uint8)
    np.testing.assert_array_equal(alternatives(codes), [[1, 2, 3], [0, 1, 2], [0, 1, 3], [4, 4, 4]])
    rows = mutants(codes, 0, 13)
    np.testing.assert_array_equal(rows[0], codes)
    np.testing.assert_array_equal(rows[3], [3, 3, 2, 4])
    np.testing.assert_array_equal(rows[4], [0, 0, 2, 4])
    assert ((rows[1:10] != codes).sum(1) == 1).all()
    for start, stop in ((0, 1), (0, 5), (4, 9), (9, 13)):
        np.testing.assert_array_equal(mutants(codes, start, stop), rows[start:stop])


def test_effects_are_differences_of_single_predictions_under_the_same_masks(
    saturate: Saturate,
) -> None:
    model, draws = toy_model(), DrawSet("mc_dropout", 4, 9)
    codes = sequences(2)
    effects = saturate(model, codes, ["C", "A"], draws)
    assert effects.targets == ("C", "A")
    assert effects.delta.shape == (2, LENGTH, 3, 4, 2)
    assert effects.delta.dtype == np.float32
    drawn = DrawnModel(model, ["C", "A"], draws)

    def single(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        evaluated, values = drawn.evaluate(torch.from_numpy(one_hot(row[None])))
        return evaluated[0].numpy(), values[:, 0].numpy()

    reference_eval, reference = single(codes[1])
    np.testing.assert_allclose(effects.reference[1], reference, atol=1e-6)
    np.testing.assert_allclose(effects.reference_eval[1], reference_eval, atol=1e-6)
    for position, j in ((0, 0), (7, 2), (LENGTH - 1, 1)):
        mutant = codes[1].copy()
        mutant[position] = alternatives(codes[1])[position, j]
        evaluated, values = single(mutant)
        np.testing.assert_allclose(effects.delta[1, position, j], values - reference, atol=1e-6)
        np.testing.assert_allclose(
            effects.delta_eval[1, position, j], evaluated - reference_eval, atol=1e-6
        )
    with torch.no_grad():
        plain = model.members[0](torch.from_numpy(one_hot(codes)))[:, [2, 0]]
    np.testing.assert_allclose(effects.reference_eval, plain, atol=1e-6)


def test_shared_masks_make_effects_far_more_certain_than_independent_ones(
    saturate: Saturate,
) -> None:
    model, t = toy_model(), 40
    draws = DrawSet("mc_dropout", 2 * t, 3)
    effects = saturate(model, sequences(4), ["A"], draws)
    paired = effects.delta[:, :, :, :t, 0].std(-1, ddof=1)
    reference = effects.reference[:, None, None, :, 0]
    mutant = reference + effects.delta[..., 0]
    unpaired = (mutant[..., :t] - reference[..., t:]).std(-1, ddof=1)
    assert np.median(unpaired / paired) > 3


def test_bits_depend_on_neither_neighbours_nor_workers(saturate: Saturate) -> None:
    model, draws = toy_model(), DrawSet("mc_dropout", 5, 1)
    codes = sequences(5)
    one = saturate(model, codes, ["A", "B"], draws, workers=1)
    assert_equal(one, saturate(model, codes, ["A", "B"], draws, workers=2))
    last = saturate(model, codes[4:], ["A", "B"], draws)
    np.testing.assert_array_equal(last.delta[0], one.delta[4])
    np.testing.assert_array_equal(last.reference[0], one.reference[4])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert_equal(one, saturate(model, codes, ["A", "B"], draws))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 3, 6, 10_000])
def test_the_size_of_a_pass_changes_rounding_only(rows: int) -> None:
    model, draws = toy_model(2), DrawSet("ensemble_mc_dropout", 5, 1, 2)
    usual = mutagenesis.saturate(model, sequences(1), ["A"], draws, "naive")
    other = mutagenesis.saturate(model, sequences(1), ["A"], draws, "naive", rows_per_batch=rows)
    np.testing.assert_allclose(other.delta, usual.delta, atol=2e-6)
    np.testing.assert_allclose(other.reference, usual.reference, atol=2e-6)


def test_an_ensemble_has_a_draw_for_each_member_and_their_mean(saturate: Saturate) -> None:
    model = toy_model(3)
    codes = sequences(2)
    effects = saturate(model, codes, model.targets, DrawSet("ensemble", 40, 1, 3))
    with torch.no_grad():
        x = torch.from_numpy(one_hot(codes))
        plain = np.stack([network(x).numpy() for network in model.members], 1)
    np.testing.assert_allclose(effects.reference, plain, atol=1e-6)
    np.testing.assert_allclose(effects.reference_eval, plain.mean(1), atol=1e-6)
    np.testing.assert_allclose(effects.delta_eval, effects.delta.mean(3), atol=1e-5)


def test_masks_on_an_ensemble_alternate_members(saturate: Saturate) -> None:
    model, codes = toy_model(2), sequences(1)
    both = saturate(model, codes, ["A"], DrawSet("ensemble_mc_dropout", 4, 6, 2))
    second = SimpleNamespace(members=model.members[1:], targets=model.targets, length=LENGTH)
    alone = saturate(second, codes, ["A"], DrawSet("mc_dropout", 4, 6))
    np.testing.assert_allclose(both.delta[..., 1::2, :], alone.delta[..., 1::2, :], atol=1e-6)
    assert np.abs(both.delta[..., ::2, :] - alone.delta[..., ::2, :]).max() > 1e-3


def test_averaged_strands_do_not_know_the_strand(saturate: Saturate) -> None:
    model, draws = toy_model(), DrawSet("mc_dropout", 3, 1)
    codes = sequences(2)
    there = saturate(model, codes, ["A"], draws, average_strands=True)
    back = saturate(model, reverse_complement(codes), ["A"], draws, average_strands=True)
    np.testing.assert_allclose(there.reference, back.reference, atol=1e-6)
    # A mutation and its complement sit at mirrored positions, alternatives in reverse order.
    np.testing.assert_allclose(there.delta, back.delta[:, ::-1, ::-1], atol=1e-6)
    one_strand = saturate(model, codes, ["A"], draws)
    assert np.abs(one_strand.reference - there.reference).max() > 1e-3


def test_ambiguous_positions_have_no_effect_and_one_hot_is_read(saturate: Saturate) -> None:
    model, draws = toy_model(), DrawSet("mc_dropout", 1, 1)
    codes = sequences(1)
    codes[0, 4] = 4
    effects = saturate(model, codes, ["A"], draws)
    missing = np.isnan(effects.delta[0, :, :, 0, 0])
    assert missing[4].all()
    assert missing.sum() == 3
    assert_equal(effects, saturate(model, one_hot(codes), ["A"], draws))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.full((1, 4, LENGTH), 0.25), "not one-hot"),
        (np.zeros((1, LENGTH)), "float64 of shape"),
        (np.full((1, LENGTH), 5, np.uint8), "codes .* from 0 to 4"),
    ],
)
def test_sequences_of_another_form_are_refused(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_codes(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "fast"}, "'fast' is unknown; write one of auto, local, naive"),
        ({"targets": ["A", "Z"]}, r"does not predict \['Z'\]; it predicts \['A', 'B', 'C'\]"),
        ({"targets": []}, "none asked"),
        ({"draws": DrawSet("ensemble", 2, 1, 2)}, "for 2 members, the model has 1"),
        ({"rows_per_batch": 0}, "rows_per_batch: found 0"),
        ({"workers": 0}, "workers: found 0"),
        ({"sequences": sequences()[:, :10]}, "have 10 bases, the model reads 20"),
    ],
)
def test_wrong_requests_are_refused(changes: dict, message: str) -> None:
    arguments = {
        "model": toy_model(),
        "sequences": sequences(),
        "targets": ["A"],
        "draws": DrawSet("mc_dropout", 2, 1),
    }
    with pytest.raises(ValueError, match=message):
        mutagenesis.saturate(**(arguments | changes))


def test_targets_that_are_not_the_outputs_are_refused() -> None:
    model = toy_model()
    model.targets = ("A", "B")
    with pytest.raises(ValueError, match="3 outputs for the 2 targets"):
        mutagenesis.saturate(model, sequences(), ["A"], DrawSet("mc_dropout", 2, 1))


def test_a_model_without_named_targets_is_refused() -> None:
    model = toy_model()
    model.targets = ()
    with pytest.raises(ValueError, match="no named targets; name its outputs"):
        mutagenesis.saturate(model, sequences(), ["A"], DrawSet("mc_dropout", 2, 1))


def test_threads_keep_order_use_one_core_each_and_stop_at_an_error() -> None:
    met: list[int] = []
    both = threading.Barrier(2, timeout=5)

    def work(item: int) -> tuple[int, int]:
        if item < 2:
            both.wait()  # passes only if two threads work at once
        met.append(item)
        if item == 5:
            raise RuntimeError("broken sequence")
        return item, torch.get_num_threads()

    results = []
    with pytest.raises(RuntimeError, match="broken sequence"):
        results.extend(iter_into(results, in_order(work, range(1000), 2)))
    assert results == [(i, 1) for i in range(5)]
    assert max(met) < 12


def iter_into(results: list, items) -> list:
    for item in items:
        results.append(item)
    return []
