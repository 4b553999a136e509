if "simulation" in config:

    rule simulate_genome:
        """Make a genome with planted motif sites, its peaks and the true effects."""
        input:
            motifs=config["motifs"],
        output:
            fasta=f"{RESULTS}/simulated/genome.fa",
            peaks=expand(
                f"{RESULTS}/simulated/peaks/{{target}}.bed", target=config["targets"]
            ),
            truth=f"{RESULTS}/simulated/truth.parquet",
        log:
            f"{RESULTS}/logs/simulate_genome.log",
        benchmark:
            f"{RESULTS}/benchmarks/simulate_genome.tsv"
        conda:
            "../../envs/stats.yaml"
        params:
            code=fingerprint("deepmr.simulate.genome_files"),
            simulation=config["simulation"],
            targets=list(config["targets"]),
            windows=config["windows"],
            seed=config["seed"],
        script:
            "../scripts/simulate_genome.py"


rule extract_windows:
    """Cut the windows and label them."""
    input:
        **configuration.data_files(config),
    output:
        windows=f"{RESULTS}/windows.parquet",
    log:
        f"{RESULTS}/logs/extract_windows.log",
    benchmark:
        f"{RESULTS}/benchmarks/extract_windows.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        code=fingerprint("deepmr.genome.extraction", "deepmr.schemas", "deepmr.tables"),
        data=config["data"],
        index=f"{RESULTS}/index",
        targets=config["targets"],
        windows=config["windows"],
        split=config["split"],
        seed=config["seed"],
    script:
        "../scripts/extract_windows.py"


rule sample_sequences:
    """Sample held-out sequences, bound and unbound, for each exposure."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        fasta=configuration.data_path(config, config["data"]["fasta"]),
    output:
        sequences=f"{RESULTS}/sequences.parquet",
    log:
        f"{RESULTS}/logs/sample_sequences.log",
    benchmark:
        f"{RESULTS}/benchmarks/sample_sequences.tsv"
    conda:
        "../../envs/stats.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 30 * attempt,
    params:
        code=fingerprint(
            "deepmr.genome.sampling",
            "deepmr.genome.extraction",
            "deepmr.schemas",
            "deepmr.tables",
        ),
        data=config["data"],
        index=f"{RESULTS}/index",
        exposures=configuration.exposures(config),
        sampling=config["sampling"],
        seed=config["seed"],
    script:
        "../scripts/sample_sequences.py"
