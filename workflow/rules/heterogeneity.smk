rule explain_heterogeneity:
    """Ask why effects differ between sequences."""
    input:
        sequences=f"{RESULTS}/sequences.parquet",
        mr=f"{RESULTS}/mr.parquet",
        predictions=expand(rules.predict_windows.output, model=config["models"]),
        motifs=config["motifs"],
        annotations=list(config["meta"]["annotations"].values()),
    output:
        sequence_effects=f"{RESULTS}/sequence_effects.parquet",
        meta_regression=f"{RESULTS}/meta_regression.parquet",
        meta_diagnostics=f"{RESULTS}/meta_diagnostics.parquet",
    log:
        f"{RESULTS}/logs/explain_heterogeneity.log",
    benchmark:
        f"{RESULTS}/benchmarks/explain_heterogeneity.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        # Both directions of a pair of 5,000 sequences, a hundred draws: some minutes.
        runtime=lambda wildcards, attempt: (
            (30 + 5 * len(config["models"]) * len(config["pairs"])) * attempt
        ),
    params:
        code=fingerprint("deepmr.meta.tables.explain", "deepmr.tables"),
        models=list(config["models"]),
        pairs={
            name: {role: pair[role] for role in ("exposure", "outcome")}
            for name, pair in config["pairs"].items()
        },
        targets={
            name: {"motif": target["motif"]}
            for name, target in config["targets"].items()
        },
        settings={
            "method": config["mr"]["primary"],
            "combination": config["meta"]["primary"],
            "test": config["meta"]["test"],
            "motif_p_value": config["instruments"]["motif_p_value"],
            "both_strands": not config["data"]["strand"],
        },
        annotations=config["meta"]["annotations"],
    script:
        "../scripts/explain_heterogeneity.py"
