"""From checkpoints and tasks to responses, generated and graded by lm_eval.

INPUTS   checkpoint.json; the tasks of a suite (lm_eval names, task files of a folder, or given responses).
OUTPUTS  <results>/{model}/{checkpoint}/{task}/responses.jsonl, one line a sample.

A job answers all tasks of a suite, which share one model load; a task in no suite is a suite of its own.
"""


rule task_data:
    output:
        data="<results>/task_data/{task}.jsonl",
        record="<results>/records/task_data/{task}.json",
    log:
        "<logs>/task_data/{task}.log",
    benchmark:
        "<benchmarks>/task_data/{task}.tsv"
    conda:
        "../envs/analysis.yaml"
    resources:
        **RESOURCES.analysis("task_data"),
    params:
        synthetic=lambda wildcards: STUDY.tasks[wildcards.task]["synthetic"],
        n=lambda wildcards: STUDY.tasks[wildcards.task]["limit"],
        seed=STUDY["seed"],
        code=digest("write_task_data"),
    script:
        "../scripts/write_task_data.py"


for suite, tasks in STUDY.suites.items():

    rule:
        name:
            f"responses_{suite}"
        input:
            checkpoint="<results>/{model}/{checkpoint}/checkpoint.json",
            data=task_data(tasks),
            files=STUDY.task_files(tasks),
        output:
            responses=expand(
                "<results>/{{model}}/{{checkpoint}}/{task}/responses.jsonl", task=tasks
            ),
            record=f"<results>/records/{{model}}/{{checkpoint}}/responses_{suite}.json",
        log:
            f"<results>/logs/{{model}}/{{checkpoint}}/responses_{suite}.log",
        benchmark:
            f"<results>/benchmarks/{{model}}/{{checkpoint}}/responses_{suite}.tsv"
        conda:
            "../envs/model.yaml"
        threads: 1
        resources:
            **RESOURCES.model_job("responses", tasks),
        params:
            tasks={task: STUDY.task(task) for task in tasks},
            batch_size=STUDY["responses"]["batch_size"],
            loading=lambda wildcards: STUDY.loading(wildcards.model),
            chat=lambda wildcards: STUDY.chat(wildcards.model),
            code=digest("generate_responses"),
        script:
            "../scripts/generate_responses.py"


rule responses:
    input:
        study_files("responses.jsonl", STUDY.tasks),
