"""Turn ranked contributions into key neurons at every threshold."""

from pathlib import Path

from _job import run
from moemui.analyses.selection import select_key_neurons


def main(
    *,
    stores: list[Path],
    responses: list[Path],
    key_neurons: list[Path],
    thresholds: list[float],
    shards: int,
    model: str,
    checkpoint: str,
) -> dict:
    """key_neurons: the HDF5 files to write, in the order of `responses`. stores: a task's shards, then the next's."""
    for number, (answers, path) in enumerate(zip(responses, key_neurons, strict=True)):
        own = stores[number * shards : (number + 1) * shards]
        select_key_neurons(own, answers, path, thresholds=thresholds, model=model, checkpoint=checkpoint)
    return {"files": len(key_neurons)}


if __name__ == "__main__":
    run(main)
