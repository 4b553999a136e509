"""Put the shards together."""

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.mr.gather import gather

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
tables.write_table(gather(snakemake.input), snakemake.output.mr, schemas.MR, metadata)
