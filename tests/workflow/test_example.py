"""The shipped example finds the truth that was put in, and says so."""

from __future__ import annotations

import re
from html import unescape

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deepmr import tables


def rows(table: pa.Table, **values: str) -> list[dict]:
    for column, value in values.items():
        table = table.filter(pc.equal(table[column], value))
    return table.to_pylist()


@pytest.fixture(scope="module")
def results(example):
    return example[0].folder / "results"


@pytest.fixture(scope="module")
def meta(results):
    return tables.read_table(results / "meta.parquet")


@pytest.fixture(scope="module")
def truth(results):
    return {
        (row["exposure"], row["outcome"]): row
        for row in tables.read_table(results / "simulated" / "truth.parquet").to_pylist()
    }


def primary(meta, pair, direction="forward"):
    (row,) = rows(
        meta,
        pair=pair,
        direction=direction,
        method="egger",
        combination="REML",
        inference="draw_wise",
        stratum="all",
    )
    return row


def test_causal_pair_recovers_the_marginal_slope(meta, truth):
    found, true = primary(meta, "GATA1_open"), truth["GATA1", "open"]["marginal_slope"]
    assert true > 0.5
    assert abs(found["estimate"] / true - 1) < 0.2
    assert found["ci_low"] <= true <= found["ci_high"]
    assert found["p_value"] < 1e-3


def test_null_pair_holds_zero(meta, truth):
    found = primary(meta, "NRF1_open")
    assert truth["NRF1", "open"]["theta"] == 0
    assert found["ci_low"] <= 0 <= found["ci_high"]


def test_reversed_pair_runs_backwards(meta, truth):
    forward, reverse = primary(meta, "JUND_open"), primary(meta, "JUND_open", "reverse")
    assert truth["open", "JUND"]["theta"] == 0.8
    assert forward["ci_low"] <= 0 <= forward["ci_high"]
    assert reverse["ci_low"] > 0


def test_plain_interval_is_there_and_marked(meta):
    (plain,) = rows(
        meta,
        pair="GATA1_open",
        direction="forward",
        method="egger",
        combination="REML",
        inference="diagonal",
        stratum="all",
    )
    assert plain["se"] < primary(meta, "GATA1_open")["se"]


def test_every_sequence_has_a_row_for_every_question(results):
    mr = tables.read_table(results / "mr.parquet")
    sequences = tables.read_table(results / "sequences.parquet")
    for exposure in ("GATA1", "NRF1", "JUND"):
        asked = sequences[f"stratum.{exposure}"].drop_null()
        assert len(asked) == 150
        got = mr.filter(pc.equal(mr["pair"], f"{exposure}_open"))
        # 4 methods in both directions, and 2 given the other exposures of the same outcome.
        assert got.num_rows == 150 * (2 * 4 + 2)
    assert set(mr["status"].to_pylist()) >= {"ok", "no_motif_hit"}
    ok = mr.filter(pc.equal(mr["status"], "ok"))
    assert pc.all(pc.is_finite(ok["estimate"])).as_py()


def test_tables_say_what_made_them(results):
    for path in results.glob("*.parquet"):
        made_by = tables.read_metadata(path)
        assert made_by["seed"] == 1
        assert made_by["code"].startswith("deepmr.")
        assert re.fullmatch("[0-9a-f]{16}", made_by["config"])
        assert made_by["versions"]["torch"]


def test_effects_are_stored_as_float16_draws(results):
    shard = next((results / "effects" / "model=cnn").glob("*.parquet"))
    schema = pq.read_schema(shard)
    draws = schema.field("GATA1").type.field("draws").type
    assert draws.value_type == pa.float16()
    assert draws.list_size == 40


def test_heads_are_learned(results):
    calibration = tables.read_table(results / "calibration.parquet")
    for row in rows(calibration, split="test"):
        assert row["auroc"] > 0.7, row["target"]


def test_calibrators_are_fitted_on_validation_and_judged_on_test(results):
    calibration = tables.read_table(results / "calibration.parquet")
    for target in ("GATA1", "NRF1", "JUND", "open"):
        before, after = (
            rows(calibration, split="validation", target=target, calibrator=name)[0]
            for name in ("none", "platt")
        )
        assert after["nll"] <= before["nll"]
        # Not exactly 1: the map is applied to every draw, and the slope is that of their mean.
        assert abs(after["cox_slope"] - 1) < 0.03
        (judged,) = rows(calibration, split="test", target=target, calibrator="platt")
        assert 0.95 < judged["o_over_e"] < 1.05
        assert 0.85 < judged["cox_slope"] < 1.15
    calibrators = tables.read_table(results / "calibrators.parquet")
    for row in calibrators.to_pylist():
        assert (row["zero_effects"] > 0.3) == (row["calibrator"] == "isotonic")


def test_standard_errors_are_held_against_the_truth(results):
    uncertainty = tables.read_table(results / "uncertainty.parquet").to_pylist()
    assert {row["reference"] for row in uncertainty} == {"truth"}
    for row in uncertainty:
        assert row["n_mutations"] == 40 * 3 * 100
        assert 0.6 < row["slope"] < 1.1
        assert 1 < row["se_ratio"] < 2.5
    log = (results / "logs" / "calibrate_uncertainty.log").read_text()
    assert "cnn: standard errors of 40 draws are known to 11%" in log


def test_report_answers_in_words_beside_the_truth(results):
    html = (results / "report.html").read_text()
    text = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))
    assert "The model has learned: more GATA1, more open." in text
    assert "No effect of NRF1 on open can be told from zero" in text
    assert "Simulated truth of GATA1 → open: marginal slope" in text
    assert "it lies inside the 95 % interval" in text
    assert "A decoy (GATA1's effects taken from other sequences) gives" in text
    # learning curves, ROC, all effects, network; reliability, calibrators, histogram and standard
    # errors of 4 targets; 7 for each pair
    assert html.count("data:image/svg+xml") == 4 + 4 * 4 + 3 * 7


def test_report_asks_nothing_of_the_network(results):
    html = (results / "report.html").read_text()
    outside = re.findall(
        r"""(?:src|href)\s*=\s*["'](?!#|data:)[^"']+|url\((?!["']?(?:#|data:))""", html
    )
    assert outside == []
    assert "<script src" not in html


def test_no_temporary_file_remains(results):
    assert list(results.rglob("*.tmp")) == []


def test_second_run_has_nothing_to_do(example):
    assert example[0].run().nothing_to_do


def test_snakemake_report_is_made(example, tmp_path):
    checkout, _ = example
    checkout.snakemake("--report", str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    assert "MR of one sequence" in text
