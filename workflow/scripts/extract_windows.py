"""Cut the windows and label them."""

from deepmr import schemas, tables
from deepmr.genome.extraction import extract
from deepmr.job import begin

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
windows, counts = extract(
    snakemake.params.data,
    snakemake.params.targets,
    snakemake.params.windows,
    snakemake.params.split,
    seed=snakemake.params.seed,
    index_dir=snakemake.params.index,
)
schema = schemas.windows_schema(list(snakemake.params.targets))
tables.write_table(windows, snakemake.output.windows, schema, {**metadata, "counts": counts})
