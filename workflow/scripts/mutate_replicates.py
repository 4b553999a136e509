"""Mutate every base of some sequences with each member of a model by itself."""

from deepmr import motifs, tables
from deepmr.draws import DrawSet
from deepmr.job import begin
from deepmr.models import checkpoint
from deepmr.mutagenesis.replicates import write_replicates
from deepmr.shards.membership import choose
from deepmr.simulate.example import true_effects

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
settings, source = snakemake.params.settings, snakemake.input
sequences = tables.read_table(source.sequences)
sequences = sequences.take(choose(sequences["sequence_id"].to_pylist(), settings["sequences"]))
model = checkpoint.load(source.model, laplace=source.laplace or None)
simulation, prediction, draws = (settings[key] for key in ("simulation", "prediction", "draws"))
letters = sequences["sequence"].to_pylist()
write_replicates(
    model,
    sequences,
    settings["targets"],
    DrawSet(draws["method"], draws["draws"], settings["seed"], len(model.members)),
    snakemake.output.replicates,
    simulation and true_effects(motifs.read_jaspar(source.motifs), letters, simulation),
    metadata,
    average_strands=prediction["average_strands"] and not settings["strand"],
    rows_per_batch=prediction["rows_per_batch"],
    workers=snakemake.threads,
    **settings["engine"],
)
