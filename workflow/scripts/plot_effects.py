"""Draw the global effects of all pairs of a model, in both directions."""

from deepmr import tables
from deepmr.figures import sets, style
from deepmr.job import begin
from deepmr.meta.summary import headline

begin(snakemake.log[0], snakemake.params, snakemake.config)
mr = snakemake.params.mr
meta = tables.read_table(snakemake.input.meta).to_pandas()
truth = tables.read_table(snakemake.input.truth).to_pandas() if snakemake.input.truth else None
figure = sets.effects_figure(
    headline(
        meta[meta["model"] == snakemake.wildcards.model],
        mr["primary"],
        snakemake.params.combination,
    ),
    truth,
    effect_scale=mr["effect_scale"],
)
style.save(figure, snakemake.output.effects)
