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


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/mutagenesis.smk"
include: "workflow/rules/mr.smk"
include: "workflow/rules/meta.smk"
include: "workflow/rules/calibration.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{RESULTS}/report.html",
        f"{RESULTS}/mr.parquet",
        f"{RESULTS}/meta.parquet",
        f"{RESULTS}/calibration.parquet",
    message:
        f"Done: open {RESULTS}/report.html"
