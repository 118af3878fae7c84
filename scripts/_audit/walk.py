"""From results back to their sources: which jobs made them from what, and whether all of it still is as recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from _audit.disk import MISSING, UNREACHABLE, UNRECORDED, Fault
from _audit.recorded import Recorded, time, title
from _provenance.records import FAILURES, INVOCATIONS, RECORDS, RUNNING, read_record

STALE, UNREADABLE = "stale", "unreadable record"
# What lies in a study's folder and is nobody's result.
SNAKEMAKE_REPORT = ("snakemake.html", "snakemake.zip")  # make snakemake-report
ADMINISTRATION = (RECORDS, FAILURES, RUNNING, INVOCATIONS, "logs", "benchmarks", "plan.json", *SNAKEMAKE_REPORT)


class Finding(NamedTuple):
    """Something that is not as recorded: its kind, the path as records write it, and one sentence with what to do."""

    kind: str
    path: str
    sentence: str


@dataclass
class Trail:
    """What a walk found.

    asked: the results that it began at. jobs: the records on the way, those of the asked results first.
    sources: paths that no job made, with the digest on the disk (None: gone). checked: recorded outputs compared.
    notes: what is worth knowing and nobody's fault.
    """

    asked: list[str]
    jobs: list[str]
    sources: dict[str, str | None] = field(default_factory=dict)
    checked: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def at_fault(self, path: str) -> list[Finding]:
        """Findings about a path or what lies in it."""
        return [finding for finding in self.findings if finding.path == path or finding.path.startswith(f"{path}/")]


def trace(recorded: Recorded, names: list[str]) -> Trail:
    """The way back from results, each the name of an output or of a file in one."""
    waiting = list(dict.fromkeys(job for name in names if (job := recorded.job(name))))
    found = dict.fromkeys(waiting)
    for job in waiting:
        for name in recorded.records[job]["inputs"]:
            maker = recorded.maker(name)
            if maker and maker not in found:
                found[maker] = None
                waiting.append(maker)
    return _compared(recorded, Trail(names, list(found)))


def trace_source(recorded: Recorded, name: str) -> Trail:
    """What has read a file that no job made; not the way behind those jobs."""
    trail = Trail([name], recorded.readers(name))
    for job in trail.jobs:
        _compare_input(recorded, trail, job, name)
    return trail


def trace_all(recorded: Recorded) -> Trail:
    """Every job and every file of the study, and files that no record names."""
    current = set(recorded.makers.values())
    trail = _compared(recorded, Trail(list(recorded.makers), [job for job in recorded.records if job in current]))
    trail.notes += [
        f"{job} is about nothing that is there: later jobs have made all of its results"
        for job in recorded.records
        if job not in current
    ]
    known = {*trail.sources, *(finding.path for finding in trail.findings)}
    strangers = [name for name in (*recorded.unreadable, *_strangers(recorded)) if name not in known]
    trail.findings += [unknown(recorded, name) for name in strangers]
    return trail


def unknown(recorded: Recorded, name: str) -> Finding:
    """What is wrong with an input, or a file in the study's folder, that no job made."""
    if name in recorded.unreadable:
        return Finding(UNREADABLE, name, recorded.unreadable[name])
    if recorded.disk.digest(recorded.place(name)) is None:
        readers = [title(recorded.records[job]) for job in recorded.readers(name)]
        who = f", which {readers[0]} read," if readers else ""
        inside = recorded.is_inside(name)
        advice = _again(name) if inside else "put it back, or change the study's config"
        return Finding(MISSING, name, f"{name}{who} is gone; {advice}")
    why = "no record names it"
    if recorded.unreadable:
        why += f", unless {', '.join(sorted(recorded.unreadable))} did, which can't be read"
    return Finding(UNRECORDED, name, f"{name} lies among the results and {why}; delete it, or keep it elsewhere")


def book_keeping(recorded: Recorded, name: str) -> str | None:
    """In words, what a path is that lies in the study's folder and is nobody's result; None for any other."""
    if not recorded.is_inside(name):
        return None
    place = recorded.place(name)
    first = place.relative_to(recorded.results).parts[0]
    if first == FAILURES and place.suffix == ".json":
        try:
            record = read_record(place)
        except ValueError as error:
            return str(error)
        return f"{name} says that {title(record)} {record['status']}: {record['error']}; its log is {record['log']}"
    return f"{name} is book-keeping, no result" if first in ADMINISTRATION else None


def _compared(recorded: Recorded, trail: Trail) -> Trail:
    read = dict.fromkeys(name for job in trail.jobs for name in recorded.records[job]["inputs"])
    wanted = (recorded.result(name) for name in (*trail.asked, *read))
    trail.checked = list(dict.fromkeys(output for output in wanted if output))
    for output in trail.checked:
        faults = recorded.disk.faults(recorded.place(output), recorded.digest(output))
        if faults:
            faults = _faults_of_snapshots(recorded, output) or faults
        elif output.endswith("/checkpoint.json"):
            faults = _faults_of_model(recorded, output, trail)
        trail.findings += [_told(recorded, fault, output) for fault in faults]
    for job in trail.jobs:
        for name in recorded.records[job]["inputs"]:
            _compare_input(recorded, trail, job, name)
    return trail


def _faults_of_snapshots(recorded: Recorded, output: str) -> list[Fault]:
    """Of a folder that is not as recorded: the files that differ from those that checkpoints made of it pin."""
    pins = [name for job in recorded.readers(output) for name in recorded.records[job]["outputs"]]
    found = []
    for pin in pins:
        place = recorded.place(pin)
        if place.name == "checkpoint.json" and recorded.disk.digest(place) == recorded.digest(pin):
            manifest = json.loads(place.read_text())
            found += recorded.disk.differences(recorded.place(manifest["path"]), manifest["files"])
    return found


def _faults_of_model(recorded: Recorded, output: str, trail: Trail) -> list[Fault]:
    """Differences of a model's files from those that its checkpoint.json pins."""
    manifest = json.loads(recorded.place(output).read_text())
    folder, files = recorded.place(manifest["path"]), manifest["files"]
    if recorded.result(recorded.name(folder)):
        return []  # a job of the study made them: they are compared as its output
    if manifest["kind"] == "hub":
        # Weights may be hundreds of gigabytes: the commit is their identity, and sizes tell a broken download.
        files = {name: {**file, "sha256": None} for name, file in files.items()}
        if not folder.exists():
            trail.notes.append(f"{output}: {manifest['repo']} at {manifest['commit']} is not on this machine")
            return []
    return recorded.disk.differences(folder, files)


def _told(recorded: Recorded, fault: Fault, compared: str) -> Finding:
    """A fault of an output that was compared, or of a file that a checkpoint.json pins."""
    name = recorded.name(fault.path)
    output = recorded.result(name)
    record = recorded.records[recorded.makers[output or compared]]
    if output is None:
        advice = "put back the file, or change the model's entry in the study's config"
    elif fault.kind == UNREACHABLE:
        return Finding(fault.kind, name, f"{name}, which {title(record)} wrote on {time(record)}, {fault.how}")
    elif fault.kind == MISSING and output == name:
        advice = _again(name)
    else:
        advice = f"delete {'it' if output == name else output} and {_again(output)}"
    what = f"{name}, which {title(record)} {'wrote' if output else 'read'} on {time(record)}, {fault.how}"
    return Finding(fault.kind, name, f"{what}; {advice}")


def _again(output: str) -> str:
    """How a result is made again. What lies behind finished results Snakemake doesn't miss, unless it is asked for."""
    return f"run snakemake again, as `snakemake {output} …` if it finds nothing to do"


def _compare_input(recorded: Recorded, trail: Trail, job: str, name: str) -> None:
    """Note a source, and whether the job was made from another content of this input than there is now."""
    record, maker = recorded.records[job], recorded.maker(name)
    if maker is None and name not in trail.sources:
        trail.sources[name] = recorded.disk.digest(recorded.place(name))
        if trail.sources[name] is None or recorded.is_inside(name):
            trail.findings.append(unknown(recorded, name))
    # A result that was tampered with is a finding of its own: what was made from the recorded one is not stale.
    now = recorded.digest(name) if name in recorded.makers else recorded.disk.digest(recorded.place(name))
    if now is None or now == record["inputs"][name]:
        return
    first = next(iter(record["outputs"]), job)
    there = f"{title(recorded.records[maker])} wrote on {time(recorded.records[maker])}" if maker else "is there now"
    other = f"another {name} than the one that {there}"
    advice = f"run snakemake again, with --forcerun {record['stage']} if it finds nothing to do"
    trail.findings.append(Finding(STALE, first, f"{first} was made from {other}; {advice}"))


def _strangers(recorded: Recorded) -> Iterator[str]:
    """Files in the study's folder that no record names."""
    for path in sorted(recorded.results.rglob("*")):
        inside = path.relative_to(recorded.results).parts
        if path.is_dir() or inside[0] in ADMINISTRATION or any(part.startswith(".") for part in inside):
            continue
        if recorded.result(name := recorded.name(path)) is None:
            yield name
