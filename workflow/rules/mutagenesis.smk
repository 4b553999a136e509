# No `benchmark:`, a file more for each of thousands of shards: the log's last line tells the same.
rule mutagenesis:
    """Mutate every base of the sequences of a shard."""
    input:
        sequences=f"{RESULTS}/sequences.parquet",
        model=f"{RESULTS}/models/{{model}}.pt",
        laplace=LAPLACE,
    output:
        effects=f"{RESULTS}/effects/model={{model}}/{{scatteritem}}.parquet",
        references=f"{RESULTS}/references/model={{model}}/{{scatteritem}}.parquet",
    log:
        f"{RESULTS}/logs/mutagenesis/{{model}}/{{scatteritem}}.log",
    conda:
        "../../envs/torch.yaml"
    threads: MUTAGENESIS_THREADS
    resources:
        gpu=1,
        mem_mb=REQUEST.mutagenesis_memory,
        runtime=REQUEST.mutagenesis_minutes,
    params:
        code=fingerprint(
            "deepmr.mutagenesis.effects_table",
            "deepmr.shards.membership",
            "deepmr.models.checkpoint",
        ),
        # In one, for each parameter costs time when there are thousands of shards.
        settings=dict(
            strand=config["data"]["strand"],
            targets=configuration.kept_targets(config),
            draws=DRAWS,
            prediction=config["prediction"],
            seed=config["seed"],
            engine={
                key: config["mutagenesis"][key]
                for key in ("engine", "memory_gb", "precision")
            },
        ),
    script:
        "../scripts/mutagenesis.py"
