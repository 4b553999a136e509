"""Tables of shards that are gone, though what was made from them is still there.

Snakemake makes a missing table only for the sake of another one that is missing or old. So a shard
that was deleted by accident, or by a full disk's administrator, would stay lost, and a later change
of settings would surprise its user with hours of work.

Only the standard library is imported here, because every job parses the Snakefile again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deepmr.shards.membership import mr_jobs, shards_of_mr_job


def lost_tables(results: Path, models: Iterable[str], shards: int) -> list[str]:
    """List the tables of shards that Snakemake would not miss.

    Parameters
    ----------
    results : Path
        Folder of the results.
    models : iterable of str
        Names of the models.
    shards : int
        Number of mutagenesis shards.

    Returns
    -------
    list of str
        Paths of missing ``effects`` and ``references`` whose MR table is there, and of missing
        MR tables when ``mr.parquet`` is there. Nothing in a run that has not come so far.
    """
    gathered = (results / "mr.parquet").exists()
    lost = []
    for model in models:
        present = {
            table: _names(results / table / f"model={model}")
            for table in ("effects", "references", "mr")
        }
        for number in range(1, mr_jobs(shards) + 1):
            job = f"{number}-of-{mr_jobs(shards)}"
            estimated = f"{job}.parquet" in present["mr"]
            if gathered and not estimated:
                lost.append(str(results / "mr" / f"model={model}" / f"{job}.parquet"))
            if gathered or estimated:
                lost += [
                    str(results / table / f"model={model}" / f"{shard}.parquet")
                    for shard in shards_of_mr_job(job, shards)
                    for table in ("effects", "references")
                    if f"{shard}.parquet" not in present[table]
                ]
    return lost


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
