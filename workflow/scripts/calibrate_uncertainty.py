"""Hold the standard errors of mutations against retrained networks and the simulated truth."""

import logging

import pandas as pd
import pyarrow as pa

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.uncertainty import draws_needed
from deepmr.uncertainty.replicates import read_replicates
from deepmr.uncertainty.report import report

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
draws = snakemake.params.draws
rows = []
for model, path in zip(snakemake.params.models, snakemake.input.replicates, strict=True):
    replicates = read_replicates(tables.read_table(path))
    rows.append(
        report(
            replicates,
            model=model,
            method=draws["method"],
            draws=draws["draws"],
            seed=snakemake.params.seed,
        )
    )
    logging.info("%s: %s", model, draws_needed.sentence(int(rows[-1]["draws"].iloc[0])))
table = pa.Table.from_pandas(pd.concat(rows), preserve_index=False)
tables.write_table(table, snakemake.output.uncertainty, schemas.UNCERTAINTY, metadata)
