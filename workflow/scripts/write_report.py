"""Write the report."""

from pathlib import Path

from deepmr import schemas, tables
from deepmr.job import begin
from deepmr.report import run
from deepmr.report.pictures import read_captions
from deepmr.report.render import write

metadata = begin(snakemake.log[0], snakemake.params, snakemake.config)
source, config = snakemake.input, snakemake.config
columns = [name for name in schemas.MR.names if not name.startswith("draws")]
write(
    snakemake.output.report,
    meta=tables.read_table(source.meta).to_pandas(),
    mr=tables.read_table(source.mr, columns).to_pandas(),
    calibration=tables.read_table(source.calibration).to_pandas(),
    calibrators=tables.read_table(source.calibrators).to_pandas(),
    uncertainty=tables.read_table(source.uncertainty).to_pandas(),
    network=tables.read_table(source.network).to_pandas(),
    sequence_effects=tables.read_table(source.sequence_effects).to_pandas(),
    meta_regression=tables.read_table(source.meta_regression).to_pandas(),
    meta_diagnostics=tables.read_table(source.meta_diagnostics).to_pandas(),
    truth=tables.read_table(source.truth).to_pandas() if source.truth else None,
    deep_iv=tables.read_table(source.deep_iv).to_pandas() if source.deep_iv else None,
    pairs=config["pairs"],
    captions=read_captions(Path(source.captions[0]).parent),
    pictures=run.pictures(f"{config['results']}/figures", config),
    settings=run.settings(config),
    counts=run.counts(source.windows, source.sequences),
    provenance=run.provenance(metadata, dict(source.items())),
    title=config["report"]["title"],
)
