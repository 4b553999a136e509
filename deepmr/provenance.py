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
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from deepmr import __version__

_VARIABLE = "DEEPMR_FINGERPRINTS"
_PACKAGE = Path(__file__).parent
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


# The parts of every kind of syntax node, without what follows from the node's place or is notation.
_PARTS = {
    kind: tuple(name for name in kind._fields if name not in {"ctx", "kind", "type_comment"})
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}


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
        digest.update(f"{module}\0{_source(module).code}\0".encode())
    return f"{'+'.join(modules)}={digest.hexdigest()}"


def fingerprints_of_run(main_process: bool) -> Callable[..., str]:
    """Return `fingerprint` as a workflow uses it: worked out once, by its main process.

    Jobs are handed the main process's fingerprints in the environment. So they need not read the
    code to parse the Snakefile, and :func:`verify` compares what they run with what the workflow
    was started with, not with what stands on the disk by then.

    Parameters
    ----------
    main_process : bool
        Whether this is the process that the user has started.

    Returns
    -------
    callable
        Takes and returns what `fingerprint` does.
    """
    given: dict[str, str] = {} if main_process else json.loads(os.environ.get(_VARIABLE, "{}"))

    def of_run(*modules: str) -> str:
        name = "+".join(modules)
        if name not in given:
            given[name] = fingerprint(*modules)
            if main_process:
                os.environ[_VARIABLE] = json.dumps(given)
        return given[name]

    return of_run


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
            waiting.extend(_source(module).imports)
    return found


@cache
def _path(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != _PACKAGE.name:
        return None
    base = _PACKAGE.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


class _Source(NamedTuple):
    """What a module's code is: a hash of its syntax, and the modules of this package it imports."""

    code: str
    imports: tuple[str, ...]


@cache
def _source(module: str) -> _Source:
    """Read a module in one pass over its syntax tree, which is most of the cost of a start."""
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module!r} in {_PACKAGE}")
    words: list[str] = []
    imports: list[ast.Import | ast.ImportFrom] = []

    def read(part: Any) -> None:
        kind = part.__class__
        names = _PARTS.get(kind)
        if names is not None:
            if kind is ast.Import or kind is ast.ImportFrom:
                imports.append(part)
            elif (kind is ast.Expr or kind is ast.Pass) and _does_nothing(part):
                return
            words.append(kind.__name__)
            values = part.__dict__
            for name in names:
                read(values[name])
        elif kind is list:
            words.append("[")
            for item in part:
                read(item)
            words.append("]")
        else:
            words.append(repr(part))

    read(ast.parse(path.read_bytes()))
    # No word holds a line break, so equal lines are equal trees.
    code = hashlib.blake2b("\n".join(words).encode(), digest_size=8).hexdigest()
    return _Source(code, _in_this_package(imports))


def _in_this_package(imports: Iterable[ast.Import | ast.ImportFrom]) -> tuple[str, ...]:
    names: set[str] = set()
    for node in imports:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    # A package's __init__ runs when one of its modules is imported.
    parents = {
        ".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 1)
    }
    return tuple(sorted(name for name in names | parents if _path(name) is not None))


def _does_nothing(statement: ast.Expr | ast.Pass) -> bool:
    """Tell `pass`, a docstring, or the note below an attribute, which do nothing when run."""
    return isinstance(statement, ast.Pass) or (
        isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, str)
    )
