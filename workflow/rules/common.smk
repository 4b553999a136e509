from snakemake.utils import validate

from deepmr import config as configuration
from deepmr.provenance import fingerprints_of_run
from deepmr.shards.lost import lost_tables
from deepmr.shards.membership import mr_jobs, shards_of_mr_job
from deepmr.shards.resources import MUTAGENESIS_THREADS, Request

validate(config, "../schemas/config.schema.yaml")
configuration.check(config)

RESULTS = config["results"]

# Only what decides the draws: other keys of the section must not make the networks run again.
DRAWS = {key: config["uncertainty"][key] for key in ("method", "draws")}

# What becomes of the logits before MR, and the tables that tell it; not made where nothing asks.
RESPONSES = {
    "calibrator": config["calibration"]["apply"],
    "method": config["uncertainty"]["method"],
}
APPLIED_CALIBRATORS = (
    f"{RESULTS}/calibrators.parquet" if RESPONSES["calibrator"] != "none" else []
)
APPLIED_SCALES = (
    f"{RESULTS}/uncertainty.parquet" if config["uncertainty"]["apply_scale"] else []
)

fingerprint = fingerprints_of_run(workflow.is_main_process)

if workflow.is_main_process:
    from deepmr import preflight, takeover

    if told := takeover.hold(Path.cwd()):
        logger.warning(told)
    # Once a run, not once a job: open the user's files, and drop tables that a crash has cut short.
    preflight.check_inputs(config, Path.cwd())
    for told in configuration.warnings(config):
        logger.warning(told)
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
