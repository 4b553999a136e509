# Where Snakemake, as it is, does not suit thousands of shards on a cluster. Each remedy stands here with
# its reason; tests/slurm and benchmarks/workflow.py show what happens without it.

import functools
import gc
import inspect
import sys

import smart_open
from snakemake.resources import Resource
from snakemake.settings.types import ExecutionSettings

# Time at the start, of each job too. Snakemake asks for the parts of the same few script paths several
# times a job, and smart_open makes a class for each answer; and for the signature of the same method
# several times a resource of a job. The DAG is millions of objects that live to the end: looking through
# them for garbage is in vain.
smart_open.parse_uri = functools.cache(smart_open.parse_uri)
Resource.evaluate.__signature__ = inspect.signature(Resource.evaluate)
gc.freeze()
gc.set_threshold(200_000, 50, 100)

if workflow.is_main_process:
    # While slurmctld is down, its MinJobAge cannot be read; the plugin then asks sacct, for ever, even
    # where there is none. MinJobAge does not change, so it is read once.
    slurm = sys.modules.get("snakemake_executor_plugin_slurm")
    if slurm is not None:
        slurm.get_min_job_age = functools.cache(slurm.get_min_job_age)
else:
    # A job that fails leaves its outputs alone, as with --keep-incomplete: they are whole, and may be
    # those of a later run of the same job, which took this one for dead. The main process must not
    # keep them (it would take them for made with the new settings), so the option, which is for both,
    # is no remedy.
    ExecutionSettings.keep_incomplete = property(
        lambda self: True, lambda self, value: None
    )
