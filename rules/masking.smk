"""What does a task lose without its key neurons, and what without as many others?

INPUTS   checkpoint.json, responses.jsonl and key_neurons.h5 of a model's last checkpoint.
OUTPUTS  <results>/{model}/{checkpoint}/masking/{suite}/masking.parquet and masking_effect.parquet: every threshold of
         masking.thresholds, against random neurons of the same experts, and against such of like activation frequency.

A job answers all tasks of a suite again, once for each condition, on one loaded model.
"""

for suite, tasks in STUDY.suites.items():

    rule:
        name:
            f"masking_{suite}"
        input:
            checkpoint="<results>/{model}/{checkpoint}/checkpoint.json",
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
            # One more threshold writes this file anew and leaves the sets that are masked as they were. What else
            # could change them stands in params, the checkpoint and the responses above.
            key_neurons=ancient(
                expand(
                    "<results>/{{model}}/{{checkpoint}}/{task}/key_neurons.h5",
                    task=tasks,
                )
            ),
            data=task_data(tasks),
            files=STUDY.task_files(tasks),
        output:
            **table("masking", f"{{model}}/{{checkpoint}}/masking/{suite}"),
            **table("masking_effect", f"{{model}}/{{checkpoint}}/masking/{suite}"),
            record=f"<results>/records/{{model}}/{{checkpoint}}/masking_{suite}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/masking_{suite}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/masking_{suite}.tsv"
        conda:
            "../envs/model.yaml"
        threads: 1
        resources:
            **model_resources(),
        params:
            tasks={task: STUDY.task(task) for task in tasks},
            batch_size=STUDY["responses"]["batch_size"],
            loading=lambda wildcards: STUDY.loading(wildcards.model),
            chat=lambda wildcards: STUDY.chat(wildcards.model),
            settings=STUDY.masking_settings(),
            # What of the scoring says which tokens count, and how many fit into memory.
            counting={
                key: STUDY["contributions"][key]
                for key in ("alignment", "eos", "max_batch_tokens")
            },
            seeds=STUDY["masking"]["seeds"],
            seed=STUDY["seed"],
            scoring=STUDY.scores_of_masked(),
            code=[
                digest(script)
                for script in (
                    "mask_neurons",
                    "select_key_neurons",
                    "extract_contributions",
                )
            ],
        script:
            "../scripts/mask_neurons.py"


rule masking:
    input:
        GATHERED.get("masking", []),
