"""contributions.zarr: the only module that knows its names, dtypes and chunks.

A Zarr v3 group, chunked by samples; a chunk of samples is what is scored and written at a time:

    scores/{formulation}/{selection}/neuron   int32    (sample, layer, rank)  index inside the layer, −1 past the end
    scores/{formulation}/{selection}/token    int32    (sample, layer, rank)  response token, from 0, −1 past the end
    scores/{formulation}/{selection}/score    float32  (sample, layer, rank)
    scores/{formulation}/per_token/neuron     int32    (entry,)  by sample, layer, rank, neuron
    scores/{formulation}/per_token/rank       int32    (entry,)  the neuron's best rank over tokens, from 0
    scores/{formulation}/per_token/first      int64    (sample, layer)  where its entries begin
    scores/{formulation}/per_token/count      int32    (sample, layer)  how many there are
    routing/tokens                            int32    (sample, layer, expert)  response tokens, shared after routed
    routing/gate_mass                         float32  (sample, layer, expert)  Σ G over them
    quality/conservation                      float32  (sample, layer)  largest error over tokens, over Σ|f|
    quality/imbalance                         float32  (sample, layer)  the same error over what rounding can make of it
    samples/response_tokens                   int32    (sample,)

Each chunk of samples has a stretch of the entry axis of its own, as long as its entries can ever be, so that no chunk
depends on another one. Read entries through first and count: between stretches there is nothing, which takes no room.

Attributes say what is needed to use it: schema_version, geometry, settings, ranks, sample_ids, chunk_samples, shard
(number and count), and what `moemui.scores.extraction` adds. There is no time among them: the same work gives the
same bytes.
A missing chunk of a Zarr store reads silently as zeros, so `manifest.json` in its root lists every file with size and
SHA-256: opening checks that all are there, and whatever is read is compared. A store may lie on S3, see
`moemui.scores.sealed`: then the folder is a pointer with the metadata and the manifest, and reads the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import zarr

from moemui.geometry import Geometry
from moemui.scores.remote import is_url
from moemui.scores.sealed import MANIFEST, IncompleteStoreError, SealedFolder, verify
from moemui.scores.verified import VerifiedFiles

if TYPE_CHECKING:
    from moemui.scores.contributions import ChunkScores

__all__ = [
    "CHUNK_SAMPLES", "MANIFEST", "PER_TOKEN", "Array", "Contributions", "Estimate", "IncompleteStoreError", "Layout",
    "PerToken", "Ranked", "estimate", "verify",
]  # fmt: skip

SCHEMA_VERSION = 2
CHUNK_SAMPLES = 256
PER_TOKEN = "per_token"
ENTRY_CHUNK = 2**18  # entries in a file of a per_token array: 1 MB before compression
# Sizes on disk over sizes in memory, of ranked scores (neuron, token and score together): tiny and OLMoE-shaped random
# models with responses of 1 to 120 tokens gave 0.39 to 0.48.
USUAL_SHARE, LEAST_SHARE = 0.45, 0.25
FILE_BYTES = 2048  # of a file beyond its numbers: headers, metadata, its line in the manifest
MEASURED = {"identity_error"}  # attributes that are found out, not asked for: they don't tell two stores apart
OWN = {"sample_ids", "responses", "shard", "device", *MEASURED}  # attributes in which shards of one task may differ


class Array(NamedTuple):
    """An array: its path, dtype, shape, length of a chunk along the first axis, and fill value."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunk: int
    fill: int = 0


@dataclass(frozen=True)
class Layout:
    """What decides which arrays a store has, and how large they are.

    settings: (formulation, selection) pairs. ranks: entries kept a sample and layer. response_tokens: of every sample,
    as scored. chunk_samples: samples that are scored and written at a time.
    """

    geometry: Geometry
    settings: Sequence[tuple[str, str]]
    ranks: int
    response_tokens: Sequence[int]
    chunk_samples: int = CHUNK_SAMPLES

    @property
    def samples(self) -> int:
        """Length of the sample axis; may be 0, in a shard of a task with fewer samples than shards."""
        return len(self.response_tokens)

    @property
    def chunks(self) -> int:
        """Chunks of samples."""
        return -(-self.samples // self.chunk_samples)

    @property
    def arrays(self) -> list[Array]:
        """All arrays of the store."""
        return [*self._by_sample, *self._by_entry]

    @cached_property
    def _by_sample(self) -> list[Array]:
        found: list[Array] = []

        def array(name: str, dtype: str, *axes: int, fill: int = 0) -> None:
            chunk = max(1, min(self.chunk_samples, self.samples))
            found.append(Array(name, dtype, (self.samples, *axes), chunk, fill))

        layers = len(self.geometry.layers)
        experts = max(layer.experts for layer in self.geometry.layers)
        for formulation, selection in self.settings:
            where = f"scores/{formulation}/{selection}"
            if selection == PER_TOKEN:
                array(f"{where}/first", "int64", layers)
                array(f"{where}/count", "int32", layers)
            else:
                array(f"{where}/neuron", "int32", layers, self.ranks, fill=-1)
                array(f"{where}/token", "int32", layers, self.ranks, fill=-1)
                array(f"{where}/score", "float32", layers, self.ranks)
        array("routing/tokens", "int32", layers, experts)
        array("routing/gate_mass", "float32", layers, experts)
        array("quality/conservation", "float32", layers)
        array("quality/imbalance", "float32", layers)
        array("samples/response_tokens", "int32")
        return found

    @property
    def _by_entry(self) -> list[Array]:
        names = [f"scores/{f}/{PER_TOKEN}/{name}" for f in self.per_token for name in ("neuron", "rank")]
        return [Array(name, "int32", (int(self.stretches[-1]),), ENTRY_CHUNK, -1) for name in names]

    def part(self, chunk: int) -> slice:
        """The samples of a chunk."""
        return slice(chunk * self.chunk_samples, min((chunk + 1) * self.chunk_samples, self.samples))

    def values(self, chunk: int, scores: ChunkScores) -> Iterator[tuple[str, int, np.ndarray]]:
        """What a chunk's scores put into each array: its path, where on its first axis, and the numbers.

        Raises ValueError for numbers that are not of the chunk's shape, and for more per_token entries than can be.
        """
        found = {
            "routing/tokens": scores.routed_tokens,
            "routing/gate_mass": scores.gate_mass,
            "quality/conservation": scores.conservation,
            "quality/imbalance": scores.imbalance,
            "samples/response_tokens": scores.response_tokens,
        }
        for (formulation, selection), ranked in scores.ranked.items():
            for name, numbers in zip(("neuron", "token", "score"), ranked, strict=True):
                found[f"scores/{formulation}/{selection}/{name}"] = numbers
        for formulation in self.per_token:
            where, (neuron, rank, count) = f"scores/{formulation}/{PER_TOKEN}", scores.per_token[formulation]
            start, end = (int(bound) for bound in self.stretches[chunk : chunk + 2])
            if not len(neuron) == len(rank) == count.sum() <= end - start:
                raise ValueError(
                    f"chunk {chunk} has {len(neuron)} neurons and {len(rank)} ranks in {where}, and counts of "
                    f"{count.sum()} in all; the three must agree, and be at most {end - start}"
                )
            yield f"{where}/neuron", start, neuron
            yield f"{where}/rank", start, rank
            found[f"{where}/first"] = start + (np.cumsum(count, dtype=np.int64) - count.ravel()).reshape(count.shape)
            found[f"{where}/count"] = count
        part = self.part(chunk)
        for name, _, shape, *_ in self._by_sample:
            expected = (part.stop - part.start, *shape[1:])
            if found[name].shape != expected:
                raise ValueError(f"{name} of chunk {chunk} has shape {found[name].shape}; it must be {expected}")
            yield name, part.start, found[name]

    @property
    def per_token(self) -> list[str]:
        """The formulations whose best ranks are stored."""
        return [formulation for formulation, selection in self.settings if selection == PER_TOKEN]

    @cached_property
    def entries(self) -> np.ndarray:
        """The most entries that each sample can have in a per_token setting, Σ_l min(M_l, tokens · ranks): int64."""
        neurons = np.array([layer.neurons for layer in self.geometry.layers])
        tokens = np.array(self.response_tokens, dtype=np.int64)
        return np.minimum(neurons, tokens[:, None] * self.ranks).sum(axis=1)

    @cached_property
    def stretches(self) -> np.ndarray:
        """Where each chunk's stretch of the entry axis begins, then the axis' length: int64, (chunks + 1,)."""
        most = [int(self.entries[self.part(chunk)].sum()) for chunk in range(self.chunks)]
        return np.cumsum([0, *(-(-entries // ENTRY_CHUNK) * ENTRY_CHUNK for entries in most)], dtype=np.int64)


class Estimate(NamedTuple):
    """Bytes that a store will take: surely, as a rule, and at most (nothing compressed)."""

    least: int
    usual: int
    most: int


def estimate(layout: Layout) -> Estimate:
    """Bytes on disk of a store, before any work; `most` is a bound, the other two rest on measured compression."""
    tokens = np.array(layout.response_tokens, dtype=np.int64)
    used = np.array([x.top_k * x.width + x.shared * x.shared_width for x in layout.geometry.layers])
    ranked = sum(selection != PER_TOKEN for _, selection in layout.settings)
    filled = 12 * ranked * int(np.minimum(layout.ranks, tokens[:, None] * used).sum())
    entries = 8 * len(layout.per_token) * int(layout.entries.sum())
    numbers = sum(np.dtype(array.dtype).itemsize * math.prod(array.shape) for array in layout.arrays)
    files = sum(1 + -(-array.shape[0] // array.chunk) for array in layout.arrays) + 2
    most = numbers + FILE_BYTES * (files + layout.samples)
    usual = int(USUAL_SHARE * (filled + entries)) + FILE_BYTES * files
    return Estimate(int(LEAST_SHARE * filled), min(usual, most), most)


class Ranked(NamedTuple):
    """Ranked scores of one setting: neuron int32, token int32, score float32, each (samples, layers, ranks)."""

    neuron: np.ndarray
    token: np.ndarray
    score: np.ndarray


class PerToken(NamedTuple):
    """Best ranks of neurons over tokens in some samples, by sample, layer, rank, neuron.

    neuron, rank: int32 (entries,). counts: int32 (samples, layers), the entries of each.
    """

    neuron: np.ndarray
    rank: np.ndarray
    counts: np.ndarray


class Contributions:
    """Read access to a task's finished store, or to all its shards, in order, as if they were one.

    paths: folders, pointers to S3, or URLs such as s3://bucket/prefix/contributions.zarr.
    Opening checks that every file is there with its size, reading that it has the content that was written. Raises
    IncompleteStoreError for a store that is not whole, `moemui.scores.remote.StorageError` where S3 can't be reached,
    ValueError for a store of another schema version and for stores that are not the shards of one task.
    """

    def __init__(self, *paths: Path | str):
        self.paths = [path if is_url(path) else Path(path) for path in paths]
        self._folders = [SealedFolder(path) for path in self.paths]
        self._groups = [_opened(folder) for folder in self._folders]
        attributes: list[dict[str, Any]] = [dict(group.attrs) for group in self._groups]
        for path, found in zip(self.paths, attributes, strict=True):
            differing = {key for key in {*found, *attributes[0]} if found.get(key) != attributes[0].get(key)} - OWN
            if differing:
                raise ValueError(
                    f"{path} and {self.paths[0]} differ in {', '.join(sorted(differing))}, so they are not shards of "
                    "one task; delete the older one and run again"
                )
        self.attributes: dict[str, Any] = attributes[0]
        self.sample_ids: list[str] = [name for found in attributes for name in found["sample_ids"]]

    @property
    def geometry(self) -> Geometry:
        """The model's layers, experts and neurons."""
        return Geometry.from_dict(self.attributes["geometry"])

    @property
    def settings(self) -> list[tuple[str, str]]:
        """The (formulation, selection) pairs stored."""
        return [(formulation, selection) for formulation, selection in self.attributes["settings"]]

    def ranked(self, formulation: str, selection: str) -> Ranked:
        """Ranked scores of one setting; ValueError names the stored ones for another."""
        where = self._setting(formulation, selection)
        return Ranked(self.array(f"{where}/neuron"), self.array(f"{where}/token"), self.array(f"{where}/score"))

    def per_token(self, formulation: str) -> Iterator[PerToken]:
        """Best ranks of one formulation, a chunk of samples at a time, since they may be more than memory holds."""
        where = self._setting(formulation, PER_TOKEN)
        for group in self._groups:
            neuron, rank = open_array(group, f"{where}/neuron"), open_array(group, f"{where}/rank")
            first, count = open_array(group, f"{where}/first"), open_array(group, f"{where}/count")
            for start in range(0, first.shape[0], first.chunks[0]):
                counts = np.asarray(count[start : start + first.chunks[0]])
                begin = int(np.asarray(first[start])[0])
                part = slice(begin, begin + int(counts.sum()))
                yield PerToken(np.asarray(neuron[part]), np.asarray(rank[part]), counts)

    @property
    def response_tokens(self) -> np.ndarray:
        """Scored tokens of every response: int32 (samples,)."""
        return self.array("samples/response_tokens")

    @property
    def routed_tokens(self) -> np.ndarray:
        """Response tokens per expert, shared ones after the routed: int32 (samples, layers, most experts a layer)."""
        return self.array("routing/tokens")

    @property
    def conservation(self) -> np.ndarray:
        """Largest conservation error over tokens: float32 (samples, layers)."""
        return self.array("quality/conservation")

    @property
    def imbalance(self) -> np.ndarray:
        """Largest imbalance over tokens: float32 (samples, layers)."""
        return self.array("quality/imbalance")

    def array(self, name: str) -> np.ndarray:
        """Any array with a sample axis by its path in the store, such as "routing/tokens"."""
        return np.concatenate([np.asarray(open_array(group, name)[:]) for group in self._groups])

    @property
    def bytes(self) -> int:
        """Size of all files, on the disk or on S3."""
        return sum(folder.size for folder in self._folders)

    def _setting(self, formulation: str, selection: str) -> str:
        if (formulation, selection) not in self.settings:
            where = ", ".join(map(str, self.paths))
            raise ValueError(f"{where} holds {self.settings}, not ({formulation!r}, {selection!r})")
        return f"scores/{formulation}/{selection}"


def _opened(folder: SealedFolder) -> zarr.Group:
    folder.check_sizes()
    if "zarr.json" not in folder.files:
        raise IncompleteStoreError(f"the manifest of {folder.name} names no zarr.json, so it is no Zarr store")
    group = zarr.open_group(VerifiedFiles(folder), mode="r", zarr_format=3)
    version = group.attrs.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{folder.name} has schema version {version}, this code reads {SCHEMA_VERSION}; extract it again"
        )
    return group


def open_array(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group by its path."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array
