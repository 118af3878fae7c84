"""Run records: what is read, who made what, and when an attempt that left no record is known to be dead."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import psutil
import pytest

from _provenance.records import (
    SILENCE,
    Place,
    digest,
    failures,
    maker,
    new_id,
    producers,
    read_record,
    records,
    running,
    settle,
    write_whole,
)

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
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert len({len(name) for name in ids}) == 1


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
    old = {"record_version": 1, "stage": "old", "started": "2026-01-01T00:00:00+00:00", "outputs": {}}
    write_whole(RESULTS / "records/old.json", old)
    write_whole(RESULTS / "records/later.json", {**old, "record_version": 3})
    (RESULTS / "records/cut.json").write_text(json.dumps(old)[:20])
    (RESULTS / "records/list.json").write_text("[]")
    (RESULTS / "records/bytes.json").write_bytes(b"\xff\xfe")
    read, unreadable = records(RESULTS)
    assert [path.stem for path in read] == ["new", "old"]
    assert (read[RESULTS / "records/old.json"]["status"], read[RESULTS / "records/old.json"]["seeds"]) == (
        "finished",
        {},
    )
    assert {path.stem for path in unreadable} == {"bytes", "cut", "later", "list"}
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
    settled = settle(RESULTS)
    assert sorted(path.parent.name for path in settled) == ["dead", "reused", "silent"]
    assert set(running(RESULTS).read) == {alive, elsewhere}
    found = failures(RESULTS).read
    assert {record["status"] for record in found.values()} == {"killed"}
    assert [Path(record["log"]).read_text() for record in found.values()] == ["said"] * 3
    assert all(record["ended"] >= record["started"] for record in found.values())
    assert not any(path.exists() for path in (dead, reused, silent))
    assert settle(RESULTS) == []


def test_an_attempt_killed_after_its_record_appeared_has_finished():
    path = marker("work", pid=NOBODY)
    write(RESULTS / "records/work.json", attempt=path.stem, status="finished")
    assert settle(RESULTS) == []
    assert not path.exists()
    assert failures(RESULTS) == ({}, {})
