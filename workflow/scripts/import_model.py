"""Check a user's own network and take it in."""

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.models.imported import load_model

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
kinds = {name: target["type"] for name, target in snakemake.params.targets.items()}
model = load_model(
    snakemake.params.model["code"],
    snakemake.input.weights,
    list(kinds),
    snakemake.params.length,
    list(kinds.values()),
    snakemake.wildcards.model,
)
model.save(snakemake.output.model)
tables.write_table(
    schemas.HISTORY.empty_table(), snakemake.output.history, schemas.HISTORY, metadata
)
