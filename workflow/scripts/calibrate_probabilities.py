"""Fit calibrators on validation windows; judge them, and the predictions, on held-out windows."""

import pandas as pd
import pyarrow as pa

from deepmr import schemas, tables
from deepmr.calibration.fit_and_judge import Settings, fit_and_judge
from deepmr.held_out import read_held_out
from deepmr.job import begin
from deepmr.uncertainty.replicates import read_replicates

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
targets, kinds = list(snakemake.params.targets), list(snakemake.params.targets.values())
settings = Settings.of(snakemake.params.calibration, snakemake.params.seed)
source, made = snakemake.input, []
for model, predictions, replicates in zip(
    snakemake.params.models, source.predictions, source.replicates, strict=True
):
    windows = {
        split: read_held_out(source.windows, predictions, targets, split)
        for split in ("validation", "test")
    }
    effects = read_replicates(tables.read_table(replicates))
    made.append(fit_and_judge(windows, kinds, effects, settings, model))
metrics, calibrators = zip(*made, strict=True)
table = pa.Table.from_pandas(pd.concat(metrics), preserve_index=False)
tables.write_table(table, snakemake.output.calibration, schemas.CALIBRATION, metadata)
table = pa.concat_tables(calibrators)
tables.write_table(table, snakemake.output.calibrators, schemas.CALIBRATORS, metadata)
