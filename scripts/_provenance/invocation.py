"""The call of Snakemake that jobs belong to: a file from its beginning to its end (see `_provenance.records`).

The Snakefile's handlers write it. Jobs know its id from the environment, tracking makes a parent run of it. A file that
still says "running" although its process is gone is that of a Snakemake that was killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from _provenance.attempt import INVOCATION, git
from _provenance.records import INVOCATIONS, failures, is_running, new_id, write_whole
from _provenance.secrets import redact_command

INVOCATION_VERSION = 1
TRACK = Path(__file__).resolve().parents[1] / "track.py"
NEEDED = {"invocation", "started", "ended", "status", "command", "host", "pid", "process_started", "snakemake"}
LONGEST = 600  # seconds that a failed workflow waits for its jobs to be tracked


def name() -> str:
    """This call's id, the same in all its jobs, which inherit it."""
    return os.environ.setdefault(INVOCATION, new_id())


def begin(results: Path, study: str, uri: str) -> None:
    """Say that this process runs a study. uri: where its jobs are tracked."""
    content = {
        "invocation_version": INVOCATION_VERSION,
        "invocation": name(),
        "study": study,
        "started": _now(),
        "ended": None,
        "status": "running",
        "command": redact_command(sys.argv),
        "host": platform.node(),
        "pid": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "snakemake": version("snakemake"),
        "git": git(),
        "tracking_uri": uri,
    }
    try:
        write_whole(_file(results), content)
    except OSError as error:  # jobs say the same, and louder
        print(f"{_file(results)} could not be written: {error}", file=sys.stderr)


def end(results: Path, status: str) -> None:
    """Say that this process is done with it. status: finished or failed; a failed one's jobs are tracked at once."""
    file = _file(results)
    try:
        if file.is_file():
            write_whole(file, {**json.loads(file.read_text()), "status": status, "ended": _now()})
        if status == "failed":
            _track(results)
    except Exception as error:  # whatever it is, the workflow's own error is the one to be seen
        print(f"The end of this run could not be noted or tracked: {error}; `make track` does it", file=sys.stderr)


def invocations(results: Path) -> dict[str, dict[str, Any]]:
    """All calls of Snakemake for a study by id, in order of time, with the status that is true now.

    "killed" is one that never said that it ended and whose process is gone; where only another machine could tell that,
    one after which another call began: Snakemake locks what it works on. Unreadable files are left out: nothing but the
    end and the command of a call is lost with one, its jobs have records of their own.
    """
    found = {}
    for path in sorted((results / INVOCATIONS).glob("[!.]*.json")):
        try:
            content = json.loads(path.read_text())
            if NEEDED - set(content):
                raise ValueError(f"it lacks {', '.join(sorted(NEEDED - set(content)))}")
            found[content["invocation"]] = content
        except (OSError, ValueError, TypeError) as error:
            print(f"{path} is no invocation of the workflow ({error}); delete it", file=sys.stderr)
    by_time = dict(sorted(found.items(), key=lambda item: item[1]["started"]))
    last = next(reversed(by_time), None)
    return {key: {**content, "status": _status(content, key == last)} for key, content in by_time.items()}


def _status(invocation: Mapping[str, Any], last: bool) -> str:
    if invocation["status"] != "running":
        return invocation["status"]
    alive = is_running(invocation) if invocation["host"] == platform.node() else last
    return "running" if alive else "killed"


def _track(results: Path) -> None:
    """Bring what ran into MLflow, failed jobs too. Where that failed in this very call, it isn't tried again."""
    how = f"python {os.path.relpath(TRACK)} --results {results}"
    if importlib.util.find_spec("mlflow") is None:
        print(f"To see these jobs in MLflow, with an interpreter that has mlflow: {how}", file=sys.stderr)
        return
    if any(r["stage"] == "tracking" and r["invocation"] == name() for r in failures(results).read.values()):
        return
    sys.stderr.flush()
    subprocess.run([sys.executable, TRACK, "--results", str(results)], stdout=2, check=False, timeout=LONGEST)


def _file(results: Path) -> Path:
    return Path(results) / INVOCATIONS / f"{name()}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat()
