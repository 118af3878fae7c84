"""A study's records as an audit asks them: which job made what lies where, who reads it, and under which MLflow run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from _audit.disk import Disk
from _provenance.records import RECORDS, producers
from _provenance.records import records as read_records

LISTINGS = ("tracking.json", "experiments/tracking.json")  # in a study's folder, which run is which record's


class Recorded:
    """The records in a study's folder. A name is a path as records write it: from the folder that Snakemake ran in.

    records, unreadable: by name. makers: the record that made each output last. disk: what lies there now; `reading`
    hears of every path before it is read. Raises ValueError for a folder without records.
    """

    def __init__(self, results: Path, reading: Callable[[Path], None] = lambda path: None):
        self.results = results
        self.disk = Disk(reading)
        found = read_records(results)
        if not found.read and not found.unreadable:
            raise ValueError(f"{results} holds no records; name a study's folder, such as results/demo")
        self.prefix = _prefix(found.read, results)
        self.root = _root(self.prefix, results)
        self.records = {self.name(path): record for path, record in found.read.items()}
        self.unreadable = {self.name(path): reason for path, reason in found.unreadable.items()}
        self.makers = {output: self.name(path) for output, path in producers(found.read).items()}
        self._tracked = _tracked(results)

    def name(self, path: Path) -> str:
        """A path as records write it."""
        whole = Path(os.path.abspath(path))
        for folder, written in ((Path(os.path.abspath(self.results)), self.prefix), (self.root, "")):
            if whole.is_relative_to(folder):
                return (PurePosixPath(written) / whole.relative_to(folder)).as_posix()
        return whole.as_posix()

    def place(self, name: str) -> Path:
        """Where the path lies that records write so."""
        return self.results / name.removeprefix(f"{self.prefix}/") if self.is_inside(name) else self.root / name

    def is_inside(self, name: str) -> bool:
        """Whether a path lies in the study's folder."""
        return name.startswith(f"{self.prefix}/")

    def result(self, name: str) -> str | None:
        """The recorded output that a path is or lies in; None for what no job made."""
        return next((part for part in (name, *map(str, PurePosixPath(name).parents)) if part in self.makers), None)

    def digest(self, output: str) -> str:
        """The digest of an output when its job ended."""
        return self.records[self.makers[output]]["outputs"][output]

    def job(self, name: str) -> str | None:
        """The job that made a path, or whose record or log it is."""
        if output := self.result(name):
            return self.makers[output]
        if name in self.records:
            return name
        return next((job for job, record in self.records.items() if record["log"] == name), None)

    def maker(self, name: str) -> str | None:
        """The job that an input comes from. A run record counts as made by its own job."""
        return name if name in self.records else self.job(name) if self.result(name) else None

    def results_of(self, name: str) -> list[str]:
        """The results that a name stands for: those that it is, lies in, or holds, or those of a record or log."""
        if self.result(name):
            return [name]
        if job := self.job(name):
            return [output for output in self.records[job]["outputs"] if self.makers[output] == job]
        return [output for output in self.makers if output.startswith(f"{name}/")]

    def readers(self, name: str) -> list[str]:
        """The jobs that read a path."""
        return [job for job, record in self.records.items() if name in record["inputs"]]

    def copies(self, path: Path) -> list[str]:
        """The outputs that had the content of a file when they were recorded."""
        content = self.disk.digest(path)
        return [output for output in self.makers if self.digest(output) == content]

    def run_id(self, job: str) -> str | None:
        """The MLflow run of a record, as far as tracking.json knows one of just this content."""
        known = self._tracked.get(job, {})
        return known.get("run_id") if known.get("digest") == self.disk.digest(self.place(job)) else None


def title(record: Mapping[str, Any]) -> str:
    """A job as people call it: its rule and wildcards."""
    return " ".join([record["stage"], *map(str, record["wildcards"].values())])


def time(record: Mapping[str, Any]) -> str:
    """When a job ended, to the minute, in UTC as records have it."""
    return str(record["ended"])[:16].replace("T", " ")


def codes(record: Mapping[str, Any]) -> list[str]:
    """The digests of the code that a job ran."""
    code = record["params"].get("code", [])
    return [code] if isinstance(code, str) else list(code)


def _prefix(found: Mapping[Path, Mapping[str, Any]], results: Path) -> str:
    """How records write the study's folder: what stands before logs/NAME.log in that of records/NAME.json."""
    for path, record in found.items():
        ending = f"/logs/{path.relative_to(results / RECORDS).with_suffix('.log').as_posix()}"
        if record["log"].endswith(ending):
            return record["log"].removesuffix(ending)
    return f"results/{Path(os.path.abspath(results)).name}"


def _root(prefix: str, results: Path) -> Path:
    """The folder that paths of records begin at: where Snakemake ran, if the study has not been moved out of it."""
    whole, parts = Path(os.path.abspath(results)), Path(prefix).parts
    if not Path(prefix).is_absolute() and whole.parts[-len(parts) :] == parts:
        return whole.parents[len(parts) - 1]
    return Path.cwd()


def _tracked(results: Path) -> dict[str, dict[str, Any]]:
    """By record: its MLflow run and the record's digest then; nothing where the study was not tracked yet.

    A study and its experiments each have a listing, of all records that were there; the newer one says it.
    """
    known: dict[str, dict[str, Any]] = {}
    listings = [file for file in map(results.joinpath, LISTINGS) if file.is_file()]
    for listing in sorted(listings, key=lambda file: file.stat().st_mtime_ns):
        with suppress(OSError, ValueError, KeyError):
            known |= json.loads(listing.read_text())["records"]
    return known
