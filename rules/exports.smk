"""From key neurons and experts to files for other tools. Not part of `all`: ask for it, `snakemake exports`.

INPUTS   key_neurons.h5 of every checkpoint and task, expert_frequency.parquet of every model.
OUTPUTS  <results>/{model}/{checkpoint}/{task}/exports/: key_neurons.parquet (a row a sample and neuron), neurons.parquet
         (a row a neuron, with its incidence) and mask.safetensors (to prune or steer); <results>/exports/:
         expert_sets.parquet and data_dictionary.parquet (what every column of every table means), each with a CSV twin.
         docs/files.md says how to read them.
"""


rule key_neuron_exports:
    input:
        key_neurons="<results>/{model}/{checkpoint}/{task}/key_neurons.h5",
        chosen=chosen_threshold(),
    output:
        samples="<results>/{model}/{checkpoint}/{task}/exports/key_neurons.parquet",
        neurons="<results>/{model}/{checkpoint}/{task}/exports/neurons.parquet",
        masked="<results>/{model}/{checkpoint}/{task}/exports/mask.safetensors",
        record="<results>/records/{model}/{checkpoint}/exports_{task}.json",
    log:
        "<logs>/{model}/{checkpoint}/exports_{task}.log",
    benchmark:
        "<benchmarks>/{model}/{checkpoint}/exports_{task}.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("key_neuron_exports"),
    params:
        settings=STUDY.main_settings(),
        mask_setting=STUDY.expert_setting(),
        code=digest("export_key_neurons"),
    script:
        "../scripts/export_key_neurons.py"


rule expert_set_exports:
    input:
        frequencies=model_tables("expert_frequency"),
        chosen=chosen_threshold(),
    output:
        **table("expert_sets", "exports"),
        **table("data_dictionary", "exports"),
        record="<results>/records/exports.json",
    log:
        "<logs>/exports.log",
    benchmark:
        "<benchmarks>/exports.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("expert_set_exports"),
    params:
        settings=STUDY.main_settings(),
        expert_thresholds=STUDY["analysis"]["expert_thresholds"],
        code=digest("export_sets"),
    script:
        "../scripts/export_sets.py"


rule exports:
    input:
        study_files("exports/mask.safetensors", STUDY.tasks),
        "<results>/exports/expert_sets.parquet",
