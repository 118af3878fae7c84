"""Records as jobs leave them, with outputs, for a made-up study in the current folder."""

from __future__ import annotations

import hashlib
import json
import platform
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

RESULTS = Path("results/demo")
BEGIN = datetime.fromisoformat("2026-01-01T00:00:00+00:00")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(number: int, **changes: Any) -> dict[str, Any]:
    """What a record holds: job `number` ran ten seconds, from `number` minutes past midnight."""
    started = BEGIN + timedelta(minutes=number)
    return {
        "record_version": 2,
        "attempt": f"20260101T000000-{number:08x}",
        "invocation": None,
        "status": "finished",
        "error": None,
        "stage": "utilization",
        "wildcards": {"model": "m", "checkpoint": f"step-{number}"},
        "params": {"code": "abc", "options": {"eos": "exclude", "thresholds": [0.001, 0.01]}},
        "seeds": {},
        "metrics": {"cells": number},
        "inputs": {},
        "outputs": {},
        "started": started.isoformat(),
        "ended": (started + timedelta(seconds=10)).isoformat(),
        "seconds": 10.0,
        "recording_seconds": 0.5,
        "peak_memory_mb": 120.5,
        "peak_gpu_memory_mb": None,
        "host": platform.node(),
        "pid": 1,
        "process_started": 0.0,
        "python": "3.11.7",
        "packages": {"numpy": "2.1.0"},
        "git": {"commit": "f" * 40, "dirty": False},
        "log": str(RESULTS / "logs" / f"{number}.log"),
    } | changes


def write(path: Path, content: Any) -> Path:
    """JSON, or a text, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_finished(number: int, **changes: Any) -> Path:
    """The record and the log of a job that finished, and a table as its output."""
    table = write(RESULTS / f"m/step-{number}/mui.parquet", f"table {number}")
    write(RESULTS / f"logs/{number}.log", f"job {number} said")
    return write(RESULTS / f"records/{number}.json", record(number, **{"outputs": {str(table): sha(table)}, **changes}))


def write_failed(number: int, **changes: Any) -> Path:
    """The record of an attempt that failed, with its log beside it."""
    folder = RESULTS / f"failures/{number}"
    log = write(folder / "first.log", "Traceback")
    failed = {"status": "failed", "error": "no room left", "log": str(log), "inputs": {"gone.json": None}}
    return write(folder / "first.json", record(number, **{**failed, **changes}))


def write_invocation(key: str, **changes: Any) -> Path:
    """A call of Snakemake that ended well."""
    content = {
        "invocation_version": 1,
        "invocation": key,
        "study": "demo",
        "started": BEGIN.isoformat(),
        "ended": (BEGIN + timedelta(hours=1)).isoformat(),
        "status": "finished",
        "command": ["snakemake", "--cores", "2"],
        "host": platform.node(),
        "pid": 1,
        "process_started": 0.0,
        "snakemake": "9.27.1",
        "git": {"commit": None, "dirty": None},
    } | changes
    return write(RESULTS / f"invocations/{key}.json", content)
