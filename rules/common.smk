"""What every stage shares: the checked configuration, bound wildcards, the code digest, lists of paths."""

import re
import sys

sys.path.insert(0, str(workflow.current_basedir.join("../scripts").get_path_or_uri(secret_free=True)))

from _code import digest  # noqa: E402
from _study import Study, StudyError  # noqa: E402

try:
    STUDY = Study(config)
except StudyError as error:
    raise WorkflowError(f"The study's configuration has a mistake. {error}") from None


wildcard_constraints:
    study=re.escape(STUDY.name),
    model="|".join(map(re.escape, STUDY.models)),
    checkpoint="|".join(
        sorted({re.escape(name) for model in STUDY.models for name in STUDY.checkpoints(model)})
    ),
    task="|".join(map(re.escape, STUDY.tasks)),


def model_files(name, model="{model}", tasks=None):
    """Paths of a file of every checkpoint of a model, or of every task of every checkpoint."""
    if model == "{model}":
        return lambda wildcards: model_files(name, wildcards.model, tasks)
    return [
        f"results/{STUDY.name}/{model}/{checkpoint}/{middle}{name}"
        for checkpoint in STUDY.checkpoints(model)
        for middle in ([f"{task}/" for task in tasks] if tasks is not None else [""])
    ]


def study_files(name, tasks=None):
    """As `model_files`, over all models."""
    return [path for model in STUDY.models for path in model_files(name, model, tasks)]


def table(name, folder="tables"):
    """A table's Parquet file and its CSV twin as named outputs."""
    return {name: f"results/{{study}}/{folder}/{name}.parquet", f"{name}_csv": f"results/{{study}}/{folder}/{name}.csv"}


def order(model):
    """Name, place in training order and tokens seen of a model's checkpoints, for its tables."""
    entries = [STUDY.checkpoint(model, name) for name in STUDY.checkpoints(model)]
    return [
        {"checkpoint": entry["name"], "order": place, "tokens": entry.get("tokens"), "step": entry.get("step")}
        for place, entry in enumerate(entries)
    ]
