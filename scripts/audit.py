"""Say how result files were made, from what, and whether everything on the way is still as it was recorded."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from _audit import tree
from _audit.recorded import Recorded
from _audit.walk import Trail, book_keeping, trace, trace_all, trace_source, unknown
from _command import FINE, NO, Stop, answering, ends, program, say, working
from _provenance.records import RECORDS

UNLIMITED = 10_000  # columns of a file or pipe
EXAMPLES = (
    "python scripts/audit.py results/demo/report.html",
    "python scripts/audit.py --all --results results/demo",
    "python scripts/audit.py results/demo/tables/phases.parquet --full --json",
)


def studies(results: Path | None) -> list[Path]:
    """The study that is named, or all below results/."""
    return [results] if results else sorted(path.parent for path in Path("results").glob(f"*/{RECORDS}"))


def study_around(file: Path) -> Path | None:
    """The study's folder that a path is or lies in, as it is written or with symbolic links followed."""
    for whole in (Path(os.path.abspath(file)), Path(os.path.realpath(file))):
        for folder in (whole, *whole.parents):
            if (folder / RECORDS).is_dir():
                return folder
    return None


def trail_of(file: Path, known: list[Recorded]) -> tuple[Recorded, Trail]:
    """The trail of a file, in the study that knows it. Raises Stop where none does."""
    for recorded in known:
        name = recorded.name(file)
        if names := recorded.results_of(name):
            trail = trace(recorded, names)
            if os.path.lexists(file) or name in recorded.makers or trail.at_fault(name):
                return recorded, trail
        if recorded.readers(name):
            return recorded, trace_source(recorded, name)
    if not file.exists():
        raise Stop(f"there is no {file}, and no record names it")
    for recorded in known:
        name = recorded.name(file)
        if name not in recorded.unreadable and (what := book_keeping(recorded, name)):
            raise Stop(f"{what}; name a file that a job made")
    if file.is_dir():
        raise Stop(f"no record names anything in the folder {file}; name a file, or a folder with results")
    for recorded in known:
        if copies := recorded.copies(file):
            say(f"{file} is a copy of {copies[0]}")
            return recorded, trace(recorded, copies[:1])
    for recorded in known:
        if recorded.is_inside(name := recorded.name(file)):
            return recorded, Trail([], [], findings=[unknown(recorded, name)])
    searched = ", ".join(str(recorded.results) for recorded in known) or "results/"
    raise Stop(f"no record in {searched} names {file} or its content; name its study with --results")


@ends("audit")
def main(
    files: Annotated[list[str] | None, typer.Argument(help="tables, figures, stores, chunks, any result")] = None,
    results: Annotated[Path | None, typer.Option(help="a study's folder, such as results/demo")] = None,
    everything: Annotated[bool, typer.Option("--all", help="every file of a study")] = False,
    full: Annotated[bool, typer.Option("--full", help="every job by itself, not only its stage")] = False,
    packages: Annotated[bool, typer.Option("--packages", help="versions of the packages, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """How was a result made, from what, and is all of it still what was recorded?

    Reads the records that jobs left, and compares every file on the way, down to the chunks of a store, with what was
    recorded when it was written. Nothing is changed.

    Prints the way back from each result to its sources (with --all a line a stage), then a line for each thing that is
    not as recorded, with what to do, then the sum.
    """
    opened: dict[Path, Recorded] = {}
    found: list[tuple[Recorded, Trail]] = []
    if everything == bool(files):
        raise Stop("name the files to audit, or --all for a whole study")
    for name in files or []:
        if not name.strip():
            raise Stop("the name of a file is empty; name the files to audit, or --all for a whole study")
        if (Path(name) / RECORDS).is_dir():
            raise Stop(f"{name} is a whole study; give --all --results {name}")
    with working("reading records") as progress:

        def reading(path: Path) -> None:
            progress(0, 0, f"and files: {path}")

        def study(folder: Path) -> Recorded:
            if folder not in opened:
                opened[folder] = Recorded(folder, reading)
            return opened[folder]

        if everything:
            chosen = studies(results)
            if len(chosen) != 1:
                raise Stop(f"found {len(chosen)} studies below results/; name one with --results")
            found.append((study(chosen[0]), trace_all(study(chosen[0]))))
        for file in map(Path, files or []):
            around = results or study_around(file)
            found.append(trail_of(file, [study(folder) for folder in ([around] if around else studies(None))]))
    code = NO if any(trail.findings for _, trail in found) else FINE
    with answering(code):
        if as_json:
            told = [tree.as_dict(recorded, trail, packages=packages) for recorded, trail in found]
            print(json.dumps(told[0] if len(told) == 1 else told, indent=1))
        else:
            out = Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False)
            for recorded, trail in found:
                if everything:
                    out.print(tree.table(recorded, trail, width=out.width))
                else:
                    out.print(tree.tree(recorded, trail, full=full, packages=packages))
                tree.tell(out, trail, full=full)
    raise typer.Exit(code)


if __name__ == "__main__":
    program(main, no="something is not as recorded: changed, gone, made from something else", examples=EXAMPLES)()
