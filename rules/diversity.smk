"""From key neurons and text to diversity: do neurons, experts or words show how many domains samples come from?

INPUTS   key_neurons.h5, responses.jsonl and checkpoint.json of a model's first and last checkpoint.
OUTPUTS  <results>/{model}/diversity.parquet (each level by number of domains) and diversity_effect.parquet
         (correlations, how well each level tells the number of domains, and which does better), each with a CSV twin.
"""


rule model_diversity:
    input:
        key_neurons=end_files("key_neurons.h5", STUDY.tasks),
        responses=end_files("responses.jsonl", STUDY.tasks),
        checkpoints=end_files("checkpoint.json"),
        chosen=chosen_threshold(),
    output:
        **table("diversity", "{model}"),
        **table("diversity_effect", "{model}"),
        record="<results>/records/{model}/diversity.json",
    log:
        "<logs>/{model}/diversity.log",
    benchmark:
        "<benchmarks>/{model}/diversity.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("model_diversity"),
    params:
        curve_setting=STUDY.curve_setting(),
        expert_setting=STUDY.expert_setting(),
        expert_threshold=STUDY["analysis"]["expert_threshold"],
        samples=STUDY["diversity"].get("samples"),
        draws=STUDY["diversity"]["draws"],
        order=lambda wildcards: STUDY.checkpoints(wildcards.model),
        seed=STUDY["seed"],
        code=digest("measure_diversity"),
    script:
        "../scripts/measure_diversity.py"


rule diversity:
    input:
        [f"<results>/{model}/diversity_effect.parquet" for model in STUDY.models],
