"""What made a result: fingerprints of code and configuration, versions, seed.

Snakemake sees a change of a rule or a script, but not of a module that the script imports. So every
rule has a parameter made by :func:`fingerprint`, which changes when the code of a module, or of any
``deepmr`` module it imports, changes; comments, formatting and docstrings do not count.

Only the standard library is imported here, because every job parses the Snakefile again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from deepmr import __version__

_PACKAGE = Path(__file__).parent
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PACKAGES = (
    "snakemake",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "scipy",
    "scikit-learn",
    "pyfaidx",
    "matplotlib",
)


class StaleCodeError(RuntimeError):
    """A job runs other code than the one the workflow was started with."""


def fingerprint(*modules: str) -> str:
    """Name the code of modules and of every ``deepmr`` module they import.

    Parameters
    ----------
    *modules : str
        Dotted names, such as ``"deepmr.mr.shard"``.

    Returns
    -------
    str
        ``"deepmr.mr.shard=3f2a…"``: the names, and 16 hexadecimal digits of a hash over their
        syntax trees without docstrings.

    Raises
    ------
    ModuleNotFoundError
        If a module does not exist in this package.
    """
    digest = hashlib.blake2b(digest_size=8)
    for module in sorted(_closure(modules)):
        digest.update(f"{module}\0{_code(module)}\0".encode())
    return f"{'+'.join(modules)}={digest.hexdigest()}"


def verify(expected: str) -> None:
    """Refuse to run when the code on this machine is not what the workflow was started with.

    Parameters
    ----------
    expected : str
        What :func:`fingerprint` gave when the workflow was started.

    Raises
    ------
    StaleCodeError
        If the fingerprints differ: the files were edited since, or another copy of the package
        was imported (a plain, not editable, installation).
    """
    found = fingerprint(*expected.split("=")[0].split("+"))
    if found != expected:
        raise StaleCodeError(
            f"this job runs {found} from {_PACKAGE}, but the workflow was started with {expected}: "
            "the code was edited while it ran, or another copy of deepmr is installed. "
            "Run the same command again; if it happens again, `pip uninstall deepmr`"
        )


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a configuration, whatever the order of its keys."""
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def content_hash(*paths: str | Path) -> str:
    """Return 16 hexadecimal digits that name the content of files, in the order given."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, hashlib.blake2b).digest())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version(), "deepmr": __version__}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed here"
    return found


def _closure(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting.extend(_imports(module))
    return found


def _path(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != _PACKAGE.name:
        return None
    base = _PACKAGE.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module!r} in {_PACKAGE}")
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    # A package's __init__ runs when one of its modules is imported.
    parents = {
        ".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 1)
    }
    return tuple(sorted(name for name in names | parents if _path(name) is not None))


@cache
def _code(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Tell a docstring, or the note below an attribute, which do nothing when run."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
