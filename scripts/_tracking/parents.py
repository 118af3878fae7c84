"""One parent run for each call of Snakemake, and what it says of the jobs below it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from _provenance.attempt import INVOCATION
from _provenance.invocation import invocations
from _provenance.records import running
from _provenance.secrets import redact
from _tracking.run_contents import STATUSES, git_tags, milliseconds, name_of, short
from _tracking.store import RUNNING, Store, StoredRun

PARENT_TAG, INVOCATION_TAG, RESULTS_TAG = "moemui.study", "moemui.invocation", "moemui.results"


def here(results: Path) -> str:
    """A study's folder as a tag, by which a shared store's runs are known to be this folder's."""
    return f"{platform.node()}:{results.resolve()}"


class Parents:
    """The parent runs, by invocation; None for that of the records that belong to none.

    records: all that can be read. kept: those that the store holds. is_ours: whether nobody else can be at work on a
    run.
    """

    def __init__(
        self,
        results: Path,
        study: str,
        store: Store,
        records: Sequence[Mapping[str, Any]],
        kept: Mapping[str, StoredRun],
        is_ours: Callable[[StoredRun], bool],
    ):
        self._results, self._study, self._store, self._records = results, study, store, records
        self._kept, self._is_ours = kept, is_ours
        own = platform.node(), os.getpid()
        self._at_work = [r for r in running(results).read.values() if (r["host"], r["pid"]) != own]
        self._invocations = invocations(results)
        self.runs: dict[str | None, StoredRun] = {}

    def begin(self, new: Sequence[Mapping[str, Any]]) -> None:
        """A run for every invocation with jobs, or that did not end well; one for those new records that have none."""
        needed = {record["invocation"] for record in [*self._records, *self._at_work]} - {None}
        needed |= {key for key, found in self._invocations.items() if found["status"] != "finished"}
        for key in sorted(needed):
            found = self._invocations.get(key)
            times = [record["started"] for record in [*self._records, *self._at_work] if record["invocation"] == key]
            started = found["started"] if found else min(times)
            self.runs[key] = self._kept.get(key) or self._begin(started, {INVOCATION_TAG: key, **_about(found)})
        alone = [record["started"] for record in new if record["invocation"] is None]
        if alone:
            self.runs[None] = self._cut_off() or self._begin(min(alone), {})

    def update(self, *, last: bool) -> None:
        """Totals, status and end of each, from all jobs that the store holds below it.

        last: whether this is the last job of its invocation, which is as good as finished.
        """
        for key, parent in self.runs.items():
            jobs = [run for run in self._store.runs.values() if run.parent == parent.run_id]
            at_work = sum(record["invocation"] == key for record in self._at_work) if key else 0
            counts = Counter(run.status for run in jobs)
            metrics = {f"jobs.{name}": float(counts[status]) for name, status in STATUSES.items()}
            metrics |= {"jobs": float(len(jobs)), "jobs.running": float(at_work)}
            metrics["job_seconds"] = float(sum(run.metrics.get("job.seconds", 0) for run in jobs))
            self._store.measure(parent, metrics)
            found = self._invocations.get(key) if key else None
            status = found["status"] if found else "running" if at_work else "finished"
            if status == "running" and last and not at_work and key == os.environ.get(INVOCATION):
                status = "finished"
            if status == "running":
                self._store.end(parent, RUNNING, None)
                continue
            latest = max([parent.started, *(run.ended for run in jobs if run.ended)])
            ended = milliseconds(found["ended"]) if found and found["ended"] else latest
            self._store.end(parent, STATUSES[status], ended)

    def _begin(self, started: str, tags: Mapping[str, str]) -> StoredRun:
        whole = {PARENT_TAG: self._study, RESULTS_TAG: here(self._results), **tags}
        title = f"{self._study} {started[:19].replace('T', ' ')}"
        return self._store.begin(title, milliseconds(started), whole)

    def _cut_off(self) -> StoredRun | None:
        """The run that an earlier tracking began for records without an invocation, and could not end."""
        for run in self._store.runs.values():
            without = PARENT_TAG in run.tags and INVOCATION_TAG not in run.tags
            if without and run.status == RUNNING and self._is_ours(run):
                return run
        return None


def _about(invocation: Mapping[str, Any] | None) -> dict[str, str]:
    """An invocation as tags."""
    if invocation is None:
        return {}
    tags = {"command": " ".join(invocation["command"]), "host": invocation["host"]}
    tags |= {"snakemake": str(invocation["snakemake"]), **git_tags(invocation.get("git") or {"commit": None})}
    return {name_of(key): short(value) for key, value in redact(tags).items()}
