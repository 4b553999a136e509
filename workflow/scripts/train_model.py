"""Train a network on all targets at once."""

from deepmr import provenance, tables
from deepmr.genome.extraction import open_reader
from deepmr.job import begin
from deepmr.models.checkpoint import save_history
from deepmr.models.training import train

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
kinds = {name: target["type"] for name, target in snakemake.params.targets.items()}
settings = dict(snakemake.params.training)
with open_reader(snakemake.params.data, snakemake.params.index) as reader:
    model, history = train(
        reader,
        tables.read_table(snakemake.input.windows),
        kinds,
        name=snakemake.wildcards.model,
        architecture=snakemake.params.model["architecture"],
        options=snakemake.params.model["options"],
        members=snakemake.params.model["members"],
        length=snakemake.params.length,
        seed=snakemake.params.seed,
        cache_bytes=settings.pop("cache_mb") * 2**20,
        resume_dir=f"{snakemake.params.resume}/{snakemake.wildcards.model}",
        fingerprint=snakemake.params.code + provenance.content_hash(*snakemake.input),
        **settings,
    )
model.save(snakemake.output.model)
save_history(history, list(kinds), snakemake.output.history, metadata)
