"""Draw whether the standard errors of mutation effects are right."""

from deepmr import tables
from deepmr.figures import sets, style
from deepmr.job import begin
from deepmr.uncertainty.replicates import read_replicates

begin(snakemake.log[0], snakemake.params, snakemake.config)
judged = tables.read_table(snakemake.input.uncertainty).to_pandas()
figures = sets.uncertainty_figures(
    read_replicates(tables.read_table(snakemake.input.replicates)),
    judged[judged["model"] == snakemake.wildcards.model],
)
style.save_all(figures, snakemake.output)
