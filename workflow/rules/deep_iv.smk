# A causal model learned directly, only where it is asked for.
DEEP_IV, COUNTERFACTUALS, DEEP_IV_FIGURES = [], [], []

if config["deep_iv"]["run"]:

    rule deep_iv:
        """Learn the effect of a pair from its measured labels."""
        input:
            windows=f"{RESULTS}/windows.parquet",
            fasta=configuration.data_path(config, config["data"]["fasta"]),
            motifs=config["motifs"],
        output:
            rows=f"{RESULTS}/deep_iv/{{pair}}.parquet",
            counterfactuals=f"{RESULTS}/counterfactuals/{{pair}}.parquet",
        log:
            f"{RESULTS}/logs/deep_iv/{{pair}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/deep_iv/{{pair}}.tsv"
        conda:
            "../../envs/torch.yaml"
        threads: 4
        resources:
            gpu=1,
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 720 * attempt,
        params:
            code=fingerprint(
                "deepmr.deepiv.labels.measured",
                "deepmr.genome.extraction",
                "deepmr.tables",
            ),
            pair=lambda wildcards: {
                role: config["pairs"][wildcards.pair][role]
                for role in ("exposure", "outcome")
            },
            targets={
                name: {key: target[key] for key in ("type", "motif")}
                for name, target in config["targets"].items()
            },
            data=config["data"],
            length=config["windows"]["length"],
            settings={
                key: value for key, value in config["deep_iv"].items() if key != "run"
            },
            cpu_threads=config["training"]["cpu_threads"],
            index=f"{RESULTS}/index",
            seed=config["seed"],
        script:
            "../scripts/deep_iv.py"

    rule regress_slopes:
        """Ask whether a model's slopes depend on the sequence around the instruments."""
        input:
            sequences=f"{RESULTS}/sequences.parquet",
            # It is made from all shards, so they are there.
            mr=f"{RESULTS}/mr.parquet",
            motifs=config["motifs"],
            calibrators=APPLIED_CALIBRATORS,
            scales=APPLIED_SCALES,
        output:
            rows=f"{RESULTS}/deep_iv/model={{model}}.parquet",
        log:
            f"{RESULTS}/logs/regress_slopes/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/regress_slopes/{{model}}.tsv"
        conda:
            "../../envs/torch.yaml"
        threads: 4
        resources:
            mem_mb=lambda wildcards, attempt: 8000 * attempt,
            runtime=lambda wildcards, attempt: 240 * attempt,
        params:
            code=fingerprint(
                "deepmr.deepiv.slopes.regression",
                "deepmr.responses",
                "deepmr.shards.membership",
            ),
            strand=config["data"]["strand"],
            targets=config["targets"],
            pairs={
                name: {role: pair[role] for role in ("exposure", "outcome")}
                for name, pair in config["pairs"].items()
            },
            instruments=config["instruments"],
            mr={
                key: value
                for key, value in config["mr"].items()
                if key != "decoy_sequences"
            },
            responses=RESPONSES,
            network={
                key: config["deep_iv"][key]
                for key in ("architecture", "options", "features", "hidden", "folds")
            },
            fitting={
                key: config["deep_iv"][key]
                for key in (
                    "epochs",
                    "batch_size",
                    "learning_rate",
                    "weight_decay",
                    "patience",
                )
            },
            cpu_threads=config["training"]["cpu_threads"],
            seed=config["seed"],
            # Folders, and no inputs, as in estimate_decoys.
            effects=f"{RESULTS}/effects/model={{model}}",
            references=f"{RESULTS}/references/model={{model}}",
            shards=SHARDS,
        script:
            "../scripts/regress_slopes.py"

    rule gather_deep_iv:
        """Put what labels and models say into one table."""
        input:
            labels=expand(rules.deep_iv.output.rows, pair=config["pairs"]),
            models=expand(rules.regress_slopes.output.rows, model=config["models"]),
        output:
            deep_iv=f"{RESULTS}/deep_iv.parquet",
        log:
            f"{RESULTS}/logs/gather_deep_iv.log",
        benchmark:
            f"{RESULTS}/benchmarks/gather_deep_iv.tsv"
        conda:
            "../../envs/stats.yaml"
        params:
            code=fingerprint("deepmr.schemas", "deepmr.tables"),
        script:
            "../scripts/gather_deep_iv.py"

    rule plot_deep_iv:
        """Draw what a model and measured labels say of all pairs."""
        input:
            meta=f"{RESULTS}/meta.parquet",
            deep_iv=f"{RESULTS}/deep_iv.parquet",
        output:
            report(
                f"{FIGURES}/{{model}}/deep_iv.svg",
                caption="../report/deep_iv.rst",
                category="Causal effects",
                labels={"model": "{model}", "figure": "Deep IV beside MR"},
            ),
        log:
            f"{RESULTS}/logs/plot_deep_iv/{{model}}.log",
        benchmark:
            f"{RESULTS}/benchmarks/plot_deep_iv/{{model}}.tsv"
        conda:
            "../../envs/stats.yaml"
        params:
            code=fingerprint(
                "deepmr.figures.deep_iv", "deepmr.meta.tables.summary", "deepmr.tables"
            ),
            mr={key: config["mr"][key] for key in ("primary", "effect_scale")},
            combination=config["meta"]["primary"],
        script:
            "../scripts/plot_deep_iv.py"

    DEEP_IV = rules.gather_deep_iv.output.deep_iv
    COUNTERFACTUALS = expand(
        rules.deep_iv.output.counterfactuals, pair=config["pairs"]
    )
    DEEP_IV_FIGURES = expand(rules.plot_deep_iv.output, model=config["models"])
