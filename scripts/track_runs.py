"""Bring the study's jobs into MLflow, one run each, and list which run holds which record."""

import json
from pathlib import Path

from _job import Progress, run
from _provenance.records import RECORDS
from _tracking.runs import bring_in


def main(*, runs: Path, uri: str, study: str, progress: Progress) -> dict:
    """runs: the listing to write. uri: MLflow's store. study: its name, and that of MLflow's experiment."""
    # A study lies below results/, or wherever the workflow that imports this one has put it.
    results = next(folder for folder in runs.parents if (folder / RECORDS).is_dir())
    brought = bring_in(results, uri, study, progress=progress, say=progress.say, last=True)
    print(*brought.left_out, sep="\n")
    runs.write_text(json.dumps(brought.listing, indent=1))
    return {"logged": brought.logged, "logged_before": brought.logged_before, "unreadable": len(brought.unreadable)}


if __name__ == "__main__":
    run(main)
