"""What every job does first: its log, the check of its code, and the metadata of its tables."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepmr import provenance


def begin(log: str, params: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Send what the job prints to its log, check its code and describe it.

    Parameters
    ----------
    log : str
        The rule's log file.
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
    stream = Path(log).open("w", encoding="utf-8", buffering=1)  # noqa: SIM115 (until the job ends)
    sys.stdout = sys.stderr = stream
    logging.basicConfig(
        stream=stream, level=logging.INFO, format="%(asctime)s %(message)s", force=True
    )
    logging.captureWarnings(True)
    provenance.verify(params["code"])
    logging.info("host %s, code %s", socket.gethostname(), params["code"])
    return {
        "code": params["code"],
        "config": provenance.config_hash(config),
        "seed": config["seed"],
        "versions": provenance.versions(),
    }
