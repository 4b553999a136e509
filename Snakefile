# Deep MR: does what a network has learned say that the exposure causes the outcome?
#
# The rules are in workflow/rules, one file a subject; each calls the script of the same name in
# workflow/scripts, and all science is in the package deepmr.

from snakemake.utils import min_version

min_version("9.27")


# A --configfile replaces the shipped one; merged, the shipped targets would stay in.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/remedies.smk"
include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/mutagenesis.smk"
include: "workflow/rules/replicates.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/mr.smk"
include: "workflow/rules/meta.smk"
include: "workflow/rules/heterogeneity.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/deep_iv.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/hooks.smk"


# Every table is asked for, not only the last: a lost one is then made again, and what depends on it.
# Of the tables of shards only those: thousands more targets would only make each start slower.
rule all:
    default_target: True
    input:
        rules.write_report.output,
        rules.extract_windows.output,
        rules.sample_sequences.output,
        rules.gather_mr.output,
        expand(rules.estimate_decoys.output, model=config["models"]),
        rules.meta_analysis.output,
        rules.explain_heterogeneity.output,
        rules.gather_network.output,
        rules.calibrate_probabilities.output,
        rules.calibrate_uncertainty.output,
        expand(rules.predict_windows.output, model=config["models"]),
        expand(rules.mutate_replicates.output, model=config["models"]),
        DEEP_IV,
        COUNTERFACTUALS,
        lambda wildcards: lost_tables(Path(RESULTS), config["models"], SHARDS),
    message:
        f"Done: open {RESULTS}/report.html"
