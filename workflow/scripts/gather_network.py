"""Put the effects of all pairs and directions into one network."""

import pyarrow as pa

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.meta.tables.network import network

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
given = snakemake.params
edges = network(
    tables.read_table(snakemake.input.meta).to_pandas(),
    given.pairs,
    method=given.method,
    combination=given.combination,
    fdr=given.fdr,
)
table = pa.Table.from_pandas(edges, preserve_index=False)
tables.write_table(table, snakemake.output.network, schemas.NETWORK, metadata)
