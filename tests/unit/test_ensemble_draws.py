"""An ensemble's draws, through the tables of a shard, against a loop over members and mutants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deepmr import tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import one_hot
from deepmr.mutagenesis import effects_table
from tests.unit.test_effects_table import as_table
from tests.unit.test_mutagenesis import LENGTH, sequences, toy_model

MEMBERS = 3
TARGETS = ["C", "A"]
COLUMNS = [2, 0]


def single(network: torch.nn.Module, codes: np.ndarray) -> np.ndarray:
    """Outputs of one sequence in a batch of its own."""
    with torch.no_grad():
        return network(torch.from_numpy(one_hot(codes[None])))[0, COLUMNS].numpy()


@pytest.mark.parametrize("engine", ["local", "naive"])
def test_the_tables_of_a_shard_are_those_of_a_loop_over_members_and_mutants(
    engine: str, tmp_path: Path
) -> None:
    model = toy_model(MEMBERS)
    codes = sequences(2)
    codes[1, 3] = 4
    effects_path, references_path = tmp_path / "effects.parquet", tmp_path / "references.parquet"
    effects_table.write_shard(
        model,
        as_table(codes),
        TARGETS,
        # The number of draws of an ensemble is that of its members.
        DrawSet("ensemble", 40, 1, MEMBERS),
        effects_path,
        references_path,
        engine=engine,
        device="cpu",
    )
    networks = [network.eval() for network in model.members]
    references = np.array([[single(network, row) for network in networks] for row in codes])
    keys, deltas = [], []
    for i, row in enumerate(codes):
        for position in range(LENGTH):
            for alternative in range(4):
                if row[position] in (4, alternative):
                    continue
                mutant = row.copy()
                mutant[position] = alternative
                outputs = np.array([single(network, mutant) for network in networks])
                keys.append((f"s{i}", position, "ACGT"[row[position]], "ACGT"[alternative]))
                deltas.append(outputs - references[i])
    expected = np.array(deltas)
    effects = tables.read_table(effects_path)
    columns = (effects[name].to_pylist() for name in ("sequence_id", "position", "ref", "alt"))
    assert list(zip(*columns, strict=True)) == keys
    for k, target in enumerate(TARGETS):
        column = effects[target].combine_chunks()
        draws = tables.draws_array(column.field("draws"))
        assert draws.dtype == np.float16
        assert draws.shape == (len(keys), MEMBERS)
        np.testing.assert_allclose(draws.astype(float), expected[..., k], rtol=1e-3, atol=2e-6)
        rounding = {"rtol": 1e-4, "atol": 2e-6}
        np.testing.assert_allclose(column.field("mean"), expected[..., k].mean(1), **rounding)
        np.testing.assert_allclose(column.field("eval"), expected[..., k].mean(1), **rounding)
        np.testing.assert_allclose(column.field("sd"), expected[..., k].std(1, ddof=1), **rounding)
    stored = tables.read_table(references_path)
    for k, target in enumerate(TARGETS):
        column = stored[target].combine_chunks()
        draws = tables.draws_array(column.field("draws"))
        np.testing.assert_allclose(draws, references[..., k], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(column.field("eval"), references[..., k].mean(1), atol=1e-6)
    assert np.abs(expected).max() > 0.05
