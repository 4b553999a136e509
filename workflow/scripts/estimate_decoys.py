"""Estimate every pair with the exposure of other sequences."""

from deepmr import motifs, schemas, tables
from deepmr.job import begin
from deepmr.mr.decoy import estimate_decoys
from deepmr.mr.questions import Pair, Settings
from deepmr.responses import responses
from deepmr.shards.membership import shard_tables

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, settings, model = snakemake.input, snakemake.params, snakemake.wildcards.model
decoys = estimate_decoys(
    model,
    tables.read_table(source.sequences),
    shard_tables(settings.effects, settings.shards),
    shard_tables(settings.references, settings.shards),
    [Pair(name, pair["exposure"], pair["outcome"]) for name, pair in settings.pairs.items()],
    motifs.of_targets(motifs.read_jaspar(source.motifs), settings.targets),
    Settings.of(
        settings.mr, settings.instruments, both_strands=not settings.strand, seed=settings.seed
    ),
    settings.mr["decoy_sequences"],
    responses(model, settings.targets, settings.responses, source.calibrators, source.scales),
)
tables.write_table(decoys, snakemake.output.decoys, schemas.MR, metadata)
