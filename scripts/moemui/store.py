"""contributions.zarr: the only module that knows its names, dtypes and chunks.

A Zarr v3 group, chunked by samples:

    scores/{formulation}/{selection}/neuron   int32    (sample, layer, rank)  index inside the layer, −1 past the end
    scores/{formulation}/{selection}/token    int32    (sample, layer, rank)  response token, from 0, −1 past the end
    scores/{formulation}/{selection}/score    float32  (sample, layer, rank)
    routing/tokens                            int32    (sample, layer, expert)  response tokens, shared after routed
    routing/gate_mass                         float32  (sample, layer, expert)  Σ G over them
    quality/conservation                      float32  (sample, layer)  largest error over tokens, over Σ|f|
    quality/imbalance                         float32  (sample, layer)  the same error over what rounding can make of it
    samples/response_tokens                   int32    (sample,)

Attributes say what is needed to use it: schema_version, geometry, options, sample_ids, and whatever the
job adds (model, checkpoint, task, commit). A missing chunk of a Zarr store reads silently as zeros, so
`manifest.json` in its root lists every file with size and SHA-256, and reading starts by checking it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from moemui.geometry import Geometry

SCHEMA_VERSION = 1
CHUNK_SAMPLES = 256
MANIFEST = "manifest.json"


class IncompleteStoreError(RuntimeError):
    """A store that lacks a file, or has one of another size or content than was written."""


class Writer:
    """Fills a new store chunk by chunk; use `create`, which seals it at the end."""

    def __init__(self, group: zarr.Group):
        self._group = group

    def write(self, start: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Put arrays, by their path in the store, at samples start.. (a multiple of CHUNK_SAMPLES)."""
        for name, values in arrays.items():
            array = self._group[name]
            assert isinstance(array, zarr.Array)
            array[start : start + len(values)] = values


@contextmanager
def create(
    path: Path,
    *,
    geometry: Geometry,
    sample_ids: Sequence[str],
    settings: Sequence[tuple[str, str]],
    ranks: int,
    attributes: Mapping[str, Any],
) -> Iterator[Writer]:
    """A new store at `path`, complete with its manifest when the block ends without an exception.

    settings: (formulation, selection) pairs stored. Refuses an existing path.
    """
    samples, layers = len(sample_ids), len(geometry.layers)
    experts = max(layer.experts for layer in geometry.layers)
    group = zarr.open_group(
        path,
        mode="w-",
        attributes={
            "schema_version": SCHEMA_VERSION,
            "geometry": geometry.to_dict(),
            "sample_ids": list(sample_ids),
            "settings": [list(setting) for setting in settings],
            "ranks": ranks,
            **attributes,
        },
    )

    def array(name: str, dtype: str, *shape: int, fill: int = 0) -> None:
        chunks = (max(1, min(CHUNK_SAMPLES, samples)), *shape)
        group.create_array(name, shape=(samples, *shape), chunks=chunks, dtype=dtype, fill_value=fill)

    for formulation, selection in settings:
        array(f"scores/{formulation}/{selection}/neuron", "int32", layers, ranks, fill=-1)
        array(f"scores/{formulation}/{selection}/token", "int32", layers, ranks, fill=-1)
        array(f"scores/{formulation}/{selection}/score", "float32", layers, ranks)
    array("routing/tokens", "int32", layers, experts)
    array("routing/gate_mass", "float32", layers, experts)
    array("quality/conservation", "float32", layers)
    array("quality/imbalance", "float32", layers)
    array("samples/response_tokens", "int32")
    yield Writer(group)
    (path / MANIFEST).write_text(json.dumps({"files": _digests(path)}, indent=0))


def _digests(path: Path) -> dict[str, dict[str, Any]]:
    # Snakemake stamps directories with a hidden file of its own, which is no part of the store.
    files = sorted(f for f in path.rglob("*") if f.is_file() and f.name != MANIFEST and not f.name.startswith("."))
    return {
        f.relative_to(path).as_posix(): {
            "bytes": f.stat().st_size,
            "sha256": hashlib.sha256(f.read_bytes()).hexdigest(),
        }
        for f in files
    }


def verify(path: Path) -> None:
    """Compare every file with the manifest, content included; raises IncompleteStoreError naming the first fault."""
    _check_sizes(path)
    recorded = json.loads((path / MANIFEST).read_text())["files"]
    for name, found in _digests(path).items():
        if recorded.get(name) != found:
            raise IncompleteStoreError(f"{path / name} is not the file that was written; delete {path} and run again")


def _check_sizes(path: Path) -> None:
    if not (path / MANIFEST).is_file():
        raise IncompleteStoreError(f"{path} has no {MANIFEST}, so it was never finished; delete it and run again")
    for name, recorded in json.loads((path / MANIFEST).read_text())["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != recorded["bytes"]:
            raise IncompleteStoreError(f"{file} is missing or truncated; delete {path} and run again")


class Ranked:
    """Ranked scores of one setting: neuron int32, token int32, score float32, each (samples, layers, ranks)."""

    def __init__(self, neuron: np.ndarray, token: np.ndarray, score: np.ndarray):
        self.neuron, self.token, self.score = neuron, token, score


class Contributions:
    """Read access to a finished store. Opening checks that every file is there with its size."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        _check_sizes(self.path)
        self._group = zarr.open_group(self.path, mode="r")
        self.attributes: dict[str, Any] = dict(self._group.attrs)
        version = self.attributes.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}; extract it again")

    @property
    def geometry(self) -> Geometry:
        """The model's layers, experts and neurons."""
        return Geometry.from_dict(self.attributes["geometry"])

    @property
    def sample_ids(self) -> list[str]:
        """Ids in the order of the sample axis."""
        return list(self.attributes["sample_ids"])

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The (formulation, selection) pairs stored."""
        return [(formulation, selection) for formulation, selection in self.attributes["settings"]]

    def ranked(self, formulation: str, selection: str) -> Ranked:
        """Ranked scores of one setting; ValueError names the stored ones for another."""
        if (formulation, selection) not in self.settings:
            raise ValueError(f"{self.path} holds {self.settings}, not ({formulation!r}, {selection!r})")
        where = f"scores/{formulation}/{selection}"
        return Ranked(self.array(f"{where}/neuron"), self.array(f"{where}/token"), self.array(f"{where}/score"))

    def array(self, name: str) -> np.ndarray:
        """Any array by its path in the store, such as "routing/tokens"."""
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return np.asarray(array[:])

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())
