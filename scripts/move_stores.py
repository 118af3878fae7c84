"""Move the finished contributions of a study to S3, so that pointers remain; nothing is computed or rerun."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from _command import NO, Stop, ends, program, study_of, working
from moemui.scores import sealed, upload

EXAMPLES = ("python scripts/move_stores.py config/olmoe.yaml",)


@ends("move_stores", interrupted="every store is whole, here or on S3; call it again for the rest")
def main(
    config: Annotated[Path, typer.Argument(help="the study, with contributions.storage", exists=True, dir_okay=False)],
    results: Annotated[Path, typer.Option(help="the folder that results lie in, as the workflow names it")] = Path(
        "results"
    ),
) -> None:
    """Hand every finished store of contributions over to S3, where contributions.storage of the study says.

    Pointers remain, which later stages read like the stores; nothing is computed or rerun. Call it where snakemake is
    called, and not while it runs. Killed, it goes on in the next call. Keys come from the environment, as in a run.

    Prints how many stores lie on S3 in the end.
    """
    study = study_of(config)
    if "storage" not in study["contributions"]:
        raise Stop(f"{config} has no contributions.storage; set it to s3://bucket/prefix")
    folder = results / study.name
    found = sorted(str(path) for path in folder.glob("**/contributions*.zarr"))
    if not found:
        raise Stop(f"{folder} has no finished contributions; call this where snakemake is called")
    if not sys.stderr.isatty():  # no moving bar there, but lines
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    with working(f"{study.name} → {study['contributions']['storage']}") as progress:
        for done, (path, url) in enumerate(zip(found, study.store_urls(found), strict=True)):
            progress(done, len(found), path)
            try:
                upload.hand_over(Path(path), url)
            except (OSError, ValueError, sealed.IncompleteStoreError) as error:
                raise Stop(error, NO) from None
    print(f"{len(found)} stores of {study.name} lie on S3")


if __name__ == "__main__":
    program(main, no="S3 can't be reached, or a store is damaged; what was moved stays moved", examples=EXAMPLES)()
