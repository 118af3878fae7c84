"""Turn ranked contributions into key neurons by every rule, at every threshold."""

from pathlib import Path

from _job import run
from moemui.key_neurons.selection import select_key_neurons


def main(
    *,
    stores: list[Path],
    responses: list[Path],
    key_neurons: list[Path],
    thresholds: list[float],
    top_score: list[float],
    global_topk: list[float],
    variant: str,
    shards: int,
    model: str,
    checkpoint: str,
) -> dict:
    """key_neurons: the HDF5 files to write, in the order of `responses`. stores: a task's shards, then the next's.

    thresholds, top_score, global_topk: those of each rule.
    """
    for number, (answers, path) in enumerate(zip(responses, key_neurons, strict=True)):
        select_key_neurons(
            stores[number * shards : (number + 1) * shards],
            answers,
            path,
            thresholds=thresholds,
            top_score=top_score,
            global_topk=global_topk,
            variant=variant,
            model=model,
            checkpoint=checkpoint,
        )
    return {"files": len(key_neurons)}


if __name__ == "__main__":
    run(main)
