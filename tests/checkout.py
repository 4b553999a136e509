"""A copy of the checkout in which a test may run Snakemake and edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "workflow", "deepmr", "config", "envs", "profiles", "slurm")


@dataclass(frozen=True)
class Outcome:
    """What one Snakemake call printed and returned."""

    status: int
    text: str

    @property
    def jobs(self) -> Counter[str]:
        """How many jobs of each rule were run (or, in a dry run, would be)."""
        table = re.search(
            r"^Job stats:\njob +count\n-+ +-+\n((?:\w+ +\d+\n)+)", self.text, re.MULTILINE
        )
        rows = (line.split() for line in table[1].splitlines()) if table else ()
        return Counter({rule: int(count) for rule, count in rows if rule != "total"})

    @property
    def nothing_to_do(self) -> bool:
        return "Nothing to be done" in self.text


@dataclass(frozen=True)
class Checkout:
    """A copy of the workflow in which a test may run and edit."""

    folder: Path

    def snakemake(self, *arguments: str, check: bool = True) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            # The copy's own deepmr is meant, not the installed one; no colours in the text.
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )
        outcome = Outcome(done.returncode, done.stdout)
        if check and outcome.status:
            raise AssertionError(f"snakemake {' '.join(arguments)} failed:\n{outcome.text}")
        return outcome

    def run(self, *arguments: str, check: bool = True) -> Outcome:
        return self.snakemake("--profile", "profiles/local", *arguments, check=check)

    def dry_run(self, *arguments: str) -> Outcome:
        return self.run("--dry-run", *arguments)

    def copy(self, folder: Path) -> Checkout:
        """Copy files with their times, so that nothing looks changed."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Checkout(folder)


def copy_of_the_checkout(folder: Path) -> Checkout:
    folder.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_symlink():
            (folder / part).symlink_to(source.readlink())
        elif source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return Checkout(folder)
