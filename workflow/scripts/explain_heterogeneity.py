"""Ask why effects differ between sequences."""

from deepmr import motifs, schemas, tables
from deepmr.job import begin
from deepmr.meta.tables.explain import Settings, explain, read_effects

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, given = snakemake.input, snakemake.params
explained = explain(
    read_effects(source.mr, given.settings["method"]),
    tables.read_table(source.sequences),
    dict(zip(given.models, source.predictions, strict=True)),
    motifs.of_targets(motifs.read_jaspar(source.motifs), given.targets),
    given.pairs,
    given.annotations,
    Settings(**given.settings),
)
for name, schema in (
    ("sequence_effects", schemas.SEQUENCE_EFFECTS),
    ("meta_regression", schemas.META_REGRESSION),
    ("meta_diagnostics", schemas.META_DIAGNOSTICS),
):
    tables.write_table(getattr(explained, name), snakemake.output[name], schema, metadata)
