"""Bring the finished, failed and killed jobs of a study into MLflow, at any moment."""

import os
from pathlib import Path
from typing import Annotated

import typer

from _command import FINE, NO, Stop, ends, program, say, study_of, working
from _provenance.invocation import invocations
from _tracking.address import sqlite_file

CONFIG = Path("config/config.yaml")
STORE = "sqlite:///results/mlflow/mlflow.db"
EXAMPLES = (
    "python scripts/track.py",
    "python scripts/track.py --config config/olmoe.yaml",
    "python scripts/track.py --results results/demo --uri http://mlflow:5000",
)


@ends("track", interrupted="what was logged stays; call it again for the rest")
def main(
    results: Annotated[
        Path | None, typer.Option(help="a study's folder, results/STUDY", exists=True, file_okay=False)
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help=f"a study's configuration; {CONFIG} if nothing is given", exists=True, dir_okay=False),
    ] = None,
    uri: Annotated[
        str | None,
        typer.Option(help="sqlite:///PATH/mlflow.db or http(s)://HOST:PORT instead of the study's own store"),
    ] = None,
) -> None:
    """Bring every finished, failed and killed job of a study into MLflow, one run each, while it runs or afterwards.

    Nothing is logged twice, so it can be called at any moment and as often as you like: to watch a long study, after a
    failure, after Snakemake was killed, when an MLflow server is back, or to fill a lost database again. Jobs still at
    work are counted in the run of their call of Snakemake, and come in when they have ended.

    Prints how many runs were logged, and how many were there before. The user and password of a server come from the
    environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
    """
    if results is not None and config is not None:
        raise Stop("give --results or --config, not both")
    folder, study, store = _of_results(results) if results else _of_config(config or CONFIG)
    if uri is not None and uri != store and (file := sqlite_file(uri)) and not file.parent.is_dir():
        raise Stop(f"there is no folder {file.parent} for the database of --uri; make it first, or give another --uri")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from _tracking.runs import bring_in  # seconds, which --help need not take

    try:
        with working(f"{study} → MLflow") as progress:
            brought = bring_in(folder, uri or store, study, progress=progress, say=say)
    except RuntimeError as error:
        raise Stop(error, NO) from None
    unreadable = len(brought.unreadable)
    print(
        f"{study}: {brought.logged} runs logged, {brought.logged_before} were there before"
        + (f", {unreadable} unreadable records" if unreadable else "")
        + f" ({uri or store})"
    )
    raise typer.Exit(NO if unreadable else FINE)


def _of_config(config: Path) -> tuple[Path, str, str]:
    study = study_of(config)
    return Path("results", study.name), study.name, study["tracking"]["uri"]


def _of_results(results: Path) -> tuple[Path, str, str]:
    """The store is that of the latest call of Snakemake. Paths in records begin at the project's folder."""
    folder = Path(os.path.abspath(results))  # results/, or a study's folder in it, may be a link to another disk
    project = folder.parent.parent
    os.chdir(project)
    stores = [found.get("tracking_uri") for found in invocations(folder).values()]
    return folder.relative_to(project), folder.name, next((store for store in reversed(stores) if store), STORE)


if __name__ == "__main__":
    no = "not all is in MLflow: a record is unreadable (all others were logged), or the store doesn't work"
    program(main, no=no, examples=EXAMPLES)()
