"""What every stage shares: the checked configuration, bound wildcards, the code digest, lists of paths."""

import re
import sys
from itertools import product

sys.path.insert(
    0,
    str(workflow.current_basedir.join("../scripts").get_path_or_uri(secret_free=True)),
)

from _code import digest
from _study import Study, StudyError

try:
    STUDY = Study(config)
except StudyError as error:
    raise WorkflowError(f"The study's configuration has a mistake. {error}") from None


# Studies never share a folder: paths in rules begin with <results>.
pathvars:
    results=f"results/{STUDY.name}",
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


wildcard_constraints:
    model="|".join(map(re.escape, STUDY.models)),
    checkpoint="|".join(
        sorted(
            {
                re.escape(name)
                for model in STUDY.models
                for name in STUDY.checkpoints(model)
            }
        )
    ),
    task="|".join(map(re.escape, STUDY.tasks)),


def model_files(name, model="{model}", tasks=None):
    """Paths of a file of every checkpoint of a model, or of every task of every checkpoint."""
    if model == "{model}":
        return lambda wildcards: model_files(name, wildcards.model, tasks)
    return [
        f"<results>/{model}/{checkpoint}/{middle}{name}"
        for checkpoint in STUDY.checkpoints(model)
        for middle in ([f"{task}/" for task in tasks] if tasks is not None else [""])
    ]


def study_files(name, tasks=None):
    """As `model_files`, over all models."""
    return [path for model in STUDY.models for path in model_files(name, model, tasks)]


def table(name, folder="tables"):
    """A table's Parquet file and its CSV twin as named outputs."""
    return {
        name: f"<results>/{folder}/{name}.parquet",
        f"{name}_csv": f"<results>/{folder}/{name}.csv",
    }


def task_data(tasks):
    """Held-out prompts of the synthetic ones among some tasks."""
    return [
        f"<results>/task_data/{task}.jsonl"
        for task in tasks
        if "synthetic" in STUDY.tasks[task]
    ]


MODEL_TABLES = [
    "performance",
    "utilization",
    "saturation",
    "expert_frequency",
    "key_experts",
]


def model_tables(name):
    """A table of every model."""
    return [f"<results>/{model}/{name}.parquet" for model in STUDY.models]


def model_resources():
    """What a job with a loaded model asks of a cluster."""
    wanted = STUDY["resources"]
    return {
        "mem_mb": wanted["model_mem_mb"],
        **({"gpu": wanted["gpus"]} if wanted["gpus"] else {}),
    }


# Tables of one model or suite each, and what they are gathered from into one table for the study.
GATHERED = {name: model_tables(name) for name in MODEL_TABLES}
if STUDY.trained():
    GATHERED["training"] = [
        f"<results>/{model}/training.parquet" for model in STUDY.trained()
    ]
if STUDY.masked_checkpoints():
    for name in ("masking", "masking_effect"):
        GATHERED[name] = [
            f"<results>/{model}/{checkpoint}/masking/{suite}/{name}.parquet"
            for model, checkpoint in STUDY.masked_checkpoints().items()
            for suite in STUDY.suites
        ]
REPORTED = [*GATHERED, "enrichment", "sensitivity", "phases"]

# The records of all jobs before the report, in the order of the data.
RECORDS = [
    f"<results>/records/{name}.json"
    for name in [
        *[f"{model}/train" for model in STUDY.trained()],
        *[
            f"task_data/{task}"
            for task, entry in STUDY.tasks.items()
            if "synthetic" in entry
        ],
        *[
            f"{model}/{checkpoint}/{stage}"
            for model in STUDY.models
            for checkpoint in STUDY.checkpoints(model)
            for stage in [
                "checkpoint",
                *[
                    f"{stage}_{suite}{shard}"
                    for stage, shards in (
                        ("responses", [""]),
                        ("contributions", STUDY.shards()),
                        ("key_neurons", [""]),
                    )
                    for suite in STUDY.suites
                    for shard in shards
                ],
            ]
        ],
        *[
            f"{model}/{stage}"
            for model in STUDY.models
            for stage in ("utilization", "experts")
        ],
        *["enrichment", "sensitivity"],
        *[
            f"{model}/{checkpoint}/masking_{suite}"
            for model, checkpoint in STUDY.masked_checkpoints().items()
            for suite in STUDY.suites
        ],
        "dynamics",
        *[f"tables/{table}" for table in GATHERED],
    ]
]
