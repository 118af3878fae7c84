"""Say what a study will take before it starts, and what it took beside that: jobs, disk, memory, hours."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from _command import FINE, NO, Stop, ends, program, study_of, working
from _plan import making, measured
from _plan.forecast import PlanError
from _provenance.records import write_whole
from _study import Study
from moemui.models import costs
from moemui.scores.disk import readable

WIDTH = 140  # columns, where the output is no terminal
NARROW = 104  # a terminal with fewer columns gets fewer of the table's
EXAMPLES = (
    "python scripts/plan.py config/olmoe.yaml",
    "python scripts/plan.py config/olmoe.yaml --like results/demo --gpus 2",
    "python scripts/plan.py config/config.yaml --compare",
)


@ends("plan")
def main(
    config: Annotated[Path, typer.Argument(help="the study's YAML file", exists=True, dir_okay=False)],
    like: Annotated[
        Path | None,
        typer.Option(
            help="results folder of another study that ran on this machine, whose speed is taken",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    doctor: Annotated[
        list[str] | None, typer.Option(help="MODEL=FILE, what scripts/doctor.py --json said about a model; repeatable")
    ] = None,
    cores: Annotated[int, typer.Option(help="jobs without a GPU at a time", min=1)] = os.cpu_count() or 1,
    gpus: Annotated[int, typer.Option(help="GPUs that work at a time", min=1)] = 1,
    compare: Annotated[bool, typer.Option("--compare", help="only show the plan beside what was measured")] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="don't ask lm_eval and transformers (10 s): tasks and layers less exact"),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what plan.json holds")] = False,
) -> None:
    """Predict jobs, disk, memory and time of a study, stage by stage, each with its basis.

    The basis of time is the best there is: what this study's finished jobs took, else those of another study (--like),
    else the doctor's measure of a model (--doctor), else constants that are named as such. Times are ranges, wider the
    weaker their basis. What isn't known is said, and left out of the sums.

    Prints a table of models and one of stages, and what was assumed. Written to results/STUDY/plan.json; --compare
    shows that plan beside the records, during the run or after it.
    """
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    try:
        study = study_of(config)
        results = Path("results") / study.name
        file = results / making.PLAN
        plan = making.earlier(results) if compare else None
        if plan is None:
            found = findings(doctor or [], study)
            with working(f"planning {study.name}"):
                plan = making.make(config, study, results, like=like, doctor=found, quick=quick, cores=cores, gpus=gpus)
            write_whole(file, plan)
        rows = measured.compare(plan["jobs"], measured.finished(results)) if compare else []
    except PlanError as error:
        raise Stop(error) from None
    if as_json:
        print(json.dumps(plan, indent=1))
    elif compare:
        show_comparison(console, plan["study"], rows)
    else:
        show(console, plan)
        console.print(f"Written to {file}; --compare shows it beside what was measured.")
    raise typer.Exit(FINE if compare or _fits(plan) else NO)


def findings(doctor: Sequence[str], study: Study) -> dict[str, dict[str, Any]]:
    """The doctor's findings by model. Raises ValueError for a model that the study doesn't have, or no finding."""
    found = {}
    for given in doctor:
        model, _, file = given.partition("=")
        if model not in study.models or not file:
            raise ValueError(f"--doctor is {given!r}; it is MODEL=FILE, with a model among {sorted(study.models)}")
        try:
            found[model] = json.loads(Path(file).read_text(encoding="utf-8"))
        except ValueError:
            found[model] = None
        if not isinstance(found[model], dict):
            raise ValueError(f"{file} is no finding of the doctor; make it with scripts/doctor.py --json")
    return found


def show(console: Console, plan: dict[str, Any]) -> None:
    """The plan as tables."""
    models = _table(f"{plan['study']}: models", ("model", "from"), "parameters", "weights", "neurons", "asks for")
    for row in plan["models"]:
        models.add_row(
            row["model"], row["basis"] or "not known before its files are here", _short(row["parameters"]),
            _bytes(row["weight_bytes"]), _short(row["neurons"]), _asked(row["mem_mb"], row["gpus"]),
        )  # fmt: skip
    console.print(models)
    for row in plan["models"]:
        if row["note"]:
            console.print(f"  {row['model']}: {row['note']}", style="bold")
    most_gpus = max(row["gpus"] for row in plan["stages"])
    machine = f"{plan['cores']} cores" + (f", {plan['gpus']} GPU" if most_gpus else "")
    if most_gpus > plan["gpus"]:
        machine += f" (the largest jobs need {most_gpus} at once; times are those with as many)"
    wide = console.width >= NARROW
    asked = ("asks for", "basis") if wide else ()
    stages = _table(f"stages, on {machine}", ("stage",), "jobs", "done", "time", "disk", "at most", "memory", *asked)
    bases = list(dict.fromkeys(basis for row in plan["stages"] for basis in row["basis"]))
    for row in plan["stages"]:
        numbers = " ".join(str(1 + bases.index(basis)) for basis in row["basis"])
        more = (_asked(row["asked_mb"], row["gpus"]), numbers or "-") if wide else ()
        stages.add_row(row["stage"], *_cells(row), *more)
    total = {
        key: sum(row[key] for row in plan["stages"])
        for key in ("jobs", "done", "disk", "most_disk", "unknown_jobs", "unknown_disk", "measured_seconds")
    }
    total["elapsed"] = [sum(row["elapsed"][end] for row in plan["stages"]) for end in (0, 1)]
    total["memory_mb"] = max(row["memory_mb"] for row in plan["stages"])
    stages.add_section()
    stages.add_row("all", *_cells(total), *("" for _ in asked))
    console.print(stages)
    if not wide:
        console.print(f"  (with {NARROW} columns also what each stage asks for, and its basis)", style="dim")
    for number, basis in enumerate(bases, 1):
        console.print(f"  basis {number}: {basis}")
    if not _fits(plan):
        console.print(f"Not enough room on the disk: {readable(plan['free_bytes'])} are free.", style="bold red")
    for title, lines in (("Assumed", plan["assumed"]), ("Not known, and left out above", plan["unknown"])):
        if lines:
            console.print(f"{title}:")
        for line in lines:
            console.print(f"  {line}")


def _fits(plan: dict[str, Any]) -> bool:
    """Whether the disk has room for what the study is still expected to write."""
    return sum(row["disk_left"] for row in plan["stages"]) <= plan["free_bytes"]


def _cells(row: dict[str, Any]) -> list[str]:
    """Jobs, done, time, disk, at most and memory of a stage, or of all; a + stands for what isn't known."""
    low, high = row["elapsed"]
    time = f"{_duration(low)} to {_duration(high)}" if high else ("done" if row["done"] == row["jobs"] else "?")
    more_time = f" + {row['unknown_jobs']} jobs" if row["unknown_jobs"] and high else ""
    disk, most = ("?" if row["unknown_disk"] and not row[key] else readable(row[key]) for key in ("disk", "most_disk"))
    more_disk = " +" if row["unknown_disk"] and row["disk"] else ""
    memory = _bytes(row["memory_mb"] * costs.MB or None)
    return [str(row["jobs"]), str(row["done"]), time + more_time, disk + more_disk, most + more_disk, memory]


def show_comparison(console: Console, study: str, rows: Sequence[measured.Compared]) -> None:
    """Measured beside predicted, and the one over the other."""
    table = _table(
        f"{study}: measured beside predicted, over finished jobs", ("stage",), "finished", "time", "predicted", "ratio",
        "disk", "predicted", "ratio", "memory", "predicted", "ratio",
    )  # fmt: skip
    for row in [*rows, measured.total(rows)]:
        if row.stage == measured.ALL:
            table.add_section()
        numbers = [""] * 9
        if row.finished:
            numbers = [
                *_ratio(row.seconds, row.predicted_seconds, _duration),
                *_ratio(row.bytes, row.predicted_bytes, readable),
                *_ratio(row.memory_mb, row.predicted_memory_mb, lambda mb: readable(mb * costs.MB)),
            ]
        table.add_row(row.stage, f"{row.finished} of {row.jobs}", *numbers)
    console.print(table)


def _ratio(measured: float, predicted: float | None, words: Callable[[float], str]) -> list[str]:
    if not predicted:
        return [words(measured), "?", "?"]
    return [words(measured), words(predicted), f"{measured / predicted:.2f}"]


def _table(title: str, left: tuple[str, ...], *right: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for column in left:
        table.add_column(column, no_wrap=True)
    for column in right:
        table.add_column(column, justify="right", no_wrap=column != "time")  # the one that can be long
    return table


def _asked(mem_mb: int | None, gpus: int) -> str:
    return (readable(mem_mb * costs.MB) if mem_mb else "?") + (f", {gpus} GPU" if gpus else "")


def _bytes(count: float | None) -> str:
    return "?" if count is None else readable(count)


def _short(count: float | None) -> str:
    if count is None:
        return "?"
    unit, name = next(
        ((unit, name) for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")) if count >= unit), (1, "")
    )
    return f"{count / unit:.3g}{name}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    program(main, no="the disk has no room for the study as it is planned", examples=EXAMPLES)()
