"""Say whether a model can be measured, whether it passes its checks, and what a study of it will cost."""

import json
from pathlib import Path
from typing import Annotated

import typer

from _command import FINE, NO, Stop, answering, ends, program, study_of, working
from _study import Study
from moemui.models import doctor
from moemui.models.examination import Workload, render

EXAMPLES = (
    "python scripts/doctor.py allenai/OLMoE-1B-7B-0924 --dtype bfloat16",
    "python scripts/doctor.py ~/models/my-moe --study config/olmoe.yaml",
    "python scripts/doctor.py ~/models/my-moe/config.json --json",
)


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


def refuse_other_json(model: str) -> None:
    """Raises Stop where the configuration that a name points to on this disk is no JSON object."""
    named = Path(model).expanduser()
    file = named / "config.json" if named.is_dir() else named
    if not file.is_file() or file.suffix != ".json":
        return
    try:
        is_object = isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise Stop(f"{file} holds no JSON object, as a model's configuration is; name a config.json of transformers")


@ends("doctor")
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

    Goes from configuration to structure, weights, a random sentence and its balance, and speed, and stops at the first
    fault. A config.json alone will do: weights are then drawn at random where they fit in memory. --study predicts disk
    and time for its tasks.

    Prints a line a finding; with --json all of them, which scripts/plan.py --doctor takes.
    """
    refuse_other_json(model)
    planned = {}
    if study is not None:
        chosen = study_of(study)
        thresholds = chosen["contributions"]["thresholds"]
        planned = {"workloads": workloads(chosen), "thresholds": thresholds, "options": chosen.scoring()}
    with working(f"looking at {model}"):
        from transformers import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()  # there is one already
        found = doctor.examine(
            model,
            revision=revision,
            gguf=gguf,
            dtype=dtype,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            **planned,
        )
    code = FINE if found.supported else NO
    with answering(code):
        print(json.dumps(found.to_dict(), indent=1) if as_json else render(found))
    raise typer.Exit(code)


if __name__ == "__main__":
    program(main, no="the model isn't supported, or fails a check; the last line says which", examples=EXAMPLES)()
