"""What surrounds every job: arguments, log, progress, complete outputs, and the run record.

The only file that knows the object `snakemake`. A script defines `main(...)` with the inputs, outputs,
params and wildcards it wants as keywords, and ends with `run(main)`; `main` returns a dict of metrics.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

STARTED = datetime.now(UTC)
RECORD_VERSION = 1
PACKAGES = (
    "torch", "transformers", "lm_eval", "datasets", "zarr", "h5py", "numpy", "scipy", "statsmodels",
    "powerlaw", "ruptures", "pandas",
    "pyarrow", "matplotlib", "mlflow", "snakemake",
)  # fmt: skip
TAIL_LINES = 15
PROGRESS_SECONDS = 10.0


class Progress:
    """Progress of a long job: every report goes to the log, one line each ten seconds to the terminal.

    Time left counts from the first report: neither loading a model nor what an earlier, killed job had done blurs it.
    """

    def __init__(self, name: str, terminal: TextIO):
        self._name, self._terminal = name, terminal
        self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Say that `done` of `total` are done."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        start, before = self._first
        left = ""
        if done > before and done < total:
            left = f", {_duration((now - start) / (done - before) * (total - done))} left"
        line = f"{self._name}: {done}/{total}{left}" + (f", {note}" if note else "")
        print(line, flush=True)
        if now - self._shown >= PROGRESS_SECONDS:
            self._shown = now
            print(line, file=self._terminal, flush=True)


def run(main: Callable[..., Mapping[str, Any] | None], *, resumes: Sequence[str] = ()) -> None:
    """Call `main` for the Snakemake job that runs this script.

    Outputs are written under another name and renamed when `main` has returned, the record last, so a killed job
    leaves nothing that looks finished. On an error the end of the log goes to the terminal and the job fails.

    resumes: names of folder outputs whose work `main` can take up again. What a job that failed or was killed left of
    them stays, hidden, and is handed to the next call as it is; everything else that is unfinished is removed.
    """
    job = sys.modules["__main__"].snakemake
    name = " ".join([job.rule, *map(str, job.wildcards)])
    terminal = _redirect(Path(job.log[0]))
    parts = {str(path): _part(Path(path)) for path in job.output}
    kept = {part for key in resumes for part in _listed(_paths(job.output[key], parts))}
    try:
        for part in parts.values():
            if part not in kept:
                _remove(part)
            part.parent.mkdir(parents=True, exist_ok=True)
        record_path = str(job.output.record)
        outputs = {key: _paths(value, parts) for key, value in job.output.items() if key != "record"}
        inputs = {key: _paths(value) for key, value in job.input.items()}
        available = {**dict(job.wildcards.items()), **dict(job.params.items()), **inputs, **outputs}
        available["progress"] = Progress(name, terminal)
        metrics = main(**_wanted(main, available)) or {}
        finished = {final: part for final, part in parts.items() if final != record_path}
        for final, part in finished.items():
            if not part.exists():
                raise RuntimeError(f"{job.rule} ended without writing {final}")
        parts[record_path].write_text(json.dumps(_record(job, metrics, finished), indent=1))
        # Nothing but renaming from here on: a job killed in between would have to do again what it has renamed.
        for final, part in [*finished.items(), (record_path, parts[record_path])]:
            _remove(Path(final))
            part.rename(final)
    except Exception as error:
        _tell(name, error, Path(job.log[0]), terminal)
        raise SystemExit(1) from error
    finally:
        for part in parts.values():
            if part not in kept:
                _remove(part)


def _tell(name: str, error: Exception, log: Path, terminal: TextIO) -> None:
    """Say on the terminal why a job failed, also where the disk is too full for its log."""
    with suppress(OSError):
        traceback.print_exc()
        sys.stderr.flush()
    tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    print(f"\n{name} failed: {error}\n  log: {log}, its end:", file=terminal)
    print("\n".join("  | " + line for line in tail), file=terminal, flush=True)


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


def _redirect(log: Path) -> TextIO:
    """Send everything printed, by libraries in C too, to the log; return the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w")
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # Of other libraries Python shows warnings by itself.
    said = logging.getLogger("moemui")
    said.setLevel(logging.INFO)
    said.addHandler(logging.StreamHandler())
    return terminal


def _part(path: Path) -> Path:
    # The ending stays, since many writers choose the format by it.
    return path.with_name(f".part-{path.name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _paths(value: Any, parts: Mapping[str, Path] | None = None) -> Any:
    """A named input or output as Path, or as list of Path (empty for an optional one that is absent)."""
    if isinstance(value, str):
        return parts[value] if parts else Path(value)
    return [_paths(str(item), parts) for item in value]


def _listed(paths: Path | list[Path]) -> list[Path]:
    return [paths] if isinstance(paths, Path) else paths


def _duration(seconds: float) -> str:
    """A time as people read it: 40 s, 12 min, 3 h 5 min."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _wanted(main: Callable[..., Any], available: Mapping[str, Any]) -> dict[str, Any]:
    wanted = inspect.signature(main).parameters
    if missing := [name for name in wanted if name not in available]:
        raise TypeError(f"main wants {missing}, which the rule does not give; it gives {sorted(available)}")
    return {name: available[name] for name in wanted}


def _record(job: Any, metrics: Mapping[str, Any], outputs: Mapping[str, Path]) -> dict[str, Any]:
    """The run record; outputs: where each output, by its final name, lies now."""
    ended = datetime.now(UTC)
    return {
        "record_version": RECORD_VERSION,
        "stage": job.rule,
        "wildcards": dict(job.wildcards.items()),
        "params": dict(job.params.items()),
        "metrics": dict(metrics),
        "inputs": {str(path): digest(Path(path)) for path in job.input},
        "outputs": {final: digest(path) for final, path in outputs.items()},
        "started": STARTED.isoformat(),
        "ended": ended.isoformat(),
        "seconds": (ended - STARTED).total_seconds(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "host": platform.node(),
        "python": platform.python_version(),
        "packages": _versions(),
        "git": _git(),
        "log": str(job.log[0]),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an environment holds only what its stage needs
            continue
    return found


def _git() -> dict[str, Any]:
    def ask(*words: str) -> str | None:
        answer = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else None

    try:
        commit = ask("rev-parse", "HEAD")
        return {
            "commit": commit,
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")) if commit else None,
        }
    except FileNotFoundError:
        return {"commit": None, "dirty": None}
