"""What every stage shares: the checked configuration, bound wildcards, the code digest, lists of paths."""

import re
import sys
from itertools import product
from pathlib import Path

SCRIPTS = workflow.current_basedir.join("../scripts")
if SCRIPTS.is_local:
    sys.path.insert(0, SCRIPTS.get_path_or_uri(secret_free=True))
else:
    # Imported from a URL, where no folder can be listed: every file is fetched, to lie beside the others in a cache.
    LISTED = Path(workflow.source_path("../scripts/files.txt"))
    for name in LISTED.read_text().split():
        workflow.source_path(f"../{name}")
    sys.path.insert(0, str(LISTED.parent))

from _captions import LARGE, Captions, category
from _provenance import invocation
from _code import digest
from _experiments import Experiments
from _resources import JobResources
from _study import MAIN, Study, StudyError

try:
    STUDY = Study(config)
    EXPERIMENTS = Experiments.read(Path(STUDY["experiments"]))
except StudyError as error:
    raise WorkflowError(f"The study's configuration has a mistake. {error}") from None

if workflow.is_main_process:
    invocation.name()  # in the environment, which jobs inherit


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
        path
        for checkpoint in STUDY.checkpoints(model)
        for path in checkpoint_files(name, model, checkpoint, tasks)
    ]


def checkpoint_files(name, model, checkpoint, tasks=None):
    """Paths of a file of a checkpoint, or of each of its tasks."""
    return [
        f"<results>/{model}/{checkpoint}/{middle}{name}"
        for middle in ([f"{task}/" for task in tasks] if tasks is not None else [""])
    ]


def study_files(name, tasks=None):
    """As `model_files`, over all models."""
    return [path for model in STUDY.models for path in model_files(name, model, tasks)]


ALL_VARIANTS = [MAIN, *STUDY.variants]


def folder(variant):
    """Where a variant's files of a task lie below those of the main scoring options."""
    return "" if variant == MAIN else f"{variant}/"


def ending(variant):
    """What marks a variant in names of rules and records."""
    return "" if variant == MAIN else f"_{variant}"


def scored_on(model, checkpoint):
    """The variants that a checkpoint is scored under, the main one first."""
    return [
        MAIN,
        *(
            variant
            for variant in STUDY.variants
            if checkpoint in STUDY.variant_checkpoints(variant, model)
        ),
    ]


def variant_files(name, model):
    """Paths of a file of every task and variant of a model, of the checkpoints that the variant is scored on."""
    return [
        f"<results>/{model}/{checkpoint}/{task}/{folder(variant)}{name}"
        for variant in STUDY.variants
        for checkpoint in STUDY.variant_checkpoints(variant, model)
        for task in STUDY.tasks
    ]


def measured_files(name):
    """As `model_files` of every task, with those of the variants behind them: an input function of the model."""
    return lambda wildcards: [
        *model_files(name, wildcards.model, STUDY.tasks),
        *variant_files(name, wildcards.model),
    ]


def ends(model):
    """A model's first and last checkpoint."""
    names = STUDY.checkpoints(model)
    return list(dict.fromkeys([names[0], names[-1]]))


def end_files(name, tasks=None):
    """As `model_files` for {model}, of its first and last checkpoint only: an input function of the model."""
    return lambda wildcards: [
        path
        for checkpoint in ends(wildcards.model)
        for path in checkpoint_files(name, wildcards.model, checkpoint, tasks)
    ]


def study_end_files(name, tasks=None):
    """As `study_files`, of each model's first and last checkpoint only."""
    return [
        path
        for model in STUDY.models
        for checkpoint in ends(model)
        for path in checkpoint_files(name, model, checkpoint, tasks)
    ]


def chosen_threshold():
    """What a stage waits for that shows one setting: the choice of its threshold, where the config leaves it open."""
    return (
        "<results>/tables/threshold_selection.parquet"
        if STUDY.chooses_threshold()
        else []
    )


# What Snakemake's report says of tables and figures. An absolute path, so that the rules' folder isn't put before it.
CAPTIONS = Captions(
    STUDY.about(),
    (
        Path(SCRIPTS.get_path_or_uri(secret_free=True)).parent / "rules/captions"
        if SCRIPTS.is_local
        else None
    ),
    Path(".snakemake/captions", STUDY.name).resolve(),
)


def table(name, folder="tables"):
    """A table's Parquet file and its CSV twin as named outputs; of the study's own, one is in Snakemake's report."""
    paths = {
        name: f"<results>/{folder}/{name}.parquet",
        f"{name}_csv": f"<results>/{folder}/{name}.csv",
    }
    if folder == "tables":
        shown = name if name in LARGE else f"{name}_csv"
        paths[shown] = report(
            paths[shown],
            caption=CAPTIONS.file(name),
            category=category(name),
            subcategory="Tables",
            labels=lambda wildcards, output: CAPTIONS.table(name, output[shown]),
        )
    return paths


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
    "expert_overlap",
    "experts_shared",
    "specialization",
    "specialization_summary",
    "coactivation",
    "coactivation_summary",
    "diversity",
    "diversity_effect",
]


def model_tables(name):
    """A table of every model."""
    return [f"<results>/{model}/{name}.parquet" for model in STUDY.models]


# What jobs ask of a cluster, from their model or their inputs.
RESOURCES = JobResources(STUDY)

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
REPORTED = [
    *GATHERED,
    *["enrichment", "exposure", "top_composition"],
    *["sensitivity", "expert_threshold_sensitivity"],
    *["comparisons", "phases", "phase_divergence", "change_points"],
    *["utility_law", "utility_curve", "decay", "decay_curve"],
    *["published", "published_agreement", "diagnostics"],
    *(["threshold_selection"] if STUDY.masked_checkpoints() else []),
]

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
                    f"{stage}_{suite}{ending(variant)}{shard}"
                    for stage, variants, shards in (
                        ("responses", [MAIN], [""]),
                        ("contributions", scored_on(model, checkpoint), STUDY.shards()),
                        ("key_neurons", scored_on(model, checkpoint), [""]),
                    )
                    for suite in STUDY.suites
                    for variant in variants
                    for shard in shards
                ],
            ]
        ],
        *[
            f"{model}/{stage}"
            for model in STUDY.models
            for stage in ("utilization", "experts", "expert_structure", "diversity")
        ],
        *["enrichment", "sensitivity"],
        *[
            f"{model}/{checkpoint}/masking_{suite}"
            for model, checkpoint in STUDY.masked_checkpoints().items()
            for suite in STUDY.suites
        ],
        *(["threshold_selection"] if STUDY.masked_checkpoints() else []),
        *["comparisons", "dynamics", "laws", "diagnostics"],
        *[f"tables/{table}" for table in GATHERED],
    ]
]


def cohort_files(experiment, name, seed):
    """A file of every cohort of an experiment, of one seed."""
    return [
        f"<results>/experiments/cohorts/{cohort}/seed-{seed}/{name}"
        for cohort in EXPERIMENTS.cohorts(experiment)
    ]


def seed_files(experiment, name):
    """A file of every seed of an experiment."""
    return [
        f"<results>/experiments/{experiment}/seed-{seed}/{name}"
        for seed in EXPERIMENTS[experiment]["seeds"]
    ]


def experiment_modules(experiment, *names):
    """Modules of an experiment's folder, and the folder's own, which a script imports by the experiment's name."""
    folder = f"moemui.experiments.{experiment}"
    return [folder, *(f"{folder}.{name}" for name in names)]


def given_to(experiment, seed):
    """What the job that measures an experiment on one seed works with, in plain values."""
    return {
        "seed": int(seed),
        "settings": EXPERIMENTS[experiment]["settings"],
        "measure": EXPERIMENTS.measure,
        "plan": STUDY["experiments"],
        "cohorts": EXPERIMENTS.cohorts(experiment),
    }


# Of the experiments, which no study's report waits for.
EXPERIMENT_TABLES = [
    f"<results>/experiments/{experiment}/{name}.parquet"
    for experiment in EXPERIMENTS.names
    for name in (
        "measurements",
        "experiment_seeds",
        "experiment_effects",
        "experiment_decisions",
    )
]
EXPERIMENT_RECORDS = [
    f"<results>/records/experiments/{name}.json"
    for name in [
        *[f"cohorts/{cohort}/seed-{seed}" for cohort, seed in EXPERIMENTS.used()],
        *[
            f"{experiment}/seed-{seed}"
            for experiment in EXPERIMENTS.names
            for seed in EXPERIMENTS[experiment]["seeds"]
        ],
        *[f"{experiment}/decisions" for experiment in EXPERIMENTS.names],
    ]
]
