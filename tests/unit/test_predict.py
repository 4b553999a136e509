from __future__ import annotations

import numpy as np
import pytest

from deepmr import mutagenesis
from deepmr.draws import DrawSet
from deepmr.predict import predict_windows
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
