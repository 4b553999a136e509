"""Write ``config/README.md`` from the schema, so that the two cannot disagree.

``python -m deepmr.config_reference`` writes the file; with ``--check`` it only compares, and fails
when the file is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_ROOT = Path(__file__).parent.parent
SCHEMA = _ROOT / "workflow" / "schemas" / "config.schema.yaml"
REFERENCE = _ROOT / "config" / "README.md"

_HEAD = """# Configuration

<!-- Made from workflow/schemas/config.schema.yaml by `make docs`. Do not edit. -->

{description}

Examples: [`config.yaml`](config.yaml) (simulated, runs as shipped),
[`examples/k562.yaml`](examples/k562.yaml) (ready sequences and a label table),
[`examples/yeast.yaml`](examples/yeast.yaml) (a genome and BED files).
Unknown keys are refused.

| key | value | default | meaning |
|---|---|---|---|
"""


def render(schema: Mapping[str, Any]) -> str:
    """Return the reference of a schema as Markdown: one row a key.

    Parameters
    ----------
    schema : mapping
        A JSON schema whose properties have ``description`` and ``default``.

    Returns
    -------
    str
        A Markdown page.

    Raises
    ------
    ValueError
        If a key has no description.
    """
    rows = [
        f"| `{key}` | {_kind(rule)} | {_default(rule, required)} | {_description(key, rule)} |"
        for key, rule, required in _keys(schema)
    ]
    return _HEAD.format(description=schema["description"]) + "\n".join(rows) + "\n"


def _keys(
    schema: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, rule in schema.get("properties", {}).items():
        key = prefix + name
        yield key, rule, name in schema.get("required", [])
        yield from _keys(rule, f"{key}.")
        named = rule.get("additionalProperties")
        if isinstance(named, dict):
            yield from _keys(named, f"{key}.<name>.")


def _kind(rule: Mapping[str, Any]) -> str:
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    kinds = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    words = {"object": "section", "array": "list", "null": "null"}
    return " or ".join(words.get(kind) or str(kind) for kind in kinds)


def _default(rule: Mapping[str, Any], required: bool) -> str:
    if required:
        return "required"
    if "default" not in rule or rule.get("type") == "object":
        return ""
    return f"`{json.dumps(rule['default'], ensure_ascii=False)}`"


def _description(key: str, rule: Mapping[str, Any]) -> str:
    if "description" not in rule:
        raise ValueError(f"{SCHEMA.name}: {key} has no description; write one")
    return str(rule["description"])


def main(arguments: list[str]) -> int:
    """Write the reference, or with ``--check`` compare it; return the exit status."""
    text = render(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    if "--check" in arguments:
        if not REFERENCE.exists() or REFERENCE.read_text(encoding="utf-8") != text:
            print(f"{REFERENCE} is out of date; run `make docs`", file=sys.stderr)
            return 1
        return 0
    REFERENCE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
