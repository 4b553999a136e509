from snakemake.utils import validate

from deepmr import config as configuration
from deepmr.provenance import fingerprint

validate(config, "../schemas/config.schema.yaml")
configuration.check(config)

RESULTS = config["results"]

# Once a run, not once a job: open the user's files, and drop tables that a crash has cut short.
if workflow.is_main_process:
    from deepmr import preflight

    preflight.check_inputs(config, Path.cwd())
    for damaged in preflight.discard_damaged(Path(RESULTS)):
        logger.warning(f"{damaged} was cut short; it is made again")


wildcard_constraints:
    scatteritem=r"\d+-of-\d+",
    model="|".join(config["models"]),
    pair="|".join(config["pairs"]),


scattergather:
    shard=config["sharding"]["shards"],
