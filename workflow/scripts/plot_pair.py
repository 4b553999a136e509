"""Draw the causal effect of a pair."""

from deepmr import motifs, tables
from deepmr.figures import sets, style
from deepmr.held_out import read_held_out
from deepmr.job import begin
from deepmr.meta.tables.summary import headline
from deepmr.mr.questions import Pair, Settings
from deepmr.responses import responses
from deepmr.shards.membership import shard_tables

begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given, (model, pair) = snakemake.input, snakemake.params, snakemake.wildcards
ends = given.pairs[pair]["exposure"], given.pairs[pair]["outcome"]
wanted = ("mr", "meta", "sequence_effects", "meta_diagnostics")
read = (tables.read_table(source[name]).to_pandas() for name in wanted)
mr, meta, sequence_effects, diagnostics = (
    table[(table["model"] == model) & (table["pair"] == pair)] for table in read
)
figures = sets.pair_figures(
    Pair(pair, *ends),
    read_held_out(source.windows, source.predictions, ends, "test"),
    tables.read_table(source.sequences),
    *(shard_tables(folder, given.shards) for folder in (given.effects, given.references)),
    mr,
    headline(meta, given.mr["primary"], given.combination),
    sequence_effects,
    diagnostics,
    tables.read_table(source.truth).to_pandas() if source.truth else None,
    motifs.of_targets(motifs.read_jaspar(source.motifs), given.targets),
    Settings.of(given.mr, given.instruments, both_strands=not given.strand, seed=given.seed),
    responses(model, given.targets, given.responses, source.calibrators, source.scales),
    given.mr["primary"],
)
style.save_all(figures, snakemake.output)
