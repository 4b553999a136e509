rule calibrate_probabilities:
    """Judge the predicted probabilities."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=expand(
            f"{RESULTS}/predictions/model={{model}}/windows.parquet",
            model=config["models"],
        ),
    output:
        calibration=f"{RESULTS}/calibration.parquet",
    log:
        f"{RESULTS}/logs/calibrate_probabilities.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate_probabilities.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=fingerprint("deepmr.calibration", "deepmr.held_out"),
        models=list(config["models"]),
        targets={
            name: config["targets"][name]["type"]
            for name in configuration.kept_targets(config)
        },
        bins=config["calibration"]["bins"],
        seed=config["seed"],
    script:
        "../scripts/calibrate_probabilities.py"
