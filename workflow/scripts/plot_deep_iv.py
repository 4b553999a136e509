"""Draw what a model and measured labels say of all pairs, in both directions."""

from deepmr import tables
from deepmr.figures import style
from deepmr.figures.deep_iv import deep_iv
from deepmr.job import begin
from deepmr.meta.tables.summary import headline

begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given, model = snakemake.input, snakemake.params, snakemake.wildcards.model
meta, rows = (tables.read_table(source[name]).to_pandas() for name in ("meta", "deep_iv"))
figure = deep_iv(
    headline(meta[meta["model"] == model], given.mr["primary"], given.combination),
    rows[(rows["source"] == "labels") | (rows["model"] == model)],
    effect_scale=given.mr["effect_scale"],
)
style.save(figure, snakemake.output[0])
