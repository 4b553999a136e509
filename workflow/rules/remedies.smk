# Where Snakemake, as it is, does not suit thousands of shards on a cluster. Each remedy stands here with
# its reason; tests/slurm and benchmarks/workflow.py show what happens without it.

import functools
import gc
import sys

import smart_open
from snakemake import common as snakemake_common
from snakemake import rules as snakemake_rules
from snakemake import script as snakemake_script
from snakemake.settings.types import ExecutionSettings

# --- Time at the start, of each job too (docs/performance.md) ---

# Once a function, not several times for each resource of each job: its parameters.
snakemake_common.get_function_params = functools.cache(
    snakemake_common.get_function_params
)
snakemake_rules.get_function_params = snakemake_common.get_function_params

# Once a path: its parts, for which smart_open makes a class each time.
smart_open.parse_uri = functools.cache(smart_open.parse_uri)


# Once a rule, not once a job: its script, whose path has no wildcards here.
def get_source(path, sourcecache, basedir=None, wildcards=None, params=None):
    key = str(path), basedir and basedir.get_path_or_uri(secret_free=True)
    if key not in sources:
        sources[key] = snakemake_script.get_source.__wrapped__(
            path, sourcecache, basedir
        )
    return sources[key]


sources = {}
snakemake_script.get_source = functools.update_wrapper(
    get_source, snakemake_script.get_source
)

# The DAG is millions of objects that live to the end: looking through them for garbage is in vain.
gc.freeze()
gc.set_threshold(1_000_000, 50, 100)

if workflow.is_main_process:
    # While slurmctld is down, its MinJobAge cannot be read; the plugin then asks sacct, for ever, even
    # where there is none. MinJobAge does not change, so it is read once (hooks.smk).
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
