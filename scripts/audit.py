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
from _provenance.records import RECORDS

NOT_AS_RECORDED, BAD_USAGE = 1, 2
UNLIMITED = 10_000  # columns of a file or pipe


class UsageError(ValueError):
    """A mistake in the call: what was found, what is allowed."""


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
    """The trail of a file, in the study that knows it. Raises UsageError where none does."""
    for recorded in known:
        name = recorded.name(file)
        if names := recorded.results_of(name):
            trail = trace(recorded, names)
            if os.path.lexists(file) or name in recorded.makers or trail.at_fault(name):
                return recorded, trail
        if recorded.readers(name):
            return recorded, trace_source(recorded, name)
    if not file.exists():
        raise UsageError(f"there is no {file}, and no record names it")
    for recorded in known:
        name = recorded.name(file)
        if name not in recorded.unreadable and (what := book_keeping(recorded, name)):
            raise UsageError(f"{what}; name a file that a job made")
    if file.is_dir():
        raise UsageError(f"no record names anything in the folder {file}; name a file, or a folder with results")
    for recorded in known:
        if copies := recorded.copies(file):
            print(f"{file} is a copy of {copies[0]}", file=sys.stderr)
            return recorded, trace(recorded, copies[:1])
    for recorded in known:
        if recorded.is_inside(name := recorded.name(file)):
            return recorded, Trail([], [], findings=[unknown(recorded, name)])
    searched = ", ".join(str(recorded.results) for recorded in known) or "results/"
    raise UsageError(f"no record in {searched} names {file} or its content; name its study with --results")


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="tables, figures, stores, chunks, any result")] = None,
    results: Annotated[Path | None, typer.Option(help="a study's folder, such as results/demo")] = None,
    everything: Annotated[bool, typer.Option("--all", help="every file of a study")] = False,
    full: Annotated[bool, typer.Option("--full", help="every job by itself, not only its stage")] = False,
    packages: Annotated[bool, typer.Option("--packages", help="versions of the packages, too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """How was a result made, from what, and is all of it still what was recorded?

    Ends with 0 where everything is as recorded, with 1 where something is not, with 2 for a mistake in the call.
    """
    errors = Console(stderr=True)
    opened: dict[Path, Recorded] = {}
    found: list[tuple[Recorded, Trail]] = []
    try:
        if everything == bool(files):
            raise UsageError("name the files to audit, or --all for a whole study")
        with errors.status("reading records") as status:

            def study(folder: Path) -> Recorded:
                if folder not in opened:
                    opened[folder] = Recorded(folder, lambda path: status.update(f"reading {path}"))
                return opened[folder]

            if everything:
                chosen = studies(results)
                if len(chosen) != 1:
                    raise UsageError(f"found {len(chosen)} studies below results/; name one with --results")
                found.append((study(chosen[0]), trace_all(study(chosen[0]))))
            for file in files or []:
                around = results or study_around(file)
                found.append(trail_of(file, [study(folder) for folder in ([around] if around else studies(None))]))
    except ValueError as error:
        errors.print(f"audit: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        raise typer.Exit(BAD_USAGE) from None
    if as_json:
        told = [tree.as_dict(recorded, trail, packages=packages) for recorded, trail in found]
        print(json.dumps(told[0] if len(told) == 1 else told, indent=1))
    else:
        out = Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False)
        for recorded, trail in found:
            if everything:
                out.print(tree.table(recorded, trail))
            else:
                out.print(tree.tree(recorded, trail, full=full, packages=packages))
            tree.tell(out, trail, full=full)
    raise typer.Exit(NOT_AS_RECORDED if any(trail.findings for _, trail in found) else 0)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
