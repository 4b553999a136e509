"""Open the user's files once, before any job starts, and say everything that is wrong with them.

Only the standard library is imported until a file has to be opened, so that a second start with
the same files is instant.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Config = Mapping[str, Any]

CACHE = ".preflight.json"
INDEX_FOLDER = "index"
"""Folder below the results for the index of a FASTA whose own folder is not writable."""

_VERSION = 1
_PARQUET_MAGIC = b"PAR1"
_CHECKED = ("data", "windows", "split", "targets", "models", "motifs", "simulation")


class InputError(ValueError):
    """Input files that cannot be used; the message lists every problem with its key.

    Attributes
    ----------
    problems : list of str
        One line for each.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("the input cannot be used:\n  " + "\n  ".join(problems))


def check_inputs(config: Config, base: Path) -> None:
    """Check the files that the configuration names, and that the split leaves windows.

    What has passed is remembered in `<results>/.preflight.json` by path, size and time of change.
    Files that the simulation makes are not looked at.

    Parameters
    ----------
    config : mapping
        The configuration, defaults filled in.
    base : Path
        Folder to which its paths are relative.

    Raises
    ------
    InputError
        With every problem found.
    """
    files = input_files(config, base)
    missing = [
        f"{key}: {path} {'is empty' if path.is_file() else 'does not exist'}; "
        "write the path of an existing file"
        for key, path in files.items()
        if not path.is_file() or path.stat().st_size == 0
    ]
    if missing:
        raise InputError(missing)
    results = base / config["results"]
    seen = _remembered(results / CACHE)
    state: dict[str, Any] = {
        "version": _VERSION,
        "config": _digest({key: config.get(key) for key in _CHECKED}),
        "files": {key: _identity(path) for key, path in files.items()},
    }
    if seen == state:
        return
    from deepmr.genome import input_checks  # numpy and Arrow, needed only here

    same_sequences = (
        seen.get("version") == _VERSION
        and config["data"]["source"] == "sequences"
        and seen.get("files", {}).get("data.fasta") == state["files"].get("data.fasta")
    )
    problems = input_checks.problems(
        config, files, results / INDEX_FOLDER, letters_known=same_sequences
    )
    if problems:
        raise InputError(problems)
    results.mkdir(parents=True, exist_ok=True)
    unfinished = results / f"{CACHE}.{os.getpid()}.tmp"
    unfinished.write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
    unfinished.replace(results / CACHE)


def input_files(config: Config, base: Path) -> dict[str, Path]:
    """Return the files that must exist before the run, by the key that names them.

    Parameters
    ----------
    config : mapping
        The configuration, defaults filled in.
    base : Path
        Folder to which its paths are relative.
    """
    data = config["data"]
    folder = base / data.get("directory", ".")
    simulated = config.get("simulation") is not None
    named: dict[str, Path | None] = {}
    if not simulated:
        named["data.fasta"] = folder / data["fasta"]
    for key in ("labels", "blacklist"):
        named[f"data.{key}"] = _below(folder, data.get(key))
    for name, target in config["targets"].items():
        if not simulated:
            named[f"targets.{name}.peaks"] = _below(folder, target.get("peaks"))
        named[f"targets.{name}.measured"] = _below(folder, target.get("measured"))
    named["motifs"] = _below(base, config.get("motifs"))
    for name, path in config.get("meta", {}).get("annotations", {}).items():
        named[f"meta.annotations.{name}"] = _below(base, path)
    for name, model in config.get("models", {}).items():
        code = model.get("code")
        named[f"models.{name}.code"] = _below(base, code and code.rpartition(":")[0])
        named[f"models.{name}.weights"] = _below(base, model.get("weights"))
    return {key: path for key, path in named.items() if path is not None}


def discard_damaged(results: Path) -> list[Path]:
    """Delete Parquet files that a crash has cut short, so that the workflow makes them again.

    Parameters
    ----------
    results : Path
        Folder that is searched, with everything below it.

    Returns
    -------
    list of Path
        What was deleted, sorted.
    """
    damaged = [path for path in sorted(results.rglob("*.parquet")) if not _complete(path)]
    for path in damaged:
        path.unlink()
    return damaged


def _complete(path: Path) -> bool:
    """Tell whether a file begins and ends as Parquet does, with room for the footer it announces.

    Layout: magic, data, footer, footer length (4 bytes, little endian), magic.
    """
    if not path.is_file():
        return True
    size = path.stat().st_size
    if size < 12:
        return False
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(-8, os.SEEK_END)
        tail = file.read(8)
    footer = int.from_bytes(tail[:4], "little")
    return head == tail[4:] == _PARQUET_MAGIC and 0 < footer <= size - 12


def _below(folder: Path, name: str | None) -> Path | None:
    return folder / name if name else None


def _identity(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _remembered(cache: Path) -> dict[str, Any]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}
