from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from benchmarks import deepiv


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict[str, Any]]:
    status = deepiv.main([*options, "--workers", "1", "--json"])
    return status, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_every_method_is_measured_on_every_sample(capsys: pytest.CaptureFixture[str]) -> None:
    status, result = run(capsys, "--quick")
    assert status == 0
    assert not result["claims"]
    sizes = deepiv.QUICK
    assert [(design["n"], design["rho"]) for design in result["designs"]] == [
        (n, rho) for n in (sizes.large, sizes.small) for rho in deepiv.RHOS
    ]
    for design in result["designs"]:
        methods = {"deep_iv", "naive", "two_stage", "polynomial"}
        if (design["n"], design["rho"]) == (sizes.small, deepiv.BOTH_GRADIENTS):
            methods |= {"deep_iv_two_sample"}
        assert set(design["methods"]) == methods
        for figures in design["methods"].values():
            assert figures["seconds"] > 0
            assert len(figures["errors"]) == len(sizes.seeds)
            assert 0 < figures["error"] < 100
        naive, deep_iv = (design["methods"][name]["error"] for name in ("naive", "deep_iv"))
        assert design["naive_over_deep_iv"] == pytest.approx(naive / deep_iv)
    assert result["seconds"] > 0


def test_a_false_claim_ends_the_benchmark_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_seed = {1: 0.1, 2: 0.1, 3: 0.16}

    def invented(work: Sequence[deepiv.Case], workers: int) -> Iterator[deepiv.Figures]:
        for case in work:
            errors = {"deep_iv": by_seed[case.seed], "naive": 0.45}
            yield {"errors": errors, "seconds": dict.fromkeys(errors, 1.0)}

    monkeypatch.setattr(deepiv, "everything", invented)
    status, result = run(capsys)
    assert status == 0
    assert all(result["claims"].values())
    for design in result["designs"]:
        assert design["methods"]["deep_iv"]["error"] == pytest.approx(0.12)
    by_seed[3] = 0.28
    status, result = run(capsys)
    assert status == 1
    false = [claim for claim, so in result["claims"].items() if not so]
    assert false == [
        *(f"n=5000, rho={rho}: error at most 0.15" for rho in deepiv.RHOS),
        "n=1000, rho=0.9: naive at least 3.0 times worse",
    ]
    assert deepiv.main([]) == 1
    assert f"FALSE  {false[0]}" in capsys.readouterr().out


def figures(n: int, rho: float, deep_iv: float, naive: float) -> dict[str, Any]:
    return {
        "n": n,
        "rho": rho,
        "methods": {"deep_iv": {"error": deep_iv}, "naive": {"error": naive}},
        "naive_over_deep_iv": naive / deep_iv,
    }


def false_claims(*designs: dict[str, Any]) -> list[str]:
    return [claim for claim, so in deepiv.claims(designs, 1_000).items() if not so]


def test_the_claims_are_about_error_ratio_and_spread() -> None:
    good = [
        figures(1_000, 0.1, 0.2, 0.4),
        figures(1_000, 0.5, 0.24, 0.6),
        figures(1_000, 0.9, 0.22, 0.9),
    ]
    large = figures(5_000, 0.5, 0.15, 0.1)
    assert not false_claims(*good, large)
    assert len(deepiv.claims([*good, large], 1_000)) == 8
    assert false_claims(*good, figures(5_000, 0.5, 0.16, 1.0)) == [
        "n=5000, rho=0.5: error at most 0.15"
    ]
    assert false_claims(good[0], figures(1_000, 0.5, 0.28, 0.6), good[2]) == [
        "n=1000, rho=0.5: error at most 0.27",
        "n=1000: errors over rho within a factor of 1.25",
    ]
    assert false_claims(good[0], good[1], figures(1_000, 0.9, 0.22, 0.65)) == [
        "n=1000, rho=0.9: naive at least 3.0 times worse"
    ]


def test_another_process_finds_what_this_one_finds() -> None:
    work = [
        deepiv.Case(60, 0.5, 1, deepiv.Budget(2, 2, 20, (1,)), ("one_sample", "two_sample")),
    ]
    (here,) = deepiv.everything(work, 1)
    (there,) = deepiv.everything(work, 2)
    assert here["errors"] == there["errors"]
    assert here["errors"]["deep_iv"] != here["errors"]["deep_iv_two_sample"]
