"""Sample held-out sequences, bound and unbound, for each exposure."""

from deepmr import schemas, tables
from deepmr.genome.extraction import open_reader
from deepmr.genome.sampling import sample
from deepmr.job import begin

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
with open_reader(snakemake.params.data, snakemake.params.index) as reader:
    sequences, counts = sample(
        tables.read_table(snakemake.input.windows),
        reader,
        snakemake.params.exposures,
        snakemake.params.sampling["bound"],
        snakemake.params.sampling["unbound"],
        snakemake.params.seed,
    )
schema = schemas.sequences_schema(snakemake.params.exposures)
tables.write_table(sequences, snakemake.output.sequences, schema, {**metadata, "counts": counts})
