"""Deep IV on measured labels: which windows, which fits may judge them, and what comes out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from deepmr import schemas, tables
from deepmr.deepiv.labels import fits as label_fits
from deepmr.deepiv.labels import measured
from deepmr.deepiv.labels.data import NotEstimableError, Side, label_data
from deepmr.deepiv.labels.fits import Settings, compared_exposures, fit_labels
from deepmr.deepiv.seeds import derived_seed
from deepmr.genome.alphabet import AMBIGUOUS, encode
from deepmr.motifs import Motif
from deepmr.mr.questions import Pair

LENGTH = 40
WORD = "TGATAAGC"
EFFECT = 0.5
SECTION = {
    "folds": 3,
    "windows": None,
    "architecture": "small",
    "options": {"n_layers": 1, "channels": 8, "kernel": 9, "dropout": 0.2},
    "features": 4,
    "hidden": [8],
    "components": 2,
    "gradient": "two_sample",
    "epochs": 6,
    "batch_size": 64,
    "learning_rate": 0.02,
    "weight_decay": 1e-4,
    "patience": 6,
    "held_out": 0.15,
    "draws": 3,
}


def motif(word: str, name: str = "M") -> Motif:
    return Motif(name, name, 20.0 * np.eye(4)[encode(word)].T + 1.0)


MOTIFS = {"TF": motif(WORD), "open": None, "other": motif("CCACTAGG", "O")}


class Reader:
    """Gives the codes of the windows by name."""

    def __init__(self, codes):
        self.codes = codes

    def windows(self, table):
        return self.codes[[int(name[1:]) for name in table["sequence_id"].to_pylist()]]


def genome(n: int = 900, seed: int = 0):
    """Return windows and codes: a hidden cause moves both labels, the word only the exposure."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, LENGTH)).astype(np.uint8)
    site = rng.random(n) < 0.5
    for row in np.flatnonzero(site):
        codes[row, (first := rng.integers(LENGTH - 8)) : first + 8] = encode(WORD)
    hidden = rng.normal(size=n)
    tf = rng.random(n) < expit(-2 + 4 * site + 1.5 * hidden)
    opened = rng.random(n) < np.clip(0.25 + EFFECT * tf + 0.12 * hidden, 0.02, 0.98)
    return table(tf, opened), Reader(codes), hidden


def table(tf, opened, **others):
    n = len(tf)
    start = pa.array(np.arange(n) % (n // 4) * 100)
    return pa.table(
        {
            "sequence_id": [f"w{i}" for i in range(n)],
            "chrom": [f"chr{4 * i // n}" for i in range(n)],
            "start": start,
            "end": pa.array(start.to_numpy() + LENGTH),
            "strand": ["."] * n,
            "split": ["train"] * n,
            "label.TF": pa.array(np.asarray(tf, dtype=np.float32), from_pandas=True),
            "label.open": pa.array(np.asarray(opened, dtype=np.float32), from_pandas=True),
        }
    )


def settings(**changed) -> Settings:
    return Settings.of(SECTION | changed, length=LENGTH, threads=1, device="cpu")


def collect(windows, reader, *, at_most=None, kinds=("binary", "binary"), motifs=MOTIFS, seed=1):
    sides = Side("TF", kinds[0]), Side("open", kinds[1])
    return label_data(
        windows, reader, *sides, motifs, at_most=at_most, both_strands=True, seed=seed
    )


def ask(windows, reader, kinds=("binary", "binary"), seed=1, motifs=MOTIFS, **changed):
    return measured.deep_iv(
        windows,
        reader,
        Pair("TF_open", "TF", "open"),
        {"TF": kinds[0], "open": kinds[1]},
        motifs,
        settings(**changed),
        at_most=None,
        both_strands=True,
        seed=seed,
    )


@pytest.fixture(scope="module")
def answers():
    windows, reader, _ = genome(1600)
    rows, counterfactuals = ask(windows, reader, epochs=8)
    found = rows.filter(pa.compute.equal(rows["direction"], "forward")).to_pylist()
    return {row["method"]: row for row in found}, rows, counterfactuals


def test_the_instrument_frees_the_effect_from_a_hidden_cause(answers):
    found = answers[0]
    own, naive = found["deep_iv"], found["naive"]
    assert own["status"] == "ok"
    assert abs(own["estimate"] - EFFECT) < 3 * own["se"]
    assert own["ci_low"] < own["estimate"] < own["ci_high"]
    assert naive["estimate"] - EFFECT > 3 * naive["se"]
    assert abs(found["2sls"]["estimate"] - EFFECT) < 3 * found["2sls"]["se"]
    assert found["polynomial_2sls"]["estimate"] == pytest.approx(EFFECT, abs=0.15)
    assert found["polynomial_2sls"]["se"] is None
    assert own["f"] > 10
    assert 0 < own["q_variance_share"] < 1


def test_rows_have_their_schema_and_say_what_they_are(answers):
    _, rows, counterfactuals = answers
    assert rows.schema.equals(schemas.DEEP_IV)
    asked = list(zip(rows["direction"].to_pylist(), rows["method"].to_pylist(), strict=True))
    assert asked == [(d, m) for d in ("forward", "reverse") for m in measured.METHODS]
    assert set(rows["source"].to_pylist()) == {"labels"}
    assert rows["model"].null_count == rows.num_rows
    assert set(rows["unit"].to_pylist()) == {"probability per label"}
    assert rows["exposure"].to_pylist() == ["TF"] * 4 + ["open"] * 4
    # open has no motif.
    back = rows.filter(pa.compute.equal(rows["direction"], "reverse")).to_pylist()
    assert {row["status"] for row in back} == {"no_motif"}
    assert {row["reason"] for row in back} == {"open has no motif to make an instrument of"}
    assert {row["estimate"] for row in back} == {None}
    assert counterfactuals.schema.equals(schemas.counterfactuals_schema(3))
    assert set(counterfactuals["direction"].to_pylist()) == {"forward"}


def test_counterfactuals_are_of_every_window_and_average_to_the_network(answers):
    found, _, counterfactuals = answers
    row = found["deep_iv"]
    assert counterfactuals.num_rows == row["n_windows"]
    h0, h1, q, r, score = (
        counterfactuals[name].to_numpy() for name in ("h0", "h1", "q", "r", "score")
    )
    for probability in (h0, h1, q, r):
        assert ((probability >= 0) & (probability <= 1)).all()
    assert set(counterfactuals["p0"].to_pylist()) == {0.0}
    assert set(counterfactuals["p1"].to_pylist()) == {1.0}
    # A window with a site has more of the exposure, and its mask does not tell that there was one.
    site = score == score.max()
    assert q[site].mean() - q[~site].mean() > 0.15
    assert abs(r[site].mean() - r[~site].mean()) < 0.05
    draws = tables.draws_array(counterfactuals["draws"])
    assert draws.shape == (row["n_windows"], 3)
    assert np.corrcoef(draws.mean(axis=1), h1 - h0)[0, 1] > 0.5
    assert row["network"] == pytest.approx((h1 - h0).mean(), abs=0.1)


def numbers(windows, reader, seed=1, **changed):
    """Return everything that the networks say of the windows."""
    kind = changed.pop("kind", "binary")
    data = collect(windows, reader, seed=1, kinds=(kind, "binary"))
    fits = fit_labels(data, settings(epochs=1, **changed), seed=seed, name="test")
    parts = [part for of in (fits.response, fits.naive) for part in (of.low, of.high, of.mean)]
    return np.stack([fits.q, fits.r, *parts, *fits.draws.T])


def test_every_bit_follows_from_the_seed():
    windows, reader, _ = genome(480)
    order = np.random.default_rng(5).permutation(windows.num_rows)
    first = numbers(windows, reader)
    assert np.isfinite(first).all()
    assert (numbers(windows, reader) == first).all()
    assert (numbers(windows.take(order), reader) == first).all()
    assert (numbers(windows, reader, seed=2) != first).any(axis=1).all()


def test_the_gradient_is_what_was_asked_for():
    windows, reader, hidden = genome(480)
    windows = table(windows["label.TF"].to_numpy() + hidden, windows["label.open"])
    two, one, again = (
        numbers(windows, reader, kind="continuous", gradient=gradient)[2]
        for gradient in ("two_sample", "one_sample", "two_sample")
    )
    assert (two == again).all()
    assert (two != one).any()


def test_continuous_labels_are_answered_per_unit(monkeypatch):
    monkeypatch.setattr(measured, "_degrees", lambda columns: (1,))
    windows, reader, hidden = genome(1200, seed=3)
    rng = np.random.default_rng(4)
    exposure = 3 * windows["label.TF"].to_numpy() + hidden + rng.normal(size=len(hidden)) * 0.3
    outcome = 2 * exposure + 2 * hidden + rng.normal(size=len(hidden))
    windows = table(exposure, outcome)
    rows, counterfactuals = ask(windows, reader, ("continuous", "continuous"), epochs=8)
    found = {row["method"]: row for row in rows.to_pylist() if row["direction"] == "forward"}
    own, naive = found["deep_iv"], found["naive"]
    assert own["unit"] == "value per value"
    assert abs(own["estimate"] - 2) < 3 * own["se"]
    assert own["se"] < 0.3
    assert naive["estimate"] - 2 > 3 * naive["se"]
    assert found["polynomial_2sls"]["estimate"] == pytest.approx(2, abs=0.3)
    low, high = np.quantile(exposure, (0.25, 0.75))
    assert counterfactuals["p0"][0].as_py() == pytest.approx(low, rel=1e-5)
    assert counterfactuals["p1"][0].as_py() == pytest.approx(high, rel=1e-5)


def test_counts_are_taken_on_the_log_scale():
    windows, reader, _ = genome(480)
    counts = np.random.default_rng(0).poisson(5, windows.num_rows)
    data = collect(table(windows["label.TF"], counts), reader, kinds=("binary", "count"))
    assert set(np.round(np.expm1(data.outcome), 4)) <= set(range(30))
    assert data.outcome.max() < 4
    assert data.sides[1].unit("probability") == "log(1 + count)"


def test_windows_without_a_label_or_a_word_are_left_out():
    windows, reader, _ = genome(600)
    tf, opened = (windows[f"label.{name}"].to_numpy().copy() for name in ("TF", "open"))
    tf[:20], opened[10:30] = np.nan, np.nan
    reader.codes[40] = AMBIGUOUS
    data = collect(table(tf, opened), reader)
    assert len(data) == 600 - 31
    assert data.n_left_out == 31
    assert not {f"w{i}" for i in (*range(30), 40)} & set(data.sequence_ids)
    assert np.isfinite(data.covariates).all()


def test_the_context_hides_the_word_and_the_windows_stand_in_order():
    windows, reader, _ = genome(600)
    shuffled = windows.take(np.random.default_rng(0).permutation(600))
    data = collect(shuffled, reader)
    assert data.sequence_ids == [f"w{i}" for i in range(600)]
    assert ((data.context == AMBIGUOUS).sum(axis=1) == len(WORD)).all()
    assert (np.diff(data.blocks) >= 0).all()
    # Its share of G and C, the other motif's best word, and the best that overlaps the masked one.
    assert data.covariates.shape == (600, 3)
    assert (data.covariates[:, 2:] == data.overlapping).all()


def test_windows_without_coordinates_are_neighbours_as_they_stand():
    windows, reader, _ = genome(600)
    for name, kind in (("chrom", pa.string()), ("start", pa.int64())):
        place = windows.column_names.index(name)
        windows = windows.set_column(place, name, pa.nulls(600, kind))
    data = collect(windows, reader)
    assert data.sequence_ids == [f"w{i}" for i in range(600)]
    assert len(np.unique(data.blocks)) == 40
    assert (np.diff(data.blocks) >= 0).all()


def test_a_subsample_depends_on_names_and_seed_only():
    windows, reader, _ = genome(900)
    first = collect(windows, reader, at_most=450)
    assert len(first) == 450
    moved = collect(windows.take(np.arange(900)[::-1]), reader, at_most=450)
    assert moved.sequence_ids == first.sequence_ids
    # Not left out, but not asked for.
    assert first.n_left_out == 0
    assert collect(windows, reader, at_most=450, seed=2).sequence_ids != first.sequence_ids
    wider = collect(windows, reader, at_most=500)
    assert set(first.sequence_ids) < set(wider.sequence_ids)


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ({"motifs": {"TF": None}}, "no_motif", "TF has no motif"),
        ({"tf": lambda v: v * 0 + 1}, "no_variation", "label of TF is 1 in every window"),
        ({"opened": lambda v: v * 0}, "no_variation", "label of open is 0 in every window"),
        (
            {"tf": lambda v: np.where(np.arange(600) < 399, v, np.nan)},
            "too_few_windows",
            "399 windows have both labels, 400 are needed",
        ),
        (
            {"opened": lambda v: (np.arange(600) < 49).astype(float)},
            "too_few_windows",
            "49 windows have the rarer label of open, 50 are needed",
        ),
    ],
)
def test_labels_that_do_not_suffice_are_told(change, status, reason):
    windows, reader, _ = genome(600)
    tf, opened = (
        change.get(role, lambda v: v)(windows[f"label.{name}"].to_numpy().copy())
        for role, name in (("tf", "TF"), ("opened", "open"))
    )
    with pytest.raises(NotEstimableError) as caught:
        collect(table(tf, opened), reader, motifs=change.get("motifs", MOTIFS))
    assert caught.value.status == status
    assert reason in caught.value.reason
    rows, counterfactuals = ask(table(tf, opened), reader, motifs=change.get("motifs", MOTIFS))
    assert {row["status"] for row in rows.to_pylist()[:4]} == {status}
    assert {row["reason"] for row in rows.to_pylist()[:4]} == {caught.value.reason}
    assert counterfactuals.num_rows == 0


class Spy:
    """A first stage that only remembers what it has seen, and predicts its own number."""

    made: list[Spy]

    def __init__(self, rows, held_out):
        self.seen = set(rows) | set(held_out)
        self.number = (1 + len(self.made)) / 10
        self.made.append(self)

    def mean(self, contexts, instruments, rows):
        return np.full(len(rows), self.number)

    def mean_without(self, contexts, rows):
        return np.full(len(rows), self.number)


def test_nothing_that_judges_a_window_has_seen_it(monkeypatch):
    windows, reader, _ = genome(600)
    data = collect(windows, reader)
    Spy.made, responses = [], []

    def remember(contexts, q, outcome, *, rows, held_out, **_):
        responses.append((q.copy(), set(rows) | set(held_out)))
        return Response()

    class Response:
        def predict(self, contexts, rows):
            return np.zeros(len(rows)), np.ones(len(rows))

        def draws(self, contexts, rows, n, seed):
            return np.zeros((n, len(rows))), np.ones((n, len(rows)))

    monkeypatch.setattr(
        label_fits, "fit_treatment", lambda *_, rows, held_out, **__: Spy(rows, held_out)
    )
    monkeypatch.setattr(label_fits, "fit_local_effects", remember)
    fits = fit_labels(data, settings(folds=4), seed=1, name="test")

    assert len(Spy.made) == 6
    by_number = {spy.number: spy for spy in Spy.made}
    assert len(responses) == 2 * 4
    judged_by: list[set[int]] = []
    for q, seen in responses[::2]:
        own = set(range(600)) - seen
        judged_by.append(own)
        for row in seen:
            # What the response learns from at a row comes from a fit without it and without `own`.
            stage_one = by_number[q[row]]
            assert row not in stage_one.seen
            assert not own & stage_one.seen
    assert set.union(*judged_by) == set(range(600))
    assert sum(map(len, judged_by)) == 600
    for own in judged_by:
        unseen = [spy.number for spy in Spy.made if not own & spy.seen]
        assert len(unseen) == 3
        assert fits.q[list(own)] == pytest.approx(np.mean(unseen))
        assert fits.r[list(own)] == pytest.approx(np.mean(unseen))
        # Whole blocks are judged together.
        blocks = set(data.blocks[list(own)])
        assert not blocks & set(data.blocks[list(set(range(600)) - own)])
    for (_, by_response), (exposure, by_naive) in zip(responses[::2], responses[1::2], strict=True):
        assert by_response == by_naive
        assert (exposure == data.exposure).all()


def test_exposures_that_are_compared_differ():
    assert compared_exposures(np.array([0.0, 1.0]), True) == (0.0, 1.0)
    assert compared_exposures(np.arange(5.0), False) == (1.0, 3.0)
    mostly_zero = np.r_[np.zeros(90), np.full(10, 2.0)]
    assert compared_exposures(mostly_zero, False) == (0.0, 2.0)


def test_seeds_differ_by_what_they_are_for():
    assert derived_seed(1, "a", 2) == derived_seed(1, "a", 2)
    assert len({derived_seed(*parts) for parts in [(1, "a"), (2, "a"), (1, "b"), (1, "a", 0)]}) == 4


def test_an_instrument_without_a_first_stage_is_told(monkeypatch):
    monkeypatch.setattr(measured, "_degrees", lambda columns: (1,))
    windows, reader, _ = genome(600)
    data = replace(collect(windows, reader), score=np.ones(600))
    found = measured._of_peers(data, (0.0, 1.0), 1)
    assert {row["status"] for row in found.values()} == {"no_variation"}
    assert {row["reason"] for row in found.values()} == {"no_first_stage"}
    noise = replace(data, score=np.random.default_rng(2).normal(size=600))
    found = measured._of_peers(noise, (0.0, 1.0), 1)
    assert found["2sls"]["f"] < 10
    assert found["2sls"]["reason"] == "weak_instrument"


def test_an_unknown_label_is_named():
    windows, reader, _ = genome(600)
    with pytest.raises(ValueError, match=r"no column label\.open, which pair TF_open names"):
        ask(windows.drop_columns("label.open"), reader)


def test_polynomials_stay_small_with_many_motifs():
    assert measured._degrees(4) == (1, 2, 3)
    assert measured._degrees(20) == (1, 2)
    assert measured._degrees(200) == (1,)
