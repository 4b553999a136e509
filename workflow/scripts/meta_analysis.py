"""Combine the sequences."""

import pandas as pd
import pyarrow as pa

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.meta.tables.covariates import annotation_strata
from deepmr.meta.tables.summary import summarise

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given = snakemake.input, snakemake.params
sequences = tables.read_table(source.sequences)
mr = [tables.read_table(path).to_pandas() for path in (source.mr, *source.decoys)]
meta = summarise(
    pd.concat(mr, ignore_index=True),
    **given.meta,
    chromosome_of=dict(
        zip(sequences["sequence_id"].to_pylist(), sequences["chrom"].to_pylist(), strict=True)
    ),
    strata=annotation_strata(sequences, given.annotations),
)
table = pa.Table.from_pandas(meta, preserve_index=False)
tables.write_table(table, snakemake.output.meta, schemas.META, metadata)
