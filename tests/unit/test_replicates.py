"""Effects of mutations by every member of a model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from deepmr import schemas, tables
from deepmr.draws import DrawSet
from deepmr.genome.alphabet import decode, encode
from deepmr.models.checkpoint import TrainedModel
from deepmr.mutagenesis.replicates import write_replicates
from deepmr.mutagenesis.saturation import saturate
from deepmr.uncertainty.replicates import read_replicates

LENGTH = 16
TARGETS = ("TF", "open")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding="same"),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(6 * LENGTH, 2),
    )


def codes_of(sequences: pa.Table) -> np.ndarray:
    return np.stack([encode(letters) for letters in sequences["sequence"].to_pylist()])


def model(members: int) -> TrainedModel:
    networks = [network(seed) for seed in range(members)]
    return TrainedModel("m", "small", {}, LENGTH, TARGETS, ("binary",) * 2, networks)


@pytest.fixture(scope="module")
def sequences() -> pa.Table:
    codes = np.random.default_rng(2).integers(4, size=(3, LENGTH), dtype=np.uint8)
    codes[1, 4] = 4
    return pa.table({"sequence_id": ["a", "b", "c"], "sequence": [decode(one) for one in codes]})


def written(path, members, draws, sequences, **options):
    write_replicates(model(members), sequences, TARGETS, draws, path, workers=1, **options)
    return tables.read_table(path)


def test_every_member_is_what_it_is_alone(sequences, tmp_path):
    draws = DrawSet("mc_dropout", 5, 7, 3)
    table = written(tmp_path / "t.parquet", 3, draws, sequences)
    assert table.schema.equals(schemas.replicates_schema(TARGETS), check_metadata=False)
    assert table.num_rows == 3 * (3 * LENGTH - 1)
    found = read_replicates(table)
    for member in range(3):
        alone = model(3).alone(member)
        direct = saturate(alone, codes_of(sequences), TARGETS, DrawSet("mc_dropout", 5, 7), "naive")
        known = np.isfinite(direct.delta_eval[..., 0])
        expected = direct.delta[known][..., 1]
        np.testing.assert_allclose(found.effects["open"][:, member], expected.mean(1), atol=2e-6)
        np.testing.assert_allclose(found.se["open"][:, member], expected.std(1, ddof=1), atol=2e-6)
    assert "open" not in found.truth


def test_a_member_of_an_ensemble_has_no_standard_error(sequences, tmp_path):
    draws = DrawSet("ensemble", 5, 7, 2)
    table = written(tmp_path / "t.parquet", 2, draws, sequences)
    struct = table["TF"].combine_chunks()
    assert struct.field("se").null_count == table.num_rows
    direct = saturate(model(2), codes_of(sequences), TARGETS, draws, "naive")
    known = np.isfinite(direct.delta_eval[..., 0])
    effects = np.stack(struct.field("effect").to_pylist())
    np.testing.assert_allclose(effects, direct.delta[known][..., 0], atol=2e-6)


def test_truth_stands_beside_the_effects(sequences, tmp_path):
    true = np.random.default_rng(0).normal(size=(3, LENGTH, 3))
    true[1, 4] = np.nan
    draws = DrawSet("mc_dropout", 3, 7, 1)
    table = written(tmp_path / "t.parquet", 1, draws, sequences, truth={"TF": true})
    np.testing.assert_allclose(
        table["TF"].combine_chunks().field("truth").to_numpy(zero_copy_only=False),
        true[np.isfinite(true)],
        rtol=1e-6,
    )
    assert table["open"].combine_chunks().field("truth").null_count == table.num_rows
