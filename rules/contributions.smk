"""From responses to neuron contributions: the one forward pass of the tap.

INPUTS   checkpoint.json, responses.jsonl.
OUTPUTS  <results>/{model}/{checkpoint}/{task}/contributions.zarr: ranked scores for every formulation and
         selection up to the largest threshold, routing counts, conservation errors (moemui.scores.store describes it).
         With contributions.shards: n above 1 instead contributions-1-of-n.zarr …, one job each. Those of a variant
         (contributions.variants) lie in a folder of its name beside them, and are jobs of their own.

With contributions.storage: s3://… the files of a finished store go there, to the same path, and the folder keeps its
metadata, its manifest and where.json: a pointer that later stages read like the store itself.
A killed job leaves .part-contributions.zarr; started again it goes on after the last chunk of samples in it.
"""

for (suite, tasks), variant, (shard, number) in product(
    STUDY.suites.items(), ALL_VARIANTS, STUDY.shards().items()
):

    rule:
        name:
            f"contributions_{suite}{ending(variant)}{shard}"
        input:
            manifest="<results>/{model}/{checkpoint}/checkpoint.json",
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
        output:
            stores=[
                directory(path)
                for path in expand(
                    "<results>/{{model}}/{{checkpoint}}/{task}/{folder}contributions{shard}.zarr",
                    task=tasks,
                    folder=folder(variant),
                    shard=shard,
                )
            ],
            record=f"<results>/records/{{model}}/{{checkpoint}}/contributions_{suite}{ending(variant)}{shard}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/contributions_{suite}{ending(variant)}{shard}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/contributions_{suite}{ending(variant)}{shard}.tsv"
        conda:
            "../envs/model.yaml"
        threads: 1
        resources:
            **RESOURCES.model_job("contributions", tasks, variant),
        params:
            options=STUDY.scoring(variant),
            chunk_samples=STUDY["contributions"]["chunk_samples"],
            shard=[number, STUDY["contributions"]["shards"]],
            loading=lambda wildcards: STUDY.loading(wildcards.model),
            # A function of the output, whose changes rerun nothing: where a store lies is not what it holds.
            urls=lambda wildcards, output: STUDY.store_urls(output.stores),
            code=digest("extract_contributions"),
        script:
            "../scripts/extract_contributions.py"


rule contributions:
    input:
        [
            study_files(f"contributions{shard}.zarr", STUDY.tasks)
            for shard in STUDY.shards()
        ],
