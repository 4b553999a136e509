from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import mr, mutagenesis


def test_the_benchmark_of_mutagenesis_compares_like_with_like(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    status = mutagenesis.main(["--quick", "--json", "--draws", "3", "--repeats", "1"])
    assert torch.get_num_threads() == threads
    result = json.loads(capsys.readouterr().out)
    assert status == 0
    assert result["agree"]
    assert {"device", "threads", "torch", "peak_gflop_per_s", "bandwidth_gb_per_s"} < set(result)
    assert set(result["cases"]) == set(mutagenesis.CASES)
    for case in result["cases"].values():
        assert case["functions"] == 4
        assert not case["straight_sampled"]
        assert case["straight_sample"] == case["mutants"] * case["functions"]
        assert set(case["largest_difference_by_peer"]) == {"straight", "tangermeme"}
        assert 0 < case["largest_difference"] < 1e-6
        assert case["largest_effect"] > 1e-3
        for number in (
            "seconds",
            "straight_s",
            "tangermeme_s",
            "ratio_straight",
            "ratio_tangermeme",
            "gflop_per_s",
            "of_peak",
        ):
            assert case[number] > 0
        assert set(case["linearity"]) == {"by_draws", "by_sequences"}
        for fit in case["linearity"].values():
            assert {"seconds", "slope_s", "intercept_s", "r2"} <= set(fit)


def test_a_loop_too_long_is_sampled_and_scaled(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutagenesis, "FULL_LOOP_S", 0.0)
    monkeypatch.setattr(mutagenesis, "SAMPLE_S", 0.0)
    options = ["--quick", "--json", "--draws", "3", "--repeats", "1", "--no-linearity"]
    assert mutagenesis.main([*options, "--cases", "small"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"].values()
    assert case["straight_sampled"]
    assert case["straight_sample"] == 2 * min(case["straight_batch"], case["mutants"])
    assert "linearity" not in case


def test_a_disagreement_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = mutagenesis.Ours.__call__

    def wrong(
        self: mutagenesis.Ours, inputs: torch.Tensor, positions: range | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        reference, delta = right(self, inputs, positions)
        return reference, delta * 1.01

    monkeypatch.setattr(mutagenesis.Ours, "__call__", wrong)
    options = ["--quick", "--json", "--draws", "3", "--repeats", "1", "--no-linearity"]
    assert mutagenesis.main([*options, "--cases", "small"]) == 1
    assert not json.loads(capsys.readouterr().out)["agree"]


def test_memory_is_measured_in_a_process_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert mutagenesis.main(["--quick", "--json", "--memory", "--draws", "3"]) == 0
    memory = json.loads(capsys.readouterr().out)["memory"]
    assert memory["draws"] == 3
    assert 0 < memory["before_work_gb"] <= memory["peak_rss_gb"]


def test_the_benchmark_of_mr_compares_like_with_like(capsys: pytest.CaptureFixture[str]) -> None:
    assert mr.main(["--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    for goal in mr.GOALS:
        assert result[goal] > 0
    bootstrap = result["bootstrap"]
    assert bootstrap["largest_difference"] < 1e-6
    assert set(bootstrap["ratio_genal_by_method"]) == set(mr.FOUR)
    assert bootstrap["ratio_genal"] == pytest.approx(bootstrap["genal_s"] / bootstrap["ours_s"])
    assert {"by_sequences", "by_mutations"} == set(result["linearity"])


def test_an_estimate_unlike_genals_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mr.mr.estimate

    def wrong(*arguments: Any, **options: Any) -> pd.DataFrame:
        table = real(*arguments, **options)
        return table.assign(estimate=table["estimate"] * 1.001)

    monkeypatch.setattr(mr.mr, "estimate", wrong)
    assert mr.main(["--quick", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])
