from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from deepmr import tables
from deepmr.models import architectures, checkpoint


def toy(members: int = 2) -> checkpoint.TrainedModel:
    options = {"channels": (3, 3), "n_layers": 2, "dropout": 0.25}
    networks = [architectures.build("small", 2, 40, **options) for _ in range(members)]
    return checkpoint.TrainedModel(
        "cnn", "small", options, 40, ("A", "B"), ("binary", "count"), networks
    )


def test_loading_gives_back_what_was_saved(tmp_path: Path) -> None:
    model = toy()
    model.save(tmp_path / "deep" / "model.pt")
    loaded = checkpoint.load(tmp_path / "deep" / "model.pt")
    assert (loaded.name, loaded.architecture, loaded.length) == ("cnn", "small", 40)
    assert (loaded.targets, loaded.kinds) == (("A", "B"), ("binary", "count"))
    assert loaded.options == model.options
    inputs = torch.rand(3, 4, 40)
    for before, after in zip(model.members, loaded.members, strict=True):
        assert torch.equal(before(inputs), after(inputs))


def test_members_are_in_eval_mode_without_gradients(tmp_path: Path) -> None:
    model = toy(1)
    model.save(tmp_path / "model.pt")
    for member in (*model.members, *checkpoint.load(tmp_path / "model.pt").members):
        assert not any(module.training for module in member.modules())
        assert not any(p.requires_grad for p in member.parameters())


def test_equal_models_are_equal_files_and_nothing_else_is_left(tmp_path: Path) -> None:
    model = toy(1)
    for name in ("a.pt", "b.pt"):
        model.save(tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pt", "b.pt"]


def test_columns_of_targets() -> None:
    assert toy().columns(["B", "A", "B"]) == [1, 0, 1]
    with pytest.raises(ValueError, match="model cnn has no target C; it has A, B"):
        toy().columns(["A", "C"])


def test_every_target_needs_a_type() -> None:
    with pytest.raises(ValueError, match="2 targets but 1 types"):
        checkpoint.TrainedModel("cnn", "small", {}, 40, ("A", "B"), ("binary",), [])


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    toy(1).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.pt cannot be read as tensors"):
        checkpoint.load(path)
    path.write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.pt cannot be read as tensors"):
        checkpoint.load(path)
    torch.save([1, 2], path)
    with pytest.raises(checkpoint.CheckpointError, match="holds a list"):
        checkpoint.load(path)
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(checkpoint.CheckpointError, match="no Deep MR model of this version"):
        checkpoint.load(path)


class Sneaky:
    def __reduce__(self) -> tuple:
        return print, ("code of the file was run",)


def test_a_file_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Sneaky()}, tmp_path / "model.pt")
    with pytest.raises(checkpoint.CheckpointError, match="cannot be read as tensors"):
        checkpoint.load(tmp_path / "model.pt")
    assert capsys.readouterr().out == ""


def test_history_is_a_table(tmp_path: Path) -> None:
    row = {"member": 0, "epoch": 1, "train_loss": 0.5, "validation_loss": 0.4}
    row |= {"learning_rate": 1e-3, "seconds": 2.0, "auroc.A": 0.9, "auroc.B": None}
    checkpoint.save_history([row], ["A", "B"], tmp_path / "history.parquet", {"seed": 1})
    assert pq.read_table(tmp_path / "history.parquet").to_pylist() == [row]
    assert tables.read_metadata(tmp_path / "history.parquet") == {"seed": 1}
