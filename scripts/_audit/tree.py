"""What an audit found, for people (a tree, a table) and for programs (plain values)."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from _audit.recorded import Recorded, codes, time, title
from _audit.walk import STALE, Trail

SHOWN = 3  # of many things in a line
MOST_STALE = 10
DIGITS = 12  # of a digest or commit
WIDE = 110  # columns from which a table shows digests


def tree(recorded: Recorded, trail: Trail, *, full: bool, packages: bool) -> RenderableType:
    """From each asked result back to the sources, a stage once; full: every job by itself. packages: their versions."""
    branches = _Branches(recorded, trail, full=full, packages=packages)
    shown: list[RenderableType] = []
    for name in trail.asked:
        root = Tree(Text.assemble((name, "bold"), " ", branches.mark([name])), guide_style="dim")
        if job := recorded.job(name):
            branches.add(root, branches.group(job))
        else:
            root.add(Text(f"no job made it: sha256 {trail.sources[name]}", "dim"))
            readers = _several(title(recorded.records[job]) for job in trail.jobs)
            root.add(Text.assemble(("read by ", "dim"), ", ".join(readers)))
        shown.append(root)
    return Group(*shown)


class _Branches:
    """The jobs of a trail, those of a stage in one branch unless each is wanted, and which have been shown."""

    def __init__(self, recorded: Recorded, trail: Trail, *, full: bool, packages: bool):
        self._recorded, self._trail, self._full, self._packages = recorded, trail, full, packages
        self._shown: set[str] = set()
        self._jobs: dict[str, list[str]] = defaultdict(list)
        for job in trail.jobs:
            self._jobs[self.group(job)].append(job)

    def group(self, job: str) -> str:
        """The branch that a job stands in."""
        return job if self._full else self._recorded.records[job]["stage"]

    def mark(self, names: Iterable[str]) -> Text:
        """What is wrong with some results or sources, in a few words."""
        found = Counter(finding.kind for name in names for finding in self._trail.at_fault(name))
        jobs = {job for name in names if (job := self._recorded.maker(name))}
        found[STALE] = sum(_is_stale(self._trail, self._recorded.records[job]) for job in jobs)
        wrong = [kind if count == 1 else f"{count} {kind}" for kind, count in found.items() if count]
        return Text(f"✗ {', '.join(wrong)}", "bold red") if wrong else Text("✓", "green")

    def add(self, above: Tree, group: str, read: Sequence[str] = ()) -> None:
        """Add a branch and all behind it. read: which of its results the branch above was made from."""
        records = [self._recorded.records[job] for job in self._jobs[group]]
        name = title(records[0]) if len(records) == 1 else f"{records[0]['stage']}, {len(records)} jobs"
        line = Text.assemble(f"{_counted(read)} ", self.mark(read), " ") if read else Text()
        line.append_text(Text.assemble(("made by ", "dim"), (name, "bold cyan")))
        if group in self._shown:
            above.add(line.append(" (above)", "dim"))
            return
        self._shown.add(group)
        branch = above.add(line.append("\n" + " · ".join(self._facts(self._jobs[group], records)), "dim"))
        for text in _several(text for record in records for text in _origins(self._recorded, record)):
            branch.add(Text(text, "green"))
        sources: dict[str, list[str]] = defaultdict(list)
        made: dict[str, list[str]] = defaultdict(list)
        told: dict[str, list[str]] = defaultdict(list)  # run records that were read
        for name in dict.fromkeys(name for record in records for name in record["inputs"]):
            maker = self._recorded.maker(name)
            if maker is None:
                sources[str(PurePosixPath(name).parent)].append(name)
            else:
                (told if maker == name else made)[self.group(maker)].append(name)
        for folder, names in sources.items():
            changed = {n for n in names for r in records if r["inputs"].get(n) not in (None, self._trail.sources[n])}
            mark = Text(f"✗ changed: {', '.join(sorted(changed))}", "bold red") if changed else self.mark(names)
            branch.add(Text.assemble((f"{folder}: {self._digests(names)} ", "green"), mark))
        for maker, names in made.items():
            self.add(branch, maker, names)
        for maker in [maker for maker in told if maker not in self._shown]:
            self.add(branch, maker, told.pop(maker))
        if names := [name for names in told.values() for name in names]:
            branch.add(Text.assemble(f"{len(names)} run records of the jobs above ", self.mark(names)))

    def _facts(self, jobs: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[str]:
        first, last = min(map(time, records)), max(map(time, records))
        facts = [
            first if first == last else f"{first} to {last.removeprefix(first[:11])}",
            f"{sum(record['seconds'] for record in records):.1f} s on {_listed(record['host'] for record in records)}",
            f"code {_listed(code for record in records for code in codes(record))}",
            f"git {_listed(map(_commit, records))}",
        ]
        if len(jobs) == 1:
            run = self._recorded.run_id(jobs[0])
            facts += [f"attempt {records[0]['attempt']}", *([f"MLflow run {run}"] if run else []), jobs[0]]
        if self._packages:
            versions = sorted({f"{name} {v}" for record in records for name, v in record["packages"].items()})
            facts.append(f"python {_listed(record['python'] for record in records)}, {', '.join(versions)}")
        return facts

    def _digests(self, names: Sequence[str]) -> str:
        if len(names) > SHOWN and not self._full:
            return f"{len(names)} files"
        return ", ".join(f"{PurePosixPath(n).name} sha256 {str(self._trail.sources.get(n))[:DIGITS]}" for n in names)


def table(recorded: Recorded, trail: Trail, *, width: int) -> Table:
    """The stages of a whole study, in the order in which they began. width: columns; with few of them no digests."""
    shown = Table(box=None, pad_edge=False)
    for column in ("stage", "jobs", "results", "last", *(("code", "git") if width >= WIDE else ()), "not as recorded"):
        number = column in ("jobs", "results")
        shown.add_column(column, no_wrap=column != "not as recorded", justify="right" if number else "left")
    stages: dict[str, list[str]] = defaultdict(list)
    for job in sorted(trail.jobs, key=lambda job: recorded.records[job]["started"]):
        stages[recorded.records[job]["stage"]].append(job)
    for stage, jobs in stages.items():
        records = [recorded.records[job] for job in jobs]
        outputs = [output for output in trail.checked if recorded.makers[output] in jobs]
        faults = Counter(finding.kind for output in outputs for finding in trail.at_fault(output))
        digests = (_listed(code for record in records for code in codes(record)), _listed(map(_commit, records)))
        shown.add_row(
            stage,
            str(len(jobs)),
            str(len(outputs)),
            max(map(time, records)),
            *(digests if width >= WIDE else ()),
            Text(", ".join(f"{count} {kind}" for kind, count in faults.items()), "red"),
        )
    return shown


def tell(console: Console, trail: Trail, *, full: bool) -> None:
    """Notes, findings and the sum of them. One edited source may make hundreds of jobs stale: full names all."""
    for note in trail.notes:
        console.print(Text.assemble(("note ", "yellow"), note), soft_wrap=True)
    stale = [finding for finding in trail.findings if finding.kind == STALE]
    left_out = [] if full else stale[MOST_STALE:]
    for finding in trail.findings:
        if finding not in left_out:
            console.print(Text.assemble((f"{finding.kind} ", "bold red"), finding.sentence), soft_wrap=True)
    if left_out:
        console.print(Text.assemble((STALE, "bold red"), f" and {len(left_out)} more, which --full names"))
    what = f"{len(trail.checked)} results of {len(trail.jobs)} jobs and {len(trail.sources)} source files compared"
    how = f"{len(trail.findings)} not as recorded" if trail.findings else "all as recorded"
    console.print(Text(f"{what}: {how}", "bold red" if trail.findings else "bold green"), soft_wrap=True)


def as_dict(recorded: Recorded, trail: Trail, *, packages: bool) -> dict[str, Any]:
    """All of it as plain values, each job with its inputs: the digest that it read, and the record that made it."""
    keys = ["stage", "wildcards", "attempt", "invocation", "started", "ended", "seconds", "host", "git", "outputs"]
    keys += ["python", "packages"] if packages else []
    jobs = {}
    for job in trail.jobs:
        record = recorded.records[job]
        inputs = {name: {"read": d, "made_by": recorded.maker(name)} for name, d in record["inputs"].items()}
        jobs[job] = {
            **{key: record[key] for key in keys},
            "code": codes(record),
            "mlflow_run_id": recorded.run_id(job),
            "origins": list(_origins(recorded, record)),
            "inputs": inputs,
        }
    return {
        "results": str(recorded.results),
        "asked": trail.asked,
        "as_recorded": not trail.findings,
        "findings": [finding._asdict() for finding in trail.findings],
        "notes": trail.notes,
        "jobs": jobs,
        "sources": trail.sources,
        "checked": trail.checked,
    }


def _origins(recorded: Recorded, record: Mapping[str, Any]) -> Iterable[str]:
    """What a job took from outside, in words: a model's identity, a recipe, tasks."""
    params = record["params"]
    for output in record["outputs"]:
        if output.endswith("/checkpoint.json"):
            yield _model(recorded, output, params)
    if "recipe" in params:
        yield "trained here by the recipe " + ", ".join(f"{key} {value}" for key, value in params["recipe"].items())
    if "synthetic" in params:
        made = ", ".join(f"sha256 {digest[:DIGITS]}" for digest in record["outputs"].values())
        yield f"{params['n']} samples of {params['synthetic']}, written with the seed {params['seed']}: {made}"
    if isinstance(params.get("tasks"), Mapping):
        data = record["metrics"].get("task_data", {})
        for name, entry in params["tasks"].items():
            asked = f": what was asked has sha256 {data[name][:DIGITS]}" if name in data else ""
            yield f"task {name} ({entry.get('lm_eval') or entry.get('responses')}){asked}"


def _model(recorded: Recorded, output: str, params: Mapping[str, Any]) -> str:
    try:
        manifest = json.loads(recorded.place(output).read_text())
        files = manifest["files"]
        largest = max(files, key=lambda name: files[name]["bytes"])
        where = manifest["path"]
        if manifest["kind"] == "hub":
            where = f"{manifest['repo']} revision {manifest['revision']} commit {manifest['commit']}"
    except (OSError, ValueError, KeyError):
        return f"model {params.get('source')} {params.get('entry')}; {output} can't be read"
    return f"model {where}: {len(files)} files, {largest} sha256 {str(files[largest]['sha256'])[:DIGITS]}"


def _is_stale(trail: Trail, record: Mapping[str, Any]) -> bool:
    return any(finding.kind == STALE and finding.path in record["outputs"] for finding in trail.findings)


def _counted(names: Sequence[str]) -> str:
    """Paths by their last part: one as it is, others counted."""
    if len(names) == 1:
        return names[0]
    found = Counter(PurePosixPath(name).name for name in names)
    return ", ".join(_several(name if count == 1 else f"{count} {name}" for name, count in found.items()))


def _several(texts: Iterable[str]) -> list[str]:
    """The first few different ones and how many more there are."""
    found = list(dict.fromkeys(texts))
    return found if len(found) <= SHOWN + 1 else [*found[:SHOWN], f"and {len(found) - SHOWN} more"]


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(_several(map(str, values)))


def _commit(record: Mapping[str, Any]) -> str:
    git = record["git"]
    if not git["commit"]:
        return "not recorded"
    return git["commit"][:DIGITS] + (" with uncommitted changes" if git["dirty"] else "")
