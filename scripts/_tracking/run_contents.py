"""What an MLflow run holds of a record: its name, tags, params, metrics, data and files. Knows no MLflow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from _provenance.lineage import Lineage
from _provenance.records import digest
from _provenance.secrets import redact

FOLDER_ENDINGS = {".parquet", ".csv", ".svg", ".pdf", ".png", ".html", ".h5", ".jsonl"}
ARTIFACT_ENDINGS = FOLDER_ENDINGS | {".json"}  # in a folder of weights there are many that belong to them
TEXT_ENDINGS = {".csv", ".svg", ".html", ".json", ".jsonl", ".log"}
ARTIFACT_BYTES = 20 * 2**20
ABSENT = (FileNotFoundError, NotADirectoryError)  # people and jobs delete files while this looks at them
GONE, TOO_LARGE = "no longer there", f"larger than {ARTIFACT_BYTES // 2**20} MiB"
SHORT, LONG = 500, 5000  # characters of a param or tag, of a tag that lists many things; record.json has all of it
MOST_LINKS = 40  # runs that a description names
DATASET_DIGEST, DATASET_SOURCE = 36, 60_000  # characters that MLflow takes
MADE_FROM, USED_BY = "lineage.made_from", "lineage.used_by"  # tags with runs
STATUSES = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Point(NamedTuple):
    """One value of a metric; step: the layer or training step of one that is a list, else 0."""

    name: str
    value: float
    step: int


class Data(NamedTuple):
    """Something that a job read and no job made. what: task data or checkpoint."""

    name: str
    sha256: str
    source: dict[str, Any]
    what: str


class Contents(NamedTuple):
    """A run. Times in milliseconds since 1970."""

    title: str
    status: str
    started: int
    ended: int
    tags: dict[str, str]
    params: dict[str, str]
    metrics: list[Point]
    data: list[Data]
    lineage: dict[str, Any]


def contents(path: Path, record: Mapping[str, Any], lineage: Lineage, runs: Mapping[Path, str]) -> Contents:
    """Of the record in the file `path`. runs: the runs of the records of jobs before it, as far as they are known."""
    made_by = {name: maker for name, maker in lineage.makers(record).items() if maker is not None}
    sources, direct = lineage.sources(record), lineage.direct(record)
    shown = direct if direct["checkpoints"] or direct["task_data"] else sources
    points, texts = _sorted_metrics(record["metrics"])
    for name in ("seconds", "recording_seconds", "peak_memory_mb", "peak_gpu_memory_mb"):
        if record[name] is not None:
            points.append(Point(f"job.{name}", float(record[name]), 0))
    params = {**_flat(record["params"]), **{f"metric.{key}": text for key, text in texts.items()}}
    params |= {f"package.{key}": str(value) for key, value in record["packages"].items()}
    makers = list(dict.fromkeys(made_by.values()))
    inputs = {
        name: {"sha256": sha256, "record": _text_of(made_by.get(name)), "run_id": runs.get(made_by.get(name, Path()))}
        for name, sha256 in record["inputs"].items()
    }
    return Contents(
        title=title(record),
        status=STATUSES[record["status"]],
        started=milliseconds(record["started"]),
        ended=milliseconds(record["ended"]),
        tags=_tags(path, record, sources, [runs[maker] for maker in makers if maker in runs]),
        params={name_of(key): short(value) for key, value in redact(params).items()},
        metrics=[Point(name_of(point.name), point.value, point.step) for point in points],
        data=_data(shown),
        lineage=redact({"record": str(path), "inputs": inputs, "outputs": record["outputs"], "sources": sources}),
    )


def description(record: Mapping[str, Any], made_from: Mapping[str, str]) -> str:
    """Markdown over a run: how it ended, how its outputs are audited, and links. made_from: titles by link."""
    lines = [f"**{record['status']}**: {record['error']}"] if record["error"] else []
    if outputs := list(record["outputs"]):
        lines.append(f"Is a file still what this run wrote, and what is it made from? `make audit FILE={outputs[0]}`")
        if len(outputs) > 1:
            lines.append("The same for " + ", ".join(f"`{name}`" for name in outputs[1 : 1 + MOST_LINKS]))
    links = [f"[{title}]({link})" for link, title in made_from.items()]
    if links:
        more = f" and {len(links) - MOST_LINKS} more, all in lineage.json" if len(links) > MOST_LINKS else ""
        lines.append("Made from " + ", ".join(links[:MOST_LINKS]) + more)
    return short(redact("\n\n".join(lines)), LONG)


def artifacts(record: Mapping[str, Any], study: str) -> tuple[dict[str, Path], dict[str, str]]:
    """A job's log and those of its outputs to keep, by their name among artifacts, and those left out with the reason.

    A folder with a manifest, such as a Zarr store, is kept by its manifest; another one by those of its files that
    would be kept by themselves. What is not kept is not read either: weights take minutes.
    """
    chosen: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for text, recorded in record["outputs"].items():
        path = Path(text)
        try:
            kept = _kept(path, left_out)
            changed = bool(kept) and digest(path) != recorded
        except ABSENT:
            left_out[text] = GONE
            continue
        if changed:
            left_out[text] = "changed since the job wrote it"
            continue
        for file in kept:
            chosen["outputs/" + file.as_posix().removeprefix(f"results/{study}/").lstrip("/")] = file
    log = Path(record["log"])
    try:
        if log.stat().st_size > ARTIFACT_BYTES:
            left_out[str(log)] = TOO_LARGE
        else:
            chosen[f"log/{log.name}"] = log
    except ABSENT:
        left_out[str(log)] = GONE
    return chosen, left_out


def place(files: Mapping[str, Path | str], folder: Path) -> dict[str, str]:
    """Copy files, or write texts, under their names into a folder; texts without secrets.

    Returns the files that have gone since they were chosen, with that as the reason.
    """
    left_out = {}
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, str):
            target.write_text(redact(source))
            continue
        try:
            content = source.read_bytes()
        except ABSENT:
            left_out[str(source)] = GONE
            continue
        if target.suffix in TEXT_ENDINGS:
            content = redact(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        target.write_bytes(content)
    return left_out


def name_of(key: str) -> str:
    """A key as MLflow allows it: letters, digits and _ - . : space /."""
    return re.sub(r"[^\w\-.: /]", "_", key)[:250]


def short(text: str, most: int = SHORT) -> str:
    """A text with its end cut off where it is longer than `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def milliseconds(time: str) -> int:
    """An ISO time in milliseconds since 1970."""
    return int(datetime.fromisoformat(time).timestamp() * 1000)


def git_tags(git: Mapping[str, Any]) -> dict[str, str]:
    """Commit and dirtiness under the names that MLflow knows; none where the code is in no repository."""
    if not git["commit"]:
        return {}
    return {"mlflow.source.git.commit": git["commit"], "git.dirty": str(git["dirty"]).lower()}


def title(record: Mapping[str, Any]) -> str:
    """A job in words: its stage and what its wildcards stand for."""
    return " ".join([record["stage"], *(str(v) for key, v in record["wildcards"].items() if key != "study")])


def _tags(path: Path, record: Mapping[str, Any], sources: Mapping[str, Any], made_from: list[str]) -> dict[str, str]:
    """Tags but those that lead from run to run in MLflow's own way."""
    tags = {"stage": record["stage"], "host": record["host"], "python": record["python"], "attempt": record["attempt"]}
    tags |= {key: str(value) for key, value in record["wildcards"].items()} | git_tags(record["git"])
    tags |= {"record": str(path), "log": record["log"]}
    for name in ("invocation", "error"):
        if record[name]:
            tags[name] = record[name]
    if record["seeds"]:
        tags["seeds"] = json.dumps(record["seeds"])
    if record["outputs"]:
        tags["audit"] = f"make audit FILE={next(iter(record['outputs']))}"
    tags = {name_of(key): short(value) for key, value in redact(tags).items()}
    long = {MADE_FROM: ", ".join(made_from)}
    long |= {f"lineage.{kind}": json.dumps(values) for kind, values in sources.items() if values and kind != "files"}
    return tags | {key: short(value, LONG) for key, value in redact(long).items() if value}


def _data(sources: Mapping[str, Mapping[str, Any]]) -> list[Data]:
    found = [Data(name, sha256, {"sha256": sha256}, "task data") for name, sha256 in sources["task_data"].items()]
    for name, about in sources["checkpoints"].items():
        sha256 = about.get("commit") or about.get("checkpoint_digest") or about["manifest_sha256"]
        found.append(Data(name, sha256, dict(about), "checkpoint"))
    return [data for data in found if data.sha256]  # an input of a failed job may be gone


def _kept(path: Path, left_out: dict[str, str]) -> list[Path]:
    """Files of an output that are kept; notes those that are not. Raises ABSENT for one that is gone."""
    path.stat()
    manifest = path / "manifest.json"
    if manifest.is_file():
        return [manifest]
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [f for f in files if f.is_file() and not f.name.startswith(".")]  # Snakemake stamps folders with one
    endings = FOLDER_ENDINGS if path.is_dir() else ARTIFACT_ENDINGS
    kind = [file for file in files if file.suffix in endings]
    kept = [file for file in kind if file.stat().st_size <= ARTIFACT_BYTES]
    reasons = []
    if others := len(files) - len(kind):
        reasons.append((others, f"not of the kinds {', '.join(sorted(endings))}"))
    if large := len(kind) - len(kept):
        reasons.append((large, TOO_LARGE))
    if reasons:
        left_out[str(path)] = ", ".join(f"{count} files {why}" if path.is_dir() else why for count, why in reasons)
    return kept


def _sorted_metrics(metrics: Mapping[str, Any]) -> tuple[list[Point], dict[str, str]]:
    """Finite numbers and lists of them as points, and everything else as text."""
    points: list[Point] = []
    texts: dict[str, str] = {}
    for key, value in _leaves(metrics):
        values = value if isinstance(value, list) and value else [value]
        if all(isinstance(item, bool | int | float) and math.isfinite(item) for item in values):
            points += [Point(key, float(item), step) for step, item in enumerate(values)]
        else:
            texts[key] = _as_text(value)
    return points, texts


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: _as_text(value) for key, value in _leaves(values)}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)
