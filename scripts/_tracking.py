"""Run records → MLflow runs. The records hold everything, so a lost tracking database is rebuilt from them.

One process logs all runs: eight that open a new SQLite store at once break its migrations. With a SQLite store the
experiment has an `mlflow-artifacts:` location and artifacts are plain files under mlflow/artifacts/, so the folder can
be moved; look at it with

    mlflow server --backend-store-uri sqlite:///results/mlflow/mlflow.db \
        --artifacts-destination results/mlflow/artifacts --host 127.0.0.1
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of a study leaves the machine by itself

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_GIT_COMMIT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from _job import digest

SQLITE = "sqlite:///"
DIGEST_TAG, PARENT_TAG = "moemui.record_digest", "moemui.study"
ARTIFACT_ENDINGS = {".parquet", ".csv", ".svg", ".pdf", ".png", ".html", ".h5", ".jsonl"}
ARTIFACT_BYTES = 20 * 2**20
TEXT_LENGTH = 500  # characters of a param or tag
BATCH = 100  # MLflow's most params or tags in a call
PAGE = 1000  # runs in one answer of a search


class Tracker:
    """One study's experiment in an MLflow store, and which records it already holds."""

    def __init__(self, uri: str, study: str):
        self.uri, self.study = uri, study
        self.folder = _sqlite_folder(uri)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = self._experiment()
        self.logged: dict[str, str] = {}
        self._look()

    def _experiment(self) -> Experiment:
        found = self.client.get_experiment_by_name(self.study)
        if found is None:
            location = f"mlflow-artifacts:/{self.study}" if self.folder is not None else None
            found = self.client.get_experiment(self.client.create_experiment(self.study, artifact_location=location))
        elif found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        return found

    def _look(self) -> None:
        """Finds the records logged before. A run that a killed job left unfinished is not one of them.

        In a store of one's own such runs are marked as killed; in a shared one they may be somebody's running job.
        """
        token = None
        while True:
            page = self.client.search_runs([self.experiment.experiment_id], max_results=PAGE, page_token=token)
            for run in page:
                if run.info.status == RunStatus.to_string(RunStatus.RUNNING):
                    if self.folder is not None:
                        self.client.set_terminated(run.info.run_id, "KILLED")
                elif run.info.status == RunStatus.to_string(RunStatus.FINISHED) and DIGEST_TAG in run.data.tags:
                    self.logged[run.data.tags[DIGEST_TAG]] = run.info.run_id
            token = page.token
            if not token:
                return

    def start(self, records: Sequence[Mapping[str, Any]]) -> str:
        """A parent run for the records of one invocation of the workflow; returns its id."""
        tags = {MLFLOW_RUN_NAME: f"{self.study}, {len(records)} jobs", PARENT_TAG: self.study}
        tags |= _git_tags(records[-1])
        begin = min(_milliseconds(record["started"]) for record in records)
        return self._create(begin, tags).info.run_id

    def finish(self, run_id: str, records: Sequence[Mapping[str, Any]]) -> None:
        """The parent run's totals."""
        end = max(_milliseconds(record["ended"]) for record in records)
        seconds = sum(record["seconds"] for record in records)
        metrics = {"jobs": float(len(records)), "job_seconds": float(seconds)}
        self.client.log_batch(run_id, metrics=[Metric(name, value, end, 0) for name, value in metrics.items()])
        self.client.set_terminated(run_id, "FINISHED", end)

    def log(self, path: Path, record: Mapping[str, Any], record_digest: str, parent: str) -> dict[str, str]:
        """Log one job's record as a run under `parent`; returns the outputs left out, each with the reason.

        The run's id stands in `logged` afterwards.
        """
        wildcards = {key: str(value) for key, value in record["wildcards"].items()}
        name = " ".join([record["stage"], *(value for key, value in wildcards.items() if key != "study")])
        tags = {MLFLOW_RUN_NAME: name, MLFLOW_PARENT_RUN_ID: parent, DIGEST_TAG: record_digest}
        tags |= {"stage": record["stage"], "host": str(record["host"]), "python": str(record["python"])}
        tags |= wildcards | _git_tags(record)
        end = _milliseconds(record["ended"])
        run_id = self._create(_milliseconds(record["started"]), tags).info.run_id
        numbers, texts = _sorted_metrics(record["metrics"])
        numbers |= {"job.seconds": float(record["seconds"]), "job.peak_memory_mb": float(record["peak_memory_mb"])}
        metrics = [Metric(_name(key), value, end, 0) for key, value in numbers.items()]
        params = {**_flat(record["params"]), **{f"metric.{key}": text for key, text in texts.items()}}
        params |= {f"package.{key}": value for key, value in record["packages"].items()}
        self.client.log_batch(run_id, metrics=metrics)
        for part in _batches(params.items()):
            self.client.log_batch(run_id, params=[Param(_name(key), _short(value)) for key, value in part])
        artifacts, left_out = _artifacts(record, self.study)
        log = Path(record["log"])
        if log.is_file():
            artifacts[f"log/{log.name}"] = log
        self._store(run_id, {"record.json": path, **artifacts})
        if left_out:
            self.client.set_tag(run_id, "moemui.left_out", _short(json.dumps(left_out)))
        self.client.set_terminated(run_id, "FINISHED", end)  # the last thing: only a finished run counts as logged
        self.logged[record_digest] = run_id
        return left_out

    def _create(self, begin: int, tags: Mapping[str, str]) -> Run:
        short = {_name(key): _short(value) for key, value in tags.items()}
        return self.client.create_run(self.experiment.experiment_id, start_time=begin, tags=short)

    def _store(self, run_id: str, artifacts: Mapping[str, Path]) -> None:
        """Place files, given by their path among the run's artifacts."""
        prefix = f"mlflow-artifacts:/{self.study}"
        for name, source in artifacts.items():
            if self.folder is not None and self.experiment.artifact_location == prefix:
                target = self.folder / "artifacts" / self.study / run_id / "artifacts" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            else:
                folder, _, _ = name.rpartition("/")
                self.client.log_artifact(run_id, str(source), folder or None)


def _sqlite_folder(uri: str) -> Path | None:
    """The folder of a SQLite store's file; None for a server. Raises ValueError for any other store."""
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        return Path(uri.removeprefix(SQLITE)).parent
    if re.match(r"https?://.", uri):
        return None
    raise ValueError(f"tracking.uri is {uri!r}; allowed are sqlite:///PATH/mlflow.db and http(s)://HOST:PORT")


def read_record(path: Path) -> tuple[dict[str, Any], str]:
    """A run record and the SHA-256 of its file. Raises ValueError for a file that is no run record."""
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no run record: {error}; delete it, so that its job runs again") from error
    if not isinstance(record, dict) or "record_version" not in record:
        raise ValueError(f"{path} is no run record: it has no record_version; delete it, so that its job runs again")
    return record, digest(path)


def _artifacts(record: Mapping[str, Any], study: str) -> tuple[dict[str, Path], dict[str, str]]:
    """A job's outputs to keep as artifacts, by their name among them, and those left out with the reason.

    A folder with a manifest, such as a Zarr store, is kept by its manifest; another one by those of its files that
    would be kept by themselves.
    """
    chosen: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for text, recorded in record["outputs"].items():
        path = Path(text)
        if not path.exists():
            left_out[text] = "no longer there"
            continue
        if digest(path) != recorded:
            left_out[text] = "changed since the job wrote it"
            continue
        manifest = path / "manifest.json"
        files = [manifest] if manifest.is_file() else sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if not file.is_file() or file.name.startswith("."):  # Snakemake stamps folders with a hidden file
                continue
            if file != manifest and file.suffix not in ARTIFACT_ENDINGS:
                left_out[str(file)] = f"not of the kinds {', '.join(sorted(ARTIFACT_ENDINGS))}"
            elif file.stat().st_size > ARTIFACT_BYTES:
                left_out[str(file)] = f"larger than {ARTIFACT_BYTES // 2**20} MiB"
            else:
                chosen["outputs/" + file.as_posix().removeprefix(f"results/{study}/").lstrip("/")] = file
    return chosen, left_out


def _git_tags(record: Mapping[str, Any]) -> dict[str, str]:
    git = record["git"]
    if not git["commit"]:
        return {}
    return {MLFLOW_GIT_COMMIT: git["commit"], "git.dirty": str(git["dirty"]).lower()}


def _sorted_metrics(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    """Finite numbers, and everything else as text."""
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for key, value in _leaves(metrics):
        if isinstance(value, (bool, int, float)) and math.isfinite(value):
            numbers[key] = float(value)
        else:
            texts[key] = _text(value)
    return numbers, texts


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in _leaves(values)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else text[: TEXT_LENGTH - 1] + "…"  # all of it is in record.json


def _name(key: str) -> str:
    """A key as MLflow allows it: letters, digits and _ - . : space /."""
    return re.sub(r"[^\w\-.: /]", "_", key)[:250]


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def _batches(items: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    waiting = iter(items)
    while part := list(itertools.islice(waiting, BATCH)):
        yield part
