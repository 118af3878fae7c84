"""From the configuration to checkpoints on this machine.

INPUTS   models and their checkpoints in the config: a hub repository at a revision, a local folder, a GGUF file,
         or a recipe for a small model that is trained here.
OUTPUTS  <results>/{model}/{checkpoint}/checkpoint.json, which pins the checkpoint to exact files;
         for models trained here <results>/{model}/training/ (a folder for every saved step) and training.parquet.
"""


rule train:
    output:
        **table("training", "{model}"),
        snapshots=directory("<results>/{model}/training"),
        record="<results>/records/{model}/train.json",
    log:
        "<logs>/{model}/train.log",
    benchmark:
        "<benchmarks>/{model}/train.tsv"
    conda:
        "../envs/model.yaml"
    threads: 1
    resources:
        **RESOURCES.training(),
    params:
        recipe=lambda wildcards: {
            "family": STUDY.models[wildcards.model]["source"]["train"],
            **STUDY.models[wildcards.model]["training"],
        },
        tasks=sorted(
            task["synthetic"] for task in STUDY.tasks.values() if "synthetic" in task
        ),
        code=digest("train_model"),
    script:
        "../scripts/train_model.py"


rule checkpoint:
    input:
        training=lambda wildcards: (
            f"<results>/{wildcards.model}/training"
            if wildcards.model in STUDY.trained()
            else []
        ),
        history=lambda wildcards: (
            f"<results>/{wildcards.model}/training.parquet"
            if wildcards.model in STUDY.trained()
            else []
        ),
        # Weights replaced in place are another checkpoint.
        files=lambda wildcards: STUDY.local_files(wildcards.model),
    output:
        checkpoint="<results>/{model}/{checkpoint}/checkpoint.json",
        record="<results>/records/{model}/{checkpoint}/checkpoint.json",
    log:
        "<logs>/{model}/{checkpoint}/checkpoint.log",
    benchmark:
        "<benchmarks>/{model}/{checkpoint}/checkpoint.tsv"
    conda:
        "../envs/model.yaml"
    resources:
        **RESOURCES.pinning(),
    params:
        source=lambda wildcards: STUDY.source(wildcards.model),
        entry=lambda wildcards: STUDY.checkpoint(wildcards.model, wildcards.checkpoint),
        code=digest("resolve_checkpoint"),
    script:
        "../scripts/resolve_checkpoint.py"


rule checkpoints:
    input:
        study_files("checkpoint.json"),
