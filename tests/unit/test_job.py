from __future__ import annotations

import logging
import sys
import warnings

import pytest

from deepmr import job, progress, provenance


@pytest.fixture
def restored_streams():
    streams = sys.stdout, sys.stderr
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    sys.stdout, sys.stderr = streams
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


CONFIG = {"seed": 3, "results": "r"}


def test_begin_sends_everything_to_the_log(tmp_path, restored_streams):
    log = tmp_path / "job.log"
    code = provenance.fingerprint("deepmr.shards")
    metadata = job.begin(str(log), {"code": code}, CONFIG)
    print("printed")
    warnings.warn("warned", stacklevel=1)
    list(progress.track(range(3), 3, "mutating", "sequence"))
    text = log.read_text()
    assert "printed" in text
    assert "warned" in text
    assert "mutating: 100%" in text
    assert metadata["code"] == code
    assert metadata["seed"] == 3
    assert metadata["config"] == provenance.config_hash(CONFIG)


def test_begin_refuses_other_code(tmp_path, restored_streams):
    with pytest.raises(provenance.StaleCodeError, match="this job runs"):
        job.begin(str(tmp_path / "l"), {"code": "deepmr.shards=0000000000000000"}, CONFIG)


def test_track_yields_what_it_gets():
    assert list(progress.track(iter("abc"), 3, "letters")) == ["a", "b", "c"]
