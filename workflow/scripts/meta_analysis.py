"""Combine the sequences."""

import pyarrow as pa

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.meta.summary import summarise

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
mr = tables.read_table(snakemake.input.mr).to_pandas()
meta = pa.Table.from_pandas(summarise(mr, snakemake.params.combinations), preserve_index=False)
tables.write_table(meta, snakemake.output.meta, schemas.META, metadata)
