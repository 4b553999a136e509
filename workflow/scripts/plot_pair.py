"""Draw the causal effect of a pair."""

from deepmr import motifs, tables
from deepmr.figures import sets, style
from deepmr.held_out import read_held_out
from deepmr.job import begin
from deepmr.meta.summary import headline
from deepmr.mr.shard import Pair, Settings
from deepmr.shards.membership import shard_tables

begin(snakemake.log[0], snakemake.params, snakemake.config)
source, settings, (model, pair) = snakemake.input, snakemake.params, snakemake.wildcards
ends = settings.pairs[pair]["exposure"], settings.pairs[pair]["outcome"]
both = (tables.read_table(source[name]).to_pandas() for name in ("mr", "meta"))
mr, meta = (table[(table["model"] == model) & (table["pair"] == pair)] for table in both)
figures = sets.pair_figures(
    Pair(pair, *ends),
    read_held_out(source.windows, source.predictions, ends, "test"),
    tables.read_table(source.sequences),
    shard_tables(settings.effects, settings.shards),
    shard_tables(settings.references, settings.shards),
    mr,
    headline(meta, settings.mr["primary"], settings.combination),
    tables.read_table(source.truth).to_pandas() if source.truth else None,
    motifs.of_targets(motifs.read_jaspar(source.motifs), settings.targets),
    Settings.of(
        settings.mr, settings.instruments, both_strands=not settings.strand, seed=settings.seed
    ),
    {name: target["type"] for name, target in settings.targets.items()},
    settings.mr["primary"],
)
style.save_all(figures, snakemake.output)
