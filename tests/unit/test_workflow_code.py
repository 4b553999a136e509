"""A script's imports are in its rule's fingerprint, so that an edit of them reruns the rule."""

from __future__ import annotations

import ast
import re

import pytest

from deepmr import provenance
from tests.unit.test_config import ROOT

# What every job does first; it changes no result.
WITHOUT_RESULT = {"deepmr", "deepmr.job", "deepmr.provenance"}


def rules() -> dict[str, tuple[str, ...]]:
    """Return the modules that each rule with a script fingerprints."""
    found = {}
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for block in re.split(r"(?m)^ *(?=rule \w+:$)", path.read_text())[1:]:
            script = re.search(r'"\.\./scripts/(\w+)\.py"', block)[1]
            arguments = re.search(r"fingerprint\(([^)]*)\)", block)[1]
            found[script] = tuple(re.findall(r'"([\w.]+)"', arguments))
    return found


def imported(script: str) -> set[str]:
    tree = ast.parse((ROOT / "workflow" / "scripts" / f"{script}.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "deepmr":
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if provenance._path(name)} - WITHOUT_RESULT


def test_every_script_belongs_to_a_rule():
    scripts = {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")}
    assert set(rules()) == scripts


@pytest.mark.parametrize("script", sorted(rules()))
def test_fingerprint_covers_what_the_script_imports(script):
    assert imported(script) - provenance._closure(rules()[script]) == set()
