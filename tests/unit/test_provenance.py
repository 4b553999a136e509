from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from deepmr import provenance

SOURCE = """'Module text.'

from deepmr.b import f


def g(x):
    'Text.'
    return f(x) + 1
"""
SAME_CODE = """'Other.'
from deepmr.b import f
# why
def g(x):
    'New.'
    return f( x )+1
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A little package `deepmr` whose files a test may edit."""
    root = tmp_path / "deepmr"
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "a.py").write_text(SOURCE)
    (root / "b.py").write_text("def f(x):\n    return x\n")
    (root / "alone.py").write_text("import numpy\n")
    monkeypatch.setattr(provenance, "_PACKAGE", root)
    caches = (provenance._path, provenance._source)

    def edit(name: str, text: str) -> None:
        (root / name).write_text(text)
        for cached in caches:
            cached.cache_clear()

    edit("c.py", "")
    yield edit
    for cached in caches:
        cached.cache_clear()


def test_docstring_comment_and_layout_do_not_count(package):
    before = provenance.fingerprint("deepmr.a")
    package("a.py", SAME_CODE)
    assert provenance.fingerprint("deepmr.a") == before


def test_attribute_note_does_not_count(package):
    package("b.py", "X = 1\n")
    before = provenance.fingerprint("deepmr.a")
    package("b.py", 'X = 1\n"""What X is."""\n')
    assert provenance.fingerprint("deepmr.a") == before


def test_edit_of_an_imported_module_counts(package):
    before = provenance.fingerprint("deepmr.a"), provenance.fingerprint("deepmr.alone")
    package("b.py", "def f(x):\n    return 2 * x\n")
    assert provenance.fingerprint("deepmr.a") != before[0]
    assert provenance.fingerprint("deepmr.alone") == before[1]


@pytest.mark.parametrize(
    "importer",
    [
        "def f():\n    from deepmr import b\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from deepmr.b import f\n",
        "try:\n    import deepmr.b\nexcept ImportError:\n    pass\n",
        "def f():\n    with open('x') as y:\n        import deepmr.b as c\n",
        "match 1:\n    case 1:\n        for i in ():\n            from deepmr import b\n",
    ],
)
def test_an_import_anywhere_counts(package, importer):
    package("a.py", importer)
    before = provenance.fingerprint("deepmr.a")
    package("b.py", "def f(x):\n    return 2 * x\n")
    assert provenance.fingerprint("deepmr.a") != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1\n", "x = True\n"),
        ("x = 1\n", "x = 1.0\n"),
        ("x = 'a'\n", "x = b'a'\n"),
        ("x = 'a'\n", "x = a\n"),
        ("x = [a, [b], c]\n", "x = [a, [b, c]]\n"),
        ("x = '[', ']'\n", "x = [], []\n"),
        ("def f(): return 1\n", "async def f(): return 1\n"),
        ("if a:\n    b\nc\n", "if a:\n    b\n    c\n"),
        ("f('text')\n", "f('other text')\n"),
        ("x = a.b\n", "a.b = x\n"),
    ],
)
def test_other_code_counts(package, one, other):
    package("a.py", one)
    before = provenance.fingerprint("deepmr.a")
    package("a.py", other)
    assert provenance.fingerprint("deepmr.a") != before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a'\n", 'x = ("a")\n'),
        ("f(a, b)\n", "f(\n    a,\n    b,\n)\n"),
        ("class A:\n    'Text.'\n", "class A:\n    pass\n"),
        ("x = 1_000\n", "x = 1000\n"),
    ],
)
def test_other_notation_does_not_count(package, one, other):
    package("a.py", one)
    before = provenance.fingerprint("deepmr.a")
    package("a.py", other)
    assert provenance.fingerprint("deepmr.a") == before


def test_edit_of_a_parent_package_counts(package, tmp_path):
    sub = tmp_path / "deepmr" / "sub"
    sub.mkdir()
    package("sub/__init__.py", "")
    package("sub/m.py", "")
    package("a.py", "import deepmr.sub.m\n")
    before = provenance.fingerprint("deepmr.a")
    package("sub/__init__.py", "X = 1\n")
    assert provenance.fingerprint("deepmr.a") != before


def test_stale_copy_is_refused(package):
    expected = provenance.fingerprint("deepmr.a", "deepmr.alone")
    provenance.verify(expected)
    package("b.py", "def f(x):\n    return 2 * x\n")
    with pytest.raises(provenance.StaleCodeError, match="the workflow was started with"):
        provenance.verify(expected)


def test_unknown_module_is_an_error(package):
    with pytest.raises(ModuleNotFoundError, match=r"deepmr\.nothing"):
        provenance.fingerprint("deepmr.nothing")


def test_every_imported_module_of_the_real_package_is_found():
    assert "deepmr.genome.alphabet" in provenance._closure(["deepmr.motifs"])


def test_config_hash_ignores_key_order():
    assert provenance.config_hash({"a": 1, "b": [2]}) == provenance.config_hash({"b": [2], "a": 1})
    assert provenance.config_hash({"a": 1}) != provenance.config_hash({"a": 2})


def test_content_hash_knows_content_and_order(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    a.write_text("x")
    b.write_text("y")
    c.write_text("x")
    assert provenance.content_hash(a, b) == provenance.content_hash(c, b)
    assert provenance.content_hash(a, b) != provenance.content_hash(b, a)


def test_versions_name_what_results_depend_on():
    found = provenance.versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "numpy", "snakemake", "deepmr"} <= set(found)


def test_missing_package_is_said(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("no-such-package",))
    assert provenance.versions()["no-such-package"] == "not installed here"


def test_fingerprint_does_not_depend_on_where_the_package_lies(package, tmp_path, monkeypatch):
    before = provenance.fingerprint("deepmr.a")
    moved = tmp_path / "elsewhere" / "deepmr"
    shutil.copytree(tmp_path / "deepmr", moved)
    monkeypatch.setattr(provenance, "_PACKAGE", Path(moved))
    for cached in (provenance._path, provenance._source):
        cached.cache_clear()
    assert provenance.fingerprint("deepmr.a") == before


def test_jobs_are_handed_the_fingerprints_of_the_main_process(package, monkeypatch):
    monkeypatch.delenv("DEEPMR_FINGERPRINTS", raising=False)
    started = provenance.fingerprints_of_run(main_process=True)("deepmr.a")
    assert started == provenance.fingerprint("deepmr.a")
    package("a.py", "EDITED_WHILE_IT_RAN = 1\n")
    job = provenance.fingerprints_of_run(main_process=False)
    assert job("deepmr.a") == started
    with pytest.raises(provenance.StaleCodeError, match="edited while it ran"):
        provenance.verify(job("deepmr.a"))
    # A new start, even from a shell in which the variable was left.
    assert provenance.fingerprints_of_run(main_process=True)("deepmr.a") != started


def test_job_without_its_environment_works_them_out(monkeypatch):
    monkeypatch.delenv("DEEPMR_FINGERPRINTS", raising=False)
    job = provenance.fingerprints_of_run(main_process=False)
    assert job("deepmr.shards.membership") == provenance.fingerprint("deepmr.shards.membership")
