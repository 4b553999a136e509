"""Put what labels and models say into one table."""

from deepmr import schemas, tables
from deepmr.job import begin

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
rows = tables.read_tables([*snakemake.input.labels, *snakemake.input.models])
tables.write_table(rows, snakemake.output.deep_iv, schemas.DEEP_IV, metadata)
