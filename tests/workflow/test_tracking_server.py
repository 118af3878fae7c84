"""Tracking on an MLflow server: a real one, that is killed in the middle of it, is down, or does not answer."""

from __future__ import annotations

import socket

import pytest
from made_up_records import RESULTS, write_failed, write_finished
from mlflow import MlflowClient
from mlflow_server import Server

from _tracking import runs
from _tracking.runs import bring_in
from _tracking.store import Store

RECORDS = 30


def track(url: str):
    return bring_in(RESULTS, url, "demo", progress=lambda done, total: None)


def runs_of(url: str):
    client = MlflowClient(url)
    return client.search_runs([client.get_experiment_by_name("demo").experiment_id], max_results=1000)


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Thirty records in the current folder, the last of them of a failed job."""
    monkeypatch.chdir(tmp_path)
    for number in range(RECORDS - 1):
        write_finished(number, metrics={"cells": number, "per_layer": [number, 0.5]})
    write_failed(RECORDS - 1)


@pytest.mark.slow
def test_a_server_that_is_killed_midway_loses_and_doubles_nothing(records, tmp_path, monkeypatch):
    server = Server(tmp_path / "server")
    server.start()
    end, ended = Store.end, []

    def deadly(store, run, *others):
        ended.append(run.run_id)
        if len(ended) == 12:
            server.kill()
        end(store, run, *others)

    try:
        monkeypatch.setattr(Store, "end", deadly)
        with pytest.raises(RuntimeError) as failure:
            track(server.url)
        for part in (server.url, "11 of 30", "nothing is lost", "`make track`", "is not there (connection refused)"):
            assert part in str(failure.value)
        monkeypatch.setattr(Store, "end", end)
        server.start()
        before = {run.info.run_id: run.info.status for run in runs_of(server.url)}
        assert sorted(before.values()) == ["FINISHED"] * 11 + ["RUNNING"] * 2  # the twelfth, and the parent
        brought = track(server.url)
        assert (brought.logged, brought.logged_before) == (19, 11)
        after = runs_of(server.url)
        assert set(before) < {run.info.run_id for run in after}
        jobs = {run.data.tags["checkpoint"]: run for run in after if "checkpoint" in run.data.tags}
        assert len(jobs) == len(after) - 1 == RECORDS
        for number in range(RECORDS - 1):
            run = jobs[f"step-{number}"]
            assert run.info.status == "FINISHED"
            assert (run.data.metrics["cells"], run.data.metrics["per_layer"]) == (number, 0.5)
        history = MlflowClient(server.url).get_metric_history(jobs["step-11"].info.run_id, "per_layer")
        assert {point.step: point.value for point in history} == {0: 11, 1: 0.5}
        assert len(history) == 2  # the run that was cut off was logged twice, and holds everything once
        assert jobs[f"step-{RECORDS - 1}"].info.status == "FAILED"
        names = {file.path for file in MlflowClient(server.url).list_artifacts(jobs["step-11"].info.run_id)}
        assert names == {"lineage.json", "log", "outputs", "record.json"}
        assert track(server.url).logged == 0
    finally:
        server.kill()


def test_a_server_that_takes_calls_and_never_answers_is_given_up(records, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(RuntimeError, match=rf"{url} did not answer in time, with none of the new records logged"):
            track(url)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("API request failed with status 401: You are not authenticated", "set MLFLOW_TRACKING_USERNAME"),
        ("HTTPConnectionPool(host='x'): Failed to resolve 'x'", "is not known by that name"),
        ("RESOURCE_EXHAUSTED:\n  quota", "answered: RESOURCE_EXHAUSTED: quota"),
    ],
)
def test_what_a_server_answers_is_said_in_one_line(error, sentence):
    assert sentence in runs._answer(RuntimeError(error))
