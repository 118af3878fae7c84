"""From ranked contributions to each sample's key neurons, by every rule at every threshold.

INPUTS   contributions.zarr (or all its shards), responses.jsonl (domain and correctness of the samples).
OUTPUTS  <results>/{model}/{checkpoint}/{task}/key_neurons.h5: sparse sets a sample, one group for each
         rule, formulation, selection and threshold. A read of the store, so none costs a forward pass: a
         smaller threshold, a share of the highest score (top_score), all layers together (global_topk).
"""

for (suite, tasks), variant in product(STUDY.suites.items(), ALL_VARIANTS):

    rule:
        name:
            f"key_neurons_{suite}{ending(variant)}"
        input:
            stores=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/{folder}contributions{shard}.zarr",
                task=tasks,
                folder=folder(variant),
                shard=STUDY.shards(),
            ),
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
        output:
            key_neurons=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/{folder}key_neurons.h5",
                task=tasks,
                folder=folder(variant),
            ),
            record=f"<results>/records/{{model}}/{{checkpoint}}/key_neurons_{suite}{ending(variant)}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/key_neurons_{suite}{ending(variant)}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/key_neurons_{suite}{ending(variant)}.tsv"
        conda:
            "../envs/analysis.yaml"
        resources:
            **RESOURCES.analysis("key_neurons"),
        params:
            thresholds=STUDY["contributions"]["thresholds"],
            top_score=STUDY["key_neurons"]["top_score"],
            global_topk=STUDY["key_neurons"]["global_topk"],
            variant=variant,
            shards=STUDY["contributions"]["shards"],
            code=digest("select_key_neurons"),
        script:
            "../scripts/select_key_neurons.py"


rule key_neurons:
    input:
        study_files("key_neurons.h5", STUDY.tasks),
