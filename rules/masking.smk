"""What does a task lose without its key neurons, and what without as many others?

INPUTS   checkpoint.json, responses.jsonl and contributions.zarr (or all its shards) of a model's last checkpoint.
OUTPUTS  <results>/{model}/{checkpoint}/masking/{suite}/masking.parquet and masking_effect.parquet: every threshold of
         masking.thresholds, against random neurons of the same experts, and against such of like activation frequency.

A job selects key neurons as the stage key_neurons does, and answers all tasks of a suite again, once for each
condition, on one loaded model.
"""

for suite, tasks in STUDY.suites.items():

    rule:
        name:
            f"masking_{suite}"
        input:
            manifest="<results>/{model}/{checkpoint}/checkpoint.json",
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
            # Not key_neurons.h5, which one more threshold writes anew: masking is a forward pass, and the masked sets
            # stay as they were. The job selects them from the scores itself.
            stores=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/contributions{shard}.zarr",
                task=tasks,
                shard=STUDY.shards(),
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
            **RESOURCES.model_job("masking", tasks),
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
            shards=STUDY["contributions"]["shards"],
            code=digest("mask_neurons"),
        script:
            "../scripts/mask_neurons.py"


rule masking:
    input:
        GATHERED.get("masking", []),
