"""Estimate the causal effects of every sequence of one or more shards."""

from deepmr import motifs, tables
from deepmr.job import begin
from deepmr.mr.shard import Pair, Settings, estimate_shard

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
targets = snakemake.params.targets
mr = estimate_shard(
    snakemake.wildcards.model,
    tables.read_table(snakemake.input.sequences),
    snakemake.input.effects,
    snakemake.input.references,
    [
        Pair(name, pair["exposure"], pair["outcome"])
        for name, pair in snakemake.params.pairs.items()
    ],
    motifs.of_targets(motifs.read_jaspar(snakemake.input.motifs), targets),
    Settings.of(
        snakemake.params.mr,
        snakemake.params.instruments,
        both_strands=not snakemake.params.strand,
        seed=snakemake.params.seed,
    ),
    {name: target["type"] for name, target in targets.items()},
)
tables.write_table(mr, snakemake.output.mr, tables.MR, metadata)
