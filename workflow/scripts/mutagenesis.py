"""Mutate every base of the sequences of a shard."""

from deepmr import provenance, tables
from deepmr.draws import DrawSet
from deepmr.job import begin
from deepmr.models import checkpoint
from deepmr.mutagenesis.effects_table import write_shard
from deepmr.shards.membership import members

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
sequences = tables.read_table(snakemake.input.sequences)
rows = members(sequences["sequence_id"].to_pylist(), snakemake.wildcards.scatteritem)
model = checkpoint.load(snakemake.input.model)
prediction, draws = snakemake.params.prediction, snakemake.params.draws
write_shard(
    model,
    sequences.take(rows),
    snakemake.params.targets,
    DrawSet(draws["method"], draws["number"], snakemake.params.seed, len(model.members)),
    snakemake.output.effects,
    snakemake.output.references,
    metadata,
    average_strands=prediction["average_strands"] and not snakemake.params.strand,
    rows_per_batch=prediction["rows_per_batch"],
    workers=snakemake.threads,
    resume_dir=snakemake.params.resume,
    fingerprint=snakemake.params.code + provenance.content_hash(snakemake.input.model),
    save_every=snakemake.config["sharding"]["save_every"],
)
