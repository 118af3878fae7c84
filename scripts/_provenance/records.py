"""Run records: what every attempt of a job leaves behind, and how to read it.

Below a study's results folder, where NAME is for instance tiny-olmoe/step-50/responses_synthetic:

    records/NAME.json             the job that made what lies there now; an output of its rule
    failures/NAME/ATTEMPT.json    an attempt that failed or was killed, its log beside it; Snakemake doesn't know these
    running/NAME/ATTEMPT.json     an attempt at work, touched as long as it lives, or a killed one not settled yet
    invocations/INVOCATION.json   a call of Snakemake, which many jobs belong to

`attempt` writes the first three, `invocation` the last; tracking, audit, plan and report read them. A record's keys:

    record_version, attempt, invocation, status (finished, failed, killed, running), error (one sentence or null),
    stage, wildcards, params, seeds (those among params, by dotted path), metrics,
    inputs and outputs ({path: SHA-256, null where an input of a failed job is gone}), log (path),
    started, ended, seconds, recording_seconds (of them for digests), peak_memory_mb, peak_gpu_memory_mb (null without),
    host, pid, process_started, python, packages, git (commit and dirty; null where the code is in no repository)
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from _provenance.secrets import scrub

RECORD_VERSION = 2
HEARTBEAT, SILENCE = 30.0, 300.0  # seconds between signs of life; without one, after which a process counts as dead
RECORDS, FAILURES, RUNNING, INVOCATIONS = "records", "failures", "running", "invocations"
NEEDED = {"stage", "started", "inputs", "outputs"}  # without them nobody can read on
# What version 1 did not have.
LATER: dict[str, Any] = {
    "invocation": None, "status": "finished", "error": None, "seeds": {}, "recording_seconds": 0.0,
    "peak_gpu_memory_mb": None, "pid": None, "process_started": None,
}  # fmt: skip


class Records(NamedTuple):
    """Records by the file they stand in, and what is wrong with each file that holds none."""

    read: dict[Path, dict[str, Any]]
    unreadable: dict[Path, str]


class Place(NamedTuple):
    """Where the attempts of one job leave their records: the study's results folder, and the job's NAME."""

    results: Path
    name: str

    @classmethod
    def of(cls, record: Path, log: Path) -> Place:
        """The place of the job that writes `record`, in RESULTS/records/, and `log`, in RESULTS/logs/."""
        results = Path(os.path.commonpath([record, log]))
        return cls(results, record.relative_to(results / RECORDS).with_suffix("").as_posix())

    @property
    def record(self) -> Path:
        """Of the attempt that finished."""
        return self.results / RECORDS / f"{self.name}.json"

    def marker(self, attempt: str) -> Path:
        """Of an attempt at work."""
        return self.results / RUNNING / self.name / f"{attempt}.json"

    def failure(self, attempt: str) -> Path:
        """Of an attempt that failed."""
        return self.results / FAILURES / self.name / f"{attempt}.json"


def new_id() -> str:
    """An id that sorts by time and is nobody else's, also on another machine."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, over its files' names and digests, or its manifest where it has one."""
    if path.is_dir():
        manifest = path / "manifest.json"
        if manifest.is_file():
            return digest(manifest)
        files = sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith("."))
        return hashlib.sha256("".join(f"{f.relative_to(path)} {digest(f)}\n" for f in files).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """A record of this version or an older one, lacking keys filled in. Raises ValueError for any other file."""
    try:
        record = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no run record ({error}); delete it, so that its job runs again") from error
    version = record.get("record_version") if isinstance(record, dict) else None
    if not isinstance(version, int):
        raise ValueError(f"{path} is no run record: it has no record_version; delete it, so that its job runs again")
    if version > RECORD_VERSION:
        raise ValueError(
            f"{path} has record version {version}, this code reads up to {RECORD_VERSION}; update the code"
        )
    if lacking := NEEDED - set(record):
        raise ValueError(
            f"{path} is no run record: it lacks {', '.join(sorted(lacking))}; delete it, so that its job runs again"
        )
    # Attempts had no id: one job, one start is as good as one.
    attempt = f"{record['started']}-{record['stage']}" if "attempt" not in record else record["attempt"]
    return {**LATER, **record, "attempt": attempt}


def records(results: Path) -> Records:
    """The records of all jobs that finished; none where there is no such folder."""
    return _all(results / RECORDS)


def failures(results: Path) -> Records:
    """The records of all attempts that failed or were killed, as far as they are settled."""
    return _all(results / FAILURES)


def running(results: Path, name: str = "") -> Records:
    """The records of the attempts at work, and of killed ones that are not settled yet; of one job by its NAME."""
    return _all(results / RUNNING / name)


def producers(found: Mapping[Path, Mapping[str, Any]]) -> dict[str, Path]:
    """For the path of every output, as the record writes it, the record of the job that made it last."""
    by_time = sorted(found, key=lambda path: found[path]["started"])
    return {output: path for path in by_time for output in found[path]["outputs"]}


def maker(path: Path, results: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record, and where it is, of the job that made an output below `results` last; None where none says so.

    Looks only where a job that writes there can have its record: in the folders of records on the way to the output.
    """
    if not path.is_relative_to(results):
        return None
    found = [
        one
        for folder in path.relative_to(results).parents
        for one in _records_in(results / RECORDS / folder)
        if str(path) in one[1]["outputs"]
    ]
    # A suite of another name leaves the record of the old one behind.
    return max(found, key=lambda one: one[1]["started"], default=None)


@cache
def _records_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted(folder.glob("*.json")):
        with suppress(ValueError):  # tracking and audit name it
            found.append((path, read_record(path)))
    return found


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """JSON that appears under its name whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{uuid.uuid4().hex[:8]}-{path.name}")  # two may write the same at a time
    try:
        part.write_text(json.dumps(content, indent=1))
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def is_alive(path: Path, marker: Mapping[str, Any], silence: float = SILENCE) -> bool:
    """Whether the process of a marker still runs; on another machine, whether it gave a sign of life not long ago.

    A marker that is gone is that of an attempt that has just ended.
    """
    if marker["host"] == platform.node():
        return path.exists() and is_running(marker)
    try:
        return time.time() - path.stat().st_mtime < silence
    except FileNotFoundError:
        return False


def is_running(process: Mapping[str, Any]) -> bool:
    """Whether a process of this machine runs, known by `pid` and `process_started`: numbers are given out again."""
    try:
        found = psutil.Process(process["pid"])
        # One that is dead and that its parent never asked about, as in a container without an init, is still listed.
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - process["process_started"]) < 1
    except psutil.NoSuchProcess:
        return False


def settle(results: Path) -> list[Path]:
    """Make a failure record of every marker whose process is gone; returns the new records."""
    found = [
        settle_marker(results, path, marker)
        for path, marker in running(results).read.items()
        # A workflow ends when its jobs have, so what has been silent since is dead.
        if not is_alive(path, marker, 2 * HEARTBEAT if _has_ended(results, marker["invocation"]) else SILENCE)
    ]
    return [failure for failure in found if failure is not None]


def _has_ended(results: Path, invocation: str | None) -> bool:
    try:
        return json.loads((results / INVOCATIONS / f"{invocation}.json").read_text())["status"] != "running"
    except (OSError, ValueError, KeyError, TypeError):  # none was written, so nobody knows
        return False


def settle_marker(results: Path, path: Path, marker: Mapping[str, Any]) -> Path | None:
    """Make a failure record of the marker of an attempt that is known to be dead; None where it had ended by itself."""
    place = Place(results, path.parent.relative_to(results / RUNNING).as_posix())
    failure = place.failure(marker["attempt"])
    finished = place.record.is_file() and marker["attempt"] in place.record.read_text(errors="replace")
    if finished or failure.is_file() or not path.exists():
        path.unlink(missing_ok=True)
        return None
    started = datetime.fromisoformat(marker["started"])
    signs = [_last_sign(Path(marker["log"])), _last_sign(path), started]
    ended = max(sign for sign in signs if sign is not None)
    killed = {"status": "killed", "ended": ended.isoformat(), "seconds": (ended - started).total_seconds()}
    error = "its process was gone before the job had ended: it was killed, or memory ran out"
    write_failure(failure, {**marker, **killed, "error": error})
    path.unlink(missing_ok=True)
    return failure


def _last_sign(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return None


def write_failure(path: Path, record: Mapping[str, Any]) -> None:
    """A failure record, and beside it the log, which the next attempt writes anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = Path(record["log"])
    if log.is_file():
        scrub(log)  # nobody did where the process was killed
        kept = path.with_suffix(".log")
        shutil.copyfile(log, kept)
        record = {**record, "log": str(kept)}
    write_whole(path, record)


def _all(folder: Path) -> Records:
    read, unreadable = {}, {}
    for path in sorted(folder.rglob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            read[path] = read_record(path)
        except ValueError as error:
            unreadable[path] = str(error)
    return Records(read, unreadable)
