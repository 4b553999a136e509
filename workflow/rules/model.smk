IMPORTED = configuration.imported_models(config)
TRAINED = [name for name in config["models"] if name not in IMPORTED]
LAPLACE = (
    f"{RESULTS}/models/{{model}}.laplace.pt" if DRAWS["method"] == "laplace" else []
)

if TRAINED:

    rule train_model:
        """Train a network on all targets at once."""
        input:
            windows=f"{RESULTS}/windows.parquet",
            fasta=configuration.data_path(config, config["data"]["fasta"]),
        output:
            model=f"{RESULTS}/models/{{model}}.pt",
            history=f"{RESULTS}/models/{{model}}.history.parquet",
        log:
            f"{RESULTS}/logs/train_model/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/train_model/{{model}}.tsv"
        wildcard_constraints:
            model="|".join(TRAINED),
        conda:
            "../../envs/torch.yaml"
        threads: 4
        resources:
            gpu=1,
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 720 * attempt,
        params:
            code=fingerprint("deepmr.models.training", "deepmr.genome.extraction"),
            model=lambda wildcards: config["models"][wildcards.model],
            data=config["data"],
            targets=config["targets"],
            length=config["windows"]["length"],
            training=config["training"],
            resume=f"{RESULTS}/models/.resume",
            index=f"{RESULTS}/index",
            seed=config["seed"],
        script:
            "../scripts/train_model.py"


if IMPORTED:

    rule import_model:
        """Check a user's own network and take it in."""
        input:
            code=lambda wildcards: config["models"][wildcards.model]["code"].rsplit(
                ":", 1
            )[0],
            weights=lambda wildcards: config["models"][wildcards.model]["weights"],
        output:
            model=f"{RESULTS}/models/{{model}}.pt",
            history=f"{RESULTS}/models/{{model}}.history.parquet",
        log:
            f"{RESULTS}/logs/import_model/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/import_model/{{model}}.tsv"
        wildcard_constraints:
            model="|".join(IMPORTED),
        conda:
            "../../envs/torch.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: 4000 * attempt,
            runtime=lambda wildcards, attempt: 30 * attempt,
        params:
            code=fingerprint("deepmr.models.imported"),
            model=lambda wildcards: config["models"][wildcards.model],
            targets=config["targets"],
            length=config["windows"]["length"],
        script:
            "../scripts/import_model.py"


if LAPLACE:

    rule fit_laplace:
        """Find how sure a model is of the weights of its last layer."""
        input:
            windows=f"{RESULTS}/windows.parquet",
            fasta=configuration.data_path(config, config["data"]["fasta"]),
            model=f"{RESULTS}/models/{{model}}.pt",
        output:
            laplace=LAPLACE,
        log:
            f"{RESULTS}/logs/fit_laplace/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/fit_laplace/{{model}}.tsv"
        conda:
            "../../envs/torch.yaml"
        threads: 8
        resources:
            gpu=1,
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 240 * attempt,
        params:
            code=fingerprint(
                "deepmr.models.laplace",
                "deepmr.genome.extraction",
                "deepmr.models.checkpoint",
            ),
            data=config["data"],
            index=f"{RESULTS}/index",
            targets=configuration.kept_targets(config),
            cache_mb=config["training"]["cache_mb"],
        script:
            "../scripts/fit_laplace.py"


rule predict_windows:
    """Predict the held-out windows."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        fasta=configuration.data_path(config, config["data"]["fasta"]),
        model=f"{RESULTS}/models/{{model}}.pt",
        laplace=LAPLACE,
    output:
        predictions=f"{RESULTS}/predictions/model={{model}}/windows.parquet",
    log:
        f"{RESULTS}/logs/predict_windows/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/predict_windows/{{model}}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=lambda wildcards, attempt: 8000 * attempt,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        code=fingerprint(
            "deepmr.predict", "deepmr.genome.extraction", "deepmr.models.checkpoint"
        ),
        data=config["data"],
        index=f"{RESULTS}/index",
        targets=configuration.kept_targets(config),
        draws=DRAWS,
        prediction=config["prediction"],
        seed=config["seed"],
    script:
        "../scripts/predict_windows.py"
