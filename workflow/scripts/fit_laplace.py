"""Find how sure a model is of the weights of its last layer."""

from deepmr import tables
from deepmr.genome.extraction import open_reader
from deepmr.job import begin
from deepmr.models import checkpoint, laplace

begin(snakemake.log[0], snakemake.params, snakemake.config)
model = checkpoint.load(snakemake.input.model)
with open_reader(snakemake.params.data, snakemake.params.index) as reader:
    posterior = laplace.fit(
        model,
        reader,
        tables.read_table(snakemake.input.windows),
        snakemake.params.targets,
        cache_bytes=snakemake.params.cache_mb * 2**20,
    )
checkpoint.save_laplace(posterior, snakemake.input.model, snakemake.output.laplace)
