rule meta_analysis:
    """Combine the sequences."""
    input:
        mr=f"{RESULTS}/mr.parquet",
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
        code=fingerprint("deepmr.meta.summary", "deepmr.tables"),
        combinations=config["meta"]["combinations"],
    script:
        "../scripts/meta_analysis.py"
