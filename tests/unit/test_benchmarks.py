from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks import calibration, coverage, invalid_instruments, mr, mutagenesis, shared_error
from deepmr import schemas
from deepmr.calibration.maps import NAMES


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


def test_the_benchmark_of_coverage(capsys: pytest.CaptureFixture[str]) -> None:
    designs = ["slope .5", "local errors, slope 0, pleiotropy .05"]
    methods = ["ivw", "profile", "profile, draws", "profile, in each draw", "egger, in each draw"]
    status = coverage.main(["--quick", "--json", "--designs", *designs, "--methods", *methods])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == (0 if result["covers"] else 1)
    assert list(result["designs"]) == designs
    for figures in result["designs"].values():
        assert list(figures) == methods
        for row in figures.values():
            assert 0 <= row["coverage"] <= 1
            assert row["failed"] == 0
            assert row["rmse"] >= abs(row["bias"])
    shared = result["designs"]["slope .5"]
    assert shared["profile"]["rmse"] < shared["ivw"]["rmse"]


def test_an_interval_beside_the_truth_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = coverage.interval
    monkeypatch.setattr(coverage, "interval", lambda fit: right(fit) + 1.0)
    options = ["--quick", "--designs", "slope .5", "--methods", "profile", "--replicates", "20"]
    assert coverage.main(options) == 1
    assert "profile" in capsys.readouterr().out


def test_the_benchmark_of_invalid_instruments(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invalid_instruments, "CORRELATIONS", (0.6,))
    status = invalid_instruments.main(["--quick", "--json"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == (0 if result["covers"] else 1)
    names = {row["method"] for row in result["results"]}
    assert names == {"bayesian_mode", "ivw", "egger", "weighted_median"}
    judged = [row for row in result["results"] if "share_not_estimated" in row]
    assert {"bayesian_mode", "ivw", "egger"} <= {row["method"] for row in judged}
    assert all(row["share_not_estimated"] == 0 for row in judged)


def test_the_benchmark_of_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["--quick", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(result["claims"].values())
    assert [setting["rate"] for setting in result["calibrators"]] == [0.039, 0.002]
    for setting in result["calibrators"]:
        maps = setting["maps"]
        assert set(maps) == {"truth", "none", *NAMES, "platt, no prior", "known map"}
        assert maps["platt"]["excess"] < maps["temperature"]["excess"] < maps["none"]["excess"]
        for name in NAMES:
            assert 0 < maps[name]["excess"] <= maps[name]["excess_worst"]
        assert maps["isotonic"]["zero_effects"] > 0.5
        assert maps["isotonic"]["refused"] == 1
        assert maps["centred_isotonic"]["zero_effects_most"] == 0
    assert set(result["null_bands"]) == set(schemas.METRICS)
    (few,) = result["uncertainty"]
    assert few["coverage"]["chi2"] < 0.6 < few["coverage"]["zms"]
    assert few["width"]["chi2"] < few["width"]["zms"]


def test_a_false_claim_about_calibration_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def beside_the_truth(*arguments: Any, **options: Any) -> tuple[float, float, float]:
        return 5.0, 4.5, 5.5

    quick = calibration.Size((2_000,), 1, 2, 20, (5,), 2, 20)
    monkeypatch.setitem(calibration.SIZES, True, quick)
    monkeypatch.setattr(calibration, "zms_interval", beside_the_truth)
    monkeypatch.setattr(calibration, "refused", lambda fitted, zeroed: False)
    assert calibration.main(["--quick", "--json"]) == 1
    claims = json.loads(capsys.readouterr().out.splitlines()[-1])["claims"]
    assert not claims["bootstrap_holds_and_chi2_does_not"]
    assert not claims["only_isotonic_makes_effects_zero"]
    assert claims["temperature_cannot_mend_a_shift"]


def test_the_benchmark_of_shared_errors(capsys: pytest.CaptureFixture[str]) -> None:
    designs = ["30 sequences", "100 sequences, follows effects"]
    status = shared_error.main(["--quick", "--json", "--designs", *designs])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert status == (0 if result["holds"] else 1)
    assert list(result["designs"]) == designs
    for name, figures in result["designs"].items():
        assert list(figures) == list(shared_error.METHODS)
        assert figures["independent, z"]["coverage"] < figures["draw-wise, T=100"]["coverage"]
        assert figures["independent, z"]["width"] < figures["draw-wise, T=100"]["width"]
        for row in figures.values():
            assert 0 <= row["coverage"] <= 1
            assert row["rmse"] >= abs(row["bias"])
        # Where the common error follows the effects, least squares takes their mean for an error.
        gls, weights = (figures[f"known V, {kind}"] for kind in ("GLS", "working weights"))
        assert (gls["rmse"] > weights["rmse"]) == name.endswith("follows effects")


def test_a_false_claim_about_shared_errors_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        shared_error.METHODS, "draw-wise, T=100", shared_error.METHODS["independent, z"]
    )
    options = ["--quick", "--json", "--replicates", "10", "--designs", "30 sequences"]
    assert shared_error.main(options) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not result["claims"]["30 sequences"]["draw-wise, T=100 covers"]
