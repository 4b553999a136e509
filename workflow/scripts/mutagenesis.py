"""Mutate every base of the sequences of a shard."""

from deepmr import provenance, tables
from deepmr.draws import DrawSet
from deepmr.job import begin
from deepmr.models import checkpoint
from deepmr.mutagenesis.effects_table import write_shard
from deepmr.shards.membership import members

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
settings, config, shard = snakemake.params.settings, snakemake.config, snakemake.wildcards
source, prediction, draws = snakemake.input, settings["prediction"], settings["draws"]
sequences = tables.read_table(source.sequences)
model = checkpoint.load(source.model, laplace=source.laplace or None)
write_shard(
    model,
    sequences.take(members(sequences["sequence_id"].to_pylist(), shard.scatteritem)),
    settings["targets"],
    DrawSet(draws["method"], draws["draws"], settings["seed"], len(model.members)),
    snakemake.output.effects,
    snakemake.output.references,
    metadata,
    **settings["engine"],
    average_strands=prediction["average_strands"] and not settings["strand"],
    rows_per_batch=prediction["rows_per_batch"],
    workers=snakemake.threads,
    resume_dir=f"{config['results']}/effects/.resume/model={shard.model}/{shard.scatteritem}",
    fingerprint=snakemake.params.code + provenance.content_hash(source.model, *source[2:]),
    save_every=config["sharding"]["save_every"],
)
