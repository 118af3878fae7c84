"""Move the finished contributions of a study to S3, so that pointers remain; nothing is computed or rerun."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from _study import StudyError, load
from moemui.scores import sealed, upload

BAD_USAGE = 2


def main(
    config: Annotated[Path, typer.Argument(help="the study, with contributions.storage", exists=True, dir_okay=False)],
    results: Annotated[Path, typer.Option(help="the folder that results lie in, as the workflow names it")] = Path(
        "results"
    ),
) -> None:
    """Hand every finished store of the study over to contributions.storage. Call it where snakemake is called, and
    not while it runs; killed, it goes on in the next call.

    Ends with 2 for a mistake in the call, 1 where S3 can't be reached or a store is damaged.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        study = load(config)
        if "storage" not in study["contributions"]:
            raise StudyError(f"{config} has no contributions.storage; set it to s3://bucket/prefix")
        folder = results / study.name
        found = sorted(str(path) for path in folder.glob("**/contributions*.zarr"))
        if not found:
            raise StudyError(f"{folder} has no finished contributions; call this where snakemake is called")
        urls = study.store_urls(found)
    except StudyError as error:
        print(f"move_stores: {error}", file=sys.stderr)
        raise typer.Exit(BAD_USAGE) from None
    try:
        for path, url in zip(found, urls, strict=True):
            upload.hand_over(Path(path), url)
    except (OSError, ValueError, sealed.IncompleteStoreError) as error:
        print(f"move_stores: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{len(found)} stores of {study.name} lie on S3")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()
