"""Regression of effects on what is known of sequences, in every draw."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr.meta.regression.meta_regression import draw_wise_regression
from deepmr.meta.tables.moderators import regress_on_covariates


def draws(
    effects: np.ndarray, seed: int = 0, n_draws: int = 30, shared: float = 0.1
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates (draws, k) of these effects, with an error of the model that all share."""
    rng = np.random.default_rng(seed)
    shape = (n_draws, effects.size)
    variances = rng.uniform(0.005, 0.03, shape)
    noise = rng.standard_normal(shape) * np.sqrt(variances)
    return effects + shared * rng.standard_normal((n_draws, 1)) + noise, variances


def frame(k: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "gc": rng.uniform(0.3, 0.7, k),
            "motif_distance": rng.integers(5, 80, k).astype(float),
            "bound": rng.integers(0, 2, k).astype(float),
            "state": rng.choice(["a", "b", "b", "c"], k).astype(object),
        }
    )


def regress(effects: np.ndarray, covariates: pd.DataFrame, **settings: str) -> pd.DataFrame:
    y, v = draws(effects)
    found = regress_on_covariates(
        y, v, covariates, settings.get("method", "REML"), settings.get("test", "knha")
    )
    return pd.DataFrame(found).set_index(["covariates", "term"])


def test_what_moves_the_effects_is_found_and_what_does_not_is_not() -> None:
    table = frame(300)
    effects = 0.5 + 2.0 * table["gc"].to_numpy() + 0.3 * (table["state"] == "c").to_numpy()
    found = regress(effects, table)
    assert set(found["status"]) == {"ok"}
    gc = found.loc[("together", "gc")]
    assert gc["estimate"] == pytest.approx(0.2, abs=3 * gc["se"])
    assert gc["se"] < 0.02
    assert gc["unit"] == "per 0.1"
    state = found.loc[("together", "state=c")]
    assert state["unit"] == "c against b"
    assert state["estimate"] == pytest.approx(0.3, abs=3 * state["se"])
    assert state["p_value"] < 1e-6
    assert found.loc[("together", "motif_distance"), "p_value"] > 0.01
    assert found.loc[("together", "bound"), "ci_low"] < 0 < found.loc[("together", "bound")].ci_high
    assert found.loc[("alone", "gc"), "r2"] > 30
    assert found.loc[("alone", "bound"), "r2"] < 10
    # The error that all sequences share moves the intercept alone.
    intercept = found.loc[("together", "intercept")]
    assert intercept["estimate"] == pytest.approx(effects.mean(), abs=0.15)
    assert intercept["se_draws"] > 5 * gc["se_draws"]


def test_rows_are_the_draw_wise_regressions_in_their_units() -> None:
    table = frame(40)
    y, v = draws(np.linspace(0, 1, 40))
    found = pd.DataFrame(regress_on_covariates(y, v, table, "DL", "adhoc"))
    found = found.set_index(["covariates", "term"])
    alone = draw_wise_regression(
        y, v, np.stack([np.ones(40), table["gc"] * 10], axis=1), method="DL", test="adhoc"
    )
    row = found.loc[("alone", "gc")]
    assert (row["k"], row["n_dropped"]) == (40, 0)
    for name in ("se", "ci_low", "ci_high", "p_value", "se_within", "se_draws", "df"):
        assert row[name] == pytest.approx(getattr(alone, name)[1], rel=1e-9), name
    assert row["estimate"] == pytest.approx(alone.coefficients[1], rel=1e-9)
    assert row["tau2"] == pytest.approx(alone.tau2, rel=1e-6)
    assert row["r2"] == pytest.approx(alone.r2, rel=1e-6)
    columns = [np.ones(40), table["gc"] * 10, table["motif_distance"] / 10, table["bound"]]
    columns += [(table["state"] == name).astype(float) for name in ("a", "c")]
    together = draw_wise_regression(y, v, np.stack(columns, axis=1), method="DL", test="adhoc")
    names = ["gc", "motif_distance", "bound", "state=a", "state=c"]
    got = found.loc["together"].loc[names, ["estimate", "se", "p_value"]].to_numpy(dtype=float)
    expected = [together.coefficients[1:], together.se[1:], together.p_value[1:]]
    np.testing.assert_allclose(got.T, expected, rtol=1e-7)


def test_covariates_that_tell_nothing_have_a_status_and_a_reason() -> None:
    table = frame(40)
    table["bound"] = 1.0
    table["motif_distance"] = np.nan
    table["state"] = pd.Series(["yes"] * 39 + [None], dtype=object)
    table["twice"] = 2 * table["gc"] - 1
    found = regress(np.zeros(40), table)
    for kind in ("alone", "together"):
        part = found.loc[kind]
        assert part.loc["bound", ["status", "reason"]].tolist() == [
            "constant_covariate",
            "bound is the same in all 40 sequences",
        ]
        assert part.loc["motif_distance", ["status", "reason", "k", "n_dropped"]].tolist() == [
            "missing_covariate",
            "motif_distance is known of none of 40 sequences",
            0,
            40,
        ]
        assert part.loc["state", ["status", "reason", "k"]].tolist() == [
            "constant_covariate",
            "state is the same in all 39 sequences",
            39,
        ]
        assert part.loc["gc", "status"] == "ok"
        blank = part.loc[["bound", "motif_distance", "state"], ["estimate", "se", "p_value"]]
        assert blank.isna().to_numpy().all()
    assert found.loc[("alone", "twice"), "status"] == "ok"
    assert found.loc[("together", "twice"), ["status", "reason"]].tolist() == [
        "collinear_covariates",
        "twice is determined by the covariates before it",
    ]


def test_a_covariate_that_most_sequences_lack_does_not_take_them_from_the_others() -> None:
    table = frame(60)
    table.loc[20:, "motif_distance"] = np.nan
    table.loc[:9, "gc"] = np.nan
    found = regress(np.zeros(60), table)
    assert found.loc[("alone", "motif_distance"), ["k", "n_dropped", "status"]].tolist() == [
        20,
        40,
        "ok",
    ]
    assert found.loc[("together", "motif_distance"), ["status", "reason"]].tolist() == [
        "missing_covariate",
        "motif_distance is known of only 20 of 60 sequences",
    ]
    row = found.loc[("together", "bound")]
    assert (row["k"], row["n_dropped"], row["status"]) == (50, 10, "ok")
    assert "10 of 60 sequences left out" in row["reason"]


def test_a_covariate_constant_where_all_are_known_is_left_out() -> None:
    table = frame(40)
    table["bound"] = (np.arange(40) < 5).astype(float)
    table.loc[:5, "gc"] = np.nan
    found = regress(np.zeros(40), table)
    assert found.loc[("together", "bound"), ["status", "reason"]].tolist() == [
        "constant_covariate",
        "bound is the same in the 34 sequences with all covariates",
    ]
    assert found.loc[("together", "gc"), "status"] == "ok"


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5])
def test_few_sequences_have_rows_with_a_status(k: int) -> None:
    table = frame(5).iloc[:k]
    y, v = draws(np.zeros(k))
    found = pd.DataFrame(regress_on_covariates(y, v, table, "REML", "knha"))
    assert set(found["covariates"]) == {"alone", "together"}
    assert found["reason"][found["status"] != "ok"].str.len().gt(0).all()
    numbers = found.reindex(columns=["estimate", "se", "p_value"]).notna().to_numpy()
    with_numbers = found["status"].isin(["ok", "few_sequences"]).to_numpy()
    assert (numbers.all(axis=1) == with_numbers).all()
    if k < 3:
        assert not with_numbers.any()
    if k == 0:
        assert set(found["status"]) == {"no_sequences"}
    if k == 5:
        assert found[found["term"] == "gc"]["status"].tolist() == ["ok", "too_few_sequences"]
        assert "5 sequences with all covariates do not tell 5" in found["reason"].iloc[-1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_sequences_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = frame(25, seed % 1000)
    table.loc[rng.random(25) < 0.2, "motif_distance"] = np.nan
    y, v = draws(rng.normal(size=25), seed, 5)
    order = rng.permutation(25)
    first, second = (
        pd.DataFrame(regress_on_covariates(y[:, at], v[:, at], table.iloc[at], "DL", "adhoc"))
        for at in (np.arange(25), order)
    )
    pd.testing.assert_frame_equal(first, second, rtol=1e-6, atol=1e-9)
