"""Run records: what is read, who made what, and when an attempt that left no record is known to be dead."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from workflow.conftest import ROOT

from _provenance.records import (
    SILENCE,
    Place,
    digest,
    failures,
    is_running,
    maker,
    new_id,
    producers,
    read_record,
    records,
    running,
    settle,
    write_whole,
)
from _provenance.secrets import redact_command

RESULTS = Path("results/own")
NOBODY = 2**22 + 1  # no process has this number on Linux


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: Path, **changes) -> Path:
    record = {
        "record_version": 2, "attempt": new_id(), "invocation": None, "status": "running", "stage": "work",
        "inputs": {}, "outputs": {}, "log": "results/own/logs/work.log", "started": "2026-01-01T00:00:00+00:00",
        "host": platform.node(), "pid": os.getpid(), "process_started": psutil.Process().create_time(),
    } | changes  # fmt: skip
    write_whole(path, record)
    return path


def marker(name: str, **changes) -> Path:
    attempt = new_id()
    return write(RESULTS / "running" / name / f"{attempt}.json", attempt=attempt, **changes)


def test_a_place_is_found_from_where_record_and_log_lie():
    place = Place.of(
        Path("/records/results/own/records/m/records/x.json"), Path("/records/results/own/logs/m/records/x.log")
    )
    assert place == (Path("/records/results/own"), "m/records/x")
    assert place.record == Path("/records/results/own/records/m/records/x.json")
    assert place.failure("7") == Path("/records/results/own/failures/m/records/x/7.json")


def test_ids_sort_by_time_and_differ():
    first = new_id()
    time.sleep(1.1)
    ids = [new_id() for _ in range(100)]
    assert len({first, *ids}) == 101
    assert first < min(ids)


def test_a_folder_is_known_by_its_manifest_else_by_its_files():
    folder = Path("folder")
    (folder / "in").mkdir(parents=True)
    (folder / "in/a").write_text("a")
    before = digest(folder)
    (folder / ".hidden").write_text("stamp")
    assert digest(folder) == before
    (folder / "in/a").rename(folder / "in/b")
    assert digest(folder) != before
    (folder / "manifest.json").write_text("{}")
    assert digest(folder) == digest(folder / "manifest.json")


def test_records_of_both_versions_are_read_and_what_is_none_is_named():
    write(RESULTS / "records/a/new.json", status="finished")
    old = {"record_version": 1, "stage": "old", "started": "2026-01-01T00:00:00+00:00", "inputs": {}, "outputs": {}}
    write_whole(RESULTS / "records/old.json", old)
    write_whole(RESULTS / "records/later.json", {**old, "record_version": 3})
    (RESULTS / "records/cut.json").write_text(json.dumps(old)[:20])
    (RESULTS / "records/list.json").write_text("[]")
    (RESULTS / "records/lacking.json").write_text('{"record_version": 2, "stage": "x"}')
    (RESULTS / "records/bytes.json").write_bytes(b"\xff\xfe")
    read, unreadable = records(RESULTS)
    assert [path.stem for path in read] == ["new", "old"]
    assert (read[RESULTS / "records/old.json"]["status"], read[RESULTS / "records/old.json"]["seeds"]) == (
        "finished",
        {},
    )
    assert {path.stem for path in unreadable} == {"bytes", "cut", "lacking", "later", "list"}
    assert all(str(path) in reason for path, reason in unreadable.items())
    with pytest.raises(ValueError, match=r"has record version 3, this code reads up to 2"):
        read_record(RESULTS / "records/later.json")
    assert records(Path("nowhere")) == ({}, {})


def test_the_last_job_that_wrote_a_file_is_its_producer():
    first = write(RESULTS / "records/first.json", outputs={"x": "1", "y": "1"})
    last = write(RESULTS / "records/a_last.json", outputs={"x": "2"}, started="2026-01-02T00:00:00+00:00")
    assert producers(records(RESULTS).read) == {"x": last, "y": first}


def test_the_maker_of_a_file_is_found_on_the_way_to_it():
    table, sets = RESULTS / "tables/mui.parquet", RESULTS / "m/step-1/sorting/key_neurons.h5"
    gathered = write(RESULTS / "records/tables/mui.json", outputs={str(table): "1"})
    chosen = write(RESULTS / "records/m/step-1/key_neurons.json", outputs={str(sets): "2"})
    (RESULTS / "records/m/cut.json").write_text("{")
    earlier = {"outputs": {str(table): "0"}, "started": "2025-01-01T00:00:00+00:00"}
    write(RESULTS / "records/tables/a_suite_of_another_name.json", **earlier)
    assert maker(table, RESULTS)[0] == gathered
    assert maker(sets, RESULTS)[0] == chosen
    assert maker(RESULTS / "m/step-1/other.h5", RESULTS) is None
    assert maker(Path("config/tasks/sorting.yaml"), RESULTS) is None


def test_only_dead_attempts_are_settled():
    log = RESULTS / "logs/work.log"
    log.parent.mkdir(parents=True)
    log.write_text("said")
    alive = marker("alive")
    dead = marker("dead", pid=NOBODY)
    reused = marker("reused", process_started=1.0)  # the number belongs to another process now
    elsewhere = marker("elsewhere", host="another")
    silent = marker("silent", host="another")
    os.utime(silent, (time.time() - SILENCE - 1,) * 2)
    # Two minutes of silence are much where the workflow has ended, and little where it goes on.
    ended, going_on = (marker(name, host="another", invocation=name) for name in ("ended", "going-on"))
    for path, status in ((ended, "failed"), (going_on, "running")):
        os.utime(path, (time.time() - 120,) * 2)
        write_whole(RESULTS / f"invocations/{path.parent.name}.json", {"status": status})
    settled = settle(RESULTS)
    assert sorted(path.parent.name for path in settled) == ["dead", "ended", "reused", "silent"]
    assert set(running(RESULTS).read) == {alive, elsewhere, going_on}
    found = failures(RESULTS).read
    assert {record["status"] for record in found.values()} == {"killed"}
    assert [Path(record["log"]).read_text() for record in found.values()] == ["said"] * 4
    assert all(record["ended"] >= record["started"] for record in found.values())
    assert not any(path.exists() for path in (dead, ended, reused, silent))
    assert settle(RESULTS) == []


def test_an_attempt_killed_after_its_record_appeared_has_finished():
    path = marker("work", pid=NOBODY)
    write(RESULTS / "records/work.json", attempt=path.stem, status="finished")
    assert settle(RESULTS) == []
    assert not path.exists()
    assert failures(RESULTS) == ({}, {})


def test_a_failure_that_was_told_is_never_told_again_as_a_kill():
    path = marker("work", pid=NOBODY)
    told = write(RESULTS / f"failures/work/{path.stem}.json", status="failed", error="the reason")
    before = told.read_bytes()
    assert settle(RESULTS) == []
    assert told.read_bytes() == before
    assert not path.exists()


def test_a_dead_process_that_nobody_asked_about_does_not_run():
    child = os.fork()
    if child == 0:
        os._exit(0)
    process = psutil.Process(child)
    known = {"host": platform.node(), "pid": child, "process_started": process.create_time()}
    while process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert not is_running(known)
    os.waitpid(child, 0)
    assert not is_running(known)
    assert is_running({**known, "pid": os.getpid(), "process_started": psutil.Process().create_time()})


WRITER = """
import sys
from pathlib import Path
from _provenance.records import write_whole

for number in range(300):
    write_whole(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number})
"""


def test_two_writers_of_one_file_never_leave_a_mixture():
    path = RESULTS / "running/work/x.json"
    command = [sys.executable, "-c", WRITER, str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    writers = [subprocess.Popen([*command, name], env=env) for name in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert set(json.loads(path.read_text())) == {"writer", "number"}
    assert [writer.returncode for writer in writers] == [0, 0]
    assert json.loads(path.read_text())["number"] == 299
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--storage-s3-secret-key", "wJalrXUt"], ["--storage-s3-secret-key", "[storage-s3-secret-key]"]),
        (["--storage-s3-access-key=AKIA1", "all"], ["--storage-s3-access-key=[storage-s3-access-key]", "all"]),
        (["--some-token", "--cores", "2"], ["--some-token", "--cores", "2"]),
        (["snakemake", "--configfile", "config/key.yaml"], ["snakemake", "--configfile", "config/key.yaml"]),
    ],
)
def test_secrets_among_the_options_of_a_command_are_hidden(given, shown):
    assert redact_command(given) == shown
