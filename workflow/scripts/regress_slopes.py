"""Ask whether a model's slopes depend on the sequence around the instruments."""

from deepmr import motifs, schemas, tables
from deepmr.deepiv.slopes.regression import regress_model
from deepmr.deepiv.stages import fitting
from deepmr.job import begin
from deepmr.mr.questions import Pair, Settings
from deepmr.responses import responses
from deepmr.shards.membership import shard_tables

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given, model = snakemake.input, snakemake.params, snakemake.wildcards.model
rows = regress_model(
    model,
    tables.read_table(source.sequences),
    shard_tables(given.effects, given.shards),
    shard_tables(given.references, given.shards),
    [Pair(name, pair["exposure"], pair["outcome"]) for name, pair in given.pairs.items()],
    motifs.of_targets(motifs.read_jaspar(source.motifs), given.targets),
    Settings.of(given.mr, given.instruments, both_strands=not given.strand, seed=given.seed),
    responses(model, given.targets, given.responses, source.calibrators, source.scales),
    **given.network,
    settings=fitting.Settings(**given.fitting, threads=given.cpu_threads),
    seed=given.seed,
)
tables.write_table(rows, snakemake.output.rows, schemas.DEEP_IV, metadata)
