"""From key neurons to experts: how often each is active, which are key, how much of each is used, how they relate.

INPUTS   key_neurons.h5 and checkpoint.json of every checkpoint of a model.
OUTPUTS  <results>/{model}/expert_frequency.parquet and key_experts.parquet, each with a CSV twin; from the second rule,
         which is at the experts' own setting, expert_overlap and experts_shared (how tasks share key experts),
         specialization and specialization_summary (which domains an expert is active in), coactivation and
         coactivation_summary (which experts are active in the same samples).
"""


rule model_experts:
    input:
        key_neurons=measured_files("key_neurons.h5"),
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
        **RESOURCES.analysis("model_experts"),
    params:
        settings=STUDY.settings(),
        main_settings=STUDY.grid_settings(),
        order=lambda wildcards: STUDY.checkpoints(wildcards.model),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        expert_thresholds=STUDY["analysis"]["expert_thresholds"],
        seed=STUDY["seed"],
        code=digest("measure_experts"),
    script:
        "../scripts/measure_experts.py"


rule model_expert_structure:
    input:
        key_neurons=model_files("key_neurons.h5", tasks=STUDY.tasks),
        checkpoints=model_files("checkpoint.json"),
        chosen=chosen_threshold(),
    output:
        **table("expert_overlap", "{model}"),
        **table("experts_shared", "{model}"),
        **table("specialization", "{model}"),
        **table("specialization_summary", "{model}"),
        **table("coactivation", "{model}"),
        **table("coactivation_summary", "{model}"),
        record="<results>/records/{model}/expert_structure.json",
    log:
        "<logs>/{model}/expert_structure.log",
    benchmark:
        "<benchmarks>/{model}/expert_structure.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("model_expert_structure"),
    params:
        setting=STUDY.expert_setting(),
        order=lambda wildcards: STUDY.checkpoints(wildcards.model),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        seed=STUDY["seed"],
        code=digest("relate_experts"),
    script:
        "../scripts/relate_experts.py"


rule experts:
    input:
        [f"<results>/{model}/expert_frequency.parquet" for model in STUDY.models],


rule expert_structure:
    input:
        [f"<results>/{model}/expert_overlap.parquet" for model in STUDY.models],
