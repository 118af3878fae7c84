"""From key neurons to MUI: total, routed, shared and by layer, with its dependence on the number of samples.

INPUTS   key_neurons.h5 (of the variants too) and checkpoint.json of every checkpoint of a model.
OUTPUTS  <results>/{model}/utilization.parquet, saturation.parquet, performance.parquet, each with a CSV twin.
"""


rule model_utilization:
    input:
        key_neurons=measured_files("key_neurons.h5"),
        checkpoints=model_files("checkpoint.json"),
    output:
        **table("utilization", "{model}"),
        **table("saturation", "{model}"),
        **table("performance", "{model}"),
        record="<results>/records/{model}/utilization.json",
    log:
        "<logs>/{model}/utilization.log",
    benchmark:
        "<benchmarks>/{model}/utilization.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("model_utilization"),
    params:
        settings=STUDY.settings(),
        order=lambda wildcards: STUDY.checkpoints(wildcards.model),
        code=digest("measure_utilization"),
    script:
        "../scripts/measure_utilization.py"


rule utilization:
    input:
        [f"<results>/{model}/utilization.parquet" for model in STUDY.models],
