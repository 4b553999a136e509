"""What the shipped example's tables say of all sequences together, and of a negative control."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from deepmr import schemas, tables


@pytest.fixture(scope="module")
def results(example):
    return example[0].folder / "results"


@pytest.fixture(scope="module")
def read(results):
    return lambda name: tables.read_table(results / f"{name}.parquet").to_pandas()


@pytest.fixture(scope="module")
def meta(read):
    return read("meta")


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("mr", schemas.MR),
        ("decoys/model=cnn", schemas.MR),
        ("meta", schemas.META),
        ("network", schemas.NETWORK),
        ("sequence_effects", schemas.SEQUENCE_EFFECTS),
        ("meta_regression", schemas.META_REGRESSION),
        ("meta_diagnostics", schemas.META_DIAGNOSTICS),
    ],
)
def test_tables_have_their_schema(results, name, schema):
    assert pq.read_schema(results / f"{name}.parquet").equals(schema)


def test_no_number_is_missing_without_a_reason(meta):
    missing = meta[meta["se"].isna()]
    assert (missing["reason"].str.len() > 0).all()
    assert set(meta.loc[meta["status"] == "no_sequences", "k"]) <= {0}


def test_meta_has_three_views(meta):
    rows = meta.query("method == 'egger' and combination == 'REML' and stratum == 'all'")
    assert set(rows["inference"]) == {"draw_wise", "chromosome", "diagonal"}
    # The test split is one chromosome, of which no robust standard error can be made.
    robust = rows[rows["inference"] == "chromosome"]
    assert set(robust["status"]) == {"single_cluster"}
    assert set(robust["n_clusters"]) == {1}
    draw_wise = rows[rows["inference"] == "draw_wise"]
    shares = draw_wise["fmi"]
    assert shares.between(0, 1).all()
    assert (draw_wise["test"] == "adhoc").all()


def test_decoys_take_the_exposure_of_another_sequence(read):
    decoys = read("decoys/model=cnn")
    assert set(decoys["direction"]) == {"decoy"}
    assert (decoys["partner"] != decoys["sequence_id"]).all()
    for _, own in decoys[decoys["method"] == "egger"].groupby("pair"):
        assert sorted(own["partner"]) == sorted(own["sequence_id"])
        assert len(own) == 150
    assert read("mr")["partner"].isna().all()


def test_decoys_show_no_effect(meta):
    decoys = meta.query(
        "direction == 'decoy' and method == 'egger' and combination == 'REML' "
        "and stratum == 'all' and inference == 'draw_wise'"
    )
    assert set(decoys["pair"]) == {"GATA1_open", "NRF1_open", "JUND_open"}
    assert (decoys["estimate"].abs() < 0.05).all()
    assert ((decoys["ci_low"] <= 0) & (decoys["ci_high"] >= 0)).all()
    assert decoys[["fdr", "q_value"]].isna().all(axis=None)


def test_network_has_every_arrow_and_what_stands_beside_it(read):
    network = read("network").set_index(["exposure", "outcome"])
    assert len(network) == 6
    forward = network[network["direction"] == "forward"]
    assert forward["decoy_estimate"].notna().all()
    assert set(forward["conditional_method"]) == {"mv_egger"}
    assert forward.loc[("GATA1", "open"), "conditional_on"] == "NRF1,JUND"
    assert network.loc[("GATA1", "open"), "significant"]
    assert network.loc[("open", "JUND"), "significant"]
    assert not network.loc[("NRF1", "open"), "significant"]
    assert network.loc[("GATA1", "open"), "back_estimate"] == pytest.approx(
        network.loc[("open", "GATA1"), "estimate"]
    )
    assert "both_directions" not in ",".join(network["flag"])


def test_every_sequence_stands_among_the_others(read):
    effects, mr = read("sequence_effects"), read("mr")
    assert len(effects) == 3 * 2 * 150
    known = effects[effects["status"] == "ok"]
    np.testing.assert_allclose(known[["p_zero", "p_negative", "p_positive"]].sum(axis=1), 1)
    assert known["lfsr"].between(0, 1).all()
    for _, one in known.groupby(["pair", "direction"]):
        assert one["weight"].sum() == pytest.approx(100)
    asked = mr[mr["method"] == "egger"].set_index(["pair", "direction", "sequence_id"])
    keys = known.set_index(["pair", "direction", "sequence_id"])
    np.testing.assert_allclose(keys["estimate"], asked.loc[keys.index, "estimate"])


def test_shares_tell_an_effect_from_none(read):
    found = read("meta_diagnostics").set_index(["exposure", "outcome"])
    cause, null = found.loc[("GATA1", "open")], found.loc[("NRF1", "open")]
    assert cause["share_positive"] > 0.9
    assert cause["n_sure"] > 0.9 * cause["k"]
    assert null["n_sure"] < 0.2 * null["k"]
    parts = found[["share_zero", "share_negative", "share_positive"]]
    np.testing.assert_allclose(parts.sum(axis=1), 1)


def test_covariates_are_asked_alone_and_together(read):
    found = read("meta_regression")
    alone = found[found["covariates"] == "alone"]
    assert set(alone["term"]) == {"gc", "predicted_exposure", "motif_distance", "bound"}
    together = found.query("pair == 'NRF1_open' and covariates == 'together' and status == 'ok'")
    assert {"intercept", "gc", "predicted_exposure"} <= set(together["term"])
    fitted = found[found["status"] == "ok"]
    assert fitted[["estimate", "se", "p_value"]].notna().all(axis=None)
    assert (found.loc[found["status"] != "ok", "reason"].str.len() > 0).all()
