"""From responses to contributions stores: what is checked before, scored chunk by chunk, and told after."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moemui.progress import Progress, silent
from moemui.scores import disk, store, store_writer, upload

if TYPE_CHECKING:
    from moemui.scores.contributions import Sample, Scorer

log = logging.getLogger(__name__)

SHOWN = 5  # ids named in a message about many samples


class IdentityError(RuntimeError):
    """The model computes something else under the tap than without it."""


@dataclass(frozen=True)
class Quality:
    """What an extraction says about itself.

    samples, response_tokens, empty_responses: counts; resumed_samples: those that an earlier, killed run had scored.
    conservation_error, imbalance: the largest over tokens and layers, see `moemui.scores.contributions`;
    conservation_by_layer: the largest over tokens; identity_error: of logits; 0 without samples. bytes: size on disk
    or S3; bytes_per_response_token: 0 without tokens; most_bytes: the bound that was estimated before.
    """

    conservation_error: float
    conservation_by_layer: list[float]
    imbalance: float
    identity_error: float
    samples: int
    response_tokens: int
    empty_responses: int
    resumed_samples: int
    bytes: int
    bytes_per_response_token: float
    most_bytes: int


@dataclass(frozen=True)
class Task:
    """One store to make: records of responses.jsonl, all or a shard of a task's, and where their scores go.

    attributes: what the store is to say beyond what the scorer knows, in plain JSON types.
    shard: number, from 1, and count of the parts that the task's records come in.
    url: s3://… that the finished store is handed over to, so that a pointer remains at `path`; None: it stays.
    """

    records: Sequence[Mapping[str, Any]]
    path: Path
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shard: tuple[int, int] = (1, 1)
    url: str | None = None


def check(records: Sequence[Mapping[str, Any]], where: object) -> None:
    """Raise ValueError, naming the sample, for records that can't be scored: needs no model.

    where: what the message calls the records. Refused are no records at all, ids that are missing or repeat, an empty
    prompt, token ids that are not whole numbers from 0 up, and a response whose tokens are lost.
    """
    if not records:
        raise ValueError(f"{where} has no responses; a task needs at least one sample")
    seen: set[str] = set()
    for number, record in enumerate(records):
        name = record.get("id")
        if not isinstance(name, str) or not name or name in seen:
            raise ValueError(f"sample {number} of {where} has the id {name!r}; each sample needs a text of its own")
        seen.add(name)
        for key in ("prompt_ids", "response_ids"):
            ids = record.get(key)
            # A bool is an int to Python, never to a tokenizer.
            if not isinstance(ids, list) or any(type(token) is not int or token < 0 for token in ids):
                found = "none" if ids is None else repr(ids)[:60]
                raise ValueError(
                    f"sample {name} of {where} has {key} {found}; they are a list of whole numbers from 0 up, as the "
                    "responses stage writes them"
                )
        if not record["prompt_ids"]:
            raise ValueError(
                f"sample {name} of {where} has an empty prompt, so no state predicts its first response token; "
                "give it a prompt or take it out"
            )
        if record.get("response") and not record["response_ids"]:
            raise ValueError(
                f"sample {name} of {where} has the response {record['response'][:40]!r} but no response tokens, so the "
                "boundary after its prompt is lost; make its responses again or take it out"
            )


def shard_of(records: Sequence[Mapping[str, Any]], number: int, count: int) -> Sequence[Mapping[str, Any]]:
    """Shard `number`, from 1, of `count` contiguous parts that differ by one record at most; may be empty."""
    return records[(number - 1) * len(records) // count : number * len(records) // count]


def provenance(model: Any, tokenizer: Any, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a store says about the model and tokenizer that made it: plain JSON types, the same on every run.

    revision, commit (hub only, else null), manifest (as `moemui.models.checkpoints` pins it), dtype, device;
    tokenizer, chat_template: SHA-256 of the tokenizer's serialised backend (where it has none, of its vocabulary) and
    of its template (null without one); packages: versions of torch and transformers.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    serialised = backend.to_str() if backend is not None else _plain(tokenizer.get_vocab())
    template = getattr(tokenizer, "chat_template", None)
    return {
        "revision": manifest.get("revision"),
        "commit": manifest.get("commit"),
        "manifest": dict(manifest),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "tokenizer": _digest(serialised),
        "chat_template": None if template is None else _digest(_plain(template)),
        "packages": {package: version(package) for package in ("torch", "transformers")},
    }


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def extract(
    scorer: Scorer,
    records: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    attributes: Mapping[str, Any],
    chunk_samples: int = store.CHUNK_SAMPLES,
    progress: Progress = silent,
) -> Quality:
    """As `extract_all`, for the records of one task, none of which may be bad (see `check`)."""
    check(records, path.parent)
    return extract_all(scorer, [Task(records, path, attributes)], chunk_samples=chunk_samples, progress=progress)


def extract_all(
    scorer: Scorer,
    tasks: Sequence[Task],
    *,
    chunk_samples: int = store.CHUNK_SAMPLES,
    progress: Progress = silent,
) -> Quality:
    """Score the records of some tasks and write one contributions store each.

    Memory is bounded by `chunk_samples` samples. What an earlier, killed call left at a task's path is taken up again
    at its last finished chunk and ends in the same bytes, see `moemui.scores.store_writer.create`. progress is
    called with the number of samples done, of all tasks, and the pace of this run.
    Raises ConservationError or IdentityError above tolerance, ValueError for a sample that can't be scored,
    FullDiskError where the disk has too little room, StorageError where S3 can't be written to; what was finished then
    stays for the next call.
    """
    prepared = [_Prepared.of(scorer, task, chunk_samples) for task in tasks]
    # Before any work, for all tasks: samples that can't be scored (above), room on the disk, access to S3, the tap's
    # identity.
    _warn_of_empty(prepared)
    _require_room(prepared)
    for url in [work.task.url for work in prepared if work.task.url][:1]:  # all are in one bucket
        upload.check_access(url)
    identity = _identity_error(scorer, prepared)
    pace = _Pace(progress, sum(len(work.samples) for work in prepared))
    measured = []
    for work in prepared:
        task, layout = work.task, work.layout
        with store_writer.create(
            task.path,
            layout,
            sample_ids=[sample.id for sample in work.samples],
            shard=task.shard,
            url=task.url,
            attributes={
                **task.attributes,
                "options": scorer.options.to_dict(),
                "responses": _digest(_plain([[s.id, list(s.prompt), list(s.response)] for s in work.samples])),
                "identity_error": identity,
            },
        ) as writer:
            pace.skip(layout.samples - sum(layout.part(c).stop - layout.part(c).start for c in writer.missing))
            for chunk in writer.missing:
                pace(0)
                scores = scorer.score(work.samples[layout.part(chunk)], pace)
                writer.write(chunk, scores)
                pace.finished(len(scores.response_tokens), int(scores.response_tokens.sum()))
        measured.append(_Measured.of(task.path))
        if task.url:
            upload.hand_over(task.path, task.url)
    pace(0)
    return _quality(prepared, measured, identity, pace.resumed)


@dataclass(frozen=True)
class _Prepared:
    """A task with everything that is known before its first forward pass."""

    task: Task
    samples: list[Sample]
    layout: store.Layout
    estimate: store.Estimate

    @classmethod
    def of(cls, scorer: Scorer, task: Task, chunk_samples: int) -> _Prepared:
        from moemui.scores.contributions import Sample

        samples = [Sample(record["id"], record["prompt_ids"], record["response_ids"]) for record in task.records]
        layout = store.Layout(
            geometry=scorer.geometry,
            settings=[(f, s) for f in scorer.options.formulations for s in scorer.options.selections],
            ranks=scorer.ranks,
            response_tokens=[len(scorer.scored_tokens(sample)) for sample in samples],
            chunk_samples=chunk_samples,
        )
        return cls(task, samples, layout, store.estimate(layout))


def _warn_of_empty(prepared: Sequence[_Prepared]) -> None:
    empty = [
        sample.id
        for work in prepared
        for sample, tokens in zip(work.samples, work.layout.response_tokens, strict=True)
        if not tokens
    ]
    if empty:
        total = sum(len(work.samples) for work in prepared)
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        shown = ", ".join(empty[:SHOWN]) + more
        log.warning("%d of %d responses are empty, so their key sets are, too: %s", len(empty), total, shown)


def _require_room(prepared: Sequence[_Prepared]) -> None:
    """Log what the stores will take; raise FullDiskError where the disk has not even what they take surely.

    Stores that are handed over to S3 leave the disk one by one, so that it needs room for the largest.
    """
    if not prepared:
        return
    total = store.Estimate(*(sum(sizes) for sizes in zip(*(work.estimate for work in prepared), strict=True)))
    url, place = prepared[0].task.url, prepared[0].task.path.parent
    here = max((work.estimate for work in prepared), key=lambda found: found.most) if url else total
    room, written = disk.free(place), sum(disk.size(work.task.path) for work in prepared)
    log.info(
        "contributions will take about %s, at most %s%s; %s are free in %s",
        disk.readable(total.usual),
        disk.readable(total.most),
        f", in {url.rpartition('/')[0]}, and at most {disk.readable(here.most)} at a time here" if url else "",
        disk.readable(room),
        place,
    )
    if room + written < here.least:
        raise disk.FullDiskError(
            f"{place} has {disk.readable(room)} free, but the contributions of {sum(len(w.samples) for w in prepared)} "
            f"samples take at least {disk.readable(here.least)} and about {disk.readable(here.usual)}"
            f"{' here before they go to S3' if url else ''}; make room and run again"
        )


def _identity_error(scorer: Scorer, prepared: Sequence[_Prepared]) -> float:
    first = next((sample for work in prepared for sample in work.samples), None)
    if first is None:
        return 0.0
    identity = scorer.identity_error(first)
    if not identity <= scorer.identity_tolerance:
        raise IdentityError(
            f"logits under the tap differ by {identity:.2g} of the largest one, above {scorer.identity_tolerance:g}; "
            "this model can't be measured"
        )
    return identity


class _Pace:
    """Turns the scorer's reports on a chunk into those of the whole work, with the pace of the chunks finished."""

    def __init__(self, progress: Progress, total: int):
        self._progress, self._total, self._start = progress, total, time.monotonic()
        self._before = self._tokens = self.resumed = 0

    def __call__(self, done: int) -> None:
        """Report that `done` samples of the chunk at work are scored."""
        pace = self._tokens / max(time.monotonic() - self._start, 1e-9)
        self._progress(self._before + done, self._total, f"{pace:,.0f} response tokens/s" if self._tokens else "")

    def skip(self, samples: int) -> None:
        """Some samples were scored by an earlier run; they say nothing about the pace of this one."""
        self._before += samples
        self.resumed += samples

    def finished(self, samples: int, tokens: int) -> None:
        """A chunk is scored and written."""
        self._before += samples
        self._tokens += tokens


class _Measured(NamedTuple):
    """Read back from a finished store, so that chunks of an earlier run count as much as those of this one."""

    conservation: list[float]  # of each layer
    imbalance: float
    bytes: int

    @classmethod
    def of(cls, path: Path) -> _Measured:
        found = store.Contributions(path)
        by_layer = found.conservation.max(axis=0, initial=0).tolist()
        return cls(by_layer, float(found.imbalance.max(initial=0)), found.bytes)


def _quality(prepared: Sequence[_Prepared], measured: Sequence[_Measured], identity: float, resumed: int) -> Quality:
    bytes_ = sum(found.bytes for found in measured)
    tokens = [count for work in prepared for count in work.layout.response_tokens]
    layers = [max(errors) for errors in zip(*(found.conservation for found in measured), strict=True)]
    quality = Quality(
        conservation_error=max(layers, default=0.0),
        conservation_by_layer=layers,
        imbalance=max((found.imbalance for found in measured), default=0.0),
        identity_error=identity,
        samples=len(tokens),
        response_tokens=sum(tokens),
        empty_responses=tokens.count(0),
        resumed_samples=resumed,
        bytes=bytes_,
        bytes_per_response_token=bytes_ / sum(tokens) if sum(tokens) else 0.0,
        most_bytes=sum(work.estimate.most for work in prepared),
    )
    log.info(
        "contributions took %s, %s a response token",
        disk.readable(quality.bytes),
        disk.readable(quality.bytes_per_response_token),
    )
    return quality
