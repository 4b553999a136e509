import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from deepmr.models import batches, checkpoint, training
from deepmr.models import member as member_module

LENGTH = 24
TARGETS = {"A": "binary", "B": "binary", "N": "count", "V": "continuous"}
SMALL: dict[str, Any] = {"n_layers": 1, "channels": 8, "kernel": 5, "dropout": 0.2}


class ArrayReader:
    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    def windows(self, table: pa.Table) -> np.ndarray:
        return self.codes[[int(name[1:]) for name in table.column("sequence_id").to_pylist()]]


def make(n: int = 480, seed: int = 0) -> tuple[ArrayReader, pa.Table]:
    """Windows whose labels say whether GATA (A) or a G-rich stretch (B) is in them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, LENGTH), dtype=np.uint8)
    has = rng.random(n) < 0.5
    codes[has, 10:15] = [2, 0, 3, 0, 0]
    rich = (codes == 2).mean(axis=1)
    split = np.where(np.arange(n) % 4 == 3, "validation", "train")
    table = pa.table(
        {
            "sequence_id": [f"w{i}" for i in range(n)],
            "split": split,
            "label.A": has.astype(np.float32),
            "label.B": pa.array((rich > 0.25).astype(np.float32), mask=~has),
            "label.N": rng.poisson(np.exp(has)).astype(np.float32),
            "label.V": rich.astype(np.float32),
        }
    )
    return ArrayReader(codes), table


def train(
    windows: pa.Table | None = None, targets: dict[str, str] | None = None, **options: Any
) -> tuple[checkpoint.TrainedModel, checkpoint.History]:
    reader, table = make()
    settings: dict[str, Any] = {
        "name": "toy",
        "architecture": "small",
        "options": SMALL,
        "length": LENGTH,
        "seed": 5,
        "epochs": 4,
        "batch_size": 32,
        "learning_rate": 0.01,
    }
    return training.train(
        reader, table if windows is None else windows, targets or TARGETS, **(settings | options)
    )


def states(model: checkpoint.TrainedModel) -> list[torch.Tensor]:
    return [value for member in model.members for value in member.state_dict().values()]


def equal(first: checkpoint.TrainedModel, second: checkpoint.TrainedModel) -> bool:
    return all(map(torch.equal, states(first), states(second)))


def without_seconds(history: checkpoint.History) -> checkpoint.History:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_a_motif_is_learned_and_the_history_tells_it() -> None:
    model, history = train(epochs=12)
    assert model.targets == ("A", "B", "N", "V")
    assert model.options == SMALL | {"pool": 4, "batch_norm": False}
    assert model.kinds == ("binary", "binary", "count", "continuous")
    assert [row["epoch"] for row in history] == list(range(1, len(history) + 1))
    assert max(row["auroc.A"] for row in history) > 0.9
    assert history[-1]["validation_loss"] < history[0]["validation_loss"] - 0.05
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.05
    assert all(row["seconds"] > 0 for row in history)
    assert history[0]["auroc.N"] is None
    assert history[0]["auroc.V"] is None
    rates = [row["learning_rate"] for row in history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-4


def test_the_best_epoch_is_kept() -> None:
    model, history = train(
        epochs=12, patience=12, learning_rate=0.1, options=SMALL | {"dropout": 0}
    )
    best = min(row["validation_loss"] for row in history)
    assert best < history[-1]["validation_loss"]
    reader, table = make()
    rows = table.filter(pa.compute.equal(table["split"], "validation"))
    outputs = model.members[0](batches.one_hot(reader.windows(rows)))
    loss = training.losses.masked_loss(
        outputs, torch.from_numpy(batches.read_labels(rows, model.targets)), model.kinds
    )
    assert float(loss) == pytest.approx(best, rel=1e-5)


def test_training_stops_when_patience_is_over() -> None:
    windows = make()[1]
    noise = np.random.default_rng(1).integers(0, 2, windows.num_rows).astype(np.float32)
    windows = windows.set_column(2, "label.A", pa.array(noise))
    _, history = train(
        windows, {"A": "binary"}, epochs=60, patience=2, options=SMALL | {"dropout": 0}
    )
    best = min(range(len(history)), key=lambda i: history[i]["validation_loss"])
    assert len(history) == best + 3 < 60


def test_equal_seeds_give_equal_bits_whether_cached_or_not() -> None:
    first, first_history = train()
    second, second_history = train(cache_bytes=0)
    assert equal(first, second)
    assert without_seconds(first_history) == without_seconds(second_history)
    assert not equal(first, train(seed=6)[0])


def test_state_of_torch_is_put_back() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(epochs=1, cpu_threads=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_members_differ_and_the_first_does_not_depend_on_their_number() -> None:
    one, _ = train(epochs=2)
    three, history = train(epochs=2, members=3)
    assert [(row["member"], row["epoch"]) for row in history] == [
        (m, e) for m in range(3) for e in (1, 2)
    ]
    first, second, third = (next(iter(m.state_dict().values())) for m in three.members)
    assert torch.equal(first, next(iter(one.members[0].state_dict().values())))
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


class KilledError(Exception):
    """Stands for a kill."""


def kill_at_epoch(monkeypatch: pytest.MonkeyPatch, member: int, epoch: int) -> None:
    """Raise in the middle of the given epoch, as a kill would end it."""
    steps = member_module.MemberTrainer._steps

    def dying(self: member_module.MemberTrainer, now: int) -> tuple[float, float]:
        found = steps(self, now)
        if (self.member, now) == (member, epoch):
            raise KilledError
        return found

    monkeypatch.setattr(member_module.MemberTrainer, "_steps", dying)


@pytest.mark.parametrize(("member", "epoch"), [(0, 1), (0, 3), (1, 2)])
def test_a_killed_training_continues_to_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    member: int,
    epoch: int,
) -> None:
    undisturbed, expected = train(members=2)
    with monkeypatch.context() as patch:
        kill_at_epoch(patch, member, epoch)
        with pytest.raises(KilledError):
            train(members=2, resume_dir=tmp_path)
    caplog.set_level(logging.INFO, logger="deepmr.models.member")
    continued, history = train(members=2, resume_dir=tmp_path)
    assert equal(undisturbed, continued)
    assert without_seconds(history) == without_seconds(expected)
    if epoch > 1:
        text = f"toy member {member + 1}/2: continues after epoch {epoch - 1}"
        assert text in caplog.messages
    trained = [m for m in caplog.messages if " epoch " in m and "/4: loss" in m]
    assert len(trained) == 8 - (member * 4 + epoch - 1)


@pytest.mark.parametrize("change", ["fingerprint", "setting", "labels", "sequences", "damage"])
def test_a_state_of_another_run_is_discarded_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    train(epochs=2, resume_dir=tmp_path, fingerprint="one")
    reader_windows = make()[1]
    options: dict[str, Any] = {"fingerprint": "one"}
    if change == "fingerprint":
        options["fingerprint"] = "two"
    elif change == "setting":
        options["weight_decay"] = 0.5
    elif change == "labels":
        reader_windows = reader_windows.set_column(2, "label.A", reader_windows["label.V"])
        options["targets"] = TARGETS | {"A": "continuous"}
    elif change == "sequences":
        reader_windows = reader_windows.slice(4)
    else:
        (tmp_path / "member-0.pt").write_bytes(b"damage")
    expected, _ = train(reader_windows, epochs=2, **options)
    found, _ = train(reader_windows, epochs=2, resume_dir=tmp_path, **options)
    assert equal(found, expected)
    assert any("starts anew" in message for message in caplog.messages)


def test_a_finished_state_is_not_trained_again(tmp_path: Path) -> None:
    first, history = train(resume_dir=tmp_path)
    second, again = train(resume_dir=tmp_path)
    assert equal(first, second)
    assert again == history


def with_label(target: str, value: float | None) -> pa.Table:
    windows = make()[1]
    column = windows[f"label.{target}"].to_pylist()
    column = [value] * len(column) if value is None else [value, *column[1:]]
    where = windows.column_names.index(f"label.{target}")
    return windows.set_column(where, f"label.{target}", pa.array(column, pa.float32()))


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (with_label("A", 0.5), "labels of the train windows: target A is binary, but 1 labels"),
        (with_label("N", -3.0), "target N is count, but 1 labels are such as -3"),
        (with_label("B", None), "target B is measured in none of 360"),
        (make()[1].slice(0, 3), "no window is in the split 'validation'"),
        (make()[1].slice(3, 1), "no window is in the split 'train'"),
    ],
)
def test_windows_that_cannot_be_trained_on_are_named(windows: pa.Table, message: str) -> None:
    with pytest.raises(training.TrainingError) as caught:
        train(windows)
    assert message in str(caught.value)


def test_a_diverging_loss_is_named() -> None:
    with pytest.raises(training.TrainingError, match=r"epoch \d.*lower training.learning_rate"):
        train(learning_rate=1e12, targets={"N": "count"})


def test_auroc_needs_both_labels() -> None:
    scores = np.array([0.1, 0.4, 0.3, 9.0])
    assert member_module._auroc(np.array([0, 1, 1, math.nan]), scores) == 1.0
    assert member_module._auroc(np.array([1, 1, math.nan, math.nan]), scores) is None
