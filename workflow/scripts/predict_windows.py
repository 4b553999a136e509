"""Predict the held-out windows: eval logits and logit draws."""

from deepmr import tables
from deepmr.draws import DrawSet
from deepmr.genome.extraction import open_reader
from deepmr.job import begin
from deepmr.models import checkpoint
from deepmr.predict import write_predictions

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
model = checkpoint.load(snakemake.input.model, laplace=snakemake.input.laplace or None)
prediction, draws = snakemake.params.prediction, snakemake.params.draws
with open_reader(snakemake.params.data, snakemake.params.index) as reader:
    write_predictions(
        model,
        reader,
        tables.read_table(snakemake.input.windows),
        snakemake.params.targets,
        DrawSet(draws["method"], prediction["draws"], snakemake.params.seed, len(model.members)),
        snakemake.output.predictions,
        metadata,
        average_strands=prediction["average_strands"] and not snakemake.params.data["strand"],
        rows_per_batch=prediction["rows_per_batch"],
        workers=snakemake.threads,
    )
