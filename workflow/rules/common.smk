from snakemake.utils import validate

from deepmr import config as configuration
from deepmr.provenance import fingerprints_of_run
from deepmr.shards.lost import lost_tables
from deepmr.shards.membership import mr_jobs, shards_of_mr_job
from deepmr.shards.resources import MUTAGENESIS_THREADS, Request

validate(config, "../schemas/config.schema.yaml")
configuration.check(config)

RESULTS = config["results"]

fingerprint = fingerprints_of_run(workflow.is_main_process)

if workflow.is_main_process:
    from deepmr import preflight, takeover

    if told := takeover.hold(Path.cwd()):
        logger.warning(told)
    # Once a run, not once a job: open the user's files, and drop tables that a crash has cut short.
    preflight.check_inputs(config, Path.cwd())
    for damaged in preflight.discard_damaged(Path(RESULTS)):
        logger.warning(f"{damaged} was cut short; it is made again")


wildcard_constraints:
    scatteritem=r"\d+-of-\d+",
    model="|".join(config["models"]),
    pair="|".join(config["pairs"]),


scattergather:
    shard=config["sharding"]["shards"],


SHARDS = len(gather.shard("{scatteritem}"))
REQUEST = Request(config, SHARDS)


scattergather:
    mr=mr_jobs(SHARDS),


def shards_of_job(table):
    """Name a table's shards that an MR job takes."""
    return lambda wildcards: [
        f"{RESULTS}/{table}/model={wildcards.model}/{shard}.parquet"
        for shard in shards_of_mr_job(wildcards.scatteritem, SHARDS)
    ]
