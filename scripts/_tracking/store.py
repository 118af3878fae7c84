"""One study's experiment in an MLflow store: its runs, and how to begin, fill and end one."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of a study leaves the machine by itself
# A server that is down or mute is given up after half a minute, not after five. MLflow reads these at each request.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from _tracking.address import SQLITE, sqlite_file
from _tracking.run_contents import DATASET_DIGEST, DATASET_SOURCE, Contents, Data, Point, place, short

RUNNING = "RUNNING"
MOST_PARAMS, MOST_METRICS = 100, 800  # in one call, which holds at most 1,000 things
PAGE = 200  # runs in one answer of a search; a busy server has eight seconds for it
Item = TypeVar("Item")


@dataclass
class StoredRun:
    """What is known of a run. Times in milliseconds since 1970."""

    run_id: str
    status: str
    started: int
    ended: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def parent(self) -> str | None:
        """Of its parent run the id."""
        return self.tags.get(MLFLOW_PARENT_RUN_ID)


class ChangedParamError(RuntimeError):
    """A half-logged run holds a param that is another now; MLflow never changes one."""


class Store:
    """The experiment, made where there is none. Whoever opens one holds the lock (see `_tracking.runs`)."""

    def __init__(self, uri: str, study: str):
        self._study, self._file = study, sqlite_file(uri)
        if self._file is not None:
            _make_tables(self._file)
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = self._find_experiment()
        self.experiment_id: str = self._experiment.experiment_id
        self.runs: dict[str, StoredRun] = {run.run_id: run for run in self._search()}

    @property
    def is_own(self) -> bool:
        """Whether only the holder of the lock writes here."""
        return self._file is not None

    def begin(self, title: str, started: int, tags: Mapping[str, str], parent: str | None = None) -> StoredRun:
        """A new run at work."""
        whole = {**tags, MLFLOW_RUN_NAME: title, **({MLFLOW_PARENT_RUN_ID: parent} if parent else {})}
        made = self._client.create_run(self.experiment_id, start_time=started, tags=whole)
        run = self.runs[made.info.run_id] = StoredRun(made.info.run_id, RUNNING, started, tags=whole)
        return run

    def fill(self, run: StoredRun, contents: Contents, note: str, files: Mapping[str, Path | str]) -> dict[str, str]:
        """Log everything but the end. Again and again changes nothing. Raises ChangedParamError.

        Returns the files that were no longer there, as `place` does.
        """
        tags = {**contents.tags, MLFLOW_RUN_NOTE: note}
        try:
            self._log(run, params=contents.params, points=contents.metrics, at=contents.ended, tags=tags)
        except MlflowException as error:
            if error.error_code == ErrorCode.Name(INVALID_PARAMETER_VALUE) and "param" in str(error).lower():
                raise ChangedParamError(str(error)) from error
            raise
        if contents.data:
            self._client.log_inputs(run.run_id, [_dataset(data) for data in contents.data])
        return self._place(run, {**files, "lineage.json": json.dumps(contents.lineage, indent=1)})

    def measure(self, run: StoredRun, metrics: Mapping[str, float]) -> None:
        """Metrics of a run that grows: those that are other than before."""
        points = [Point(name, value, 0) for name, value in metrics.items() if run.metrics.get(name) != value]
        if points:
            self._log(run, points=points, at=now())

    def tag(self, run: StoredRun, tags: Mapping[str, str]) -> None:
        """Tags of a run, where they are other than before."""
        if changed := {key: value for key, value in tags.items() if run.tags.get(key) != value}:
            self._log(run, tags=changed)

    def move(self, run: StoredRun, parent: str) -> None:
        """Put a run under another parent."""
        self.tag(run, {MLFLOW_PARENT_RUN_ID: parent})

    def end(self, run: StoredRun, status: str, ended: int | None) -> None:
        """The run's status; ended: None for one that is at work."""
        if (run.status, run.ended) == (status, ended) or run.status == status == RUNNING:
            return
        if status == RUNNING:
            self._client.update_run(run.run_id, status=status)
        else:
            self._client.set_terminated(run.run_id, status, ended)
        run.status, run.ended = status, ended

    def delete(self, run: StoredRun) -> None:
        """Take a run away, as people do in the UI: it can be restored there."""
        self._client.delete_run(run.run_id)
        del self.runs[run.run_id]

    def link(self, run_id: str) -> str:
        """A run's address in the UI."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}"

    def _find_experiment(self) -> Experiment:
        location = f"mlflow-artifacts:/{self._study}" if self.is_own else None
        found = self._client.get_experiment_by_name(self._study)
        try:
            if found is None:
                found = self._client.get_experiment(self._client.create_experiment(self._study, location))
        except MlflowException as error:  # on a server somebody else may have been faster
            if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
                raise
            return self._find_experiment()
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found

    def _search(self) -> Iterator[StoredRun]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], max_results=PAGE, page_token=token)
            yield from map(_known, page)
            token = page.token
            if not token:
                return

    def _log(
        self,
        run: StoredRun,
        *,
        params: Mapping[str, str] | None = None,
        points: Iterable[Point] = (),
        at: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """In as few calls as MLflow allows."""
        metrics = [Metric(point.name, point.value, at, point.step) for point in points]
        parts = itertools.zip_longest(
            _batches(metrics, MOST_METRICS),
            _batches([Param(*item) for item in (params or {}).items()], MOST_PARAMS),
            _batches([RunTag(*item) for item in (tags or {}).items()], MOST_PARAMS),
            fillvalue=(),
        )
        for metrics_part, params_part, tags_part in parts:
            self._client.log_batch(run.run_id, metrics=metrics_part, params=params_part, tags=tags_part)
        run.tags |= tags or {}
        run.metrics |= {metric.key: metric.value for metric in metrics}

    def _place(self, run: StoredRun, files: Mapping[str, Path | str]) -> dict[str, str]:
        if self._file is not None and self._experiment.artifact_location == f"mlflow-artifacts:/{self._study}":
            return place(files, self._file.parent / "artifacts" / self._study / run.run_id / "artifacts")
        with tempfile.TemporaryDirectory() as folder:
            left_out = place(files, Path(folder))
            self._client.log_artifacts(run.run_id, folder)
        return left_out


def _make_tables(file: Path) -> None:
    """A new SQLite store appears whole: one whose making was cut off could not be opened again."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".part-{file.name}")
    part.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"{SQLITE}{part}").search_experiments(max_results=1)
    part.replace(file)


def now() -> int:
    """In milliseconds since 1970."""
    return int(time.time() * 1000)


def _known(run: Run) -> StoredRun:
    info, data = run.info, run.data
    return StoredRun(info.run_id, info.status, info.start_time, info.end_time, dict(data.tags), dict(data.metrics))


def _dataset(data: Data) -> DatasetInput:
    source = short(json.dumps(data.source), DATASET_SOURCE)
    dataset = Dataset(data.name, data.sha256[:DATASET_DIGEST], source_type=data.what, source=source)
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, data.what)])


def _batches(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    waiting = iter(items)
    while part := list(itertools.islice(waiting, most)):
        yield part
