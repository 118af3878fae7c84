"""Where the numbers of a page come from, out of the run records, in the words in which a page says it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def made(path: Path, record: Mapping[str, Any], output: str, folder: Path) -> dict[str, Any]:
    """How an output was made, by the record of its job, which stands in the file `path`; folder: the page's."""
    return {
        "stage": record["stage"],
        "record": os.path.relpath(path, folder),
        "run": record["attempt"],
        "inputs": f"{len(record['inputs'])} files, which the record lists with their digests",
        "digest": record["outputs"][output],
        "code": record["params"]["code"],
        **record["git"],
        "path": output,
    }


def made_tables(records: Mapping[Path, Mapping[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """How each of the study's tables was made, by its name, as a page shows it; folder: the page's."""
    return {
        Path(output).stem: made(path, record, output, folder)
        for path, record in records.items()
        for output in record["outputs"]
        if Path(output).suffix == ".parquet" and Path(output).parent.name == "tables"
    }


def provenance(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a page says of all jobs behind it. The errors of extraction are None where no job measured them."""
    seconds: dict[str, float] = defaultdict(float)
    packages: dict[str, str] = {}
    for record in records:
        seconds[record["stage"]] += record["seconds"]
        packages |= record["packages"]
    worst = {
        error: max((record["metrics"][error] for record in records if error in record["metrics"]), default=None)
        for error in ("conservation_error", "identity_error")
    }
    return {
        "commit": records[-1]["git"]["commit"],
        "dirty": any(record["git"]["dirty"] for record in records),
        "packages": packages,
        "stage_seconds": dict(seconds),
        "conservation_error_max": worst["conservation_error"],
        "identity_error_max": worst["identity_error"],
    }
