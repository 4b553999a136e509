"""Slopes that depend on the context: found where they do, not where they do not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from deepmr import schemas
from deepmr.deepiv.slopes.regression import FEWEST_SEQUENCES, for_few, regress, regress_model
from deepmr.deepiv.slopes.sequence_slopes import Slopes
from deepmr.deepiv.stages import fitting
from deepmr.deepiv.stages.networks import Design
from deepmr.effects import Response
from deepmr.genome.alphabet import AMBIGUOUS
from deepmr.models import architectures
from tests.unit import test_mr_shard as shard

LENGTH, SITE, WORD = 24, slice(14, 20), [0, 1, 0, 1, 2, 2, 3]
ENCODER = {"n_layers": 1, "channels": 8, "kernel": 7, "pool": 4, "dropout": 0.1}
DESIGN = Design(8, (), 0.0, partial(architectures.build, "small", 8, LENGTH, **ENCODER))
SETTINGS = fitting.Settings(
    epochs=25, batch_size=12, learning_rate=0.01, weight_decay=1e-3, patience=8, averaging=0.95
)


def toy(effect, n=120, scatter=0.1, n_draws=10, each=12, seed=1):
    """Return slopes of .5, and of `effect` more where a word stands; and where it stands."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, LENGTH)).astype(np.uint8)
    has = rng.random(n) < 0.5
    codes[has, 3 : 3 + len(WORD)] = WORD
    codes[:, SITE] = AMBIGUOUS
    slope = 0.5 + effect * has + scatter * rng.normal(size=n)
    bx = rng.normal(size=(n, each))
    by = slope[:, None] * bx + 0.05 * rng.normal(size=(n_draws, n, each))
    mean = by.mean(axis=0)
    w = rng.uniform(0.5, 2.0, (n, each))
    names = tuple(f"s{i}" for i in range(n))
    xx = (w * bx**2).sum(axis=1)
    slopes = Slopes(
        sequence_ids=names,
        codes=codes,
        groups=np.array(names),
        xx=xx,
        xy=(w * bx * mean).sum(axis=1),
        yy=(w * mean**2).sum(axis=1),
        draws_xx=np.tile(xx, (n_draws, 1)),
        draws_xy=(w * bx * by).sum(axis=2),
        n_instruments=np.full(n, each),
    )
    return slopes, has


@pytest.fixture(scope="module")
def with_word():
    return regress(toy(1.0)[0], DESIGN, SETTINGS, folds=4, seed=1)


def test_a_slope_that_depends_on_the_context_is_found(with_word):
    _, has = toy(1.0)
    assert with_word.context_status == "ok"
    assert with_word.moderation.estimate == pytest.approx(1.0, abs=0.3)
    assert with_word.moderation.p_value < 1e-6
    assert with_word.r2 > 0.5
    assert with_word.slope_sd == pytest.approx(0.5, abs=0.15)
    assert np.corrcoef(with_word.dependence, has)[0, 1] > 0.9
    assert with_word.dependence.mean() == pytest.approx(0.0, abs=1e-12)
    # At the mean context half of the sequences have the word.
    assert with_word.context.estimate == pytest.approx(0.5 + has.mean(), abs=0.06)
    assert with_word.context.se < 0.7 * with_word.constant.se


def test_one_slope_stays_one_slope():
    slopes, _ = toy(0.0)
    found = regress(slopes, DESIGN, SETTINGS, folds=4, seed=1)
    assert found.r2 < 0.02
    assert found.slope_sd < 0.05
    assert found.moderation is None or found.moderation.p_value > 0.01
    assert found.constant.estimate == pytest.approx(slopes.xy.sum() / slopes.xx.sum(), rel=1e-12)
    assert found.constant.ci_low < 0.5 < found.constant.ci_high


def test_slopes_that_are_all_alike_leave_nothing_to_learn():
    slopes, _ = toy(0.0)
    alike = replace(slopes, xy=0.5 * slopes.xx, yy=0.25 * slopes.xx)
    found = regress(alike, DESIGN, SETTINGS, folds=4, seed=1)
    assert (found.r2, found.slope_sd, found.moderation) == (0.0, 0.0, None)
    assert found.context.estimate == found.constant.estimate


def test_a_network_that_learns_nothing_is_the_constant_slope():
    slopes, _ = toy(1.0)
    found = regress(slopes, DESIGN, replace(SETTINGS, epochs=0), folds=4, seed=1)
    assert not found.dependence.any()
    assert found.context is found.constant
    assert (found.r2, found.slope_sd, found.moderation) == (0.0, 0.0, None)
    assert "better than one slope" in found.context_reason


def test_error_that_draws_share_stays_in_the_standard_error(with_word):
    slopes, _ = toy(1.0)
    shift = np.random.default_rng(5).normal(scale=0.4, size=(10, 1))
    shared = replace(slopes, draws_xy=slopes.draws_xy + shift * slopes.draws_xx)
    found = regress(shared, DESIGN, SETTINGS, folds=4, seed=1)
    added = 1.1 * shift.var(ddof=1)
    for name in ("constant", "context"):
        before, after = getattr(with_word, name), getattr(found, name)
        assert after.estimate == pytest.approx(before.estimate + shift.mean())
        assert after.se**2 == pytest.approx(before.se**2 + added, rel=0.05)
    # What the context adds to a slope is the same in every draw.
    assert found.moderation.se == pytest.approx(with_word.moderation.se, rel=1e-6)


def test_the_order_of_sequences_changes_nothing(with_word):
    order = np.random.default_rng(6).permutation(120)
    found = regress(toy(1.0)[0].take(order), DESIGN, SETTINGS, folds=4, seed=1)
    assert (found.dependence == with_word.dependence[order]).all()
    assert found.moderation.estimate == with_word.moderation.estimate
    assert found.context.se == with_word.context.se


def test_the_seed_decides():
    slopes, _ = toy(1.0, n=60)
    first, again, other = (regress(slopes, DESIGN, SETTINGS, folds=2, seed=s) for s in (1, 1, 2))
    assert first.dependence.any()
    assert (first.dependence == again.dependence).all()
    assert (first.dependence != other.dependence).any()


def test_nothing_of_a_group_is_learned_to_predict_it():
    # Twins with the same letters and a slope of their own: only a twin could foretell it.
    slopes, _ = toy(0.0, n=30, scatter=1.0)
    twins = slopes.take(np.repeat(np.arange(30), 2))
    named = replace(twins, sequence_ids=tuple(f"t{i}" for i in range(60)))
    design = Design(16, (32,), 0.0, partial(architectures.build, "small", 16, LENGTH, **ENCODER))
    long = replace(SETTINGS, epochs=40, patience=40, averaging=0.5)
    apart = replace(named, groups=np.array(named.sequence_ids))
    assert regress(apart, design, long, folds=4, seed=1).r2 > 0.1
    assert regress(named, design, long, folds=4, seed=1).r2 < 0.0


def test_too_few_sequences_and_no_context():
    few = regress(toy(0.0, n=FEWEST_SEQUENCES - 1)[0], DESIGN, SETTINGS, folds=4, seed=1)
    assert few.status == few.context_status == "too_few_sequences"
    assert few.constant is few.context is few.moderation is None
    slopes, _ = toy(0.0, n=40)
    many = regress(slopes, DESIGN, SETTINGS, folds=41, seed=1)
    assert many.reason == "40 sequences have instruments; 41 are needed"
    crowded = replace(
        slopes, groups=np.repeat(["a", "b"], 20), left_out={"no_motif_hit": 3, "no_effects": 9}
    )
    found = regress(crowded, DESIGN, SETTINGS, folds=4, seed=1)
    assert found.reason == (
        "40 sequences have instruments (2 where windows that overlap count once); 20 are needed "
        "(no_effects: 9, no_motif_hit: 3)"
    )
    assert found.n_left_out == 12
    masked = replace(slopes, codes=np.full_like(slopes.codes, AMBIGUOUS))
    bare = regress(masked, DESIGN, SETTINGS, folds=4, seed=1)
    assert (bare.status, bare.context_status) == ("ok", "no_context")
    assert bare.constant.se > 0
    assert bare.context is bare.moderation is None


@pytest.mark.parametrize("n", [0, 1, 20, 150, 3000, 100_000])
def test_few_sequences_get_short_steps_and_many_passes(n):
    given = fitting.Settings(epochs=24, batch_size=128, patience=6)
    found = for_few(given, n)
    steps = max(1, round(n / found.batch_size))
    assert found.epochs * steps >= 950
    assert found.patience / found.epochs >= 6 / 24
    if n == 100_000:
        assert found == given


# A model's tables.


def of_model(folder, settings=shard.SETTINGS, responses=None, order=slice(None)):
    rows = range(30)[order]
    parts = [shard.write(folder, rows[i::2], name=f"part{i}") for i in range(2)]
    effects, references = zip(*parts, strict=True)
    return regress_model(
        "cnn",
        shard.sequence_table(),
        effects,
        references,
        shard.PAIRS,
        shard.MOTIFS,
        settings,
        responses,
        architecture="small",
        options={"n_layers": 1, "channels": 4, "pool": 4, "dropout": 0.1},
        features=4,
        hidden=(4,),
        settings=replace(SETTINGS, epochs=40, patience=1),
        folds=2,
        seed=1,
    )


def far_apart(n):
    table = shard_table(n)
    place = table.schema.names.index("start")
    starts = [100 * i for i in range(n)]
    moved = table.set_column(place, table.schema.field("start"), [starts])
    ends = [start + shard.LENGTH for start in starts]
    return moved.set_column(place + 1, table.schema.field("end"), [ends])


shard_table = shard.sequence_table


@pytest.fixture
def apart(monkeypatch):
    monkeypatch.setattr(shard, "sequence_table", partial(far_apart, 30))


def test_rows_of_a_model(tmp_path, apart):
    settings = replace(shard.SETTINGS, conditional=("mv_ivw",))
    table = of_model(tmp_path, settings, {"open": Response("count")})
    assert table.schema.equals(schemas.DEEP_IV)
    rows = table.to_pylist()
    assert [(row["direction"], row["method"]) for row in rows] == [
        (direction, method)
        for direction in ("forward", "reverse")
        for method in ("constant_slope", "context_slope")
    ]
    assert {(row["source"], row["model"]) for row in rows} == {("model", "cnn")}
    assert [row["unit"] for row in rows] == ["log rate per logit"] * 2 + ["logit per log rate"] * 2
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "no_context"]
    forward = rows[0]
    assert forward["estimate"] == pytest.approx(0.8, abs=0.05)
    assert forward["ci_low"] < forward["estimate"] < forward["ci_high"]
    # One in six was not sampled for the exposure; s1 has no hit of its motif.
    assert (forward["n_windows"], forward["n_left_out"]) == (24, 1)
    assert rows[2]["n_instruments"] == 25 * 3 * shard.LENGTH
    assert rows[1]["reason"]
    assert rows[1]["moderation"] is None
    assert rows[3]["estimate"] is None
    assert rows[3]["r2"] is None


def test_rows_depend_on_no_order(tmp_path, apart):
    (tmp_path / "other").mkdir()
    turned = of_model(tmp_path / "other", order=slice(None, None, -1))
    assert of_model(tmp_path).equals(turned)


def test_windows_that_overlap_are_one_group(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "sequence_table", partial(shard_table, 30))
    row = of_model(tmp_path).to_pylist()[2]
    assert row["status"] == "too_few_sequences"
    assert "1 where windows that overlap count once" in row["reason"]
