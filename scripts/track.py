"""Bring the finished, failed and killed jobs of a study into MLflow, at any moment."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from _provenance.invocation import invocations
from _study import StudyError
from _study import load as load_study

INCOMPLETE, BAD_USAGE = 1, 2
CONFIG = Path("config/config.yaml")
STORE = "sqlite:///results/mlflow/mlflow.db"


def main(
    results: Annotated[
        Path | None, typer.Option(help="a study's folder, results/STUDY", exists=True, file_okay=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help=f"a study's configuration; {CONFIG} if nothing is given", exists=True)
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

    A server's user and password come from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.

    Ends with 0; 1 where a record is unreadable (all others are logged then) or the store does not work; 2 for a mistake
    in the call.
    """
    if results is not None and config is not None:
        _stop("give --results or --config, not both", BAD_USAGE)
    try:
        folder, study, store = _of_results(results) if results else _of_config(config or CONFIG)
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        from _tracking.runs import bring_in  # seconds, which --help need not take

        with typer.progressbar(length=1, label=f"{study} → MLflow", file=sys.stderr) as bar:

            def progress(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            brought = bring_in(folder, uri or store, study, progress=progress, say=_say)
    except (StudyError, ValueError, FileNotFoundError) as error:
        _stop(str(error), BAD_USAGE)
    except RuntimeError as error:
        _stop(str(error), INCOMPLETE)
    unreadable = len(brought.unreadable)
    print(
        f"{study}: {brought.logged} runs logged, {brought.logged_before} were there before"
        + (f", {unreadable} unreadable records" if unreadable else "")
        + f" ({uri or store})"
    )
    raise typer.Exit(INCOMPLETE if unreadable else 0)


def _of_config(config: Path) -> tuple[Path, str, str]:
    study = load_study(config)
    return Path("results", study.name), study.name, study["tracking"]["uri"]


def _of_results(results: Path) -> tuple[Path, str, str]:
    """The store is that of the latest call of Snakemake. Paths in records begin at the project's folder."""
    folder = Path(os.path.abspath(results))  # results/, or a study's folder in it, may be a link to another disk
    project = folder.parent.parent
    os.chdir(project)
    stores = [found.get("tracking_uri") for found in invocations(folder).values()]
    return folder.relative_to(project), folder.name, next((store for store in reversed(stores) if store), STORE)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _stop(sentence: str, code: int) -> NoReturn:
    _say(sentence)
    raise typer.Exit(code)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
