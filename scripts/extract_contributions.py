"""Score every neuron's contribution to the responses of a suite, on one loaded checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path

from _job import run
from moemui import checkpoints, extraction, families
from moemui.contributions import Options, Scorer
from moemui.responses import read_responses


def main(
    *,
    checkpoint: Path,
    responses: list[Path],
    stores: list[Path],
    options: dict,
    loading: dict,
    model: str,
    progress: Callable,
) -> dict:
    """stores: the Zarr stores to write, in the order of `responses`."""
    manifest = json.loads(checkpoint.read_text())
    loaded, tokenizer = checkpoints.load(manifest, **loading)
    scorer = Scorer(loaded, Options.from_mapping(options), eos_ids=families.end_tokens(loaded, tokenizer))
    records = [read_responses(path) for path in responses]
    total = sum(map(len, records))
    qualities: list[extraction.Quality] = []
    for task_records, store in zip(records, stores, strict=True):
        before = sum(quality.samples for quality in qualities)

        def report(done: int, before: int = before) -> None:
            progress(before + done, total)

        attributes = {"model": model, "manifest": manifest, "dtype": loading["dtype"]}
        qualities.append(extraction.extract(scorer, task_records, store, attributes=attributes, progress=report))
    return {
        "samples": total,
        "response_tokens": sum(q.response_tokens for q in qualities),
        "conservation_error": max(q.conservation_error for q in qualities),
        "imbalance": max(q.imbalance for q in qualities),
        "identity_error": max(q.identity_error for q in qualities),
        "bytes": sum(q.bytes for q in qualities),
    }


if __name__ == "__main__":
    run(main)
