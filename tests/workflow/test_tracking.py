"""Run records become MLflow runs: once each, with params, metrics, times and files, in a store that can be moved."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

import track_runs
from _tracking import DIGEST_TAG, Tracker, _artifacts, read_record


def uri() -> str:
    """The store of the current folder; absolute, since MLflow keeps a store open for as long as its process lives."""
    return f"sqlite:///{Path.cwd()}/results/mlflow/mlflow.db"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_record(number: int, **changes) -> Path:
    """A record as a job leaves it, with a table and a Zarr store as outputs, in the current folder."""
    folder = Path(f"results/demo/m/step-{number}")
    store = folder / "contributions.zarr"
    store.mkdir(parents=True)
    (store / "manifest.json").write_text("{}")
    (store / "c0").write_bytes(b"chunk")
    table = folder / "mui.parquet"
    table.write_bytes(b"table %d" % number)
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weights")
    log = Path(f"results/demo/logs/{number}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("said")
    record = {
        "record_version": 1,
        "stage": "utilization",
        "wildcards": {"model": "m", "checkpoint": f"step-{number}"},
        "params": {"code": "abc", "options": {"eos": "exclude", "thresholds": [0.001, 0.01]}, "long": "x" * 900},
        "metrics": {"cells": 8, "error": {"max": 1e-7}, "undefined": float("nan"), "rule": "topk"},
        "inputs": {},
        "outputs": {str(table): sha(table), str(store): sha(store / "manifest.json"), str(weights): sha(weights)},
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:00:10+00:00",
        "seconds": 10.0,
        "peak_memory_mb": 120.5,
        "host": "node",
        "python": "3.11.7",
        "packages": {"numpy": "2.1.0"},
        "git": {"commit": "f" * 40, "dirty": False},
        "log": str(log),
    } | changes
    path = Path(f"results/demo/records/{number}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def track(records: list[Path]) -> tuple[dict, dict]:
    """What the script returns and what it lists."""
    runs = Path("results/demo/tracking.json")
    metrics = track_runs.main(records=records, runs=runs, uri=uri(), study="demo", progress=lambda done, total: None)
    return metrics, json.loads(runs.read_text())


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """A folder whose MLflow database has its tables already; making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "results" / "mlflow").mkdir(parents=True)
    MlflowClient(f"sqlite:///{folder}/results/mlflow/mlflow.db").search_experiments()
    return folder


@pytest.fixture
def project(tmp_path, empty_store, monkeypatch) -> Path:
    """An empty project as the current folder."""
    shutil.copytree(empty_store, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_record_becomes_a_run_under_one_parent(project):
    records = [write_record(0), write_record(1)]
    metrics, listing = track(records)
    assert metrics == {"logged": 2, "logged_before": 0}
    assert list(listing["records"]) == [str(path) for path in records]
    client = MlflowClient(uri())
    entry = listing["records"][str(records[1])]
    run = client.get_run(entry["run_id"])
    assert entry["digest"] == sha(records[1])
    assert run.data.tags["mlflow.parentRunId"] == listing["parent_run_id"]
    assert run.data.tags["mlflow.runName"] == "utilization m step-1"
    assert run.data.tags["checkpoint"] == "step-1"
    assert run.data.tags["mlflow.source.git.commit"] == "f" * 40
    assert run.data.params["options.thresholds"] == "[0.001, 0.01]"
    assert run.data.params["options.eos"] == "exclude"
    assert len(run.data.params["long"]) == 500
    assert run.data.params["metric.undefined"] == "NaN"
    assert run.data.params["metric.rule"] == "topk"
    assert run.data.metrics == {"cells": 8.0, "error.max": 1e-7, "job.seconds": 10.0, "job.peak_memory_mb": 120.5}
    assert (run.info.end_time - run.info.start_time, run.info.status) == (10_000, "FINISHED")
    parent = client.get_run(listing["parent_run_id"])
    assert parent.data.metrics == {"jobs": 2.0, "job_seconds": 20.0}


def test_artifacts_are_files_beside_the_store_and_what_is_left_out_is_said(project, capsys):
    record = write_record(0)
    _, listing = track([record])
    entry = listing["records"][str(record)]
    run = MlflowClient(uri()).get_run(entry["run_id"])
    assert run.info.artifact_uri == f"mlflow-artifacts:/demo/{entry['run_id']}/artifacts"
    folder = project / "results/mlflow/artifacts/demo" / entry["run_id"] / "artifacts"
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == [
        "log/0.log",
        "outputs/m/step-0/contributions.zarr/manifest.json",
        "outputs/m/step-0/mui.parquet",
        "record.json",
    ]
    assert (folder / "record.json").read_text() == record.read_text()
    assert (
        "results/demo/m/step-0/model.safetensors is no artifact of its run: not of the kinds" in capsys.readouterr().out
    )
    assert "model.safetensors" in run.data.tags["moemui.left_out"]


def test_logging_again_adds_nothing_and_a_new_record_only_itself(project):
    first = write_record(0)
    _, before = track([first])
    metrics, again = track([first])
    assert metrics == {"logged": 0, "logged_before": 1}
    assert again["records"][str(first)]["run_id"] == before["records"][str(first)]["run_id"]
    assert again["parent_run_id"] is None
    metrics, _ = track([first, write_record(1)])
    assert metrics == {"logged": 1, "logged_before": 1}
    experiment = MlflowClient(uri()).get_experiment_by_name("demo")
    assert len(MlflowClient(uri()).search_runs([experiment.experiment_id])) == 4  # two jobs, two parents


def test_a_run_cut_off_by_a_kill_is_logged_anew(project):
    record = write_record(0)
    tracker = Tracker(uri(), "demo")
    cut_off = tracker._create(0, {DIGEST_TAG: sha(record)}).info.run_id
    metrics, listing = track([record])
    assert metrics["logged"] == 1
    assert listing["records"][str(record)]["run_id"] != cut_off
    assert MlflowClient(uri()).get_run(cut_off).info.status == "KILLED"


def test_a_moved_project_keeps_its_runs(project, tmp_path_factory, monkeypatch):
    record = write_record(0)
    _, listing = track([record])
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.move(project, moved)
    monkeypatch.chdir(moved)
    metrics, again = track([record])
    assert metrics["logged"] == 0
    assert again["records"] == listing["records"]


def test_changed_lost_and_large_outputs_are_left_out_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record, _ = read_record(write_record(0))
    table = Path("results/demo/m/step-0/mui.parquet")
    table.write_bytes(b"other")
    assert _artifacts(record, "demo")[1][str(table)] == "changed since the job wrote it"
    table.unlink()
    assert _artifacts(record, "demo")[1][str(table)] == "no longer there"
    with table.open("wb") as file:
        file.truncate(20 * 2**20 + 1)
    record["outputs"][str(table)] = sha(table)
    assert _artifacts(record, "demo")[1][str(table)] == "larger than 20 MiB"


def test_files_of_a_folder_without_manifest_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("results/demo/figures")
    folder.mkdir(parents=True)
    (folder / "layers.svg").write_text("<svg/>")
    from _job import digest

    chosen, left_out = _artifacts({"outputs": {str(folder): digest(folder)}}, "demo")
    assert chosen == {"outputs/figures/layers.svg": folder / "layers.svg"}
    assert left_out == {}


def test_an_unknown_store_is_refused():
    with pytest.raises(ValueError, match=r"tracking.uri is 'file:mlruns'; allowed are sqlite:///"):
        Tracker("file:mlruns", "demo")


def test_a_file_that_is_no_record_is_named(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"r\.json is no run record"):
        read_record(path)
