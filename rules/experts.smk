"""From key neurons to experts: how often each is active, which are key, how much of each is used.

INPUTS   key_neurons.h5 and checkpoint.json of every checkpoint of a model.
OUTPUTS  <results>/{model}/expert_frequency.parquet and key_experts.parquet, each with a CSV twin.
"""


rule model_experts:
    input:
        key_neurons=model_files("key_neurons.h5", tasks=STUDY.tasks),
        checkpoints=model_files("checkpoint.json"),
    output:
        **table("expert_frequency", "{model}"),
        **table("key_experts", "{model}"),
        record="<results>/records/{model}/experts.json",
    log:
        "<logs>/{model}/experts.log",
    benchmark:
        "<benchmarks>/{model}/experts.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        mem_mb=2000,
    params:
        settings=STUDY.settings(),
        order=lambda wildcards: STUDY.checkpoints(wildcards.model),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        seed=STUDY["seed"],
        code=digest("measure_experts"),
    script:
        "../scripts/measure_experts.py"


rule experts:
    input:
        [f"<results>/{model}/expert_frequency.parquet" for model in STUDY.models],
