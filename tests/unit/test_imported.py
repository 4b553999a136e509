import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from deepmr.models import architectures, checkpoint, imported

HEAD = "import torch\nfrom torch import nn\n"
GOOD = """
def network():
    return nn.Sequential(nn.Conv1d(4, 3, 5), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(3 * 16, 2))
"""


def write(folder: Path, source: str = GOOD) -> str:
    (folder / "mine.py").write_text(HEAD + source)
    return f"{folder / 'mine.py'}:network"


def weights(code: str, path: Path) -> Path:
    torch.save(architectures.from_code(code).state_dict(), path)
    return path


def test_an_imported_network_is_loaded_in_another_process(tmp_path: Path) -> None:
    code = write(tmp_path)
    model = imported.load_model(code, weights(code, tmp_path / "w.pt"), ["A", "B"], 20, name="mine")
    assert (model.name, model.architecture) == ("mine", "imported")
    assert model.kinds == ("binary", "binary")
    model.save(tmp_path / "model.pt")
    script = (
        "import torch; from deepmr.models import checkpoint\n"
        f"model = checkpoint.load({str(tmp_path / 'model.pt')!r})\n"
        "print(model.members[0](torch.ones(1, 4, 20)).tolist())"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(model.members[0](torch.ones(1, 4, 20)).tolist())


def test_safetensors_and_nested_state_dicts_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    code = write(tmp_path)
    state = architectures.from_code(code).state_dict()
    safetensors.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.ckpt")
    inputs = torch.ones(1, 4, 20)
    first, second = (
        imported.load_model(code, tmp_path / name, ["A", "B"], 20).members[0](inputs)
        for name in ("w.safetensors", "w.ckpt")
    )
    assert torch.equal(first, second)
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(imported.ImportedModelError, match="cannot be read as safetensors"):
        imported.load_model(code, tmp_path / "w.safetensors", ["A", "B"], 20)


def test_safetensors_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = write(tmp_path)
    (tmp_path / "w.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(imported.ImportedModelError, match="needs the package safetensors"):
        imported.load_model(code, tmp_path / "w.safetensors", ["A", "B"], 20)


def test_changed_code_is_refused(tmp_path: Path) -> None:
    code = write(tmp_path)
    model = imported.load_model(code, weights(code, tmp_path / "w.pt"), ["A", "B"], 20)
    model.save(tmp_path / "model.pt")
    write(tmp_path, GOOD.replace("ReLU", "Tanh"))
    with pytest.raises(checkpoint.CheckpointError, match="has changed since the network was"):
        checkpoint.load(tmp_path / "model.pt")
    (tmp_path / "mine.py").unlink()
    with pytest.raises(checkpoint.CheckpointError, match="has changed since the network was"):
        checkpoint.load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def other(): pass", "has no function 'network'; it has other"),
        ("network = 3", "has no function 'network'; it has none"),
        ("1 / 0", "mine.py cannot be run: ZeroDivisionError"),
        ("def network(): raise KeyError('x')", "network() failed: KeyError('x')"),
        ("def network(): return 7", "network() returned int; return a torch.nn.Module"),
    ],
)
def test_code_without_a_network_is_named(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(architectures.ArchitectureError) as caught:
        architectures.from_code(write(tmp_path, source))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("mine.py", "'mine.py' names no function; write file.py:function"),
        ("absent.py:network", "there is no file absent.py"),
        ("mine.txt:network", "mine.txt is no Python file"),
    ],
)
def test_malformed_code_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(architectures.ArchitectureError) as caught:
        architectures.from_code(code)
    assert message in str(caught.value)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    code = write(tmp_path)
    state = architectures.from_code(code).state_dict()
    state["extra"] = state.pop("0.bias")
    state["4.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(imported.ImportedModelError) as caught:
        imported.load_model(code, tmp_path / "w.pt", ["A", "B"], 20)
    for part in (
        "0.bias is missing",
        "extra is not in the network",
        "4.bias has shape (9,), the network's has (2,)",
    ):
        assert part in str(caught.value)
    torch.save({f"x{i}": torch.zeros(1) for i in range(9)}, tmp_path / "w.pt")
    with pytest.raises(imported.ImportedModelError, match=r"more$"):
        imported.load_model(code, tmp_path / "w.pt", ["A", "B"], 20)
    with pytest.raises(imported.ImportedModelError, match=r"no file .*absent\.pt with the network"):
        imported.load_model(code, tmp_path / "absent.pt", ["A", "B"], 20)


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(dim=(1, 2)), "gave an output of shape (2,); expected (2, 3)"),
        (lambda x: x[:, :3, 0].double(), "the output is torch.float64; expected torch.float32"),
        (lambda x: x[:, :3, 0] / 0, "the output is not finite"),
        (lambda x: x[:, :3, 0] + torch.rand(1), "two calls on the same input"),
        (lambda x: x[:, :3].sum(2) - x[:, :3].sum(2).mean(0), "alone and in a batch of 2"),
        (lambda x: (x,), "the network returned tuple; expected one tensor (n, targets)"),
        (lambda x: x @ x, "failed on an input (2, 4, 10): RuntimeError"),
    ],
)
def test_contract_breaches_say_what_was_got(function, message: str) -> None:
    with pytest.raises(imported.ImportedModelError) as caught:
        imported.check(Lambda(function), 3, 10)
    assert message in str(caught.value)


def test_a_sound_network_passes() -> None:
    network = Lambda(lambda x: x[:, :3].sum(2))
    imported.check(network, 3, 10)
    assert not network.training


def test_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no target type is called 'ordinal'"):
        imported.load_model(write(tmp_path), tmp_path / "w.pt", ["A"], 20, kinds=["ordinal"])
