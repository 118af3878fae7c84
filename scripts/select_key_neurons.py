"""Turn ranked contributions into key neurons at every threshold."""

from pathlib import Path

from _job import run
from moemui.extraction import select_key_neurons


def main(
    *,
    stores: list[Path],
    responses: list[Path],
    key_neurons: list[Path],
    thresholds: list[float],
    model: str,
    checkpoint: str,
) -> dict:
    """key_neurons: the HDF5 files to write, in the order of `stores` and `responses`."""
    for store, answers, path in zip(stores, responses, key_neurons, strict=True):
        select_key_neurons(store, answers, path, thresholds=thresholds, model=model, checkpoint=checkpoint)
    return {"files": len(key_neurons)}


if __name__ == "__main__":
    run(main)
