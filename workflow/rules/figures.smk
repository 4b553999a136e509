FIGURES = f"{RESULTS}/figures"
TRUTH = f"{RESULTS}/simulated/truth.parquet" if "simulation" in config else []
KEPT = configuration.kept_targets(config)


rule plot_model:
    """Draw how well a model predicts."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=f"{RESULTS}/predictions/model={{model}}/windows.parquet",
        history=f"{RESULTS}/models/{{model}}.history.parquet",
        calibration=f"{RESULTS}/calibration.parquet",
        calibrators=f"{RESULTS}/calibrators.parquet",
    output:
        report(
            f"{FIGURES}/{{model}}/learning_curves.svg",
            caption="../report/learning_curves.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "learning curves"},
        ),
        report(
            f"{FIGURES}/{{model}}/roc.svg",
            caption="../report/roc.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "ROC"},
        ),
        report(
            expand(f"{FIGURES}/{{{{model}}}}/reliability/{{target}}.svg", target=KEPT),
            caption="../report/reliability.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "reliability"},
        ),
        report(
            expand(f"{FIGURES}/{{{{model}}}}/calibrators/{{target}}.svg", target=KEPT),
            caption="../report/calibrators.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "reliability after calibration"},
        ),
        report(
            expand(f"{FIGURES}/{{{{model}}}}/histogram/{{target}}.svg", target=KEPT),
            caption="../report/histogram.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "predicted probabilities by label"},
        ),
    log:
        f"{RESULTS}/logs/plot_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_model/{{model}}.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint("deepmr.figures.sets"),
        targets={name: config["targets"][name]["type"] for name in KEPT},
        bins=config["calibration"]["bins"],
        seed=config["seed"],
    script:
        "../scripts/plot_model.py"


rule plot_uncertainty:
    """Draw whether the standard errors of mutation effects are right."""
    input:
        replicates=f"{RESULTS}/replicates/model={{model}}.parquet",
        uncertainty=f"{RESULTS}/uncertainty.parquet",
    output:
        report(
            expand(
                f"{FIGURES}/{{{{model}}}}/standard_errors/{{target}}.svg", target=KEPT
            ),
            caption="../report/standard_errors.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "standard errors of mutations"},
        ),
    log:
        f"{RESULTS}/logs/plot_uncertainty/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_uncertainty/{{model}}.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint("deepmr.figures.sets"),
    script:
        "../scripts/plot_uncertainty.py"


rule plot_effects:
    """Draw the global effects of a model."""
    input:
        meta=f"{RESULTS}/meta.parquet",
        network=f"{RESULTS}/network.parquet",
        truth=TRUTH,
    output:
        report(
            f"{FIGURES}/{{model}}/global_effects.svg",
            caption="../report/global_effects.rst",
            category="Causal effects",
            labels={"model": "{model}", "figure": "all pairs, both directions"},
        ),
        report(
            f"{FIGURES}/{{model}}/network.svg",
            caption="../report/network.rst",
            category="Causal effects",
            labels={"model": "{model}", "figure": "network of all pairs"},
        ),
    log:
        f"{RESULTS}/logs/plot_effects/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_effects/{{model}}.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint("deepmr.figures.sets", "deepmr.meta.tables.summary"),
        mr=config["mr"],
        combination=config["meta"]["primary"],
        fdr=config["meta"]["fdr"],
        targets=list(config["targets"]),
    script:
        "../scripts/plot_effects.py"


rule plot_pair:
    """Draw the causal effect of a pair."""
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=f"{RESULTS}/predictions/model={{model}}/windows.parquet",
        sequences=f"{RESULTS}/sequences.parquet",
        mr=f"{RESULTS}/mr.parquet",
        meta=f"{RESULTS}/meta.parquet",
        sequence_effects=f"{RESULTS}/sequence_effects.parquet",
        meta_diagnostics=f"{RESULTS}/meta_diagnostics.parquet",
        motifs=config["motifs"],
        calibrators=APPLIED_CALIBRATORS,
        scales=APPLIED_SCALES,
        truth=TRUTH,
    output:
        report(
            f"{FIGURES}/{{model}}/{{pair}}/uncertainty.svg",
            caption="../report/uncertainty.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "SE against predicted mean, {pair}"},
        ),
        report(
            expand(
                f"{FIGURES}/{{{{model}}}}/{{{{pair}}}}/mr_scatter_{{direction}}.svg",
                direction=["forward", "reverse"],
            ),
            caption="../report/mr_scatter.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "MR of one sequence"},
        ),
        report(
            expand(
                f"{FIGURES}/{{{{model}}}}/{{{{pair}}}}/forest_{{direction}}.svg",
                direction=["forward", "reverse"],
            ),
            caption="../report/forest.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "local and global effects"},
        ),
        report(
            expand(
                f"{FIGURES}/{{{{model}}}}/{{{{pair}}}}/funnel_{{direction}}.svg",
                direction=["forward", "reverse"],
            ),
            caption="../report/funnel.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "local effects and their SEs"},
        ),
    log:
        f"{RESULTS}/logs/plot_pair/{{model}}/{{pair}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_pair/{{model}}/{{pair}}.tsv"
    conda:
        "../../envs/stats.yaml"
    params:
        code=fingerprint(
            "deepmr.figures.sets", "deepmr.meta.tables.summary", "deepmr.responses"
        ),
        strand=config["data"]["strand"],
        targets=config["targets"],
        pairs=config["pairs"],
        instruments=config["instruments"],
        mr=config["mr"],
        responses=RESPONSES,
        combination=config["meta"]["primary"],
        seed=config["seed"],
        # Folders, and no inputs: one sequence of one shard is drawn, and mr.parquet is made from all
        # of them. As inputs they would only add thousands of edges to the DAG for each pair.
        effects=f"{RESULTS}/effects/model={{model}}",
        references=f"{RESULTS}/references/model={{model}}",
        shards=SHARDS,
    script:
        "../scripts/plot_pair.py"
