from __future__ import annotations

import atexit
import logging
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

from deepmr import job, outputs, progress, provenance
from tests.unit.test_config import ROOT


@pytest.fixture
def restored_streams():
    streams = sys.stdout, sys.stderr
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    sys.stdout, sys.stderr = streams
    atexit.unregister(job._end)
    outputs.disown()
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


def test_job_of_other_code_does_not_take_the_outputs(tmp_path, restored_streams):
    mark = tmp_path / "l.running"
    mark.write_text("of the job at work")
    with pytest.raises(provenance.StaleCodeError):
        job.begin(str(tmp_path / "l"), {"code": "deepmr.shards=0000000000000000"}, CONFIG)
    assert mark.read_text() == "of the job at work"


def test_track_yields_what_it_gets():
    assert list(progress.track(iter("abc"), 3, "letters")) == ["a", "b", "c"]


JOB = """
import sys
from deepmr import job
job.begin("job.log", {"code": sys.argv[1]}, {"seed": 3})
print("worked")
if len(sys.argv) > 2:
    raise ValueError("it broke")
"""


def run(tmp_path, *arguments: str) -> subprocess.CompletedProcess:
    code = provenance.fingerprint("deepmr.outputs")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "17",
        "CUDA_VISIBLE_DEVICES": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", JOB, code, *arguments], cwd=tmp_path, env=environment, check=False
    )


def test_log_says_where_the_job_ran_and_what_it_took(tmp_path):
    assert run(tmp_path).returncode == 0
    first, *_, last = (tmp_path / "job.log").read_text().splitlines()
    assert "SLURM job 17" in first
    assert "CUDA_VISIBLE_DEVICES 1" in first
    seconds, megabytes = re.search(r"ended: ([\d.]+) s, .* peak memory (\d+) MB", last).groups()
    assert 0 <= float(seconds) < 60
    assert 5 < int(megabytes) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["job.log"]


def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    held = np.ones(40_000_000)
    code = "from deepmr.job import peak_memory; print(peak_memory())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, text=True
    )
    assert 5e6 < int(found.stdout) < 150e6 < held.nbytes < job.peak_memory()


def test_failed_job_leaves_its_error_in_the_log(tmp_path):
    assert run(tmp_path, "break").returncode == 1
    text = (tmp_path / "job.log").read_text()
    assert text.index("ValueError: it broke") < text.index("ended: ")
    assert not (tmp_path / "job.log.running").exists()


def test_log_of_a_killed_run_is_another_file(tmp_path):
    (tmp_path / "job.log.running").write_text("{}")
    with (tmp_path / "job.log").open("w") as earlier:
        earlier.write("of a run that was thought dead\n")
        earlier.flush()
        assert run(tmp_path).returncode == 0
        earlier.write("which writes on\n")
    text = (tmp_path / "job.log").read_text()
    assert "worked" in text
    assert "dead" not in text
    assert "writes on" not in text
    assert not (tmp_path / "job.log.running").exists()
