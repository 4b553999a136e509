"""What every job does first: its log, its claim on its outputs, the check of its code."""

from __future__ import annotations

import atexit
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepmr import outputs, provenance

RUNNING = ".running"
"""Ending of the mark beside a job's log while the job runs (or after it was killed)."""


def begin(log: str, params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Send what the job prints to its log, own its outputs, check its code and describe it.

    Parameters
    ----------
    log : str
        The rule's log file. Its last line tells the time and the memory that the job took.
    params : mapping
        The rule's parameters; ``code`` is the fingerprint made when the workflow was started.
    config : mapping
        The whole configuration.

    Returns
    -------
    dict
        Metadata for the Parquet tables of this job: the same whenever code and configuration
        are the same, so that equal runs write equal files.

    Raises
    ------
    deepmr.provenance.StaleCodeError
        If the code on this machine is not the workflow's.
    """
    path = Path(log)
    started = time.monotonic()
    # An earlier run, thought dead, may still write to its log; a new file keeps the two apart.
    path.unlink(missing_ok=True)
    stream = path.open("w", encoding="utf-8", buffering=1)
    sys.stdout = sys.stderr = stream
    logging.basicConfig(
        stream=stream, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    logging.captureWarnings(True)
    atexit.register(_end, started)
    logging.info("%s, code %s", _where(), params["code"])
    provenance.verify(params["code"])
    # Only now: a job of other code must not take the outputs from one that may write them.
    outputs.own(Path(f"{log}{RUNNING}"))
    return {
        "code": params["code"],
        "config": provenance.config_hash(config),
        "seed": config["seed"],
        "versions": provenance.versions(),
    }


def _where() -> str:
    """Name the machine, and what SLURM gave the job."""
    slurm = (
        ("SLURMD_NODENAME", "node"),
        ("SLURM_JOB_ID", "SLURM job"),
        ("CUDA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    )
    given = [f"{name} {os.environ[key]}" for key, name in slurm if key in os.environ]
    return ", ".join([f"host {socket.gethostname()}", *given])


def _end(started: float) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    logging.info(
        "ended: %.1f s, %.1f CPU s, peak memory %.0f MB",
        time.monotonic() - started,
        usage.ru_utime + usage.ru_stime,
        peak_memory() / 2**20,
    )
    outputs.disown()


def peak_memory() -> int:
    """Return the highest memory of this process in bytes.

    On Linux not ``ru_maxrss``, which begins with the memory of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux gives kilobytes, macOS bytes.
    return peak if sys.platform == "darwin" else 1024 * peak
