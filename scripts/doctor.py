"""Say whether a model can be measured, whether it passes its checks, and what a study of it will cost."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from _study import Study, StudyError
from _study import load as load_study
from moemui.models import doctor
from moemui.models.examination import Workload, render

BAD_USAGE = 2


def workloads(study: Study) -> list[Workload]:
    """The tasks of a study, as far as their numbers of samples are known before they are loaded."""
    found = []
    for name, task in study.tasks.items():
        samples, note = task.get("limit"), ""
        if "responses" in task:
            lines = sum(1 for line in Path(task["responses"]).read_text(encoding="utf-8").splitlines() if line.strip())
            samples = min(lines, samples or lines)
        elif "synthetic" not in task:
            note = f"so much for each task in it, if {task['lm_eval']} is a group"
        found.append(Workload(name, samples, response_tokens=task.get("max_new_tokens", 256), note=note))
    return found


def main(
    model: Annotated[str, typer.Argument(help="hub id, folder, GGUF file or config.json")],
    dtype: Annotated[str, typer.Option(help="of the weights: auto, float32, bfloat16, float16")] = "bfloat16",
    gguf: Annotated[str | None, typer.Option(help="a GGUF file in the folder")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit on the hub")] = None,
    device_map: Annotated[str | None, typer.Option(help="auto spreads the model over all GPUs")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run the model's own code")] = False,
    study: Annotated[
        Path | None, typer.Option(help="what to predict disk and time for", exists=True, dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look at a model: can it be measured, is it right, how fast, how much disk and time.

    Ends with 0 for a supported model, 1 for one that is not or that fails a check, 2 for a mistake in the call.
    """
    planned = {}
    try:
        if study is not None:
            chosen = load_study(study)
            thresholds = chosen["contributions"]["thresholds"]
            planned = {"workloads": workloads(chosen), "thresholds": thresholds, "options": chosen.scoring()}
        from transformers import logging

        logging.set_verbosity_error()
        found = doctor.examine(
            model,
            revision=revision,
            gguf=gguf,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            **planned,
        )
    except (StudyError, OSError, ValueError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from None
    print(json.dumps(found.to_dict(), indent=1) if as_json else render(found))
    raise typer.Exit(0 if found.supported else 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
