from os.path import relpath

# Relative, so that a copy of the checkout does not look changed.
CAPTIONS = sorted(
    map(str, Path(relpath(workflow.basedir)).glob("workflow/report/*.rst"))
)


rule write_report:
    """Write the report."""
    input:
        expand(rules.plot_model.output, model=config["models"]),
        expand(rules.plot_uncertainty.output, model=config["models"]),
        expand(rules.plot_effects.output, model=config["models"]),
        expand(rules.plot_pair.output, model=config["models"], pair=config["pairs"]),
        DEEP_IV_FIGURES,
        windows=f"{RESULTS}/windows.parquet",
        sequences=f"{RESULTS}/sequences.parquet",
        mr=f"{RESULTS}/mr.parquet",
        meta=f"{RESULTS}/meta.parquet",
        network=f"{RESULTS}/network.parquet",
        sequence_effects=f"{RESULTS}/sequence_effects.parquet",
        meta_regression=f"{RESULTS}/meta_regression.parquet",
        meta_diagnostics=f"{RESULTS}/meta_diagnostics.parquet",
        calibration=f"{RESULTS}/calibration.parquet",
        calibrators=f"{RESULTS}/calibrators.parquet",
        uncertainty=f"{RESULTS}/uncertainty.parquet",
        truth=TRUTH,
        deep_iv=DEEP_IV,
        captions=CAPTIONS,
    output:
        report=report(
            f"{RESULTS}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"figure": "the answers in words"},
        ),
    log:
        f"{RESULTS}/logs/write_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_report.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint("deepmr.report.run", "deepmr.report.render", "deepmr.schemas"),
        settings={
            key: config[key]
            for key in ("pairs", "mr", "meta", "calibration", "uncertainty", "report")
        },
    script:
        "../scripts/write_report.py"
