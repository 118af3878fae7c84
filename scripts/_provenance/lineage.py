"""What a job's result was made from: the jobs before it, back to checkpoints, task data and the files given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _provenance.records import digest, producers

CHECKPOINT = "checkpoint.json"  # the manifest of a checkpoint's files
TASK_DATA = "task_data"  # the folder of prompts made here, and the metric {task: SHA-256} of jobs that read others
KINDS = ("checkpoints", "task_data", "files")

Sources = dict[str, dict[str, Any]]


class Lineage:
    """Lineage among the records of the jobs that finished, by the file each stands in."""

    def __init__(self, finished: Mapping[Path, Mapping[str, Any]]):
        self._records = finished
        self._producers = producers(finished)
        self._found: dict[Path, Sources] = {}

    def makers(self, record: Mapping[str, Any]) -> dict[str, Path | None]:
        """For every input the record of the job that made it; None where no job did, or its record is another's.

        A job that ran again since, with another result, has overwritten the record of the one that made the input.
        """
        return {path: self._maker(path, sha256) for path, sha256 in record["inputs"].items()}

    def direct(self, record: Mapping[str, Any]) -> Sources:
        """What no job made and this job read itself.

        checkpoints: {MODEL/CHECKPOINT: {sha256 of its manifest, and its commit where it has one}}; task_data: {task or
        file: SHA-256}; files: {path: SHA-256}, everything else. A checkpoint stands for the weights, although a job
        wrote its manifest; prompts made here are task data, although a job made them.
        """
        found: Sources = {kind: {} for kind in KINDS}
        found["task_data"] |= _mapping(record["metrics"].get(TASK_DATA))
        given = _given_responses(record)
        for path, sha256 in record["inputs"].items():
            if Path(path).name == CHECKPOINT:
                found["checkpoints"]["/".join(Path(path).parts[-3:-1])] = self._checkpoint(path, sha256)
            elif Path(path).parent.name == TASK_DATA or path in given:
                found["task_data"][given.get(path, Path(path).stem)] = sha256
            elif self._maker(path, sha256) is None:
                found["files"][path] = sha256
        return found

    def sources(self, record: Mapping[str, Any]) -> Sources:
        """As `direct`, of this job and all jobs before it."""
        found = self.direct(record)
        for maker in {maker for maker in self.makers(record).values() if maker is not None}:
            for kind, values in self._before(maker).items():
                found[kind] = {**values, **found[kind]}
        return {kind: dict(sorted(values.items())) for kind, values in found.items()}

    def _maker(self, path: str, sha256: str | None) -> Path | None:
        maker = self._producers.get(path)
        return maker if maker is not None and self._records[maker]["outputs"][path] == sha256 else None

    def _before(self, maker: Path) -> Sources:
        if maker not in self._found:
            self._found[maker] = {kind: {} for kind in KINDS}  # a ring, which only records of several times can make
            self._found[maker] = self.sources(self._records[maker])
        return self._found[maker]

    def _checkpoint(self, path: str, sha256: str | None) -> dict[str, Any]:
        """The manifest's digest, and what a record or the manifest itself tells of the weights."""
        maker = self._maker(path, sha256)
        known = dict(self._records[maker]["metrics"]) if maker is not None else {}
        manifest = Path(path)
        if "commit" not in known and manifest.is_file() and digest(manifest) == sha256:
            known = {**json.loads(manifest.read_text()), **known}
        kept = {key: known.get(key) for key in ("repo", "commit", "checkpoint_digest")}
        return {"manifest_sha256": sha256, **{key: value for key, value in kept.items() if value is not None}}


def _given_responses(record: Mapping[str, Any]) -> dict[str, str]:
    """Files of given responses among a job's inputs, with the task that reads each."""
    tasks = _mapping(record["params"].get("tasks"))
    return {str(task["responses"]): name for name, task in tasks.items() if "responses" in _mapping(task)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
