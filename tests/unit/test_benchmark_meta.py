from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import meta
from deepmr.meta import random_effects

PEERS = {"metafor", "pymare", "pymare_intervals", "statsmodels_pm", "statsmodels_dl"}


def rscript(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a script in the place of Rscript."""
    program = folder / "Rscript"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setattr(meta.shutil, "which", lambda name: str(program))


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    status = meta.main([*options, "--json"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def numbers(factor: float) -> str:
    ours = random_effects(*meta.estimates(meta.QUICK.k, 0))
    return f"echo 9.9 2.5 {ours.estimate!r} {ours.se * factor!r} {ours.tau2!r}"


def test_the_benchmark_without_r(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta.shutil, "which", lambda name: None)
    status, result = run(capsys, "--quick")
    assert status == 0
    assert result["agree"]
    assert set(result["peers"]) == PEERS
    absent = result["peers"].pop("metafor")
    assert absent["seconds"] is None
    assert "Rscript" in absent["reason"]
    assert result["ratio_metafor"] is None
    assert "ratio_metafor" not in result["missed"]
    for name, peer in result["peers"].items():
        assert peer["ratio"] == pytest.approx(peer["seconds"] / peer["ours_s"])
        assert peer["ratio_point"] == pytest.approx(peer["seconds"] / peer["ours_point_s"])
        assert peer["largest_difference"] < meta.TOLERANCES[name]
    for name in set(meta.GOALS) - {"ratio_metafor"}:
        assert result[name] > 0
    assert result["mixture_status"] == ["ok", "ok"]


def test_what_metafor_prints_is_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rscript(tmp_path, numbers(1.0), monkeypatch)
    status, result = run(capsys, "--quick")
    peer = result["peers"]["metafor"]
    assert status == 0
    assert (peer["version"], peer["seconds"]) == ("9.9", 2.5)
    assert peer["largest_difference"] < 1e-12
    assert result["ratio_metafor"] == pytest.approx(2.5 / peer["ours_s"])
    rscript(tmp_path, numbers(1.001), monkeypatch)
    status, result = run(capsys, "--quick")
    assert status == 1
    assert not result["agree"]


def test_r_without_metafor_is_a_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rscript(tmp_path, "echo 'there is no package called metafor' >&2; exit 1", monkeypatch)
    status, result = run(capsys, "--quick")
    assert status == 0
    assert "no package" in result["peers"]["metafor"]["reason"]


def test_a_missed_goal_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta.shutil, "which", lambda name: None)
    monkeypatch.setattr(meta, "FULL", meta.QUICK)
    generous = {name: 0.0 if name.startswith("ratio") else 1e6 for name in meta.GOALS}
    monkeypatch.setattr(meta, "GOALS", generous)
    assert run(capsys)[0] == 0
    monkeypatch.setattr(meta, "GOALS", generous | {"reml_s": 1e-9})
    status, result = run(capsys)
    assert status == 1
    assert result["missed"] == ["reml_s"]
    assert meta.main(["--quick"]) == 0
    assert "reml_s" in capsys.readouterr().out
