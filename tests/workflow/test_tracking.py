"""Run records become MLflow runs: once each, whatever dies, with all they hold, in a store that can be moved."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import typer
from made_up_records import RESULTS, record, sha, write, write_failed, write_finished, write_invocation
from mlflow import MlflowClient
from typer.testing import CliRunner
from workflow.conftest import ROOT

import track as track_command
from _provenance.attempt import INVOCATION
from _tracking import store
from _tracking.address import sqlite_file
from _tracking.run_contents import artifacts
from _tracking.runs import DIGEST_TAG, bring_in
from _tracking.store import Store


def uri() -> str:
    """The store of the current folder; absolute, since MLflow keeps a store open for as long as its process lives."""
    return f"sqlite:///{Path.cwd()}/results/mlflow/mlflow.db"


def track(**options):
    return bring_in(RESULTS, uri(), "demo", **{"progress": lambda done, total: None, **options})


def stored(study="demo"):
    """All runs by name; a parent's is its invocation, or "parent"."""
    client = MlflowClient(uri())
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    named = {}
    for run in runs:
        tags = run.data.tags
        name = tags["mlflow.runName"] if "moemui.study" not in tags else tags.get("moemui.invocation", "parent")
        assert name not in named, f"{name} is there twice"
        named[name] = run
    return named


def run_of(number: int):
    return stored()[f"utilization m step-{number}"]


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """A folder whose MLflow database has its tables already; making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    store._make_tables(folder / "results/mlflow/mlflow.db")
    return folder


@pytest.fixture
def project(tmp_path, empty_store, monkeypatch) -> Path:
    """An empty project as the current folder."""
    shutil.copytree(empty_store, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(INVOCATION, raising=False)
    return tmp_path


def test_a_record_becomes_a_run_under_one_parent(project):
    params = {"code": "abc", "options": {"thresholds": [0.001, 0.01]}, "long": "x" * 900}
    metrics = {"error": {"max": 1e-7}, "undefined": float("nan"), "rule": "topk"}
    first = write_finished(0)
    second = write_finished(1, params=params, metrics=metrics, seeds={"masking.seed": 0}, peak_gpu_memory_mb=2.5)
    brought = track()
    assert (brought.logged, brought.logged_before) == (2, 0)
    assert list(brought.listing["records"]) == [str(first), str(second)]
    run, parent = run_of(1), stored()["parent"]
    assert brought.listing["records"][str(second)] == {"run_id": run.info.run_id, "digest": sha(second)}
    tags = run.data.tags
    assert tags["mlflow.parentRunId"] == parent.info.run_id == brought.listing["parents"]["without invocation"]
    assert (tags["checkpoint"], tags["stage"], tags["record"]) == ("step-1", "utilization", str(second))
    assert tags["mlflow.source.git.commit"] == "f" * 40
    assert tags["audit"] == "make audit FILE=results/demo/m/step-1/mui.parquet"
    assert tags["attempt"] == "20260101T000000-00000001"
    assert tags["seeds"] == '{"masking.seed": 0}'
    assert run.data.params == {
        "code": "abc", "options.thresholds": "[0.001, 0.01]", "long": "x" * 499 + "…",
        "metric.undefined": "NaN", "metric.rule": "topk", "package.numpy": "2.1.0",
    }  # fmt: skip
    assert run.data.metrics == {
        "error.max": 1e-7, "job.seconds": 10.0, "job.recording_seconds": 0.5,
        "job.peak_memory_mb": 120.5, "job.peak_gpu_memory_mb": 2.5,
    }  # fmt: skip
    assert (run.info.end_time - run.info.start_time, run.info.status) == (10_000, "FINISHED")
    assert (parent.data.metrics["jobs"], parent.data.metrics["job_seconds"]) == (2.0, 20.0)


def test_a_list_is_one_metric_with_steps(project):
    write_finished(0, metrics={"per_layer": [0.5, 0.25, 0.125], "with_gap": [1.0, None]})
    track()
    run = run_of(0)
    history = MlflowClient(uri()).get_metric_history(run.info.run_id, "per_layer")
    assert {point.step: point.value for point in history} == {0: 0.5, 1: 0.25, 2: 0.125}
    assert run.data.params["metric.with_gap"] == "[1.0, null]"
    assert "with_gap" not in run.data.metrics


def test_a_record_of_the_first_version_is_read(project):
    late = {"attempt", "invocation", "status", "error", "seeds", "recording_seconds", "peak_gpu_memory_mb", "pid"}
    old = {key: value for key, value in record(0).items() if key not in late} | {"record_version": 1}
    write(RESULTS / "records/0.json", old)
    track()
    assert run_of(0).info.status == "FINISHED"


def test_artifacts_are_files_beside_the_store_and_what_is_left_out_is_said(project):
    folder = RESULTS / "m/step-0"
    outputs = {str(write(folder / name, name)): "" for name in ("t.parquet", "checkpoint.json", "model.safetensors")}
    outputs = {name: sha(Path(name)) for name in outputs}
    outputs[str(folder / "contributions.zarr")] = sha(write(folder / "contributions.zarr/manifest.json", "{}"))
    write(folder / "contributions.zarr/c0", "chunk")
    path = write_finished(0, outputs=outputs)
    brought = track()
    run = run_of(0)
    assert run.info.artifact_uri == f"mlflow-artifacts:/demo/{run.info.run_id}/artifacts"
    kept = project / "results/mlflow/artifacts/demo" / run.info.run_id / "artifacts"
    assert sorted(str(file.relative_to(kept)) for file in kept.rglob("*") if file.is_file()) == [
        "lineage.json",
        "log/0.log",
        "outputs/m/step-0/checkpoint.json",
        "outputs/m/step-0/contributions.zarr/manifest.json",
        "outputs/m/step-0/t.parquet",
        "record.json",
    ]
    assert (kept / "record.json").read_text() == path.read_text()
    (sentence,) = brought.left_out
    assert "results/demo/m/step-0/model.safetensors is no artifact of its run: not of the kinds" in sentence
    assert "model.safetensors: not of the kinds" in run.data.tags["moemui.left_out"]


def test_changed_lost_and_large_outputs_are_left_out_with_the_reason(project):
    path = Path("results/demo/m/step-0/mui.parquet")
    held = json.loads(write_finished(0).read_text())
    write(path, "other")
    assert artifacts(held, "demo")[1][str(path)] == "changed since the job wrote it"
    path.unlink()
    assert artifacts(held, "demo")[1][str(path)] == "no longer there"
    path.parent.rmdir()
    write(path.parent, "a file where a folder was")
    assert artifacts(held, "demo")[1][str(path)] == "no longer there"
    path.parent.unlink()
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(20 * 2**20 + 1)
    held["outputs"][str(path)] = sha(path)
    assert artifacts(held, "demo")[1][str(path)] == "larger than 20 MiB"


def test_files_that_vanish_while_they_are_tracked_are_left_out_and_all_else_is_logged(project, monkeypatch):
    from _tracking import run_contents

    real, tables = run_contents.digest, [RESULTS / f"m/step-{number}/mui.parquet" for number in (0, 1)]

    def vanishing(path):
        found = real(path) if path != tables[0] else path.unlink() or real(path)
        if path == tables[1]:
            path.unlink()
        return found

    monkeypatch.setattr(run_contents, "digest", vanishing)  # one goes before it is compared, one before it is copied
    records = [write_finished(number) for number in (0, 1, 2)]
    brought = track()
    assert brought.logged == 3
    assert brought.left_out == [
        f"{record}: {table} is no artifact of its run: no longer there"
        for record, table in zip(records[:2], tables, strict=True)
    ]
    runs = stored()
    assert [runs[f"utilization m step-{number}"].data.tags.get("moemui.left_out") for number in (0, 1, 2)] == [
        *(f"{table}: no longer there" for table in tables), None,
    ]  # fmt: skip
    assert track().logged == 0


def test_a_huge_log_is_left_out(project):
    held = json.loads(write_finished(0).read_text())
    os.truncate(held["log"], 20 * 2**20 + 1)
    chosen, left_out = artifacts(held, "demo")
    assert list(chosen) == ["outputs/m/step-0/mui.parquet"]
    assert left_out == {held["log"]: "larger than 20 MiB"}


def test_files_of_a_folder_without_manifest_are_kept_but_for_those_that_belong_to_weights(project):
    from _provenance.records import digest

    folder = write(RESULTS / "figures/layers.svg", "<svg/>").parent
    write(folder / "config.json", "{}")
    log = {"log": "none.log"}
    chosen, left_out = artifacts({"outputs": {str(folder): digest(folder)}, **log}, "demo")
    assert chosen == {"outputs/figures/layers.svg": folder / "layers.svg"}
    assert left_out[str(folder)].startswith("1 files not of the kinds .csv")


def test_logging_again_adds_nothing_and_a_new_record_only_itself(project, monkeypatch):
    monkeypatch.setattr(store, "PAGE", 2)
    for number in range(4):
        write_finished(number, invocation="i-1")
    before = track().listing["records"]
    again = track()
    assert (again.logged, again.logged_before) == (0, 4)
    assert again.listing["records"] == before
    write_finished(4, invocation="i-1")
    assert track().logged == 1
    # A job that ran again is another run; the former one stays.
    first = run_of(2).info.run_id
    write_finished(2, invocation="i-1", metrics={"cells": 7})
    assert track().logged == 1
    client = MlflowClient(uri())
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id], "tags.checkpoint = 'step-2'")
    assert {run.data.metrics["cells"] for run in runs} == {2.0, 7.0}
    assert first in {run.info.run_id for run in runs}


def test_a_failed_job_is_a_failed_run_with_its_error_and_its_log(project):
    path = write_failed(3)
    listing = track().listing
    run = run_of(3)
    assert listing["records"][str(path)]["run_id"] == run.info.run_id
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "no room left")
    assert "no room left" in run.data.tags["mlflow.note.content"]
    log = project / f"results/mlflow/artifacts/demo/{run.info.run_id}/artifacts/log/first.log"
    assert log.read_text() == "Traceback"
    assert track().logged == 0


def process() -> tuple[subprocess.Popen, dict]:
    """A process that sleeps, and how a record names it."""
    sleeping = subprocess.Popen(["sleep", "600"])
    return sleeping, {"pid": sleeping.pid, "process_started": psutil.Process(sleeping.pid).create_time()}


def test_a_killed_job_is_a_killed_run_once_its_process_is_gone(project):
    job, who = process()
    write(RESULTS / "logs/5.log", "at work")
    write(RESULTS / "running/5/second.json", record(5, status="running", ended=None, attempt="second", **who))
    assert track().logged == 0
    job.kill()
    job.wait()
    assert track().logged == 1
    run = run_of(5)
    assert run.info.status == "KILLED"
    assert "its process was gone" in run.data.tags["error"]
    assert track().logged == 0


def test_the_parent_of_an_invocation_grows_with_it_and_ends_with_it(project):
    snakemake, who = process()
    at_work, whose = process()
    file = write_invocation("i-1", status="running", ended=None, **who)
    write_finished(0, invocation="i-1")
    write(RESULTS / "running/9/a.json", record(9, status="running", ended=None, invocation="i-1", **whose))
    track()
    parent = stored()["i-1"]
    assert parent.info.status == "RUNNING"
    assert parent.data.tags["command"] == "snakemake --cores 2"
    wanted = {"jobs": 1, "jobs.finished": 1, "jobs.failed": 0, "jobs.killed": 0, "jobs.running": 1, "job_seconds": 10}
    assert parent.data.metrics == wanted
    for sleeping in (at_work, snakemake):
        sleeping.kill()
        sleeping.wait()
    write_finished(1, invocation="i-1")
    write_failed(2, invocation="i-1")
    track()
    parent = stored()["i-1"]
    assert parent.info.status == "KILLED"  # it never said that it had ended
    assert parent.data.metrics | {"job_seconds": 0} == {
        "jobs": 4, "jobs.finished": 2, "jobs.failed": 1, "jobs.killed": 1, "jobs.running": 0, "job_seconds": 0,
    }  # fmt: skip
    runs = stored()
    assert {run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name != "i-1"} == {
        parent.info.run_id
    }
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"status": "failed", "ended": "2026-01-01T02:00:00+00:00"})
    )
    track()
    parent = stored()["i-1"]
    assert (parent.info.status, parent.info.end_time - parent.info.start_time) == ("FAILED", 2 * 3600 * 1000)


def test_a_job_of_another_machine_with_the_number_of_this_process_is_at_work(project):
    write_invocation("i-1", status="running", ended=None, host="elsewhere")
    for host in (platform.node(), "elsewhere"):
        who = {"host": host, "pid": os.getpid(), "process_started": psutil.Process().create_time()}
        write(RESULTS / f"running/{host}/a.json", record(1, status="running", ended=None, invocation="i-1", **who))
    track()
    assert stored()["i-1"].data.metrics["jobs.running"] == 1


def test_the_last_job_ends_its_own_invocation_and_no_other(project, monkeypatch):
    snakemake, who = process()
    monkeypatch.setenv(INVOCATION, "i-2")
    for key in ("i-1", "i-2"):
        write_invocation(key, status="running", ended=None, **who)
        write_finished(int(key[-1]), invocation=key)
    track(last=True)
    assert {key: stored()[key].info.status for key in ("i-1", "i-2")} == {"i-1": "RUNNING", "i-2": "FINISHED"}
    snakemake.kill()
    snakemake.wait()


def test_lineage_leads_to_runs_commit_and_task_data_and_back(project):
    manifest = write(RESULTS / "m/step-0/checkpoint.json", {"repo": "a/b", "commit": "c" * 40})
    prompts = write(RESULTS / "task_data/sorting.jsonl", "{}")
    given = write(Path("data/fixed.jsonl"), "{}")
    made = {name: write(RESULTS / f"m/{name}", name) for name in ("responses.jsonl", "mui.parquet")}
    digests = {str(path): sha(path) for path in (manifest, prompts, given, *made.values())}

    def job(number: int, stage: str, outputs: list[Path], inputs: list[Path], **more) -> None:
        write_finished(
            number, stage=stage, wildcards={}, inputs={str(p): digests[str(p)] for p in inputs},
            outputs={str(p): digests[str(p)] for p in outputs}, **more,
        )  # fmt: skip

    job(0, "checkpoint", [manifest], [])
    job(1, "task_data", [prompts], [])
    tasks = {"params": {"tasks": {"fixed": {"responses": str(given)}}}, "metrics": {"task_data": {"gsm8k": "9" * 64}}}
    job(2, "responses", [made["responses.jsonl"]], [manifest, prompts, given], **tasks)
    job(3, "utilization", [made["mui.parquet"]], [made["responses.jsonl"]])
    write_finished(4, stage="stale", wildcards={}, inputs={str(made["mui.parquet"]): "0" * 64})
    track()
    runs = stored()
    ids = {name: run.info.run_id for name, run in runs.items()}
    tags = {name: run.data.tags for name, run in runs.items()}
    assert set(tags["responses"]["lineage.made_from"].split(", ")) == {ids["checkpoint"], ids["task_data"]}
    assert tags["utilization"]["lineage.made_from"] == ids["responses"]
    assert tags["responses"]["lineage.used_by"] == ids["utilization"]
    assert "lineage.used_by" not in tags["utilization"]
    assert f"/runs/{ids['responses']})" in tags["utilization"]["mlflow.note.content"]
    data = {"fixed": digests[str(given)], "gsm8k": "9" * 64, "sorting": digests[str(prompts)]}
    weights = {"m/step-0": {"manifest_sha256": digests[str(manifest)], "repo": "a/b", "commit": "c" * 40}}
    assert json.loads(tags["utilization"]["lineage.task_data"]) == data
    assert json.loads(tags["utilization"]["lineage.checkpoints"]) == weights
    for name in ("responses", "utilization"):
        datasets = {(d.dataset.name, d.dataset.digest): d.dataset for d in runs[name].inputs.dataset_inputs}
        assert set(datasets) == {(task, sha256[:36]) for task, sha256 in data.items()} | {("m/step-0", "c" * 36)}
        assert json.loads(datasets["m/step-0", "c" * 36].source) == weights["m/step-0"]
    lineage = project / f"results/mlflow/artifacts/demo/{ids['stale']}/artifacts/lineage.json"
    # The record that is there now is not that of the job that made this input.
    made_by = json.loads(lineage.read_text())["inputs"][str(made["mui.parquet"])]
    assert made_by == {"sha256": "0" * 64, "record": None, "run_id": None}


def test_no_secret_reaches_the_store(project, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    secret = "before hf_abcdefghijklmnop after"
    table = write(RESULTS / "m/t.csv", secret)
    write_finished(0, params={"said": secret, "long": "x" * 490 + "hf_abcdefghijklmnop"}, metrics={"text": secret},
                   outputs={str(table): sha(table)})  # fmt: skip
    write(RESULTS / "logs/0.log", secret)
    write_failed(1, error=secret)
    write_invocation("i-1", command=["snakemake", secret], status="failed")
    track()
    files = [file for file in (project / "results/mlflow").rglob("*") if file.is_file()]
    assert not [file for file in files if b"hf_abcdef" in file.read_bytes()]
    assert run_of(0).data.params["said"] == "before [HF_TOKEN] after"
    kept = project / f"results/mlflow/artifacts/demo/{run_of(0).info.run_id}/artifacts"
    assert (kept / "outputs/m/t.csv").read_text() == (kept / "log/0.log").read_text() == "before [HF_TOKEN] after"


def test_a_moved_project_keeps_its_runs(project, tmp_path_factory, monkeypatch):
    write_finished(0)
    before = track().listing["records"]
    moved = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.move(project, moved)
    monkeypatch.chdir(moved)
    again = track()
    assert (again.logged, again.listing["records"]) == (0, before)


def test_a_half_logged_run_of_another_version_is_begun_anew(project):
    path = write_finished(0)
    store = Store(uri(), "demo")
    half = store.begin("half", 0, {DIGEST_TAG: sha(path)})
    store._client.log_param(half.run_id, "options.eos", "as an older version wrote it")
    track()
    assert run_of(0).info.run_id != half.run_id
    assert run_of(0).data.params["options.eos"] == "exclude"


def test_what_two_machines_logged_twice_is_made_one_and_orphans_end(project):
    path = write_finished(0, invocation="i-1")
    store = Store(uri(), "demo")
    parents = [store.begin("parent", n, {"moemui.study": "demo", "moemui.invocation": "i-1"}) for n in (1, 2)]
    twins = [store.begin("twin", 1, {DIGEST_TAG: sha(path)}, parent.run_id) for parent in parents]
    store.end(twins[1], "FINISHED", 2)
    orphan = store.begin("orphan", 0, {DIGEST_TAG: "of a record that a later job replaced"})
    assert track().logged == 0
    runs = stored()
    assert set(runs) == {"i-1", "twin", "orphan"}
    assert runs["twin"].info.run_id == twins[1].run_id  # the whole one
    assert runs["twin"].data.tags["mlflow.parentRunId"] == runs["i-1"].info.run_id == parents[0].run_id
    assert MlflowClient(uri()).get_run(orphan.run_id).info.status == "KILLED"


def program(code: str, *words: str, **options) -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'scripts'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


KILLED_AT_WORK = """
import os, signal, sys
from pathlib import Path
from _tracking.runs import bring_in
from _tracking.store import Store
ended, end = [], Store.end

def deadly(store, run, status, at):
    ended.append(run)
    if len(ended) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    end(store, run, status, at)

Store.end = deadly
bring_in(Path("results/demo"), sys.argv[1], "demo", progress=lambda done, total: None)
"""


def test_after_a_killed_tracker_the_next_one_goes_on(project):
    for number in range(5):
        write_finished(number)
    tracker = program(KILLED_AT_WORK, uri())
    said, _ = tracker.communicate()
    assert tracker.returncode == -9, said
    cut_off = {name: run.info.run_id for name, run in stored().items() if run.info.status == "RUNNING"}
    assert set(cut_off) == {"parent", "utilization m step-2"}
    brought = track()
    assert (brought.logged, brought.logged_before) == (3, 2)
    runs = stored()
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {name: runs[name].info.run_id for name in cut_off} == cut_off
    assert runs["parent"].data.metrics["jobs"] == 5
    assert all(run.data.metrics["cells"] == int(name[-1]) for name, run in runs.items() if name != "parent")


AT_ONCE = """
import os, sys, traceback
from pathlib import Path
from _tracking.runs import bring_in

def work(study):
    try:
        bring_in(Path("results") / study, "sqlite:///results/mlflow/mlflow.db", study, progress=lambda *_: None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

go, start = os.pipe()
trackers = []
for study in ("demo", "other") * 4:
    trackers.append(os.fork())
    if not trackers[-1]:
        os.close(start)
        os.read(go, 1)  # all begin at once
        os._exit(work(study))
os.close(start)
sys.exit(sum(os.waitpid(tracker, 0)[1] != 0 for tracker in trackers))
"""


@pytest.mark.slow
def test_eight_trackers_on_a_store_that_does_not_exist_yet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        write_finished(number)
    shutil.copytree(RESULTS, "results/other")
    trackers = program(AT_ONCE)
    said, _ = trackers.communicate()
    assert trackers.returncode == 0, said
    for study in ("demo", "other"):
        runs = stored(study)  # fails where one is there twice
        assert set(runs) == {"parent", *(f"utilization m step-{number}" for number in range(6))}
        assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("file:mlruns", r"tracking.uri is 'file:mlruns'; allowed are sqlite:///"),
        ("sqlite:///", "allowed are"),
        ("http://me:geheim@server:5000", "write http://server:5000 and set MLFLOW_TRACKING_USERNAME"),
        ("ftp://me:geheim@server", "tracking.uri is 'ftp://…@server'"),
    ],
)
def test_other_addresses_and_passwords_in_them_are_refused(address, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        sqlite_file(address)
    assert "geheim" not in str(refused.value)


COMMAND = typer.Typer()
COMMAND.command()(track_command.main)


def call(*words: str):
    return CliRunner().invoke(COMMAND, words)


def test_an_unreadable_record_is_named_and_all_others_are_logged(project):
    write_finished(0)
    broken = write(RESULTS / "records/1.json", '{"record_version": 2, "sta')
    write(RESULTS / "records/2.json", "[]")
    said: list[str] = []
    brought = track(say=said.append)
    assert brought.logged == 1
    assert set(brought.listing["unreadable"]) == {str(broken), "results/demo/records/2.json"}
    assert all(any(name in sentence for sentence in said) for name in brought.listing["unreadable"])
    asked = call("--results", "results/demo")
    assert asked.exit_code == 1
    assert f"{broken} is no run record" in asked.stderr
    assert "demo: 0 runs logged, 1 were there before, 2 unreadable records" in asked.stdout


def test_the_command_finds_the_store_of_the_study_and_says_what_is_wrong_in_its_call(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    write_finished(0)
    write_invocation("i-1", tracking_uri="http://127.0.0.1:9")
    down = call("--results", str(project / "results/demo"))
    assert down.exit_code == 1
    assert "the MLflow server http://127.0.0.1:9 is not there (connection refused)" in down.stderr
    assert "nothing is lost" in down.stderr
    assert "`make track`" in down.stderr
    assert "Traceback" not in down.stderr
    for words, sentence in (
        (("--results", "results/demo", "--config", "results/demo/records/0.json"), "not both"),
        (("--results", "results/demo", "--uri", "file:x"), "allowed are"),
        (("--results", "results/none"), "does not exist"),
    ):
        wrong = call(*words)
        assert (wrong.exit_code, sentence in wrong.stderr) == (2, True), wrong.stderr


@pytest.mark.parametrize("linked", ["results", "results/demo"])
def test_the_command_finds_the_project_around_results_on_another_disk(project, tmp_path_factory, linked):
    path = write_finished(0)
    disk = tmp_path_factory.mktemp("disk") / "elsewhere"
    Path(linked).rename(disk)
    Path(linked).symlink_to(disk)
    assert call("--results", "results/demo", "--uri", uri()).exit_code == 0
    assert Path.cwd() == project
    run = run_of(0)
    kept = Path("results/mlflow/artifacts/demo") / run.info.run_id / "artifacts/outputs/m/step-0/mui.parquet"
    assert (run.data.tags["record"], kept.read_text()) == (str(path), "table 0")


def overwrite(database: Path) -> None:
    database.write_text("no database " * 1000)


def overwrite_pages(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (database.stat().st_size - 4096))


@pytest.mark.parametrize("damage", [overwrite, overwrite_pages])
def test_a_damaged_store_is_told_in_one_sentence(project, damage):
    write_finished(0)
    damage(Path("results/mlflow/mlflow.db"))
    broken = call("--results", "results/demo", "--uri", uri())
    assert broken.exit_code == 1, broken.exception
    assert f"the MLflow store {uri()} is damaged (move its file away" in broken.stderr.splitlines()[-1]
    assert "nothing is lost" in broken.stderr


def test_times_are_those_of_the_record(project):
    started = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    write_finished(0, started=started.isoformat(), ended=started.isoformat())
    track()
    assert run_of(0).info.start_time == run_of(0).info.end_time == started.timestamp() * 1000
