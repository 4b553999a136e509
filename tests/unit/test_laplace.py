from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from deepmr import mutagenesis
from deepmr.draws import DrawSet, standard_normals
from deepmr.genome.alphabet import one_hot, reverse_complement
from deepmr.models import architectures, checkpoint, laplace, last_layer
from deepmr.mutagenesis import effects_table
from deepmr.mutagenesis.drawn_model import DrawnModel
from deepmr.mutagenesis.drawn_weights import sampled_weights
from deepmr.mutagenesis.local.engine import LocalEngine
from deepmr.mutagenesis.straight import StraightEngine
from deepmr.mutagenesis.substitutions import mutants
from deepmr.predict import predict_windows
from deepmr.shards import trial
from deepmr.shards.content import Content
from tests.unit.test_effects_table import as_table
from tests.unit.test_shard_plan import tiny

LENGTH = 20
TARGETS = ("A", "B", "C")
OPTIONS = {"n_layers": 2, "channels": 4, "kernel": [5, 3], "dropout": [0.3, 0.5]}
D = 4 * (LENGTH // 16) + 1


class Reader:
    """Gives the codes of windows that are named by their row."""

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = codes

    def windows(self, table: pa.Table) -> np.ndarray:
        return self._codes[[int(name) for name in table["sequence_id"].to_pylist()]]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = architectures.build("small", 3, LENGTH, **OPTIONS)
    with torch.no_grad():
        made[-1].weight *= 4
    return made


def model_of(members: int = 1, kinds: tuple[str, ...] = ("binary",) * 3) -> checkpoint.TrainedModel:
    networks = [network(seed) for seed in range(members)]
    return checkpoint.TrainedModel("toy", "small", OPTIONS, LENGTH, TARGETS, kinds, networks)


def data(n: int = 300) -> tuple[Reader, pa.Table, np.ndarray, np.ndarray]:
    """Windows of which 2 in 3 are train windows, with labels that miss now and then."""
    rng = np.random.default_rng(5)
    codes = rng.integers(4, size=(n, LENGTH), dtype=np.uint8)
    labels = rng.integers(2, size=(n, 3)).astype(np.float32)
    labels[rng.random((n, 3)) < [0.0, 0.3, 0.8]] = np.nan
    columns = {
        f"label.{target}": pa.array(labels[:, k], pa.float32(), from_pandas=True)
        for k, target in enumerate(TARGETS)
    }
    split = [("train", "train", "test")[row % 3] for row in range(n)]
    windows = pa.table({"sequence_id": [str(row) for row in range(n)], "split": split, **columns})
    return Reader(codes), windows, codes, labels


@pytest.fixture(scope="module")
def model() -> checkpoint.TrainedModel:
    reader, windows, _, _ = data()
    made = model_of(2)
    posterior = laplace.fit(made, reader, windows, ["C", "A"], device="cpu")
    return dataclasses.replace(made, laplace=posterior)


def test_the_curvature_is_the_hessian_of_the_loss_by_autograd(
    model: checkpoint.TrainedModel,
) -> None:
    _, _, codes, labels = data()
    train = np.arange(300) % 3 < 2
    member = model.members[1]
    for k, target in ((2, "C"), (0, "A")):
        rows = train & ~np.isnan(labels[:, k])
        with torch.no_grad():
            features = member[:-1](torch.from_numpy(one_hot(codes[rows]))).double()
        features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
        weights = torch.cat([member[-1].weight[k], member[-1].bias[k : k + 1]]).double()
        truth = torch.from_numpy(labels[rows, k]).double()
        assert model.laplace is not None
        (fitted,) = model.laplace.of(1, [target])

        def minus_log_posterior(
            w: Tensor,
            features: Tensor = features,
            truth: Tensor = truth,
            prior: float = fitted.prior_precision,
        ) -> Tensor:
            loss = nn.functional.binary_cross_entropy_with_logits(
                features @ w, truth, reduction="sum"
            )
            return loss + prior * w @ w / 2

        hessian = torch.autograd.functional.hessian(minus_log_posterior, weights)
        expected = np.linalg.inv(hessian.numpy())
        found = fitted.root @ fitted.root.T
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * expected.max())
        np.testing.assert_array_equal(np.tril(fitted.root, -1), 0)
        np.testing.assert_allclose(fitted.mean, weights.numpy())


def test_the_prior_is_the_best_of_a_grid_by_the_determinant(
    model: checkpoint.TrainedModel,
) -> None:
    assert model.laplace is not None
    for fitted in model.laplace.of(0, ["C", "A"]):
        d = len(fitted.mean)
        covariance = fitted.root @ fitted.root.T
        curvature = np.linalg.inv(covariance) - fitted.prior_precision * np.eye(d)

        def log_evidence(
            precision: float, curvature: np.ndarray = curvature, w: np.ndarray = fitted.mean
        ) -> float:
            _, determinant = np.linalg.slogdet(curvature + precision * np.eye(len(w)))
            return -precision * w @ w / 2 + len(w) * np.log(precision) / 2 - determinant / 2

        grid = fitted.prior_precision * np.exp(np.linspace(-6, 6, 241))
        values = [log_evidence(precision) for precision in grid]
        assert np.argmax(values) == 120
        assert values[120] - values[119] > 1e-6


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda e: max(e) > 1e-9),
    st.floats(1e-6, 1e6),
)
@settings(max_examples=100, deadline=None)
def test_the_prior_solves_the_equation_of_the_evidence(
    eigenvalues: list[float], squared_norm: float
) -> None:
    e = np.array(eigenvalues)
    precision = laplace.prior_precision(e, squared_norm)
    assert precision * squared_norm == pytest.approx((e / (e + precision)).sum(), rel=1e-8)


def test_the_closed_form_is_the_variance_over_many_draws(
    model: checkpoint.TrainedModel,
) -> None:
    member = model.members[0]
    codes = np.random.default_rng(8).integers(4, size=LENGTH, dtype=np.uint8)
    layer = last_layer.find(member, LENGTH)
    rows = torch.from_numpy(one_hot(mutants(codes, 0, 1 + 3 * LENGTH)))
    features = layer.evaluate(rows)[0].double().numpy()
    dphi = features[1:] - features[0]
    dphi = dphi[np.abs(dphi).max(1) > 1e-6]
    assert len(dphi) > 20
    assert model.laplace is not None
    for target, fitted in zip(("C", "A"), model.laplace.of(0, ["C", "A"]), strict=True):
        variance = laplace.effect_variance(fitted, dphi)
        weights = sampled_weights(fitted, target, 3, 0, range(20_000))
        sampled = (dphi @ weights.T).var(axis=1)
        # A variance of 20,000 normal numbers has a relative SD of 1 %.
        ratio = sampled / variance
        assert np.abs(ratio - 1).max() < 0.03
        assert abs(np.mean(ratio) - 1) < 0.02


def hand_written(
    model: checkpoint.TrainedModel, codes: np.ndarray, targets: list[str], draws: DrawSet
) -> np.ndarray:
    """Logits (1 + T, rows, K) of codes, a layer at a time in float64."""
    member = model.members[0]
    with torch.no_grad():
        features = member[:-1](torch.from_numpy(one_hot(codes))).double().numpy()
    features = np.hstack([features, np.ones((len(features), 1))])
    logits = np.empty((1 + draws.number, len(codes), len(targets)))
    for k, target in enumerate(targets):
        row = TARGETS.index(target)
        w = np.append(member[-1].weight[row].numpy(), member[-1].bias[row].numpy())
        assert model.laplace is not None
        (fitted,) = model.laplace.of(0, [target])
        logits[0, :, k] = features @ w
        for t in range(draws.number):
            eps = standard_normals(draws.seed, target, 0, t, len(w))
            logits[1 + t, :, k] = features @ (w + fitted.root @ eps)
    return logits


@pytest.mark.parametrize("engine", ["local", "naive"])
@pytest.mark.parametrize("average_strands", [False, True])
def test_both_engines_give_a_hand_written_loop_over_draws(
    model: checkpoint.TrainedModel, engine: str, average_strands: bool
) -> None:
    draws = DrawSet("laplace", 30, 4, 2)
    targets = ["A", "C"]
    codes = np.random.default_rng(1).integers(4, size=LENGTH, dtype=np.uint8)
    rows = mutants(codes, 0, 1 + 3 * LENGTH)
    expected = hand_written(model, rows, targets, draws)
    if average_strands:
        back = hand_written(model, reverse_complement(rows), targets, draws)
        expected = (expected + back) / 2
    effects = mutagenesis.saturate(
        model, codes[None], targets, draws, engine, average_strands=average_strands, device="cpu"
    )
    close = {"atol": 2e-6 * np.abs(expected).max(), "rtol": 0}
    np.testing.assert_allclose(effects.reference_eval[0], expected[0, 0], **close)
    np.testing.assert_allclose(effects.reference[0], expected[1:, 0], **close)
    delta = (expected[:, 1:] - expected[:, :1]).reshape(-1, LENGTH, 3, 2)
    np.testing.assert_allclose(effects.delta_eval[0], delta[0], **close)
    np.testing.assert_allclose(effects.delta[0], delta[1:].transpose(1, 2, 0, 3), **close)
    assert np.abs(effects.delta).max() > 100 * close["atol"]


def test_a_draw_depends_on_nothing_but_its_number_and_its_target(
    model: checkpoint.TrainedModel,
) -> None:
    codes = np.random.default_rng(2).integers(4, size=(1, LENGTH), dtype=np.uint8)
    many = mutagenesis.saturate(model, codes, ["A", "C"], DrawSet("laplace", 40, 4, 2))
    few = mutagenesis.saturate(model, codes, ["C"], DrawSet("laplace", 10, 4, 2))
    np.testing.assert_allclose(few.delta[..., 0], many.delta[:, :, :, :10, 1], atol=1e-6)
    assert model.laplace is not None
    (fitted,) = model.laplace.of(0, ["C"])
    np.testing.assert_array_equal(
        sampled_weights(fitted, "C", 4, 0, range(10)),
        sampled_weights(fitted, "C", 4, 0, range(40))[:10],
    )
    other = mutagenesis.saturate(model, codes, ["C"], DrawSet("laplace", 10, 5, 2))
    assert np.abs(other.delta - few.delta).max() > 0.01 * np.abs(few.delta).max()


def test_prediction_does_not_depend_on_its_batch(model: checkpoint.TrainedModel) -> None:
    draws = DrawSet("laplace", 6, 4, 2)
    codes = np.random.default_rng(2).integers(4, size=(70, LENGTH), dtype=np.uint8)
    evaluated, drawn = predict_windows(model, [codes], ["C", "A"], draws, device="cpu")
    assert drawn.shape == (70, 6, 2)
    batches = [codes[:1], codes[1:9], codes[9:]]
    for other in (
        predict_windows(model, batches, ["C", "A"], draws, workers=2, device="cpu"),
        [p[::-1] for p in predict_windows(model, [codes[::-1]], ["C", "A"], draws, device="cpu")],
    ):
        np.testing.assert_array_equal(other[0], evaluated)
        np.testing.assert_array_equal(other[1], drawn)


def test_no_pass_has_more_rows_than_sequences(model: checkpoint.TrainedModel) -> None:
    drawn = DrawnModel(model, ["A"], DrawSet("laplace", 40, 4, 2), rows_per_batch=16)
    assert drawn.sequences_per_pass == 16
    seen = []
    first = drawn.members[0].network.network[0]
    first.register_forward_hook(lambda _, given, made: seen.append(len(made)))
    StraightEngine(drawn)(np.zeros(LENGTH, np.uint8))
    assert max(seen) == 16
    assert sum(seen) == 1 + 3 * LENGTH


def test_a_draw_costs_the_last_layer_alone_and_the_gain_counts_it(
    model: checkpoint.TrainedModel,
) -> None:
    costs = {}
    for number in (2, 40):
        drawn = DrawnModel(model, ["A", "C"], DrawSet("laplace", number, 4, 2), device="cpu")
        engine = LocalEngine(drawn, 1e9)
        # What follows a dropout site is called drawn, but without masks it runs once like the rest.
        plan = engine.plans[0]
        once = plan.flops(False) + plan.flops(True)
        costs[number] = sum(plan.forward_flops.values())
        assert engine.gain == pytest.approx(costs[number] / once)
        assert engine.gain > 1
    assert costs[40] - costs[2] == 2 * (D - 1) * 38 * 2


def test_targets_err_independently_of_each_other(model: checkpoint.TrainedModel) -> None:
    draws = DrawSet("laplace", 2000, 4, 2)
    codes = np.random.default_rng(2).integers(4, size=(1, LENGTH), dtype=np.uint8)
    delta = mutagenesis.saturate(model, codes, ["A", "C"], draws).delta[0].reshape(-1, 2000, 2)
    spread = delta.std(1)
    moved = delta[(spread > 0.1 * spread.max(0)).all(1)]
    assert len(moved) > 10
    correlations = [np.corrcoef(each.T)[0, 1] for each in moved]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(2000)


def test_a_shard_of_laplace_draws_has_the_usual_tables(
    model: checkpoint.TrainedModel, tmp_path: Path
) -> None:
    codes = np.random.default_rng(3).integers(4, size=(2, LENGTH), dtype=np.uint8)
    draws = DrawSet("laplace", 5, 4, 2)
    counts = effects_table.write_shard(
        model, as_table(codes), ["A"], draws, tmp_path / "e.parquet", tmp_path / "r.parquet"
    )
    assert counts.mutations == 2 * 3 * LENGTH


def test_the_file_goes_with_its_model(model: checkpoint.TrainedModel, tmp_path: Path) -> None:
    path, other, file = (tmp_path / name for name in ("m.pt", "other.pt", "m.laplace.pt"))
    model.save(path)
    assert model.laplace is not None
    checkpoint.save_laplace(model.laplace, path, file)
    assert sorted(tmp_path.iterdir()) == [file, path]
    assert checkpoint.load(path).laplace is None
    loaded = checkpoint.load(path, laplace=file).laplace
    assert loaded is not None
    assert loaded.targets == ("C", "A")
    for member in (0, 1):
        for target in ("A", "C"):
            (ours,), (theirs,) = (p.of(member, [target]) for p in (loaded, model.laplace))
            np.testing.assert_array_equal(ours.root, theirs.root)
            np.testing.assert_array_equal(ours.mean, theirs.mean)
            assert ours.prior_precision == theirs.prior_precision
    model_of(1).save(other)
    with pytest.raises(checkpoint.CheckpointError, match=r"another model than .*other.pt; fit it"):
        checkpoint.load(other, laplace=file)
    with pytest.raises(checkpoint.CheckpointError, match="no Laplace posterior of this version"):
        checkpoint.load(path, laplace=path)


def test_a_member_alone_takes_its_posterior_along(model: checkpoint.TrainedModel) -> None:
    alone = model.alone(1)
    assert alone.members == [model.members[1]]
    assert alone.laplace is not None
    assert model.laplace is not None
    assert alone.laplace.of(0, ["A"]) == model.laplace.of(1, ["A"])
    codes = np.zeros((1, LENGTH), np.uint8)
    mutagenesis.saturate(alone, codes, ["A"], DrawSet("laplace", 3, 1))
    assert model_of(2).alone(0).laplace is None


def test_what_cannot_be_drawn_is_refused(model: checkpoint.TrainedModel) -> None:
    draws = DrawSet("laplace", 3, 1, 2)
    with pytest.raises(ValueError, match="laplace need the posterior of the model"):
        DrawnModel(dataclasses.replace(model, laplace=None), ["A"], draws)
    with pytest.raises(ValueError, match=r"no Laplace posterior of target B; .* targets C, A"):
        DrawnModel(model, ["A", "B"], draws)
    sigmoid = nn.Sequential(network(0), nn.Sigmoid())
    changed = SimpleNamespace(
        members=[sigmoid], targets=TARGETS, length=LENGTH, laplace=model.laplace
    )
    with pytest.raises(last_layer.LastLayerError, match=r"Sequential .*mc_dropout or ensemble"):
        DrawnModel(changed, ["A"], DrawSet("laplace", 3, 1))
    torch.manual_seed(0)
    wider = architectures.build("small", 3, LENGTH, **{**OPTIONS, "channels": 5})
    changed.members = [wider]
    with pytest.raises(
        ValueError, match=f"posterior is of {D} weights, the last layer has {D + 1}"
    ):
        DrawnModel(changed, ["A"], DrawSet("laplace", 3, 1))


def test_what_cannot_be_fitted_is_refused() -> None:
    reader, windows, _, _ = data(30)
    fit = laplace.fit
    with pytest.raises(ValueError, match="for binary targets; B is count: write mc_dropout"):
        fit(model_of(kinds=("binary", "count", "binary")), reader, windows, ["A", "B"])
    with pytest.raises(ValueError, match="does not predict \\['X'\\]"):
        fit(model_of(), reader, windows, ["X"])
    with pytest.raises(ValueError, match="none asked"):
        fit(model_of(), reader, windows, [])
    held_out = windows.set_column(1, "split", pa.array(["test"] * 30))
    with pytest.raises(ValueError, match="no window is in the split 'train'"):
        fit(model_of(), reader, held_out, ["A"])
    column = windows.column_names.index("label.A")
    unmeasured = windows.set_column(column, "label.A", pa.nulls(30, pa.float32()))
    with pytest.raises(ValueError, match="target A is measured in no train window"):
        fit(model_of(), reader, unmeasured, ["A"])
    silent = model_of()
    for parameter in silent.members[0][-1].parameters():
        parameter.data.zero_()
    with pytest.raises(ValueError, match=r"target A, member 0: .*has no maximum"):
        fit(silent, reader, windows, ["A"])
    broken = model_of()
    broken.members[0][-1].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="the output"):
        fit(broken, reader, windows, ["A"])


def test_a_plan_of_shards_has_a_posterior_of_the_right_size(tmp_path: Path) -> None:
    config = tiny(tmp_path, uncertainty={"draws": 5, "method": "laplace"})
    options = {"threads": 1, "seconds": 0.1, "most_sequences": 3, "mr_sequences": 3}
    measured = trial.mutagenesis(
        tmp_path, {"config": config, "model": "cnn", "timed": True, **options}
    )
    assert measured["seconds_per_sequence"] > 0
    with_posterior = Content.of(config, 1).member_mb
    config["uncertainty"]["method"] = "mc_dropout"
    d = 4 * (40 // 4) + 1
    assert with_posterior - Content.of(config, 1).member_mb == pytest.approx(2 * 8e-6 * d**2)


def test_labels_do_not_matter_but_whether_they_are_measured(
    model: checkpoint.TrainedModel, caplog: pytest.LogCaptureFixture
) -> None:
    reader, windows, _, labels = data()
    column = windows.column_names.index("label.C")
    flipped = pa.array(1 - labels[:, 2], pa.float32(), from_pandas=True)
    with caplog.at_level(logging.WARNING):
        again = laplace.fit(
            model_of(2),
            reader,
            windows.set_column(column, "label.C", flipped),
            ["C"],
            members=[1],
            cache_bytes=0,
            device="cpu",
        )
    assert model.laplace is not None
    (ours,), (theirs,) = again.of(1, ["C"]), model.laplace.of(1, ["C"])
    np.testing.assert_allclose(ours.root, theirs.root, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"no Laplace posterior of member 0; .* members \[1\]"):
        again.of(0, ["C"])
