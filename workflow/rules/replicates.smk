rule mutate_replicates:
    """Mutate some sequences with each member of a model by itself."""
    input:
        sequences=f"{RESULTS}/sequences.parquet",
        model=f"{RESULTS}/models/{{model}}.pt",
        laplace=LAPLACE,
        motifs=config["motifs"],
    output:
        replicates=f"{RESULTS}/replicates/model={{model}}.parquet",
    log:
        f"{RESULTS}/logs/mutate_replicates/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/mutate_replicates/{{model}}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: MUTAGENESIS_THREADS
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        code=fingerprint(
            "deepmr.mutagenesis.replicates",
            "deepmr.models.checkpoint",
            "deepmr.shards.membership",
            "deepmr.simulate.example",
        ),
        settings=dict(
            strand=config["data"]["strand"],
            targets=configuration.kept_targets(config),
            draws=DRAWS,
            sequences=config["uncertainty"]["sequences"],
            simulation=config.get("simulation"),
            prediction=config["prediction"],
            seed=config["seed"],
            engine={
                key: config["mutagenesis"][key]
                for key in ("engine", "memory_gb", "precision")
            },
        ),
    script:
        "../scripts/mutate_replicates.py"
