"""One attempt of a job, from the marker that says that it is at work to the record that it leaves (see `records`)."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

import psutil

from _provenance.records import (
    HEARTBEAT,
    RECORD_VERSION,
    Place,
    digest,
    is_alive,
    maker,
    new_id,
    running,
    settle_marker,
    write_failure,
    write_whole,
)
from _provenance.secrets import redact

STARTED = datetime.now(UTC)
INVOCATION = "MOEMUI_INVOCATION"  # environment variable with the id of the call of Snakemake that a job belongs to
PACKAGES = (
    "torch", "transformers", "lm_eval", "datasets", "zarr", "h5py", "numpy", "scipy", "statsmodels", "powerlaw",
    "ruptures", "pandas", "pyarrow", "matplotlib", "mlflow", "snakemake",
)  # fmt: skip
WAIT = 1.0  # seconds between looks at a process that is waited for
SEEDS = {"seed", "seeds", "random_state"}


class Attempt:
    """The attempt that this process is. job: the object `snakemake` of its script."""

    def __init__(self, job: Any, place: Place):
        self._job, self._place = job, place
        self.title = " ".join([job.rule, *map(str, job.wildcards)])
        params = redact(dict(job.params.items()))
        self._known: dict[str, Any] = {
            "record_version": RECORD_VERSION,
            "attempt": new_id(),
            "invocation": os.environ.get(INVOCATION),
            "status": "running",
            "error": None,
            "stage": job.rule,
            "wildcards": dict(job.wildcards.items()),
            "params": params,
            "seeds": dict(_seeds(params)),
            "metrics": {},
            "inputs": {},
            "outputs": {},
            "started": STARTED.isoformat(),
            "ended": None,
            "seconds": 0.0,
            "recording_seconds": 0.0,
            "peak_memory_mb": 0.0,
            "peak_gpu_memory_mb": None,
            "host": platform.node(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "python": platform.python_version(),
            "packages": _versions(),
            "git": git(),
            "log": str(job.log[0]),
        }
        self._marker = place.marker(self._known["attempt"])

    def settle_earlier(self, terminal: TextIO) -> None:
        """Wait for an attempt that a killed workflow left at work, and settle those that are dead.

        Two that write the same files at the same time would spoil them.
        """
        for path, marker in running(self._place.results, self._place.name).read.items():
            if path.exists() and is_alive(path, marker):
                print(
                    f"{self.title} waits for process {marker['pid']} on {marker['host']}, which does the same job and "
                    "was left by a workflow that was killed; end it to begin at once",
                    file=terminal,
                    flush=True,
                )
            while path.exists() and is_alive(path, marker):
                time.sleep(WAIT)
            if path.exists():
                settle_marker(self._place.results, path, marker)

    def begin(self) -> None:
        """Leave the marker of an attempt at work, and make sure that every input is what its own job wrote.

        Raises ValueError for an input that is not: a changed file must not turn into numbers.
        """
        write_whole(self._marker, self._known)
        Thread(target=self._live, daemon=True).start()
        begin = time.perf_counter()
        self._known["inputs"] = {str(path): digest(Path(path)) for path in self._job.input}
        for path, found in self._known["inputs"].items():
            made = maker(Path(path), self._place.results)
            if made is not None and made[1]["outputs"][path] != found:
                raise ValueError(
                    f"{path} is not what {made[1]['stage']} wrote, by its record {made[0]}; delete it, so that it is "
                    "made again, and run again"
                )
        self._known["recording_seconds"] = time.perf_counter() - begin

    def _live(self) -> None:
        """Give signs of life until the marker is gone."""
        while True:
            time.sleep(HEARTBEAT)
            try:
                os.utime(self._marker)
            except FileNotFoundError:
                return
            except OSError:  # of a file system over a network; the next sign may get through
                continue

    def finished(self, metrics: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
        """The record of an attempt whose work is done; outputs: where each, by its final name, lies now."""
        begin = time.perf_counter()
        made = {final: digest(path) for final, path in outputs.items()}
        spent = self._known["recording_seconds"] + time.perf_counter() - begin
        found = {"metrics": redact(dict(metrics)), "outputs": made, "recording_seconds": spent}
        return {**self._known, **found, **_ended("finished")}

    def fail(self, error: str, terminal: TextIO) -> None:
        """Leave a failure record with the log beside it."""
        record = {**self._known, "error": " ".join(error.split()), **_ended("failed")}
        try:
            write_failure(self._place.failure(self._known["attempt"]), record)
        except OSError as reason:  # a full disk is the usual one, and what failed the job, too
            print(f"  this failure could not be recorded: {reason}", file=terminal, flush=True)
            return  # the marker stays, so that the next attempt tells of this one
        self.end()

    def end(self) -> None:
        """Take the marker away, and its folder, which no other job makes."""
        self._marker.unlink(missing_ok=True)
        with suppress(OSError):  # a marker of the same job that cannot be read
            self._marker.parent.rmdir()


def git() -> dict[str, Any]:
    """Commit of this code's repository, and whether tracked files differ from it; None where it is in none."""

    def ask(*words: str) -> str | None:
        # Without the lock that a mere look takes: a user's own git would run into it.
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).resolve().parent), *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        # A copy that lies somewhere in another repository is not that one's code.
        commit = ask("rev-parse", "HEAD") if ask("ls-files", "--error-unmatch", Path(__file__).name) else None
        dirty = bool(ask("status", "--porcelain", "--untracked-files=no")) if commit else None
    except FileNotFoundError:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _ended(status: str) -> dict[str, Any]:
    ended = datetime.now(UTC)
    # Linux counts the resident set in kilobytes. Of children it tells the largest, such as one that ran generated code.
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "status": status,
        "ended": ended.isoformat(),
        "seconds": (ended - STARTED).total_seconds(),
        "peak_memory_mb": peak / 1024,
        "peak_gpu_memory_mb": _gpu_memory(),
    }


def _gpu_memory() -> float | None:
    """The most that torch held on all GPUs of this process, in MiB; None where it held nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())) / 2**20


def _seeds(params: Any, where: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(params, Mapping):
        for key, value in params.items():
            if key in SEEDS and not isinstance(value, Mapping):
                yield ".".join([*where, str(key)]), value
            else:
                yield from _seeds(value, [*where, str(key)])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an environment holds only what its stage needs
            continue
    return found
