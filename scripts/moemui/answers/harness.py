"""Generation and grading by EleutherAI's lm-evaluation-harness on a model that is already loaded.

Every task of lm_eval works, from its registry or from local YAML, and a score means what the field means by it. What
the harness lacks is added: the ids that were fed and produced are kept beside the text. Tasks are loaded once
(`load_tasks`) and may be answered any number of times (`respond`), as masking does; the model comes from
moemui.answers.recording_model. Nothing here is printed, cached or looked up beyond what the tasks themselves need.

Importing this module imports lm_eval and torch, which takes seconds.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from moemui.answers import code_eval, code_sandbox, task_data
from moemui.answers.recording_model import Generated, RecordingModel, only_errors, wrap
from moemui.answers.responses import Response
from moemui.progress import silent

__all__ = ["TaskSet", "TaskSpec", "load_tasks", "respond", "wrap"]

log = logging.getLogger(__name__)

# The seed that lm_eval's own command line draws few-shot examples with.
FEWSHOT_SEED = 1234
# Names under which lm_eval tasks give the length of a response.
BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "max_length")
# Which choice a multiple-choice metric takes as the model's answer: the log-likelihood is divided by this length.
CHOICE_LENGTHS: dict[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}


@dataclass(frozen=True)
class TaskSpec:
    """One task of a study.

    lm_eval: name of a task or group of lm_eval. domain: the domain that its samples belong to.
    include: folder with further task files. data: JSON lines file whose rows replace the task's split `test`.
    limit: samples taken of each leaf task, all if None. num_fewshot: examples in the prompt, the task's own if None.
    metric, filter: what decides `correct`; by default the first of the task's metric list under its first filter.
    allow_code: run code that the model wrote, where grading needs that.
    max_new_tokens: longest response in tokens, instead of the task's own (lm_eval's default is 256).
    """

    lm_eval: str
    domain: str = "general"
    include: str | None = None
    data: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None
    metric: str | None = None
    filter: str | None = None
    allow_code: bool = False
    max_new_tokens: int | None = None


@dataclass
class TaskSet:
    """Loaded tasks, reusable over models. leaves: {name in the study: {leaf name: lm_eval task}}."""

    specs: dict[str, TaskSpec]
    leaves: dict[str, dict[str, Any]]
    _prompts_for: object = field(default=None, repr=False)

    def code_protections(self) -> dict[str, str]:
        """`code_sandbox.protections` where a task allows code to be run; empty where none does."""
        return code_sandbox.protections() if any(spec.allow_code for spec in self.specs.values()) else {}

    def digests(self) -> dict[str, str]:
        """`task_data.digest` of each task; known once prompts were built."""
        return {name: task_data.digest(leaves) for name, leaves in self.leaves.items()}

    def datasets(self) -> dict[str, str]:
        """{task.path, .name, .commit, .fingerprint} as `task_data.source` tells them, for a group group.leaf.path.

        Tasks whose rows a file gave are left out.
        """
        return {
            ".".join(dict.fromkeys([name, leaf, key] if len(leaves) > 1 else [name, key])): value
            for name, leaves in self.leaves.items()
            if self.specs[name].data is None
            for leaf, task in leaves.items()
            for key, value in task_data.source(task).items()
        }

    def build_prompts(self, model: RecordingModel) -> None:
        """Make the requests of every task, in the model's chat template where it has one; once a model."""
        if self._prompts_for is model:
            return
        for name, leaves in self.leaves.items():
            for task in leaves.values():
                task.set_fewshot_seed(FEWSHOT_SEED)
                with mock.patch("lm_eval.api.task.tqdm", _no_bar):
                    task.build_all_requests(
                        limit=self.specs[name].limit,
                        apply_chat_template=model.chat,
                        fewshot_as_multiturn=model.chat,
                        chat_template=model.apply_chat_template if model.chat else None,
                    )
        self._prompts_for = model


def load_tasks(specs: Mapping[str, TaskSpec]) -> TaskSet:
    """Load the tasks and their data once. Data of lm_eval's own tasks comes from the Hugging Face cache or hub.

    Raises ValueError, naming the task, for a name that lm_eval does not know (with similar ones), a folder or data
    file that does not exist, a task that has no response to measure or several for a prompt, and one whose grading
    runs the model's code unless allow_code is set; also for max_new_tokens below 1 or where nothing is generated.
    """
    managers: dict[str | None, TaskManager] = {}
    leaves = {}
    # Only the study allows code to be run, and then never by the metric of evaluate that this variable is for.
    os.environ.pop("HF_ALLOW_CODE_EVAL", None)
    for name, spec in specs.items():
        if spec.include not in managers:
            managers[spec.include] = _manager(name, spec)
        with code_eval.replaced(spec.allow_code):
            leaves[name] = _load(name, spec, managers[spec.include])
    tasks = TaskSet(dict(specs), leaves)
    tasks.code_protections()  # what is missing is told before the model is loaded
    return tasks


def _manager(name: str, spec: TaskSpec) -> TaskManager:
    if spec.include is None:
        return TaskManager()
    if not Path(spec.include).is_dir():
        raise ValueError(
            f"task {name} has include: {spec.include}, which is no folder; name one with lm_eval task files"
        )
    # Indexing lm_eval's thousands of task files takes seconds, and a local task rarely needs them.
    local = TaskManager(include_path=spec.include, include_defaults=False)
    return local if spec.lm_eval in local.task_index else TaskManager(include_path=spec.include)


def _load(name: str, spec: TaskSpec, manager: TaskManager) -> dict[str, Any]:
    """The leaf tasks of one entry, checked."""
    if spec.lm_eval not in manager.task_index:
        raise ValueError(
            f"task {name} names {spec.lm_eval}, which lm_eval does not know"
            + (f" (also not in {spec.include})" if spec.include else "")
            + _similar(spec.lm_eval, manager.all_tasks)
        )
    request: Any = spec.lm_eval
    if spec.data is not None:
        if spec.lm_eval not in manager.all_subtasks:
            raise ValueError(f"task {name} has data, but {spec.lm_eval} is a group; data belongs to a single task")
        local = {"task": spec.lm_eval, "custom_dataset": _rows_of(name, spec.data), "dataset_kwargs": None}
        request = {"group": name, "task": [local]}
    # Before the task's Python is imported, which tries the metric out and takes it from the hub where it isn't allowed.
    if (manager.task_index[spec.lm_eval].cfg or {}).get("unsafe_code") and not spec.allow_code:
        raise code_eval.not_allowed(spec.lm_eval, name)
    with only_errors():
        loaded = manager.load([request])["tasks"]
    for leaf, task in loaded.items():
        code_eval.refuse(task, leaf, name, allowed=spec.allow_code)
        if task.OUTPUT_TYPE not in ("generate_until", "multiple_choice", "loglikelihood"):
            raise ValueError(
                f"task {leaf} is of type {task.OUTPUT_TYPE}, which has no response to measure; leave it out"
            )
        if (task.get_config("repeats") or 1) != 1:
            raise ValueError(
                f"task {leaf} asks for {task.get_config('repeats')} responses a prompt; choose a variant with one"
            )
        _set_fewshot(name, spec, leaf, task)
    _set_budget(name, spec, [task for task in loaded.values() if task.OUTPUT_TYPE == "generate_until"])
    return dict(loaded)


def _set_budget(name: str, spec: TaskSpec, generating: Sequence[Any]) -> None:
    budget = spec.max_new_tokens
    if budget is None:
        return
    if budget < 1:
        raise ValueError(f"task {name} has max_new_tokens: {budget}; it is a number of tokens, at least 1")
    if not generating:
        raise ValueError(f"task {name} has max_new_tokens: {budget}, but {spec.lm_eval} generates nothing; take it out")
    for task in generating:
        own = task.get_config("generation_kwargs") or {}
        kept = {key: value for key, value in own.items() if key not in BUDGETS}
        task.set_config(key="generation_kwargs", value={**kept, "max_gen_toks": budget})


def _set_fewshot(name: str, spec: TaskSpec, leaf: str, task: Any) -> None:
    own = task.get_config("num_fewshot")
    if spec.num_fewshot is None:
        if own is None:
            task.set_config(key="num_fewshot", value=0)
        return
    # lm_eval's rule: a task that fixes zero examples brings them in its own text or can't have any.
    if own == 0 and spec.num_fewshot != 0:
        raise ValueError(
            f"task {name} asks for {spec.num_fewshot} few-shot examples, but {leaf} is defined with none; "
            "take num_fewshot out or choose another variant"
        )
    task.set_config(key="num_fewshot", value=spec.num_fewshot)


def _rows_of(name: str, path: str) -> Callable[..., datasets.DatasetDict]:
    """A loader of a JSON lines file for lm_eval that stays in memory, so parallel jobs share no cache."""
    if not Path(path).is_file():
        raise ValueError(f"task {name} has data: {path}, which does not exist; write its rows there first")
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if not rows:
        raise ValueError(f"task {name} has data: {path}, which holds no rows; write one JSON object a line")

    def load(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})

    return load


def _similar(wanted: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, names, n=5, cutoff=0.6)
    return f"; similar names are {', '.join(close)}" if close else "; `lm-eval ls tasks` lists its names"


def respond(model: RecordingModel, tasks: TaskSet) -> dict[str, list[Response]]:
    """The responses of a model to every task, graded: {task: records in order of leaf and document}.

    Generated text is the response of a generation task; of a multiple-choice task it is the continuation that its
    metric takes as the answer (highest log-likelihood; divided by length for acc_norm and acc_bytes). A record's id
    is <leaf task>/<document number>. `correct` is the deciding metric's value where that is 0 or 1 for every sample
    of a leaf; a metric of degrees says neither right nor wrong, so `correct` is then null, with a warning.
    Reasoning that ends with the model's think_end is in the ids of a response, not in its text.
    """
    tasks.build_prompts(model)
    instances = [
        instance for leaves in tasks.leaves.values() for task in leaves.values() for instance in task.instances
    ]
    ids: dict[int, Generated] = {}
    for kind in ("generate_until", "loglikelihood"):
        requests = [instance for instance in instances if instance.request_type == kind]
        if not requests:
            continue
        answers = getattr(model, kind)(requests, disable_tqdm=model.progress is silent)
        for row, (instance, answer) in enumerate(zip(requests, answers, strict=True)):
            instance.resps, instance.filtered_resps = [answer], {}
            if kind == "generate_until":
                ids[id(instance)] = model.generated[row]
    result = {}
    for name, leaves in tasks.leaves.items():
        records: list[Response] = []
        for leaf, task in leaves.items():
            with code_eval.replaced(tasks.specs[name].allow_code):
                records += _grade(model, name, tasks.specs[name], leaf, task, ids)
        for sample, record in enumerate(records):
            record["sample"] = sample
        result[name] = records
    return result


def _grade(
    model: RecordingModel,
    name: str,
    spec: TaskSpec,
    leaf: str,
    task: Any,
    ids: Mapping[int, Generated],
) -> list[Response]:
    """Records of one leaf task whose instances hold the model's answers."""
    task.apply_filters()
    documents: dict[int, list[Instance]] = defaultdict(list)
    for instance in task.instances:
        documents[instance.doc_id].append(instance)
    filters = list(task.instances[0].filtered_resps)
    chosen_filter = spec.filter or filters[0]
    if chosen_filter not in filters:
        raise ValueError(f"task {name} names the filter {chosen_filter}; {leaf} has {', '.join(filters)}")
    records, scores = [], []
    for number, group in sorted(documents.items()):
        group.sort(key=lambda instance: instance.idx)
        values = task.process_results(group[0].doc, [instance.filtered_resps[chosen_filter] for instance in group])
        metric = _deciding_metric(name, spec, leaf, task, values)
        scores.append(values[metric])
        if task.OUTPUT_TYPE == "generate_until":
            instance, response = group[0], group[0].resps[0]
            prompt_ids, response_ids, truncated = ids[id(instance)]
            gold = _reference_text(task, group[0].doc, str(instance.args[0]), model.chat)
        else:
            instance = group[_chosen(task, group, metric)]
            response = str(instance.args[1])
            prompt_ids, response_ids = model.scored_ids(str(instance.args[0]), response)
            truncated = False
            gold = _reference_choice(task, group)
        records.append(
            {
                "sample": 0,
                "id": f"{leaf}/{number}",
                "task": name,
                "domain": spec.domain,
                "prompt": str(instance.args[0]),
                "response": response,
                "gold": gold,
                "correct": None,
                "prompt_ids": list(prompt_ids),
                "response_ids": list(response_ids),
                "truncated": truncated,
            }
        )
    if all(_is_verdict(score) for score in scores):
        for record, score in zip(records, scores, strict=True):
            record["correct"] = bool(score)
    else:
        log.warning("task %s: metric %s of %s has degrees, so no sample counts as correct or wrong", name, metric, leaf)
    return records


def _deciding_metric(name: str, spec: TaskSpec, leaf: str, task: Any, values: Mapping[str, Any]) -> str:
    """The metric that decides `correct`: the configured one, else the first of the task's list that it reports."""
    if spec.metric is not None:
        if spec.metric not in values:
            raise ValueError(f"task {name} names the metric {spec.metric}; {leaf} reports {', '.join(values)}")
        return spec.metric
    # Some metrics report under another name (pass_at_k as pass@1); then what comes first is the one.
    return next((metric for metric in task.aggregation() if metric in values), next(iter(values)))


def _is_verdict(score: Any) -> bool:
    """Whether a score is plainly 0 or 1, also as a number of numpy's."""
    return np.ndim(score) == 0 and score in (0, 1)


def _chosen(task: Any, group: Sequence[Instance], metric: str) -> int:
    """Index of the request whose continuation the model chose."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return 0
    choices = task.doc_to_choice(group[0].doc)
    likelihoods = [instance.resps[0][0] for instance in group[: len(choices)]]
    if metric == "acc_mutual_info":
        likelihoods = [
            likelihood - alone.resps[0][0] for likelihood, alone in zip(likelihoods, group[len(choices) :], strict=True)
        ]
    length = CHOICE_LENGTHS.get(metric, lambda _: 1)
    scores = [likelihood / length(choice) for likelihood, choice in zip(likelihoods, choices, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


def _reference_choice(task: Any, group: Sequence[Instance]) -> str:
    """The right continuation as it was scored; the first where several are right, "" where none is among them."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return str(group[0].args[1])
    document = group[0].doc
    choices = task.doc_to_choice(document)
    gold = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)
    if isinstance(gold, list):
        gold = gold[0] if gold else ""
    if isinstance(gold, str):
        gold = choices.index(gold) if gold in choices else -1
    return str(group[gold].args[1]) if 0 <= gold < len(choices) else ""


def _reference_text(task: Any, document: Mapping[str, Any], prompt: str, chat: bool) -> str:
    """The reference answer of a generation task as it would continue the prompt; the first where several are right."""
    target = task.doc_to_target(document)
    if isinstance(target, list):
        target = target[0] if target else ""
    if isinstance(target, int) and task.get_config("doc_to_choice") is not None:
        target = task.doc_to_choice(document)[target]
    text = str(target)
    delimiter = "" if chat or prompt[-1:].isspace() else str(task.get_config("target_delimiter") or "")
    return delimiter + text if text else ""


def _no_bar(iterable: Any, **_: Any) -> Any:
    return iterable
