"""Draw how well a model predicts."""

from deepmr import tables
from deepmr.figures import sets, style
from deepmr.held_out import read_held_out
from deepmr.job import begin

begin(snakemake.log[0], snakemake.params, snakemake.config)
targets = snakemake.params.targets
test = read_held_out(snakemake.input.windows, snakemake.input.predictions, list(targets), "test")
figures = sets.model_figures(
    test,
    list(targets.values()),
    tables.read_table(snakemake.input.history).to_pandas(),
    bins=snakemake.params.bins,
    seed=snakemake.params.seed,
)
style.save_all(figures, snakemake.output)
