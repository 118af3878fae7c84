"""From config/experiments.yaml to decisions: what the paper leaves open, asked of models that are trained here.

INPUTS   config/experiments.yaml (or the file that the study names): cohorts of models, experiments, rules.
OUTPUTS  <results>/experiments/cohorts/{cohort}/seed-{seed}/: snapshots of a training; EXPERIMENT/seed-{seed}/ what was
         measured there; EXPERIMENT/: effects over seeds, decisions by the rules, each with a CSV twin; figures/;
         <results>/experiments.html, the page of all of them.
Not part of `all`: ask for it, `snakemake experiments`, or for one by its name, `snakemake turnover`.
"""


wildcard_constraints:
    cohort="|".join(EXPERIMENTS.config["cohorts"]) or "none",
    experiment="|".join(EXPERIMENTS.names) or "none",
    seed=r"\d+",


SEED = "experiments/cohorts/{cohort}/seed-{seed}"


rule cohort:
    output:
        **table("training", SEED),
        snapshots=directory(f"<results>/{SEED}/training"),
        record=f"<results>/records/{SEED}.json",
    log:
        f"<logs>/{SEED}.log",
    benchmark:
        f"<benchmarks>/{SEED}.tsv"
    conda:
        "../envs/model.yaml"
    threads: 1
    resources:
        **EXPERIMENTS.training(),
    params:
        recipe=lambda wildcards: EXPERIMENTS.recipe(
            wildcards.cohort, int(wildcards.seed)
        ),
        tasks=lambda wildcards: EXPERIMENTS.tasks(wildcards.cohort),
        model=lambda wildcards: f"{wildcards.cohort}-{wildcards.seed}",
        code=digest("train_model"),
    script:
        "../scripts/train_model.py"


# By the code of each experiment's own modules, so that a change of one measures that one alone.
rule measure_experiment:
    input:
        snapshots=lambda wildcards: cohort_files(
            wildcards.experiment, "training", wildcards.seed
        ),
        histories=lambda wildcards: cohort_files(
            wildcards.experiment, "training.parquet", wildcards.seed
        ),
    output:
        **table("measurements", "experiments/{experiment}/seed-{seed}"),
        record="<results>/records/experiments/{experiment}/seed-{seed}.json",
    log:
        "<logs>/experiments/{experiment}/seed-{seed}.log",
    benchmark:
        "<benchmarks>/experiments/{experiment}/seed-{seed}.tsv"
    conda:
        "../envs/model.yaml"
    threads: 1
    resources:
        **EXPERIMENTS.measuring(),
    params:
        given=lambda wildcards: given_to(wildcards.experiment, wildcards.seed),
        code=lambda wildcards: digest(
            "measure_experiment",
            modules=experiment_modules(wildcards.experiment, "measure"),
        ),
    script:
        "../scripts/measure_experiment.py"


rule experiment_decisions:
    input:
        parts=lambda wildcards: seed_files(wildcards.experiment, "measurements.parquet"),
        records=lambda wildcards: [
            f"<results>/records/experiments/{wildcards.experiment}/seed-{seed}.json"
            for seed in EXPERIMENTS[wildcards.experiment]["seeds"]
        ],
    output:
        **table("measurements", "experiments/{experiment}"),
        **table("experiment_seeds", "experiments/{experiment}"),
        **table("experiment_effects", "experiments/{experiment}"),
        **table("experiment_decisions", "experiments/{experiment}"),
        record="<results>/records/experiments/{experiment}/decisions.json",
    log:
        "<logs>/experiments/{experiment}/decisions.log",
    benchmark:
        "<benchmarks>/experiments/{experiment}/decisions.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("experiment_decisions"),
    params:
        plan=lambda wildcards: EXPERIMENTS.plan(wildcards.experiment),
        code=lambda wildcards: digest(
            "judge_experiment",
            modules=experiment_modules(wildcards.experiment, "effects"),
        ),
    script:
        "../scripts/judge_experiment.py"


for EXPERIMENT in EXPERIMENTS.names:

    rule:
        name:
            EXPERIMENT
        input:
            f"<results>/experiments/{EXPERIMENT}/experiment_decisions.parquet",


rule experiments_page:
    input:
        tables=EXPERIMENT_TABLES,
        records=EXPERIMENT_RECORDS,
    output:
        page="<results>/experiments.html",
        figures=directory("<results>/experiments/figures"),
        record="<results>/records/experiments/page.json",
    log:
        "<logs>/experiments/page.log",
    benchmark:
        "<benchmarks>/experiments/page.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("experiments_page"),
    params:
        study=STUDY.name,
        plans={name: EXPERIMENTS.plan(name) for name in EXPERIMENTS.names},
        code=digest(
            "write_experiments_page",
            "moemui/report/templates/experiments.html.j2",
            "moemui/report/templates/parts.html.j2",
            "moemui/report/templates/report.css",
            "moemui/report/templates/report.js",
        ),
    script:
        "../scripts/write_experiments_page.py"


rule experiments_tracking:
    input:
        records=[*EXPERIMENT_RECORDS, "<results>/records/experiments/page.json"],
    output:
        runs="<results>/experiments/tracking.json",
        record="<results>/records/experiments/tracking.json",
    log:
        "<logs>/experiments/tracking.log",
    benchmark:
        "<benchmarks>/experiments/tracking.tsv"
    conda:
        "../envs/tracking.yaml"
    resources:
        **RESOURCES.analysis("tracking"),
    params:
        uri=STUDY["tracking"]["uri"],
        study=STUDY.name,
        code=digest("track_runs"),
    script:
        "../scripts/track_runs.py"


rule experiments:
    input:
        "<results>/experiments.html",
        "<results>/experiments/tracking.json",
