rule meta_analysis:
    """Combine the sequences."""
    input:
        mr=f"{RESULTS}/mr.parquet",
        decoys=expand(rules.estimate_decoys.output, model=config["models"]),
        sequences=f"{RESULTS}/sequences.parquet",
        annotations=list(config["meta"]["annotations"].values()),
    output:
        meta=f"{RESULTS}/meta.parquet",
    log:
        f"{RESULTS}/logs/meta_analysis.log",
    benchmark:
        f"{RESULTS}/benchmarks/meta_analysis.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=fingerprint(
            "deepmr.meta.tables.summary",
            "deepmr.meta.tables.covariates",
            "deepmr.tables",
        ),
        meta={
            key: config["meta"][key] for key in ("combinations", "test", "prediction")
        },
        annotations=config["meta"]["annotations"],
    script:
        "../scripts/meta_analysis.py"


rule gather_network:
    """Put the effects of all pairs and directions into one network."""
    input:
        meta=f"{RESULTS}/meta.parquet",
    output:
        network=f"{RESULTS}/network.parquet",
    log:
        f"{RESULTS}/logs/gather_network.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_network.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint("deepmr.meta.tables.network", "deepmr.tables"),
        pairs=config["pairs"],
        method=config["mr"]["primary"],
        combination=config["meta"]["primary"],
        fdr=config["meta"]["fdr"],
    script:
        "../scripts/gather_network.py"
