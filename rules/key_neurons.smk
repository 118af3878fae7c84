"""From ranked contributions to each sample's key neurons, at every threshold.

INPUTS   contributions.zarr (or all its shards), responses.jsonl (domain and correctness of the samples).
OUTPUTS  <results>/{model}/{checkpoint}/{task}/key_neurons.h5: sparse sets a sample, one group for each
         formulation, selection and threshold. A read of the store: a smaller threshold needs no forward pass.
"""

for suite, tasks in STUDY.suites.items():

    rule:
        name:
            f"key_neurons_{suite}"
        input:
            stores=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/contributions{shard}.zarr",
                task=tasks,
                shard=STUDY.shards(),
            ),
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
        output:
            key_neurons=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/key_neurons.h5", task=tasks
            ),
            record=f"<results>/records/{{model}}/{{checkpoint}}/key_neurons_{suite}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/key_neurons_{suite}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/key_neurons_{suite}.tsv"
        conda:
            "../envs/analysis.yaml"
        resources:
            mem_mb=2000,
        params:
            thresholds=STUDY["contributions"]["thresholds"],
            shards=STUDY["contributions"]["shards"],
            code=digest("select_key_neurons"),
        script:
            "../scripts/select_key_neurons.py"


rule key_neurons:
    input:
        study_files("key_neurons.h5", STUDY.tasks),
