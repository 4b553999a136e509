from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from deepmr import mutagenesis, tables
from deepmr.draws import DrawSet
from deepmr.held_out import read_held_out
from deepmr.predict import predict_windows, write_predictions
from tests.unit.test_mutagenesis import sequences, toy_model

DRAWS = DrawSet("mc_dropout", 6, 4)


def test_a_prediction_is_the_same_whatever_its_batch_and_workers() -> None:
    codes = sequences(150)
    model = toy_model()
    evaluated, drawn = predict_windows(model, [codes], ["A", "C"], DRAWS)
    assert evaluated.shape == (150, 2)
    assert drawn.shape == (150, 6, 2)
    batches = [codes[:1], codes[1:8], codes[8:]]
    for other in (
        predict_windows(model, batches, ["A", "C"], DRAWS, workers=2),
        [part[::-1] for part in predict_windows(model, [codes[::-1]], ["A", "C"], DRAWS)],
    ):
        np.testing.assert_array_equal(other[0], evaluated)
        np.testing.assert_array_equal(other[1], drawn)


def test_predictions_use_the_functions_of_mutagenesis() -> None:
    codes = sequences(3)
    effects = mutagenesis.saturate(toy_model(), codes, ["B"], DRAWS)
    evaluated, drawn = predict_windows(toy_model(), [codes], ["B"], DRAWS)
    np.testing.assert_allclose(drawn, effects.reference, atol=1e-6)
    np.testing.assert_allclose(evaluated, effects.reference_eval, atol=1e-6)
    fewer = predict_windows(toy_model(), [codes], ["B"], DrawSet("mc_dropout", 2, 4))[1]
    np.testing.assert_allclose(fewer, drawn[:, :2], atol=1e-6)


def test_no_windows_give_empty_arrays() -> None:
    evaluated, drawn = predict_windows(toy_model(), [], ["B"], DRAWS)
    assert evaluated.shape == (0, 1)
    assert drawn.shape == (0, 6, 1)


def test_windows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="windows have 10 bases, the model reads 20"):
        predict_windows(toy_model(), [sequences(2)[:, :10]], ["B"], DRAWS)


def test_written_predictions_are_those_of_the_held_out_windows(tmp_path) -> None:
    codes = sequences(5)
    splits = ["train", "test", "validation", "test", "train"]
    windows = pa.table({"sequence_id": list("abcde"), "split": splits})

    class Reader:
        def windows(self, table: pa.Table) -> np.ndarray:
            return codes[["abcde".index(name) for name in table["sequence_id"].to_pylist()]]

    path = tmp_path / "windows.parquet"
    write_predictions(toy_model(), Reader(), windows, ["C", "A"], DRAWS, path, {"seed": 1})
    labels = pa.table(
        {
            "sequence_id": list("abcde"),
            "chrom": ["chr1", "chr2", "chr3", None, "chr1"],
            "split": splits,
            "label.A": pa.array([1, 0, 1, None, 0], pa.float32()),
        }
    )
    tables.write_table(labels, tmp_path / "labels.parquet")
    test = read_held_out(tmp_path / "labels.parquet", path, ["A"], "test")
    evaluated, drawn = predict_windows(toy_model(), [codes[[1, 3]]], ["A"], DRAWS)
    np.testing.assert_array_equal(test.evaluated, evaluated)
    np.testing.assert_array_equal(test.draws, drawn)
    np.testing.assert_array_equal(test.labels, [[0], [np.nan]])
    assert list(test.chromosomes) == ["chr2", None]
    assert tables.read_metadata(path) == {"seed": 1}

    tables.write_table(labels.slice(2), tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match="other test windows; make the predictions again"):
        read_held_out(tmp_path / "labels.parquet", path, ["A"], "test")
