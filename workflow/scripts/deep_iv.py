"""Learn the effect of a pair from its measured labels."""

from deepmr import motifs, schemas, tables
from deepmr.deepiv.labels.fits import Settings
from deepmr.deepiv.labels.measured import deep_iv
from deepmr.genome.extraction import open_reader
from deepmr.job import begin
from deepmr.mr.questions import Pair

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given = snakemake.input, snakemake.params
with open_reader(given.data, given.index) as reader:
    rows, counterfactuals = deep_iv(
        tables.read_table(source.windows),
        reader,
        Pair(snakemake.wildcards.pair, given.pair["exposure"], given.pair["outcome"]),
        {name: target["type"] for name, target in given.targets.items()},
        motifs.of_targets(motifs.read_jaspar(source.motifs), given.targets),
        Settings.of(given.settings, length=given.length, threads=given.cpu_threads),
        at_most=given.settings["windows"],
        both_strands=not given.data["strand"],
        seed=given.seed,
    )
tables.write_table(rows, snakemake.output.rows, schemas.DEEP_IV, metadata)
tables.write_table(
    counterfactuals,
    snakemake.output.counterfactuals,
    schemas.counterfactuals_schema(given.settings["draws"]),
    metadata,
)
