rule plot_model:
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=f"{RESULTS}/predictions/model={{model}}/windows.parquet",
        history=f"{RESULTS}/models/{{model}}.history.parquet",
    output:
        learning=report(
            f"{RESULTS}/figures/{{model}}/learning.svg",
            caption="../report/learning.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "learning curves"},
        ),
        roc=report(
            f"{RESULTS}/figures/{{model}}/roc.svg",
            caption="../report/roc.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "ROC"},
        ),
        reliability=report(
            f"{RESULTS}/figures/{{model}}/reliability.svg",
            caption="../report/reliability.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "reliability"},
        ),
        histogram=report(
            f"{RESULTS}/figures/{{model}}/histogram.svg",
            caption="../report/histogram.rst",
            category="Predictions",
            labels={"model": "{model}", "figure": "predicted probabilities by label"},
        ),
    params:
        code=fingerprint("deepmr.figures.prediction"),
        targets=config["targets"],
        bins=config["calibration"]["bins"],
        seed=config["seed"],
    log:
        f"{RESULTS}/logs/plot_model/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_model/{{model}}.tsv"
    conda:
        "../../envs/stats.yaml"
    message:
        "Draw how well {wildcards.model} predicts"
    script:
        "../scripts/plot_model.py"


rule plot_pair:
    input:
        windows=f"{RESULTS}/windows.parquet",
        predictions=f"{RESULTS}/predictions/model={{model}}/windows.parquet",
        sequences=f"{RESULTS}/sequences.parquet",
        effects=gather.shard(f"{RESULTS}/effects/model={{{{model}}}}/{{scatteritem}}.parquet"),
        references=gather.shard(
            f"{RESULTS}/references/model={{{{model}}}}/{{scatteritem}}.parquet"
        ),
        mr=f"{RESULTS}/mr.parquet",
        meta=f"{RESULTS}/meta.parquet",
        motifs=config["motifs"],
        truth=f"{RESULTS}/simulated/truth.parquet" if "simulation" in config else [],
    output:
        uncertainty=report(
            f"{RESULTS}/figures/{{model}}/{{pair}}/uncertainty.svg",
            caption="../report/uncertainty.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "SE against predicted mean"},
        ),
        scatter=report(
            f"{RESULTS}/figures/{{model}}/{{pair}}/mr_scatter.svg",
            caption="../report/mr_scatter.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "MR of one sequence"},
        ),
        forest=report(
            f"{RESULTS}/figures/{{model}}/{{pair}}/forest.svg",
            caption="../report/forest.rst",
            category="Causal effects",
            subcategory="{pair}",
            labels={"model": "{model}", "figure": "local and global effects"},
        ),
    params:
        code=fingerprint("deepmr.figures.causal", "deepmr.mr.shard"),
        strand=config["data"]["strand"],
        targets=config["targets"],
        pair=lambda wildcards: config["pairs"][wildcards.pair],
        instruments=config["instruments"],
        mr=config["mr"],
        combination=config["meta"]["primary"],
        seed=config["seed"],
    log:
        f"{RESULTS}/logs/plot_pair/{{model}}/{{pair}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/plot_pair/{{model}}/{{pair}}.tsv"
    conda:
        "../../envs/stats.yaml"
    message:
        "Draw the causal effect {wildcards.pair} of {wildcards.model}"
    script:
        "../scripts/plot_pair.py"


rule write_report:
    input:
        windows=f"{RESULTS}/windows.parquet",
        sequences=f"{RESULTS}/sequences.parquet",
        mr=f"{RESULTS}/mr.parquet",
        meta=f"{RESULTS}/meta.parquet",
        calibration=f"{RESULTS}/calibration.parquet",
        truth=f"{RESULTS}/simulated/truth.parquet" if "simulation" in config else [],
        model_figures=expand(
            f"{RESULTS}/figures/{{model}}/{{figure}}.svg",
            model=config["models"],
            figure=["learning", "roc", "reliability", "histogram"],
        ),
        pair_figures=expand(
            f"{RESULTS}/figures/{{model}}/{{pair}}/{{figure}}.svg",
            model=config["models"],
            pair=config["pairs"],
            figure=["uncertainty", "mr_scatter", "forest"],
        ),
        captions=expand(
            workflow.source_path("../report/roc.rst"),
        ),
    output:
        report=f"{RESULTS}/report.html",
    params:
        code=fingerprint("deepmr.report"),
    log:
        f"{RESULTS}/logs/write_report.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_report.tsv"
    conda:
        "../../envs/stats.yaml"
    message:
        "Write {output.report}"
    script:
        "../scripts/write_report.py"
