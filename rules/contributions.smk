"""From responses to neuron contributions: the one forward pass of the tap.

INPUTS   checkpoint.json, responses.jsonl.
OUTPUTS  <results>/{model}/{checkpoint}/{task}/contributions.zarr: ranked scores for every formulation and
         selection up to the largest threshold, routing counts, conservation errors (moemui.scores.store describes it).
         With contributions.shards: n above 1 instead contributions-1-of-n.zarr …, one job each.

A killed job leaves .part-contributions.zarr; started again it goes on after the last chunk of samples in it.
"""

for (suite, tasks), (shard, number) in product(
    STUDY.suites.items(), STUDY.shards().items()
):

    rule:
        name:
            f"contributions_{suite}{shard}"
        input:
            manifest="<results>/{model}/{checkpoint}/checkpoint.json",
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
        output:
            stores=[
                directory(path)
                for path in expand(
                    "<results>/{{model}}/{{checkpoint}}/{task}/contributions{shard}.zarr",
                    task=tasks,
                    shard=shard,
                )
            ],
            record=f"<results>/records/{{model}}/{{checkpoint}}/contributions_{suite}{shard}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/contributions_{suite}{shard}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/contributions_{suite}{shard}.tsv"
        conda:
            "../envs/model.yaml"
        threads: 1
        resources:
            **model_resources(),
        params:
            options=STUDY.scoring(),
            chunk_samples=STUDY["contributions"]["chunk_samples"],
            shard=[number, STUDY["contributions"]["shards"]],
            loading=lambda wildcards: STUDY.loading(wildcards.model),
            code=digest("extract_contributions"),
        script:
            "../scripts/extract_contributions.py"


rule contributions:
    input:
        [
            study_files(f"contributions{shard}.zarr", STUDY.tasks)
            for shard in STUDY.shards()
        ],
