"""Run records → MLflow runs. The records hold everything, so a lost tracking database is rebuilt from them.

A run belongs to one file of a record, by the file's SHA-256, and counts as logged when its status is the record's,
which is set last. All that is logged follows from the record, so a run that a killed tracker or a dead server left
half-logged is simply logged once more. A lock beside a SQLite store lets one tracker work at a time: several that open
a new store at once break its migrations. For a server the lock lies in the study's folder; trackers on several machines
may meet there, and what they logged twice is made one again by the next.

With a SQLite store artifacts are plain files under artifacts/ beside it, so that the folder can be moved (`make ui`).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from _provenance.lineage import Lineage
from _provenance.records import failures, read_record, records, settle
from _tracking.address import sqlite_file
from _tracking.parents import INVOCATION_TAG, RESULTS_TAG, Parents, here
from _tracking.run_contents import (
    LONG,
    STATUSES,
    USED_BY,
    artifacts,
    contents,
    description,
    short,
    title,
)
from _tracking.store import RUNNING, ChangedParamError, MlflowException, Store, StoredRun, now

DIGEST_TAG, LEFT_OUT_TAG = "moemui.record_digest", "moemui.left_out"
WAITING_SECONDS = 10.0
DAMAGED = "is damaged (move its file away, and a new one is filled from the records)"
GONE = "its tracker was killed, and its record is no longer there"


class Found(NamedTuple):
    """A record, the bytes of its file as text, and their SHA-256."""

    record: dict[str, Any]
    text: str
    sha256: str


class Brought(NamedTuple):
    """What a tracking did. listing: which run holds which record, to be written as JSON; left_out: in sentences."""

    listing: dict[str, Any]
    logged: int
    logged_before: int
    unreadable: dict[Path, str]
    left_out: list[str]


def bring_in(
    results: Path, uri: str, study: str, *, progress: Callable[[int, int], None], say: Callable[[str], None] = print,
    last: bool = False,
) -> Brought:  # fmt: skip
    """Bring every finished, failed and killed job of a study into MLflow, once each.

    results: the study's folder. uri: the store. say: for what people should know. last: this is the last job of its
    invocation, whose run is finished with it. Raises ValueError for a uri that is no store's, RuntimeError with one
    sentence where the store does not do its part.
    """
    if not results.is_dir():
        raise ValueError(f"{results} is no folder; give that of a study which has begun, results/STUDY")
    file = sqlite_file(uri)
    lock = results / ".tracking.lock" if file is None else file.with_name(f".{file.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _alone(lock, say):
        settle(results)
        tracking = _Tracking(results, study, say, last)
        try:
            tracking.open(Store(uri, study))
            return tracking.work(uri, progress)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            store = "the MLflow server" if file is None else "the MLflow store"
            logged = f"{tracking.logged} of {tracking.wanted}" if tracking.wanted else "none"
            raise RuntimeError(
                f"{store} {uri} {_answer(error)}, with {logged} of the new records logged; nothing is lost, they "
                f"all are in {results}, and `make track` brings in the rest when it works again"
            ) from error


class _Tracking:
    """One call: what there is to log, and what the store holds already."""

    def __init__(self, results: Path, study: str, say: Callable[[str], None], last: bool):
        self._results, self._study, self._say, self._last = results, study, say, last
        self._here = here(results)
        finished, failed = records(results), failures(results)
        self._unreadable = {**finished.unreadable, **failed.unreadable}
        self._found = _read_again([*finished.read, *failed.read], self._unreadable)
        for sentence in self._unreadable.values():
            say(sentence)
        self._lineage = Lineage({path: f.record for path, f in self._found.items() if f.record["status"] == "finished"})
        self._runs: dict[Path, str] = {}
        self._left_out: list[str] = []
        self.logged = self.wanted = 0

    def open(self, store: Store) -> None:
        """Look at what the store holds. Of what it holds twice, the one to go on with stays."""
        self._store = store
        wanted = {found.sha256: STATUSES[found.record["status"]] for found in self._found.values()}
        by_key: dict[tuple[str, str], list[StoredRun]] = defaultdict(list)
        for run in list(store.runs.values()):
            for tag in (DIGEST_TAG, INVOCATION_TAG):
                if tag in run.tags:
                    by_key[tag, run.tags[tag]].append(run)
        self._kept: dict[tuple[str, str], StoredRun] = {}
        moved: dict[str, str] = {}
        for (tag, value), runs in by_key.items():
            # A whole one before a half one, then the oldest; the id decides what two machines decide alike.
            runs.sort(key=lambda run: (run.status != wanted.get(value, run.status), run.started, run.run_id))
            if tag == INVOCATION_TAG or value in wanted:
                kept, *others = runs
                self._kept[tag, value] = kept
                for run in others:
                    moved[run.run_id] = kept.run_id
                    store.delete(run)
            else:
                for run in runs:
                    if run.status == RUNNING and self._is_ours(run):
                        store.tag(run, {"error": GONE})
                        store.end(run, "KILLED", now())
        for run in store.runs.values():
            if run.parent in moved:
                store.move(run, moved[run.parent])
        kept_parents = {value: run for (tag, value), run in self._kept.items() if tag == INVOCATION_TAG}
        everything = [found.record for found in self._found.values()]
        self._parents = Parents(self._results, self._study, store, everything, kept_parents, self._is_ours)

    def work(self, uri: str, progress: Callable[[int, int], None]) -> Brought:
        """Log what the store lacks."""
        for path, found in self._found.items():
            kept = self._kept.get((DIGEST_TAG, found.sha256))
            if kept is not None and kept.status == STATUSES[found.record["status"]]:
                self._runs[path] = kept.run_id
        new = [path for path in self._found if path not in self._runs]
        new.sort(key=lambda path: self._found[path].record["ended"])  # so that what a run is made from comes before it
        self.wanted = len(new)
        self._parents.begin([self._found[path].record for path in new])
        for path in new:
            self._log(path)
            self.logged += 1
            progress(self.logged, self.wanted)
        self._link_back()
        self._parents.update(last=self._last)
        listing = {
            "uri": uri,
            "experiment": self._study,
            "experiment_id": self._store.experiment_id,
            "parents": {key or "without invocation": parent.run_id for key, parent in self._parents.runs.items()},
            "records": {str(p): {"run_id": run, "digest": self._found[p].sha256} for p, run in self._runs.items()},
            "unreadable": {str(path): sentence for path, sentence in self._unreadable.items()},
        }
        return Brought(listing, self.logged, len(self._found) - self.logged, self._unreadable, self._left_out)

    def _log(self, path: Path) -> None:
        record, text, sha256 = self._found[path]
        what = contents(path, record, self._lineage, self._runs)
        makers = {maker for maker in self._lineage.makers(record).values() if maker in self._runs}
        made_from = {self._store.link(self._runs[maker]): title(self._found[maker].record) for maker in sorted(makers)}
        files, left_out = artifacts(record, self._study)
        what.tags.update(_tag_of(left_out))
        parent = self._parents.runs[record["invocation"]].run_id
        tags = {DIGEST_TAG: sha256, RESULTS_TAG: self._here}
        whole: Mapping[str, Path | str] = {"record.json": text, **files}
        run = self._kept.get((DIGEST_TAG, sha256))
        note = description(record, made_from)
        try:
            if run is not None:
                self._store.move(run, parent)
                gone = self._store.fill(run, what, note, whole)
        except ChangedParamError:  # it was begun by another version of this code
            if run is not None:
                self._store.delete(run)
            run = None
        if run is None:
            run = self._store.begin(what.title, what.started, tags, parent)
            gone = self._store.fill(run, what, note, whole)
        left_out |= gone
        self._store.tag(run, _tag_of(left_out))
        self._left_out += [f"{path}: {file} is no artifact of its run: {why}" for file, why in left_out.items()]
        self._store.end(run, what.status, what.ended)  # the last thing: only now it counts as logged
        self._runs[path] = run.run_id

    def _link_back(self) -> None:
        """On every run a tag with those that were made from it."""
        used_by: dict[str, list[str]] = defaultdict(list)
        for path, run in self._runs.items():
            for maker in dict.fromkeys(self._lineage.makers(self._found[path].record).values()):
                if maker in self._runs:
                    used_by[self._runs[maker]].append(run)
        for run_id, users in used_by.items():
            self._store.tag(self._store.runs[run_id], {USED_BY: short(", ".join(sorted(users)), LONG)})

    def _is_ours(self, run: StoredRun) -> bool:
        """Whether nobody else can be at work on a run: the lock is ours, or the run came from this study's folder."""
        return self._store.is_own or run.tags.get(RESULTS_TAG) == self._here


@contextmanager
def _alone(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, which ends with the process that holds it."""
    lock = FileLock(file)
    while True:
        try:
            lock.acquire(timeout=WAITING_SECONDS)
            break
        except Timeout:
            say(f"another tracking is at work ({file} is locked); this one waits for it")
    try:
        yield
    finally:
        lock.release()


def _read_again(paths: Iterable[Path], unreadable: dict[Path, str]) -> dict[Path, Found]:
    """Records with what their files hold; those that a job is about to write anew are left to a later call."""
    found = {}
    for path in paths:
        try:
            before, record, after = path.read_bytes(), read_record(path), path.read_bytes()
        except (OSError, ValueError) as error:
            if path.exists():
                unreadable[path] = str(error)
            continue
        if before == after:
            found[path] = Found(record, before.decode(), hashlib.sha256(before).hexdigest())
    return found


def _tag_of(left_out: Mapping[str, str]) -> dict[str, str]:
    return {LEFT_OUT_TAG: short("; ".join(map(": ".join, left_out.items())), LONG)} if left_out else {}


def _answer(error: Exception) -> str:
    """What a store said, in few words."""
    text = " ".join(str(error).split())
    for words, meaning in (("Connection refused", "is not there (connection refused)"),
                           ("timed out", "did not answer in time"),
                           ("Name or service not known", "is not known by that name"),
                           ("Failed to resolve", "is not known by that name"),
                           ("Connection aborted", "broke off the connection"),
                           ("Connection reset", "broke off the connection"),
                           ("file is not a database", DAMAGED), ("is malformed", DAMAGED)):  # fmt: skip
        if words in text:
            return meaning
    if re.search(r"\b401\b|not authenticated", text):
        return "wants a user and password (set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD)"
    return f"answered: {short(text, 300)}"
