"""Bring the study's run records into MLflow, one run a job, and list which run holds which record."""

import json
from collections.abc import Callable
from pathlib import Path

from _job import run
from _tracking import Tracker, read_record


def main(*, records: list[Path], runs: Path, uri: str, study: str, progress: Callable[[int, int], None]) -> dict:
    """records: run records. runs: the listing to write. uri: MLflow's store. study: the experiment's name.

    Records that the store holds already are not logged again; the new ones stand under one parent run.
    """
    tracker = Tracker(uri, study)
    read = {path: read_record(path) for path in records}
    new = {path: record for path, (record, digest) in read.items() if digest not in tracker.logged}
    parent = tracker.start(list(new.values())) if new else ""
    for done, path in enumerate(new, start=1):
        for output, reason in tracker.log(path, *read[path], parent).items():
            print(f"{path}: {output} is no artifact of its run: {reason}")
        progress(done, len(new))
    if new:
        tracker.finish(parent, list(new.values()))
    listing = {
        "uri": uri,
        "experiment": study,
        "experiment_id": tracker.experiment.experiment_id,
        "parent_run_id": parent or None,
        "records": {
            str(path): {"run_id": tracker.logged[digest], "digest": digest} for path, (_, digest) in read.items()
        },
    }
    runs.write_text(json.dumps(listing, indent=1))
    return {"logged": len(new), "logged_before": len(read) - len(new)}


if __name__ == "__main__":
    run(main)
