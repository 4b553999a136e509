"""Draw how well a model predicts, before and after calibration."""

from deepmr import tables
from deepmr.figures import sets, style
from deepmr.held_out import read_held_out
from deepmr.job import begin

begin(snakemake.log[0], snakemake.params, snakemake.config)
source, targets = snakemake.input, snakemake.params.targets
figures = sets.model_figures(
    read_held_out(source.windows, source.predictions, list(targets), "test"),
    list(targets.values()),
    tables.read_table(source.history).to_pandas(),
    tables.read_table(source.calibration).to_pandas(),
    tables.read_table(source.calibrators),
    snakemake.wildcards.model,
    bins=snakemake.params.bins,
    seed=snakemake.params.seed,
)
style.save_all(figures, snakemake.output)
