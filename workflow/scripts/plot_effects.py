"""Draw the global effects of all pairs of a model, in both directions."""

from deepmr import tables
from deepmr.figures import sets, style
from deepmr.job import begin
from deepmr.meta.tables.summary import headline

begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given = snakemake.input, snakemake.params
both = (tables.read_table(source[name]).to_pandas() for name in ("meta", "network"))
meta, edges = (table[table["model"] == snakemake.wildcards.model] for table in both)
figures = sets.effects_figures(
    headline(meta, given.mr["primary"], given.combination),
    edges,
    tables.read_table(source.truth).to_pandas() if source.truth else None,
    given.targets,
    fdr=given.fdr,
    effect_scale=given.mr["effect_scale"],
)
style.save_all(figures, snakemake.output)
