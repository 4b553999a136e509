"""The benchmark on the example's labels: its truth and its claims can fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import deepiv_labels
from benchmarks.deepiv_labels import Labelled, claims, true_effect


def answer(scenario: str, exposure: str, outcome: str, method: str = "deep_iv", **known: Any):
    return {
        "scenario": scenario,
        "exposure": exposure,
        "outcome": outcome,
        "method": method,
        "theta": 0.0,
        "estimate": 0.01,
        "se": 0.02,
        "p_value": 0.6,
        "truth": 0.0,
        "f": 1000.0,
    } | known


@pytest.fixture
def good() -> list[dict[str, Any]]:
    cause = {"theta": 1.0, "estimate": 0.7, "truth": 0.71, "p_value": 1e-9}
    return [
        answer("sequence", "GATA1", "open", **cause),
        answer("sequence", "NRF1", "open"),
        answer("both", "GATA1", "NRF1"),
        answer("both", "GATA1", "NRF1", "naive", estimate=0.09, se=0.01, p_value=1e-6),
    ]


def test_all_claims_hold_where_estimates_are_right(good):
    assert all(claims(good).values())


@pytest.mark.parametrize(
    ("row", "change", "claim"),
    [
        (0, {"truth": 0.9}, "near_truth"),
        (0, {"estimate": -0.7, "truth": -0.7}, "signs"),
        (0, {"p_value": 0.01}, "signs"),
        (1, {"estimate": 0.2, "truth": 0.2}, "signs"),
        (2, {"p_value": 0.01}, "naive_is_confounded"),
        (3, {"p_value": 0.2}, "naive_is_confounded"),
    ],
)
def test_a_claim_fails_where_an_estimate_is_wrong(good, row, change, claim):
    good[row] |= change
    assert [name for name, holds in claims(good).items() if not holds] == [claim]


def test_the_truth_is_the_formula_on_probabilities():
    rng = np.random.default_rng(0)
    n = 50
    q, r, h0, h1, x, y = rng.random((6, n))
    order = rng.permutation(n)
    found = pa.table(
        {
            "sequence_id": [str(row) for row in order],
            "q": q[order],
            "r": r[order],
            "h0": h0[order],
            "h1": h1[order],
        }
    )
    data = Labelled(pa.table({}), np.zeros((n, 4), np.uint8), {"A": x, "B": y})
    expected = np.sum((q - r) * (y - (1 - r) * h0 - r * h1)) / np.sum((q - r) * (x - r))
    assert true_effect(found, data, "A", "B") == pytest.approx(expected)


def test_windows_are_those_of_the_example():
    config = deepiv_labels.configuration.load(deepiv_labels.CONFIG)
    library = deepiv_labels.motif_library.read_jaspar(deepiv_labels.CONFIG.parent / "motifs.jaspar")
    structure = deepiv_labels.example_structure(library, scenario="both")
    data = deepiv_labels.labelled(structure, config, windows=30)
    assert data.table.num_rows == len(data.codes) == 240
    some = data.table.slice(100, 3)
    np.testing.assert_array_equal(data.windows(some), data.codes[100:103])
    for target, probability in data.probability.items():
        labels = data.table[f"label.{target}"].to_numpy()
        assert abs(labels.mean() - probability.mean()) < 4 * np.sqrt(0.25 / 240)
        assert np.corrcoef(labels, probability)[0, 1] > 0.2
