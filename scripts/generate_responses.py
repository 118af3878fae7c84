"""Answer and grade all tasks of a suite on one loaded checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

from _job import run
from moemui import checkpoints
from moemui.responses import fixed_responses, write_responses


def main(
    *,
    checkpoint: Path,
    data: list[Path],
    responses: list[Path],
    tasks: dict,
    batch_size: int,
    loading: dict,
    progress: Callable,
) -> dict:
    """responses: the files to write, in the order of `tasks`. data: <task>.jsonl of the synthetic ones."""
    model, tokenizer = checkpoints.load(json.loads(checkpoint.read_text()), **loading)
    generated = {name: entry for name, entry in tasks.items() if "lm_eval" in entry}
    records = {}
    if generated:
        from moemui import harness  # lm_eval takes seconds to import

        made = {path.stem: str(path) for path in data}
        specs = harness.load_tasks(
            {name: harness.TaskSpec(**entry, data=made.get(name)) for name, entry in generated.items()}
        )
        records = harness.respond(harness.wrap(model, tokenizer, batch_size=batch_size, progress=progress), specs)
    for name, entry in tasks.items():
        if "responses" in entry:
            records[name] = fixed_responses(
                entry["responses"], tokenizer, task=name, domain=entry["domain"], limit=entry.get("limit")
            )
    for name, path in zip(tasks, responses, strict=True):
        write_responses(records[name], path)
    graded = {name: [r["correct"] for r in rows if r["correct"] is not None] for name, rows in records.items()}
    return {f"accuracy.{name}": sum(correct) / len(correct) for name, correct in graded.items() if correct}


if __name__ == "__main__":
    run(main)
