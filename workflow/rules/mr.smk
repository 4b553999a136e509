rule estimate_mr:
    """Estimate the causal effects of the sequences of one or more shards."""
    input:
        sequences=f"{RESULTS}/sequences.parquet",
        effects=shards_of_job("effects"),
        references=shards_of_job("references"),
        motifs=config["motifs"],
        calibrators=APPLIED_CALIBRATORS,
        scales=APPLIED_SCALES,
    output:
        mr=f"{RESULTS}/mr/model={{model}}/{{scatteritem}}.parquet",
    log:
        f"{RESULTS}/logs/estimate_mr/{{model}}/{{scatteritem}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/estimate_mr/{{model}}/{{scatteritem}}.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=REQUEST.estimate_mr_memory,
        runtime=REQUEST.estimate_mr_minutes,
    params:
        code=fingerprint("deepmr.mr.shard", "deepmr.responses"),
        strand=config["data"]["strand"],
        targets=config["targets"],
        pairs=config["pairs"],
        instruments=config["instruments"],
        # The decoys are a job of their own; their number must not estimate the shards again.
        mr={
            key: value
            for key, value in config["mr"].items()
            if key != "decoy_sequences"
        },
        responses=RESPONSES,
        seed=config["seed"],
    script:
        "../scripts/estimate_mr.py"


rule gather_mr:
    """Put the shards together."""
    input:
        # The list of this run's shards, not a folder: old shards must not come in.
        expand(
            gather.mr(f"{RESULTS}/mr/model={{{{model}}}}/{{scatteritem}}.parquet"),
            model=config["models"],
        ),
    output:
        mr=f"{RESULTS}/mr.parquet",
    log:
        f"{RESULTS}/logs/gather_mr.log",
    benchmark:
        f"{RESULTS}/benchmarks/gather_mr.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=REQUEST.gather_mr_memory,
        runtime=REQUEST.gather_mr_minutes,
    params:
        code=fingerprint("deepmr.mr.gather"),
    script:
        "../scripts/gather_mr.py"


rule estimate_decoys:
    """Estimate every pair with the exposure of other sequences: a negative control."""
    input:
        sequences=f"{RESULTS}/sequences.parquet",
        # It is made from all shards, so they are there.
        mr=f"{RESULTS}/mr.parquet",
        motifs=config["motifs"],
        calibrators=APPLIED_CALIBRATORS,
        scales=APPLIED_SCALES,
    output:
        decoys=f"{RESULTS}/decoys/model={{model}}.parquet",
    log:
        f"{RESULTS}/logs/estimate_decoys/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/estimate_decoys/{{model}}.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=REQUEST.estimate_decoys_memory,
        runtime=REQUEST.estimate_decoys_minutes,
    params:
        code=fingerprint("deepmr.mr.decoy", "deepmr.responses"),
        strand=config["data"]["strand"],
        targets=config["targets"],
        pairs=config["pairs"],
        instruments=config["instruments"],
        mr=config["mr"],
        responses=RESPONSES,
        seed=config["seed"],
        # Folders, and no inputs: some sequences are read, and as inputs the tables of all shards
        # would only add thousands of edges to the DAG.
        effects=f"{RESULTS}/effects/model={{model}}",
        references=f"{RESULTS}/references/model={{model}}",
        shards=SHARDS,
    script:
        "../scripts/estimate_decoys.py"
