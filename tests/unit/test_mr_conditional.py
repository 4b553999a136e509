"""Direct effects of exposures that share an outcome, draw by draw, of sequences and of shards."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepmr import schemas, tables
from deepmr.effects import Response, on_scale
from deepmr.motifs import Motif
from deepmr.mr.conditional import (
    METHODS,
    ConditionalInstruments,
    conditional_methods,
    estimate_conditional,
)
from deepmr.mr.drawwise import rubin
from deepmr.mr.estimator import Options
from deepmr.mr.estimators import regression_line
from deepmr.mr.gather import gather
from deepmr.mr.multivariable.draws import fit_draws
from deepmr.mr.multivariable.estimation import estimate_multivariable
from deepmr.mr.multivariable.fits import Exposures, fit_regression
from deepmr.mr.questions import Pair, Settings, questions_of, shared_outcomes
from deepmr.mr.shard import estimate_shard
from tests.unit import test_mr_shard as toy

TARGETS = ("A", "B", "open")
PAIRS = (Pair("A_open", "A", "open"), Pair("B_open", "B", "open"))
OPTIONS = Options(bootstrap_iterations=0)
LENGTH, N_DRAWS = toy.LENGTH, toy.N_DRAWS


def joint(seed=0, n=40, n_draws=30, direct=(1.0, 0.0), noise=0.05, scatter=0.0):
    """Exposures whose effects correlate by .8; the outcome has the direct effects of each."""
    rng = np.random.default_rng(seed)
    k = len(direct)
    common = rng.normal(size=(n, 1))
    bx = 2.0 * common + rng.normal(size=(n, k))
    by = bx @ np.array(direct) + scatter * rng.normal(size=n)
    draws_x = bx + noise * rng.normal(size=(n_draws, n, k))
    draws_y = by + noise * rng.normal(size=(n_draws, n))
    return ConditionalInstruments(
        draws_x.mean(axis=0),
        draws_x.std(axis=0, ddof=1),
        draws_y.mean(axis=0),
        draws_y.std(axis=0, ddof=1),
        draws_x,
        draws_y,
    )


def stacked(*items):
    data = (np.stack([getattr(i, v) for i in items]) for v in ("bx", "se_x", "by", "se_y"))
    return (
        Exposures(*data),
        np.stack([i.draws_x for i in items]),
        np.stack([i.draws_y for i in items]),
    )


def one(item, exposure=0, method="mv_ivw", options=OPTIONS):
    result = estimate_conditional([item], exposure, (method,), options)[method]
    return {name: value[0] for name, value in result.values.items()} | {
        "status": result.status[0],
        "draws": result.draws[0],
        "draws_se": result.draws_se[0],
        "n": result.n_instruments[0],
        "n_dropped": result.n_dropped[0],
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("exposure", "truth"), [(0, 0.7), (1, 0.0), (2, -0.4)])
def test_direct_effects_are_found(method, exposure, truth):
    found = [
        one(joint(seed, 60, direct=(0.7, 0.0, -0.4), noise=0.02), exposure, method)
        for seed in range(20)
    ]
    assert {f["status"] for f in found} == {"ok"}
    estimates = np.array([f["estimate"] for f in found])
    assert abs(estimates.mean() - truth) < 0.01
    inside = [f["ci_low"] <= truth <= f["ci_high"] for f in found]
    assert np.mean(inside) >= 0.8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exposure", [0, 1])
def test_mean_effects_give_what_the_api_gives(method, exposure):
    item = joint(3, 25, direct=(0.7, -0.2), scatter=0.3)
    names = ("a", "b")
    for distribution in ("normal", "t"):
        direct = (
            estimate_multivariable(
                item.bx,
                item.se_x,
                item.by,
                item.se_y,
                (method,),
                exposures=names,
                orientate=names[exposure],
                distribution=distribution,
            )
            .set_index("exposure")
            .loc[names[exposure]]
        )
        found = one(item, exposure, method, replace(OPTIONS, distribution=distribution))
        for ours, theirs in {
            "estimate_diagonal": "estimate",
            "se_diagonal": "se",
            "p_value_diagonal": "p_value",
            "q": "q",
            "q_p": "q_p",
            "intercept": "intercept",
            "intercept_se": "intercept_se",
            "intercept_p": "intercept_p",
        }.items():
            np.testing.assert_equal(found[ours], direct[theirs], ours)
        assert found["n"] == direct["n_instruments"]
    df = 25 - (2 if method == "mv_ivw" else 3)
    assert found["i2"] == max(0.0, 1.0 - df / found["q"])
    ratio = min(1.0, np.sqrt(found["q"] / df))
    assert found["se_unfloored"] == pytest.approx(ratio * found["se_diagonal"])


def test_strength_counts_the_correlation_of_the_errors():
    item = joint(5)
    errors = ((item.draws_x - item.bx) / item.se_x).reshape(-1, 2)
    product = errors.T @ errors
    rho = product / np.sqrt(np.outer(np.diag(product), np.diag(product)))
    assert 0.0 < abs(rho[0, 1]) < 0.1
    direct = estimate_multivariable(item.bx, item.se_x, item.by, item.se_y, error_correlation=rho)
    for exposure in (0, 1):
        found = one(item, exposure)["conditional_f"]
        assert found == pytest.approx(direct["conditional_f"][exposure], rel=1e-9)


@pytest.mark.parametrize("n_draws", [2, 5, 30])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_few_draws_of_correlated_errors_are_no_strength(n_draws, correlation):
    # No effect at all; standard errors known, as those of an ensemble are moderated to be.
    rng = np.random.default_rng(4)
    half = np.linalg.cholesky([[1.0, correlation], [correlation, 1.0]])
    se = np.exp(rng.normal(size=(40, 1))) * np.ones(2)
    found = []
    for _ in range(200):
        draws = se * (rng.normal(size=(n_draws + 1, 40, 2)) @ half.T)
        draws_x = draws[0] + draws[1:]
        item = replace(joint(0, n_draws=n_draws), draws_x=draws_x, bx=draws_x.mean(0), se_x=se)
        found.append(one(item)["conditional_f"])
    # The mean of the draws has their error beside its own.
    assert np.mean(found) == pytest.approx(1.0 + 1.0 / n_draws, rel=0.1)
    assert max(found) < 5


@pytest.mark.parametrize("orient", [None, 0, 1])
def test_every_draw_is_a_fit_with_the_weights_of_the_means(orient):
    item = joint(1, 15, 7, direct=(0.5, 0.3), scatter=0.2)
    data, x, y = stacked(item, joint(2, 15, 7))
    drawn = fit_draws(data, x, y, orient=orient)
    sign = np.ones(15) if orient is None else np.where(item.bx[:, orient] < 0, -1.0, 1.0)
    for t in range(7):
        columns = [item.draws_x[t]] + ([] if orient is None else [sign[:, None]])
        design = np.hstack(columns) / item.se_y[:, None]
        target = item.draws_y[t] / item.se_y
        solution, rss, _, _ = np.linalg.lstsq(design, target)
        np.testing.assert_allclose(drawn.estimates[0, t], solution[:2], rtol=1e-9)
        covariance = np.linalg.inv(design.T @ design) * rss / (15 - design.shape[1])
        np.testing.assert_allclose(drawn.se[0, t], np.sqrt(np.diag(covariance))[:2], rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(4, 30), st.booleans())
@settings(max_examples=30, deadline=None)
def test_one_exposure_is_the_line_of_univariable_mr(seed, n, egger):
    item = joint(seed, n, 9, direct=(0.8,), scatter=0.4)
    data, x, y = stacked(item)
    drawn = fit_draws(data, x, y, orient=0 if egger else None)
    bx, draws_x = item.bx[None, :, 0], item.draws_x[None, ..., 0]
    sign = regression_line.orientation(bx) if egger else None
    line = regression_line.fit_draws(1 / data.se_y, bx, data.by, draws_x, y, sign)
    np.testing.assert_allclose(drawn.estimates[..., 0], line.estimates, rtol=1e-7)
    np.testing.assert_allclose(drawn.se[..., 0], line.se, rtol=1e-7)
    # Both are differences of squares, and may be 0.
    np.testing.assert_allclose(drawn.se_within[..., 0], line.se_within, rtol=1e-6, atol=1e-7)


def test_within_error_is_the_scatter_that_no_draw_explains():
    draw_noise_only = [one(joint(seed, 60, scatter=0.0))["se_within"] for seed in range(40)]
    scattered = [one(joint(seed, 60, scatter=0.5)) for seed in range(40)]
    # The unit error of a direct effect, times the scatter that was put in.
    expected = []
    for seed in range(40):
        item = joint(seed, 60, scatter=0.5)
        fit = fit_regression(stacked(item)[0], fixed=True)
        weighted = np.sqrt(np.mean((0.5 / item.se_y) ** 2))
        expected.append(fit.se[0, 0] * weighted)
    measured = np.mean([f["se_within"] for f in scattered])
    assert measured == pytest.approx(np.mean(expected), rel=0.1)
    assert np.mean(draw_noise_only) < 0.1 * measured
    for found in scattered[:5]:
        total = rubin(found["draws"], np.square(found["se_within"]))
        assert (found["estimate"], found["se"]) == (total.estimate, total.se)
        assert (found["ci_low"], found["p_value"]) == (total.ci_low, total.p_value)
        assert found["se_draws"] == pytest.approx(found["draws"].std(ddof=1))


def test_centre_moves_the_draws_onto_the_mean_effects():
    item = joint(4, noise=0.8)
    plain, moved = one(item), one(item, options=replace(OPTIONS, centre="mean_effects"))
    assert moved["estimate"] == pytest.approx(moved["estimate_diagonal"])
    assert abs(plain["estimate"] - plain["estimate_diagonal"]) > 0.01
    assert moved["se_draws"] == pytest.approx(plain["se_draws"])


@given(st.permutations(range(6)))
@settings(max_examples=15, deadline=None)
def test_neighbours_and_order_do_not_matter(order):
    items = [joint(seed, n) for seed, n in enumerate((12, 12, 20, 12, 20, 4))]
    for method, result in estimate_conditional(
        [items[i] for i in order], 1, METHODS, OPTIONS
    ).items():
        for place, i in enumerate(order):
            alone = estimate_conditional([items[i]], 1, (method,), OPTIONS)[method]
            for name, values in result.values.items():
                np.testing.assert_array_equal(values[place], alone.values[name][0])
            np.testing.assert_array_equal(result.draws[place], alone.draws[0])


def test_large_batches_are_cut(monkeypatch):
    items = [joint(seed, 12) for seed in range(5)]
    whole = estimate_conditional(items, 0, METHODS, OPTIONS)
    monkeypatch.setattr("deepmr.mr.conditional._GROUP_ELEMENTS", 1)
    for method, result in estimate_conditional(items, 0, METHODS, OPTIONS).items():
        np.testing.assert_array_equal(result.draws, whole[method].draws)


def test_what_cannot_be_estimated_has_a_status():
    same = joint(1)
    twice = replace(
        same, bx=same.bx[:, [0, 0]], se_x=same.se_x[:, [0, 0]], draws_x=same.draws_x[..., [0, 0]]
    )
    frozen = replace(same, se_x=np.zeros_like(same.se_x))
    huge = replace(same, bx=same.bx * 1e60)
    in_a_draw = replace(same, draws_x=same.draws_x.copy())
    in_a_draw.draws_x[3, :, 1] = in_a_draw.draws_x[3, :, 0]
    for item, ivw, egger in (
        (twice, "collinear_exposures", "collinear_exposures"),
        (in_a_draw, "collinear_exposures", "collinear_exposures"),
        (joint(1, 2), "too_few_instruments", "too_few_instruments"),
        (joint(1, 3), "ok", "too_few_instruments"),
        (joint(1, 1), "too_few_instruments", "too_few_instruments"),
        (frozen.usable(), "no_variation", "no_variation"),
        (huge.usable(), "not_finite", "not_finite"),
        (ConditionalInstruments.none("no_effects", 2), "no_effects", "no_effects"),
        (ConditionalInstruments.none("no_motif_hit", 2, 4), "no_motif_hit", "no_motif_hit"),
    ):
        for method, status in (("mv_ivw", ivw), ("mv_egger", egger)):
            found = one(item, 0, method)
            assert found["status"] == status
            assert np.isfinite(found["estimate"]) == (status == "ok")
            assert np.isfinite(found["se_draws"]) == (status == "ok")


def test_instruments_without_a_value_are_dropped():
    item = joint(2)
    item.se_x[3, 1] = 0.0
    item.draws_y[2, 7] = np.inf
    item.bx[9, 0] = np.nan
    found = item.usable()
    assert (found.n_dropped, found.by.size, found.status) == (3, 37, "ok")
    kept = np.delete(np.arange(40), [3, 7, 9])
    np.testing.assert_array_equal(found.draws_x, item.draws_x[:, kept])
    assert one(found)["n"] == 37
    assert one(found)["n_dropped"] == 3


def test_methods_are_known_and_once():
    assert conditional_methods([]) == []
    with pytest.raises(ValueError, match="'mv_median' is unknown; write some of mv_ivw, mv_egger"):
        conditional_methods(["mv_median"])
    with pytest.raises(ValueError, match="stands twice"):
        estimate_conditional([joint()], 0, ["mv_ivw", "mv_ivw"], OPTIONS)


def test_exposures_of_an_outcome_come_from_both_directions():
    pairs = [*PAIRS, Pair("A_B", "A", "B")]
    shared = shared_outcomes(questions_of(pairs, toy.MOTIFS, Settings(rule="all")))
    assert {outcome: list(rules) for outcome, rules in shared.items()} == {
        "open": ["A", "B"],
        "A": ["open", "B"],
        "B": ["open", "A"],
    }
    assert shared_outcomes(questions_of(PAIRS[:1], {}, Settings())) == {}


# Shards.

SITES = {"A": "ACGTTGCA", "B": "CCATATGG"}
MOTIFS = {
    name: Motif(
        name,
        name,
        np.array([[97.0 if base == letter else 1.0 for letter in site] for base in "ACGT"]),
    )
    for name, site in SITES.items()
}
SETTINGS = Settings(methods=("ivw",), conditional=METHODS, minimum=5, rule="all", options=OPTIONS)
LETTERS = ["A", "B", "AB", "B", "", "AB"]


def sequence_table():
    letters = []
    for sites in LETTERS:
        text = "".join(SITES[s] for s in sites)
        letters.append(text + "G" * (LENGTH - len(text)))
    n = len(letters)
    return pa.table(
        {
            "sequence_id": [f"chr1:{i}" for i in range(n)],
            "chrom": ["chr1"] * n,
            "start": list(range(n)),
            "end": [i + LENGTH for i in range(n)],
            "strand": ["."] * n,
            "sequence": letters,
            "stratum.A": ["bound", None, "bound", "unbound", "unbound", "bound"],
            "stratum.B": [None, "bound", "bound", None, "unbound", "bound"],
        },
        schema=schemas.sequences_schema(["A", "B"]),
    )


def logits(i):
    """A causes the outcome by .8, B does nothing, and their effects correlate."""
    rng = np.random.default_rng([11, i])
    n = 3 * LENGTH
    a = rng.normal(size=(n, 1))
    b = 0.9 * a + 0.5 * rng.normal(size=(n, 1))
    noise = 0.02 * rng.normal(size=(3, n, N_DRAWS))
    delta = np.stack([a, b, 0.8 * a]) + noise
    return rng.normal(size=(3, N_DRAWS)).astype(np.float32), delta.astype(np.float16)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "TARGETS", TARGETS)
    monkeypatch.setattr(toy, "sequence_table", sequence_table)
    monkeypatch.setattr(toy, "logits", logits)

    def write(rows, name="shard", **options):
        return toy.write(tmp_path, rows, name, **options)

    return write


def estimated(files, pairs=PAIRS, settings=SETTINGS, motifs=None, responses=None):
    return estimate_shard("cnn", sequence_table(), *files, pairs, motifs or {}, settings, responses)


def test_univariable_is_wrong_where_conditional_is_right(stored):
    table = estimated(stored(range(6)))
    assert table.schema.equals(schemas.MR)
    frame = table.to_pandas()
    forward = frame[frame["direction"] == "forward"]
    mean = forward.groupby(["pair", "method"])["estimate"].mean()
    assert mean["B_open", "ivw"] > 0.4
    for method in METHODS:
        assert abs(mean["A_open", method] - 0.8) < 0.03
        assert abs(mean["B_open", method]) < 0.03
    rows = forward[forward["method"] == "mv_ivw"].set_index(["pair", "sequence_id"])
    assert set(rows["instrument_rule"]) == {"union"}
    assert set(rows["status"]) == {"ok"}
    assert (rows["conditional_f"] > 10).all()
    assert rows["draws"].map(len).eq(N_DRAWS).all()
    # The rows of a pair are those of the sequences sampled for its exposure.
    assert rows.loc["A_open"].index.tolist() == [f"chr1:{i}" for i in (0, 2, 3, 4, 5)]
    assert rows.loc["B_open"].index.tolist() == [f"chr1:{i}" for i in (1, 2, 4, 5)]
    assert rows.loc["A_open"]["stratum"].tolist() == ["bound"] * 2 + ["unbound"] * 2 + ["bound"]
    assert frame.loc[frame["method"] == "ivw", "conditional_f"].isna().all()
    # The outcomes of the reverse questions have one exposure each.
    assert set(frame[frame["direction"] == "reverse"]["method"]) == {"ivw"}
    methods = frame[frame["sequence_id"] == "chr1:2"]["method"].tolist()
    assert methods == ["ivw", *METHODS, "ivw"] * 2


def test_rows_are_those_of_the_api(stored):
    frame = estimated(stored([2])).to_pandas()
    _, delta = logits(2)
    a, b, y = (on_scale(np.zeros(N_DRAWS), d) for d in delta)
    for exposure, pair in enumerate(("A_open", "B_open")):
        for method in METHODS:
            row = frame[(frame["pair"] == pair) & (frame["method"] == method)].iloc[0]
            direct = estimate_multivariable(
                np.stack([a.point, b.point], axis=-1),
                np.stack([a.se, b.se], axis=-1),
                y.point,
                y.se,
                (method,),
                orientate=exposure,
            ).iloc[exposure]
            assert row["estimate_diagonal"] == pytest.approx(direct["estimate"], rel=1e-12)
            assert row["se_diagonal"] == pytest.approx(direct["se"], rel=1e-12)
            assert row["n_instruments"] == direct["n_instruments"]


def test_union_of_the_motif_hits(stored):
    settings = replace(SETTINGS, rule="motif", minimum=20)
    pairs = [*PAIRS, Pair("A_B", "A", "B")]
    frame = estimated(stored(range(6)), pairs, replace(settings, rule="auto"), MOTIFS).to_pandas()
    rows = frame[(frame["method"] == "mv_ivw") & (frame["direction"] == "forward")].set_index(
        ["pair", "sequence_id"]
    )
    found = rows["n_instruments"]
    # chr1:0 has no site of B, chr1:1 none of A; the sites of both do not overlap.
    assert found["A_open", "chr1:0"] == found["B_open", "chr1:1"] == 24
    assert found["A_open", "chr1:2"] == 48
    assert rows.loc[("A_open", "chr1:2"), "status"] == "ok"
    # What mutations in sites of B do to A by the way says nothing of A.
    assert rows.loc[("A_open", "chr1:3"), "status"] == "no_motif_hit"
    nothing = rows.loc[("A_open", "chr1:4")]
    assert (nothing["status"], nothing["n_instruments"]) == ("no_motif_hit", 0)
    few = estimated(stored([0]), settings=replace(settings, minimum=30), motifs=MOTIFS)
    row = few.to_pandas().query("method == 'mv_ivw'").iloc[0]
    assert (row["status"], row["n_instruments"]) == ("too_few_instruments", 24)
    assert np.isnan(row["estimate"])


def test_halves_are_judged_and_estimated_apart(stored):
    frame = estimated(stored([2]), settings=replace(SETTINGS, rule="strength_halves")).to_pandas()
    conditional = frame[frame["method"] == "mv_ivw"]
    assert conditional["draws"].map(len).eq(N_DRAWS // 2).all()
    assert set(conditional["status"]) == {"ok"}


@pytest.mark.parametrize("rule", ["all", "strength_halves"])
def test_one_draw_is_too_few(stored, monkeypatch, rule):
    monkeypatch.setattr(toy, "N_DRAWS", 1)
    monkeypatch.setattr(f"{__name__}.N_DRAWS", 1)
    frame = estimated(stored([2]), settings=replace(SETTINGS, rule=rule)).to_pandas()
    assert set(frame["method"]) == {"ivw", *METHODS}
    assert set(frame["status"]) == {"too_few_draws"}


def test_probability_scale_knows_the_kinds(stored):
    settings = replace(SETTINGS, effect_scale="probability")
    files = stored([2])
    plain = estimated(files, settings=settings).to_pandas()
    counted = estimated(files, settings=settings, responses={"B": Response("count")}).to_pandas()
    of_b = (plain["pair"] == "B_open") & (plain["method"] == "mv_ivw")
    assert plain.loc[of_b, "estimate"].iloc[0] != counted.loc[of_b, "estimate"].iloc[0]


def test_shards_and_their_order_do_not_matter(stored, tmp_path):
    whole = tmp_path / "whole.parquet"
    tables.write_table(estimated(stored(range(6))), whole, schemas.MR)
    parts = []
    for name, rows in (("a", [5, 2]), ("b", [0]), ("c", []), ("d", [4, 3, 1])):
        parts.append(tmp_path / f"{name}.mr.parquet")
        tables.write_table(estimated(stored(rows, name)), parts[-1], schemas.MR)
    assert gather(parts).equals(gather([whole]))


def test_one_exposure_or_no_method_makes_no_rows(stored):
    files = stored([0, 2])
    assert set(estimated(files, PAIRS[:1])["method"].to_pylist()) == {"ivw"}
    none = estimated(files, settings=replace(SETTINGS, conditional=()))
    assert set(none["method"].to_pylist()) == {"ivw"}
    again = [PAIRS[0], Pair("again", "A", "open")]
    assert set(estimated(files, again)["method"].to_pylist()) == {"ivw"}


def test_sequences_without_effects_have_a_row(stored):
    frame = estimated(stored(range(6), skip=(2,))).to_pandas()
    lost = frame[(frame["sequence_id"] == "chr1:2") & frame["method"].isin(METHODS)]
    assert lost["status"].tolist() == ["no_effects"] * 4
    with pytest.raises(ValueError, match="conditional method 'mv_raps' is unknown"):
        estimated(stored([0]), settings=replace(SETTINGS, conditional=("mv_raps",)))
