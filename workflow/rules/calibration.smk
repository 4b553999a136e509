rule calibrate_probabilities:
    """Fit calibrators and judge the predicted probabilities."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=expand(
            f"{RESULTS}/predictions/model={{model}}/windows.parquet",
            model=config["models"],
        ),
        replicates=expand(rules.mutate_replicates.output, model=config["models"]),
    output:
        calibration=f"{RESULTS}/calibration.parquet",
        calibrators=f"{RESULTS}/calibrators.parquet",
    log:
        f"{RESULTS}/logs/calibrate_probabilities.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate_probabilities.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        code=fingerprint(
            "deepmr.calibration.fit_and_judge", "deepmr.uncertainty.replicates"
        ),
        models=list(config["models"]),
        targets={
            name: config["targets"][name]["type"]
            for name in configuration.kept_targets(config)
        },
        calibration={
            key: value
            for key, value in config["calibration"].items()
            if key != "apply"
        },
        seed=config["seed"],
    script:
        "../scripts/calibrate_probabilities.py"


rule calibrate_uncertainty:
    """Hold the standard errors against retrained networks and the truth."""
    input:
        replicates=expand(rules.mutate_replicates.output, model=config["models"]),
    output:
        uncertainty=f"{RESULTS}/uncertainty.parquet",
    log:
        f"{RESULTS}/logs/calibrate_uncertainty.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate_uncertainty.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=fingerprint("deepmr.uncertainty.report", "deepmr.uncertainty.draws_needed"),
        models=list(config["models"]),
        draws=DRAWS,
        seed=config["seed"],
    script:
        "../scripts/calibrate_uncertainty.py"
