"""Judge the predicted probabilities of every model, target and held-out split."""

import pandas as pd
import pyarrow as pa

from deepmr import calibration, tables
from deepmr.held_out import read_held_out
from deepmr.job import begin

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
targets = snakemake.params.targets
rows = []
for model, path in zip(snakemake.params.models, snakemake.input.predictions, strict=True):
    for split in ("validation", "test"):
        held_out = read_held_out(snakemake.input.windows, path, list(targets), split)
        report = calibration.report(
            held_out.labels,
            held_out.evaluated,
            held_out.draws,
            list(targets),
            list(targets.values()),
            seed=snakemake.params.seed,
            bins=snakemake.params.bins,
            model=model,
            split=split,
        )
        rows.append(report)
table = pa.Table.from_pandas(pd.concat(rows), preserve_index=False)
tables.write_table(table, snakemake.output.calibration, tables.CALIBRATION, metadata)
