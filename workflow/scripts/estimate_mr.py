"""Estimate the causal effects of every sequence of one or more shards."""

from deepmr import motifs, schemas, tables
from deepmr.job import begin
from deepmr.mr.questions import Pair, Settings
from deepmr.mr.shard import estimate_shard
from deepmr.responses import responses

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, settings, model = snakemake.input, snakemake.params, snakemake.wildcards.model
mr = estimate_shard(
    model,
    tables.read_table(source.sequences),
    source.effects,
    source.references,
    [Pair(name, pair["exposure"], pair["outcome"]) for name, pair in settings.pairs.items()],
    motifs.of_targets(motifs.read_jaspar(source.motifs), settings.targets),
    Settings.of(
        settings.mr, settings.instruments, both_strands=not settings.strand, seed=settings.seed
    ),
    responses(model, settings.targets, settings.responses, source.calibrators, source.scales),
)
tables.write_table(mr, snakemake.output.mr, schemas.MR, metadata)
