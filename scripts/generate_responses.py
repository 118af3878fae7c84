"""Answer and grade all tasks of a suite on one loaded checkpoint."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from _job import run
from moemui.answers.responses import fixed_responses, write_responses
from moemui.models import checkpoints

log = logging.getLogger(__name__)

# From this share of truncated responses on, a score says more about the token budget than about the model.
TOO_MANY = 0.05


def main(
    *,
    checkpoint: Path,
    data: list[Path],
    responses: list[Path],
    tasks: dict,
    batch_size: int,
    loading: dict,
    chat: dict,
    progress: Callable,
) -> dict:
    """responses: the files to write, in the order of `tasks`. data: <task>.jsonl of the synthetic ones.

    Beside accuracies and shares of truncated responses it returns task_data, {task: SHA-256 of what was asked},
    task_datasets, where that came from, and what generated code was kept from.
    """
    generated = {name: entry for name, entry in tasks.items() if "lm_eval" in entry}
    if generated:
        from moemui.answers import harness  # lm_eval takes seconds to import

        made = {path.stem: str(path) for path in data}
        # Before the model, so that a mistake in a task costs no loading of one.
        loaded = harness.load_tasks(
            {name: harness.TaskSpec(**entry, data=made.get(name)) for name, entry in generated.items()}
        )
    model, tokenizer = checkpoints.load(json.loads(checkpoint.read_text()), **loading)
    records, asked = {}, {}
    task_data = {name: file_digest(entry["responses"]) for name, entry in tasks.items() if "responses" in entry}
    if generated:
        wrapped = harness.wrap(model, tokenizer, batch_size=batch_size, progress=progress, **chat)
        records = harness.respond(wrapped, loaded)
        task_data |= loaded.digests()
        asked = {"task_datasets": loaded.datasets(), **loaded.code_protections()}
    for name, entry in tasks.items():
        if "responses" in entry:
            records[name] = fixed_responses(
                entry["responses"],
                tokenizer,
                task=name,
                domain=entry["domain"],
                limit=entry.get("limit"),
                chat_template_args=chat["chat_template_args"],
            )
    for name, path in zip(tasks, responses, strict=True):
        write_responses(records[name], path)
    graded = {name: [r["correct"] for r in rows if r["correct"] is not None] for name, rows in records.items()}
    truncated = {name: sum(r["truncated"] for r in rows) / len(rows) for name, rows in records.items()}
    for name, share in truncated.items():
        if share > TOO_MANY:
            log.warning(
                "task %s: the token budget cut off %.0f %% of the responses, which lowers scores; raise max_new_tokens",
                name,
                100 * share,
            )
    accuracy = {f"accuracy.{name}": sum(correct) / len(correct) for name, correct in graded.items() if correct}
    return {
        **accuracy,
        **{f"truncated.{name}": share for name, share in truncated.items()},
        "task_data": task_data,
        **{key: value for key, value in asked.items() if value},
    }


def file_digest(path: str) -> str:
    """SHA-256 of a file of given responses."""
    return str(checkpoints.digest(Path(path))["sha256"])


if __name__ == "__main__":
    run(main)
