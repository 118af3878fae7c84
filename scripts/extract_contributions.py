"""Score every neuron's contribution to the responses of a suite, or of a shard of each task, on one checkpoint."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from _job import run
from moemui.answers.responses import read_responses
from moemui.models import checkpoints
from moemui.scores import extraction
from moemui.scores.contributions import Options, Scorer
from moemui.tap import heads


def main(
    *,
    manifest: Path,
    responses: list[Path],
    stores: list[Path],
    urls: list[str],
    options: dict,
    chunk_samples: int,
    shard: list[int],
    loading: dict,
    model: str,
    checkpoint: str,
    code: str,
    progress: Callable,
) -> dict:
    """stores: the Zarr stores to write, in the order of `responses`; those of a killed job are taken up again.

    urls: where on S3 each goes once it is finished; empty: they stay. manifest: checkpoint.json. shard: number, from 1,
    and count of the parts that each task's samples come in.
    """
    records = [read_responses(path) for path in responses]
    # Before the model, so that a bad response costs no loading of one.
    for path, found in zip(responses, records, strict=True):
        extraction.check(found, path)
    pinned = json.loads(manifest.read_text())
    loaded, tokenizer = checkpoints.load(pinned, **loading)
    scorer = Scorer(loaded, Options.from_mapping(options), eos_ids=heads.end_tokens(loaded, tokenizer))
    attributes = {"model": model, "checkpoint": checkpoint, "code": code}
    attributes |= extraction.provenance(loaded, tokenizer, pinned)
    number, count = shard
    places: list[str | None] = [*urls] or [None] * len(stores)
    tasks = [
        extraction.Task(
            records=extraction.shard_of(found, number, count),
            path=store,
            attributes={"task": found[0]["task"], **attributes},
            shard=(number, count),
            url=url,
        )
        for found, store, url in zip(records, stores, places, strict=True)
    ]
    return asdict(extraction.extract_all(scorer, tasks, chunk_samples=chunk_samples, progress=progress))


if __name__ == "__main__":
    run(main, resumes=["stores"])
