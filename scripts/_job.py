"""What surrounds every job: arguments, log, progress, complete outputs, and the record of the attempt.

The only file that knows the object `snakemake`. A script defines `main(...)` with the inputs, outputs,
params and wildcards it wants as keywords, and ends with `run(main)`; `main` returns a dict of metrics.
"""

from __future__ import annotations

import errno
import inspect
import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from _provenance.attempt import Attempt
from _provenance.records import Place
from _provenance.secrets import Redacting, redact, scrub

TAIL_LINES = 15
PROGRESS_SECONDS = 10.0
FULL = os.strerror(errno.ENOSPC)


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

    def say(self, text: str) -> None:
        """One line that people should see now, also where the job succeeds."""
        print(text, flush=True)
        print(f"{self._name}: {text}", file=self._terminal, flush=True)


def run(main: Callable[..., Mapping[str, Any] | None], *, resumes: Sequence[str] = ()) -> None:
    """Call `main` for the Snakemake job that runs this script.

    Outputs are written under another name and renamed when `main` has returned, the record last, so a killed job
    leaves nothing that looks finished. On an error the end of the log goes to the terminal, the attempt leaves a
    failure record, and the job fails.

    resumes: names of folder outputs whose work `main` can take up again. What a job that failed or was killed left of
    them stays, hidden, and is handed to the next call as it is; everything else that is unfinished is removed.
    """
    job = sys.modules["__main__"].snakemake
    log, record_path = Path(job.log[0]), str(job.output.record)
    attempt = Attempt(job, Place.of(Path(record_path), log))
    attempt.settle_earlier(sys.stderr)  # before their log is written anew
    terminal = _redirect(log)
    parts = {str(path): _part(Path(path)) for path in job.output}
    kept = {part for key in resumes for part in _listed(_paths(job.output[key], parts))}
    try:
        attempt.begin()
        for part in parts.values():
            if part not in kept:
                _remove(part)
            part.parent.mkdir(parents=True, exist_ok=True)
        outputs = {key: _paths(value, parts) for key, value in job.output.items() if key != "record"}
        inputs = {key: _paths(value) for key, value in job.input.items()}
        available = {**dict(job.wildcards.items()), **dict(job.params.items()), **inputs, **outputs}
        available["progress"] = Progress(attempt.title, terminal)
        metrics = main(**_wanted(main, available)) or {}
        finished = {final: part for final, part in parts.items() if final != record_path}
        for final, part in finished.items():
            if not part.exists():
                raise RuntimeError(f"{job.rule} ended without writing {final}")
        parts[record_path].write_text(json.dumps(attempt.finished(metrics, finished), indent=1))
        _close(log)
        # Nothing but renaming from here on: a job killed in between would have to do again what it has renamed.
        for final, part in [*finished.items(), (record_path, parts[record_path])]:
            _remove(Path(final))
            part.rename(final)
        attempt.end()
    except Exception as error:
        reason = redact(_reason(error, log.parent))
        _tell(attempt.title, reason, log, terminal)
        attempt.fail(reason, terminal)
        raise SystemExit(1) from None
    finally:
        for part in parts.values():
            if part not in kept:
                _remove(part)


def _reason(error: Exception, folder: Path) -> str:
    """An error in words; libraries say in many ways that a disk is full."""
    text = str(error) or type(error).__name__
    if not isinstance(error, OSError | RuntimeError) or FULL not in text or "make room" in text:
        return text
    return f"no room left on the disk of {folder} ({text}); make room and run again, what is finished is kept"


def _tell(title: str, reason: str, log: Path, terminal: TextIO) -> None:
    """Say on the terminal why a job failed, also where the disk is too full for its log."""
    with suppress(OSError):
        traceback.print_exc()
        _close(log)
    tail = redact(log.read_text(errors="replace")).splitlines()[-TAIL_LINES:]
    print(f"\n{title} failed: {reason}\n  log: {log}, its end:", file=terminal)
    print("\n".join("  | " + line for line in tail), file=terminal, flush=True)


def _close(log: Path) -> None:
    """What is still on its way to the log gets there, and what libraries in C wrote is redacted, too."""
    sys.stdout.flush()
    sys.stderr.flush()
    scrub(log)


def _redirect(log: Path) -> TextIO:
    """Send everything printed, by libraries in C too, to the log; return the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(2), "w")
    log.unlink(missing_ok=True)
    with log.open("a") as file:  # at its end whoever writes, also when it is redacted meanwhile
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = Redacting(sys.stdout), Redacting(sys.stderr)
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
