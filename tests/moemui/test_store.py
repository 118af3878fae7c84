"""The contributions store: round trip, and faults that must not read as numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from moemui import store
from moemui.geometry import Geometry, Layer

GEOMETRY = Geometry((Layer(0, 2, 0, 4, 0, 1), Layer(1, 2, 1, 4, 4, 1)))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "contributions.zarr"
    ids = [f"q{i}" for i in range(300)]  # more than one chunk
    neuron = np.arange(300 * 2 * 3, dtype=np.int32).reshape(300, 2, 3)
    with store.create(
        path, geometry=GEOMETRY, sample_ids=ids, settings=[("glu", "pairs")], ranks=3, attributes={"model": "tiny"}
    ) as writer:
        for start in (0, store.CHUNK_SAMPLES):
            part = slice(start, start + store.CHUNK_SAMPLES)
            writer.write(start, {"scores/glu/pairs/neuron": neuron[part]})
    return path, neuron


def test_round_trip(saved):
    path, neuron = saved
    contributions = store.Contributions(path)
    np.testing.assert_array_equal(contributions.ranked("glu", "pairs").neuron, neuron)
    assert (contributions.ranked("glu", "pairs").token == -1).all()  # never written: the fill value, not a token
    assert contributions.geometry == GEOMETRY
    assert contributions.sample_ids[299] == "q299"
    assert contributions.attributes["model"] == "tiny"
    store.verify(path)


def test_a_setting_that_is_not_stored_is_named(saved):
    with pytest.raises(ValueError, match=r"holds \[\('glu', 'pairs'\)\], not \('projection', 'pairs'\)"):
        store.Contributions(saved[0]).ranked("projection", "pairs")


def test_a_missing_chunk_is_found_before_anything_is_read(saved):
    chunk = next(f for f in saved[0].rglob("scores/glu/pairs/neuron/c/1/*/*"))
    chunk.unlink()
    with pytest.raises(store.IncompleteStoreError, match="is missing or truncated"):
        store.Contributions(saved[0])


def test_a_changed_chunk_is_found_by_its_content(saved):
    chunk = next(f for f in saved[0].rglob("scores/glu/pairs/neuron/c/1/*/*"))
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(bytes(content))
    with pytest.raises(store.IncompleteStoreError, match="is not the file that was written"):
        store.verify(saved[0])


def test_an_interrupted_store_is_no_store(tmp_path):
    path = tmp_path / "contributions.zarr"
    with (
        pytest.raises(KeyboardInterrupt),
        store.create(path, geometry=GEOMETRY, sample_ids=["a"], settings=[], ranks=1, attributes={}),
    ):
        raise KeyboardInterrupt
    with pytest.raises(store.IncompleteStoreError, match=r"has no manifest\.json"):
        store.Contributions(path)


def test_another_schema_version_is_refused(saved):
    path = saved[0]
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["schema_version"] = 99
    (path / "zarr.json").write_text(json.dumps(metadata))
    (path / store.MANIFEST).write_text(json.dumps({"files": {}}))
    with pytest.raises(ValueError, match="schema version 99, this code reads 1"):
        store.Contributions(path)
