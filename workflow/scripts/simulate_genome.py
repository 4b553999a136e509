"""Make a genome with planted motif sites, its peaks and the true effects."""

from deepmr import motifs
from deepmr.job import begin
from deepmr.simulate.genome_files import write_example

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
write_example(
    motifs.read_jaspar(snakemake.input.motifs),
    fasta=snakemake.output.fasta,
    peaks=dict(zip(snakemake.params.targets, snakemake.output.peaks, strict=True)),
    truth=snakemake.output.truth,
    length=snakemake.params.windows["length"],
    bin_size=snakemake.params.windows["bin"],
    seed=snakemake.params.seed,
    metadata=metadata,
    **snakemake.params.simulation,
)
