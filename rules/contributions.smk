"""From responses to neuron contributions: the one forward pass of the tap.

INPUTS   checkpoint.json, responses.jsonl.
OUTPUTS  <results>/{model}/{checkpoint}/{task}/contributions.zarr: ranked scores for every formulation and
         selection up to the largest threshold, routing counts, conservation errors (moemui.store describes it).
"""

for suite, tasks in STUDY.suites.items():

    rule:
        name:
            f"contributions_{suite}"
        input:
            checkpoint="<results>/{model}/{checkpoint}/checkpoint.json",
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
        output:
            stores=[
                directory(path)
                for path in expand(
                    "<results>/{{model}}/{{checkpoint}}/{task}/contributions.zarr",
                    task=tasks,
                )
            ],
            record=f"<results>/records/{{model}}/{{checkpoint}}/contributions_{suite}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/contributions_{suite}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/contributions_{suite}.tsv"
        conda:
            "../envs/model.yaml"
        threads: 1
        resources:
            **model_resources(),
        params:
            options=STUDY.scoring(),
            loading=lambda wildcards: STUDY.loading(wildcards.model),
            code=digest("extract_contributions"),
        script:
            "../scripts/extract_contributions.py"


rule contributions:
    input:
        study_files("contributions.zarr", STUDY.tasks),
